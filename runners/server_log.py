"""What a server said: lines fit for a terminal and a database, without secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

SCANNED_LINES = 2000
"""How many of the last lines are searched for a cause; a traceback of several workers is long."""
KEPT_LINES = 40
"""How many of the last lines an infeasible outcome carries."""
_LINE_LETTERS = 500

_SECRET_NAME = re.compile(r"TOKEN(_|$)|SECRET|PASSW|CREDENTIAL|(^|_)KEY(_|$)|APIKEY|(^|_)AUTH(_|$)", re.IGNORECASE)
_SECRET_LETTERS = 6
"""Shorter values ("1", "none", "true") are none, and would black out half of a log."""
_COMPLAINTS = (
    re.compile(r"\b\w*(Error|Exception)\b:? \S"),
    re.compile(r"error|exception|fatal|fail|cannot|denied|abort|invalid|no such|not found", re.IGNORECASE),
)
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Redactor:
    """Blacks out secret values.

    Attributes:
        secrets: the values, longest first.
    """

    secrets: tuple[str, ...]

    @classmethod
    def of(cls, *environments: Mapping[str, str]) -> Redactor:
        """Knows the values of all variables that are named like a secret (`HF_TOKEN`, `AWS_SECRET_ACCESS_KEY`)."""
        values = {
            value
            for environment in environments
            for name, value in environment.items()
            if _SECRET_NAME.search(name) and len(value) >= _SECRET_LETTERS
        }
        return cls(tuple(sorted(values, key=len, reverse=True)))

    def __call__(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text


def log_lines(content: bytes, redact: Redactor) -> tuple[str, ...]:
    """The lines of a log: without escape sequences, secrets and empty lines, long ones cut."""
    # A progress bar draws over its own line: only what it drew last is kept.
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in content.decode(errors="replace").split("\n"))
    cleaned = (redact(_ESCAPES.sub("", line)).rstrip() for line in lines)
    return tuple(line if len(line) <= _LINE_LETTERS else line[:_LINE_LETTERS] + "…" for line in cleaned if line)


def telling_line(lines: Sequence[str]) -> str | None:
    """The line that most likely names the cause: the last raised error, else the last complaint, else the last line."""
    for pattern in _COMPLAINTS:
        for line in reversed(lines):
            if pattern.search(line):
                return line
    return lines[-1] if lines else None


def first_match(lines: Iterable[str], patterns: Iterable[re.Pattern[str]]) -> str | None:
    """The first line in which one of the patterns is found."""
    known = tuple(patterns)
    return next((line for line in lines if any(pattern.search(line) for pattern in known)), None)
