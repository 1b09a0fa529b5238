"""From amounts at a few sizes to amounts as functions of batch and length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from tuner.traced_operators import Extent

Size = tuple[int, int | None]
"""Sequences, and tokens of each; `None` where the model has no sequence dimension."""

_TERMS: Final = ("fixed", "per_length", "per_square", "per_sequence", "per_token", "per_pair")


def sizes(batches: Sequence[int], lengths: Sequence[int] | None) -> tuple[Size, ...]:
    """Every batch with every length."""
    return tuple((batch, length) for batch in batches for length in (lengths or (None,)))


def extent(amounts: Mapping[Size, float]) -> Extent:
    """The function that passes through `amounts`; as many terms as the sizes can tell apart.

    Terms below a millionth of the largest amount are rounding.
    """
    given = list(amounts)
    several = len({batch for batch, _ in given}) > 1
    known = given[0][1] is not None and len({length for _, length in given}) > 2
    columns = [0, 1, 2, 3, 4, 5] if known else [0, 3]
    if not several:
        columns = [column for column in columns if column > 2]  # a file of a fixed batch: all of it is the sequences'
    rows = np.array([_row(size) for size in given])[:, columns]
    scale = np.abs(rows).max(axis=0)
    values = np.array([amounts[size] for size in given], dtype=np.float64)
    found = np.linalg.lstsq(rows / scale, values, rcond=None)[0]
    found = np.where(np.abs(found) < 1e-6 * max(np.abs(values).max(), 1e-300), 0.0, found) / scale
    near = np.round(found)
    found = np.where(np.abs(found - near) <= 1e-6 * np.maximum(np.abs(found), 1e-9), near, found)
    return Extent(**{_TERMS[column]: float(value) for column, value in zip(columns, found, strict=True)})


def _row(size: Size) -> list[float]:
    batch, length = float(size[0]), float(size[1] or 0)
    return [1.0, length, length**2, batch, batch * length, batch * length**2]
