"""Calibration by a few measured runs of the model at hand.

The logarithm of measured over predicted is a Gaussian process whose covariance says what two runs of one
model share: the model (its kernels are faster or slower than their tables), the engine, its version, the
deployment (device, engine, number formats), and the neighbourhood in batch, lengths and shard:

    k(x, x') = m^2 + e^2 [engine] + v^2 [version] + d^2 [deployment]
             + n^2 [deployment] exp(-|log x - log x'|^2 / 2),    [.]: 1 where both share it

Its posterior mean corrects the prediction and its variance narrows the interval; without a measured run it is
the prediction unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from tuner.performance.grid import Array
from tuner.performance.prediction import Prediction
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


# rounded maxima of the likelihood on `silicon_e2e`; leaving any architecture out moves them by less than a fifth
TPOT: Final = Sharing(model=0.04, engine=0.04, version=0.20, deployment=0.06, neighbourhood=0.20, noise=0.09)
TTFT: Final = Sharing(model=0.15, engine=0.10, version=0.20, deployment=0.15, neighbourhood=0.28, noise=0.14)

_MOST: Final = 1.5
"""Deviations that one run counts for at most: a run that met a compilation says little about the others."""

_LOAD_SCALE: Final = 2.2
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
    found = list(predictions)
    for metric, sharing in (("ttft", TTFT), ("tpot", TPOT)):
        known, ratios = [], []
        for run in measured:
            truth, guess = getattr(run, f"{metric}_s"), getattr(run.prediction, f"{metric}_s")
            if truth is not None and guess is not None:
                known.append(run.row)
                ratios.append(math.log(truth / guess))
        asked = [place for place, prediction in enumerate(found) if prediction.tpot_s is not None]
        adjustment = adjusted([rows[place] for place in asked], known, np.array(ratios), sharing)
        for place, factor, narrowing in zip(asked, adjustment.factor, adjustment.narrowing, strict=True):
            found[place] = _calibrated(found[place], metric, float(factor), float(narrowing))
    return found


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
    deployment = (row.device, row.engine, row.weights, row.experts, row.prefill is None)
    return row.engine, (row.engine, row.version), deployment


def _place(row: ServingRow) -> tuple[float, ...]:
    load = (row.decode.batch, row.input_tokens, row.output_tokens)
    return (*(math.log(size) / _LOAD_SCALE for size in load), math.log(row.decode.shard.gpus) / _SHARD_SCALE)


def _calibrated(prediction: Prediction, metric: str, factor: float, narrowing: float) -> Prediction:
    value, interval = getattr(prediction, f"{metric}_s"), getattr(prediction, f"{metric}_interval_s")
    assert value is not None
    if factor == 1.0 and narrowing == 1.0:
        return prediction
    bounds = tuple(value * factor * (bound / value) ** narrowing for bound in interval)
    origin = prediction.origin if "calibrated" in prediction.origin else f"{prediction.origin}, calibrated"
    return replace(prediction, **{f"{metric}_s": value * factor, f"{metric}_interval_s": bounds, "origin": origin})
