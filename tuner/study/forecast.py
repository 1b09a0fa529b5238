"""Forecast: what the performance model expects of a study's configurations, before any of them has run.

Configurations that make the same server on the same device (they differ in what is not modelled) are one *kind*; all
numbers are kept by kind. Every number is labelled predicted and has a 90 % interval.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr

from tuner.errors import TunerError, UnpredictableError
from tuner.metric import Direction, Metric, MetricRef
from tuner.parameter import Config
from tuner.ports import Predictable, SearchSpace
from tuner.serving import Serving
from tuner.space import Space
from tuner.strategies.candidates import Candidates, Rows, encode, levels
from tuner.study.definition import Study
from tuner.study.device_models import DeviceModel, device_model
from tuner.study.predicted import Z90, interval
from tuner.trial import Estimate

LIMIT: Final = 20_000
"""Configurations predicted while a study runs: about a second."""
_COSTS: Final = {
    Metric.COST_PER_MILLION_REQUESTS: (Metric.MAX_ARRIVAL_RATE, Metric.THROUGHPUT),
    Metric.COST_PER_MILLION_TOKENS: (Metric.OUTPUT_THROUGHPUT,),
}
"""Costs, each with the rates that it is a price over, the first known one first."""

Floats = npt.NDArray[np.float64]
Kinds = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prospect:
    """A configuration with what is predicted of it.

    Attributes:
        config: which.
        metrics: by name, with 90 % intervals.
        holds: whether every bound is predicted to hold.
        probability: that every bound holds.
    """

    config: Config
    metrics: Mapping[str, Estimate]
    holds: bool
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """Why some configurations are ruled out.

    Attributes:
        reason: in words.
        count: how many.
        example: one of them.
        surely: whether they cannot run, rather than being expected to miss a bound.
    """

    reason: str
    count: int
    example: Config
    surely: bool


class Forecast:
    """Predictions for a study's candidates.

    Args:
        study: what is tuned.
        engine: its adapter.
        candidates: every valid configuration.
        limit: of the configurations that are predicted; of a larger space a random part of this size is.

    Attributes:
        positions: of the candidates predicted.
        origins: by device type, where its times come from.
        silent: by device type of which nothing can be predicted, why.

    Raises:
        UnpredictableError: nothing can be predicted of this study, and why.
    """

    def __init__(self, study: Study, engine: SearchSpace, candidates: Candidates, limit: int = LIMIT) -> None:
        if not isinstance(engine, Predictable):
            raise UnpredictableError(
                f"The engine {study.engine.name!r} does not say what its parameters mean to a server, so nothing "
                "can be predicted of them. Predictions are made for triton and vllm; `tune run` measures."
            )
        self._study, self._candidates = study, candidates
        self._served = engine.served_model(study.task)
        self._models: dict[str, DeviceModel] = {}
        self.silent: dict[str, str] = {}
        for device in study.task.devices:
            try:
                self._models[device.name] = device_model(self._served, device, study.plan)
            except UnpredictableError as error:
                self.silent[device.name] = str(error)
        if not self._models:
            raise UnpredictableError("\n".join(dict.fromkeys(self.silent.values())))
        self._kinds: dict[tuple[str, Serving], int] = {}
        self.positions = self._chosen(limit)
        self._kind_of = self._sorted_into_kinds()
        self._values: dict[MetricRef, Floats] = {}
        self._spreads: dict[MetricRef, Floats] = {}
        self._refusals: list[str] = []
        self._device_of: list[str] = []
        self._predict(list(self._kinds))
        self.origins = {name: model.origin for name, model in self._models.items()}

    @property
    def space(self) -> Space:
        """The study's search space."""
        return self._candidates.space

    def served(self, config: Config) -> tuple[DeviceModel, Serving] | None:
        """What a configuration makes of the server, and the model of its device; `None` on a silent device."""
        model = self._models.get(config.device)
        return None if model is None else (model, self._served.serving(config))

    def metrics_of(self, config: Config) -> dict[str, Estimate] | None:
        """What is predicted of a configuration; `None` where it is not among those predicted, or cannot run."""
        kind = self._kind(config)
        return None if kind is None or self._refusals[kind] else self._estimates(kind)

    def refusal_of(self, config: Config) -> str | None:
        """Why a configuration surely cannot run, or `None`."""
        kind = self._kind(config)
        return None if kind is None else self._refusals[kind] or None

    def excluded(self) -> npt.NDArray[np.bool_]:
        """Which of `positions` surely cannot run, shape of `positions`."""
        refused = np.array([bool(reason) for reason in self._refusals])
        return np.asarray((self._kind_of >= 0) & refused[self._kind_of])

    def exclusions(self) -> list[Exclusion]:
        """Why configurations are ruled out, most frequent first; those that cannot run come first."""
        counts: Counter[tuple[bool, str]] = Counter()
        examples: dict[tuple[bool, str], int] = {}
        missed = {str(slo): self._missed(slo.metric, slo.bound, slo.at_most) for slo in self._study.slos}
        for at, kind in enumerate(self._kind_of):
            if kind < 0:
                continue
            if self._refusals[kind]:
                reasons = [(True, self._refusals[kind])]
            else:
                reasons = [(False, f"predicted to miss {bound}") for bound, misses in missed.items() if misses[kind]]
            for reason in reasons:
                counts[reason] += 1
                examples.setdefault(reason, int(self.positions[at]))
        order = sorted(counts, key=lambda reason: (not reason[0], -counts[reason], reason[1]))
        return [
            Exclusion(
                reason=reason, count=counts[surely, reason], surely=surely,
                example=self._candidates.config(examples[surely, reason]),
            )
            for surely, reason in order
        ]  # fmt: skip

    def best(self, count: int, device: str | None = None) -> list[Prospect]:
        """The configurations predicted best, those that hold every bound first; of those predicted alike, one.

        Args:
            count: how many at most.
            device: of one device type only.
        """
        seen: set[tuple[str, ...]] = set()
        found: list[int] = []
        for kind in self._ranked(device):
            alike = self._alike(kind)
            if alike not in seen:
                seen.add(alike)
                found.append(kind)
            if len(found) >= count:
                break
        return [self._prospect(kind) for kind in found]

    def openings(self, count: int) -> npt.NDArray[np.int64]:
        """Positions of candidates to try first: the best predicted ones, each at some distance from those before."""
        chosen: list[int] = []
        points: list[Floats] = []
        for near in (0.5, 0.0):  # where all the best are alike, nearer ones will do
            for kind in self._ranked(None):
                if len(chosen) >= count:
                    break
                position = self._representative(kind)
                point = encode(self.space, self._candidates.rows[[position]])[0]
                if position not in chosen and all(np.abs(point - other).sum() > near for other in points):
                    chosen.append(position)
                    points.append(point)
        return np.array(chosen, dtype=np.int64)

    def log_values(self, ref: MetricRef) -> Floats | None:
        """Logarithms of what is predicted of a metric, shape of `positions`, NaN where nothing is."""
        values = self._values.get(ref)
        if values is None:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(np.where(values > 0, values, np.nan))
        return np.where(self._kind_of >= 0, logs[self._kind_of], np.nan)

    def spread(self, ref: MetricRef) -> float:
        """Half the width of the metric's 90 % interval, as a logarithm: the median over configurations."""
        widths = self._spreads.get(ref)
        return float(np.nanmedian(widths)) if widths is not None and np.isfinite(widths).any() else 0.5

    def rows(self) -> Rows:
        """The rows of `positions`, inactive parameters at their default."""
        return levels(self.space, self._candidates.rows[self.positions])

    def _chosen(self, limit: int) -> Kinds:
        total = len(self._candidates)
        if total <= limit:
            return np.arange(total)
        generator = np.random.default_rng([self._study.search.seed, 0x666F72])
        drawn = generator.choice(total, size=limit, replace=False)
        return np.unique(np.append(drawn, self._candidates.default_position))

    def _sorted_into_kinds(self) -> Kinds:
        found = np.full(len(self.positions), -1, dtype=np.int64)
        for at, position in enumerate(self.positions):
            config = self._candidates.config(int(position))
            if config.device in self._models:
                key = (config.device, self._served.serving(config))
                found[at] = self._kinds.setdefault(key, len(self._kinds))
        return found

    def _kind(self, config: Config) -> int | None:
        """Of a configuration, predicted now where it was not among those looked at."""
        if config.device not in self._models:
            return None
        key = (config.device, self._served.serving(config))
        if key not in self._kinds:
            self._kinds[key] = len(self._kinds)
            self._predict([key])
        return self._kinds[key]

    def _predict(self, kinds: Sequence[tuple[str, Serving]]) -> None:
        """Adds kinds, in this order, with what is predicted of them."""
        known = len(self._refusals)
        self._device_of += [device for device, _ in kinds]
        self._refusals += [""] * len(kinds)
        for ref in self._values:
            for columns in (self._values, self._spreads):
                columns[ref] = np.append(columns[ref], np.full(len(kinds), np.nan))
        for name, model in self._models.items():
            places = [known + place for place, (device, _) in enumerate(kinds) if device == name]
            if not places:
                continue
            found = model.predict([serving for device, serving in kinds if device == name])
            for place, reason in zip(places, found.refusals, strict=True):
                self._refusals[place] = reason
            for ref in found.values:
                self._column(self._values, ref)[places] = found.values[ref]
                self._column(self._spreads, ref)[places] = found.spreads[ref]
        self._add_costs()

    def _column(self, columns: dict[MetricRef, Floats], ref: MetricRef) -> Floats:
        return columns.setdefault(ref, np.full(len(self._refusals), np.nan))

    def _add_costs(self) -> None:
        prices = np.array([self._study.task.device(name).price_per_second for name in self._device_of])
        self._values[MetricRef(Metric.COST_PER_HOUR)] = prices * 3600.0
        self._spreads[MetricRef(Metric.COST_PER_HOUR)] = np.zeros(prices.shape)
        for cost, rates in _COSTS.items():
            rate = next((MetricRef(each) for each in rates if MetricRef(each) in self._values), None)
            if rate is not None:
                with np.errstate(divide="ignore", invalid="ignore"):
                    self._values[MetricRef(cost)] = prices * 1e6 / self._values[rate]
                self._spreads[MetricRef(cost)] = self._spreads[rate].copy()

    def _missed(self, ref: MetricRef, bound: float, at_most: bool) -> npt.NDArray[np.bool_]:
        values = self._values.get(ref)
        if values is None:
            return np.zeros(len(self._kinds), dtype=bool)
        return ~(values <= bound) if at_most else ~(values >= bound)

    def _log_holds(self) -> Floats:
        """Logarithm of the probability that every bound holds, by kind."""
        total = np.zeros(len(self._kinds))
        for slo in self._study.slos:
            values = self._values.get(slo.metric)
            if values is None:
                continue
            with np.errstate(divide="ignore", invalid="ignore"):
                margin = np.log(max(slo.bound, 1e-12) / np.maximum(values, 1e-12)) * (1.0 if slo.at_most else -1.0)
            if slo.metric.metric is Metric.ERROR_RATE:
                total += np.where(np.isfinite(values) & (values <= slo.bound), 0.0, -20.0)
                continue
            deviation = np.maximum(self._spreads[slo.metric], 0.05) / Z90
            total += np.where(np.isfinite(margin), log_ndtr(margin / deviation), -20.0)
        return total

    def _ranked(self, device: str | None) -> list[int]:
        """Kinds that can run, best first: the objective, and how sure the bounds are."""
        objective = self._study.objectives[0]
        values = self._values.get(objective.metric)
        if values is None:
            return []
        sign = 1.0 if objective.direction is Direction.MAXIMIZE else -1.0
        with np.errstate(divide="ignore", invalid="ignore"):
            score = sign * np.log(values) + self._log_holds()
        usable = [
            kind
            for kind in range(len(self._kinds))
            if not self._refusals[kind] and math.isfinite(score[kind]) and device in (None, self._device_of[kind])
        ]
        missed = np.zeros(len(self._kinds), dtype=bool)
        for slo in self._study.slos:
            missed |= self._missed(slo.metric, slo.bound, slo.at_most)
        changed = self._changed()
        return sorted(usable, key=lambda kind: (bool(missed[kind]), -round(float(score[kind]), 3), changed[kind], kind))

    def _changed(self) -> Kinds:
        """In how many parameters each kind's configuration nearest to the engine's default differs from it."""
        default = self._candidates.rows[self._candidates.default_position][None]
        changes = (self.rows() != levels(self.space, default)).sum(axis=1)
        fewest = np.full(len(self._kinds), np.iinfo(np.int64).max)
        known = self._kind_of >= 0
        np.minimum.at(fewest, self._kind_of[known], changes[known])
        return fewest

    def _alike(self, kind: int) -> tuple[str, ...]:
        """What is predicted of a kind, to three digits: kinds that share it cannot be told apart."""
        refs = [objective.metric for objective in self._study.objectives] + [slo.metric for slo in self._study.slos]
        values = [self._values[ref][kind] for ref in dict.fromkeys(refs) if ref in self._values]
        return (self._device_of[kind], *(f"{value:.3g}" for value in values))

    def _representative(self, kind: int) -> int:
        """Position of the configuration of a kind that is nearest to the engine's default."""
        positions = self.positions[self._kind_of == kind]
        default = self._candidates.rows[self._candidates.default_position][None]
        filled, target = (levels(self.space, rows) for rows in (self._candidates.rows[positions], default))
        return int(positions[int(np.argmin((filled != target).sum(axis=1)))])

    def _prospect(self, kind: int) -> Prospect:
        missed = [self._missed(slo.metric, slo.bound, slo.at_most)[kind] for slo in self._study.slos]
        return Prospect(
            config=self._candidates.config(self._representative(kind)),
            metrics=self._estimates(kind),
            holds=not any(missed),
            probability=float(np.exp(self._log_holds()[kind])),
        )

    def _estimates(self, kind: int) -> dict[str, Estimate]:
        return {
            str(ref): interval(float(values[kind]), float(self._spreads[ref][kind]))
            for ref, values in self._values.items()
            if math.isfinite(values[kind])
        }


def try_forecast(study: Study, engine: SearchSpace, candidates: Candidates) -> tuple[Forecast | None, str]:
    """The forecast, or why there is none; a run does without rather than fail."""
    try:
        return Forecast(study, engine, candidates), ""
    except TunerError as error:
        return None, str(error)
    except Exception as error:  # a model reader may come from anywhere, and no trial depends on what it says
        return None, f"{type(error).__name__}: {error}"
