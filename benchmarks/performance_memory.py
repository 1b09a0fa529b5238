"""Judges the memory rules: nothing that ran may be refused, and most of what ran out of memory should be.

    python benchmarks/performance_memory.py ../shared/data ../shared/models

`silicon_e2e`: the rule from the model's graph, at the largest share of the memory that an engine is given in practice.
`parvagpu`: the rule learned from trials, each configuration from the others of its model, and from a few drawn ones.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections import Counter
from pathlib import Path

import numpy as np

from profilers.huggingface.reader import HuggingFaceReader
from search_spaces.device_catalogue import catalogue
from tuner.performance.fitted_memory import FittedMemory, MemoryTrial
from tuner.performance.memory import memory_need
from tuner.performance.serving_row import effective_shard, read_row, resolved_formats
from tuner.step import NumberFormat

LARGEST_SHARE = 0.95
SLICES = {"1": 10, "2": 20, "3": 40, "4": 40, "7": 80}
"""GB of an A100 80GB's MIG slices, by compute slices (NVIDIA MIG User Guide)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("models", type=Path)
    arguments = parser.parse_args()
    silicon(arguments.data / "aiconfigurator" / "silicon_e2e.csv.gz", arguments.models)
    parvagpu(arguments.data / "parvagpu" / "mig_mps_grid.csv.gz")


def silicon(path: Path, models: Path) -> None:
    """All rows ran."""
    reader, devices = HuggingFaceReader(), catalogue()
    refused: Counter[str] = Counter()
    with gzip.open(path, "rt", encoding="utf-8") as file:
        raw = list(csv.DictReader(file))
    graphs = {name: reader.read(models / name.replace("/", "--")) for name in {row["model_path"] for row in raw}}
    for values in raw:
        row = read_row(values)
        hardware = devices[row.device]
        weights, experts = resolved_formats(row, graphs[row.model])
        formats = [kept for kept in (experts, weights) if kept is not None]
        graph = reader.read(models / row.model.replace("/", "--"), formats[0]) if formats else graphs[row.model]
        shard, _ = effective_shard(graph, row.decode.shard, hardware.node_devices)
        tokens = row.input_tokens + row.output_tokens
        need = memory_need(
            graph, shard, hardware.memory_bytes, tokens, cache=NumberFormat.FP8, utilization=LARGEST_SHARE
        )
        if need.refusal is not None:
            refused[f"{row.model} {row.device} {values['mode']} on {shard.gpus} GPU(s): {need.refusal}"] += 1
    print(f"silicon_e2e: {len(raw)} rows that ran, {refused.total()} refused")
    for text, count in refused.most_common():
        print(f"  {count:4d} {text}")


def parvagpu(path: Path) -> None:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        raw = list(csv.DictReader(file))
    for title, drawn in (("all others", None), ("20 drawn", 20), ("10 drawn", 10)):
        right: Counter[bool] = Counter()
        every: Counter[bool] = Counter()
        for model in sorted({row["model"] for row in raw}):
            trials = [
                MemoryTrial(
                    copies=int(row["num_processes"]),
                    batch=int(row["batch_size"]),
                    memory_bytes=SLICES[row["mig_gpcs"]] * 1e9,
                    ran=row["feasible"] == "1",
                )
                for row in raw
                if row["model"] == model
            ]
            refusals(trials, drawn, right, every)
        print(
            f"parvagpu, from {title} of its model: {right[False]} of {every[False]} out of memory refused "
            f"({right[False] / every[False]:.1%}), {right[True]} of {every[True]} that ran refused"
        )


def refusals(trials: list[MemoryTrial], drawn: int | None, right: Counter[bool], every: Counter[bool]) -> None:
    """Counts refusals and configurations, by whether they ran."""
    if drawn is not None:
        order = np.random.default_rng(0).permutation(len(trials))
        rule = FittedMemory([trials[place] for place in order[:drawn]])
        asked = [(rule, trials[place]) for place in order[drawn:]]
    else:
        asked = [(FittedMemory(trials[:place] + trials[place + 1 :]), trial) for place, trial in enumerate(trials)]
    for rule, trial in asked:
        every[trial.ran] += 1
        right[trial.ran] += rule.refuses(trial.copies, trial.batch, trial.memory_bytes)


if __name__ == "__main__":
    main()
