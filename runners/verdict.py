"""Why a server gave no measurement, told from how it ended and what it said.

Evidence is taken in the order of its certainty: the kernel's (or the memory watchdog's) own word, then
what the log says of memory, then the refusals that the engine declares, then how the process ended.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from runners.server_log import first_match, telling_line
from tuner.errors import UsageError
from tuner.launch import LaunchSpec
from tuner.metric import Metric
from tuner.trial import Measurement, Reason

_OUT_OF_MEMORY = tuple(
    re.compile(pattern)
    for pattern in (
        r"(CUDA|HIP|XPU) out of memory",
        r"torch\.(cuda\.)?OutOfMemoryError",
        r"CUDA error: out of memory|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY",
        r"CU(DNN|BLAS)_STATUS_ALLOC_FAILED",
        r"No available memory for the cache blocks",
        r"is less than requested memory for kv",
        r"larger than the available KV cache memory",
        r"larger than the maximum number of tokens that can be stored in KV cache",
        r"Free memory on device .* is less than desired GPU memory utilization",
        r"DefaultCPUAllocator: (can't allocate memory|not enough memory)",
        r"Failed to allocate memory for requested buffer",
        r"std::bad_alloc",
        r"(^|\s)MemoryError\b",
        r"Cannot allocate memory",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerExit:
    """How a server's main process ended.

    Attributes:
        code: exit status; above 128 it stands for a signal, as a shell says it.
    """

    code: int

    def __str__(self) -> str:
        number = self.code - 128
        try:
            name = signal.Signals(number).name
        except ValueError:
            return f"exit status {self.code}"
        return f"exit status {self.code} ({name})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a server that failed.

    Attributes:
        exit: how it ended; `None` if it still ran.
        memory: who killed something for memory, in words; `None` if nobody did.
        lines: its last log lines.
    """

    exit: ServerExit | None
    memory: str | None
    lines: Sequence[str]

    @property
    def out_of_memory(self) -> str | None:
        """The sign that memory was the cause; `None` without one."""
        if self.memory is not None:
            return self.memory
        line = first_match(self.lines, _OUT_OF_MEMORY)
        return None if line is None else f"its log says: {line}"

    @property
    def last_words(self) -> str:
        """What its log says of the end, to be put behind a sentence."""
        line = telling_line(self.lines)
        return " and logged nothing" if line is None else f": {line}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A reason, and the message that explains it."""

    reason: Reason
    message: str


def refusals(spec: LaunchSpec) -> tuple[re.Pattern[str], ...]:
    """The compiled refusals of `spec`.

    Raises:
        UsageError: one is no regular expression.
    """
    try:
        return tuple(re.compile(pattern) for pattern in spec.refusals)
    except re.error as error:
        raise UsageError(f"The refusal {error.pattern!r} is no regular expression: {error}.") from error


def ended_before_ready(spec: LaunchSpec, evidence: Evidence, after_s: float) -> Verdict:
    """A server that exited before it was ready."""
    ended = f"The server ended before it was ready, after {after_s:.1f} s, with {evidence.exit}"
    if evidence.out_of_memory is not None:
        return Verdict(reason=Reason.OUT_OF_MEMORY, message=f"{ended}: {evidence.out_of_memory}")
    refusal = first_match(evidence.lines, refusals(spec))
    if refusal is not None:
        return Verdict(reason=Reason.INVALID, message=f"The server refuses this combination: {refusal}")
    return Verdict(reason=Reason.DID_NOT_START, message=ended + evidence.last_words)


def not_ready_in_time(evidence: Evidence, deadline_s: float, path: str, unready: str) -> Verdict:
    """A server that still runs at the deadline and is not ready."""
    late = f"The server was not ready within {deadline_s:g} s: {unready}"
    if evidence.out_of_memory is not None:
        return Verdict(reason=Reason.OUT_OF_MEMORY, message=f"{late}; {evidence.out_of_memory}")
    return Verdict(
        reason=Reason.TIMED_OUT, message=f"{late}. Raise the start deadline if it needs longer (health path {path})."
    )


def died_under_load(evidence: Evidence, after_s: float) -> Verdict:
    """A server that exited while it was loaded."""
    ended = f"The server ended {after_s:.1f} s into the load with {evidence.exit}"
    if evidence.out_of_memory is not None:
        return Verdict(reason=Reason.OUT_OF_MEMORY, message=f"{ended}: {evidence.out_of_memory}")
    return Verdict(reason=Reason.DIED, message=ended + evidence.last_words)


def stopped_answering(evidence: Evidence, after_s: float, detail: str) -> Verdict:
    """A server that runs and no longer answers, or a load that does not end."""
    if evidence.out_of_memory is not None:
        return Verdict(reason=Reason.OUT_OF_MEMORY, message=f"{detail}; {evidence.out_of_memory}")
    return Verdict(reason=Reason.TIMED_OUT, message=f"The load was given up after {after_s:.1f} s: {detail}")


def too_many_errors(measurement: Measurement, max_error_rate: float, evidence: Evidence) -> Verdict:
    """A server of which more requests failed than leaves the rest of the measurement a meaning."""
    samples = "; ".join(measurement.errors[:3])
    told = f": {samples}" if samples else ""
    counts = f"{measurement.sent - measurement.completed} of {measurement.sent} requests"
    if evidence.out_of_memory is not None:
        message = f"{counts} failed{told}; {evidence.out_of_memory}"
        return Verdict(reason=Reason.OUT_OF_MEMORY, message=message)
    if measurement.completed == 0 and measurement.timed_out > 0 and measurement.failed <= measurement.timed_out:
        return Verdict(
            reason=Reason.TIMED_OUT, message=f"The server answered none of {measurement.sent} requests{told}"
        )
    limit = f"{error_rate(measurement):.1%} of requests failed, above the limit of {max_error_rate:.1%}"
    return Verdict(reason=Reason.ERRORS, message=f"{limit} ({counts}){told}")


def error_rate(measurement: Measurement) -> float:
    """Share of requests that failed or timed out; 1 where nothing was answered."""
    estimate = measurement.metrics.get(Metric.ERROR_RATE.value)
    if estimate is not None:
        return estimate.value
    if measurement.sent == 0:
        return 0.0 if measurement.completed else 1.0
    return (measurement.sent - measurement.completed) / measurement.sent
