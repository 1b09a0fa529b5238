"""Makes the shipped operator tables from the published measurements, or judges them.

    python benchmarks/performance_tables.py ../shared/data/aiconfigurator profilers/tables
    python benchmarks/performance_tables.py --judge profilers/tables

Judging predicts each measured point from its neighbours without it, in up to `--shapes` shapes of each operator,
number format and device, evenly spread over the shapes in their order.

One Parquet file per device and operator. Latencies are kept as 16-bit codes, latency_ms =
exp(code / 3000 - 9): steps of 0.033 %, from 0.12 microseconds to 370 s. Provenance (source file,
software version, device string) travels in each file's metadata.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from search_spaces.device_catalogue import catalogue
from tuner.performance.operator_table import OperatorTable
from tuner.performance.table_file import read_table, write_table
from tuner.step import NumberFormat

SOURCE = "ai-dynamo/aiconfigurator 095f58a51c4ca8e61b66ec108d86f223f8d559ce, Apache-2.0, changed copy"
OPERATORS = {
    "gemm": ("gemm_dtype", "kernel_source", "n", "k", "m"),
    "context_attention": (
        "kv_cache_dtype", "kernel_source", "head_dim", "window_size", "num_heads", "num_key_value_heads",
        "batch_size", "isl",
    ),
    "generation_attention": (
        "kv_cache_dtype", "kernel_source", "head_dim", "window_size", "num_heads", "num_key_value_heads",
        "batch_size", "past_kv_len",
    ),
    "moe": (
        "moe_dtype", "kernel_source", "distribution", "hidden_size", "inter_size", "topk", "num_experts",
        "moe_tp_size", "moe_ep_size", "num_tokens",
    ),
    "custom_allreduce": ("backend", "num_gpus", "message_elements"),
    "nccl": ("op_name", "nccl_dtype", "num_gpus", "message_elements"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("target", type=Path)
    parser.add_argument("--judge", action="store_true")
    parser.add_argument("--shapes", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.judge:
        judge(arguments.target, arguments.shapes)
        return
    if arguments.source is None:
        parser.error("name the folder of measurements, or judge with --judge")
    origins = pd.read_csv(arguments.source / "sources.csv")
    for operator, keys in OPERATORS.items():
        rows = pd.read_csv(arguments.source / f"{operator}.csv.gz")
        for device, part in rows.groupby("system"):
            origin = origins[(origins.table == operator) & (origins.system == device)]
            write(arguments.target / str(device) / f"{operator}.parquet", part, list(keys), origin)


def judge(folder: Path, shapes: int) -> None:
    """Prints, for every device and operator, the errors that its table states of the shapes asked about."""
    for name, hardware in catalogue().items():
        if not (folder / name).is_dir():
            continue
        table = OperatorTable(hardware, folder / name)
        for operator in ("gemm", "context_attention", "generation_attention", "moe", "all_reduce"):
            ask(table, folder / name, operator, shapes)
            error = table.left_out(operator)
            if error is not None:
                print(
                    f"{name:20} {operator:20} {error.points:8d} points: inside {error.inside:6.1%} "
                    f"(p90 {error.inside_p90:6.1%}), at the edges {error.outside:6.1%} (p90 {error.outside_p90:6.1%})"
                )


def ask(table: OperatorTable, folder: Path, operator: str, shapes: int) -> None:
    """Lets the table build its grids of a sample of measured shapes."""
    if operator == "gemm":
        for kept in (NumberFormat.BF16, NumberFormat.FP8, NumberFormat.NVFP4):
            table.matmul_s(kept, 4096, 4096, 64)
    elif operator == "all_reduce":
        for devices in (2, 4, 8):
            table.all_reduce_s(devices, 1e6)
    elif (path := folder / f"{operator}.parquet").is_file():
        columns = read_table(path)
        if operator == "moe":
            keys = ("hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")
            for kept in (NumberFormat.BF16, NumberFormat.FP8_BLOCK, NumberFormat.NVFP4, NumberFormat.MXFP4):
                for hidden, inner, chosen, experts, tensor, groups in spread(columns.distinct(*keys), shapes):
                    table.experts_s(kept, hidden, inner, chosen, experts, tensor, groups, 64)
            return
        keys = ("num_heads", "num_key_value_heads", "head_dim", "window_size")
        time = table.prefill_attention_s if operator == "context_attention" else table.decode_attention_s
        for kept in (NumberFormat.BF16, NumberFormat.FP8):
            for heads, kv_heads, dims, window in spread(columns.distinct(*keys), shapes):
                time(heads, kv_heads, dims, window, kept, 8, 1024)


def spread(shapes: list[tuple[int, ...]], count: int) -> list[tuple[int, ...]]:
    """`count` of them, evenly over their order."""
    places = np.unique(np.linspace(0, len(shapes) - 1, min(count, len(shapes))).round().astype(int))
    return [shapes[place] for place in places]


def write(path: Path, rows: pd.DataFrame, keys: list[str], origin: pd.DataFrame) -> None:
    rows = rows.sort_values(keys)
    first = origin.iloc[0] if len(origin) else None
    stated = {
        "source": SOURCE,
        "source_file": "" if first is None else str(first.source_file),
        "device": "" if first is None else str(first.device),
        "software": "" if first is None else f"{first.backend} {first.version}",
    }
    write_table(path, {key: rows[key].tolist() for key in keys}, (rows.latency_ms * 1e-3).tolist(), stated)


if __name__ == "__main__":
    main()
