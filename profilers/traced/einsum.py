"""Products written as equations, `bij,bjk->bik`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from profilers.traced.trace import Product


def einsum_size(equation: str, shapes: Sequence[tuple[int, ...] | None]) -> Product | None:
    """Of two factors; `None` for any other number, or dots."""
    terms, _, output = equation.replace(" ", "").partition("->")
    names = terms.split(",")
    if len(names) != 2 or "." in equation or any(shape is None for shape in shapes[:2]):
        return None
    known = [dict(zip(name, shape or (), strict=False)) for name, shape in zip(names, shapes, strict=False)]
    sizes = {**known[0], **known[1]}
    shared = set(names[0]) & set(names[1])
    summed = {letter for letter in shared if letter not in output}

    def extent(letters: set[str]) -> int:
        return math.prod(sizes[letter] for letter in letters)

    return Product(
        extent(shared - summed), extent(set(names[0]) - shared), extent(summed), extent(set(names[1]) - shared)
    )
