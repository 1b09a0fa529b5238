"""`tune profile`: what a model is made of, where its time goes, and how long its operators take here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from rich.console import Console
from rich.table import Table

from tuner.cli.performance_inputs import installed, read_model
from tuner.errors import UnknownNameError, UsageError
from tuner.hardware import Hardware
from tuner.model_graph import ModelGraph, key_operators
from tuner.operators import Operator
from tuner.performance.step_time import StepLoads, StepTime
from tuner.performance.table_choice import tables_for
from tuner.step import OperatorKind, Shard, StepLoad
from tuner.units import format_bytes, format_seconds


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
    ) -> Callable[[Operator, int], float | None]: ...


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
    parser.add_argument("--out", type=Path, default=Path("profile"), metavar="DIR", help="where results are kept")
    parser.add_argument("--limit", type=float, default=150.0, metavar="SECONDS", help="wall time (default: 150)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    if arguments.batch < 1 or arguments.tokens < 1:
        raise UsageError(f"A pass of {arguments.batch} x {arguments.tokens} tokens is none. Write 1 or more.")
    graph = read_model(arguments.model)
    for assumption in graph.assumptions:
        print(f"note: {assumption}", file=sys.stderr)
    if arguments.device == "cpu" or arguments.device.startswith("cuda"):
        seconds = _measured(arguments, graph)
    else:
        seconds = _looked_up(arguments, graph)
    if arguments.show:
        _show(graph, seconds, arguments)
    return 0


def _measured(arguments: argparse.Namespace, graph: ModelGraph) -> Callable[[Operator], float]:
    if arguments.decode:
        raise UsageError("Decoding steps are looked up, not timed here. Name a device of the catalogue with --decode.")
    profiler = cast(_OperatorProfiler, installed("tuner.profilers", "torch"))
    batches = sorted({1, 2, 4, 8, 16, arguments.batch})

    def watch(done: int, total: int) -> None:
        print(f"\r{done} of {total} operators timed", end="" if done < total else "\n", file=sys.stderr, flush=True)

    measured = profiler(graph, arguments.device, batches, arguments.tokens, arguments.out, arguments.limit, watch)
    return lambda operator: measured(operator, arguments.batch) or 0.0


def _looked_up(arguments: argparse.Namespace, graph: ModelGraph) -> Callable[[Operator], float]:
    catalogue = cast(Callable[[], Mapping[str, Hardware]], installed("tuner.device_catalogues", "shipped"))()
    if arguments.device not in catalogue:
        raise UnknownNameError("device", arguments.device, [*catalogue, "cpu", "cuda"])
    folder = cast(Callable[[], Path], installed("tuner.operator_tables", "shipped"))()
    shard = Shard.tensor_parallel(arguments.tensor_parallel)
    graph.check(shard)
    step = StepTime(graph, tables_for(catalogue, folder)[arguments.device], shard)
    batch, tokens = np.array([float(arguments.batch)]), np.array([float(arguments.tokens)])
    loads = StepLoads.decode(batch, tokens) if arguments.decode else StepLoads.prefill(batch, tokens)
    return lambda operator: float(step.operator_s(operator, loads)[1][0])


def _show(graph: ModelGraph, seconds: Callable[[Operator], float], arguments: argparse.Namespace) -> None:
    shard = Shard.tensor_parallel(arguments.tensor_parallel)
    make = StepLoad.decode if arguments.decode else StepLoad.prefill
    load = make(arguments.batch, arguments.tokens)
    what = "decode" if arguments.decode else "prefill"
    table = Table(title=f"{graph.name} on {arguments.device}: {what}, {arguments.batch} x {arguments.tokens} tokens")
    for name in ("operator", "kind", "count", "time", "share", "GFLOP", "moved"):
        table.add_column(name, justify="left" if name in ("operator", "kind") else "right")
    total = sum(seconds(operator) for operator in graph.operators)
    for operator, time in key_operators(graph, seconds):
        flops, moved = operator.flops(load, shard), operator.bytes_moved(load, shard)
        cells = [operator.name, operator.kind.value, str(operator.count), format_seconds(time), f"{time / total:.1%}"]
        table.add_row(*cells, f"{flops / 1e9:.4g}", format_bytes(moved))
    console = Console()
    console.print(table)
    unknown = [operator.name for operator in graph.operators if operator.kind is OperatorKind.UNKNOWN]
    if unknown:
        console.print(f"unknown operators, counted by their bytes: {', '.join(unknown)}")
    console.print(
        f"{graph.parameters / 1e6:,.1f} M parameters ({graph.active_parameters / 1e6:,.1f} M active), "
        f"weights {format_bytes(graph.weight_bytes(shard))} per device, whole pass {format_seconds(total)}"
    )


if __name__ == "__main__":
    from tuner.cli.performance_inputs import alone

    sys.exit(alone(add))
