"""Makes the operator tables that ship of an RTX 4090 and an RTX PRO 6000 from profiles taken inside vLLM 0.19.

    python benchmarks/llmservingsim_tables.py ../shared/data/llmservingsim profilers/tables/profiled/llmservingsim

The profiles are those of LLMServingSim: dense layers by tokens, and attention of whole mixed batches, of which
tables keep what decoding takes beside a chunk of 512 tokens, and pooled what unequal contexts cost.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from tuner.performance.table_file import DECODE, MIXED, PREFILL, PROFILED, UNEQUAL, write_table

SOURCE = "casys-kaist/LLMServingSim 5daddb21a545658d5150b535712d0494584b5278, MIT, changed copy"
DEVICES = {"RTX4090": "nvidia-geforce-rtx-4090", "RTXPRO6000": "nvidia-rtx-pro-6000-blackwell"}
CHUNK = 512
TIMER_US = 3.0
"""Below, the spread of the timer decides what unequal contexts cost."""
SHAPES: dict[str, dict[str, int]] = {
    "meta-llama/Llama-3.1-8B": {"hidden": 4096, "inner": 14336, "heads": 32, "kv_heads": 8, "words": 128256},
    "Qwen/Qwen3-30B-A3B-Instruct-2507": {"hidden": 2048, "inner": 0, "heads": 32, "kv_heads": 4, "words": 151936},
}
HEAD_DIM = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    read = {
        name: pd.read_csv(arguments.source / f"v1_{name}.csv.gz") for name in ("dense", "per_sequence", "attention")
    }
    skew = pd.read_csv(arguments.source / "v1_skew.csv.gz")
    for hardware, device in DEVICES.items():
        place = arguments.target / PROFILED / device
        tables: dict[str, list[dict[str, Any]]] = {"gemm": [], PREFILL: [], DECODE: [], MIXED: [], UNEQUAL: []}
        for (model, tensor), rows in of(read["attention"], hardware).groupby(["model", "tp"]):
            shape = attention_shape(SHAPES[model], tensor)
            for operator, found in attention(rows).items():
                tables[operator] += [{**shape, **row} for row in found]
            tables[UNEQUAL] += [{**shape, **row} for row in unequal(of(skew, hardware, model, tensor))]
            layers = pd.concat([of(read[name], hardware, model, tensor) for name in ("dense", "per_sequence")])
            tables["gemm"] += products(layers, SHAPES[model], tensor)
        for operator, table in tables.items():
            columns = pd.DataFrame(table).drop_duplicates([key for key in table[0] if key != "time_us"])
            keys = {name: columns[name].tolist() for name in columns if name != "time_us"}
            stated = {"source": SOURCE, "device": hardware, "software": "vllm 0.19.0, eager"}
            write_table(place / f"{operator}.parquet", keys, (columns.time_us * 1e-6).tolist(), stated)
            print(f"{device} {operator}: {len(columns)} rows")


def of(rows: pd.DataFrame, hardware: str, model: str | None = None, tensor: int | None = None) -> pd.DataFrame:
    rows = rows[rows.hardware == hardware]
    return rows if model is None else rows[(rows.model == model) & (rows.tp == tensor)]


def attention_shape(model: dict[str, int], tensor: int) -> dict[str, int | str]:
    return {
        "kernel_source": "vllm_flash_attn", "kv_cache_dtype": "bfloat16", "head_dim": HEAD_DIM, "window_size": 0,
        "num_heads": model["heads"] // tensor, "num_key_value_heads": model["kv_heads"] // tensor,
    }  # fmt: skip


def attention(rows: pd.DataFrame) -> dict[str, list[dict[str, Any]]]:
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


def decode_rows(times: pd.Series) -> list[dict[str, Any]]:
    return [{"batch_size": batch, "past_kv_len": context, "time_us": time} for (batch, context), time in times.items()]


def unequal(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """Times of all batches together: were all contexts the mean one, were they the longest, and as they are."""
    told = rows[rows.t_max_us > rows.t_mean_us + TIMER_US]
    return [
        {"beside_prompts": int(regime == "mixed"), "contexts": contexts, "time_us": float(part[column].sum())}
        for regime, part in told.groupby("regime")
        for contexts, column in (("mean", "t_mean_us"), ("longest", "t_max_us"), ("unequal", "t_skew_us"))
    ]


def products(layers: pd.DataFrame, model: dict[str, int], tensor: int) -> list[dict[str, Any]]:
    queries = HEAD_DIM * model["heads"] // tensor
    shapes = {
        "qkv_proj": (queries + 2 * HEAD_DIM * model["kv_heads"] // tensor, model["hidden"]),
        "o_proj": (model["hidden"], queries),
        "gate_up_proj": (2 * model["inner"] // tensor, model["hidden"]),
        "down_proj": (model["hidden"], model["inner"] // tensor),
        "lm_head": (model["words"] // tensor, model["hidden"]),
    }
    return [
        {"kernel_source": "vllm", "gemm_dtype": "bfloat16", "n": n, "k": k, "m": int(rows), "time_us": float(time)}
        for layer, (n, k) in shapes.items()
        for rows, time in rows_and_times(layers[layers.layer == layer])
    ]


def rows_and_times(layer: pd.DataFrame) -> list[tuple[float, float]]:
    """By tokens, or, of the output layer, by sequences."""
    counts = layer.tokens.fillna(layer.sequences)
    return list(zip(counts.tolist(), layer.time_us.tolist(), strict=True))


if __name__ == "__main__":
    main()
