"""Learns the correction factors and judges them on models they never saw.

    python benchmarks/performance_fit.py ../shared/data/aiconfigurator/silicon_e2e.csv.gz ../shared/models \
        --save tuner/performance/corrections.json

Every figure printed under "left out" predicts a model with factors, and interval widths, learned from the other
models; models of one architecture (a base model and its requantised or retrained variants) are left out
together.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from profilers.huggingface.reader import HuggingFaceReader
from search_spaces.device_catalogue import catalogue
from tuner.model_graph import ModelGraph
from tuner.performance.corrections import Corrections, Engine, Learned, Spread, shipped
from tuner.performance.prediction import Predictor
from tuner.performance.serving_row import Declined, ServingRow, read_row
from tuner.performance.steady_state import ClosedLoads, latencies
from tuner.performance.table_choice import tables_for
from tuner.step import NumberFormat

TABLES = Path(__file__).resolve().parents[1] / "profilers" / "tables"
Array = NDArray[np.float64]

# start values and how far a factor may reasonably lie from them (one standard deviation of its prior)
TPOT_PRIOR: list[tuple[str, float, float]] = [
    ("matmul", 0.0, 0.10), ("attention", 0.0, 0.10), ("experts", 0.0, 0.15), ("collective", 0.0, 0.2),
    ("layer_us", 8.0, 3.0), ("prefill", -0.05, 0.07),
    ("host_ms_vllm", 1.5, 0.7), ("host_ms_sglang", 1.5, 0.7), ("host_ms_trtllm", 1.5, 0.7),
    ("host_us_vllm", 30.0, 20.0), ("host_us_sglang", 30.0, 20.0), ("host_us_trtllm", 50.0, 20.0),
    ("serial_host", 1.5, 0.5),
    ("level_vllm", 0.0, 0.07), ("level_sglang", 0.0, 0.07), ("level_trtllm", 0.0, 0.07),
    ("sync_sglang", 0.5, 0.2), ("sync", 0.05, 0.05), ("sync_ranged", 0.05, 0.05),
]  # fmt: skip
TTFT_PRIOR: list[tuple[str, float, float]] = [
    ("first_ms_vllm", 15.0, 20.0), ("first_ms_sglang", 60.0, 60.0), ("first_ms_trtllm", 40.0, 30.0),
    ("chain_vllm", 0.2, 0.3), ("chain_sglang", 0.2, 0.3), ("chain_trtllm", 0.2, 0.3),
    ("queue_vllm", 0.05, 0.03), ("queue_sglang", 0.10, 0.05), ("queue_trtllm", 0.05, 0.03),
    ("fixed_lengths", 0.8, 0.3), ("request_ms", 0.5, 0.4),
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    with gzip.open(arguments.rows, "rt", encoding="utf-8") as file:
        raw = [row for row in csv.DictReader(file) if row["mode"] == "agg"]
    data = Data(raw, arguments.models)
    print(f"rows {len(raw)}, answered {len(data.places)} ({len(data.places) / len(raw):.1%})")
    for reason in sorted({reason for reason in data.refused if reason}):
        print(f"  declined: {reason}")
    everything = np.ones(len(data.places), dtype=bool)
    tpot, ttft = np.zeros(len(data.places)), np.zeros(len(data.places))
    for family in sorted(set(data.family)):
        left_out = np.array([name == family for name in data.family])
        factors = learn(data, ~left_out)
        times = latencies(data.loads, factors)
        tpot[left_out], ttft[left_out] = times.tpot_s[left_out], times.ttft_s[left_out]
    print("\nleft out by architecture")
    report(data, tpot, ttft)
    coverage(data, tpot, ttft)
    ranking(data, tpot)
    factors = learn(data, everything)
    times = latencies(data.loads, factors)
    print("\nnothing left out (for comparison only)")
    report(data, times.tpot_s, times.ttft_s)
    print(factors.to_json())
    np.savez("/tmp/left_out.npz", tpot=tpot, ttft=ttft, places=data.places)
    if arguments.save:
        spreads = {
            name: {
                kind: spread(np.log(measured / predicted)[data.experts == (kind == "experts")])
                for kind in ("dense", "experts")
            }
            for name, measured, predicted in (("tpot", data.tpot, tpot), ("ttft", data.ttft, ttft))
        }
        origin = f"{len(data.places)} aggregated runs of {len(set(data.family))} architectures, silicon_e2e 2026-08-21"
        save(arguments.save, Learned(corrections=factors, spreads=spreads, origin=origin))


class Data:
    """Measured rows, and what the closed form needs of them.

    Args:
        raw: rows as read.
        models: folder of configurations.
    """

    def __init__(self, raw: Sequence[dict[str, str]], models: Path) -> None:
        reader = HuggingFaceReader()

        def model(name: str, weights: NumberFormat | None) -> ModelGraph:
            return reader.read(models / name.replace("/", "--"), weights)

        rows: list[ServingRow | Declined] = []
        for values in raw:
            try:
                rows.append(read_row(values))
            except Declined as reason:
                rows.append(reason)
        predictor = Predictor(model, tables_for(catalogue(), TABLES), shipped())
        loads, self.places, self.refused = predictor.loads(rows)
        assert loads is not None
        self.loads: ClosedLoads = loads
        self.rows = [rows[place] for place in self.places]
        self.raw = [raw[place] for place in self.places]
        self.tpot = np.array([float(row["silicon_tpot_ms"]) for row in self.raw]) / 1e3
        self.ttft = np.array([float(row["silicon_ttft_ms"]) for row in self.raw]) / 1e3
        graphs = {name: model(name, None) for name in {row["model_path"] for row in self.raw}}
        shape = {name: (graph.layers, graph.hidden, graph.parameters) for name, graph in graphs.items()}
        self.family = [str(shape[row["model_path"]]) for row in self.raw]
        self.experts = np.array([graphs[row["model_path"]].has_experts for row in self.raw])
        kinds = [f"{f}{r['system']}{r['backend']}{r['precision']}" for f, r in zip(self.family, self.raw, strict=True)]
        sizes = {kind: kinds.count(kind) for kind in set(kinds)}
        # a group of many like rows counts as about 20 of them, so that no single campaign decides a factor
        self.weight = np.clip(np.array([np.sqrt(20.0 / sizes[kind]) for kind in kinds]), 0.3, 1.5)


def learn(data: Data, mask: NDArray[np.bool_]) -> Corrections:
    """Factors from the rows of `mask`: robust maximum a posteriori, TPOT first, then TTFT."""
    start, width = prior(TPOT_PRIOR)
    ttft_start, ttft_width = prior(TTFT_PRIOR)

    def tpot_residuals(values: Array) -> Array:
        times = latencies(data.loads, made(values, ttft_start))
        error = np.log(times.tpot_s[mask] / data.tpot[mask]) / 0.12
        return np.concatenate([robust(data.weight[mask] * error), (values - start) / width])

    bounds = bounded(TPOT_PRIOR)
    found = least_squares(tpot_residuals, start, x_scale=width, max_nfev=60, bounds=bounds).x

    def ttft_residuals(values: Array) -> Array:
        times = latencies(data.loads, made(found, values))
        error = np.log(times.ttft_s[mask] / data.ttft[mask]) / 0.25
        return np.concatenate([robust(data.weight[mask] * error), (values - ttft_start) / ttft_width])

    later = least_squares(ttft_residuals, ttft_start, x_scale=ttft_width, max_nfev=60, bounds=bounded(TTFT_PRIOR)).x
    return made(found, later)


def prior(table: list[tuple[str, float, float]]) -> tuple[Array, Array]:
    return np.array([row[1] for row in table]), np.array([row[2] for row in table])


def bounded(table: list[tuple[str, float, float]]) -> tuple[Array, Array]:
    """Times and shares are not negative; the others are logarithms of factors."""
    logarithms = ("matmul", "attention", "experts", "collective", "prefill", "level", "chain", "fixed_lengths")
    low = [-np.inf if name.startswith(logarithms) else 0.0 for name, _, _ in table]
    high = [1.0 if name.startswith("sync") else np.inf for name, _, _ in table]
    return np.array(low), np.array(high)


def robust(residuals: Array) -> Array:
    """Huber's loss as residuals: linear beyond one."""
    size = np.abs(residuals)
    return np.sign(residuals) * np.where(size < 1, size, np.sqrt(np.maximum(2 * size - 1, 0)))


def made(values: Array, later: Array) -> Corrections:
    """Factors from the vectors that are learned."""
    v = {name: float(x) for (name, _, _), x in zip(TPOT_PRIOR, values, strict=True)}
    w = {name: float(x) for (name, _, _), x in zip(TTFT_PRIOR, later, strict=True)}
    order = [engine.value for engine in Engine]
    return Corrections(
        matmul=float(np.exp(v["matmul"])),
        attention=float(np.exp(v["attention"])),
        experts=float(np.exp(v["experts"])),
        collective=float(np.exp(v["collective"])),
        layer_s=v["layer_us"] * 1e-6,
        prefill=float(np.exp(v["prefill"])),
        host_s=tuple(v[f"host_ms_{name}"] * 1e-3 for name in order),
        host_per_sequence_s=tuple(v[f"host_us_{name}"] * 1e-6 for name in order),
        serial_host=v["serial_host"],
        level=tuple(float(np.exp(v[f"level_{name}"])) for name in order),
        synchronized=tuple(v["sync_sglang"] if name == "sglang" else v["sync"] for name in order),
        synchronized_ranged=tuple(v["sync_ranged"] for _ in order),
        first_token_s=tuple(w[f"first_ms_{name}"] * 1e-3 for name in order),
        prompt_chain=tuple(float(np.exp(w[f"chain_{name}"])) for name in order),
        prompt_queue=tuple(w[f"queue_{name}"] for name in order),
        fixed_lengths=float(np.exp(w["fixed_lengths"])),
        request_s=w["request_ms"] * 1e-3,
    )


def spread(errors: Array) -> Spread:
    """Of 90 % intervals; a little beyond the quantiles, since an unseen model adds an error of its own."""
    return Spread(low=float(np.quantile(errors, 0.03)), high=float(np.quantile(errors, 0.97)))


def report(data: Data, tpot: Array, ttft: Array) -> None:
    off = {"TPOT": np.abs(tpot / data.tpot - 1), "TTFT": np.abs(ttft / data.ttft - 1)}
    for name, error in off.items():
        for kind, mask in (("dense", ~data.experts), ("experts", data.experts)):
            part = error[mask]
            middle, high = np.quantile(part, [0.5, 0.9])
            print(f"{name} {kind:8} mean {part.mean():7.1%} median {middle:6.1%} p90 {high:6.1%}")
    groups = sorted({(r["model_path"], r["system"], r["backend"], r["precision"]) for r in data.raw})
    for group in groups:
        mask = np.array([(r["model_path"], r["system"], r["backend"], r["precision"]) == group for r in data.raw])
        bias = np.median(np.log(tpot[mask] / data.tpot[mask]))
        print(
            f"  {' '.join(group):60} n {mask.sum():4d} TPOT {off['TPOT'][mask].mean():6.1%}"
            f" (median {np.median(off['TPOT'][mask]):6.1%}, bias {bias:+.2f}) TTFT {off['TTFT'][mask].mean():6.1%}"
            f" (median {np.median(off['TTFT'][mask]):6.1%})"
        )


def coverage(data: Data, tpot: Array, ttft: Array) -> None:
    """Intervals for each architecture from the errors on the others."""
    family = np.array(data.family)
    for name, measured, predicted in (("TPOT", data.tpot, tpot), ("TTFT", data.ttft, ttft)):
        error = np.log(measured / predicted)
        inside = np.zeros(len(error), dtype=bool)
        for left_out in set(data.family):
            for kind in (False, True):
                here = (family == left_out) & (data.experts == kind)
                others = (family != left_out) & (data.experts == kind)
                if here.any() and others.any():
                    bounds = spread(error[others])
                    inside[here] = (error[here] >= bounds.low) & (error[here] <= bounds.high)
        print(f"{name} 90 % intervals hold {inside.mean():.1%} of the rows")


def ranking(data: Data, tpot: Array) -> None:
    """Best configuration of a (model, device, lengths) group by prediction alone: throughput per GPU under a limit."""
    keys = [(r["model_path"], r["system"], r["isl"], r["osl"]) for r in data.raw]
    gpus = np.array([row.decode.shard.gpus for row in data.rows if isinstance(row, ServingRow)])
    batch = np.array([row.decode.batch * row.decode.shard.attention_replicas for row in data.rows])
    for limit in (0.050, 0.030, 0.020):
        regrets = []
        for key in sorted(set(keys)):
            places = np.array([place for place, other in enumerate(keys) if other == key])
            truth = np.where(data.tpot[places] <= limit, batch[places] / data.tpot[places] / gpus[places], 0.0)
            if len(places) < 2 or truth.max() <= 0:
                continue
            guess = np.where(tpot[places] <= limit, batch[places] / tpot[places] / gpus[places], 0.0)
            regrets.append(1.0 - truth[int(guess.argmax())] / truth.max())
        found = np.array(regrets)
        print(
            f"TPOT <= {limit * 1e3:.0f} ms: {len(found)} groups, median regret {np.median(found):.1%}, "
            f"p90 {np.quantile(found, 0.9):.1%}"
        )


def save(path: Path, learned: Learned) -> None:
    spreads = {
        metric: {kind: {"low": round(s.low, 4), "high": round(s.high, 4)} for kind, s in kinds.items()}
        for metric, kinds in learned.spreads.items()
    }
    values = {
        "corrections": json.loads(learned.corrections.to_json(), parse_float=lambda text: float(f"{float(text):.5g}")),
        "spreads": spreads,
        "origin": learned.origin,
    }
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
