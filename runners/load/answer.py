"""Reading answers that come in one piece, and refusing those that are no answers."""

from __future__ import annotations

from typing import Final

_EXCERPT_BYTES: Final = 120


def refusal(status: int, body: bytes) -> str | None:
    """What an answer's status says is wrong, with the beginning of its body; `None` for 2xx."""
    if 200 <= status < 300:
        return None
    excerpt = body[:_EXCERPT_BYTES].decode("utf-8", errors="replace").strip()
    return f"HTTP {status}: {excerpt}" if excerpt else f"HTTP {status}"


class WholeAnswer:
    """An answer judged when all of it has come; base of the protocols' own."""

    __slots__ = ("_parts", "first_s", "input_tokens", "pieces_s")

    def __init__(self) -> None:
        self.first_s: float | None = None
        self.pieces_s: list[float] | None = None
        self.input_tokens: int | None = None
        self._parts: list[bytes] = []

    @property
    def output_tokens(self) -> int | None:
        return None

    def header(self, name: bytes, value: bytes) -> None:
        """Headers say nothing here."""

    def body(self, data: bytes, now_s: float) -> None:
        self._parts.append(data)

    def end(self, status: int, now_s: float) -> str | None:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        return refusal(status, body) or self.judge(body)

    def judge(self, body: bytes) -> str | None:
        """What is wrong with the body of a 2xx answer."""
        raise NotImplementedError
