"""Calibration by a few measured runs of the model at hand.

The logarithm of measured over predicted is a Gaussian process whose covariance says what two runs of one
model share: the model (its kernels are faster or slower than their tables), the engine, its version, the
deployment (device, engine, number formats, drafts), and the neighbourhood in batch, lengths and shard:

    k(x, x') = m^2 + e^2 [engine] + v^2 [version] + d^2 [deployment]
             + n^2 [deployment] exp(-|log x - log x'|^2 / 2),    [.]: 1 where both share it

Its posterior mean corrects the prediction and its variance narrows the interval; without a measured run it is
the prediction unchanged. Where an engine may be a place short of its clients (`tuner/performance/behaviour.py`),
those of the model and engine tell which: each way's probability is multiplied by the density that the process gives
the measured times under it, a Student's t instead of a normal one so that one odd run does not decide alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from tuner.hardware import plain_name
from tuner.performance.behaviour import Ways
from tuner.performance.corrections import Engine
from tuner.performance.grid import Array
from tuner.performance.prediction import Prediction, under_doubt
from tuner.performance.serving_row import ServingRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """Standard deviations of log(measured / predicted) by what runs share.

    Attributes:
        model, engine, version, deployment, neighbourhood: m, e, v, d, n.
        noise: of one measurement.
    """

    model: float
    engine: float
    version: float
    deployment: float
    neighbourhood: float
    noise: float

    @property
    def total(self) -> float:
        """Of one run, all together."""
        return float(np.sqrt(sum(getattr(self, field.name) ** 2 for field in fields(self))))


# rounded maxima of the likelihood on `silicon_e2e`, runs left out by architecture
TPOT: Final = Sharing(model=0.02, engine=0.02, version=0.12, deployment=0.09, neighbourhood=0.16, noise=0.08)
TTFT: Final = Sharing(model=0.15, engine=0.02, version=0.20, deployment=0.05, neighbourhood=0.30, noise=0.18)

_MOST: Final = 1.0
"""Deviations that one run counts for at most: a run that met a compilation says little about the others."""

_FREEDOM: Final = 4.0
"""Of the t distribution by which measured runs tell whether engines were a place short."""

_METRICS: Final = (("ttft", TTFT), ("tpot", TPOT))

_LOAD_SCALE: Final = 1.6
_SHARD_SCALE: Final = 1.5
"""Lengths of the neighbourhood, in natural logarithms of batch and lengths, and of GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """A run that was measured, and what was predicted for it without calibration.

    Attributes:
        row: the configuration.
        prediction: of `row`.
        ttft_s, tpot_s: measured means, `None` where not measured.
    """

    row: ServingRow
    prediction: Prediction
    ttft_s: float | None = None
    tpot_s: float | None = None


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What calibration does to predictions.

    Attributes:
        factor: to multiply them by.
        narrowing: width of the interval over what it was, in (0, 1].
    """

    factor: Array
    narrowing: Array


def calibrate(
    rows: Sequence[ServingRow], predictions: Sequence[Prediction], measured: Sequence[MeasuredRun]
) -> list[Prediction]:
    """Predictions after one or more measured runs: corrected, their intervals narrowed, their origin saying so.

    Args:
        rows: n configurations.
        predictions: of `rows`, without calibration; those that decline stay as they are.
        measured: of any models; each counts for its own model.

    Returns:
        n predictions, in order.
    """
    measured = [run for run in measured if run.prediction.tpot_s is not None]
    short = _short(measured)
    asked = [place for place, prediction in enumerate(predictions) if prediction.tpot_s is not None]
    here = [rows[place] for place in asked]
    adjustments = [adjusted(here, *_ratios(measured, metric, short), sharing) for metric, sharing in _METRICS]
    factors, narrowings = (np.array([getattr(each, name) for each in adjustments]) for name in ("factor", "narrowing"))
    odds = [short.get((row.model, row.engine)) for row in here]
    found = list(predictions)
    doubtful = [position for position, place in enumerate(asked) if predictions[place].behaviours]
    for position, place in enumerate(asked):
        told = odds[position] is not None or bool(np.any(narrowings[:, position] < 1.0))
        if told:
            found[place] = _calibrated(found[place], factors[:, position], narrowings[:, position])
    if doubtful:
        places = [asked[position] for position in doubtful]
        before = [predictions[place].behaviours for place in places]
        share = [
            ways[1].probability if told is None else told
            for ways, told in zip(before, (odds[position] for position in doubtful), strict=True)
        ]
        ways = Ways(
            odds=np.array([1.0 - np.array(share), share]),
            ttft_s=np.array([[way.ttft_s for way in each] for each in before]).T * factors[0, doubtful],
            tpot_s=np.array([[way.tpot_s for way in each] for each in before]).T * factors[1, doubtful],
        )
        ends = _ends([predictions[place] for place in places]) ** np.repeat(narrowings[:, doubtful], 2, axis=0)
        for place, prediction in zip(places, under_doubt([found[place] for place in places], ways, ends), strict=True):
            found[place] = prediction
    return found


def shortage_evidence(rows: Sequence[ServingRow], log_ratios: Array, sharing: Sharing) -> float:
    """Logarithm of the density of measured runs of one model, up to a constant.

    A Student's t with the process's covariance C: -(nu + n) / 2 log(1 + r' C^-1 r / nu) - log|C| / 2.

    Args:
        rows: n runs that were measured.
        log_ratios: log(measured / predicted), shape (n,).
        sharing: what runs share.
    """
    covariance = _covariance(rows, rows, sharing) + np.eye(len(rows)) * sharing.noise**2
    distance = float(log_ratios @ np.linalg.solve(covariance, log_ratios))
    return -0.5 * (_FREEDOM + len(rows)) * math.log1p(distance / _FREEDOM) - 0.5 * float(
        np.linalg.slogdet(covariance)[1]
    )


def _short(measured: Sequence[MeasuredRun]) -> dict[tuple[str, Engine], float]:
    """Probability that an engine was a place short in the runs of a model, where measured runs tell."""
    found = {}
    for key in dict.fromkeys((run.row.model, run.row.engine) for run in measured):
        runs = [run for run in measured if (run.row.model, run.row.engine) == key and run.prediction.behaviours]
        if not runs:
            continue
        logits = [math.log(max(way.probability, 1e-9)) for way in runs[0].prediction.behaviours]
        for metric, sharing in _METRICS:
            known = [(run, truth) for run in runs if (truth := getattr(run, f"{metric}_s")) is not None]
            if not known:
                continue
            for way in range(2):
                guesses = [getattr(run.prediction.behaviours[way], f"{metric}_s") for run, _ in known]
                ratios = np.log([truth for _, truth in known]) - np.log(guesses)
                logits[way] += shortage_evidence([run.row for run, _ in known], ratios, sharing)
        found[key] = 1.0 / (1.0 + math.exp(min(max(logits[0] - logits[1], -50.0), 50.0)))
    return found


def _ratios(
    measured: Sequence[MeasuredRun], metric: str, short: Mapping[tuple[str, Engine], float]
) -> tuple[list[ServingRow], Array]:
    """Runs with the metric, and log(measured / predicted) of each under the likelier way."""
    rows, ratios = [], []
    for run in measured:
        truth, guess = getattr(run, f"{metric}_s"), getattr(run.prediction, f"{metric}_s")
        if truth is None:
            continue
        if run.prediction.behaviours:
            likelier = short[run.row.model, run.row.engine] > 0.5
            guess = getattr(run.prediction.behaviours[int(likelier)], f"{metric}_s")
        rows.append(run.row)
        ratios.append(math.log(truth / guess))
    return rows, np.array(ratios)


def _ends(predictions: Sequence[Prediction]) -> Array:
    """Ends of intervals over the times of the likely ways, shape (4, n): TTFT's low and high, TPOT's."""
    ways = Ways(
        odds=np.array([[way.probability for way in each.behaviours] for each in predictions]).T,
        ttft_s=np.array([[way.ttft_s for way in each.behaviours] for each in predictions]).T,
        tpot_s=np.array([[way.tpot_s for way in each.behaviours] for each in predictions]).T,
    )
    bounds = np.array([[*(each.ttft_interval_s or ()), *(each.tpot_interval_s or ())] for each in predictions]).T
    return np.asarray(bounds / np.concatenate([ways.range(ways.ttft_s), ways.range(ways.tpot_s)]))


def adjusted(
    rows: Sequence[ServingRow], measured: Sequence[ServingRow], log_ratios: Array, sharing: Sharing
) -> Adjustment:
    """The posterior at `rows` after `measured` runs of any models (only those of a row's own model matter).

    Args:
        rows: runs to predict, n of them.
        measured: runs that were measured, m of them.
        log_ratios: log(measured / predicted) of those, shape (m,).
        sharing: what runs share.

    Returns:
        Shapes (n,).
    """
    factor, narrowing = np.ones(len(rows)), np.ones(len(rows))
    log_ratios = np.clip(log_ratios, -_MOST * sharing.total, _MOST * sharing.total)
    for model in {row.model for row in rows}:
        known = [place for place, row in enumerate(measured) if row.model == model]
        if not known:
            continue
        asked = [place for place, row in enumerate(rows) if row.model == model]
        here, there = [rows[place] for place in asked], [measured[place] for place in known]
        noise = np.eye(len(known)) * sharing.noise**2
        lower = cho_factor(_covariance(there, there, sharing) + noise, lower=True)
        cross = _covariance(here, there, sharing)
        factor[asked] = np.exp(cross @ cho_solve(lower, log_ratios[known]))
        prior = sharing.total**2
        left = prior - np.einsum("ij,ji->i", cross, cho_solve(lower, cross.T))
        narrowing[asked] = np.sqrt(np.clip(left, sharing.noise**2, prior) / prior)
    return Adjustment(factor, narrowing)


def _covariance(left: Sequence[ServingRow], right: Sequence[ServingRow], sharing: Sharing) -> Array:
    engine, version, deployment = (_same(left, right, place) for place in range(3))
    a, b = np.array([_place(row) for row in left]), np.array([_place(row) for row in right])
    distance = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2)
    return np.asarray(
        sharing.model**2
        + sharing.engine**2 * engine
        + sharing.version**2 * version
        + sharing.deployment**2 * deployment
        + sharing.neighbourhood**2 * deployment * np.exp(-distance / 2.0)
    )


def _same(left: Sequence[ServingRow], right: Sequence[ServingRow], place: int) -> Array:
    a, b = [_shared(row)[place] for row in left], [_shared(row)[place] for row in right]
    codes = {value: code for code, value in enumerate(dict.fromkeys([*a, *b]))}
    return np.equal.outer([codes[value] for value in a], [codes[value] for value in b]).astype(np.float64)


def _shared(row: ServingRow) -> tuple[object, object, object]:
    deployment = (
        plain_name(row.device),
        row.engine,
        row.weights,
        row.experts,
        row.prefill is None,
        row.launched.drafted,
    )
    return row.engine, (row.engine, row.version), deployment


def _place(row: ServingRow) -> tuple[float, ...]:
    load = (row.decode.batch, row.input_tokens, row.output_tokens)
    return (*(math.log(size) / _LOAD_SCALE for size in load), math.log(row.decode.shard.gpus) / _SHARD_SCALE)


def _calibrated(prediction: Prediction, factors: Array, narrowings: Array) -> Prediction:
    """A prediction by TTFT's and TPOT's factors and narrowings of the interval."""
    times, intervals = [], []
    for metric, factor, narrowing in zip(("ttft", "tpot"), factors.tolist(), narrowings.tolist(), strict=True):
        value, interval = getattr(prediction, f"{metric}_s"), getattr(prediction, f"{metric}_interval_s")
        times.append(value * factor)
        intervals.append(tuple(value * factor * (bound / value) ** narrowing for bound in interval))
    return replace(
        prediction,
        ttft_s=times[0],
        tpot_s=times[1],
        ttft_interval_s=intervals[0],
        tpot_interval_s=intervals[1],
        origin=f"{prediction.origin}, calibrated",
    )
