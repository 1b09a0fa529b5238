"""Collecting the faults of a study file: all of them, each once, each at its place."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from tuner.errors import Fault, UsageError
from tuner.study.yaml_lines import Document, Place, dotted

_PASSWORD = re.compile(r"(://[^/@\s:]*:)[^@\s]*@")
_LONGEST = 80


def masked(text: str) -> str:
    """`text` without the passwords of the URLs in it."""
    return _PASSWORD.sub(r"\1***@", text)


def shown(value: object) -> str:
    """A value from a file for a message: short, on one line, without passwords."""
    if value is None:
        text = "nothing"
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = repr(value)
    text = masked(text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def split_message(message: str) -> tuple[str, str]:
    """A message in two: what is wrong, and its last sentence, which says what to do."""
    head, dot, tail = message.strip().rpartition(". ")
    return (head + ".", tail) if dot else (message.strip(), "")


class Faults:
    """The faults found so far, those of the document to begin with.

    A fault at a place hides later ones at that place, inside it and around it: they follow from it.
    """

    def __init__(self, document: Document) -> None:
        self._document = document
        self._places = [place for place, _ in document.faults if place is not None]
        self.found = [fault for _, fault in document.faults]

    def hides(self, place: Place) -> bool:
        """Whether a fault at `place` would only repeat one that is known."""
        return any(known[: len(place)] == place or place[: len(known)] == known for known in self._places)

    def add(self, place: Place, problem: str, remedy: str) -> None:
        """Adds a fault, unless it follows from one already found."""
        if not self.hides(place):
            self._take(place, problem, remedy)

    def add_together(self, place: Place, faults: list[tuple[Place, str, str]]) -> None:
        """Adds faults of one reader, at places relative to `place`; none of them hides another."""
        fresh = [(place + inner, problem, remedy) for inner, problem, remedy in faults]
        for full, problem, remedy in [entry for entry in fresh if not self.hides(entry[0])]:
            self._take(full, problem, remedy)

    def _take(self, place: Place, problem: str, remedy: str) -> None:
        problem, remedy = (masked(" ".join(text.splitlines())) for text in (problem, remedy))
        self._places.append(place)
        line = self._document.line(place)
        self.found.append(Fault(where=dotted(place), problem=problem, remedy=remedy, line=line))

    def add_error(self, place: Place, error: UsageError) -> None:
        """Adds what an error of the ground floor or of an adapter says."""
        self.add(place, *split_message(str(error)))

    @contextlib.contextmanager
    def at(self, place: Place) -> Iterator[None]:
        """Turns a `UsageError` raised inside into a fault at `place`."""
        try:
            yield
        except UsageError as error:
            self.add_error(place, error)
