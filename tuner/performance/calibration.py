"""Calibration by a few measured runs of the model at hand.

The logarithm of measured over predicted is a Gaussian process whose covariance says what two runs of one
model share: the model (its kernels are faster or slower than their tables), the deployment (device, engine,
number format), and the neighbourhood in batch, lengths and shard:

    k(x, x') = m^2 + d^2 [same deployment] + n^2 [same deployment] exp(-|log x - log x'|^2 / 2)

Its posterior mean corrects the prediction and its variance narrows the interval; without a measured run it is
the prediction unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from tuner.performance.grid import Array
from tuner.performance.serving_row import ServingRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """Standard deviations of log(measured / predicted) by what runs share.

    Attributes:
        model, deployment, neighbourhood, noise: m, d, n and the spread of one measurement.
    """

    model: float
    deployment: float
    neighbourhood: float
    noise: float

    @property
    def total(self) -> float:
        """Of one run, all together."""
        return float(np.sqrt(self.model**2 + self.deployment**2 + self.neighbourhood**2 + self.noise**2))


TPOT: Final = Sharing(model=0.08, deployment=0.12, neighbourhood=0.08, noise=0.05)
TTFT: Final = Sharing(model=0.10, deployment=0.35, neighbourhood=0.25, noise=0.10)


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What calibration does to predictions.

    Attributes:
        factor: to multiply them by.
        narrowing: width of the interval over what it was, in (0, 1].
    """

    factor: Array
    narrowing: Array


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
    same = np.array([[_deployment(a) == _deployment(b) for b in right] for a in left], dtype=np.float64)
    a, b = np.array([_place(row) for row in left]), np.array([_place(row) for row in right])
    distance = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2)
    near = same * np.exp(-distance / 2.0)
    return np.asarray(sharing.model**2 + sharing.deployment**2 * same + sharing.neighbourhood**2 * near)


def _deployment(row: ServingRow) -> tuple[object, ...]:
    return (row.device, row.engine, row.weights, row.experts, row.prefill is None)


def _place(row: ServingRow) -> tuple[float, ...]:
    scale = 1.4  # two octaves apart is about one length of the kernel
    sizes = (row.decode.batch, row.input_tokens, row.output_tokens, row.decode.shard.gpus)
    return tuple(float(np.log(size)) / scale for size in sizes)
