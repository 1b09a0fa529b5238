"""Random search without replacement: the baseline that any strategy has to beat."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tuner.strategies.candidates import Rows
from tuner.strategies.history import History
from tuner.strategies.sampler import CandidateSampler


class RandomSampler(CandidateSampler):
    """After the engine's default, every untried candidate is equally likely."""

    def choose(self, history: History, open_positions: npt.NDArray[np.bool_], number: int) -> Rows:
        """See `CandidateSampler.choose`."""
        generator = np.random.default_rng([self.seed, number])
        row: Rows = self.candidates.rows[generator.choice(np.flatnonzero(open_positions))]
        return row
