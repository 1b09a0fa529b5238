"""Priors from earlier tasks: their outlines agree with their joint moments."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from tuner.parameter import Scale
from tuner.surrogates.hierarchical import HierarchicalModel
from tuner.surrogates.hierarchical_fit import TaskData, default_hyperparameters
from tuner.surrogates.hierarchical_kernel import GridEncoding
from tuner.surrogates.listed_gaussian import Gaussian

ROWS = [(a, b) for a in range(1, 13) for b in range(1, 13)]
ENCODING = GridEncoding.of([Scale.LINEAR, Scale.LOG], ROWS, [{}, {}])


def priors(grid: int) -> list[Gaussian]:
    """Every kind of prior on all rows, from two earlier tasks that measured the first `grid` of some order."""
    generator = np.random.default_rng(0)
    codes = ENCODING.codes(ROWS)
    known = codes[generator.permutation(len(codes))[:grid]]
    tasks = []
    for _ in range(2):
        index = np.sort(generator.permutation(grid)[: grid // 2])
        values = np.sin(known[index].sum(axis=1) / 4.0) + generator.normal()
        tasks.append(TaskData(index=index, values=values, repeats=np.ones(len(index))))
    model = HierarchicalModel(ENCODING, known, tasks, default_hyperparameters(ENCODING))
    return [model.own(codes), model.own(codes, spread=2.0), model.alone(codes), *model.following(codes, deviation=0.5)]


@pytest.mark.parametrize("grid", [40, 120])
def test_an_outline_has_the_means_of_the_joint_distribution_and_variances_that_are_no_smaller(grid: int) -> None:
    some = np.array([3, 77, 140])
    for prior in priors(grid):
        mean, covariance = prior.at(np.arange(len(ROWS)))
        outline = prior.outlined(some)
        assert outline.mean == pytest.approx(mean)
        assert (outline.variances >= np.diag(covariance) - 1e-6).all()
        assert outline.variances == pytest.approx(np.diag(covariance), abs=0.02)
        assert outline.columns == pytest.approx(covariance[:, some], abs=0.02)


def test_a_model_goes_with_its_last_prior() -> None:
    """It may hold gigabytes, of which Python's collector, which counts objects, knows nothing."""
    codes = ENCODING.codes(ROWS)
    tasks = [TaskData(index=np.arange(4), values=np.arange(4.0), repeats=np.ones(4))]
    gc.disable()
    try:
        model = HierarchicalModel(ENCODING, codes[:4], tasks, default_hyperparameters(ENCODING))
        prior = model.own(codes)
        prior.at(np.arange(3))
        gone = weakref.ref(model)
        del model, prior
        assert gone() is None
    finally:
        gc.enable()
