"""`tune profile`: what a model is made of, where its time goes, and how long its operators take here."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, cast

import numpy as np
from rich.console import Console
from rich.table import Table

from tuner.cli.performance_inputs import device_catalogue, installed, operator_tables
from tuner.cli.progress import shown_progress
from tuner.errors import UnavailableError, UnknownNameError, UsageError
from tuner.hardware import Hardware, named_gpu
from tuner.model_graph import ModelGraph, key_operators
from tuner.operators import Experts, MatMul, Operator
from tuner.performance.host_table import profile_folder
from tuner.performance.step_time import StepLoads, StepTime
from tuner.step import NumberFormat, OperatorKind, Shard, StepLoad
from tuner.study.read_model import read_model
from tuner.traced_operators import Convolution
from tuner.units import format_bytes, format_seconds

_IN_TABLES: Final = frozenset(
    {OperatorKind.MATMUL, OperatorKind.ATTENTION, OperatorKind.EXPERTS, OperatorKind.COLLECTIVE}
)
"""Kinds that operator tables hold, beside profiled convolutions; the rest is bounded by the device's rates."""


class _OperatorProfiler(Protocol):
    def __call__(
        self,
        graph: ModelGraph,
        device: str,
        batches: Sequence[int],
        length: int,
        folder: Path,
        limit_s: float,
        watch: Callable[[int, int], None],
        threads: int | None,
        runtime: str | None,
        shard: Shard,
    ) -> Callable[[Operator, int], tuple[float, bool] | None]: ...


class _GpuProfiler(Protocol):
    def __call__(
        self,
        graph: ModelGraph,
        device: str,
        length: int,
        folder: Path,
        limit_s: float,
        watch: Callable[[int, int], None],
        shard: Shard,
    ) -> tuple[Path, list[str]]: ...


_Times = Callable[[Operator], tuple[float, bool]]
"""Seconds of an operator, and whether they were timed or looked up (else they are a bound)."""

_NOTHING: Final = "no operator of this model can be timed"


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "profile",
        help="a model's key operators, and their times on a device",
        description="Reads a model and times its operators here, or looks them up for a device of the catalogue.",
        epilog="example: tune profile models/bert --device cpu --show",
    )
    parser.add_argument("model", type=Path, help="an .onnx file, or a folder with a config.json")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or a device of the catalogue (default: cpu)")
    parser.add_argument("--show", action="store_true", help="print where the time goes")
    parser.add_argument("--batch", type=int, default=8, help="sequences of the pass that is shown (default: 8)")
    parser.add_argument("--tokens", type=int, default=128, help="tokens of each sequence (default: 128)")
    parser.add_argument("--decode", action="store_true", help="show a decoding step instead of a prompt's pass")
    parser.add_argument("--tensor-parallel", type=int, default=1, help="GPUs that share the model (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: 1)")
    parser.add_argument(
        "--runtime", choices=("torch", "onnxruntime"), help="whose operators (default: the one that serves the model)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where results are kept (default: where predictions look for them)"
    )
    parser.add_argument("--devices", type=Path, metavar="FILE.yaml", help="your own device catalogue")
    parser.add_argument("--limit", type=float, default=150.0, metavar="SECONDS", help="wall time (default: 150)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    if arguments.batch < 1 or arguments.tokens < 1:
        raise UsageError(f"A pass of {arguments.batch} x {arguments.tokens} tokens is none. Write 1 or more.")
    if arguments.threads < 1 or arguments.limit <= 0:
        raise UsageError(
            f"--threads {arguments.threads} and --limit {arguments.limit:g} leave nothing to time with. "
            "Write 1 thread or more, and more than 0 seconds."
        )
    graph = read_model(arguments.model)
    for assumption in graph.assumptions:
        print(f"note: {assumption}", file=sys.stderr)
    if graph.max_context is not None and arguments.tokens > graph.max_context:
        raise UsageError(
            f"{graph.name} takes sequences of {graph.max_context} tokens at most, --tokens says {arguments.tokens}."
        )
    if arguments.device.startswith("cuda"):
        hardware = _profile_gpu(arguments, graph)
        if hardware is not None and arguments.show:
            _show(graph, _looked_up(arguments, graph, hardware.name), arguments)
        return 0
    times = _measured(arguments, graph) if arguments.device == "cpu" else _looked_up(arguments, graph, arguments.device)
    if arguments.show:
        _show(graph, times, arguments)
    return 0


def _profile_gpu(arguments: argparse.Namespace, graph: ModelGraph) -> Hardware | None:
    """Times operators on a GPU of this machine; its entry in the catalogue, if there is one."""
    if arguments.runtime == "onnxruntime":
        raise UnavailableError("Operators of onnxruntime are timed on the CPU. Write --device cpu or --runtime torch.")
    shard = Shard.tensor_parallel(arguments.tensor_parallel)
    graph.check(shard)
    profiler = cast(_GpuProfiler, installed("tuner.profilers", "gpu"))
    folder = _folder(arguments, graph)
    with shown_progress("operators timed") as watch:
        tables, notes = profiler(graph, arguments.device, arguments.tokens, folder, arguments.limit, watch, shard)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"tables are kept in {tables}", file=sys.stderr)
    hardware = named_gpu(tables.name, device_catalogue(arguments.devices))
    if hardware is None:
        print(
            f"note: the device catalogue has no {tables.name}, so predictions cannot use these times. "
            "Describe it in a file of your own (see search_spaces/devices.yaml) and name that with --devices.",
            file=sys.stderr,
        )
    return hardware


def _folder(arguments: argparse.Namespace, graph: ModelGraph) -> Path:
    chosen: Path | None = arguments.out
    return profile_folder() / _slug(graph.name) if chosen is None else chosen


def _measured(arguments: argparse.Namespace, graph: ModelGraph) -> _Times:
    if arguments.decode:
        raise UsageError("Decoding steps are not timed on CPUs. Name a GPU of the catalogue, or cuda, with --decode.")
    shard = Shard.tensor_parallel(arguments.tensor_parallel)
    graph.check(shard)
    profiler = cast(_OperatorProfiler, installed("tuner.profilers", "torch"))
    batches = sorted({1, 2, 4, 8, 16, arguments.batch})
    folder = _folder(arguments, graph)
    with shown_progress("operators timed") as watch:
        measured = profiler(
            graph, arguments.device, batches, arguments.tokens, folder, arguments.limit, watch, arguments.threads,
            arguments.runtime, shard,
        )  # fmt: skip
    if any(measured(operator, batch) for operator in graph.operators for batch in batches):
        print(f"times are kept in {folder}", file=sys.stderr)
    else:
        in_vain = f"nothing was timed within --limit {arguments.limit:g}: allow more seconds"
        print(in_vain if _can_be_timed(graph) else _NOTHING, file=sys.stderr)
    return lambda operator: measured(operator, arguments.batch) or (0.0, False)


def _can_be_timed(graph: ModelGraph) -> bool:
    return any(operator.kind is not OperatorKind.UNKNOWN for operator in graph.operators)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name) or "model"


def _looked_up(arguments: argparse.Namespace, graph: ModelGraph, device: str) -> _Times:
    catalogue = device_catalogue(arguments.devices)
    if device not in catalogue:
        raise UnknownNameError("device", device, [*catalogue, "cpu", "cuda"])
    shard = Shard.tensor_parallel(arguments.tensor_parallel)
    graph.check(shard)
    _say_unpacked(graph, catalogue[device])
    table = operator_tables(catalogue, arguments.out)[device]
    step = StepTime(graph, table, shard)
    batch, tokens = np.array([float(arguments.batch)]), np.array([float(arguments.tokens)])
    loads = StepLoads.decode(batch, tokens) if arguments.decode else StepLoads.prefill(batch, tokens)

    def times(operator: Operator) -> tuple[float, bool]:
        held = table.holds(operator) if isinstance(operator, Convolution) else operator.kind in _IN_TABLES
        return float(step.operator_s(operator, loads)[1][0]), held

    return times


def _say_unpacked(graph: ModelGraph, hardware: Hardware) -> None:
    """Which formats of weights the device does not multiply in."""
    formats = {operator.format for operator in graph.operators if isinstance(operator, MatMul | Experts)}
    for lacking in sorted(format.value for format in formats if not _multiplies(hardware, format)):
        print(
            f"note: {hardware.label} does not multiply in {lacking}: weights are unpacked to a wider format first",
            file=sys.stderr,
        )


def _multiplies(hardware: Hardware, format: NumberFormat) -> bool:
    """Single precision counts as 16 bits: servers on accelerators convert it on loading."""
    return hardware.computes(NumberFormat.BF16 if format is NumberFormat.FP32 else format)


def _show(graph: ModelGraph, times: _Times, arguments: argparse.Namespace) -> None:
    shard = Shard.tensor_parallel(arguments.tensor_parallel)
    make = StepLoad.decode if arguments.decode else StepLoad.prefill
    load = make(arguments.batch, arguments.tokens)
    what = "decode" if arguments.decode else "prefill" if graph.generates else "pass"
    table = Table(title=f"{graph.name} on {arguments.device}: {what}, {arguments.batch} x {arguments.tokens} tokens")
    for name in ("operator", "kind", "count", "time", "share", "GFLOP", "moved"):
        left = name in ("operator", "kind")
        table.add_column(name, justify="left" if left else "right", overflow="fold" if left else "ellipsis")
    found = {operator: times(operator) for operator in graph.operators}
    total = sum(seconds for seconds, _ in found.values())
    keys = key_operators(graph, lambda operator: found[operator][0])
    for operator, seconds in keys:
        flops, moved = operator.flops(load, shard), operator.bytes_moved(load, shard)
        bound = "" if found[operator][1] else "~"
        cells = [operator.name, operator.kind.value, str(operator.count), bound + format_seconds(seconds)]
        table.add_row(*cells, f"{seconds / total:.1%}", f"{flops / 1e9:.4g}", format_bytes(moved))
    console = Console()
    console.print(table)
    console.print(
        f"{len(keys)} of {len(graph.operators)} operators make up {sum(s for _, s in keys) / total:.0%} of the time"
        if total
        else "nothing was timed within --limit; run the command again to go on"
        if _can_be_timed(graph)
        else _NOTHING
    )
    unknown = [operator.name for operator in graph.operators if operator.kind is OperatorKind.UNKNOWN]
    if unknown:
        console.print(f"unknown operators, counted by their bytes: {', '.join(unknown)}")
    bounds = sum(seconds for seconds, timed in found.values() if not timed)
    if bounds:
        console.print(f"~ bounds by the device's rates, not timed: {bounds / total:.1%} of the time")
    console.print(
        f"{graph.parameters / 1e6:,.1f} M parameters ({graph.active_parameters / 1e6:,.1f} M active), "
        f"weights {format_bytes(graph.weight_bytes(shard))} per device, whole pass {format_seconds(total)}"
    )


if __name__ == "__main__":
    from tuner.cli.performance_inputs import alone

    sys.exit(alone(add))
