from __future__ import annotations

import math

import pytest
import torch
from botorch.acquisition import LogExpectedImprovement
from botorch.acquisition.multi_objective import ExpectedHypervolumeImprovement
from botorch.models.deterministic import GenericDeterministicModel
from botorch.utils.multi_objective.box_decompositions.non_dominated import FastNondominatedPartitioning
from botorch.utils.multi_objective.hypervolume import Hypervolume
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.surrogates.acquisition import (
    log_expected_hypervolume_improvement,
    log_expected_improvement,
    log_mean_over_hypotheses,
    log_probability_below,
    pareto_front,
)

means = st.floats(-5, 5)
stds = st.floats(0.01, 3)
fronts = st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), max_size=6)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@settings(max_examples=25)
@given(means, stds, means)
def test_expected_improvement_agrees_with_monte_carlo(mean: float, std: float, incumbent: float) -> None:
    draws = mean + std * torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gains = (draws - incumbent).clamp(min=0)
    closed = float(log_expected_improvement(tensor(mean), tensor(std), incumbent).exp())
    assert closed == pytest.approx(float(gains.mean()), abs=5 * float(gains.std()) / math.sqrt(200_000) + 1e-6)


@given(st.floats(-200, 60))
def test_tables_of_single_precision_are_good_to_three_digits(mean: float) -> None:
    exact, single = tensor(mean), tensor(mean).float()
    for quick, slow in (
        (log_expected_improvement(single, torch.ones(1), 0.0), log_expected_improvement(exact, tensor(1.0), 0.0)),
        (log_probability_below(-single, torch.ones(1), 0.0), log_probability_below(-exact, tensor(1.0), 0.0)),
    ):
        assert quick.dtype is torch.float32
        assert float(quick) == pytest.approx(float(slow), rel=1e-3, abs=1e-4)


@given(st.floats(-1e8, 30))
def test_log_expected_improvement_is_finite_and_rises_however_far_below_the_incumbent(mean: float) -> None:
    low, high = log_expected_improvement(tensor(mean, mean + 0.1 + 1e-6 * abs(mean)), tensor(1.0, 1.0), 0.0)
    assert math.isfinite(low)
    assert low < high


def test_log_expected_improvement_is_that_of_botorch() -> None:
    mean = torch.linspace(-40, 10, 101, dtype=torch.float64)

    class Standard(GenericDeterministicModel):
        def posterior(self, X: torch.Tensor, *args: object, **kwargs: object) -> object:  # noqa: N803
            class Posterior:
                mean, variance, device = X[..., :1], torch.ones_like(X[..., :1]), X.device

            return Posterior()

    reference = LogExpectedImprovement(Standard(lambda x: x), best_f=0.5)(mean[:, None, None])
    ours = log_expected_improvement(mean, torch.ones_like(mean), 0.5)
    assert ours.numpy() == pytest.approx(reference.detach().numpy(), rel=1e-9)


@given(means, stds, means)
def test_the_probability_of_a_bound_is_a_logarithm_of_a_probability(mean: float, std: float, bound: float) -> None:
    log_probability = float(log_probability_below(tensor(mean), tensor(std), bound))
    assert log_probability <= 0
    assert math.exp(log_probability) == pytest.approx(0.5 * math.erfc((mean - bound) / std / math.sqrt(2)), abs=1e-12)


@given(fronts)
def test_a_pareto_front_dominates_every_point_and_none_of_its_own(points: list[tuple[float, float]]) -> None:
    front = pareto_front(tensor(*(x for point in points for x in point)).reshape(-1, 2))
    for point in points:
        assert any(a >= point[0] and b >= point[1] for a, b in front.tolist())
    for i, (a, b) in enumerate(front.tolist()):
        assert not any(c >= a and d >= b for j, (c, d) in enumerate(front.tolist()) if i != j)


@settings(max_examples=25)
@given(fronts, means, stds, means, stds)
def test_hypervolume_improvement_agrees_with_botorch(
    points: list[tuple[float, float]], mean_a: float, std_a: float, mean_b: float, std_b: float
) -> None:
    reference = tensor(-2.5, -2.5)
    front = tensor(*(x for point in points for x in point)).reshape(-1, 2)

    class Two(GenericDeterministicModel):
        def posterior(self, X: torch.Tensor, *args: object, **kwargs: object) -> object:  # noqa: N803
            class Posterior:
                mean = tensor(mean_a, mean_b).reshape(1, 1, 2)
                variance = tensor(std_a, std_b).reshape(1, 1, 2) ** 2
                device = X.device

            return Posterior()

    partitioning = FastNondominatedPartitioning(ref_point=reference, Y=front)
    acquisition = ExpectedHypervolumeImprovement(Two(lambda x: x, num_outputs=2), reference.tolist(), partitioning)
    expected = float(acquisition(torch.zeros(1, 1, 1, dtype=torch.float64)))
    ours = log_expected_hypervolume_improvement(
        (tensor(mean_a), tensor(mean_b)), (tensor(std_a), tensor(std_b)), front, reference
    )
    assert float(ours.exp()) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_hypervolume_improvement_without_uncertainty_is_the_area_gained() -> None:
    front, reference = tensor(1, 3, 2, 2, 3, 1).reshape(-1, 2), tensor(0, 0)
    before = Hypervolume(reference).compute(front)
    after = Hypervolume(reference).compute(torch.cat([front, tensor(2.5, 2.5)[None]]))
    still = (tensor(1e-9), tensor(1e-9))
    gained = log_expected_hypervolume_improvement((tensor(2.5), tensor(2.5)), still, front, reference)
    assert float(gained.exp()) == pytest.approx(after - before)


def test_averaging_over_hypotheses_averages_what_the_logarithms_stand_for() -> None:
    values = tensor(1.0, 3.0, 0.5, 2.0).log().reshape(2, 2)
    assert log_mean_over_hypotheses(values).exp().numpy() == pytest.approx([0.75, 2.5])
