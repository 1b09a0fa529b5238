"""Makes the shipped operator tables from the published measurements.

    python benchmarks/performance_tables.py ../shared/data/aiconfigurator profilers/tables

One Parquet file per device and operator. Latencies are kept as 16-bit codes, latency_ms =
exp(code / 3000 - 9): steps of 0.033 %, from 0.12 microseconds to 370 s. Provenance (source file,
software version, device string) travels in each file's metadata.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

SCALE, OFFSET = 3000.0, 9.0
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
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    origins = pd.read_csv(arguments.source / "sources.csv")
    for operator, keys in OPERATORS.items():
        rows = pd.read_csv(arguments.source / f"{operator}.csv.gz")
        for device, part in rows.groupby("system"):
            origin = origins[(origins.table == operator) & (origins.system == device)]
            write(arguments.target / str(device) / f"{operator}.parquet", part, list(keys), origin)


def write(path: Path, rows: pd.DataFrame, keys: list[str], origin: pd.DataFrame) -> None:
    rows = rows.sort_values(keys)
    columns: dict[str, pa.Array] = {}
    for key in keys:
        values = rows[key]
        integers = pd.api.types.is_integer_dtype(values)
        columns[key] = pa.array(values.astype("int32")) if integers else pa.array(values).dictionary_encode()
    codes = np.clip(np.round((np.log(rows.latency_ms.to_numpy()) + OFFSET) * SCALE), 0, 65535)
    columns["latency_code"] = pa.array(codes.astype("uint16"))
    first = origin.iloc[0] if len(origin) else None
    provenance = {
        "format": "serving-tuner operator table 1",
        "source": SOURCE,
        "source_file": "" if first is None else str(first.source_file),
        "device": "" if first is None else str(first.device),
        "software": "" if first is None else f"{first.backend} {first.version}",
        "latency": f"latency_ms = exp(latency_code / {SCALE:g} - {OFFSET:g})",
    }
    table = pa.table(columns).replace_schema_metadata({"serving_tuner": json.dumps(provenance)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd", compression_level=19, use_dictionary=keys, column_encoding=None)


if __name__ == "__main__":
    main()
