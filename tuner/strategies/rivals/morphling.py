"""Morphling (Wang et al., SoCC 2021): a regression network meta-learned over the earlier models.

As the paper describes it: a network with two hidden layers of 128 units maps a configuration to its (normalised)
performance; its initial weights are meta-learned over the earlier tasks by MAML (Finn et al. 2017; first order, Nichol
et al. 2018, as the authors note suffices); for a new model it starts at corners of the space, fine-tunes with
every sample, and asks next where a trial is predicted to be good or where the last fine-tuning changed the
prediction most. Neither the code nor the data of that part was published; what the paper leaves open (learning rates,
the weight of change against prediction) is set here and marked.

Configurations that do not hold count as performance zero, as its objective does.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from tuner.strategies.listed_problem import Answer, EarlierTask, FloatArray, ListedProblem
from tuner.strategies.rivals.features import features
from tuner.strategies.rivals.told_trials import ToldTrials
from tuner.surrogates.one_thread import one_thread

_HIDDEN = 128
_META_STEPS = 300  # not stated; the outer loss is flat from here on
_SHOTS = 16
_INNER_STEPS = 5
_INNER_RATE = 0.01
_OUTER_RATE = 1e-3
_TUNING_STEPS = 30
_CORNERS = 2
_CHANGE_WEIGHT = 0.5  # not stated


class Morphling:
    """Fine-tunes a meta-learned network and asks by prediction and change of prediction."""

    def __init__(self, problem: ListedProblem, seed: int = 0) -> None:
        self._problem = problem
        self._points = torch.from_numpy(features(problem)).float()
        self._trials = ToldTrials(problem)
        self._generator = np.random.default_rng(seed)
        with one_thread():
            self._network = self._meta_learned(seed)
            self._before: FloatArray = self._predict(self._network)
        self._after = self._before

    def ask(self) -> int:
        """See `ListedStrategy.ask`."""
        open_rows = self._trials.open_rows
        if len(self._trials.asked) < _CORNERS:
            # Corners: the largest and the smallest resources first.
            corner = 1.0 - len(self._trials.asked) % 2
            gaps = ((self._points - corner) ** 2).sum(dim=1).numpy()
            return self._trials.ask(int(np.argmin(np.where(open_rows, gaps, np.inf))))
        score = self._after + _CHANGE_WEIGHT * np.abs(self._after - self._before)
        return self._trials.ask(int(np.argmax(np.where(open_rows, score, -np.inf))))

    def tell(self, row: int, answer: Answer) -> None:
        """See `ListedStrategy.tell`."""
        self._trials.tell(row, answer)
        self._before = self._after
        with one_thread():
            self._after = self._predict(self._fine_tuned())

    def _fine_tuned(self) -> nn.Sequential:
        gains = np.array([self._problem.gain(answer) for answer in self._trials.answers])
        network = _copy(self._network)
        inputs = self._points[self._trials.rows]
        targets = torch.from_numpy(_normalised(gains)).float()
        optimiser = torch.optim.Adam(network.parameters(), lr=_INNER_RATE / 3.0)
        for _ in range(_TUNING_STEPS):
            optimiser.zero_grad()
            loss = ((network(inputs)[:, 0] - targets) ** 2).mean()
            loss.backward()
            optimiser.step()
        return network

    def _meta_learned(self, seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        network = nn.Sequential(
            nn.Linear(self._points.shape[1], _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, 1),
        )
        tables = [table for table in map(self._table, self._problem.earlier) if table is not None]
        if not tables:
            return network
        outer = torch.optim.Adam(network.parameters(), lr=_OUTER_RATE)
        for _ in range(_META_STEPS):
            points, values = tables[int(self._generator.integers(len(tables)))]
            order = self._generator.permutation(len(values))
            support, query = order[:_SHOTS], order[_SHOTS : 3 * _SHOTS]
            if not len(query):
                query = support
            adapted = _copy(network)
            inner = torch.optim.SGD(adapted.parameters(), lr=_INNER_RATE)
            for _ in range(_INNER_STEPS):
                inner.zero_grad()
                ((adapted(points[support])[:, 0] - values[support]) ** 2).mean().backward()
                inner.step()
            adapted.zero_grad()
            ((adapted(points[query])[:, 0] - values[query]) ** 2).mean().backward()
            # First-order MAML: the gradient at the adapted weights moves the initial ones.
            for initial, moved in zip(network.parameters(), adapted.parameters(), strict=True):
                initial.grad = None if moved.grad is None else moved.grad.clone()
            outer.step()
        return network

    def _table(self, task: EarlierTask) -> tuple[torch.Tensor, torch.Tensor] | None:
        """An earlier task's rows that the target has too, with their normalised performance."""
        position = {row: at for at, row in enumerate(self._problem.rows)}
        kept = [at for at, row in enumerate(task.rows) if row in position]
        gains = task.gains(self._problem.direction, self._problem.bounds)
        if not kept or not np.isfinite(gains).any():
            return None
        values = torch.from_numpy(_normalised(gains)[kept]).float()
        return self._points[[position[task.rows[at]] for at in kept]], values

    def _predict(self, network: nn.Sequential) -> FloatArray:
        with torch.no_grad():
            return np.asarray(network(self._points)[:, 0].double().numpy())


def _normalised(gains: FloatArray) -> FloatArray:
    """Performance as a share of the best that holds, 0 where it does not hold; less is better becomes its inverse."""
    holding = np.isfinite(gains)
    if not holding.any():
        return np.zeros(len(gains))
    best = gains[holding].max()
    if best > 0:
        return np.asarray(np.where(holding, gains / best, 0.0))
    share = np.divide(best, gains, out=np.ones(len(gains)), where=holding & (gains != best))
    return np.asarray(np.where(holding, share, 0.0))


def _copy(network: nn.Sequential) -> nn.Sequential:
    layers = [
        nn.Linear(layer.in_features, layer.out_features) if isinstance(layer, nn.Linear) else nn.ReLU()
        for layer in network
    ]
    copied = nn.Sequential(*layers)
    copied.load_state_dict(network.state_dict())
    return copied
