"""Makes operator tables that ship from profiles that others published, of GPUs that no other table is of.

    python benchmarks/published_profiles.py ../shared/data profilers/tables/profiled
    python benchmarks/published_profiles.py ../shared/data profilers/tables/profiled --judge

LLMServingSim timed dense layers and attention of whole mixed batches inside vLLM 0.19 (RTX 4090, RTX PRO 6000): tables
keep what decoding takes beside a chunk of 512 tokens, and pooled what unequal contexts cost. Of an RTX A6000 and an
RTX 3090 it timed layers in PyTorch, and Vidur those of an A40, tensor-parallel shards included.

Judging says how far off the products are that other devices' tables would make of each, by the roofline.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search_spaces.device_catalogue import catalogue
from tuner.hardware import named_gpu
from tuner.performance.operator_table import OperatorTable
from tuner.performance.table_choice import tables_for
from tuner.performance.table_file import DECODE, MIXED, PREFILL, PROFILED, UNEQUAL, read_table, write_table
from tuner.step import NumberFormat

Rows = list[dict[str, Any]]

SERVING_SIM = "casys-kaist/LLMServingSim 5daddb21a545658d5150b535712d0494584b5278, MIT, changed copy"
VIDUR = "microsoft/vidur 7d47513363ec447a741ac5e47241580b47724fbf, MIT, changed copy"
IN_VLLM = {"RTX4090": "nvidia-geforce-rtx-4090", "RTXPRO6000": "nvidia-rtx-pro-6000-blackwell"}
IN_TORCH = {"A6000": "nvidia-rtx-a6000", "RTX3090": "nvidia-geforce-rtx-3090"}
CHUNK = 512
TIMER_US = 3.0
"""Below, the spread of the timer decides what unequal contexts cost."""
LLAMA = "meta-llama/Llama-3.1-8B"
SHAPES: dict[str, dict[str, int]] = {
    LLAMA: {"hidden": 4096, "inner": 14336, "heads": 32, "kv_heads": 8, "words": 128256},
    "Qwen/Qwen3-30B-A3B-Instruct-2507": {"hidden": 2048, "inner": 0, "heads": 32, "kv_heads": 4, "words": 151936},
}
LAYERS = {
    "q_proj": (4096, 4096), "k_proj": (1024, 4096), "v_proj": (1024, 4096), "o_proj": (4096, 4096),
    "gate_proj": (14336, 4096), "up_proj": (14336, 4096), "down_proj": (4096, 14336), "lm_head": (128256, 4096),
}  # fmt: skip
HEAD_DIM = 128
POINTS = 80
"""Numbers of tokens that are kept of each product, evenly in their logarithms."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--judge", action="store_true")
    arguments = parser.parse_args()
    if arguments.judge:
        judge(arguments.target)
        return
    serving_sim(arguments.data / "llmservingsim", arguments.target / "llmservingsim" / PROFILED)
    vidur(arguments.data / "vidur", arguments.target / "vidur" / PROFILED)


def serving_sim(source: Path, target: Path) -> None:
    """LLMServingSim's profiles, those in vLLM and the older ones in PyTorch."""
    read = {name: pd.read_csv(source / f"v1_{name}.csv.gz") for name in ("dense", "per_sequence", "attention", "skew")}
    for hardware, device in IN_VLLM.items():
        tables: dict[str, Rows] = {"gemm": [], PREFILL: [], DECODE: [], MIXED: [], UNEQUAL: []}
        for (model, tensor), rows in of(read["attention"], hardware).groupby(["model", "tp"]):
            shape = attention_shape(SHAPES[model], tensor)
            for operator, found in attention(rows).items():
                tables[operator] += [{**shape, **row} for row in found]
            tables[UNEQUAL] += [{**shape, **row} for row in unequal(of(read["skew"], hardware, model, tensor))]
            layers = pd.concat([of(read[name], hardware, model, tensor) for name in ("dense", "per_sequence")])
            tables["gemm"] += fused_products(layers, SHAPES[model], tensor)
        for operator, table in tables.items():
            write(target / device / f"{operator}.parquet", table, SERVING_SIM, hardware, "vllm 0.19.0, eager")
    older = pd.read_csv(source / "v0_layers.csv.gz")
    for hardware, device in IN_TORCH.items():
        layers = of(older, hardware, LLAMA, 1)
        table = [
            row
            for layer, shape in LAYERS.items()
            for row in products(shape, layers[layers.layer_name == layer], "tokens", "latency_ns", 1e-3)
        ]
        write(target / device / "gemm.parquet", table, SERVING_SIM, hardware, "torch, 2025")


def vidur(source: Path, target: Path) -> None:
    """Vidur's layers of an A40, which has no other table."""
    sizes = pd.read_csv(source / "model_shapes.csv").set_index("model")
    layers = pd.read_csv(source / "mlp.csv.gz")
    layers = layers[layers.device == "a40"]
    table: Rows = []
    for (model, tensor), rows in layers.groupby(["model", "tp"]):
        size = sizes.loc[model]
        head, gates = size.n_embd // size.n_q_head, 2 if size.use_gated_mlp else 1
        shapes = layer_shapes(size.n_embd, size.mlp_hidden, head * size.n_q_head, head * size.n_kv_head, tensor, gates)
        names = ("attn_pre_proj", "attn_post_proj", "mlp_up_proj", "mlp_down_proj")
        for layer, shape in zip(names, shapes, strict=True):
            table += products(shape, rows[rows.op == layer], "num_tokens", "median_ms", 1e3)
    write(target / "nvidia-a40" / "gemm.parquet", table, VIDUR, "A40", "torch, 2024")


def write(path: Path, table: Rows, source: str, device: str, software: str) -> None:
    columns = pd.DataFrame(table).sort_values("time_us").drop_duplicates([key for key in table[0] if key != "time_us"])
    columns = columns.sort_values([key for key in table[0] if key != "time_us"])
    keys = {name: columns[name].tolist() for name in columns if name != "time_us"}
    stated = {"source": source, "device": device, "software": software}
    write_table(path, keys, (columns.time_us * 1e-6).tolist(), stated)
    print(f"{path.parent.name} {path.stem}: {len(columns)} rows")


def judge(target: Path) -> None:
    """Products by the most alike device's tables, over what was timed."""
    devices, logs = catalogue(), []
    borrowed = tables_for(devices, target.parent)
    for path in sorted(target.glob(f"*/{PROFILED}/*/gemm.parquet")):
        device = named_gpu(path.parent.name, devices)
        if device is None or (target.parent / device.name).is_dir():
            continue
        table, rows = borrowed[device.name], read_table(path)
        lender = OperatorTable(device, target.parent / table.measured.name, table.measured)
        sizes = (rows.values[name].astype(float) for name in ("n", "k", "m"))
        errors = lender.matmul_s(NumberFormat.BF16, *sizes) / rows.latency_s - 1.0
        logs.append(np.quantile(-np.log1p(errors), np.linspace(0.0, 1.0, 201)))
        print(
            f"{device.name}: {errors.size} products by {table.measured.name}: mean error {np.abs(errors).mean():.1%}, "
            f"mean {errors.mean():+.1%}, 90 % within {np.quantile(np.abs(errors), 0.9):.0%}"
        )
    low, high = np.quantile(np.concatenate(logs), [0.05, 0.95])
    print(f"log(timed / borrowed), devices in equal shares: 5 and 95 % quantiles {low:.2f} and {high:.2f}")


def of(rows: pd.DataFrame, hardware: str, model: str | None = None, tensor: int | None = None) -> pd.DataFrame:
    rows = rows[rows.hardware == hardware]
    return rows if model is None else rows[(rows.model == model) & (rows.tp == tensor)]


def attention_shape(model: dict[str, int], tensor: int) -> dict[str, int | str]:
    return {
        "kernel_source": "vllm_flash_attn", "kv_cache_dtype": "bfloat16", "head_dim": HEAD_DIM, "window_size": 0,
        "num_heads": model["heads"] // tensor, "num_key_value_heads": model["kv_heads"] // tensor,
    }  # fmt: skip


def attention(rows: pd.DataFrame) -> dict[str, Rows]:
    """Decoding alone, prompts without a prefix alone, and what decoding adds to a chunk (no less than alone)."""
    decoding = rows[(rows.prefill_chunk == 0) & (rows.n_decode > 0)]
    prompts = rows[(rows.n_decode == 0) & (rows.kv_prefill == 0) & (rows.prefill_chunk > 0)]
    alone = decoding.set_index(["n_decode", "kv_decode"]).time_us
    (chunk_us,) = prompts[prompts.prefill_chunk == CHUNK].time_us
    beside = rows[(rows.prefill_chunk == CHUNK) & (rows.kv_prefill == 0) & (rows.n_decode > 0)]
    whole = beside.set_index(["n_decode", "kv_decode"]).time_us
    both = whole.index.intersection(alone.index)
    added = (whole[both] - chunk_us).clip(lower=alone[both])
    return {
        PREFILL: [{"batch_size": 1, "isl": row.prefill_chunk, "time_us": row.time_us} for row in prompts.itertuples()],
        DECODE: decode_rows(alone),
        MIXED: decode_rows(added),
    }


def decode_rows(times: pd.Series) -> Rows:
    return [{"batch_size": batch, "past_kv_len": context, "time_us": time} for (batch, context), time in times.items()]


def unequal(rows: pd.DataFrame) -> Rows:
    """Times of all batches together: were all contexts the mean one, were they the longest, and as they are."""
    told = rows[rows.t_max_us > rows.t_mean_us + TIMER_US]
    return [
        {"beside_prompts": int(regime == "mixed"), "contexts": contexts, "time_us": float(part[column].sum())}
        for regime, part in told.groupby("regime")
        for contexts, column in (("mean", "t_mean_us"), ("longest", "t_max_us"), ("unequal", "t_skew_us"))
    ]


def fused_products(layers: pd.DataFrame, model: dict[str, int], tensor: int) -> Rows:
    hidden, queries, keys = model["hidden"], HEAD_DIM * model["heads"], HEAD_DIM * model["kv_heads"]
    of_layers = layer_shapes(hidden, model["inner"], queries, keys, tensor)
    shapes = dict(zip(("qkv_proj", "o_proj", "gate_up_proj", "down_proj"), of_layers, strict=True))
    shapes["lm_head"] = (model["words"] // tensor, hidden)
    layers = layers.assign(rows=layers.tokens.fillna(layers.sequences))
    return [
        row
        for layer, shape in shapes.items()
        if all(shape)
        for row in products(shape, layers[layers.layer == layer], "rows", "time_us", 1.0)
    ]


def layer_shapes(
    hidden: int, inner: int, queries: int, keys: int, tensor: int, gates: int = 2
) -> tuple[tuple[int, int], ...]:
    """Of a shard's products: into attention, out of it, up (with the gate, where there is one) and down."""
    return (
        ((queries + 2 * keys) // tensor, hidden),
        (hidden, queries // tensor),
        (gates * inner // tensor, hidden),
        (hidden, inner // tensor),
    )


def products(shape: tuple[int, int], timed: pd.DataFrame, rows: str, time: str, micros: float) -> Rows:
    """A layer's product at up to `POINTS` numbers of tokens (or, of the output layer, of sequences)."""
    times = timed.groupby(rows)[time].median().sort_index() * micros
    steps = np.unique(np.searchsorted(times.index, np.geomspace(1, times.index.max(), POINTS)))
    return [
        {
            "kernel_source": "torch", "gemm_dtype": "bfloat16", "n": int(shape[0]), "k": int(shape[1]),
            "m": int(times.index[step]), "time_us": float(times.iloc[step]),
        }
        for step in steps
    ]  # fmt: skip


if __name__ == "__main__":
    main()
