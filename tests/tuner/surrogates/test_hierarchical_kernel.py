"""The covariance of listed configurations."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.parameter import Scale
from tuner.surrogates.hierarchical_fit import TaskData, default_hyperparameters, fit_hyperparameters
from tuner.surrogates.hierarchical_kernel import GridEncoding, View
from tuner.surrogates.listed_covariance import ListedCovariance

SIZES = {"large": 1.0, "xlarge": 2.0, "2xlarge": 4.0}
ROWS = [(size, count) for size in SIZES for count in (4, 8, 16, 32)]


@given(
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from(list(Scale))), min_size=1, max_size=4),
    st.integers(2, 9),
    st.integers(0, 2**20),
    st.sampled_from(View),
)
@settings(deadline=None)
def test_covariances_are_symmetric_and_positive_semidefinite(
    parameters: list[tuple[int, Scale]], count: int, seed: int, view: View
) -> None:
    generator = np.random.default_rng(seed)
    rows = [tuple(int(generator.integers(1, values + 1)) for values, _ in parameters) for _ in range(count)]
    encoding = GridEncoding.of([scale for _, scale in parameters], rows, [{}] * len(parameters), view=view)
    codes = encoding.codes(rows)
    default = default_hyperparameters(encoding)
    theta = default.shared + 0.3 * generator.normal(size=len(default.shared))
    found = ListedCovariance(theta, default.embedding, encoding).between(codes, codes)
    np.testing.assert_allclose(found, found.T)
    assert np.linalg.eigvalsh(found).min() > -1e-9 * np.trace(found)


@given(st.integers(3, 6), st.integers(3, 6), st.sampled_from(View), st.sampled_from([Scale.LOG, Scale.LINEAR]))
@settings(deadline=None)
def test_trends_are_all_surfaces_of_second_order_in_the_octaves_of_numbers(
    batches: int, replicas: int, view: View, scale: Scale
) -> None:
    rows = [(kind, 2**i, 3**j) for kind in ("a", "b") for i in range(batches) for j in range(replicas)]
    encoding = GridEncoding.of([Scale.CATEGORICAL, scale, scale], rows, [{}] * 3, view=view)
    codes = encoding.codes(rows)
    default = default_hyperparameters(encoding)
    theta = np.full(len(default.shared), -30.0)
    encoding.layout.parts(theta).slopes[:] = 0.0
    found = ListedCovariance(theta, default.embedding, encoding).between(codes, codes)
    x, y = np.log(np.array([row[1:] for row in rows], dtype=float)).T
    terms = np.column_stack([np.ones(len(rows)), x, y, x * x, x * y, y * y])
    beyond = found - terms @ np.linalg.lstsq(terms, found, rcond=None)[0]
    assert np.abs(beyond).max() < 1e-9 * np.abs(found).max()
    assert np.linalg.matrix_rank(found, tol=1e-9 * np.trace(found)) == 5


def test_configurations_with_the_same_total_are_learned_to_be_alike() -> None:
    """Cost falls where count times size passes a threshold of each task's own: 8 large are as 4 xlarge."""
    encoding = GridEncoding.of([Scale.CATEGORICAL, Scale.LOG], ROWS, [{}, {}])
    codes = encoding.codes(ROWS)
    totals = np.log2([SIZES[size] * count for size, count in ROWS])
    tasks = [
        TaskData(index=np.arange(len(ROWS)), values=np.tanh(2.0 * (totals - at)), repeats=np.ones(len(ROWS)))
        for at in (2.5, 3.5, 4.5, 5.5)
    ]
    fitted = fit_hyperparameters(encoding, codes, tasks)
    found = ListedCovariance(fitted.own, fitted.embedding, encoding).between(codes, codes)
    correlations = found / np.sqrt(np.outer(np.diag(found), np.diag(found)))
    at = {row: place for place, row in enumerate(ROWS)}
    same_total = correlations[at["large", 32], at["2xlarge", 8]]
    same_count = correlations[at["large", 8], at["2xlarge", 8]]
    assert same_total > same_count
    assert same_total > 0.8


def test_words_that_behave_alike_are_tied_and_opposites_are_not() -> None:
    """What of one kind is known says much of another that moved with it, and little of one that moved against it."""
    rows = [(kind, count) for kind in ("a", "b", "c") for count in (1, 2, 4, 8)]
    encoding = GridEncoding.of([Scale.CATEGORICAL, Scale.LOG], rows, [{}, {}], view=View.TIED)
    codes = encoding.codes(rows)
    generator = np.random.default_rng(0)
    tasks = []
    for _ in range(12):
        lean = generator.normal()
        values = np.array([{"a": lean, "b": lean, "c": -lean}[kind] + 0.1 * np.log2(count) for kind, count in rows])
        tasks.append(TaskData(index=np.arange(len(rows)), values=values, repeats=np.ones(len(rows))))
    fitted = fit_hyperparameters(encoding, codes, tasks)
    found = ListedCovariance(fitted.own, fitted.embedding, encoding).between(codes, codes)
    at = {row: place for place, row in enumerate(rows)}
    assert found[at["a", 2], at["b", 2]] > found[at["a", 2], at["c", 2]] + 0.3 * found[0, 0]
