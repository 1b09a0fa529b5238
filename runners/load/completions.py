"""OpenAI completions, streamed.

Prompts are lists of token ids of exactly the drawn length, each different (but for the shared prefix),
so that a prefix cache finds no more than the traffic would let it find. For servers that take no ids they are
texts of as many common words, most of which are one token in any vocabulary, and how long they are is what the
server counts in its `usage`. Output tokens are those that it counts there, too; without it, the pieces are counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

import numpy as np

from runners.load.answer import refusal
from runners.load.exchange import Prepared
from runners.load.http_head import Endpoint, head, message
from runners.load.lengths import draw_length
from runners.load.sse import EventSplitter
from runners.load.words import WORDS
from tuner.launch import CompletionRequest
from tuner.workload import TraceRequest

_CHAT: Final = "/chat/completions"
_EXCERPT_BYTES: Final = 400


class CompletionSource:
    """Prepares completion requests, and reads their answers."""

    def __init__(
        self,
        endpoint: Endpoint,
        request: CompletionRequest,
        seed: int,
        trace_row: Callable[[int], TraceRequest | None],
    ) -> None:
        self._request = request
        self._seed = seed
        self._trace_row = trace_row
        headers = [("Content-Type", "application/json"), ("Accept", "text/event-stream"), *request.headers]
        self._head = head(endpoint, "POST", request.path, headers)
        self._ids = (0, len(WORDS)) if request.token_ids is None else request.token_ids
        prefix_generator = np.random.default_rng([seed, 0x707265])
        self._prefix: list[int] = prefix_generator.integers(*self._ids, request.shapes.shared_prefix_tokens).tolist()

    def prepare(self, index: int) -> Prepared:
        """Request `index`; the same for the same seed, whatever was prepared before."""
        generator = np.random.Generator(np.random.Philox(key=[self._seed, index]))
        shapes = self._request.shapes
        # Both are always drawn, so that the contents do not depend on which the trace replaces.
        input_tokens = draw_length(shapes.input_tokens, generator)
        output_tokens = draw_length(shapes.output_tokens, generator)
        row = self._trace_row(index)
        if row is not None:
            input_tokens = row.input_tokens or input_tokens
            output_tokens = row.output_tokens or output_tokens
        prefix = self._prefix[:input_tokens]
        prompt = prefix + generator.integers(*self._ids, input_tokens - len(prefix)).tolist()
        body: dict[str, object] = {
            "model": self._request.model_name,
            **self._asked(prompt),
            "max_tokens": output_tokens,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self._request.ignore_eos:
            body["ignore_eos"] = True
        wire = message(self._head, json.dumps(body, separators=(",", ":")).encode())
        return Prepared(wire=wire, input_tokens=input_tokens, output_tokens=output_tokens)

    def answer(self) -> CompletionAnswer:
        return CompletionAnswer(counts_prompt=self._request.token_ids is None)

    def _asked(self, prompt: list[int]) -> dict[str, object]:
        if self._request.token_ids is not None:
            return {"prompt": prompt}
        text = " ".join(WORDS[word] for word in prompt)
        if self._request.path.endswith(_CHAT):
            return {"messages": [{"role": "user", "content": text}]}
        return {"prompt": text}


class CompletionAnswer:
    """A stream of completion (or chat completion) events, ended by `[DONE]`.

    With `counts_prompt` the server's count of prompt tokens goes before what was wanted.
    """

    __slots__ = (
        "_counts_prompt",
        "_done",
        "_error",
        "_events",
        "_start",
        "_usage_tokens",
        "first_s",
        "input_tokens",
        "pieces_s",
    )

    def __init__(self, *, counts_prompt: bool = False) -> None:
        self.input_tokens: int | None = None
        self._counts_prompt = counts_prompt
        self.first_s: float | None = None
        self.pieces_s: list[float] | None = []
        self._events = EventSplitter()
        self._usage_tokens: int | None = None
        self._done = False
        self._error: str | None = None
        self._start = b""

    @property
    def output_tokens(self) -> int | None:
        if self._usage_tokens is not None:
            return self._usage_tokens
        return len(self.pieces_s) if self.pieces_s is not None else None

    def header(self, name: bytes, value: bytes) -> None:
        """Headers say nothing here."""

    def body(self, data: bytes, now_s: float) -> None:
        if len(self._start) < _EXCERPT_BYTES:
            self._start += data[:_EXCERPT_BYTES]
        for event in self._events.feed(data):
            self._read(event, now_s)

    def end(self, status: int, now_s: float) -> str | None:
        for event in self._events.end():
            self._read(event, now_s)
        error = refusal(status, self._start) or self._error
        if error is not None:
            return error
        if not self.pieces_s:
            return f"the answer holds no token: {self._start[:60]!r}"
        return None if self._done else "the stream ended before its last token"

    def _read(self, event: bytes, now_s: float) -> None:
        if event == b"[DONE]":
            self._done = True
            return
        try:
            content = json.loads(event)
            usage = content.get("usage")
            if usage:
                self._usage_tokens = int(usage["completion_tokens"])
                if self._counts_prompt and usage.get("prompt_tokens"):
                    self.input_tokens = int(usage["prompt_tokens"])
            choices = content.get("choices")
            if choices:
                self._read_choice(choices[0], now_s)
            elif "error" in content and self._error is None:
                self._error = f"error in the stream: {content['error']}"
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            self._error = self._error or f"no completion event: {event[:60]!r}"

    def _read_choice(self, choice: dict[str, object], now_s: float) -> None:
        """Counts a piece: a completion event is one even if its text is empty (half a character, a special token).

        A chat event is one only with content: the first carries just the role.
        """
        if choice.get("finish_reason") is not None:
            self._done = True
        delta = choice.get("delta")
        carries = bool(delta.get("content") or delta.get("reasoning_content")) if isinstance(delta, dict) else True
        if carries and self.pieces_s is not None:
            if self.first_s is None:
                self.first_s = now_s
            self.pieces_s.append(now_s)
