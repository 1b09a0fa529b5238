"""A tiny problem, so that compiled code is there when it is needed."""

from __future__ import annotations

import numpy as np

from tuner.surrogates.acquisition import log_expected_improvement, log_probability_below
from tuner.surrogates.feasibility import FailureModel
from tuner.surrogates.gaussian_process import GaussianProcess
from tuner.surrogates.kernel import Axis, Grid, Points
from tuner.surrogates.one_thread import one_thread


def rehearse() -> None:
    """Has the surrogates' inner loops compiled, which takes tens of seconds once, or loaded from disk."""
    grid = Grid([Axis(3, np.linspace(0.0, 1.0, 3)), Axis(2)])
    levels = np.array([[a, b] for a in range(3) for b in range(2)], dtype=np.int16)
    with one_thread():
        process = GaussianProcess.fit(grid, levels, np.arange(6.0), hypotheses=1)
        failures = FailureModel.fit(grid, levels, np.arange(6) == 5, trend=True)
        for dtype in (np.float64, np.float32):
            points = Points(grid, levels, dtype)
            mean, variance = process.posterior(points)
            log_expected_improvement(mean, variance.sqrt(), 0.0)
            log_probability_below(mean, variance.sqrt(), 0.0)
            failures.log_success(points)
        process.joint_posterior(levels)
