"""Server-sent events, cut out of a body that arrives in arbitrary parts.

https://html.spec.whatwg.org/multipage/server-sent-events.html, of which only `data` matters here.
"""

from __future__ import annotations


class EventSplitter:
    """Turns body parts into the data of whole events."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, part: bytes) -> list[bytes]:
        """Data of the events that end in `part`; comments and other fields are dropped."""
        text = self._rest + part if self._rest else part
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        *blocks, self._rest = text.split(b"\n\n")
        return [data for block in blocks if (data := _data(block))]

    def end(self) -> list[bytes]:
        """Data of a last event that no blank line ended."""
        rest, self._rest = self._rest, b""
        return [data] if (data := _data(rest)) else []


def _data(block: bytes) -> bytes:
    if block.startswith(b"data:") and b"\n" not in block:
        return block[5:].strip()
    lines = [line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)
