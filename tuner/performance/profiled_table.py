"""What `tune profile` timed on a device, asked shape by shape.

Shapes that the device's own tables hold are left to those: they are of engines' kernels, a profile of torch's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from tuner.hardware import Hardware
from tuner.performance import roofline
from tuner.performance.grid import Array, LogGrid
from tuner.performance.ratio_grids import (
    ATTENTION_SHAPE,
    ATTENTION_WEIGHTS,
    EXPERT_SHAPE,
    attention_grid,
    expert_grid,
    mixed_grid,
    nearest,
    ratio_grid,
)
from tuner.performance.table_file import ALL_REDUCE, CONVOLUTION, DECODE, MIXED, UNEQUAL, Columns, read_table
from tuner.step import NumberFormat, Shard
from tuner.traced_operators import Convolution

_HALF: Final = 2.0
"""Bytes of a value in 16 bits."""


class ProfiledTable:
    """Grids of measured over roofline, `None` for what was not timed.

    Args:
        hardware: the device.
        folders: of tables that were profiled on it; where two have the same point, the faster counts.
        engines: rows of the device's own table of an operator, `None` where it has none.
    """

    def __init__(self, hardware: Hardware, folders: Sequence[Path], engines: Callable[[str], Columns | None]) -> None:
        self._hardware = hardware
        self._folders = tuple(folders)
        self._engines = engines
        self._columns: dict[str, Columns | None] = {}
        self._grids: dict[tuple[object, ...], LogGrid | None] = {}

    def __bool__(self) -> bool:
        return bool(self._folders)

    def columns(self, operator: str) -> Columns | None:
        """Every row of an operator."""
        if operator not in self._columns:
            tables = [read_table(path) for each in self._folders if (path := each / f"{operator}.parquet").is_file()]
            self._columns[operator] = functools.reduce(Columns.joined, tables) if tables else None
        return self._columns[operator]

    def product(self, dtype: str, stored: NumberFormat, n: int, k: int) -> LogGrid | None:
        """By rows, of [m, k] x [k, n]; of the nearest shape on a device that has no tables of its own."""

        def make() -> LogGrid | None:
            exact = {} if self._engines("gemm") is None else {"n": n, "k": k}
            rows = self._rows("gemm", exact, {"gemm_dtype": dtype})
            if rows is None:
                return None
            width, depth = nearest(rows.distinct("n", "k"), (n, k), (1.0, 1.0))
            timed = rows.where(n=width, k=depth)
            bound = roofline.matmul_s(self._hardware, stored, width, depth, timed.values["m"])
            return ratio_grid([timed.values["m"]], np.log(timed.latency_s / bound))

        return self._once(("gemm", dtype, n, k), make)

    def attention(self, operator: str, shape: tuple[int, int, int, int], kv_dtype: str) -> LogGrid | None:
        """By batch and length, of one shape (`ATTENTION_SHAPE`)."""

        def make() -> LogGrid | None:
            rows = self._rows(operator, dict(zip(ATTENTION_SHAPE, shape, strict=True)), {"kv_cache_dtype": kv_dtype})
            cache = NumberFormat.FP8 if kv_dtype == "fp8" else NumberFormat.BF16
            return None if rows is None else attention_grid(self._hardware, operator, rows, shape, cache)

        return self._once((operator, kv_dtype, *shape), make)

    def mixed(self, shape: tuple[int, int, int, int]) -> LogGrid | None:
        """By batch and context, how many times as long decode attention takes in steps that also compute prompts.

        Of the nearest shape that was timed so: it is a matter of how engines' kernels split their work.
        """

        def make() -> LogGrid | None:
            for folder in self._folders:
                paths = folder / f"{DECODE}.parquet", folder / f"{MIXED}.parquet"
                if all(path.is_file() for path in paths):
                    alone, mixed = map(read_table, paths)
                    return mixed_grid(alone, mixed, nearest(mixed.distinct(*ATTENTION_SHAPE), shape, ATTENTION_WEIGHTS))
            return None

        return self._once((MIXED, *shape), make)

    def unequal(self, shape: tuple[int, int, int, int], beside_prompts: bool) -> float:
        """What unequal contexts cost, as a share of the way from attention over the mean one to that over the longest.

        Of the nearest shape; 0 where it was not timed.
        """
        columns = self.columns(UNEQUAL)
        if columns is None:
            return 0.0
        timed = nearest(columns.distinct(*ATTENTION_SHAPE), shape, ATTENTION_WEIGHTS)
        rows = columns.where(**dict(zip(ATTENTION_SHAPE, timed, strict=True)), beside_prompts=int(beside_prompts))
        mean, longest, unequal = (
            float(rows.where(contexts=which).latency_s.sum()) for which in ("mean", "longest", "unequal")
        )
        return (unequal - mean) / (longest - mean) if longest > mean else 0.0

    def experts(self, dtype: str, stored: NumberFormat, shape: tuple[int, ...]) -> LogGrid | None:
        """By tokens, of one shape (`EXPERT_SHAPE`)."""

        def make() -> LogGrid | None:
            rows = self._rows("moe", dict(zip(EXPERT_SHAPE, shape, strict=True)), {"moe_dtype": dtype})
            return None if rows is None else expert_grid(self._hardware, rows, shape, stored)

        return self._once(("moe", dtype, *shape), make)

    def convolution(self, operator: Convolution) -> LogGrid | None:
        """By inputs, all `rows_each` of every sequence counted; over `convolution_bound_s`."""

        def make() -> LogGrid | None:
            rows = self._rows(CONVOLUTION, {}, {"shape": operator.shape})
            if rows is None:
                return None
            inputs = rows.values["inputs"]
            bound = convolution_bound_s(self._hardware, operator, inputs / operator.rows_each)
            return ratio_grid([inputs], np.log(rows.latency_s / bound))

        return self._once((CONVOLUTION, operator.shape, operator.rows_each, operator.format), make)

    def sums(self) -> Columns | None:
        """Of all-reduces, unless the device's own table has them."""
        return self.columns(ALL_REDUCE) if self._engines(ALL_REDUCE) is None else None

    def _rows(self, operator: str, shape: Mapping[str, int], format: Mapping[str, str]) -> Columns | None:
        """What was timed of one shape and format, unless the device's own table holds it."""
        columns = self.columns(operator)
        if columns is None:
            return None
        engines = self._engines(operator)
        if engines is not None and engines.where(**shape, **format).latency_s.size:
            return None
        rows = columns.where(**shape, **format)
        return rows if rows.latency_s.size else None

    def _once(self, key: tuple[object, ...], make: Callable[[], LogGrid | None]) -> LogGrid | None:
        if key not in self._grids:
            self._grids[key] = make()
        return self._grids[key]


def convolution_bound_s(hardware: Hardware, operator: Convolution, sequences: Array) -> Array:
    """Roofline of one run over `sequences`, weights read once; what is in single precision is converted to 16 bits."""
    values = sequences * operator.bytes_each / operator.activation_bytes
    weights = operator.weight_bytes(Shard()) / operator.count * min(1.0, _HALF / operator.format.bytes)
    return roofline.bound_s(hardware, sequences * operator.flops_each, values * _HALF + weights, NumberFormat.BF16)
