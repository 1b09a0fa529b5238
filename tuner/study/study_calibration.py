"""Calibration by a study's own trials: what those measured so far say of the predictions of the others.

The logarithm of measured over predicted is a Gaussian process over the search space: all configurations of a device
type share a part of it (the machine is faster or slower than its tables), near ones a part more:

    k(x, x') = d^2 [same device] + n^2 exp(-|x - x'|^2 / 2 l^2)

d and n follow from the width of the predictions' own interval, so that a calibrated interval is never wider.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from tuner.metric import MetricRef
from tuner.parameter import Config
from tuner.space import Space
from tuner.strategies.candidates import encode, row_of
from tuner.study.predicted import Z90, interval, spread_of
from tuner.study.record import TrialRecord
from tuner.trial import Estimate

_SHARED: Final = 0.85
"""Share of the spread, as a standard deviation, that a device type's configurations have in common."""
_NEAR: Final = 0.55
_LENGTH: Final = 0.7
"""Distance in the space of parameters (each 0 to 1) over which errors are alike."""
_NOISE: Final = 0.06
"""Standard deviation of the logarithm of one trial's metric."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """How far predictions were off, over the configurations measured.

    Attributes:
        metric: of which.
        count: configurations.
        raw: mean of |predicted / measured - 1| as predicted before the study.
        calibrated: the same, each calibrated by those measured before it.
        inside: share of the measured values within the uncalibrated 90 % interval.
    """

    metric: MetricRef
    count: int
    raw: float
    calibrated: float
    inside: float


@dataclass(frozen=True, slots=True)
class _Pair:
    config: Config
    predicted: Estimate
    measured: float


class StudyCalibration:
    """Corrects predictions of one metric by the trials measured.

    Args:
        space: of the study.
        metric: which.
        records: trials, those with a prediction and a measurement count.
    """

    def __init__(self, space: Space, metric: MetricRef, records: Sequence[TrialRecord]) -> None:
        self._space, self.metric = space, metric
        self._pairs = _pairs(records, metric)

    def __len__(self) -> int:
        """Number of configurations it has learned from."""
        return len(self._pairs)

    def adjusted(self, config: Config, predicted: Estimate) -> Estimate:
        """A prediction, corrected by all that has been measured; unchanged where nothing has."""
        return self._adjusted(config, predicted, self._pairs)

    def error(self) -> Error | None:
        """How far off predictions were; `None` before the first."""
        if not self._pairs:
            return None
        raw, calibrated, inside = [], [], []
        for place, pair in enumerate(self._pairs):
            told = self._adjusted(pair.config, pair.predicted, self._pairs[:place])
            raw.append(abs(pair.predicted.value / pair.measured - 1.0))
            calibrated.append(abs(told.value / pair.measured - 1.0))
            inside.append(pair.predicted.low <= pair.measured <= pair.predicted.high)
        return Error(
            metric=self.metric, count=len(raw), raw=float(np.mean(raw)), calibrated=float(np.mean(calibrated)),
            inside=float(np.mean(inside)),
        )  # fmt: skip

    def _adjusted(self, config: Config, predicted: Estimate, pairs: Sequence[_Pair]) -> Estimate:
        if not pairs:
            return predicted
        deviation = spread_of(predicted) / Z90
        if deviation <= 0:
            return predicted
        points = np.array([self._point(pair.config) for pair in pairs])
        devices = np.array([pair.config.device for pair in pairs])
        logs = np.array([math.log(pair.measured / pair.predicted.value) for pair in pairs])
        same = (devices[:, None] == devices[None, :]).astype(np.float64)
        shared, near = (_SHARED * deviation) ** 2, (_NEAR * deviation) ** 2
        covariance = shared * same + near * _alike(points, points) + _NOISE**2 * np.eye(len(pairs))
        here = self._point(config)[None]
        cross = shared * (devices == config.device) + near * _alike(here, points)[0]
        factor = cho_factor(covariance, lower=True)
        shift = float(cross @ cho_solve(factor, logs))
        left = shared + near - float(cross @ cho_solve(factor, cross))
        width = min(math.sqrt(max(left, 0.0) + _NOISE**2), deviation) * Z90
        return interval(predicted.value * math.exp(shift), width)

    def _point(self, config: Config) -> Floats:
        return np.asarray(encode(self._space, row_of(self._space, config)[None])[0])


def calibrated(
    space: Space, config: Config, predicted: Mapping[str, Estimate], records: Sequence[TrialRecord]
) -> dict[str, Estimate]:
    """Every predicted metric of a configuration, corrected by the trials measured."""
    return {
        name: StudyCalibration(space, MetricRef.parse(name), records).adjusted(config, estimate)
        for name, estimate in predicted.items()
    }


def _pairs(records: Sequence[TrialRecord], metric: MetricRef) -> tuple[_Pair, ...]:
    """The first measured trial of each configuration that was predicted."""
    found: dict[Config, _Pair] = {}
    for record in records:
        predicted = (record.predicted or {}).get(str(metric))
        measured = record.measurement.value(metric) if record.measurement is not None else None
        if predicted is None or measured is None or record.config in found:
            continue
        if measured > 0 and predicted.value > 0:
            found[record.config] = _Pair(record.config, predicted, measured)
    return tuple(found.values())


def _alike(left: Floats, right: Floats) -> Floats:
    distance = ((left[:, None, :] - right[None, :, :]) ** 2).sum(axis=2)
    return np.asarray(np.exp(-distance / (2.0 * _LENGTH**2)))
