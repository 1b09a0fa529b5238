"""Grids and points on them, for the tests of surrogates."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from tuner.surrogates.kernel import Axis, Grid, Levels


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    """Up to four axes, ordered or not."""
    axes = []
    for _ in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 6))
        ordered = draw(st.booleans())
        axes.append(Axis(size, np.linspace(0, 1, size) if ordered else None))
    return Grid(axes)


def points(grid: Grid, count: int, seed: int) -> Levels:
    """Random points of a grid; repeats may occur."""
    generator = np.random.default_rng(seed)
    return np.stack([generator.integers(axis.size, size=count) for axis in grid.axes], axis=1).astype(np.int16)
