"""The error tree.

::

    TunerError
    ├── UsageError                what was given is wrong; nothing was started (exit code 2)
    │   ├── StudyFileError        faults of one file, all of them, each at its place
    │   ├── UnitError             a quantity that does not parse, or has the wrong unit
    │   ├── UnknownNameError      a name nobody answers to, with its neighbours
    │   ├── SpaceError            a search space that is empty or contradicts itself
    │   ├── ModelError            a model that is missing, or is no model of this engine
    │   ├── TraceError            a trace file with bad rows
    │   ├── OptionsError          options that an adapter refuses
    │   ├── StudyMismatchError    the storage holds another study under this name
    │   ├── UnavailableError      a daemon, image, port or optional package that is not there
    │   ├── AdapterError          a plug-in that cannot be loaded, or is shadowed by a foreign package
    │   └── UnpredictableError    a study of which nothing can be predicted, and why
    └── RunError                  a fault while running (exit code 1)
        ├── StorageError          the storage refused a read or a write (a full disk, a lost server)
        ├── TrialFault            a fault of our own inside a trial: no result of the configuration
        └── GeneratorBoundError   the load generator was the bottleneck; the numbers are not the server's

An infeasible configuration is no error: see `tuner.trial.Infeasible`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class TunerError(Exception):
    """Base of every error raised on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(TunerError):
    """What the user gave is wrong; nothing has been started."""

    exit_code = 2


class UnitError(UsageError):
    """A quantity that does not parse or carries the wrong unit."""


class SpaceError(UsageError):
    """A search space that is empty or contradicts itself."""


class ModelError(UsageError):
    """A model that is missing, unreadable, or of a kind the engine does not serve."""


class TraceError(UsageError):
    """A trace file whose rows cannot be used."""


class StudyMismatchError(UsageError):
    """The storage already holds a different study under this name."""


class UnavailableError(UsageError):
    """Something outside this program that is needed and not there: daemon, image, port, package."""


class AdapterError(UsageError):
    """A plug-in that cannot be found or loaded, or whose package is shadowed by another."""


class UnpredictableError(UsageError):
    """Nothing can be predicted of a study: its engine, model or devices are not understood."""


class RunError(TunerError):
    """Something failed while running."""


class StorageError(RunError):
    """The storage refused to read or write."""


class TrialFault(RunError):
    """A fault of our own, or of the machine, inside a trial; it says nothing about the configuration."""


class GeneratorBoundError(RunError):
    """The load generator was late by itself: its numbers do not speak of the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing wrong with a file.

    Attributes:
        where: dotted path of keys, `workload.arrival.rate`; empty for the file as a whole.
        problem: what is wrong, with the value seen.
        remedy: what to write instead.
        line: 1-based line in the file, where known.
    """

    where: str
    problem: str
    remedy: str
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line is not None else ""
        where = f"{self.where}: " if self.where else ""
        return f"{place}{where}{self.problem} {self.remedy}".rstrip()


class StudyFileError(UsageError):
    """All faults of one study file.

    Attributes:
        source: the file's name, as given.
        faults: every fault found, in the order of the file.
    """

    def __init__(self, source: str, faults: Sequence[Fault]) -> None:
        self.source = source
        self.faults = tuple(sorted(faults, key=lambda fault: fault.line or 0))
        count = len(self.faults)
        lines = [f"{source}: {count} {'fault' if count == 1 else 'faults'}"]
        lines += [f"  {fault}" for fault in self.faults]
        super().__init__("\n".join(lines))


class OptionsError(UsageError):
    """Options that an adapter refuses; `faults` places are relative to the options."""

    def __init__(self, adapter: str, faults: Sequence[Fault]) -> None:
        self.adapter = adapter
        self.faults = tuple(faults)
        super().__init__(f"{adapter}: " + "; ".join(str(fault) for fault in self.faults))


class UnknownNameError(UsageError):
    """A name that nobody answers to."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind = kind
        self.name = name
        super().__init__(f"Unknown {kind} {name!r}. {did_you_mean(name, known)}")


_LISTED = 16
"""Names that are shown where none is near."""


def first_ones(items: Sequence[str], most: int = 10) -> str:
    """The first of some items in words, and how many more there are."""
    more = f"; and {len(items) - most} more" if len(items) > most else ""
    return "; ".join(items[:most]) + more


def shortened(text: str, letters: int = 60) -> str:
    """The beginning of a text, for a message that shall stay readable whatever was found."""
    return text if len(text) <= letters else f"{text[:letters]}…"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A remedy for a misspelt name: its nearest neighbours, or else all that is known."""
    choices = sorted(known)
    longer = [choice for choice in choices if len(name) > 2 and choice.lower().startswith(name.lower())]
    near = list(dict.fromkeys([*longer, *difflib.get_close_matches(name, choices, n=3, cutoff=0.6)]))[:3]
    if not near and len(name) > 2:
        near = [choice for choice in choices if name.lower() in choice.lower()][:3]
    if near:
        return "Did you mean " + " or ".join(repr(choice) for choice in near) + "?"
    if choices:
        more = f" and {len(choices) - _LISTED} more" if len(choices) > _LISTED else ""
        return "Known: " + ", ".join(choices[:_LISTED]) + more + "."
    return "None is known."
