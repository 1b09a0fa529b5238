"""Operator tables: measured latencies of one device, interpolated as ratios to their rooflines.

Inside a table's grid the ratio is interpolated; outside it the nearest ratio goes on with the roofline;
shapes that nobody measured (another expert width, another head count) take the ratio of the nearest
measured shape. A device without tables takes the ratios of the most alike device that has them.
What `tune profile` timed on a device stands between the two: for shapes of which the device's own tables,
which hold the kernels of engines, have no measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from tuner.hardware import Hardware
from tuner.performance import roofline
from tuner.performance.grid import Array, LogGrid
from tuner.performance.profiled_table import ProfiledTable, convolution_bound_s
from tuner.performance.ratio_grids import (
    ATTENTION_SHAPE,
    ATTENTION_WEIGHTS,
    EXPERT_SHAPE,
    attention_grid,
    expert_grid,
    nearest,
    padded,
    ratio_grid,
)
from tuner.performance.table_file import ALL_REDUCE, DECODE, ENCODER, MIXED, NCCL, PREFILL, Columns, read_table
from tuner.step import NumberFormat
from tuner.traced_operators import Convolution

_GEMM: Final = {
    NumberFormat.BF16: ("bfloat16",),
    NumberFormat.FP32: ("bfloat16",),
    NumberFormat.FP8: ("fp8", "fp8_block", "bfloat16"),
    # block-scaled products were timed outside CUDA graphs: below some 100 microseconds the host was measured
    NumberFormat.FP8_BLOCK: ("fp8", "bfloat16", "fp8_block"),
    NumberFormat.NVFP4: ("nvfp4", "fp8", "bfloat16"),
    NumberFormat.INT8: ("fp8", "bfloat16"),
    NumberFormat.INT4: ("bfloat16",),
    NumberFormat.MXFP4: ("bfloat16",),
}
_MOE: Final = {
    NumberFormat.BF16: ("bfloat16",),
    NumberFormat.FP32: ("bfloat16",),
    NumberFormat.FP8: ("fp8", "fp8_block", "bfloat16"),
    NumberFormat.FP8_BLOCK: ("fp8_block", "fp8", "bfloat16"),
    NumberFormat.NVFP4: ("nvfp4", "w4a16_mxfp4", "fp8_block", "fp8"),
    NumberFormat.MXFP4: ("w4a16_mxfp4", "w4a8_mxfp4_mxfp8", "nvfp4", "int4_wo"),
    NumberFormat.INT4: ("int4_wo", "w4a16_mxfp4"),
    NumberFormat.INT8: ("fp8", "bfloat16"),
}
_STORED: Final = {
    "bfloat16": NumberFormat.BF16,
    "fp8": NumberFormat.FP8,
    "fp8_block": NumberFormat.FP8_BLOCK,
    "nvfp4": NumberFormat.NVFP4,
    "w4a16_mxfp4": NumberFormat.MXFP4,
    "w4a8_mxfp4_mxfp8": NumberFormat.MXFP4,
    "int4_wo": NumberFormat.INT4,
}
_DEFAULT_RATIO: Final = 1.5
"""Measured over roofline where nothing was ever measured: near the median of the shipped tables."""

_W4A8: Final = "w4a8_mxfp4_mxfp8"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableError:
    """Relative errors of a table at points left out of it.

    Attributes:
        points: left out, one at a time, between two others.
        inside, inside_p90: mean and 90 % quantile of those.
        outside, outside_p90: of the outermost points, from their neighbour's ratio to the roofline.
    """

    points: int
    inside: float
    inside_p90: float
    outside: float
    outside_p90: float


class OperatorTable:
    """Times of operators on one device, all in seconds, vectorised over the load.

    Args:
        hardware: the device asked about.
        folder: tables of the device measured; `None` leaves the roofline alone.
        measured: the device that the tables belong to, where it is another one.
        own: folders of tables that were profiled on `hardware` itself.
    """

    def __init__(
        self, hardware: Hardware, folder: Path | None, measured: Hardware | None = None, own: Sequence[Path] = ()
    ) -> None:
        self.hardware = hardware
        self.measured = measured or hardware
        self._folder = folder
        self._own = ProfiledTable(hardware, own, lambda operator: self._columns(operator) if self._has_tables else None)
        self._grids: dict[tuple[object, ...], LogGrid] = {}
        self._formats: dict[tuple[object, ...], str] = {}

    @property
    def is_borrowed(self) -> bool:
        """Whether times are scaled from another device, or from nothing but the roofline."""
        return not self._own and not self._has_tables

    def borrows(self, format: NumberFormat, experts: bool = False) -> bool:
        """Whether products, or experts, in a number format are scaled from another device, or from the roofline."""
        if self._has_tables:
            return False
        timed, column = self._own.columns("moe" if experts else "gemm"), "moe_dtype" if experts else "gemm_dtype"
        return timed is None or (_MOE if experts else _GEMM)[format][0] not in timed.words[column]

    @property
    def label(self) -> str:
        """Where the times come from, for people."""
        if self._own:
            return f"operator tables of {self.hardware.label}, some of them from profiles of single models"
        if not self.is_borrowed:
            return f"operator tables of {self.hardware.label}"
        near = "its roofline" if self._folder is None else self.measured.label
        return f"scaled from {near}: {self.hardware.label} has no operator tables"

    def left_out(self, operator: str) -> TableError | None:
        """How far off an operator's times are at measured points that are predicted from the others.

        Of the shapes asked about so far, each point along each axis of its grid: half the grid's density, so that the
        error between the points of the whole grid is smaller. `None` where nothing was measured or asked.

        Args:
            operator: `gemm`, `context_attention`, `generation_attention`, `moe` or `all_reduce`.
        """
        errors = [grid.left_out() for key, grid in self._grids.items() if key[0] == operator]
        between = np.concatenate([np.zeros(0), *(error[0] for error in errors)])
        outermost = np.concatenate([np.zeros(0), *(error[1] for error in errors)])
        if between.size == 0 or outermost.size == 0:
            return None
        return TableError(
            points=between.size,
            inside=float(np.mean(np.abs(np.expm1(between)))),
            inside_p90=float(np.quantile(np.abs(np.expm1(between)), 0.9)),
            outside=float(np.mean(np.abs(np.expm1(outermost)))),
            outside_p90=float(np.quantile(np.abs(np.expm1(outermost)), 0.9)),
        )

    @property
    def _has_tables(self) -> bool:
        return self._folder is not None and self.measured.name == self.hardware.name

    def matmul_s(self, format: NumberFormat, n: ArrayLike, k: ArrayLike, m: ArrayLike) -> Array:
        """Of [m, k] x [k, n]."""
        if self._own and not (np.ndim(n) or np.ndim(k)):
            first = _GEMM[format][0]
            profiled = self._own.product(first, _STORED[first], int(np.asarray(n)), int(np.asarray(k)))
            if profiled is not None:
                return roofline.matmul_s(self.hardware, _STORED[first], n, k, m) * np.exp(profiled(m))
        columns = self._columns("gemm")
        if columns is None:
            return roofline.matmul_s(self.hardware, format, n, k, m) * _DEFAULT_RATIO
        dtype = _available(columns, "gemm_dtype", _GEMM[format])
        stored = _STORED[dtype]

        def make() -> LogGrid:
            rows = padded(columns.where(gemm_dtype=dtype))
            sizes = [rows.values[name] for name in ("n", "k", "m")]
            return ratio_grid(sizes, np.log(rows.latency_s / roofline.matmul_s(self.measured, stored, *sizes)))

        grid = self._once(("gemm", dtype), make)
        return roofline.matmul_s(self.hardware, stored, n, k, m) * np.exp(grid(n, k, m))

    def prefill_attention_s(
        self,
        heads: int,
        kv_heads: int,
        head_dim: int,
        window: int,
        cache: NumberFormat,
        batch: ArrayLike,
        length: ArrayLike,
        causal: bool = True,
    ) -> Array:
        """Of one layer over `batch` prompts of `length` without a cached prefix; window 0 sees all."""
        dims = 2 * head_dim
        bound = roofline.prefill_attention_s(self.hardware, heads, kv_heads, dims, window, batch, length, causal)
        shape = (head_dim, window, heads, kv_heads)
        grid = None if causal else self._own.attention(ENCODER, shape, "bfloat16")
        grid = grid or self._attention(PREFILL, shape, cache)
        return bound * (_DEFAULT_RATIO if grid is None else np.exp(grid(batch, length)))

    def decode_attention_s(
        self,
        heads: int,
        kv_heads: int,
        head_dim: int,
        window: int,
        cache: NumberFormat,
        batch: ArrayLike,
        context: ArrayLike,
    ) -> Array:
        """Of one layer, one token for each of `batch` sequences of `context`."""
        bound = roofline.decode_attention_s(self.hardware, heads, kv_heads, 2 * head_dim, window, cache, batch, context)
        grid = self._attention(DECODE, (head_dim, window, heads, kv_heads), cache)
        return bound * (_DEFAULT_RATIO if grid is None else np.exp(grid(batch, context)))

    @property
    def times_mixed_steps(self) -> bool:
        """Whether decode attention was measured in steps that also compute prompts."""
        return self._own.columns(MIXED) is not None

    def mixed_ratio(
        self, heads: int, kv_heads: int, head_dim: int, window: int, batch: ArrayLike, context: ArrayLike
    ) -> Array:
        """How many times as long decode attention takes in a step that also computes prompts.

        1 where nothing was measured on the device.
        """
        grid = self._own.mixed((head_dim, window, heads, kv_heads))
        shape = np.broadcast_shapes(np.shape(batch), np.shape(context))
        return np.ones(shape) if grid is None else np.exp(np.maximum(grid(batch, context), 0.0))

    def unequal_share(
        self, heads: int, kv_heads: int, head_dim: int, window: int, beside_prompts: bool = False
    ) -> float:
        """Share of the way from attention over the mean context to that over the longest that unequal contexts cost.

        0 where nothing was measured on the device.
        """
        return self._own.unequal((head_dim, window, heads, kv_heads), beside_prompts)

    def latent_decode_s(
        self,
        heads: int,
        half_width: float,
        cached_width: float,
        cache: NumberFormat,
        batch: ArrayLike,
        context: ArrayLike,
        queries: ArrayLike = 1.0,
    ) -> Array:
        """Of one layer of latent attention, `queries` tokens for each of `batch` sequences of `context`.

        No table measures it: the roofline of one shared head, `2 half_width` values of work and
        `cached_width` values of memory per cached token, takes the ratio of grouped attention with one
        key-value head.
        """
        batch, context = np.asarray(batch, dtype=np.float64), np.asarray(context, dtype=np.float64)
        pairs = batch * context
        moved = pairs * cached_width * cache.bytes + batch * heads * 2.0 * half_width * 2.0
        work = 4.0 * pairs * heads * half_width
        bound = roofline.bound_s(self.hardware, work, moved, NumberFormat.BF16)
        grid = self._attention(DECODE, (128, 0, heads, 1), cache)
        one = bound * (_DEFAULT_RATIO if grid is None else np.exp(grid(batch, context)))
        # the ratio is that of streaming the cache; further queries of a sequence only add work
        queries = np.asarray(queries, dtype=np.float64)
        several = _DEFAULT_RATIO * queries * work / self.hardware.peak_flops_per_s(NumberFormat.BF16)
        return np.where(queries > 1.0, np.maximum(one, several), one)

    def experts_s(
        self,
        format: NumberFormat,
        hidden: int,
        inner: int,
        chosen: int,
        experts: int,
        tensor: int,
        groups: int,
        tokens: ArrayLike,
        routing: str = "power_law_1.01",
        dispatched: bool = False,
    ) -> Array:
        """Of one layer of routed experts on the busiest GPU.

        Tables time a kernel that is given all tokens, also those of experts on other GPUs. Where tokens are
        `dispatched`, a GPU has only its own: they take the ratio to the roofline of experts that are not spread.
        """
        wanted = (hidden, inner, chosen, experts, tensor, groups)
        first = _MOE[format][0]
        profiled = self._own.experts(first, _STORED[first], wanted)
        if profiled is not None:
            return roofline.experts_s(self.hardware, _STORED[first], *wanted, tokens) * np.exp(profiled(tokens))
        columns = self._columns("moe")
        if columns is None:
            return roofline.experts_s(self.hardware, format, *wanted, tokens) * _DEFAULT_RATIO
        dtype = self._expert_format(columns, format, wanted)
        stored = _STORED[dtype]

        def make() -> LogGrid:
            rows = columns.where(moe_dtype=dtype, distribution=routing)
            if rows.latency_s.size == 0:
                rows = columns.where(moe_dtype=dtype)
            alike = (*wanted[:-1], 1) if dispatched else wanted
            shape = nearest(rows.distinct(*EXPERT_SHAPE), alike, (1.0, 1.0, 2.0, 1.0, 1.5, 1.5))
            return expert_grid(self.measured, rows, shape, stored)

        grid = self._once(("moe", dtype, routing, dispatched, *wanted), make)
        return roofline.experts_s(self.hardware, stored, *wanted, tokens) * np.exp(grid(tokens))

    def convolution_s(self, operator: Convolution, sequences: ArrayLike) -> Array:
        """Of one run over `sequences`."""
        count = np.asarray(sequences, dtype=np.float64)
        profiled = self._own.convolution(operator)
        ratio = _DEFAULT_RATIO if profiled is None else np.exp(profiled(count * operator.rows_each))
        return convolution_bound_s(self.hardware, operator, count) * ratio

    def holds(self, operator: Convolution) -> bool:
        """Whether the convolution was timed on the device, at any number of inputs."""
        return self._own.convolution(operator) is not None

    def all_to_all_s(self, devices: int, message_bytes: ArrayLike) -> Array:
        """Of `message_bytes` that each of `devices` GPUs sends to the others, as experts take and return tokens."""
        bound = roofline.all_to_all_s(self.hardware, devices, message_bytes)
        return bound * _DEFAULT_RATIO

    def all_reduce_s(self, devices: int, message_bytes: ArrayLike) -> Array:
        """Of one sum over `devices` GPUs."""
        message = np.asarray(message_bytes, dtype=np.float64)
        if devices <= 1:
            return np.zeros(message.shape)
        bound = roofline.all_reduce_s(self.hardware, devices, message)
        profiled = self._own.sums()
        columns = self._columns(ALL_REDUCE) if profiled is None else profiled
        if columns is None:
            return bound * _DEFAULT_RATIO
        timed_on = self.measured if profiled is None else self.hardware
        within = min(devices, self.hardware.node_devices)

        def make() -> LogGrid:
            rows = columns.where(backend="vllm_graph")
            if rows.latency_s.size == 0:
                rows = columns
            (gpus,) = nearest(rows.distinct("num_gpus"), (within,), (1.0,))
            rows = rows.where(num_gpus=gpus)
            sizes = rows.values["message_elements"].astype(np.float64) * 2
            return ratio_grid([sizes], np.log(rows.latency_s / roofline.all_reduce_s(timed_on, gpus, sizes)))

        return bound * np.exp(self._once(("all_reduce", within), make)(message))

    def all_gather_s(self, ranks: int, message_bytes: ArrayLike, devices: int) -> Array:
        """Of `message_bytes`, counted over all `ranks`, that each of them then has; among `devices` GPUs."""
        return self._nccl_s("all_gather", ranks, message_bytes, devices)

    def reduce_scatter_s(self, ranks: int, message_bytes: ArrayLike, devices: int) -> Array:
        """Of sums over `ranks` of `message_bytes` each, of which each then has its part; among `devices` GPUs."""
        return self._nccl_s("reduce_scatter", ranks, message_bytes, devices)

    def _nccl_s(self, operation: str, ranks: int, message_bytes: ArrayLike, devices: int) -> Array:
        message = np.asarray(message_bytes, dtype=np.float64)
        bound = roofline.all_gather_s(self.hardware, ranks, message, devices)
        columns = self._columns(NCCL)
        if columns is None:
            return bound * _DEFAULT_RATIO

        def make() -> LogGrid:
            rows = columns.where(op_name=operation, nccl_dtype="half")
            (gpus,) = nearest(rows.distinct("num_gpus"), (min(ranks, self.measured.node_devices),), (1.0,))
            rows = rows.where(num_gpus=gpus)
            sizes = rows.values["message_elements"].astype(np.float64) * 2
            return ratio_grid([sizes], np.log(rows.latency_s / roofline.all_gather_s(self.measured, gpus, sizes, gpus)))

        return bound * np.exp(self._once((operation, ranks), make)(message))

    def _columns(self, operator: str) -> Columns | None:
        if self._folder is None:
            return None
        path = self._folder / f"{operator}.parquet"
        return read_table(path) if path.is_file() else None

    def _once(self, key: tuple[object, ...], make: Callable[[], LogGrid]) -> LogGrid:
        if key not in self._grids:
            self._grids[key] = make()
        return self._grids[key]

    def _expert_format(self, columns: Columns, format: NumberFormat, wanted: tuple[int, ...]) -> str:
        """The best wanted number format in which experts of this very shape were measured, else in any shape."""
        key = (format, *wanted[:4])
        if format is NumberFormat.MXFP4 and self.hardware.computes(format) and _W4A8 in columns.words["moe_dtype"]:
            return _W4A8  # engines compute it in 8 bits where the device can, whichever shape was measured
        if key not in self._formats:
            measured = columns.where(**dict(zip(EXPERT_SHAPE[:4], wanted[:4], strict=True)))
            codes = set(measured.values["moe_dtype"].tolist())
            here = [name for place, name in enumerate(columns.words["moe_dtype"]) if place in codes]
            exact = next((name for name in _MOE[format] if name in here), None)
            self._formats[key] = exact or _available(columns, "moe_dtype", _MOE[format])
        return self._formats[key]

    def _attention(self, operator: str, wanted: tuple[int, int, int, int], cache: NumberFormat) -> LogGrid | None:
        kv_dtype = "fp8" if cache in (NumberFormat.FP8, NumberFormat.FP8_BLOCK) else "bfloat16"
        profiled = self._own.attention(operator, wanted, kv_dtype)
        if profiled is not None:
            return profiled
        columns = self._columns(operator)
        if columns is None:
            return None

        def make() -> LogGrid:
            rows = columns.where(kv_cache_dtype=kv_dtype)
            if rows.latency_s.size == 0:
                rows = columns
            shape = nearest(rows.distinct(*ATTENTION_SHAPE), wanted, ATTENTION_WEIGHTS)
            return attention_grid(self.measured, operator, rows, shape, cache)

        return self._once((operator, kv_dtype, *wanted), make)


def _available(columns: Columns, column: str, wanted: Sequence[str]) -> str:
    """The first wanted number format that the table has; else any it has."""
    known = [word for word in columns.words[column] if word in _STORED]
    return next((name for name in wanted if name in known), sorted(known)[0])
