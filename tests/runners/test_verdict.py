"""Why a server gave no measurement."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runners.verdict import (
    Evidence,
    ServerExit,
    died_under_load,
    ended_before_ready,
    not_ready_in_time,
    stopped_answering,
    too_many_errors,
)
from tests.runners.trials import a_spec
from tuner.errors import UsageError
from tuner.trial import Measurement, Reason

REFUSAL = "ValueError: block size 16 is not supported"
CRASHED = Evidence(exit=ServerExit(code=1), memory=None, lines=("loading", REFUSAL))
KILLED = "the kernel killed the server for want of memory"
RUNNING = Evidence(exit=None, memory=None, lines=())


def test_refusal_is_quoted() -> None:
    verdict = ended_before_ready(a_spec("ok"), CRASHED, 1.0)
    assert verdict.reason is Reason.INVALID
    assert verdict.message == f"The server refuses this combination: {REFUSAL}"


def test_refusal_counts_only_before_the_server_is_ready() -> None:
    assert died_under_load(CRASHED, 1.0).reason is Reason.DIED


@pytest.mark.parametrize(
    "line",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.",
        "RuntimeError: CUDA error: out of memory",
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`",
        "Available memory on node 0 (1.88/3.12 GiB) on KV allocation is less than requested memory for kv (2 GiB).",
        "(4.0 GiB KV cache is needed, which is larger than the available KV cache memory (1.2 GiB).",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "OSError: [Errno 12] Cannot allocate memory",
        "MemoryError: Unable to allocate 4.00 GiB for an array",
    ],
)
def test_log_of_a_server_short_of_memory_is_known(line: str) -> None:
    evidence = Evidence(exit=ServerExit(code=1), memory=None, lines=("loading weights", line, "bye"))
    for verdict in (ended_before_ready(a_spec("ok"), evidence, 1.0), died_under_load(evidence, 1.0)):
        assert verdict.reason is Reason.OUT_OF_MEMORY
        assert line in verdict.message


def test_word_of_the_kernel_goes_before_what_the_log_says() -> None:
    assert ended_before_ready(a_spec("ok"), replace(CRASHED, memory=KILLED), 1.0).reason is Reason.OUT_OF_MEMORY


def test_server_whose_worker_was_killed_for_memory_did_not_just_hang() -> None:
    starved = replace(RUNNING, memory=KILLED)
    assert not_ready_in_time(starved, 10.0, "/health", "status 503").reason is Reason.OUT_OF_MEMORY
    assert stopped_answering(starved, 10.0, "nothing answers").reason is Reason.OUT_OF_MEMORY
    failed = Measurement(metrics={}, sent=10, completed=1, failed=9)
    assert too_many_errors(failed, 0.05, starved).reason is Reason.OUT_OF_MEMORY


def test_errors_are_told_with_their_share_and_samples() -> None:
    measurement = Measurement(metrics={}, sent=20, completed=18, failed=2, errors=("status 500",))
    verdict = too_many_errors(measurement, 0.05, RUNNING)
    assert verdict.reason is Reason.ERRORS
    assert verdict.message == "10.0% of requests failed, above the limit of 5.0% (2 of 20 requests): status 500"


def test_server_that_answers_nothing_in_time_hangs() -> None:
    silent = Measurement(metrics={}, sent=20, completed=0, failed=20, timed_out=20)
    assert too_many_errors(silent, 0.05, RUNNING).reason is Reason.TIMED_OUT


def test_error_that_was_raised_is_told_rather_than_the_last_line() -> None:
    lines = ("RuntimeError: no such device", "stopping workers", "goodbye")
    evidence = Evidence(exit=ServerExit(code=1), memory=None, lines=lines)
    assert ended_before_ready(a_spec("ok"), evidence, 1.0).message.endswith(": RuntimeError: no such device")


def test_signal_is_told_by_its_name() -> None:
    assert str(ServerExit(code=139)) == "exit status 139 (SIGSEGV)"
    assert str(ServerExit(code=3)) == "exit status 3"


def test_refusal_that_is_no_pattern_is_named() -> None:
    with pytest.raises(UsageError, match="'\\(' is no regular expression"):
        ended_before_ready(a_spec("ok", refusals=("(",)), CRASHED, 1.0)
