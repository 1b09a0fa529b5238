"""Factors of covariances over listed configurations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import LinAlgError

from tuner.surrogates.listed_gaussian import cholesky_root


@given(st.integers(1, 12), st.integers(0, 12), st.floats(0.0, 3.0), st.integers(0, 2**20))
@settings(deadline=None)
def test_a_factor_is_that_of_the_nearest_covariance_however_indefinite(
    size: int, rank: int, below: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    half = generator.normal(size=(size, rank))
    vectors = np.linalg.qr(generator.normal(size=(size, size)))[0]
    covariance = half @ half.T - below * np.outer(vectors[:, 0], vectors[:, 0])
    root = cholesky_root(covariance)
    spectrum, vectors = np.linalg.eigh(covariance)
    nearest = (vectors * np.maximum(spectrum, 0.0)) @ vectors.T
    assert np.triu(root, 1) == pytest.approx(0.0)
    assert root @ root.T == pytest.approx(nearest, abs=2e-3)


def test_a_covariance_that_is_not_finite_is_refused() -> None:
    with pytest.raises(LinAlgError, match="not finite"):
        cholesky_root(np.array([[np.nan]]))
