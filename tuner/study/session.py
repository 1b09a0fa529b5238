"""What one run of the loop spends: its wall time, and how much of that was trials."""

from __future__ import annotations

import time
import uuid

from tuner.study.record import TrialRecord


class Session:
    """Adds up one run of the loop.

    Args:
        started: when it began, s since the epoch; now where not given.
    """

    def __init__(self, started: float | None = None) -> None:
        self._id = uuid.uuid4().hex
        self._started = time.time() if started is None else started
        self._start_s = 0.0
        self._load_s = 0.0
        self._stop_s = 0.0

    def add(self, record: TrialRecord) -> None:
        """Counts a trial."""
        self._start_s += record.phases.start_s
        self._load_s += record.phases.load_s
        self._stop_s += record.phases.stop_s

    def entry(self) -> dict[str, float | str]:
        """As stored: times in s."""
        return {
            "id": self._id,
            "started": self._started,
            "wall_s": time.time() - self._started,
            "start_s": self._start_s,
            "load_s": self._load_s,
            "stop_s": self._stop_s,
        }
