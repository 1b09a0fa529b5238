"""What a running study tells whoever watches it."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.parameter import Config
from tuner.strategies.history import Kind
from tuner.study.record import TrialRecord
from tuner.trial import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyOpened:
    """The loop begins.

    Attributes:
        records: what earlier runs left behind.
        reaped: servers of dead attempts that were removed.
        space_size: number of valid configurations (of those enumerated).
    """

    records: tuple[TrialRecord, ...]
    reaped: int
    space_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStarted:
    """A trial begins."""

    number: int
    kind: Kind
    config: Config


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialProgress:
    """A sign of life of the running trial."""

    number: int
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEnded:
    """A trial has ended; its record is stored."""

    record: TrialRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that whoever watches should know, in a sentence."""

    text: str


Event = Notice | StudyOpened | TrialStarted | TrialProgress | TrialEnded
