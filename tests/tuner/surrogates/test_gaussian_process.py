from __future__ import annotations

import math

import gpytorch
import numpy as np
import pytest
import torch
from botorch.models import SingleTaskGP
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tuner.surrogates.grids import grids, points
from tuner.surrogates.gaussian_process import GaussianProcess
from tuner.surrogates.hyperparameters import MarginalLikelihood, Priors, additive_scales, product_scales
from tuner.surrogates.kernel import Axis, Covariance, Grid, Points
from tuner.surrogates.pairs import JITTER, Pairs

seeds = st.integers(0, 2**20)


def wavy(levels: np.ndarray) -> np.ndarray:
    return np.sin(levels @ (1.0 + np.arange(levels.shape[1])))


def covariance(grid: Grid, levels: np.ndarray, theta: np.ndarray) -> Covariance:
    scales = (product_scales(theta[None]), additive_scales(theta[None]))
    return Covariance.of(grid, levels, scales, (np.exp(theta[None, -3]), np.exp(theta[None, -2])))


@given(grids(), st.integers(1, 12), seeds, st.sampled_from([(1.0, 0.0), (0.0, 1.0)]))
def test_kernels_are_positive_semidefinite_with_unit_diagonal(
    grid: Grid, count: int, seed: int, deviations: tuple[float, float]
) -> None:
    levels = points(grid, count, seed)
    scales = np.exp(np.random.default_rng(seed).normal(size=(1, grid.dimensions)))
    found = Covariance.of(grid, levels, (scales, scales), (np.array(deviations[:1]), np.array(deviations[1:])))
    matrix = found.at(Points(grid, levels))[0]
    assert np.allclose(np.diag(matrix), 1)
    assert np.linalg.eigvalsh(matrix).min() > -1e-9


@given(grids(), st.integers(1, 8), seeds)
def test_pairs_and_points_agree_on_the_covariance(grid: Grid, count: int, seed: int) -> None:
    levels, noise = points(grid, count, seed), np.full(count, 0.5)
    theta = np.random.default_rng(seed).normal(size=grid.dimensions + 3)
    expected = Pairs(grid, levels, noise, 4.0).covariances(theta[None])[0]
    for dtype, tolerance in ((np.float64, 1e-9), (np.float32, 1e-4)):
        found = covariance(grid, levels, theta).at(Points(grid, levels, dtype))[0] + 4.0
        found = found + (0.5 + math.exp(2 * theta[-1]) + JITTER) * np.eye(count)
        assert found == pytest.approx(expected, rel=tolerance, abs=tolerance)


@given(grids(), st.integers(1, 8), seeds)
def test_projections_are_products_with_the_covariances(grid: Grid, count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    theta = generator.normal(size=grid.dimensions + 3)
    found, asked = covariance(grid, points(grid, count, seed), theta), Points(grid, points(grid, 9, seed + 1))
    weights, whitener, shift = generator.normal(size=count), generator.normal(size=(count, count)), 0.3
    projections, squares = found.projected(asked, weights[None], whitener[None], np.full((1, count), shift))
    cross = found.at(asked)[0]
    assert projections[0] == pytest.approx(cross @ weights)
    assert squares[0] == pytest.approx(((cross @ whitener + shift) ** 2).sum(axis=1))


@given(grids(), st.integers(1, 8), seeds)
def test_scalar_products_are_those_of_the_coordinates(grid: Grid, count: int, seed: int) -> None:
    levels = points(grid, count, seed)
    columns = []
    for axis, x in zip(grid.axes, levels.T, strict=True):
        columns.append(0.5 * np.eye(axis.size)[x] if axis.coordinates is None else axis.coordinates[x, None] - 0.5)
    coordinates = np.concatenate(columns, axis=1)
    asked, linear = Points(grid, levels), grid.linear_tables(levels)[None]
    assert Covariance(products=np.zeros_like(linear), sums=linear).at(asked)[0] == pytest.approx(
        coordinates @ coordinates.T, abs=1e-12
    )
    assert asked.sums(grid.squared_norm_table()) == pytest.approx((coordinates**2).sum(axis=1), abs=1e-12)


@settings(max_examples=20)
@given(grids(), st.integers(1, 8), seeds)
def test_the_gradient_of_the_marginal_likelihood_is_its_slope(grid: Grid, count: int, seed: int) -> None:
    levels = points(grid, count, seed)
    values = wavy(levels)
    likelihood = MarginalLikelihood(grid, levels, values - values.mean(), np.full(count, 0.01), Priors())
    theta = likelihood.center + 0.3 * np.random.default_rng(seed).normal(size=len(likelihood.center))
    _, gradient = likelihood.negative(theta)
    for number, slope in enumerate(gradient):
        step = np.zeros(len(theta))
        step[number] = 1e-5
        difference = likelihood.negative(theta + step)[0] - likelihood.negative(theta - step)[0]
        assert slope == pytest.approx(difference / 2e-5, rel=1e-4, abs=1e-5)


@settings(max_examples=20)
@given(grids(), st.integers(1, 6), seeds)
def test_the_information_is_half_the_traces_of_slopes_of_the_covariance(grid: Grid, count: int, seed: int) -> None:
    pairs = Pairs(grid, points(grid, count, seed), np.full(count, 0.1), 1.0)
    theta = 0.3 * np.random.default_rng(seed).normal(size=grid.dimensions + 3)
    steps = 1e-6 * np.eye(len(theta))
    slopes = (pairs.covariances(theta + steps) - pairs.covariances(theta - steps)) / 2e-6
    solved = np.linalg.inv(pairs.covariances(theta[None])[0]) @ slopes
    expected = 0.5 * np.einsum("iab,jba->ij", solved, solved)
    assert pairs.information(theta) == pytest.approx(expected, rel=1e-4, abs=1e-6)


@settings(max_examples=20)
@given(grids(), st.integers(1, 8), seeds)
def test_densities_in_a_batch_are_those_of_one_at_a_time(grid: Grid, count: int, seed: int) -> None:
    levels = points(grid, count, seed)
    values = wavy(levels)
    likelihood = MarginalLikelihood(grid, levels, values - values.mean(), np.full(count, 0.01), Priors())
    thetas = likelihood.center + 0.3 * np.random.default_rng(seed).normal(size=(3, len(likelihood.center)))
    singly = [-likelihood.negative(theta)[0] for theta in thetas]
    assert likelihood.log_densities(thetas) == pytest.approx(singly)


def test_the_posterior_is_that_of_botorch_with_the_same_hyperparameters() -> None:
    axes = [Axis(6, np.linspace(0, 1, 6)), Axis(5, np.linspace(0, 1, 5)), Axis(4, np.linspace(0, 1, 4))]
    grid = Grid(axes)
    levels, asked = points(grid, 12, 0), points(grid, 40, 1)
    values, noise = wavy(levels), np.full(12, 0.01)
    ours = GaussianProcess.fit(grid, levels, values, noise)
    theta = ours.thetas[ours.copies[0]]

    def inputs(rows: np.ndarray) -> torch.Tensor:
        return torch.tensor(np.stack([axis.coordinates[x] for axis, x in zip(axes, rows.T, strict=True)], axis=1))

    def matern(scales: np.ndarray) -> list[gpytorch.kernels.Kernel]:
        kernels = [gpytorch.kernels.MaternKernel(nu=2.5, active_dims=[number]).double() for number in range(3)]
        for kernel, scale in zip(kernels, scales, strict=True):
            kernel.lengthscale = scale
        return kernels

    level = gpytorch.kernels.ConstantKernel()
    level.constant = torch.tensor(ours.level_variance)
    product = gpytorch.kernels.ScaleKernel(gpytorch.kernels.ProductKernel(*matern(product_scales(theta)))).double()
    product.outputscale = math.exp(2 * theta[-3])
    additive = gpytorch.kernels.ScaleKernel(gpytorch.kernels.AdditiveKernel(*matern(additive_scales(theta)))).double()
    additive.outputscale = math.exp(2 * theta[-2]) / 3
    model = SingleTaskGP(
        inputs(levels),
        torch.tensor(values)[:, None] - values.mean(),
        torch.full((12, 1), 0.01 + math.exp(2 * theta[-1]) + JITTER, dtype=torch.float64),
        covar_module=(product + additive + level).double(),
        mean_module=gpytorch.means.ZeroMean(),
        outcome_transform=None,
    ).double()
    with gpytorch.settings.fast_computations(False, False, False):
        expected = model.posterior(inputs(asked))
        mean, variance = ours.posterior(Points(ours.grid, asked))
        joint_mean, joint_covariance = ours.joint_posterior(asked)
        assert (expected.mean[:, 0].detach() + values.mean()).numpy() == pytest.approx(mean[0].numpy(), abs=1e-6)
        assert expected.variance[:, 0].detach().numpy() == pytest.approx(variance[0].numpy(), abs=1e-6)
        covariance = expected.distribution.covariance_matrix.detach().numpy()
    assert joint_mean.numpy() == pytest.approx(mean.numpy())
    assert joint_covariance[0].numpy() == pytest.approx(covariance, abs=1e-6)


@settings(max_examples=25)
@given(
    grids(),
    st.lists(st.sampled_from([-30.0, -1.0, 0.0, 0.0, 1.0, 1e-9, 40.0]), min_size=1, max_size=10),
    seeds,
    st.sampled_from([0, 4]),
)
def test_any_values_give_finite_means_and_positive_variances(
    grid: Grid, values: list[float], seed: int, hypotheses: int
) -> None:
    levels = points(grid, len(values), seed)
    process = GaussianProcess.fit(grid, levels, np.array(values), hypotheses=hypotheses)
    mean, variance = process.posterior(Points(process.grid, points(grid, 20, seed + 1)))
    assert mean.shape == variance.shape == (1 + hypotheses, 20)
    assert torch.isfinite(mean).all()
    assert (variance > 0).all()


@settings(max_examples=25)
@given(grids(), st.integers(1, 10), seeds)
def test_a_new_value_never_widens_the_posterior(grid: Grid, count: int, seed: int) -> None:
    levels = points(grid, count, seed)
    process = GaussianProcess.fit(grid, levels, wavy(levels), hypotheses=2)
    asked, pending = points(grid, 15, seed + 1), points(grid, 3, seed + 2)
    mean, variance = process.posterior(Points(process.grid, asked))
    believing_mean, believing_variance = process.believing(pending).posterior(Points(process.grid, asked))
    assert believing_mean.numpy() == pytest.approx(mean.numpy(), abs=1e-6)
    assert (believing_variance <= variance + 1e-8).all()


def test_believing_pending_points_is_conditioning_on_their_means() -> None:
    grid = Grid([Axis(20, np.linspace(0, 1, 20))])
    levels, pending = np.array([[0], [9], [19]], dtype=np.int16), np.array([[4], [14]], dtype=np.int16)
    process = GaussianProcess.fit(grid, levels, np.array([0.0, 1.0, 0.5]))
    expected = process.posterior(Points(process.grid, pending))[0][0].numpy()
    likelihood = MarginalLikelihood(grid, np.concatenate([process.levels, pending]), np.zeros(5), np.zeros(5), Priors())
    expected_whitener = likelihood.whiteners(process.thetas)[0]
    assert process.believing(pending).whiteners[0] == pytest.approx(expected_whitener, rel=1e-4, abs=1e-4)
    assert process.believing(pending).posterior(Points(process.grid, pending))[0][0].numpy() == pytest.approx(expected)


def test_single_precision_is_good_to_three_digits() -> None:
    grid = Grid([Axis(9, np.linspace(0, 1, 9)), Axis(3), Axis(7, np.linspace(0, 1, 7))])
    levels, asked = points(grid, 40, 0), points(grid, 500, 1)
    process = GaussianProcess.fit(grid, levels, wavy(levels) * 0.3)
    exact, quick = process.posterior(Points(grid, asked)), process.posterior(Points(grid, asked, np.float32))
    for one, other in zip(exact, quick, strict=True):
        assert other.numpy() == pytest.approx(one.numpy(), rel=1e-2, abs=1e-3)


def test_a_repeated_value_counts_for_more() -> None:
    grid = Grid([Axis(10, np.linspace(0, 1, 10))])
    noise = np.full(3, 0.25)
    far = np.array([[0], [0], [9]], dtype=np.int16)
    process = GaussianProcess.fit(grid, far, np.array([1.0, 1.0, -1.0]), noise)
    mean, variance = process.posterior(Points(process.grid, np.array([[0], [9]], dtype=np.int16)))
    assert variance[0, 0] < variance[0, 1]
    assert abs(mean[0, 0] - 1.0) < abs(mean[0, 1] + 1.0)


def test_a_prior_mean_is_what_is_believed_far_from_the_data() -> None:
    grid = Grid([Axis(200, np.linspace(0, 100, 200))])

    def expected(levels: np.ndarray) -> np.ndarray:
        return levels[:, 0] / 10.0

    levels = np.array([[0], [1], [2], [3]], dtype=np.int16)
    process = GaussianProcess.fit(grid, levels, expected(levels) + 2.0, mean=expected, hypotheses=2)
    mean, _ = process.posterior(Points(process.grid, np.array([[199]], dtype=np.int16)))
    assert mean.numpy() == pytest.approx(np.full((3, 1), 21.9), abs=0.3)


def test_the_fit_finds_which_axis_matters() -> None:
    grid = Grid([Axis(8, np.linspace(0, 1, 8)) for _ in range(3)])
    levels = points(grid, 30, 0)
    process = GaussianProcess.fit(grid, levels, np.sin(levels[:, 1].astype(float)))
    scales = product_scales(process.thetas[process.copies[0]])
    assert scales[1] < 0.5 * min(scales[0], scales[2])


def test_draws_of_the_hyperparameters_spread_with_few_values_and_settle_with_many() -> None:
    grid = Grid([Axis(8, np.linspace(0, 1, 8)) for _ in range(2)])

    def spread(count: int) -> float:
        levels = points(grid, count, 1)
        values = np.sin(levels[:, 0].astype(float)) + 0.1 * np.random.default_rng(0).normal(size=count)
        process = GaussianProcess.fit(grid, levels, values, hypotheses=16)
        return float(process.thetas[process.copies[1:]][:, -1].std())

    assert spread(60) < 0.5 * spread(3)


@settings(max_examples=30)
@given(grids(), st.integers(1, 12), seeds)
def test_points_in_spread_order_are_each_as_far_as_any_from_those_before(grid: Grid, count: int, seed: int) -> None:
    levels = points(grid, count, seed)
    order = grid.spread_order(levels)
    assert sorted(order.tolist()) == list(range(count))
    gaps = sum(table[np.ix_(x, x)] for table, x in zip(grid.distances, levels.T, strict=True))
    for k in range(1, count):
        assert gaps[order[k:]][:, order[:k]].min(axis=1).argmax() == 0
