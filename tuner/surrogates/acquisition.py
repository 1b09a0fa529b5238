"""Acquisition functions in closed form; everything is maximised, and logarithms keep what is tiny comparable.

Shapes: `...` is any batch shape (hypotheses by points, say), the same or broadcastable in all arguments.
In single precision, special functions are looked up in tables, to three digits: for comparing many points quickly.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import numpy as np
import torch
from botorch.utils.safe_math import log1mexp, logdiffexp

from tuner.surrogates.compiled import compiled
from tuner.surrogates.kernel import Array

_LOG_SQRT_TWO_PI: Final = 0.5 * math.log(2.0 * math.pi)
_SQRT_HALF: Final = math.sqrt(0.5)
_LOG_SQRT_HALF_PI: Final = 0.5 * math.log(0.5 * math.pi)
_FAR: Final = -1e6
"""Below this many deviations the leading order of the asymptotic series is exact in double precision."""

_LOW: Final = -32.0
_STEPS: Final = 64
"""Table entries per unit: between two, a line is off by 1 / (8 * 64^2), a thirty-thousandth, at most."""
_ENTRIES: Final = 96 * _STEPS + 1


def log_expected_improvement(mean: torch.Tensor, std: torch.Tensor, incumbent: torch.Tensor | float) -> torch.Tensor:
    """Logarithm of expected improvement over the incumbent.

    log E[max(f - incumbent, 0)] for f ~ N(mean, std^2), stable far below the incumbent (Ament et al. 2023,
    Eq. 9).

    Args:
        mean: shape (...), in objective units.
        std: shape (...), > 0, same units.
        incumbent: broadcastable to (...).
    """
    # An incumbent in double precision would make everything so.
    return torch.log(std) + _log_improvement(((mean - incumbent) / std).to(std.dtype))


def log_probability_below(mean: torch.Tensor, std: torch.Tensor, bound: float) -> torch.Tensor:
    """Logarithm of P(f <= bound) for f ~ N(mean, std^2), shape (...)."""
    return log_probability((bound - mean) / std)


def log_probability(u: torch.Tensor) -> torch.Tensor:
    """Logarithm of the standard normal distribution function, shape (...)."""
    if u.dtype is torch.float32:
        return _looked_up(u, _tables()[1])
    found: torch.Tensor = torch.special.log_ndtr(u)
    return found


def log_expected_hypervolume_improvement(
    means: tuple[torch.Tensor, torch.Tensor],
    stds: tuple[torch.Tensor, torch.Tensor],
    front: torch.Tensor,
    reference: torch.Tensor,
) -> torch.Tensor:
    """Logarithm of the expected growth of the dominated area, for two independent objectives.

    The area not yet dominated is cut into strips along the first objective; each contributes the expected
    width gained in it times the expected height gained above it (Emmerich et al. 2011; Yang et al. 2019).

    Args:
        means, stds: per objective, shape (...).
        front: shape (k, 2), objectives so far; dominated points and points below the reference do no harm.
        reference: shape (2,), below which nothing counts.

    Returns:
        Shape (...).
    """
    # Widths are differences of nearly equal numbers: not in single precision.
    means, stds = (means[0].double(), means[1].double()), (stds[0].double(), stds[1].double())
    edges, floors = _strips(front, reference)
    log_beyond = [log_expected_improvement(means[0], stds[0], edge) for edge in edges]
    parts = []
    for i, floor in enumerate(floors):
        log_width = log_beyond[i] if i + 1 == len(edges) else logdiffexp(log_beyond[i + 1], log_beyond[i])
        parts.append(log_width + log_expected_improvement(means[1], stds[1], floor))
    return torch.logsumexp(torch.stack(parts), dim=0)


def pareto_front(points: torch.Tensor) -> torch.Tensor:
    """The points that no other one beats in one objective and equals in all others, shape (k, 2), first ascending."""
    order = sorted({(float(a), float(b)) for a, b in points}, reverse=True)
    front: list[tuple[float, float]] = []
    for first, second in order:
        if not front or second > front[-1][1]:
            front.append((first, second))
    return torch.tensor(front[::-1], dtype=torch.float64).reshape(-1, 2)


def log_mean_over_hypotheses(values: torch.Tensor) -> torch.Tensor:
    """Logarithm of the mean of exp(values) over the first dimension: shape (h, ...) to (...)."""
    return torch.logsumexp(values, dim=0) - math.log(len(values))


def _log_improvement(u: torch.Tensor) -> torch.Tensor:
    """log(phi(u) + u Phi(u)) without cancellation (Ament et al. 2023, Eqs. 9 and 14)."""
    if u.dtype is torch.float32:
        return _looked_up(u, _tables()[0])
    near = u.clamp(min=-1.0)
    log_near = torch.log(_density(near) + near * torch.special.ndtr(near))
    far = u.clamp(max=-1.0)
    # phi(u) + u Phi(u) = phi(u) (1 - |u| Phi(u) / phi(u)), whose ratio is a scaled complementary error function.
    ratio = (
        torch.log(torch.special.erfcx(-_SQRT_HALF * far.clamp(min=_FAR)) * far.clamp(min=_FAR).abs())
        + _LOG_SQRT_HALF_PI
    )
    tail = torch.where(far > _FAR, log1mexp(ratio), -2.0 * torch.log(far.abs()))
    log_far = -0.5 * far.square() - _LOG_SQRT_TWO_PI + tail
    return torch.where(u > -1.0, log_near, log_far)


@functools.cache
def _tables() -> tuple[Array, Array]:
    """Of `_log_improvement` and `log_probability`, from `_LOW` on."""
    u = _LOW + torch.arange(_ENTRIES, dtype=torch.float64) / _STEPS
    return _log_improvement(u).numpy(), log_probability(u).numpy()


def _looked_up(u: torch.Tensor, table: Array) -> torch.Tensor:
    return torch.from_numpy(_interpolated(u.contiguous().numpy().ravel(), table)).reshape(u.shape)


@compiled
def _interpolated(u: Any, table: Any) -> Any:
    """Linear between the table's entries; beyond its ends along the parabola and the line that both functions near."""
    found = np.empty_like(u)
    last = table.shape[0] - 1
    for i in range(u.shape[0]):
        at = (u[i] - _LOW) * _STEPS
        if at < 0.0:
            found[i] = table[0] - 0.5 * (u[i] * u[i] - _LOW * _LOW)
        elif at >= last:
            found[i] = table[last] + (table[last] - table[last - 1]) * (at - last)
        else:
            below = int(at)
            found[i] = table[below] + (at - below) * (table[below + 1] - table[below])
    return found


def _density(u: torch.Tensor) -> torch.Tensor:
    return torch.exp(-0.5 * u.square() - _LOG_SQRT_TWO_PI)


def _strips(front: torch.Tensor, reference: torch.Tensor) -> tuple[list[float], list[float]]:
    """Left edges of the strips along the first objective, ascending, and the second objective's floor in each."""
    above = front[(front > reference).all(dim=1)]
    corners = pareto_front(above)
    edges = [float(reference[0]), *corners[:, 0].tolist()]
    floors = [*corners[:, 1].tolist(), float(reference[1])]
    return edges, floors
