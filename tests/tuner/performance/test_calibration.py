"""Calibration by measured runs: what one of them says of others, and when it is not believed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tuner.performance.test_prediction import ROW
from tuner.performance.calibration import TPOT, TTFT, Sharing, adjusted
from tuner.performance.serving_row import ServingRow, read_row

METRICS = [TPOT, TTFT]
ratios = st.floats(-2.0, 2.0)
sizes = st.sampled_from(["1", "8", "64", "512"])


def row(**columns: str) -> ServingRow:
    read = read_row({**ROW, **columns})
    assert isinstance(read, ServingRow)
    return read


def corrected(asked: ServingRow, measured: dict[ServingRow, float], sharing: Sharing) -> float:
    """log(calibrated / predicted)."""
    adjustment = adjusted([asked], list(measured), np.array(list(measured.values())), sharing)
    return float(np.log(adjustment.factor[0]))


def test_a_run_that_the_others_contradict_hardly_moves_the_forecast() -> None:
    asked, first, second, third = (row(batch_size=batch) for batch in ("32", "8", "16", "64"))
    without = corrected(asked, {first: 0.05, second: 0.05}, TPOT)
    moved = {
        error: abs(corrected(asked, {first: 0.05, second: 0.05, third: error}, TPOT) - without)
        for error in (0.2, -0.9, 0.9)
    }
    assert max(moved[-0.9], moved[0.9]) < 0.02 < moved[0.2]


@pytest.mark.parametrize("error", [-0.7, 0.7])
def test_runs_that_agree_are_believed_however_far_off_the_prediction_is(error: float) -> None:
    measured = {row(batch_size=batch): error for batch in ("8", "16", "64")}
    assert corrected(row(batch_size="32"), measured, TPOT) == pytest.approx(error, rel=0.1)


def test_a_compilation_that_many_runs_met_raises_the_others_by_a_bounded_factor() -> None:
    measured = {row(batch_size=batch): 2.0 for batch in ("8", "16", "64")}
    assert 0.2 < corrected(row(batch_size="32"), measured, TTFT) < 0.5


@pytest.mark.parametrize(
    ("sharing", "column", "slow", "beyond"), [(TTFT, "isl", "4096", "65536"), (TPOT, "tp_size", "4", "64")]
)
def test_an_error_that_grows_between_measured_runs_does_not_vanish_beyond_them(
    sharing: Sharing, column: str, slow: str, beyond: str
) -> None:
    measured = {row(batch_size="8"): 0.0, row(batch_size="64"): 0.0, row(**{column: slow}): 0.2}
    assert corrected(row(**{column: beyond}), measured, sharing) > corrected(row(batch_size="32"), measured, sharing)
    assert corrected(row(**{column: beyond}), measured, sharing) > 0.12


@pytest.mark.parametrize("sharing", METRICS)
@given(isl=sizes, batch=sizes, error=ratios, other=ratios)
def test_measured_runs_never_widen_an_interval_and_narrow_their_own(
    sharing: Sharing, isl: str, batch: str, error: float, other: float
) -> None:
    measured = [row(), row(batch_size="128", tp_size="2")]
    asked = [row(isl=isl, batch_size=batch), *measured]
    narrowing = adjusted(asked, measured, np.array([error, other]), sharing).narrowing
    assert 0.0 < narrowing.min() <= narrowing.max() <= 1.0
    assert narrowing[1:].max() < 1.0
