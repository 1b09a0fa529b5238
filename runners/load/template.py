"""Requests of an endpoint of any kind, from a template."""

from __future__ import annotations

import re
from typing import Final

from runners.load.answer import WholeAnswer, refusal
from runners.load.exchange import Answer, Prepared
from runners.load.http_head import Endpoint, head, message
from tuner.launch import TemplateRequest

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{request_id\}")
_BODILESS: Final = frozenset({"GET", "DELETE", "OPTIONS"})


def fill(template: str, request_id: int) -> str:
    """`template` with `{request_id}` filled in and doubled braces halved; other braces stay."""
    marks = {"{{": "{", "}}": "}"}
    return _PLACEHOLDER.sub(lambda match: marks.get(match.group(), str(request_id)), template)


class TemplateSource:
    """Prepares requests from the template, and reads their answers."""

    def __init__(self, endpoint: Endpoint, request: TemplateRequest) -> None:
        shapes = request.shapes
        self._template = shapes.body
        self._streamed = shapes.streamed
        self._expect = shapes.expect.encode()
        bodiless = not shapes.body and shapes.method.upper() in _BODILESS
        headers = list(shapes.headers)
        if not bodiless and not any(name.lower() == "content-type" for name, _ in headers):
            headers.append(("Content-Type", "application/json"))
        self._head = head(endpoint, shapes.method, shapes.path, headers, has_body=not bodiless)
        self._fixed: Prepared | None = None
        if bodiless:
            self._fixed = Prepared(wire=self._head)
        elif fill(shapes.body, 0) == fill(shapes.body, 1):
            self._fixed = self._prepared(0)

    def prepare(self, index: int) -> Prepared:
        return self._fixed or self._prepared(index)

    def answer(self) -> Answer:
        return StreamedAnswer(self._expect) if self._streamed else TemplateAnswer(self._expect)

    def _prepared(self, index: int) -> Prepared:
        return Prepared(wire=message(self._head, fill(self._template, index).encode()))


def unexpected(expect: bytes, body: bytes) -> str | None:
    """What is wrong with a body that must contain `expect`."""
    if expect in body:
        return None
    return f"the answer lacks {expect.decode()[:60]!r}: {body[:60]!r}"


class TemplateAnswer(WholeAnswer):
    """An answer that is good if it contains the expected text."""

    __slots__ = ("_expect",)

    def __init__(self, expect: bytes) -> None:
        super().__init__()
        self._expect = expect

    def judge(self, body: bytes) -> str | None:
        return unexpected(self._expect, body)


class StreamedAnswer(TemplateAnswer):
    """The same, in pieces: the first part of the body that is read ends TTFT, each further one a gap."""

    __slots__ = ()

    def __init__(self, expect: bytes) -> None:
        super().__init__(expect)
        self.pieces_s: list[float] | None = []

    def body(self, data: bytes, now_s: float) -> None:
        super().body(data, now_s)
        if self.first_s is None:
            self.first_s = now_s
        if self.pieces_s is not None and (not self.pieces_s or self.pieces_s[-1] != now_s):
            self.pieces_s.append(now_s)

    def end(self, status: int, now_s: float) -> str | None:
        body = b"".join(self._parts)
        self._parts.clear()
        error = refusal(status, body)
        if error is None and not body:
            error = "the streamed answer is empty"
        return error or unexpected(self._expect, body)
