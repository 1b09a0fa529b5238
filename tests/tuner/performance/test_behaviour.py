"""Runs that may have gone one way or another: laws of the point forecast, and what measured runs tell."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilers.huggingface.fields import Fields
from profilers.huggingface.reader import read_config
from profilers.shipped import folder
from search_spaces.device_catalogue import catalogue
from tests.tuner.performance.test_prediction import LLAMA, ROW
from tuner.performance.batch_file import predict_rows
from tuner.performance.behaviour import Ways, forecast
from tuner.performance.corrections import shipped
from tuner.performance.prediction import Prediction, Predictor
from tuner.performance.table_choice import tables_for

ONE_LENGTH = {**ROW, "source": "gap-analysis/somewhere", "backend": "sglang", "backend_version": "0.5.6"}
PROMPTS_FIRST = {**ONE_LENGTH, "backend_version": "0.5.1"}
ENGINES = {"sglang": "0.5.6", "trtllm": "1.0.0"}

times = st.floats(1e-3, 1e2)
shares = st.floats(0.0, 1.0)


@functools.cache
def predictor() -> Predictor:
    tables = tables_for({"h100_sxm": catalogue()["h100_sxm"]}, folder())
    return Predictor(lambda name, weights: read_config(Fields(LLAMA, name), name, weights), tables, shipped())


def predicted(row: dict[str, str], *measured: dict[str, str]) -> Prediction:
    return predict_rows(predictor(), [row], measured)[0]


@given(first=times, second=times, share=shares)
def test_a_forecast_lies_between_the_ways(first: float, second: float, share: float) -> None:
    found = float(forecast(np.array([[first], [second]]), np.array([[1.0 - share], [share]]))[0])
    assert min(first, second) * (1 - 1e-9) <= found <= max(first, second) * (1 + 1e-9)


@given(time=times, share=shares)
def test_ways_that_agree_are_the_forecast(time: float, share: float) -> None:
    assert forecast(np.array([[time], [time]]), np.array([[1.0 - share], [share]]))[0] == pytest.approx(time)


@given(first=times, second=times, less=shares, more=shares)
def test_a_way_that_becomes_likelier_draws_the_forecast_to_itself(
    first: float, second: float, less: float, more: float
) -> None:
    less, more = sorted((less, more))
    both = np.array([[first, first], [second, second]])
    before, after = forecast(both, np.array([[1.0 - less, 1.0 - more], [less, more]]))
    assert abs(np.log(after / second)) <= abs(np.log(before / second)) + 1e-9


@given(first=times, second=times, share=st.floats(0.05, 0.95))
def test_no_other_time_has_a_much_smaller_expected_relative_error(first: float, second: float, share: float) -> None:
    ways, odds = np.array([[first], [second]]), np.array([[1.0 - share], [share]])
    grid = np.geomspace(min(first, second), max(first, second), 50)
    loss = (odds * np.abs(np.append(grid, forecast(ways, odds)) / ways - 1.0)).sum(axis=0)
    # the blur may move the forecast by a few hundredths where both ways weigh the same
    assert loss[-1] <= loss[:-1].min() * 1.1 + 0.1


def test_an_unlikely_way_does_not_widen_the_interval() -> None:
    ways = Ways(
        odds=np.array([[0.97, 0.5], [0.03, 0.5]]), ttft_s=np.array([[1.0, 1.0], [9.0, 9.0]]), tpot_s=np.ones((2, 2))
    )
    assert ways.range(ways.ttft_s).tolist() == [[1.0, 1.0], [1.0, 9.0]]


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_a_place_less_than_clients_makes_requests_wait_longer_for_their_first_token(engine: str) -> None:
    plain, short = predicted({**ONE_LENGTH, "backend": engine, "backend_version": ENGINES[engine]}).behaviours
    assert short.ttft_s > plain.ttft_s
    assert plain.probability + short.probability == pytest.approx(1.0)


def test_where_prompts_come_first_requests_of_one_length_run_in_step_without_doubt() -> None:
    few, many = (predicted({**PROMPTS_FIRST, "batch_size": batch}) for batch in ("8", "64"))
    beside = predicted({**ONE_LENGTH, "batch_size": "64"})
    assert few.behaviours == many.behaviours == ()
    times = [each.ttft_s for each in (few, many, beside) if each.ttft_s is not None]
    assert times[1] > 3 * times[0]
    assert times[1] > 3 * times[2]


def test_requests_of_many_lengths_are_never_in_doubt() -> None:
    assert predicted({**ONE_LENGTH, "source": "somewhere"}).behaviours == ()


@pytest.mark.parametrize("engine", sorted(ENGINES))
@pytest.mark.parametrize("way", [0, 1])
def test_measured_runs_tell_whether_an_engine_is_a_place_short(engine: str, way: int) -> None:
    base = {**ONE_LENGTH, "backend": engine, "backend_version": ENGINES[engine]}
    measured = []
    for batch in ("8", "32", "64"):
        row = {**base, "batch_size": batch}
        truth = predicted(row).behaviours[way]
        times = {"silicon_ttft_ms": str(truth.ttft_s * 1e3), "silicon_tpot_ms": str(truth.tpot_s * 1e3)}
        measured.append({**row, **times})
    plain, calibrated = predicted(base), predicted(base, *measured)
    assert calibrated.behaviours[way].probability > max(0.6, plain.behaviours[way].probability)
    assert calibrated.ttft_s == pytest.approx(plain.behaviours[way].ttft_s, rel=0.1)


def test_runs_of_another_engine_do_not_tell_whether_this_one_is_a_place_short() -> None:
    other = {**ONE_LENGTH, "backend": "trtllm", "silicon_ttft_ms": "5000", "silicon_tpot_ms": "20"}
    told = predicted(ONE_LENGTH, other).behaviours
    assert [way.probability for way in told] == [way.probability for way in predicted(ONE_LENGTH).behaviours]
