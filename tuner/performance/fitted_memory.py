"""The memory rule of a model whose activations nobody can compute beforehand, learned from its own trials.

One copy of a model needs c + s b bytes at batch size b, and copies add up:

    n (c + s b) <= M      ran
    n (c + s b) >  M      ran out of memory

Each trial halves the plane of (c, s) once. A configuration is refused only where it does not fit for any c and s that
agree with all trials (a linear program in two variables), so that what may fit is always tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.optimize import linprog

from tuner.performance.grid import Array


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTrial:
    """One configuration and whether it ran.

    Attributes:
        copies: of the model on the device.
        batch: largest batch size of each.
        memory_bytes: of the device.
        ran: whether it did; `False` only where it ran out of memory.
    """

    copies: int
    batch: int
    memory_bytes: float
    ran: bool


class FittedMemory:
    """What trials say of a model's memory.

    Runs are taken at their word. Failures that contradict them had other reasons, or other memory than stated: the
    fewest bytes of them are set aside.

    Args:
        trials: any number, of one model.
        least_bytes: known lower bound of c, such as the weights.
    """

    def __init__(self, trials: Sequence[MemoryTrial], least_bytes: float = 0.0) -> None:
        self._least_bytes = least_bytes
        ran = [_per_copy(trial) for trial in trials if trial.ran]
        failed = [_per_copy(trial) for trial in trials if not trial.ran]
        self._upper, self._lower = np.reshape(ran, (-1, 3)), np.reshape(failed, (-1, 3))
        self._lower = self._lower[self._agrees()]

    def refuses(self, copies: int, batch: int, memory_bytes: float) -> bool:
        """Whether a configuration certainly runs out of memory."""
        rows = np.concatenate([self._upper[:, :2], -self._lower[:, :2]])
        bounds = np.concatenate([self._upper[:, 2], -self._lower[:, 2]])
        found = self._solve(np.array([1.0, float(batch)]), rows, bounds)
        # a failure is strict: what needs as much as one that failed fails too; the rest is the solver's rounding
        return found is not None and found * copies > memory_bytes * (1.0 - 1e-9)

    def _agrees(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which failures some c and s explain beside all runs."""
        count = len(self._lower)
        if count == 0:
            return np.zeros(0, dtype=bool)
        slack = -np.eye(count)
        rows = np.block([[self._upper[:, :2], np.zeros((len(self._upper), count))], [-self._lower[:, :2], slack]])
        bounds = np.concatenate([self._upper[:, 2], -self._lower[:, 2]])
        cost = np.concatenate([[0.0, 0.0], np.ones(count)])
        found = linprog(
            cost, A_ub=rows, b_ub=bounds, bounds=[(self._least_bytes / _UNIT, None), *[(0, None)] * (count + 1)]
        )
        return np.asarray(found.x[2:] <= 1e-6) if found.success else np.zeros(count, dtype=bool)

    def _solve(self, cost: Array, rows: Array, bounds: Array) -> float | None:
        """Least cost in bytes, `None` where runs contradict `least_bytes`."""
        found = linprog(cost, A_ub=rows, b_ub=bounds, bounds=[(self._least_bytes / _UNIT, None), (0, None)])
        return float(found.fun) * _UNIT if found.success else None


_UNIT: Final = 1e9


def _per_copy(trial: MemoryTrial) -> tuple[float, float, float]:
    return 1.0, float(trial.batch), trial.memory_bytes / trial.copies / _UNIT
