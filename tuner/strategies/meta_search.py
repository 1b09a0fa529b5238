"""The meta-learned search over a list of configurations.

Every question is the configuration with the highest probability of being good enough: of holding every bound
and being within 5 % of the best that does, over joint draws of all metrics from the mixture of hypotheses
that `meta_prior` makes of the earlier tasks. With trials in flight it is the probability that this one is good
and none of those is, so that a batch covers what may be best. Once a few trials did not find it, every second
question is asked without the earlier tasks' surfaces, and by expected improvement: what may be best by a margin is
tried before what may be as good as the incumbent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr

from tuner.metric import Direction
from tuner.strategies.listed_problem import Answer, BoolArray, FloatArray, ListedProblem
from tuner.strategies.meta_prior import (
    OBJECTIVE,
    RAN,
    HyperparameterCache,
    MetaPrior,
    MetaSettings,
    answer_value,
    meta_prior,
)
from tuner.strategies.prospects import MOST_GAIN
from tuner.surrogates.hierarchical_kernel import IntArray
from tuner.surrogates.hypothesis_mixture import HypothesisMixture, SmallFloatArray
from tuner.surrogates.one_thread import one_thread

_JOINT = 128
"""Rows that are drawn jointly for a question, together with those told: the cost goes with the square of both."""
_LEAST_JOINT = 64
_JOINT_PROSPECTS = 256
"""Rows that are drawn jointly for prospects, in which many that are hardly likely count for something together."""
_JOINT_UNMEASURED = 512
"""Rows that are drawn jointly for a question while nothing is measured, as an unknown level hides which are better."""
_LEVELS = 32
"""Draws of the levels by which these are chosen from a longer list."""
_INCUMBENTS = 8
_LIKELIEST = 2
"""Hypotheses that say which rows are drawn."""
_SMALL = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaProspects:
    """What is believed after some trials.

    Attributes:
        best: the tried row with the best answer that holds, or `None`.
        within: probability that it is within the tolerance of the best.
        expected_gain: as `tuner.strategies.prospects.Prospects` defines it.
    """

    best: int | None
    within: float
    expected_gain: float


class MetaSearch:
    """A `ListedStrategy` that stands on earlier tasks.

    Args:
        problem: what is searched; without earlier tasks the search starts from scratch.
        seed: of every random choice.
        settings: see there.
        cache: fitted hyperparameters, to be shared by searches with the same earlier tasks.
        prior: what is believed of the problem's rows at first; `None` makes it of the earlier tasks.
    """

    def __init__(
        self,
        problem: ListedProblem,
        seed: int = 0,
        settings: MetaSettings | None = None,
        cache: HyperparameterCache | None = None,
        prior: MetaPrior | None = None,
    ) -> None:
        # Surfaces that are flat would pass for knowledge that all configurations are alike.
        problem = replace(problem, earlier=tuple(task for task in problem.earlier if task.compares))
        self._problem = problem
        self._settings = settings or MetaSettings()
        self._minimizes = problem.direction is Direction.MINIMIZE
        self._prior = prior or meta_prior(problem, self._settings, {} if cache is None else cache)
        self._generator = np.random.default_rng(seed)
        self._mixture = HypothesisMixture(
            {metric.name: metric.gaussians for metric in self._prior.metrics},
            self._prior.weights,
            draws=self._settings.draws,
            trust=self._settings.trust,
            seed=seed,
            signs=(RAN,),
            strays={OBJECTIVE: 1 if self._minimizes else -1, **{bound.name: 0 for bound in problem.bounds}},
        )
        self._tie_break: FloatArray = 1e-9 * self._generator.random(len(problem.rows))
        self._chance: float | None = None
        self._asked: list[int] = []
        self._told: dict[int, Answer] = {}

    @property
    def prior(self) -> MetaPrior:
        """The prior it started from."""
        return self._prior

    @property
    def chance(self) -> float | None:
        """Probability that was given to the last row asked to be within the tolerance of the best.

        `None` where that was not what it was asked for, or where others are in flight.
        """
        return self._chance

    def ask(self) -> int:
        """See `ListedStrategy.ask`; rows are not repeated until all have been asked."""
        with one_thread():
            row = self._choose()
        self._asked.append(row)
        return row

    def ask_for(self, row: int) -> None:
        """Notes that a row was asked by somebody else: it is in flight until told."""
        self._asked.append(row)

    def tell(self, row: int, answer: Answer) -> None:
        """See `ListedStrategy.tell`."""
        self._told[row] = answer
        standard: list[float] = []
        for at, metric in enumerate(self._prior.metrics):
            value = answer_value(at, self._problem, answer, metric.name)
            standard.append(math.nan if value is None else metric.standard(value))
            modelled = standard[at] - sum(
                loading * other for loading, other in zip(metric.loadings, standard, strict=False)
            )
            side = _side_of_rest(answer.sides, at, metric.loadings)
            if math.isfinite(modelled) and side is not None:
                noise = 0.0
                if answer.noise is not None and metric.logarithmic:
                    noise = (answer.noise / metric.scale) ** 2
                self._mixture.observe(metric.name, row, modelled, noise, side)

    def followed(self) -> dict[tuple[str, ...], float]:
        """By name of an earlier task, the probability that this one deviates as that one did."""
        weights, tasks = self._mixture.weights(), self._problem.earlier
        shares = [float(weights[self._prior.followed == at].sum()) for at in range(len(tasks))]
        return {task.name: share for task, share in zip(tasks, shares, strict=True)}

    def prospects(self) -> MetaProspects:
        """What more trials may bring."""
        with one_thread():
            return self._prospects()

    def _choose(self) -> int:
        self._chance = None
        open_rows = np.ones(len(self._problem.rows), bool)
        open_rows[self._asked] = False
        if not open_rows.any():
            open_rows[:] = True
        if not self._prior.transferred.any() and len(self._asked) < 3:
            return self._spread_out(open_rows)
        searching_alone = self._searching_alone()
        weights = self._weights(searching_alone)
        pending = [row for row in self._asked if row not in self._told]
        count = max(_JOINT - len(self._told), _LEAST_JOINT) if self._measured else _JOINT_UNMEASURED
        rows = self._promising(weights, count, pending, open_rows)
        gain = self._gains(weights, rows)
        asked = np.isin(rows, self._asked)
        if searching_alone and any(math.isfinite(self._problem.gain(answer)) for answer in self._told.values()):
            score = self._improvement(gain, gain[asked].max(axis=0))
        else:
            good = self._good(gain)
            score = (good & ~good[np.isin(rows, pending)].any(axis=0)).mean(axis=1)
        chosen = int(np.argmax(np.where(open_rows[rows], score + self._tie_break[rows], -1.0)))
        if not searching_alone and not pending:
            self._chance = float(score[chosen])
        return int(rows[chosen])

    def _promising(self, weights: FloatArray, count: int, needed: Sequence[int], open_rows: BoolArray) -> IntArray:
        """Those that are needed and `count` more: the best of what was told, else open ones likely to be good.

        That is: to hold the bounds, and to be better than the best of what is expected to, metric by metric and row
        by row, under the likeliest hypotheses.
        """
        total = len(self._problem.rows)
        if total <= count:
            return np.arange(total)
        chance = self._chances(weights)
        ranked = np.argsort(-chance, kind="stable")
        told = ranked[np.isin(ranked, list(self._told))]
        ordered = [*needed, *told[:_INCUMBENTS].tolist(), *ranked[open_rows[ranked]].tolist(), *ranked.tolist()]
        return np.sort(np.array(list(dict.fromkeys(ordered))[: count + len(needed)]))

    def _chances(self, weights: FloatArray) -> FloatArray:
        """See `_promising`, shape (n,)."""
        likeliest = np.argsort(-weights, kind="stable")[:_LIKELIEST].tolist()
        means, variances = self._outlook(0, likeliest)
        deviations, standard = np.sqrt(variances), [(means, variances)]
        signs, ran_deviations = self._mixture.moments(RAN, likeliest)
        holds = ndtr(signs / ran_deviations)
        for row, answer in self._told.items():
            holds[:, row] = answer.ran
        holds = np.repeat(holds, len(means) // len(likeliest), axis=0)
        for at, bound in enumerate(self._problem.bounds, start=1):
            metric = self._prior.metrics[at]
            limit = metric.standard(bound.limit)
            values, variances = self._outlook(at, likeliest)
            for loading, (other, further) in zip(metric.loadings, standard, strict=True):
                values, variances = values + loading * other, variances + loading**2 * further
            standard.append((values, variances))
            room = (limit - values) / np.sqrt(variances)
            holds *= ndtr(room if bound.at_most else -room)
        gains = -means if self._minimizes else means
        floors = np.where(holds >= 0.5, gains, -np.inf).max(axis=1, keepdims=True)
        chance = holds * ndtr((gains - floors) / deviations)
        return np.asarray(weights[likeliest] @ chance.reshape(len(likeliest), -1, chance.shape[1]).mean(axis=1))

    def _outlook(self, at: int, hypotheses: Sequence[int]) -> tuple[FloatArray, FloatArray]:
        """Means and variances of the metric at position `at`, shape (hypotheses x levels, n), levels running faster.

        Once something is measured there is one level, as known as it is; before, there are draws of it, the same for
        all rows, and what varies is the rest.
        """
        metric = self._prior.metrics[at]
        means, deviations = self._mixture.moments(metric.name, hypotheses)
        if self._measured:
            return means, deviations**2
        level = np.array([metric.gaussians[hypothesis].level for hypothesis in hypotheses])
        draws = np.random.default_rng(at).standard_normal(_LEVELS)
        shifted = means[:, None, :] + (np.sqrt(level)[:, None] * draws)[:, :, None]
        rest = np.maximum(deviations**2 - level[:, None], _SMALL)
        return shifted.reshape(-1, means.shape[1]), np.repeat(rest, _LEVELS, axis=0)

    @property
    def _measured(self) -> bool:
        """Whether any configuration ran, so that levels are known."""
        return any(answer.ran for answer in self._told.values())

    def _searching_alone(self) -> bool:
        """Whether it is the turn of the hypotheses that do not rest on the earlier tasks' surfaces."""
        turn = len(self._asked) - self._settings.interleave_after
        return turn >= 0 and turn % 2 == 0 and not bool(self._prior.transferred.all())

    def _weights(self, searching_alone: bool) -> FloatArray:
        weights = self._mixture.weights()
        if searching_alone:
            weights = np.where(self._prior.transferred, 0.0, weights)
            # Without underflow where the transferred hypotheses predict very much better.
            weights = weights + np.where(self._prior.transferred, 0.0, 1e-12 * self._prior.weights)
        return np.asarray(weights / weights.sum())

    def _gains(self, weights: FloatArray, rows: IntArray) -> SmallFloatArray:
        """Joint draws of the objective, more is better, minus infinity where it does not hold, shape (k, S).

        In natural logarithms where the objective is positive, else as it is.
        """
        counts = self._mixture.counts(weights)
        objective = self._prior.metrics[0]
        standard = [self._mixture.draws(OBJECTIVE, counts, rows)]
        gain = standard[0] * objective.scale + objective.centre
        if self._minimizes:
            gain = -gain
        holds = self._mixture.draws(RAN, counts, rows) > 0
        for metric, bound in zip(self._prior.metrics[1:], self._problem.bounds, strict=False):
            limit = metric.standard(bound.limit)
            values = self._mixture.draws(metric.name, counts, rows)
            for loading, other in zip(metric.loadings, standard, strict=True):
                values = values + loading * other
            standard.append(values)
            holds &= values <= limit if bound.at_most else values >= limit
        failed = [row for row, answer in self._told.items() if not answer.ran]
        gain[~holds] = -np.inf
        gain[np.isin(rows, failed)] = -np.inf
        return gain

    def _good(self, gain: SmallFloatArray) -> BoolArray:
        """Which rows hold and are within the tolerance of the best, draw by draw."""
        best = gain.max(axis=0)
        if self._prior.metrics[0].logarithmic:
            floor = best + math.log1p(-self._settings.tolerance)
        else:
            floor = best - self._settings.tolerance * np.abs(best)
        with np.errstate(invalid="ignore"):
            return np.asarray((gain >= floor) & np.isfinite(gain))

    def _spread_out(self, open_rows: BoolArray) -> int:
        """From scratch, the first rows are far from one another in the ranks of their values."""
        columns = list(zip(*self._problem.rows, strict=True))
        places = np.column_stack([_ranks(list(column)) for column in columns])
        choices = np.flatnonzero(open_rows)
        if not self._asked:
            middle = np.abs(places[choices] - 0.5).sum(axis=1)
            return int(choices[int(np.argmin(middle + self._tie_break[choices]))])
        gaps = np.abs(places[choices, None, :] - places[None, self._asked, :]).sum(axis=2).min(axis=1)
        allowed = np.flatnonzero(gaps >= np.quantile(gaps, 0.8))
        return int(choices[int(self._generator.choice(allowed))])

    def _prospects(self) -> MetaProspects:
        gains = {row: self._problem.gain(answer) for row, answer in self._told.items()}
        holding = {row: gain for row, gain in gains.items() if math.isfinite(gain)}
        if not holding:
            return MetaProspects(best=None, within=0.0, expected_gain=math.inf)
        best = max(holding, key=lambda row: holding[row])
        weights = self._mixture.weights()
        rows = self._promising(weights, _JOINT_PROSPECTS, [best], np.ones(len(self._problem.rows), bool))
        gain = self._gains(weights, rows)
        incumbent = int(np.flatnonzero(rows == best)[0])
        within = float(self._good(gain)[incumbent].mean())
        improvement = self._improvement(gain, gain[incumbent])
        improvement[np.isin(rows, list(self._told))] = 0.0
        largest = float(improvement.max())
        logarithmic = self._prior.metrics[0].logarithmic
        share = math.expm1(largest) if logarithmic else largest / max(abs(holding[best]), _SMALL)
        return MetaProspects(best=best, within=within, expected_gain=share)

    def _improvement(self, gain: SmallFloatArray, incumbents: SmallFloatArray) -> FloatArray:
        """Mean improvement of every row over the incumbent of each draw, shape (n,).

        What was measured was seen to hold: draws in which it does not say nothing of how much better others are.
        """
        sure = np.isfinite(incumbents)
        lead = gain[:, sure] - incumbents[sure]
        most = MOST_GAIN if self._prior.metrics[0].logarithmic else None
        return np.asarray(np.clip(lead, 0.0, most).sum(axis=1) / max(lead.shape[1], 1))


def _side_of_rest(sides: Sequence[int], at: int, loadings: Sequence[float]) -> int | None:
    """On which side of a metric less its shares of those before it the number lies; `None` where nothing is known.

    Args:
        sides: of each metric, empty where all are exact.
        at: position of the metric; one beyond `sides` is exact.
        loadings: its shares of the metrics before it.
    """
    if not any(sides):
        return 0
    parts = {sides[at] if at < len(sides) else 0}
    parts |= {-side if loading > 0 else side for side, loading in zip(sides[:at], loadings, strict=False) if loading}
    parts.discard(0)
    return (parts.pop() if parts else 0) if len(parts) < 2 else None


def _ranks(values: list[object]) -> FloatArray:
    """Places of values in [0, 1] by their order; words in order of appearance."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    distinct = sorted(set(values)) if numbers else list(dict.fromkeys(values))  # type: ignore[type-var]
    where = {value: at for at, value in enumerate(distinct)}
    return np.array([where[value] for value in values], dtype=float) / max(len(distinct) - 1, 1)
