"""The strategy: constrained log expected improvement over all valid configurations.

1. The engine's default, then a few configurations spread over the space.
2. One Gaussian process per metric, on logarithms; failures have models of their own (`beliefs`).
3. Every candidate is scored under the most probable hyperparameters by

       log EI of the objective + sum of log P(SLO holds) + log P(the server runs)

   (Ament et al. 2023), unless an upper bound keeps it from being among the best, and the best of them again,
   averaged over draws of the hyperparameters. While nothing is known to hold the SLOs, the expected improvement
   is left out. Two objectives: expected growth of the dominated area instead.
4. Above `SCAN_LIMIT` candidates a random part is scored, and the best of it improved step by step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from optuna.study import Study

from tuner.metric import MetricRef
from tuner.objective import Objective
from tuner.parameter import Config
from tuner.slo import Slo
from tuner.strategies.beliefs import Beliefs, Outlook, PriorMean, grid_of, points_of
from tuner.strategies.candidates import Candidates, Positions, Rows, config_of, encode, levels
from tuner.strategies.history import History
from tuner.strategies.prospects import MOST_GAIN, Prospects
from tuner.strategies.sampler import CandidateSampler
from tuner.surrogates.acquisition import (
    log_expected_hypervolume_improvement,
    log_expected_improvement,
    log_mean_over_hypotheses,
    pareto_front,
)
from tuner.surrogates.kernel import Points
from tuner.surrogates.one_thread import one_thread
from tuner.surrogates.rehearsal import rehearse

SCAN_LIMIT: Final = 200_000
"""Candidates that are all scored; of more, a random part of this size is."""

STARTUP: Final = 3
"""As in CherryPick: the averaging over hyperparameters makes the model worth asking early."""

_SHORTLIST: Final = 1024
"""Candidates scored again under every hypothesis about the hyperparameters."""
_FINALISTS: Final = 32
"""Of these, those scored in double precision."""
_PROMISING: Final = 2 * _SHORTLIST
"""Candidates of the highest possible scores, whose scores say which others may still be among the best."""
_ROUNDING: Final = 0.01
"""What rounding to single precision may do to a score."""
_HYPOTHESES: Final = 8
_CLIMBERS: Final = 24
"""Rows whose neighbours are looked at in each round of local search."""
_ROUNDS: Final = 8
_SURE: Final = 0.9
"""Probability of holding the SLOs that a recommended configuration must have."""
_LIKELY: Final = 0.5
"""Probability of holding the SLOs above which a measured configuration is an incumbent to improve on."""
_LEAST_SPREAD: Final = 0.5
"""Of the logarithms of an objective that has hardly varied yet."""
_CONTENDERS: Final = 384
_PATIENCE: Final = 2
"""Trials led by predictions that may bring nothing before the search goes on without them."""
_UPHILL: Final = 0.02
"""Logarithmic improvement that counts as one."""
_DRAWS: Final = 128
_WIDER: Final = 2.0
"""Factor on the spread of draws that say what is left to find: a process fitted to so few trials, most of them where it
hoped for more, is too sure of itself (docs/measurements.md, Stopping)."""


class BayesianSampler(CandidateSampler):
    """Constrained Bayesian optimisation over a list of candidates; an Optuna sampler.

    Args:
        candidates: what may be asked.
        objectives: one or two.
        slos: all must hold.
        seed: of every random choice.
        startup: configurations to try before the model decides, the default included.
        prior_means: what is expected of a metric before anything is measured, as natural logarithms.
    """

    def __init__(
        self,
        candidates: Candidates,
        objectives: Sequence[Objective],
        slos: Sequence[Slo] = (),
        seed: int = 0,
        startup: int = STARTUP,
        prior_means: Mapping[MetricRef, PriorMean] | None = None,
    ) -> None:
        super().__init__(candidates, objectives, slos, seed)
        self.startup = startup
        self._prior_means = prior_means
        self._design = candidates.space_filling(self.startup, seed)

    @staticmethod
    def prepare() -> None:
        """Has what it computes with compiled, which takes tens of seconds once, before it is asked for anything."""
        rehearse()

    def choose(self, history: History, open_positions: npt.NDArray[np.bool_], number: int) -> Rows:
        """See `CandidateSampler.choose`."""
        asked = len({row.tobytes() for row in history.tried_rows})
        if asked < self.startup or (self.guidance.means is not None and not self._led(history)):
            for position in self._design:
                if open_positions[position]:
                    row: Rows = self.candidates.rows[position]
                    return row
        with one_thread():
            beliefs = self.beliefs(history, _HYPOTHESES, number)
            measured = self._measured(beliefs, history)
            shortlist = self._shortlist(beliefs, measured, history, open_positions, number)
            scores = self._scores(beliefs, measured, history, shortlist, np.float32)
            shortlist = shortlist[torch.topk(scores, min(_FINALISTS, len(shortlist))).indices.numpy()]
            scores = self._scores(beliefs, measured, history, shortlist)
        chosen: Rows = shortlist[int(torch.argmax(scores))]
        return chosen

    def beliefs(self, history: History, hypotheses: int = 0, number: int = 0) -> Beliefs:
        """Models of every metric and of failures, pending trials taken as they are expected to turn out."""
        means = self.guidance.means if self._led(history) else None
        formed = Beliefs.form(
            history,
            self.candidates.space,
            self.objectives,
            self.slos,
            hypotheses=hypotheses,
            seed=self.seed + 1000 * number,
            prior_means=self._prior_means if means is None else means.trusted(history),
        )
        pending = history.pending_rows
        return formed.believing(np.unique(pending, axis=0)) if len(pending) else formed

    def _led(self, history: History) -> bool:
        """Whether predictions lead the search: until trials speak against them, or some in a row bring nothing better.

        A surrogate that stands on a wrong prediction may keep to where that is good, and find nothing to contradict it.
        What is left of the design is then tried first, as if the search began.
        """
        if self.guidance.means is None or not self.guidance.means.rank(history):
            return False
        objective = self.objectives[0]
        gains = dict.fromkeys(history.failed_numbers, -math.inf)
        for number, values in zip(history.numbers, history.values, strict=True):
            holds = all(slo.excess(float(values[history.column(slo.metric)])) <= 0 for slo in self.slos)
            value = float(values[history.column(objective.metric)])
            gains[number] = math.log(objective.ratio(max(value, 1e-300), 1.0)) if holds else -math.inf
        best = np.maximum.accumulate([gains[number] for number in sorted(gains)]) if gains else np.zeros(0)
        first = self.startup + _PATIENCE - 1
        return all(best[at] > best[at - _PATIENCE] + _UPHILL for at in range(first, len(best)))

    def best(self, study: Study) -> Config | None:
        """The measured configuration to recommend: never the luckiest run, but the best posterior mean.

        Only configurations whose SLOs hold with probability 0.9 or more are considered; `None` where there is none.
        """
        history = self.history(study)
        with one_thread():
            found = self._best_row(self.beliefs(history, _HYPOTHESES), history)
        return None if found is None else config_of(self.candidates.space, found)

    def prospects(self, study: Study, tolerance: float = 0.05) -> Prospects | None:
        """What more trials may bring; `None` with two objectives, or while nothing surely holds the SLOs."""
        history = self.history(study)
        if len(self.objectives) != 1 or not len(history.rows):
            return None
        with one_thread():
            beliefs = self.beliefs(history, _HYPOTHESES)
            best = self._best_row(beliefs, history)
            if best is None:
                return None
            gain, within = self._gain_and_within(beliefs, history, best, tolerance)
        return Prospects(
            best=config_of(self.candidates.space, best), expected_gain=gain, within=within, tolerance=tolerance
        )

    def _gain_and_within(self, beliefs: Beliefs, history: History, best: Rows, tolerance: float) -> tuple[float, float]:
        """Expected gain of the most promising contender, and share of draws in which none beats `best` by more."""
        open_positions = self._open(history)
        if not open_positions.any():
            return 0.0, 1.0
        measured = self._measured(beliefs, history)
        rows = self._shortlist(beliefs, measured, history, open_positions, 0)
        top = torch.argsort(self._scores(beliefs, measured, history, rows), descending=True)[:_CONTENDERS].numpy()
        lead = self._leads(beliefs, best, rows[top])
        gain = torch.expm1(lead.clamp(0.0, MOST_GAIN).mean(dim=(0, 2)).max())
        within = (lead.max(dim=1).values <= -math.log1p(-tolerance)).to(torch.float64).mean()
        return float(gain), float(within)

    def _shortlist(
        self,
        beliefs: Beliefs,
        measured: Outlook,
        history: History,
        open_positions: npt.NDArray[np.bool_],
        number: int,
    ) -> Rows:
        """Untried rows that score best under the most probable hyperparameters."""
        positions = np.flatnonzero(open_positions)
        sampled = len(positions) > SCAN_LIMIT
        if sampled:
            generator = np.random.default_rng([self.seed, number, 2])
            positions = np.sort(generator.choice(positions, size=SCAN_LIMIT, replace=False))
        if len(positions) <= _SHORTLIST and not sampled and self.candidates.complete:
            return self.candidates.rows[positions]
        simple, simply = beliefs.most_probable, measured.most_probable
        rows, scores = self._top(simple, simply, history, positions)
        if sampled or not self.candidates.complete:
            rows = self._climb(simple, simply, history, rows, scores)
        # Rows that follow one another then have most of their levels in common, which is quicker.
        return rows[np.lexsort(rows.T[::-1])]

    def _top(
        self, beliefs: Beliefs, measured: Outlook, history: History, positions: Positions
    ) -> tuple[Rows, torch.Tensor]:
        """The best of some candidates, best first, and their scores.

        Most are ruled out by an upper bound on their score, at a fraction of the cost of the score itself: the
        expected improvement over one incumbent rises with the standard deviation.
        """
        rows = self.candidates.rows
        if len(history.rows) and len(self.objectives) == 1 and len(positions) > _PROMISING:
            ceilings = self._ceilings(beliefs, measured, positions)
            promising = torch.topk(ceilings, _PROMISING).indices.sort().values
            scores = self._scores(beliefs, measured, history, rows[positions[promising.numpy()]], np.float32)
            ceilings[promising] = -math.inf
            least = torch.topk(scores, _SHORTLIST).values[-1] - _ROUNDING
            others = positions[(ceilings > least).numpy()]
            # Whether a server runs only lowers a score: it is asked of those alone that would be good enough.
            surely_runs = replace(beliefs, failures=())
            hopes = self._scores(surely_runs, measured, history, rows[others], np.float32)
            good = hopes > least
            others = others[good.numpy()]
            scores = torch.cat([scores, hopes[good] + beliefs.log_runs(self._points(others))])
            positions = np.concatenate([positions[promising.numpy()], others])
        else:
            scores = self._scores(beliefs, measured, history, rows[positions], np.float32)
        best = torch.topk(scores, min(_SHORTLIST, len(positions)))
        return rows[positions[best.indices.numpy()]], best.values

    def _ceilings(self, beliefs: Beliefs, measured: Outlook, positions: Positions) -> torch.Tensor:
        """Upper bounds on the scores of some candidates, shape (n,)."""
        all_of_them = len(self.candidates) <= SCAN_LIMIT
        hopes = beliefs.hopeful_outlook(self._everywhere if all_of_them else self._points(positions))
        found = (hopes.log_holds + self._log_improvement(measured, hopes))[0]
        return found[positions] if all_of_them else found

    @functools.cached_property
    def _everywhere(self) -> Points:
        """All candidates."""
        return self._points(np.arange(len(self.candidates)))

    def _points(self, positions: Positions) -> Points:
        space = self.candidates.space
        return points_of(space, grid_of(space), self.candidates.rows[positions], np.float32)

    def _climb(self, beliefs: Beliefs, measured: Outlook, history: History, rows: Rows, scores: torch.Tensor) -> Rows:
        """`rows`, best first, and what steps uphill from the best of them, and from the best measured, lead to."""
        known = {row.tobytes() for row in np.concatenate([rows, history.tried_rows])}
        front = np.concatenate([rows[:_CLIMBERS], history.rows])
        best = float(scores.max())
        for _ in range(_ROUNDS):
            near = self.candidates.neighbours(front)
            fresh = np.array([row for row in near if row.tobytes() not in known], dtype=np.int16)
            if not len(fresh):
                break
            known |= {row.tobytes() for row in fresh}
            found = self._scores(beliefs, measured, history, fresh, np.float32)
            order = torch.argsort(found, descending=True)[:_CLIMBERS].numpy()
            rows = np.concatenate([rows, fresh])
            if float(found.max()) <= best:
                break
            best, front = float(found.max()), fresh[order]
        return rows

    def _scores(
        self, beliefs: Beliefs, measured: Outlook, history: History, rows: Rows, dtype: npt.DTypeLike = np.float64
    ) -> torch.Tensor:
        """The acquisition function, averaged over hypotheses, shape (n,)."""
        outlook = beliefs.outlook(rows, dtype)
        if not len(history.rows):
            return outlook.log_runs + 1e-3 * self._distance(history, rows)
        improvement = self._log_improvement(measured, outlook)
        return log_mean_over_hypotheses(outlook.log_holds + improvement) + outlook.log_runs

    def _measured(self, beliefs: Beliefs, history: History) -> Outlook:
        """What is believed of the configurations to improve on."""
        return beliefs.outlook(np.unique(np.concatenate([history.rows[history.whole], history.pending_rows]), axis=0))

    def _log_improvement(self, measured: Outlook, outlook: Outlook) -> torch.Tensor:
        """Log expected improvement, shape (h, N); zero while no measured configuration holds the SLOs."""
        holding = measured.holds >= _LIKELY
        if not holding.any():
            return torch.zeros_like(outlook.log_holds)
        if len(self.objectives) == 1:
            incumbents = measured.means[0][:, holding].max(dim=1, keepdim=True).values
            return log_expected_improvement(outlook.means[0], outlook.stds[0], incumbents)
        rows = []
        for h in range(len(outlook.log_holds)):
            points = torch.stack([mean[h] for mean in measured.means], dim=1)
            # The reference lies as far below all that has been seen as that is spread out: a close one
            # would make a gain in the objective that is worst there hardly count.
            worst, spread = points.min(dim=0).values, points.max(dim=0).values - points.min(dim=0).values
            rows.append(
                log_expected_hypervolume_improvement(
                    (outlook.means[0][h], outlook.means[1][h]),
                    (outlook.stds[0][h], outlook.stds[1][h]),
                    pareto_front(points[holding]),
                    worst - spread.clamp(min=_LEAST_SPREAD),
                )
            )
        return torch.stack(rows)

    def _distance(self, history: History, rows: Rows) -> torch.Tensor:
        """Distance to the nearest configuration tried: while nothing has run, look elsewhere."""
        space = self.candidates.space
        points, tried = encode(space, rows), encode(space, history.tried_rows)
        nearest = np.full(len(points), np.inf)
        for point in tried:
            np.minimum(nearest, np.abs(points - point).sum(axis=1), out=nearest)
        return torch.from_numpy(nearest)

    def _best_row(self, beliefs: Beliefs, history: History) -> Rows | None:
        if not history.whole.any() or len(self.objectives) != 1:
            return None
        known = np.unique(history.rows[history.whole], axis=0)
        outlook = beliefs.outlook(known)
        means = torch.where(outlook.holds >= _SURE, outlook.means[0].mean(dim=0), -math.inf)
        best = int(torch.argmax(means))
        return None if math.isinf(float(means[best])) else known[best]

    def _leads(self, beliefs: Beliefs, best: Rows, rivals: Rows) -> torch.Tensor:
        """Joint draws of how far rivals lead before `best`, in logarithms, shape (h, rivals, draws).

        Minus infinity where a rival does not run or hold the SLOs.
        """
        rows = np.concatenate([best[None], rivals])
        filled = levels(self.candidates.space, rows)
        generator = torch.Generator().manual_seed(self.seed)
        draws: dict[MetricRef, torch.Tensor] = {}
        for metric, process in beliefs.processes.items():
            mean, covariance = process.joint_posterior(filled)
            normal = torch.randn(len(mean), len(rows), _DRAWS, generator=generator, dtype=torch.float64)
            draws[metric] = mean[..., None] + _WIDER * (_root(covariance) @ normal)
        (objective, sign), *_ = beliefs.signs
        gains = sign * draws[objective]
        runs = torch.exp(beliefs.outlook(rows).log_runs)[None, :, None]
        valid = torch.rand(gains.shape, generator=generator, dtype=torch.float64) < runs
        for metric, bound, direction in beliefs.bounds:
            valid &= direction * draws[metric] <= direction * bound
        return torch.where(valid[:, 1:], gains[:, 1:] - gains[:, :1], -math.inf)


def _root(covariance: torch.Tensor) -> torch.Tensor:
    """Cholesky factors of covariances, shape (h, n, n), that rounding may have left slightly indefinite."""
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype)
    jitter = 1e-8
    while True:
        factor: torch.Tensor
        factor, failed = torch.linalg.cholesky_ex(covariance + jitter * identity)
        if not failed.any() or jitter > 1.0:
            return factor
        jitter *= 100.0
