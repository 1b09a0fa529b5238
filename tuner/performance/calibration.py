"""Calibration by a few measured runs of the model at hand.

The logarithm of measured over predicted is a Gaussian process whose covariance says what two runs of one
model share: the model (its kernels are faster or slower than their tables), the engine, its version, the
deployment (device, engine, number formats, drafts), how errors of a deployment grow with input tokens p and with GPUs
g, and the neighbourhood x in batch, lengths and GPUs. Kernels and shapes change abruptly, so that errors of neighbours
part at once (1-norm) instead of smoothly:

    k = m^2 + e^2 [engine] + v^2 [version] + [deployment] (d^2 + i^2 log(p/p0) log(p'/p0) + s^2 log(g/g0) log(g'/g0)
        + n^2 exp(-|log x - log x'| / l)),    [.]: 1 where both runs share it

Its posterior mean corrects the prediction and its variance narrows the interval; without a measured run it is the
prediction unchanged. A measured run is either sound or, with a fixed probability, odd: of an error so wide that it
says nothing (a compilation, another build, a wrong row). The others tell which, so that the odder a run is among
them, the less it counts, while runs that agree count however far off the prediction is.

Where an engine may be a place short of its clients (`tuner/performance/behaviour.py`), those of the model and engine
tell which: each way's probability is multiplied by the density that the process gives the measured times under it, a
Student's t instead of a normal one so that one odd run does not decide alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit, logit

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
        by_input, by_gpus: i, s, per factor e of input tokens and of GPUs.
        noise: of one measurement that is sound.
        bound: log(measured / predicted) that one run counts for at most; no standard deviation.
    """

    model: float
    engine: float
    version: float
    deployment: float
    neighbourhood: float
    by_input: float
    by_gpus: float
    noise: float
    bound: float


# rounded, near those of the least error after three runs of `silicon_e2e` (docs/measurements.md)
TPOT: Final = Sharing(
    model=0.01, engine=0.01, version=0.04, deployment=0.05, neighbourhood=0.12, by_input=0.0, by_gpus=0.05,
    noise=0.03, bound=1.0,
)  # fmt: skip
# bounded, since compilations in the opening burst prolong many runs, which then do not contradict one another
TTFT: Final = Sharing(
    model=0.08, engine=0.02, version=0.15, deployment=0.05, neighbourhood=0.30, by_input=0.15, by_gpus=0.0,
    noise=0.10, bound=0.45,
)  # fmt: skip

_ODD: Final = 0.25
"""Probability that a measured run is odd; from 0.1 to 0.4 errors are alike."""

_ODD_SPREAD: Final = 1.0
"""Standard deviation of log(measured / predicted) of an odd run: it says nothing."""

_JUDGEMENTS: Final = 3
"""How odd runs are depends on how odd the others are; two rounds settle it."""

_FREEDOM: Final = 4.0
"""Of the t distribution by which measured runs tell whether engines were a place short."""

_METRICS: Final = (("ttft", TTFT), ("tpot", TPOT))

_SCALE: Final = 2.5
"""Length of the neighbourhood, l, in natural logarithms of batch, lengths and GPUs."""

_INPUT_TOKENS: Final = 2048.0
_GPUS: Final = 4.0
"""Where slopes have no effect, p0 and g0: in the middle of what is served."""


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
    log_ratios = np.clip(log_ratios, -sharing.bound, sharing.bound)
    for model in {row.model for row in rows}:
        known = [place for place, row in enumerate(measured) if row.model == model]
        if not known:
            continue
        asked = [place for place, row in enumerate(rows) if row.model == model]
        here, there = [rows[place] for place in asked], [measured[place] for place in known]
        own = _covariance(there, there, sharing)
        noise = _noise(own, log_ratios[known], sharing.noise**2)
        lower = cho_factor(own + np.diag(noise), lower=True)
        cross = _covariance(here, there, sharing)
        factor[asked] = np.exp(cross @ cho_solve(lower, log_ratios[known]))
        prior = _variance(here, sharing) + sharing.noise**2
        left = prior - np.einsum("ij,ji->i", cross, cho_solve(lower, cross.T))
        narrowing[asked] = np.sqrt(np.clip(left, sharing.noise**2, prior) / prior)
    return Adjustment(factor, narrowing)


def _noise(covariance: Array, log_ratios: Array, variance: float) -> Array:
    """Variance of each measured run's own error, between that of a sound run and that of an odd one.

    How probably a run is odd follows from its distance to what the others say of it, y - C^-1 y / diag(C^-1) with
    variance 1 / diag(C^-1) (Rasmussen & Williams 2006, Eq. 5.12), under either error. Precisions are averaged by
    that probability, as in a variational approximation; all subsets of odd runs would be too many.

    Args:
        covariance: of what m runs share, shape (m, m).
        log_ratios: log(measured / predicted), shape (m,).
        variance: of a sound run's error.

    Returns:
        Shape (m,).
    """
    odd = variance + _ODD_SPREAD**2
    noise = np.full(len(log_ratios), variance)
    for _ in range(_JUDGEMENTS):
        inverse = np.linalg.inv(covariance + np.diag(noise))
        precision = np.diag(inverse)
        distance = inverse @ log_ratios / precision
        shared = np.maximum(1.0 / precision - noise, 0.0)
        logits = [-0.5 * (distance**2 / (shared + own) + np.log(shared + own)) for own in (variance, odd)]
        doubt = expit(logits[1] - logits[0] + logit(_ODD))
        noise = 1.0 / ((1.0 - doubt) / variance + doubt / odd)
    return np.asarray(noise)


def _covariance(left: Sequence[ServingRow], right: Sequence[ServingRow], sharing: Sharing) -> Array:
    engine, version, deployment = (_same(left, right, place) for place in range(3))
    a, b = _places(left), _places(right)
    near = np.exp(-np.abs(a[:, None, :] - b[None, :, :]).sum(axis=2) / _SCALE)
    slopes = _slopes(left, sharing) @ _slopes(right, sharing).T
    return np.asarray(
        sharing.model**2
        + sharing.engine**2 * engine
        + sharing.version**2 * version
        + deployment * (sharing.deployment**2 + slopes + sharing.neighbourhood**2 * near)
    )


def _variance(rows: Sequence[ServingRow], sharing: Sharing) -> Array:
    """The diagonal of `_covariance` of rows with themselves, shape (n,)."""
    levels = (sharing.model, sharing.engine, sharing.version, sharing.deployment, sharing.neighbourhood)
    return np.asarray(sum(each**2 for each in levels) + (_slopes(rows, sharing) ** 2).sum(axis=1))


def _slopes(rows: Sequence[ServingRow], sharing: Sharing) -> Array:
    """i log(p / p0) and s log(g / g0) of each row, shape (n, 2)."""
    sizes = np.array([(row.input_tokens / _INPUT_TOKENS, row.decode.shard.gpus / _GPUS) for row in rows])
    return np.asarray(np.log(sizes) * (sharing.by_input, sharing.by_gpus))


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


def _places(rows: Sequence[ServingRow]) -> Array:
    """Logarithms of batch, lengths and GPUs, shape (n, 4)."""
    sizes = [(row.decode.batch, row.input_tokens, row.output_tokens, row.decode.shard.gpus) for row in rows]
    return np.log(np.array(sizes, dtype=np.float64))


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
