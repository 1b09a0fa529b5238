"""Judges the simulator on real vLLM runs and beside Vidur's own outputs.

    python benchmarks/performance_simulator.py ../shared/data

The first part uses operator profiles taken on the same two machines as the runs (`llmservingsim`), the second
Vidur's operator profiles and the requests that Vidur simulated (`vidur`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search_spaces.device_catalogue import catalogue
from tuner.performance.simulation.continuous import Requests, Scheduler, Served, simulate
from tuner.performance.simulation.ranks import Together, captured_sizes, simulate_ranks
from tuner.performance.simulation.step_tables import StepTables

Array = NDArray[np.float64]
TABLES = Path(__file__).resolve().parents[1] / "profilers" / "tables"
MIXTURE = "Qwen3-30B-A3B-Instruct-2507"
LLAMA = {"layers": 32, "twice": ("layernorm",), "once": ("embedding", "final_layernorm")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args()
    real(arguments.data / "llmservingsim")
    beside_vidur(arguments.data)


def real(folder: Path) -> None:
    """Measured vLLM 0.19 runs."""
    meta = json.loads((folder / "real_vllm_meta.json").read_text())
    runs = pd.read_csv(folder / "real_vllm_requests.csv.gz")
    cache = {"RTX4090/Llama-3.1-8B": 2588}
    for (hardware, model), rows in runs.groupby(["hardware", "model"]):
        settings = meta[f"{hardware}/{model}"]["engine_kwargs"]
        tables = profile_tables(folder, str(hardware), str(model))
        ranks = settings["data_parallel_size"]
        rows = as_sent(rows)
        requests = requests_of(rows)
        blocks = cache.get(f"{hardware}/{model}") or 30_000
        scheduler = Scheduler(
            max_num_seqs=settings["max_num_seqs"],
            max_num_batched_tokens=settings["max_num_batched_tokens"],
            blocks=blocks,
            prefix_caching=True,
        )
        if ranks > 1:
            captured = captured_sizes(settings["max_num_seqs"], settings["max_num_batched_tokens"])
            together = experts_together(folder, ranks, captured)
            served = simulate_ranks(requests, ranks, scheduler, tables, together)
        else:
            served = simulate(requests, scheduler, tables)
        beside_run(f"{hardware} {model}", rows, requests, served)


def as_sent(rows: pd.DataFrame) -> pd.DataFrame:
    """A run in the order in which the client sent its requests, with `sent_s` on the engine's clock; it is then that a
    rank is chosen.

    The engine notes a request (`queued_s`) between two of its steps, and simulated steps end at other times. Each clock
    starts at its first request; as none is noted before it is sent, the least lead of the notes is taken for the
    difference of the clocks.
    """
    return rows.assign(sent_s=rows.arrival_s + (rows.queued_s - rows.arrival_s).min()).sort_values("sent_s")


def requests_of(rows: pd.DataFrame) -> Requests:
    """The requests of a run `as_sent`."""
    return Requests(
        arrival_s=rows.sent_s.to_numpy(float),
        input_tokens=rows.input_tokens.to_numpy(np.int64),
        output_tokens=rows.output_tokens.to_numpy(np.int64),
    )


def beside_run(title: str, rows: pd.DataFrame, requests: Requests, served: Served) -> None:
    """Prints what is simulated beside a run `as_sent`."""
    compare(
        title,
        requests,
        served.first_token_s,
        served.finished_s,
        (rows.first_token_s - rows.sent_s).to_numpy(float),
        ((rows.last_token_s - rows.first_token_s) / (rows.output_tokens - 1)).to_numpy(float),
        float(rows.last_token_s.max()),
    )


def profile_tables(folder: Path, hardware: str, model: str) -> StepTables:
    """Step tables from profiles taken inside vLLM; without experts' layers."""
    dense = pd.read_csv(folder / "v1_dense.csv.gz")
    dense = dense[(dense.hardware == hardware) & dense.model.str.endswith(model) & (dense.tp == 1)]
    wide = dense.pivot_table(index="tokens", columns="layer", values="time_us")
    layers = 48 if "30B" in model else 32
    each = sum(wide[name] * (2 if name == "layernorm" else 1) for name in wide if name not in LLAMA["once"])
    tokens = wide.index.to_numpy(float)
    token_us = (each * layers + sum(wide[name] for name in LLAMA["once"])).to_numpy(float)
    last = pd.read_csv(folder / "v1_per_sequence.csv.gz")
    last = last[(last.hardware == hardware) & last.model.str.endswith(model) & (last.tp == 1)]
    sampled = last.groupby("sequences").time_us.sum()
    attention = pd.read_csv(folder / "v1_attention.csv.gz")
    attention = attention[(attention.hardware == hardware) & attention.model.str.endswith(model) & (attention.tp == 1)]
    batches, contexts, decode = plane(attention[attention.prefill_chunk == 0], "n_decode", "kv_decode")
    chunks, cached, prefill = plane(attention[attention.n_decode == 0], "prefill_chunk", "kv_prefill")
    beside = attention[(attention.prefill_chunk == 512) & (attention.kv_prefill == 0) & (attention.n_decode > 0)]
    alone = attention[(attention.prefill_chunk == 512) & (attention.kv_prefill == 0) & (attention.n_decode == 0)]
    b, c, mixed = plane(beside.assign(time_us=beside.time_us - float(alone.time_us.iloc[0])), "n_decode", "kv_decode")
    along = np.array([np.interp(contexts, c, line) for line in mixed])
    mixed = np.maximum(decode, np.array([np.interp(batches, b, column) for column in along.T]).T)
    return StepTables(
        tokens=tokens,
        token_s=token_us * 1e-6,
        sequences=sampled.index.to_numpy(float),
        sequence_s=sampled.to_numpy(float) * 1e-6,
        batches=batches,
        contexts=contexts,
        decode_s=decode * layers * 1e-6,
        mixed_decode_s=mixed * layers * 1e-6,
        chunks=chunks,
        cached=cached,
        prefill_s=prefill * layers * 1e-6,
        host_s=0.0,
        host_per_sequence_s=0.0,
        overlapped=True,
        skew=skew_share(folder, hardware, model, "pure"),
        mixed_skew=skew_share(folder, hardware, model, "mixed"),
    )


def skew_share(folder: Path, hardware: str, model: str, regime: str) -> float:
    """What unequal contexts cost, pooled over the profile's batches."""
    rows = pd.read_csv(folder / "v1_skew.csv.gz")
    rows = rows[(rows.hardware == hardware) & rows.model.str.endswith(model) & (rows.tp == 1) & (rows.regime == regime)]
    rows = rows[rows.t_max_us > rows.t_mean_us + 3.0]  # below, the timer's own spread decides
    return float((rows.t_skew_us - rows.t_mean_us).sum() / (rows.t_max_us - rows.t_mean_us).sum())


def experts_together(folder: Path, ranks: int, captured: NDArray[np.int64]) -> Together:
    """Qwen3-30B-A3B's experts shared out among two ranks, and the exchange of tokens with them.

    vLLM gathers all ranks' hidden states and router logits before the experts, in one group of NCCL
    (`dispatch_router_logits`), and scatters their sums after; NCCL's own times on this kind of GPU, in one server, are
    those of the tables that ship.
    """
    experts = pd.read_csv(folder / "v1_moe.csv.gz")
    layers, hidden, inner, count, each = 48, 2048, 768, 128, 8
    tokens = np.unique(np.round(np.geomspace(1, 2048 * ranks, 60)))
    # A rank has its share of the experts, and of every token's pairs with experts. Each layer waits for the rank with
    # more of its experts touched: by half of the mean difference, that of a normal distribution.
    missed = (1 - each / count) ** tokens
    both_missed = ((count - each) * (count - each - 1) / (count * (count - 1))) ** tokens
    more = np.sqrt(count * (missed - both_missed) / (2 * np.pi))
    touched = np.minimum(count / ranks * (1 - missed) + more, count / ranks)
    grid = experts.groupby(["tokens", "activated_experts"]).time_us.mean().unstack().sort_index()
    known = grid.index.to_numpy(float)
    experts_us = [
        np.interp(t / ranks, known, [np.interp(e, line.dropna().index, line.dropna()) for _, line in grid.iterrows()])
        for t, e in zip(tokens, touched, strict=True)
    ]
    # Of the pairs with other ranks' experts the kernels write zeros for both products, and activate, and add these up.
    traffic = (5 * inner + 2 * hidden) * 2.0 * tokens * each * (1 - 1 / ranks)
    others_us = traffic / catalogue()["rtx_pro_6000_server"].bandwidth_bytes_per_s * 1e6
    # Two kernels that the profile does not hold, as it sets the routing and has all experts at one place: the selection
    # of experts, and their numbers among the rank's own (`moe_align_block_size`). None in it is shorter than this.
    dense = pd.read_csv(folder / "v1_dense.csv.gz")
    own_us = 2 * float(dense[(dense.hardware == "RTXPRO6000") & dense.model.str.endswith(MIXTURE)].time_us.min())
    exchange_us = nccl_us("all_gather", ranks, tokens * (hidden + count))
    exchange_us += nccl_us("reduce_scatter", ranks, tokens * hidden)
    return Together(
        tokens=tokens,
        experts_s=layers * (np.array(experts_us) + others_us + own_us) * 1e-6,
        exchange_s=layers * exchange_us * 1e-6,
        captured=captured,
    )


def nccl_us(operation: str, ranks: int, elements: Array) -> Array:
    """Of 2-byte elements, counted over all ranks."""
    rows = pd.read_parquet(TABLES / "rtx_pro_6000_server" / "nccl.parquet")
    rows = rows[(rows.op_name == operation) & (rows.nccl_dtype == "half") & (rows.num_gpus == ranks)]
    rows = rows.sort_values("message_elements")
    micros = np.exp(rows.latency_code.to_numpy(float) / 3000 - 9) * 1e3
    return np.interp(elements, rows.message_elements.to_numpy(float), micros)


def plane(rows: pd.DataFrame, first: str, second: str) -> tuple[Array, Array, Array]:
    grid = rows[rows[first] > 0].pivot_table(index=first, columns=second, values="time_us")
    values = grid.to_numpy(float).copy()
    sizes = grid.index.to_numpy(float)
    for column in range(values.shape[1]):  # what did not fit in memory goes on in proportion to the batch
        known = np.flatnonzero(~np.isnan(values[:, column]))
        if known.size:
            values[:, column] = np.interp(sizes, sizes[known], values[known, column])
            beyond = sizes > sizes[known[-1]]
            values[beyond, column] = values[known[-1], column] * sizes[beyond] / sizes[known[-1]]
    kept = ~np.isnan(values).any(axis=0)
    return sizes, grid.columns.to_numpy(float)[kept], values[:, kept]


def beside_vidur(data: Path) -> None:
    """Vidur 7d47513 on its own profiles, Llama-2-7b on one A100."""
    runs = pd.read_csv(data / "vidur" / "vidur_reference_runs.csv.gz")
    for (model, profile, scheduler, qps), rows in runs.groupby(["model", "attn_profile", "scheduler", "qps"]):
        tables = vidur_tables(data, str(model), str(profile))
        rows = rows.sort_values("arrival_s")
        requests = Requests(
            arrival_s=rows.arrival_s.to_numpy(float),
            input_tokens=rows.input_tokens.to_numpy(np.int64),
            output_tokens=rows.output_tokens.to_numpy(np.int64),
        )
        settings = Scheduler(
            max_num_seqs=128,
            max_num_batched_tokens=4096 if scheduler == "vllm" else 512,
            blocks=7600 if "7b" in str(model) else 3200,  # 0.9 x 80 GiB less weights, as Vidur plans memory
            prefill_first=scheduler == "vllm",
            padded=scheduler == "vllm",
            watermark=0.01,
        )
        served = simulate(requests, settings, tables)
        tpot = (rows.e2e_s - rows.ttft_s) / np.maximum(rows.output_tokens - 1, 1)
        compare(
            f"{model} {profile} {scheduler} {qps}",
            requests,
            served.first_token_s,
            served.finished_s,
            rows.ttft_s.to_numpy(float),
            tpot.to_numpy(float),
            float((rows.arrival_s + rows.e2e_s).max()),
        )


def vidur_tables(data: Path, model: str, profile: str) -> StepTables:
    """Vidur sums per-layer operators; it leaves out the embedding, the output layer and its sampling."""
    small = "7b" in model
    layers, name, tp = (32, "meta-llama/Llama-2-7b-hf", 1) if small else (80, "meta-llama/Llama-2-70b-hf", 2)
    dense = pd.read_csv(data / "vidur" / "mlp.csv.gz")
    dense = dense[(dense.device == "a100") & (dense.model == name) & (dense.tp == tp) & (dense.op != "emb")]
    wide = dense.pivot_table(index="num_tokens", columns="op", values="median_ms")
    total = wide.sum(axis=1) + wide.get("add", 0.0)
    tokens, token_ms = wide.index.to_numpy(float), total.to_numpy(float)
    attention = pd.read_csv(data / ("vidur_forks" if small else "vidur") / "attention.csv.gz", low_memory=False)
    if small:
        attention = attention[(attention.device == "a800") & (attention.model == name) & (attention.tp == 1)]
    if not small:
        reduce = pd.read_csv(data / "vidur" / "all_reduce.csv.gz")
        reduce = reduce[
            (reduce.network_device == "a100_dgx") & (reduce.num_workers == 2) & (reduce.devices_per_node == 2)
        ]
        lines = reduce.groupby("size_bytes").median_ms.median()
        token_ms = token_ms + 2 * 0.02  # what Vidur adds to launch each sum
        token_ms = token_ms + 2 * np.interp(tokens * 8192 * 2, lines.index.to_numpy(float), lines.to_numpy(float))
    for op in (
        "attn_input_reshape",
        "attn_output_reshape",
        *(("attn_kv_cache_save",) if profile == "with_kv_save" else ()),
    ):
        part = attention[attention.op == op]
        count = np.where(part.is_prefill, part.prefill_chunk_size * part.batch_size, part.batch_size)
        line = part.median_ms.groupby(count).median()
        token_ms = token_ms + np.interp(tokens, line.index.to_numpy(float), line.to_numpy(float))
    decode = attention[(attention.op == "attn_decode") & ~attention.is_prefill].rename(columns={"median_ms": "time_us"})
    prefill = attention[(attention.op == "attn_prefill") & attention.is_prefill].rename(
        columns={"median_ms": "time_us"}
    )
    batches, contexts, decode_ms = plane(decode, "batch_size", "kv_cache_size")
    chunks, cached, prefill_ms = plane(prefill, "prefill_chunk_size", "kv_cache_size")
    if len(cached) == 1:
        cached, prefill_ms = np.array([0.0, 4096.0]), np.repeat(prefill_ms, 2, axis=1)
    return StepTables(
        tokens=tokens, token_s=token_ms * layers * 1e-3, sequences=np.array([1.0, 2.0]), sequence_s=np.zeros(2),
        batches=batches, contexts=contexts, decode_s=decode_ms * layers * 1e-3,
        mixed_decode_s=decode_ms * layers * 1e-3, chunks=chunks, cached=cached,
        prefill_s=prefill_ms * layers * 1e-3, host_s=0.0, host_per_sequence_s=0.0, overlapped=False,
    )  # fmt: skip


def compare(
    title: str, requests: Requests, first: Array, finished: Array, ttft: Array, tpot: Array, end_s: float
) -> None:
    own_ttft = first - requests.arrival_s
    several = requests.output_tokens > 1
    own_tpot = (finished - first)[several] / (requests.output_tokens[several] - 1)
    figures = {
        "throughput": (requests.arrival_s.size / np.nanmax(finished), ttft.size / end_s),
        "TTFT p50": (np.nanmedian(own_ttft), np.median(ttft)),
        "TTFT p99": (np.nanquantile(own_ttft, 0.99), np.quantile(ttft, 0.99)),
        "TPOT p50": (np.nanmedian(own_tpot), np.median(tpot[several])),
        "TPOT p99": (np.nanquantile(own_tpot, 0.99), np.quantile(tpot[several], 0.99)),
    }
    shown = [f"{name} {own:.4g}/{truth:.4g} ({own / truth - 1:+.1%})" for name, (own, truth) in figures.items()]
    print(f"{title:44}", "  ".join(shown))


if __name__ == "__main__":
    main()
