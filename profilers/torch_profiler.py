"""The profilers that `tune profile` finds by entry point: operators on the device at hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from profilers import onnx_calls
from profilers.gpu_probes import gpu_probes, untimed_formats
from profilers.microbenchmark import free_memory_bytes, profile, write_profile
from profilers.operator_tables import write_operator_tables
from profilers.pass_time import PassTime
from profilers.probe import probes
from tuner.model_graph import ModelGraph
from tuner.operators import Operator
from tuner.step import Shard


def profile_model(
    graph: ModelGraph,
    device: str,
    batches: Sequence[int],
    length: int,
    folder: Path,
    limit_s: float,
    watch: Callable[[int, int], None],
    threads: int | None = 1,
    runtime: str | None = None,
    shard: Shard | None = None,
) -> Callable[[Operator, int], tuple[float, bool] | None]:
    """Times a model's operators, those of `folder` not again, and writes `folder/profile.parquet`.

    Args:
        threads: of the CPU; servers that share a machine's cores are told apart by how many each has.
        runtime: `torch` or `onnxruntime`; for `None`, the latter for ONNX models on CPUs where it is installed.
        shard: how the model is cut; its collectives are timed by that many processes or GPUs of this machine.

    Returns:
        Seconds of an operator for a batch of `length`-token sequences and whether that was timed (else it is the bound
        of the device's best rates); `None` where nothing is known of it.
    """
    if runtime is None:
        known = graph.family == "onnx" and device == "cpu" and onnx_calls.is_installed()
        runtime = "onnxruntime" if known else "torch"
    wanted = probes(graph, batches, length, shard)
    place = folder / f"{runtime}-{device.replace(':', '')}-{threads or 'all'}"
    found = profile(wanted, device, place / "journal.jsonl", limit_s, threads, watch, runtime)
    write_profile(found, place / "profile.parquet")
    times = PassTime(found, shard=shard)

    def seconds(operator: Operator, batch: int) -> tuple[float, bool] | None:
        time = times.operator(operator, batch, length)
        return None if time is None else (time.seconds, time.is_timed)

    return seconds


def profile_gpu(
    graph: ModelGraph,
    device: str,
    length: int,
    folder: Path,
    limit_s: float,
    watch: Callable[[int, int], None],
    shard: Shard | None = None,
) -> tuple[Path, list[str]]:
    """Times a model's operators on a GPU over all loads of a server, those of `folder` not again.

    Args:
        length: tokens of a sequence that is surely asked about.
        folder: gets a journal, `profile.parquet`, and operator tables that predictions read.
        shard: how the model is cut; its collectives are timed by that many GPUs of this machine.

    Returns:
        The folder of the tables, called after the device, and what could not be timed, for people.
    """
    gpus = torch.cuda.device_count()
    wanted = gpu_probes(graph, length, free_memory_bytes(device), shard, gpus)
    place = folder / f"torch-{device.replace(':', '')}"
    found = profile(wanted, device, place / "journal.jsonl", limit_s, None, watch)
    write_profile(found, place / "profile.parquet")
    notes = [f"products of {each.value} weights are not timed: torch computes none as engines do"
             for each in sorted(untimed_formats(graph), key=lambda each: each.value)]  # fmt: skip
    if shard is not None and shard.gpus > gpus:
        notes.append(f"sums over {shard.gpus} GPUs are not timed: {gpus} are here")
    if found.missing:
        notes.append(f"{len(found.missing)} of {len(wanted)} were left out by --limit; run the command again to go on")
    reasons = Counter((probe.kind, reason) for probe, reason in found.failed.items())
    notes += [f"{kind}: {count} not timed: {reason}" for (kind, reason), count in sorted(reasons.items())]
    return write_operator_tables(found, place), notes
