"""Collectives: two processes on this machine, what a limit leaves, and what cannot be timed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from profilers.collectives import time_collectives
from profilers.microbenchmark import profile
from profilers.probe import Probe, ProbeKind
from tuner.errors import UnavailableError, UsageError

CORES = len(os.sched_getaffinity(0))


@pytest.mark.skipif(CORES < 2, reason="needs two cores")
def test_two_processes_time_their_sums_into_the_same_journal(tmp_path: Path) -> None:
    wanted = [Probe("matmul", 2, 4, 4), Probe("all_reduce", 2, 1, 16), Probe("all_gather", 2, 1, 262_144)]
    journal = tmp_path / "journal.jsonl"
    found = profile(wanted, "cpu", journal, limit_s=60.0)
    assert set(found.timings) == set(wanted)
    timing = found.timings[wanted[2]]
    assert 0 < timing.low_s <= timing.median_s <= timing.high_s
    assert profile(wanted, "cpu", journal, limit_s=-1.0).timings == found.timings


@pytest.mark.skipif(CORES < 2, reason="needs two cores")
def test_a_spent_limit_ends_the_processes_and_leaves_probes_missing() -> None:
    assert list(time_collectives([Probe("all_reduce", 2, 1, 16)], "cpu", 0.0)) == []


def test_more_processes_than_cores_are_refused() -> None:
    with pytest.raises(UsageError, match="needs as many cores"):
        list(time_collectives([Probe("all_reduce", 4096, 1, 16)], "cpu", 1.0))


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="needs a machine with fewer than two GPUs")
def test_more_gpus_than_there_are_are_refused() -> None:
    with pytest.raises(UnavailableError, match="needs as many"):
        list(time_collectives([Probe("all_reduce", 2, 1, 16)], "cuda", 1.0))


@pytest.mark.parametrize("ranks", [(1,), (2, 4)])
def test_a_group_is_of_one_size_above_one(ranks: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="2 or more"):
        list(time_collectives([Probe(ProbeKind.ALL_REDUCE.value, rank, 1, 8) for rank in ranks], "cpu", 1.0))
