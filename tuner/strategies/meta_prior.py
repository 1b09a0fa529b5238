"""From earlier tasks to hypotheses about a new one, metric by metric.

Metrics are the objective, every bounded metric and `ran` (1 or -1). Positive metrics are taken as logarithms,
so that an unknown scale is an unknown level. Hypotheses, the same for all metrics:

* `own`: what the earlier tasks share, and a deviation as theirs are; once more with twice that deviation,
* `follows`: one per earlier task: it deviates as that one did,
* `alone`: only smoothness is known, as learned from the earlier tasks; and `fresh`: as assumed by default,
  for several length scales and spreads, so that wrong earlier tasks cannot do lasting harm.

There are all of them in each view of how values are alike (`tuner.surrogates.hierarchical_kernel.View`): the view that
the earlier tasks fit best is not always the one that tells most of a new task.

Earlier tasks in which no metric follows from the configuration are left out: flat or of noise, they would pass for
knowledge that nothing matters.

Metrics are a chain (`tuner.surrogates.metric_loadings`): of each is modelled what those before it do not tell.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tuner.parameter import Value
from tuner.strategies.listed_problem import Answer, BoolArray, EarlierTask, FloatArray, ListedProblem
from tuner.strategies.thinning import thinned
from tuner.surrogates.hierarchical import HierarchicalModel
from tuner.surrogates.hierarchical_fit import (
    Hyperparameters,
    TaskData,
    default_hyperparameters,
    fit_hyperparameters,
)
from tuner.surrogates.hierarchical_kernel import GridEncoding, IntArray, View
from tuner.surrogates.listed_gaussian import Gaussian
from tuner.surrogates.metric_loadings import metric_loadings, without_loaded
from tuner.surrogates.metric_scale import fits_logarithms
from tuner.surrogates.one_thread import one_thread

OBJECTIVE = "objective"
RAN = "ran"

_LENGTHS = (0.5, 1.0, 2.0)
_SPREADS = (1.0, 2.5)
_FRESH = len(_LENGTHS) * len(_SPREADS)
_STEADY = 0.2**0.5
"""Spread of the belief in what never failed."""
_WIDE = 2.0
"""Spread of the wide hypothesis of the kind `own`, relative to the earlier tasks' deviations."""
_UNKNOWN_LEVEL = 400.0
"""Variance of the level of a metric of which nothing is known: e^20 either way in natural logarithms."""
_TINY = 1e-12
_LEAST_TOLD = 0.1
"""Nats per value that any metric must gain from its configuration in the earlier tasks, or these tell nothing.

Of the recorded tasks it is 0.5 to 3, of their answers shuffled over the configurations -0.1 to 0.09.
"""
_ALIKE = 0.5
"""Distance of features, in their standard deviations, within which tasks are alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaSettings:
    """The few settings of the search; docs/search.md says how they were chosen.

    Attributes:
        own, follows, alone, fresh: prior weights of the kinds of hypothesis.
        placed: share of the view that places words; the other ties them.
        deviation: of a follower from the task that it follows, as a share of a task's own deviation.
        trust: power to which a hypothesis's probability of the trials counts.
        interleave_after: trials after which every second one is asked without the earlier tasks' surfaces.
        draws: joint draws of the mixture.
        tolerance: a configuration within this share of the best is good enough.
    """

    own: float = 0.4
    follows: float = 0.4
    alone: float = 0.1
    fresh: float = 0.1
    placed: float = 0.3
    deviation: float = 0.5
    trust: float = 0.5
    interleave_after: int = 5
    draws: int = 2048
    tolerance: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricPrior:
    """The hypotheses about one metric, in standard units: (transformed value - centre) / scale.

    Attributes:
        name: `objective`, `ran`, or the bounded metric's.
        logarithmic: whether the logarithm is modelled.
        centre, scale: of the transformed values.
        loadings: what is modelled is the standard value less these shares of the metrics before it.
        gaussians: one per hypothesis.
    """

    name: str
    logarithmic: bool
    centre: float
    scale: float
    loadings: tuple[float, ...]
    gaussians: tuple[Gaussian, ...]

    def standard(self, value: float) -> float:
        """A measured value in standard units."""
        return (_transform(value, self.logarithmic) - self.centre) / self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaPrior:
    """Everything that is believed of a task before its first trial.

    Attributes:
        metrics: objective first; `ran` last where any earlier trial failed or none is known.
        weights: prior weights of the hypotheses, shape (H,).
        transferred: which hypotheses rest on the earlier tasks' surfaces, shape (H,).
        followed: the earlier task that a hypothesis follows, -1 for none, shape (H,).
    """

    metrics: tuple[MetricPrior, ...]
    weights: FloatArray
    transferred: BoolArray
    followed: IntArray


HyperparameterCache = dict[str, Hyperparameters]
"""Fitted hyperparameters by digest of what they were fitted to."""


def meta_prior(problem: ListedProblem, settings: MetaSettings, cache: HyperparameterCache) -> MetaPrior:
    """The prior of a problem, from its earlier tasks."""
    return EarlierKnowledge(problem, settings, cache).prior(problem.rows)


def answer_value(metric: int, problem: ListedProblem, answer: Answer, name: str) -> float | None:
    """What an answer says of the metric at position `metric` and of that name, or `None`."""
    if name == RAN:
        return 1.0 if answer.ran else -1.0
    if not answer.ran:
        return None
    value = answer.objective if metric == 0 else answer.constraints[metric - 1]
    return None if value is None or not math.isfinite(value) else value


def _transform(value: float, logarithmic: bool) -> float:
    return math.log(max(value, _TINY)) if logarithmic else value


def likeness(problem: ListedProblem) -> FloatArray:
    """How alike the target and each earlier task are by their features, shape (tasks,), of sum 1.

    exp(-d^2 / (2 x 0.5^2)) of the distance d over the features that all of them have, in standard deviations per
    feature (of logarithms where all are positive). Half of it is shared out evenly: features do not tell all.
    """
    count = len(problem.earlier)
    even = np.full(count, 1.0 / count)
    names = sorted(name for name in problem.features if all(name in task.features for task in problem.earlier))
    described = [problem.features, *(task.features for task in problem.earlier)]
    table = np.array([[float(features[name]) for name in names] for features in described])
    table = np.where((table > 0).all(axis=0), np.log(np.maximum(table, _TINY)), table)
    spread = table.std(axis=0)
    told = spread > _TINY * np.abs(table).max(axis=0, initial=1.0)
    if not told.any():
        return even
    gaps = (table[1:, told] - table[0, told]) / spread[told]
    alike = np.exp(-0.5 * (gaps**2).mean(axis=1) / _ALIKE**2)
    return np.asarray(even if alike.sum() < _TINY else 0.5 * even + 0.5 * alike / alike.sum())


@dataclass(frozen=True, slots=True)
class _Column:
    """A metric, and how it is read from an earlier task."""

    name: str
    of: Callable[[EarlierTask], FloatArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Metric:
    """What the earlier tasks say of a metric, wherever the new one is searched; attributes as of `MetricPrior`.

    Attributes:
        models: one per view; none where there are no earlier tasks, or nothing ever failed.
        told: as of the `Hyperparameters` of the first view, 0 without models.
    """

    name: str
    logarithmic: bool
    centre: float
    scale: float
    loadings: tuple[float, ...]
    models: tuple[HierarchicalModel, ...]
    told: float


class EarlierKnowledge:
    """What is known of a problem before its rows are: priors on several lists cost little more than one.

    Args:
        problem: its rows are needed only where they have values that neither the earlier tasks have nor its
            parameters list.
        settings: of the search.
        cache: of hyperparameters.
    """

    def __init__(self, problem: ListedProblem, settings: MetaSettings, cache: HyperparameterCache) -> None:
        self._problem = problem = thinned(problem)
        self._settings = settings
        self._cache = cache
        self._scales = [parameter.scale for parameter in problem.parameters]
        self._grid_rows = list(dict.fromkeys(row for task in problem.earlier for row in task.rows))
        self._position = {row: at for at, row in enumerate(self._grid_rows)}
        known = list(dict.fromkeys([*self._grid_rows, *problem.rows]))
        descriptors = [problem.descriptors.get(parameter.name, {}) for parameter in problem.parameters]
        listed = [parameter.values for parameter in problem.parameters]
        self._encodings = [GridEncoding.of(self._scales, known, descriptors, listed, view) for view in View]
        self._grid = self._encodings[0].codes(self._grid_rows)
        with one_thread():
            self._metrics = self._all_metrics()
            if problem.earlier and max(metric.told for metric in self._metrics) < _LEAST_TOLD:
                self._problem = replace(problem, earlier=())
                self._metrics = self._all_metrics()

    def prior(self, rows: Sequence[tuple[Value, ...]]) -> MetaPrior:
        """The prior on some configurations."""
        codes = self._encodings[0].codes(rows)
        smooth = [[model.alone(codes) for model in models] for models in self._smooth]
        metrics = tuple(
            MetricPrior(
                name=metric.name,
                logarithmic=metric.logarithmic,
                centre=metric.centre,
                scale=metric.scale,
                loadings=metric.loadings,
                gaussians=tuple(self._gaussians(metric, codes, smooth)),
            )
            for metric in self._metrics
        )
        settings = self._settings
        weights = np.full(_FRESH, settings.fresh / _FRESH)
        followed = np.full(_FRESH, -1)
        transferred = np.zeros(_FRESH, bool)
        if self._problem.earlier:
            count = len(self._problem.earlier)
            shares = [settings.own / 2, settings.own / 2, settings.alone, *(settings.follows * likeness(self._problem))]
            weights = np.concatenate([shares, weights])
            followed = np.concatenate([[-1, -1, -1], np.arange(count), followed])
            transferred = np.concatenate([[True, True, False], np.ones(count, bool), transferred])
        of_view = {View.PLACED: settings.placed, View.TIED: 1.0 - settings.placed}
        return MetaPrior(
            metrics=metrics,
            weights=np.concatenate([of_view[view] * weights for view in View]),
            transferred=np.tile(transferred, len(View)),
            followed=np.tile(followed, len(View)),
        )

    def _all_metrics(self) -> list[_Metric]:
        before: list[list[TaskData]] = []
        return [self._metric(column, before) for column in self._columns()]

    def _columns(self) -> list[_Column]:
        columns = [_Column(OBJECTIVE, lambda task: task.objective)]
        for at, bound in enumerate(self._problem.bounds):
            columns.append(_Column(bound.name, lambda task, at=at: task.constraints[:, at]))  # type: ignore[misc]
        columns.append(_Column(RAN, lambda task: np.where(task.ran, 1.0, -1.0)))
        return columns

    def _metric(self, column: _Column, before: list[list[TaskData]]) -> _Metric:
        """One metric; `before` has the standardised metrics before it, and gains this one."""
        read = [self._read(column, task) for task in self._problem.earlier]
        logarithmic = column.name != RAN and all((values > 0).all() for _, values in read)
        if column.name not in (OBJECTIVE, RAN):
            logarithmic = logarithmic and self._limit(column.name) > 0
        measured = [self._task_data(rows, values) for rows, values in read]
        if logarithmic:
            logarithmic = fits_logarithms([(data.index, data.values) for data in measured])
        if logarithmic:
            measured = [self._task_data(rows, np.log(values)) for rows, values in read]
        kept = [data for data in measured if len(data.values)]
        centre, scale = 0.0, 1.0
        if kept and column.name != RAN:
            centre = float(np.mean([data.values.mean() for data in kept]))
            scale = float(np.sqrt(np.mean([data.values.var() for data in kept])))
            scale = scale if scale > 1e-6 else 1.0
        standard = [replace(data, values=(data.values - centre) / scale) for data in measured]
        loadings: FloatArray = np.zeros(0)
        if column.name != RAN:
            loadings = metric_loadings(standard, before, len(self._grid_rows))
            before.append(standard)
            standard = [
                without_loaded(data, [metric[task] for metric in before[:-1]], loadings)
                for task, data in enumerate(standard)
            ]
        models: tuple[HierarchicalModel, ...] = ()
        told = 0.0
        if standard and not (column.name == RAN and all((data.values > 0).all() for data in standard)):
            measured = [data for data in standard if len(data.values)]
            fits = [self._hyperparameters(column.name, encoding, measured) for encoding in self._encodings]
            models = tuple(
                HierarchicalModel(encoding, self._grid, standard, fit)
                for encoding, fit in zip(self._encodings, fits, strict=True)
            )
            told = fits[0].told
        return _Metric(
            name=column.name,
            logarithmic=logarithmic,
            centre=centre,
            scale=scale,
            loadings=tuple(loadings.tolist()),
            models=models,
            told=told,
        )

    def _gaussians(self, metric: _Metric, codes: IntArray, smooth: Sequence[Sequence[Gaussian]]) -> list[Gaussian]:
        """The hypotheses about a metric, view by view; `smooth` are default beliefs, in each view one per length."""
        tasks = self._problem.earlier
        # A level of its own, known to nobody: the first trial tells it.
        level = 1.0 if tasks or metric.name == RAN else _UNKNOWN_LEVEL
        shift = 1.0 if metric.name == RAN else 0.0
        found: list[Gaussian] = []
        for at, defaults in enumerate(smooth):
            if tasks and not metric.models:
                # Nothing ever failed: so it is expected to go on, with a failure taken as news of its neighbourhood.
                steady = defaults[_LENGTHS.index(1.0)]
                sure = replace(steady, shift=1.0, spread=_STEADY, level=0.0)
                found += [sure] * (3 + len(tasks) + _FRESH)
                continue
            if metric.models:
                model = metric.models[at]
                found += [
                    model.own(codes),
                    model.own(codes, spread=_WIDE),
                    model.alone(codes),
                    *model.following(codes, deviation=self._settings.deviation),
                ]
            found += [
                replace(base, shift=shift, spread=spread, level=level) for base in defaults for spread in _SPREADS
            ]
        return found

    @cached_property
    def _smooth(self) -> list[list[HierarchicalModel]]:
        """Default beliefs, per view one per length scale."""
        found = []
        for encoding in self._encodings:
            default = default_hyperparameters(encoding)
            models = []
            for length in _LENGTHS:
                theta = default.shared.copy()
                parts = encoding.layout.parts(theta)
                for lengths in (parts.long, parts.short):
                    lengths += math.log(length)
                models.append(HierarchicalModel(encoding, self._grid[:0], (), replace(default, shared=theta)))
            found.append(models)
        return found

    def _hyperparameters(self, name: str, encoding: GridEncoding, tasks: Sequence[TaskData]) -> Hyperparameters:
        known = (name, encoding.values, encoding.layout, self._grid_rows, self._scales)
        digest = hashlib.sha256(repr(known).encode())
        for data in tasks:
            digest.update(data.index.tobytes() + data.values.tobytes())
        key = digest.hexdigest()
        if key not in self._cache:
            self._cache[key] = fit_hyperparameters(encoding, self._grid, tasks)
        return self._cache[key]

    def _read(self, column: _Column, task: EarlierTask) -> tuple[list[int], FloatArray]:
        values = column.of(task)
        known = np.isfinite(values) if column.name == RAN else np.isfinite(values) & task.ran
        rows = [self._position[row] for row, keep in zip(task.rows, known, strict=True) if keep]
        return rows, np.asarray(values[known], dtype=float)

    @staticmethod
    def _task_data(rows: Sequence[int], values: FloatArray) -> TaskData:
        """Repeats are averaged; rows in ascending order."""
        index, inverse = np.unique(np.array(rows, dtype=np.int64), return_inverse=True)
        if not len(index):
            empty = np.zeros(0)
            return TaskData(index=index, values=empty, repeats=empty)
        repeats = np.bincount(inverse, minlength=len(index)).astype(float)
        means = np.bincount(inverse, weights=values, minlength=len(index)) / repeats
        return TaskData(index=index, values=means, repeats=repeats)

    def _limit(self, name: str) -> float:
        return next(bound.limit for bound in self._problem.bounds if bound.name == name)
