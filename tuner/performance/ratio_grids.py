"""Grids of measured over roofline, as operator tables keep their times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tuner.hardware import Hardware
from tuner.performance import roofline
from tuner.performance.grid import Array, LogGrid
from tuner.performance.table_file import DECODE, ENCODER, PREFILL, Columns
from tuner.step import NumberFormat

ATTENTION_SHAPE: Final = ("head_dim", "window_size", "num_heads", "num_key_value_heads")
ATTENTION_WEIGHTS: Final = (4.0, 2.0, 1.0, 2.0)
"""How much each of `ATTENTION_SHAPE` counts in how near two shapes are."""
EXPERT_SHAPE: Final = ("hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")
_LENGTH: Final = {PREFILL: "isl", ENCODER: "isl", DECODE: "past_kv_len"}

_SLOWER: Final = 1.5
"""Where products of one row are this much slower than those of two, padding pays."""


def nearest(shapes: Sequence[tuple[int, ...]], wanted: tuple[int, ...], weights: tuple[float, ...]) -> tuple[int, ...]:
    """The shape nearest in weighted logarithms; 0 (no window) is far from any window."""

    def distance(shape: tuple[int, ...]) -> float:
        return sum(
            weight * abs(float(np.log(max(have, 0.1) / max(want, 0.1))))
            for have, want, weight in zip(shape, wanted, weights, strict=True)
        )

    return min(shapes, key=distance)


def ratio_grid(coordinates: Sequence[NDArray[np.generic]], values: Array) -> LogGrid:
    axes = [np.unique(coordinate) for coordinate in coordinates]
    places = tuple(np.searchsorted(axis, coordinate) for axis, coordinate in zip(axes, coordinates, strict=True))
    dense = np.full([axis.size for axis in axes], np.nan)
    order = np.argsort(-values, kind="stable")  # where kernels compete for one point, the fastest is written last
    dense[tuple(place[order] for place in places)] = values[order]
    return LogGrid([np.maximum(axis.astype(np.float64), 0.5) for axis in axes], dense)


def padded(products: Columns) -> Columns:
    """Products of which those of two rows stand for one row, too, where one took half as long again.

    On Blackwell, FP8 products of one row took two to three times as long as those of two when they were timed one by
    one; engines, which can pad a row, do not show it.
    """
    one, two = products.where(m=1), products.where(m=2)
    of_one, of_two = (rows.values["n"] << 32 | rows.values["k"] for rows in (one, two))
    _, at_one, at_two = np.intersect1d(of_one, of_two, return_indices=True)
    quicker = at_two[one.latency_s[at_one] > _SLOWER * two.latency_s[at_two]]
    values = {name: column[quicker] for name, column in two.values.items()} | {"m": np.ones_like(quicker)}
    return products.joined(Columns(values, two.latency_s[quicker], two.words, two.provenance))


def attention_grid(
    device: Hardware, operator: str, rows: Columns, shape: tuple[int, ...], cache: NumberFormat
) -> LogGrid:
    """Measured over roofline of one shape, by batch and length."""
    rows = rows.where(**dict(zip(ATTENTION_SHAPE, shape, strict=True)))
    head_dim, window, heads, kv_heads = shape
    batch, extent = rows.values["batch_size"], rows.values[_LENGTH[operator]]
    if operator == DECODE:
        bound = roofline.decode_attention_s(device, heads, kv_heads, 2 * head_dim, window, cache, batch, extent)
    else:
        causal = operator == PREFILL
        bound = roofline.prefill_attention_s(device, heads, kv_heads, 2 * head_dim, window, batch, extent, causal)
    return ratio_grid([batch, extent], np.log(rows.latency_s / bound))


def mixed_grid(alone: Columns, mixed: Columns, shape: tuple[int, ...]) -> LogGrid | None:
    """What decode attention takes in mixed steps over what it takes alone, of one shape, by batch and context.

    `None` where no point was timed in both.
    """
    times: list[dict[tuple[int, int], float]] = []
    for rows in (alone, mixed):
        rows = rows.where(**dict(zip(ATTENTION_SHAPE, shape, strict=True)))
        points = zip(rows.values["batch_size"].tolist(), rows.values["past_kv_len"].tolist(), strict=True)
        times.append(dict(zip(points, rows.latency_s.tolist(), strict=True)))
    both = sorted(times[0].keys() & times[1].keys())
    if not both:
        return None
    batches, contexts = np.array(both).T
    return ratio_grid([batches, contexts], np.log([times[1][point] / times[0][point] for point in both]))


def expert_grid(device: Hardware, rows: Columns, shape: tuple[int, ...], stored: NumberFormat) -> LogGrid:
    """Measured over roofline of one shape, by tokens."""
    rows = rows.where(**dict(zip(EXPERT_SHAPE, shape, strict=True)))
    hidden, inner, chosen, experts, tensor, groups = shape
    sizes = rows.values["num_tokens"]
    bound = roofline.experts_s(device, stored, hidden, inner, chosen, experts, tensor, groups, sizes)
    return ratio_grid([sizes], np.log(rows.latency_s / bound))
