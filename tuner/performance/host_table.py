"""Times of operators on one core of this machine, as profiled here, or from its roofline where nothing was.

`tune profile MODEL --device cpu` leaves its tables in the user's data folder. As in `operator_table`, what is kept of a
measured time is its ratio to the roofline: it is interpolated between the numbers of rows that were timed, goes on with
the roofline beyond them, and stands in for shapes that nobody timed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from tuner.model_graph import ModelGraph
from tuner.operators import Attention, MatMul, Operator, Pointwise
from tuner.performance.grid import Array
from tuner.step import Rows, Shard, StepLoad

_UNMEASURED: Final = 1.5
"""Measured over roofline where nothing of the kind was timed."""
_FLOOR_S: Final = 1.5e-6
_FLOAT: Final = 4.0
_MATMUL, _ATTENTION, _NORMALIZATION, _ACTIVATION = "matmul", "attention", "normalization", "activation"
_ARITHMETIC: Final = "arithmetic"
_KEYS: Final = ("kind", "width", "inner", "length", "causal")
_Key = tuple[str, int, int, int, bool]
_Curve = tuple[Array, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """One core of this machine at best.

    Attributes:
        name: of the processor.
        count: cores that this process may use.
        flops_per_s: in single precision.
        bandwidth_bytes_per_s: of its share of the memory.
        half_precision: speed of bfloat16 products over single precision.
    """

    name: str
    count: int
    flops_per_s: float
    bandwidth_bytes_per_s: float
    half_precision: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTable:
    """Operators on one core, in s; make it with `read`.

    Attributes:
        core: whose roofline it is.
        curves: logarithms of rows, ascending, and of measured over roofline there, by operator and shape.
        origin: what the times come from, for people.
    """

    core: Core
    curves: Mapping[_Key, _Curve] = field(default_factory=dict)
    origin: str = "roofline of this processor, not profiled"

    @property
    def is_measured(self) -> bool:
        """Whether anything was timed here."""
        return bool(self.curves)

    def pass_s(self, graph: ModelGraph, sequences: Array, tokens: int) -> Array:
        """One pass over each number of `sequences` of `tokens` each, on one core, shape of `sequences`."""
        total = np.zeros(np.shape(sequences))
        for operator in graph.operators:
            total += self.operator_s(operator, np.asarray(sequences, dtype=np.float64), tokens)
        return total

    def operator_s(self, operator: Operator, sequences: Array, tokens: int) -> Array:
        """All `count` runs of an operator, shape of `sequences`."""
        length = getattr(operator, "length", None) or tokens
        each = getattr(operator, "rows_each", 1)
        if isinstance(operator, Attention):
            each = length if operator.rows is not Rows.SEQUENCE else 1
        elif getattr(operator, "rows", Rows.SEQUENCE) is Rows.TOKEN:
            each *= tokens
        rows = sequences * each
        key = _key(operator, length)
        if key is None:
            return self._unprobed_s(operator, sequences, tokens)
        return operator.count * self._bound_s(key, rows) * np.exp(self._log_ratio(key, rows))

    def _log_ratio(self, key: _Key, rows: Array) -> Array:
        curve = self.curves.get(key) or self._nearest(key)
        if curve is None:
            return np.full(rows.shape, math.log(_UNMEASURED))
        return np.interp(np.log(np.maximum(rows, 1e-9)), curve[0], curve[1])

    def _nearest(self, key: _Key) -> _Curve | None:
        """Of the shape of the same kind whose work per row is nearest."""
        alike = [known for known in self.curves if known[0] == key[0]]
        if not alike:
            return None
        work = _work(key)
        return self.curves[min(alike, key=lambda known: abs(math.log(_work(known) / work)))]

    def _bound_s(self, key: _Key, rows: Array) -> Array:
        return _bound_s(self.core, key, rows)

    def _unprobed_s(self, operator: Operator, sequences: Array, tokens: int) -> Array:
        """From FLOPs and bytes alone; convolutions take the ratio of products, which they are computed as."""
        one, two = (StepLoad.prefill(count, tokens) for count in (1, 2))
        shard = Shard()
        flops = [operator.flops(load, shard) for load in (one, two)]
        moved = [operator.bytes_moved(load, shard) for load in (one, two)]
        compute = (flops[0] + (flops[1] - flops[0]) * (sequences - 1.0)) / self.core.flops_per_s
        memory = 2.0 * (moved[0] + (moved[1] - moved[0]) * (sequences - 1.0)) / self.core.bandwidth_bytes_per_s
        ratios = [float(np.exp(curve[1][-1])) for key, curve in self.curves.items() if key[0] == _MATMUL]
        ratio = float(np.median(ratios)) if ratios and flops[0] > 0 else _UNMEASURED
        return np.maximum(compute, memory) * ratio + operator.count * _FLOOR_S


def read_host_table(folder: Path, runtime: str, core: Core | None = None) -> HostTable:
    """What was profiled on this processor, one core at a time.

    Args:
        folder: of the user's profiles; every `*.parquet` below it that belongs here is read.
        runtime: whose operators are wanted (`onnxruntime`, `torch`); those of another one stand in for it.
        core: this machine's; detected where absent.
    """
    core = core or this_core()
    found: list[tuple[bool, str, Mapping[_Key, _Curve]]] = []
    for path in sorted(folder.rglob("*.parquet")) if folder.is_dir() else []:
        try:
            origin, curves = _read(path, core)
        except (OSError, ValueError, KeyError):  # somebody else's file, or half written: the roofline stands in
            continue
        if origin.get("device") == core.name and origin.get("threads") == "1":
            software = origin.get("software", "")
            words = f"{core.name}, one core, {software}, {origin.get('date', '')}".rstrip(", ")
            found.append((software.startswith(runtime), words, curves))
    wanted = [entry for entry in found if entry[0]] or found
    if not wanted:
        return HostTable(core=core)
    merged = {key: curve for _, _, curves in wanted for key, curve in curves.items()}
    return HostTable(core=core, curves=merged, origin=f"profile of {wanted[-1][1]}")


def profile_folder() -> Path:
    """`$TUNER_PROFILES`, or the user's data folder."""
    chosen = os.environ.get("TUNER_PROFILES")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "serving-tuner" / "profiles"


def this_core() -> Core:
    """This machine's, from what Linux says of it; a modest one where it says nothing."""
    fields = _processor()
    flags = set(fields.get("flags", "").split())
    try:
        hertz = float(fields["cpu MHz"]) * 1e6
    except (KeyError, ValueError):
        hertz = 2.5e9
    lanes = 64.0 if "avx512f" in flags else 32.0 if "avx2" in flags else 8.0
    half = 2.0 if flags & {"avx512_bf16", "amx_bf16"} else 0.4
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name = fields.get("model name", "this processor")
    return Core(name=name, count=count, flops_per_s=hertz * lanes, bandwidth_bytes_per_s=1e10, half_precision=half)


def _processor() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _read(path: Path, core: Core) -> tuple[Mapping[str, str], dict[_Key, _Curve]]:
    import pyarrow.parquet as pq  # a third of a second, which a machine without a profile need not spend

    table = pq.read_table(path)
    origin: Mapping[str, str] = json.loads((table.schema.metadata or {})[b"serving_tuner"])
    columns = {name: table.column(name).to_pylist() for name in (*_KEYS, "rows", "median_s")}
    points: dict[_Key, list[tuple[float, float]]] = {}
    for place, seconds in enumerate(columns["median_s"]):
        key: _Key = tuple(columns[name][place] for name in _KEYS)
        rows = float(columns["rows"][place])
        bound = float(_bound_s(core, key, np.array([rows]))[0])
        points.setdefault(key, []).append((math.log(rows), math.log(float(seconds) / bound)))
    return origin, {key: _curve(values) for key, values in points.items()}


def _curve(points: Sequence[tuple[float, float]]) -> _Curve:
    ordered = np.array(sorted(points))
    return ordered[:, 0], ordered[:, 1]


def _key(operator: Operator, tokens: int) -> _Key | None:
    if isinstance(operator, MatMul):
        return (_MATMUL, operator.outputs, operator.inputs, 0, False)
    if isinstance(operator, Attention):
        return (_ATTENTION, operator.heads * operator.head_dim, operator.head_dim, tokens, operator.causal)
    if isinstance(operator, Pointwise):
        if operator.arithmetic:
            return (_ARITHMETIC, operator.moved_width, 0, 0, False)
        return (_NORMALIZATION if operator.normalizes else _ACTIVATION, operator.width, 0, 0, False)
    return None


def _work(key: _Key) -> float:
    kind, width, inner, length, _ = key
    return float(width * (inner if kind == _MATMUL else max(length, 1)))


def _bound_s(core: Core, key: _Key, rows: Array) -> Array:
    kind, width, inner, length, causal = key
    if kind == _MATMUL:
        flops, moved = 2.0 * rows * width * inner, _FLOAT * (width * inner + rows * (width + inner))
    elif kind == _ATTENTION:
        flops, moved = 4.0 * rows * length * width * (0.5 if causal else 1.0), _FLOAT * 4.0 * rows * width
    else:
        flops, moved = np.zeros_like(rows), _FLOAT * 2.0 * rows * width
    return np.maximum(flops / core.flops_per_s, moved / core.bandwidth_bytes_per_s) + _FLOOR_S
