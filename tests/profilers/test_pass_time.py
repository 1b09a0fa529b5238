"""Times of operators from a profile: between and beyond what was timed, and what no probe times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilers.microbenchmark import Profile
from profilers.pass_time import PassTime
from profilers.probe import Probe, probe_of
from profilers.timing import Timing
from tuner.operators import MatMul, Pointwise
from tuner.step import OperatorKind, Rows
from tuner.traced_operators import Convolution, Extent, TracedWork

PRODUCT = MatMul(name="p", count=3, outputs=8, inputs=4)


def timed(seconds: dict[Probe, float]) -> PassTime:
    timings = {
        probe: Timing(median_s=each, low_s=each, high_s=each, repeats=5) for probe, each in seconds.items()
    }  # fmt: skip
    return PassTime(Profile(timings=timings, missing=(), origin={}))


def test_times_between_probes_are_interpolated_and_beyond_them_grow_with_the_rows() -> None:
    times = timed({Probe("matmul", 10, 8, 4): 1.0, Probe("matmul", 20, 8, 4): 3.0})
    seconds = {batch: times.operator(PRODUCT, batch, 1) for batch in (5, 10, 15, 20, 40)}
    assert {batch: found.seconds for batch, found in seconds.items() if found} == {
        5: 3.0, 10: 3.0, 15: 6.0, 20: 9.0, 40: 18.0,
    }  # fmt: skip


@given(batch=st.integers(1, 100))
def test_what_no_probe_times_is_bounded_by_the_best_rates(batch: int) -> None:
    times = timed({Probe("matmul", 10, 8, 4): 1.0, Probe("arithmetic", 10, 8): 1.0})
    work = TracedWork(
        name="w", count=2, traced_kind=OperatorKind.UNKNOWN, operation="strange", work=Extent(),
        moved=Extent(per_sequence=64.0),
    )  # fmt: skip
    found = times.operator(work, batch, 1)
    assert found is not None
    assert not found.is_timed
    assert found.seconds == pytest.approx(2 * batch * 64.0 / (2 * 10 * 8 * 4))


def test_nothing_timed_says_nothing() -> None:
    assert timed({}).operator(PRODUCT, 1, 1) is None


def test_a_residual_addition_is_timed_by_the_bytes_it_moves() -> None:
    addition = Pointwise(name="a", count=1, width=8, reads=2.0, writes=1.0, arithmetic=True, rows=Rows.TOKEN)
    assert probe_of(addition, 2, 3) == Probe("arithmetic", 6, 12)


def test_a_convolution_probe_remembers_its_shape() -> None:
    convolution = Convolution(
        name="c", count=1, channels_in=8, channels_out=4, size=(9, 9), kernel=(3, 3), stride=(2, 2), padding=(1, 1),
        dilation=(1, 1), groups=2,
    )  # fmt: skip
    probe = probe_of(convolution, 5, 1)
    assert probe is not None
    assert probe.flops == 5 * convolution.flops_each
    assert probe.convolution().output_size == convolution.output_size
