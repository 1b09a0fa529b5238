"""Exchanges: one request and what became of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Protocol

MAX_ERROR_CHARS: Final = 200


class Fate(enum.IntEnum):
    """How an exchange ended."""

    OPEN = 0
    COMPLETED = 1
    FAILED = 2
    TIMED_OUT = 3


class Answer(Protocol):
    """Reads one HTTP answer and judges it.

    Attributes:
        first_s: when its first token (or streamed piece) was read; `None` before, or where none is awaited.
        pieces_s: when each token-carrying piece was read; `None` where the answer is not streamed.
        input_tokens: how long the server says that the prompt was, `None` where what was sent is known better.
        output_tokens: how many tokens came, `None` where the answer does not say.
    """

    first_s: float | None
    pieces_s: list[float] | None
    input_tokens: int | None

    @property
    def output_tokens(self) -> int | None: ...

    def header(self, name: bytes, value: bytes) -> None:
        """One header; the name in lower case."""
        ...

    def body(self, data: bytes, now_s: float) -> None:
        """A part of the body, read at `now_s`."""
        ...

    def end(self, status: int, now_s: float) -> str | None:
        """The whole answer has been read; returns what is wrong with it, `None` if it is a good answer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A request ready to be written.

    Attributes:
        wire: the bytes, head and body.
        input_tokens: prompt length, 0 where it has none.
        output_tokens: output length asked for, 0 where none is.
    """

    wire: bytes
    input_tokens: int = 0
    output_tokens: int = 0


class Exchange:
    """One request on its way; times are on the monotonic clock, s.

    Attributes:
        wire: the request's bytes; dropped when the exchange ends.
        input_tokens, asked_tokens: prompt length (in the end the server's own count, where the answer tells one), and
            output length asked for; 0 where there is none.
        due_s: when it was meant to be sent: its clock starts here.
        dispatched_s: when the generator got to it.
        finished_s: when its fate was settled.
        client: which closed-loop client sent it.
        counted: whether it was due inside the steady windows.
        unreachable: the failure was one of connecting: sending again at once would only fail again.
    """

    __slots__ = (
        "answer",
        "asked_tokens",
        "client",
        "counted",
        "dispatched_s",
        "due_s",
        "error",
        "fate",
        "finished_s",
        "input_tokens",
        "retried",
        "unreachable",
        "wire",
    )

    def __init__(self, prepared: Prepared, answer: Answer, due_s: float, dispatched_s: float, client: int = 0) -> None:
        self.wire = prepared.wire
        self.input_tokens = prepared.input_tokens
        self.asked_tokens = prepared.output_tokens
        self.answer = answer
        self.due_s = due_s
        self.dispatched_s = dispatched_s
        self.client = client
        self.finished_s = 0.0
        self.counted = False
        self.fate = Fate.OPEN
        self.error: str | None = None
        self.retried = False
        self.unreachable = False

    def settle(self, fate: Fate, now_s: float, error: str | None = None) -> None:
        """Ends the exchange; it must be open."""
        self.fate = fate
        self.finished_s = now_s
        self.wire = b""
        if self.answer.input_tokens is not None:
            self.input_tokens = self.answer.input_tokens
        if error is not None:
            self.error = " ".join(error.split())[:MAX_ERROR_CHARS]
