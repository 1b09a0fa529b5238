"""The memory rule learned from trials: it never refuses what fits, and learns from what does not."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.performance.fitted_memory import FittedMemory, MemoryTrial

CONFIGURATIONS = st.tuples(st.integers(1, 5), st.sampled_from([1, 2, 4, 8, 16, 32, 64]), st.sampled_from([10, 20, 40]))


def trial(copies: int, batch: int, memory: int, fixed: float, each: float) -> MemoryTrial:
    ran = copies * (fixed + each * batch) * 1e9 <= memory * 1e9
    return MemoryTrial(copies=copies, batch=batch, memory_bytes=memory * 1e9, ran=ran)


@settings(max_examples=60, deadline=None)
@given(
    seen=st.lists(CONFIGURATIONS, max_size=12), asked=CONFIGURATIONS, fixed=st.floats(0.1, 4), each=st.floats(0.01, 1)
)
def test_what_fits_is_never_refused(
    seen: list[tuple[int, int, int]], asked: tuple[int, int, int], fixed: float, each: float
) -> None:
    rule = FittedMemory([trial(*one, fixed, each) for one in seen])
    truth = trial(*asked, fixed, each)
    if truth.ran:
        assert not rule.refuses(truth.copies, truth.batch, truth.memory_bytes)


def test_more_of_what_ran_out_is_refused() -> None:
    rule = FittedMemory([MemoryTrial(copies=2, batch=32, memory_bytes=10e9, ran=False)])
    assert rule.refuses(3, 32, 10e9)
    assert rule.refuses(2, 64, 10e9)
    assert not rule.refuses(1, 32, 10e9)


def test_a_failure_that_runs_contradict_does_not_count() -> None:
    failed = MemoryTrial(copies=1, batch=1, memory_bytes=40e9, ran=False)
    ran = MemoryTrial(copies=1, batch=64, memory_bytes=10e9, ran=True)
    assert not FittedMemory([failed, ran]).refuses(1, 32, 10e9)


def test_nothing_is_refused_before_the_first_trial() -> None:
    assert not FittedMemory([]).refuses(5, 256, 10e9)
