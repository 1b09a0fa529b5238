"""A GPU's profile as operator tables, which predictions read as they read the shipped ones."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

from profilers.microbenchmark import Profile
from profilers.probe import Probe, ProbeKind
from tuner.performance.table_file import ALL_REDUCE, CONVOLUTION, DECODE, ENCODER, PREFILL, PROFILED, write_table
from tuner.step import NumberFormat

_DTYPES: Final = {"": "bfloat16", NumberFormat.BF16.value: "bfloat16", NumberFormat.FP8.value: "fp8"}
_Row = dict[str, Any]


def write_operator_tables(found: Profile, folder: Path) -> Path:
    """Writes `folder/operators/<device>/<operator>.parquet` of what was timed, and says where.

    Every table holds the whole of the profile: written anew, it replaces the one before.
    """
    place = folder / PROFILED / re.sub(r"[^a-z0-9]+", "-", found.origin["device"].lower()).strip("-")
    tables: dict[str, list[tuple[_Row, float]]] = defaultdict(list)
    for probe, timing in sorted(found.timings.items()):
        operator, keys = _row(probe)
        if operator:
            tables[operator].append(({"kernel_source": timing.kernel, **keys}, timing.median_s))
    stated = {"source": "tune profile", **{name: found.origin[name] for name in ("device", "software", "date")}}
    for operator, rows in tables.items():
        columns = {name: [keys[name] for keys, _ in rows] for name in rows[0][0]}
        write_table(place / f"{operator}.parquet", columns, [seconds for _, seconds in rows], stated)
    return place


def _row(probe: Probe) -> tuple[str, _Row]:
    """Table and key of a probe; an empty name for what no table holds."""
    if probe.kind == ProbeKind.MATMUL.value:
        return "gemm", {"gemm_dtype": _DTYPES[probe.format], "n": probe.width, "k": probe.inner, "m": probe.rows}
    if probe.kind in (ProbeKind.ATTENTION.value, ProbeKind.DECODE_ATTENTION.value):
        heads = probe.width // probe.inner
        shape: _Row = {
            "kv_cache_dtype": "bfloat16", "head_dim": probe.inner, "window_size": probe.window,
            "num_heads": heads, "num_key_value_heads": probe.kv_heads or heads,
        }  # fmt: skip
        if probe.kind == ProbeKind.DECODE_ATTENTION.value:
            return DECODE, {**shape, "batch_size": probe.rows, "past_kv_len": probe.length}
        batch = max(probe.rows // probe.length, 1)
        return PREFILL if probe.causal else ENCODER, {**shape, "batch_size": batch, "isl": probe.length}
    if probe.kind == ProbeKind.CONVOLUTION.value:
        return CONVOLUTION, {"shape": probe.convolution().shape, "inputs": probe.rows}
    if probe.kind == ProbeKind.ALL_REDUCE.value:
        return ALL_REDUCE, {"backend": "nccl", "num_gpus": probe.rows, "message_elements": probe.inner}
    if probe.kind == ProbeKind.EXPERTS.value:
        known = probe.routing()
        return "moe", {
            "moe_dtype": "bfloat16", "distribution": "uniform", "hidden_size": probe.width, "inter_size": probe.inner,
            "topk": known["chosen"], "num_experts": known["experts"], "moe_tp_size": known["tensor"],
            "moe_ep_size": known["groups"], "num_tokens": probe.rows,
        }  # fmt: skip
    return "", {}
