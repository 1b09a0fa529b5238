"""Whole passes of real models on the GPU at hand, beside what operator tables say of them.

    tune profile MODEL --device cuda --out profiles/NAME
    python -m benchmarks.gpu_passes MODEL ... --profiles profiles --rows passes.jsonl
    python -m benchmarks.gpu_passes MODEL ... --profiles profiles --rows passes.jsonl --measured
    python -m benchmarks.gpu_passes --operators --profiles profiles

A pass is built from the model's configuration with random weights: products, attention and experts as torch computes
them, norms, rotations and activations fused by its compiler, all captured in one CUDA graph, as engines do. Its time is
predicted twice: from the device's shipped tables, which hold engines' kernels, and from what `tune profile` timed of
torch's own. `--measured` predicts the rows that an earlier run wrote, on a machine without a GPU.
`--operators` compares the tables themselves, at the points that were timed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from profilers.huggingface.reader import HuggingFaceReader
from profilers.shipped import folder as shipped_tables
from profilers.timing import time_call, wake
from search_spaces.device_catalogue import catalogue
from tuner.hardware import named_gpu
from tuner.model_graph import ModelGraph
from tuner.performance.operator_table import OperatorTable
from tuner.performance.step_time import StepLoads, StepParts, StepTime
from tuner.performance.table_choice import profiled_tables
from tuner.performance.table_file import DECODE, PREFILL, read_table
from tuner.step import NumberFormat, Shard

DECODING = ((1, 512), (8, 512), (32, 1024), (64, 2048), (128, 1024), (256, 512))
PROMPTS = ((1, 512), (1, 2048), (1, 8192), (4, 1024), (8, 300))
BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION)
BF16 = torch.bfloat16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--layers", type=int, default=16, help="at most: fewer than a large model has")
    parser.add_argument("--profiles", type=Path, required=True, nargs="+")
    parser.add_argument("--rows", type=Path, default=Path("passes.jsonl"))
    parser.add_argument("--measured", action="store_true")
    parser.add_argument("--operators", action="store_true")
    arguments = parser.parse_args()
    profiles: dict[str, list[Path]] = defaultdict(list)
    for place in arguments.profiles:
        for name, folders in profiled_tables(catalogue(), place).items():
            profiles[name] += folders
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            config = cut(model, arguments.layers, Path(folder))
            graph = HuggingFaceReader().read(Path(folder))
        if not arguments.measured:
            with arguments.rows.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"model": model.name, **row}) + "\n" for row in measure(config))
            torch.cuda.empty_cache()
        rows = [json.loads(line) for line in arguments.rows.read_text(encoding="utf-8").splitlines()]
        report(graph, [row for row in rows if row["model"] == model.name], profiles)
    if arguments.operators:
        for name, folders in profiles.items():
            compare(OperatorTable(catalogue()[name], shipped_tables() / name), folders)


def cut(model: Path, layers: int, folder: Path) -> dict[str, object]:
    """Writes a model's configuration with `layers` at most, unquantised."""
    config: dict[str, object] = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config["num_hidden_layers"] = min(layers, int(str(config["num_hidden_layers"])))
    config.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return config


def measure(config: dict[str, object]) -> Iterator[dict[str, object]]:
    """Times decoding steps and prompts, with whichever attention kernel makes the pass fastest."""
    torch.set_default_device("cuda")
    wake("cuda")
    decoder = Decoder(config)
    for decoding, loads in ((True, DECODING), (False, PROMPTS)):
        for count, tokens in loads:
            calls = [decoder.step(count, tokens, decoding, backend) for backend in BACKENDS]
            timings = [time_call(call, "cuda", budget_s=0.2) for call in calls]
            timing, call = min(zip(timings, calls, strict=True), key=lambda pair: pair[0].median_s)
            yield {
                "layers": config["num_hidden_layers"], "device": torch.cuda.get_device_name(),
                "what": "decode" if decoding else "prefill", "sequences": count, "tokens": tokens,
                "measured_s": timing.median_s, "kernels_s": by_kernel(call),
            }  # fmt: skip


def by_kernel(call: Callable[[], object]) -> dict[str, float]:
    """Seconds that the kernels of a pass take, one by one, by what they compute."""
    sums = dict.fromkeys(("matmul", "attention", "fused", "other"), 0.0)
    for key, seconds in kernel_seconds(call).items():
        name = key.lower()
        kind = (
            "attention" if "sdpa" in name or "flash_fwd" in name or "fmha" in name
            else "fused" if name.startswith("triton")
            else "matmul" if any(word in name for word in ("nvjet", "gemm", "cutlass", "splitk"))
            else "other"
        )  # fmt: skip
        sums[kind] += seconds
    return sums


def kernel_seconds(call: Callable[[], object]) -> dict[str, float]:
    """Seconds that each kernel of a pass takes, one by one, by name: the mean of three passes after a first."""
    call()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        for _ in range(3):
            call()
        torch.cuda.synchronize()
    return {event.key: event.self_device_time_total * 1e-6 / 3 for event in found.key_averages()}


def report(graph: ModelGraph, rows: list[dict[str, Any]], profiles: dict[str, list[Path]]) -> None:
    """Prints each pass beside its predictions, whole and by what its kernels compute."""
    errors: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in rows:
        hardware = named_gpu(row["device"], catalogue())
        assert hardware is not None, f"{row['device']} is not in the catalogue"
        tables = {
            "shipped": OperatorTable(hardware, shipped_tables() / hardware.name),
            "profiled": OperatorTable(hardware, None, own=profiles[hardware.name]),
        }
        words = []
        for name, table in tables.items():
            parts = predicted(graph, table, row["sequences"], row["tokens"], row["what"] == "decode")
            timed = row["kernels_s"]["matmul"] + row["kernels_s"]["attention"] + row["kernels_s"]["other"]
            whole = parts.total[0] / row["measured_s"] - 1.0
            core = (parts.matmul + parts.attention + parts.experts)[0] / timed - 1.0
            errors[row["what"], name, "whole"].append(whole)
            errors[row["what"], name, "all but fused kernels"].append(core)
            words.append(f"{name} {whole:+6.1%} ({core:+6.1%})")
        kernels = " ".join(f"{kind} {seconds * 1e3:.2f}" for kind, seconds in row["kernels_s"].items())
        load = f"{row['what']:8} {row['sequences']:4} x {row['tokens']:5} {row['measured_s'] * 1e3:9.3f} ms"
        print(f"{row['model']:34} {load}  {'  '.join(words)}  kernels, ms: {kernels}")
    for (what, name, part), found in errors.items():
        mean = statistics.mean(abs(error) for error in found)
        print(f"{what:8} {name:9} {part:21} mean error {mean:.1%}, mean {statistics.mean(found):+.1%}")


def predicted(graph: ModelGraph, table: OperatorTable, count: int, tokens: int, decoding: bool) -> StepParts:
    """One step by its parts."""
    make = StepLoads.decode if decoding else StepLoads.prefill
    return StepTime(graph, table, Shard()).parts(make(np.array([float(count)]), np.array([float(tokens)])))


class Decoder:
    """Random weights of a decoder, and its passes."""

    def __init__(self, config: dict[str, object]) -> None:
        self.hidden, self.heads = int(str(config["hidden_size"])), int(str(config["num_attention_heads"]))
        self.kv_heads = int(str(config.get("num_key_value_heads") or self.heads))
        self.head = int(str(config.get("head_dim") or self.hidden // self.heads))
        self.experts = int(str(config.get("num_experts") or config.get("num_local_experts") or 0))
        self.chosen = int(str(config.get("num_experts_per_tok") or 0))
        inner = int(str(config.get("moe_intermediate_size") or config["intermediate_size"]))
        self.layers = [self._layer(inner) for _ in range(int(str(config["num_hidden_layers"])))]
        self.head_weight = _weight(int(str(config["vocab_size"])), self.hidden)

    def _layer(self, inner: int) -> dict[str, torch.Tensor]:
        width = (self.heads + 2 * self.kv_heads) * self.head
        found = {"qkv": _weight(width, self.hidden), "out": _weight(self.hidden, self.heads * self.head)}
        if not self.experts:
            return found | {"up": _weight(2 * inner, self.hidden), "down": _weight(self.hidden, inner)}
        return found | {
            "router": _weight(self.experts, self.hidden),
            "up": _weight(self.experts, 2 * inner, self.hidden).transpose(1, 2),
            "down": _weight(self.experts, self.hidden, inner).transpose(1, 2),
        }

    def step(self, count: int, tokens: int, decoding: bool, backend: SDPBackend) -> Callable[[], object]:
        """A pass: one token for each of `count` sequences of `tokens`, or as many prompts of that length."""
        rows = count if decoding else count * tokens
        shape = (count, tokens, self.kv_heads, self.head)
        caches = [(_weight(*shape), _weight(*shape)) for _ in self.layers] if decoding else []
        hidden = _weight(rows, self.hidden)
        norm = torch.ones(self.hidden, dtype=BF16)
        gqa = self.heads != self.kv_heads
        angles = torch.rand(rows, 1, self.head // 2, dtype=BF16)

        def attend(place: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            if decoding:
                key, value = (each.transpose(1, 2) for each in caches[place])
                query = query.reshape(count, self.heads, 1, self.head)
                return functional.scaled_dot_product_attention(query, key, value, enable_gqa=gqa)
            query, key, value = (
                each.reshape(count, tokens, -1, self.head).transpose(1, 2) for each in (query, key, value)
            )
            out = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=gqa)
            return out.transpose(1, 2)

        def run() -> torch.Tensor:
            state, residual = hidden, torch.zeros_like(hidden)
            for place, layer in enumerate(self.layers):
                state, residual = _add_norm(state, residual, norm)
                mixed = functional.linear(state, layer["qkv"]).view(rows, -1, self.head)
                turned = _rotate(mixed[:, : self.heads + self.kv_heads], angles)
                query, key = turned.split([self.heads, self.kv_heads], dim=1)
                value = mixed[:, self.heads + self.kv_heads :]
                state = functional.linear(attend(place, query, key, value).reshape(rows, -1), layer["out"])
                state, residual = _add_norm(state, residual, norm)
                state = self._experts(state, layer) if self.experts else self._dense(state, layer)
            last = state if decoding else state.view(count, tokens, -1)[:, -1]
            return functional.linear(last, self.head_weight)

        def call() -> object:
            with torch.no_grad(), sdpa_kernel(backend):
                return run()

        return call

    def _dense(self, state: torch.Tensor, layer: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional.linear(_gate(functional.linear(state, layer["up"])), layer["down"])

    def _experts(self, state: torch.Tensor, layer: dict[str, torch.Tensor]) -> torch.Tensor:
        weight, picks = functional.linear(state, layer["router"]).topk(self.chosen, dim=1)
        expert, order = torch.sort(picks.flatten())
        ends = (expert.unsqueeze(0) <= torch.arange(self.experts).unsqueeze(1)).sum(1).to(torch.int32)
        source = order // self.chosen
        up = torch._grouped_mm(state[source], layer["up"], offs=ends)
        out = torch._grouped_mm(_gate(up), layer["down"], offs=ends) * weight.flatten()[order].unsqueeze(1)
        return torch.zeros_like(state).index_add_(0, source, out)


def _weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=BF16) * 0.02


@torch.compile(dynamic=True)
def _add_norm(state: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    total = state.float() + residual.float()
    scale = torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + 1e-6)
    return (total * scale).to(BF16) * weight, total.to(BF16)


@torch.compile(dynamic=True)
def _rotate(heads: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    left, right = heads.chunk(2, dim=-1)
    cos, sin = torch.cos(angles), torch.sin(angles)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


@torch.compile(dynamic=True)
def _gate(both: torch.Tensor) -> torch.Tensor:
    gate, value = both.chunk(2, dim=-1)
    return functional.silu(gate) * value


def compare(shipped: OperatorTable, folders: list[Path]) -> None:
    """Prints what was timed here over what the shipped tables say, by operator and size."""
    ratios: dict[tuple[str, str], list[float]] = defaultdict(list)
    for folder in folders:
        for path in sorted(folder.glob("*.parquet")):
            columns = read_table(path)
            for place, seconds in enumerate(columns.latency_s):
                row = {name: int(values[place]) for name, values in columns.values.items()}
                known = _known(shipped, path.stem, row, columns.words)
                if known is not None:
                    size = "below 20 us" if known < 2e-5 else "below 200 us" if known < 2e-4 else "longer"
                    ratios[path.stem, size].append(seconds / known)
    for (operator, size), found in sorted(ratios.items()):
        low, middle, high = np.quantile(found, [0.1, 0.5, 0.9])
        print(
            f"{operator:22} {size:13} {len(found):5} points: here over shipped {middle:.2f} ({low:.2f} to {high:.2f})"
        )


def _known(
    table: OperatorTable, operator: str, row: dict[str, int], words: Mapping[str, tuple[str, ...]]
) -> float | None:
    if operator == "gemm":
        dtype = words["gemm_dtype"][row["gemm_dtype"]]
        kept = NumberFormat.FP8 if dtype == "fp8" else NumberFormat.BF16
        return float(table.matmul_s(kept, row["n"], row["k"], row["m"]))
    if operator in (PREFILL, DECODE):
        shape = (row["num_heads"], row["num_key_value_heads"], row["head_dim"], row["window_size"])
        if operator == PREFILL:
            return float(table.prefill_attention_s(*shape, NumberFormat.BF16, row["batch_size"], row["isl"]))
        return float(table.decode_attention_s(*shape, NumberFormat.BF16, row["batch_size"], row["past_kv_len"]))
    if operator == "moe":
        shape_of = ("hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")
        return float(table.experts_s(NumberFormat.BF16, *(row[name] for name in shape_of), row["num_tokens"]))
    return None


if __name__ == "__main__":
    main()
