"""Holds simulations of several engines against the closed form, and against real vLLM runs, all from shipped tables.

    python -m benchmarks.simulated_deployments ../shared/models ../shared/data

The first part simulates Poisson arrivals of 1,000 + 200 tokens and predicts as many running sequences as there were;
the second simulates the requests of `llmservingsim` as `tune simulate --requests` does, without the operator profiles
that were taken on the same machines (`performance_simulator.py` takes those).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.performance_simulator import as_sent, beside_run, requests_of
from profilers.shipped import folder as shipped_tables
from search_spaces.device_catalogue import catalogue
from tuner.performance.corrections import Engine, shipped
from tuner.performance.prediction import Predictor
from tuner.performance.serving_row import Placement, ServingRow
from tuner.performance.simulation.continuous import Requests
from tuner.performance.simulation.deployment import ModelOnDevice, PrefillDecode, simulate_deployment
from tuner.performance.simulation.engine_settings import read_settings
from tuner.performance.table_choice import tables_for
from tuner.study.read_model import read_model

LLAMA, QWEN = "meta-llama--Llama-3.1-8B-Instruct", "Qwen--Qwen3-30B-A3B"
SPREAD = {"enable_expert_parallel": "true"}
CASES: tuple[tuple[str, int, Mapping[str, str]], ...] = (
    (LLAMA, 1, {}),
    (LLAMA, 2, {"data_parallel_size": "2"}),
    (LLAMA, 1, {"prefill_workers": "1", "decode_workers": "1"}),
    (QWEN, 1, {}),
    (QWEN, 2, {"tensor_parallel_size": "2"}),
    (QWEN, 2, {"tensor_parallel_size": "2", **SPREAD}),
    (QWEN, 2, {"data_parallel_size": "2"}),
    (QWEN, 2, {"data_parallel_size": "2", **SPREAD}),
    (QWEN, 4, {"data_parallel_size": "4", **SPREAD}),
)
"""Model, times the rate of one GPU, and settings."""
DEVICES = {"RTX4090": "rtx_4090", "RTXPRO6000": "rtx_pro_6000_server"}
INPUTS, OUTPUTS = 1000, 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path)
    parser.add_argument("data", type=Path)
    arguments = parser.parse_args()
    for name, times, settings in CASES:
        for rate_rps in (2.0, 8.0, 14.0):
            beside_the_closed_form(arguments.models / name, times * rate_rps, settings)
    beside_real_runs(arguments.models, arguments.data / "llmservingsim")


def beside_the_closed_form(path: Path, rate_rps: float, settings: Mapping[str, str]) -> None:
    """On H100s, the middle half of 400 s."""
    count = int(rate_rps * 400)
    trace = poisson(rate_rps, count)
    model = on_device(path, "h100_sxm", INPUTS + OUTPUTS)
    found = read_settings(settings, model.graph, model.table.hardware)
    served = simulate_deployment(trace, found, model)
    middle = slice(count // 4, 3 * count // 4)
    ttft_s = float((served.first_token_s - served.arrival_s)[middle].mean())
    stay_s = float((served.finished_s - served.first_token_s)[middle].mean())
    decode = found.decode if isinstance(found, PrefillDecode) else found
    running = rate_rps * stay_s / (decode.replicas * decode.shard.attention_replicas)
    placed = Placement(shard=decode.shard, replicas=float(decode.replicas), batch=running)
    apart = None
    if isinstance(found, PrefillDecode):
        batch = max(rate_rps * ttft_s / found.prefill.replicas, 1.0)
        apart = Placement(shard=found.prefill.shard, replicas=float(found.prefill.replicas), batch=batch)
    row = ServingRow(
        model=path.name, device="h100_sxm", engine=Engine.VLLM, serial_host=False, weights=None, experts=None,
        quantized=False, input_tokens=INPUTS, output_tokens=OUTPUTS, decode=placed, prefill=apart, fixed_lengths=False,
        opening_burst=False,
    )  # fmt: skip
    (told,) = Predictor(lambda *_: model.graph, {"h100_sxm": model.table}, shipped()).predict([row])
    assert told.tpot_s is not None
    assert told.ttft_s is not None
    tpot_s = stay_s / (OUTPUTS - 1)
    words = " ".join(f"{name}={value}" for name, value in settings.items()) or "one engine"
    print(
        f"{path.name} {words}: {rate_rps:g}/s, {running:.1f} running  "
        f"TPOT {told.tpot_s * 1e3:.2f}/{tpot_s * 1e3:.2f} ms ({told.tpot_s / tpot_s - 1:+.1%})  "
        f"TTFT {told.ttft_s * 1e3:.0f}/{ttft_s * 1e3:.0f} ms ({told.ttft_s / ttft_s - 1:+.0%})"
    )


def poisson(rate_rps: float, count: int) -> Requests:
    """Arrivals of `INPUTS` + `OUTPUTS` tokens each."""
    return Requests(
        arrival_s=np.cumsum(np.random.default_rng(1).exponential(1 / rate_rps, count)),
        input_tokens=np.full(count, INPUTS),
        output_tokens=np.full(count, OUTPUTS),
    )


def beside_real_runs(models: Path, folder: Path) -> None:
    """Measured vLLM 0.19 runs."""
    meta = json.loads((folder / "real_vllm_meta.json").read_text())
    runs = pd.read_csv(folder / "real_vllm_requests.csv.gz")
    for (hardware, name), rows in runs.groupby(["hardware", "model"]):
        launched = meta[f"{hardware}/{name}"]
        engine = launched["engine_kwargs"]
        settings = {setting: str(engine[setting]) for setting in ("max_num_seqs", "max_num_batched_tokens")}
        if engine["data_parallel_size"] > 1:
            settings |= {"data_parallel_size": str(engine["data_parallel_size"]), **SPREAD}
        if blocks := (launched.get("kv_cache") or {}).get("num_gpu_blocks"):
            settings["num_gpu_blocks_override"] = str(blocks)
        rows = as_sent(rows)
        trace = requests_of(rows)
        longest = int((trace.input_tokens + trace.output_tokens).max())
        model = on_device(models / (LLAMA if "Llama" in str(name) else QWEN), DEVICES[str(hardware)], longest)
        served = simulate_deployment(trace, read_settings(settings, model.graph, model.table.hardware), model)
        beside_run(f"{hardware} {name}", rows, trace, served)


def on_device(path: Path, device: str, longest: int) -> ModelOnDevice:
    """A model on a device of the catalogue, with shipped tables and factors."""
    return ModelOnDevice(
        graph=read_model(path),
        table=tables_for(catalogue(), shipped_tables())[device],
        factors=shipped().corrections,
        engine=Engine.VLLM,
        longest=longest,
    )


if __name__ == "__main__":
    main()
