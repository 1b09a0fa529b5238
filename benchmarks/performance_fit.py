"""Learns the correction factors and judges them on models they never saw.

    python -m benchmarks.performance_fit ../shared/data/aiconfigurator/silicon_e2e.csv.gz ../shared/models \
        --save tuner/performance/corrections.json

Every figure printed under "left out" predicts a model with factors, and interval widths, learned from the other
models; models of one architecture (a base model and its requantised or retrained variants) are left out
together.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from benchmarks import performance_ranking
from profilers.huggingface.reader import HuggingFaceReader
from search_spaces.device_catalogue import catalogue
from tuner.model_graph import ModelGraph
from tuner.performance.behaviour import Ways, forecast
from tuner.performance.calibration import MeasuredRun, calibrate
from tuner.performance.corrections import Corrections, Engine, Learned, Spread
from tuner.performance.prediction import Prediction, Predictor, under_doubt
from tuner.performance.serving_row import Declined, ServingRow, read_row
from tuner.performance.steady_state import ClosedLoads, latencies
from tuner.performance.table_choice import tables_for
from tuner.step import NumberFormat

TABLES = Path(__file__).resolve().parents[1] / "profilers" / "tables"
Array = NDArray[np.float64]

# start values and how far a factor may reasonably lie from them (one standard deviation of its prior); times in us.
# Factors of the second table differ by engine, in the order of `Engine`: vLLM, SGLang, TensorRT-LLM.
SHARED: dict[str, tuple[float, float]] = {
    "matmul": (1.0, 0.10), "attention": (1.0, 0.10), "experts": (1.0, 0.15), "collective": (1.0, 0.2),
    "kernel_s": (0.8, 0.4), "serial_host": (0.8, 0.3), "polled_steps": (15.0, 5.0),
    "replicated": (2.0, 0.5),
    "acceptance": (0.6, 0.1), "acceptance_longer": (0.1, 0.1),
}  # fmt: skip
BY_ENGINE: dict[str, tuple[tuple[float, float], ...]] = {
    "level": ((1.0, 0.07), (1.0, 0.07), (1.0, 0.07)),
    "prefill": ((1.0, 0.07), (1.0, 0.07), (1.0, 0.07)),
    "prefill_experts": ((1.0, 0.2), (1.0, 0.2), (1.0, 0.2)),
    "host_s": ((1500.0, 350.0), (1500.0, 350.0), (1500.0, 350.0)),
    "host_per_sequence_s": ((20.0, 10.0), (30.0, 10.0), (30.0, 15.0)),
    "host_per_request_s": ((1000.0, 2000.0), (1000.0, 2000.0), (5000.0, 4000.0)),
    "launch_s": ((30.0, 15.0), (80.0, 40.0), (60.0, 30.0)),
    "synchronized": ((0.03, 0.03), (0.2, 0.1), (0.03, 0.03)),
    "first_token_s": ((10e3, 5e3), (50e3, 30e3), (20e3, 10e3)),
    "request_s": ((500.0, 250.0), (1000.0, 500.0), (500.0, 250.0)),
    "prompt_chain": ((1.1, 0.15), (1.1, 0.15), (1.1, 0.15)),
    "first_token_steps": ((2.0, 0.7), (2.0, 0.7), (2.0, 0.7)),
    "opening": ((1.1, 0.15), (1.1, 0.15), (1.1, 0.15)),
    "draft_layers": ((2.0, 1.0), (2.0, 1.0), (2.0, 1.0)),
}
SHRINKAGE = 0.5
"""How much narrower priors are than the tables above say: runs of one architecture differ in what no factor tells."""
SHARES = ("synchronized", "acceptance")
DRAFTS = ("acceptance", "acceptance_longer", "draft_layers")
RATIOS = (
    "matmul", "attention", "experts", "collective", "replicated", "level", "prefill",
    "prefill_experts", "prompt_chain",
)  # fmt: skip


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
    for title, groups in (("model", data.model), ("architecture", data.family)):
        print(f"\nleft out by {title}")
        guesses = left_out(data, groups)
        report(data, guesses, by_group=title == "architecture")
        coverage(data, guesses)
        ranking(data, guesses.point("tpot"))
    calibration(data, guesses)
    everything = learn(data, np.ones(len(data.places), dtype=bool))
    print("\nnothing left out (for comparison only)")
    report(data, Guesses.of(data.loads, everything), by_group=False)
    print(everything.to_json())
    if arguments.save:
        spreads = {
            metric: {
                kind: spread(guesses.errors(metric, getattr(data, metric))[data.experts == (kind == "experts")])
                for kind in ("dense", "experts")
            }
            for metric in ("tpot", "ttft")
        }
        origin = f"{len(data.places)} aggregated runs of {len(set(data.family))} architectures, silicon_e2e 2026-08-21"
        save(arguments.save, Learned(corrections=everything, spreads=spreads, origin=origin))


@dataclasses.dataclass(frozen=True, slots=True)
class Guesses:
    """Of every row with a place for every client and with one less: times in s and probabilities, shape (2, n)."""

    ways: Ways

    @classmethod
    def of(cls, loads: ClosedLoads, factors: Corrections) -> Guesses:
        plain, short = latencies(loads, factors), latencies(loads, factors, loads.may_be_short)
        share = loads.short_share
        return cls(
            Ways(
                odds=np.array([1.0 - share, share]),
                ttft_s=np.array([plain.ttft_s, short.ttft_s]),
                tpot_s=np.array([plain.tpot_s, short.tpot_s]),
            )
        )

    def times(self, metric: str) -> Array:
        return np.asarray(getattr(self.ways, f"{metric}_s"))

    def point(self, metric: str) -> Array:
        return forecast(self.times(metric), self.ways.odds)

    def errors(self, metric: str, measured: Array) -> Array:
        """log(measured / predicted) under the way that comes closer, shape (n,): intervals span both ways."""
        errors = np.log(measured / self.times(metric))
        return np.asarray(np.take_along_axis(errors, np.abs(errors).argmin(axis=0)[None], axis=0)[0])

    def predictions(self, spreads: Mapping[str, Mapping[str, Spread]], experts: NDArray[np.bool_]) -> list[Prediction]:
        """As a `Predictor` would give them, one per row."""
        bounds = np.array(
            [
                [np.exp(each) for metric in ("ttft", "tpot") for each in _both(spreads[metric][kind])]
                for kind in np.where(experts, "experts", "dense").tolist()
            ]
        ).T
        return under_doubt([Prediction(origin="predicted")] * len(experts), self.ways, bounds)


def _both(spread: Spread) -> tuple[float, float]:
    return spread.low, spread.high


def left_out(data: Data, groups: Sequence[str]) -> Guesses:
    """Times of every row by factors learned from the other groups' rows."""
    odds, ttft, tpot = (np.zeros((2, len(data.places))) for _ in range(3))
    for group in sorted(set(groups)):
        mine = np.array([name == group for name in groups])
        ways = Guesses.of(data.loads, learn(data, ~mine)).ways
        odds[:, mine], ttft[:, mine], tpot[:, mine] = ways.odds[:, mine], ways.ttft_s[:, mine], ways.tpot_s[:, mine]
    return Guesses(Ways(odds=odds, ttft_s=ttft, tpot_s=tpot))


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
        start = Learned(corrections=made(priors()[0]), spreads={}, origin="priors")
        predictor = Predictor(model, tables_for(catalogue(), TABLES), start)
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
        # a requantised checkpoint is the same model
        base = {"nvidia/DeepSeek-R1-NVFP4": "deepseek-ai/DeepSeek-R1", "nvidia/Qwen3-32B-NVFP4": "Qwen/Qwen3-32B",
                "nvidia/DeepSeek-V3.1-NVFP4": "deepseek-ai/DeepSeek-V3"}  # fmt: skip
        self.model = [base.get(row["model_path"], row["model_path"]) for row in self.raw]
        self.experts = np.array([graphs[row["model_path"]].has_experts for row in self.raw])
        kinds = [f"{f}{r['system']}{r['backend']}{r['precision']}" for f, r in zip(self.family, self.raw, strict=True)]
        sizes = {kind: kinds.count(kind) for kind in set(kinds)}
        self.campaign = [
            f"{m} {r['system']} {r['backend']} {r['backend_version']}"
            for m, r in zip(self.model, self.raw, strict=True)
        ]
        # a group of many like rows counts as about 20 of them, so that no single campaign decides a factor
        weight = np.clip(np.array([np.sqrt(20.0 / sizes[kind]) for kind in kinds]), 0.3, 1.5)
        # what states clients that its sweep never had, or ran with prompts apart or without graphs, teaches nothing
        weight *= np.array(
            [row.launched.clients is None and row.prefill is None and row.launched.captured for row in self.rows]
        )
        # every architecture is one example of a model
        family = np.array(self.family)
        squares = {each: float((weight[family == each] ** 2).sum()) for each in set(self.family)}
        self.weight = weight * np.sqrt([np.mean(list(squares.values())) / squares[each] for each in self.family])


def learn(data: Data, mask: NDArray[np.bool_], rounds: int = 3) -> Corrections:
    """Factors from the rows of `mask`: robust maximum a posteriori.

    TPOT counts by the logarithm of its ratio. TTFT counts by its relative error, so that rows with an unrecorded wait
    (a JIT in the first burst, a full cache), which no factor explains, do not raise the others.

    Campaigns that may be a place short are taken to be what explains them better; factors and that are found in turn.
    What drafts cost and how many are accepted is found last, from runs with speculative decoding alone.
    """
    found = priors()[0]
    drafting = drafts()
    for chosen, rows in ((~drafting, mask & (data.loads.drafted == 0)), (drafting, mask & (data.loads.drafted > 0))):
        for _ in range(rounds):
            short = explained(data, rows, made(found))
            found = fitted(data, rows, short, found, chosen)
    return made(found)


def fitted(
    data: Data, rows: NDArray[np.bool_], short: NDArray[np.bool_], values: Array, chosen: NDArray[np.bool_]
) -> Array:
    """The vector of values with those that are `chosen` fitted to `rows`."""
    start, width, low, high = priors()

    def residuals(part: Array) -> Array:
        whole = values.copy()
        whole[chosen] = part
        times = latencies(data.loads, made(whole), short)
        tpot = np.log(times.tpot_s[rows] / data.tpot[rows]) / 0.10
        ttft = times.ttft_s[rows] / data.ttft[rows] - 1.0
        weight = data.weight[rows]
        return np.concatenate([robust(weight * tpot), robust(weight * ttft), ((whole - start) / width)[chosen]])

    bounds = (low[chosen], high[chosen])
    found = values.copy()
    found[chosen] = least_squares(residuals, values[chosen], x_scale=width[chosen], max_nfev=15, bounds=bounds).x
    return found


def explained(data: Data, mask: NDArray[np.bool_], factors: Corrections) -> NDArray[np.bool_]:
    """Which rows of `mask` are better explained by a place less than clients, by campaign."""
    costs = [
        np.abs(np.log(each.tpot_s / data.tpot)) / 0.1 + np.abs(np.log(each.ttft_s / data.ttft)) / 0.3
        for each in (latencies(data.loads, factors), latencies(data.loads, factors, data.loads.may_be_short))
    ]
    short = np.zeros(len(data.places), dtype=bool)
    for campaign in {data.campaign[place] for place in np.flatnonzero(mask & data.loads.may_be_short)}:
        rows = np.array([each == campaign for each in data.campaign]) & data.loads.may_be_short
        short[rows] = costs[1][rows].mean() < costs[0][rows].mean()
    return short


def priors() -> tuple[Array, Array, Array, Array]:
    """Start, width, lowest and highest of every learned value; ratios are learned as logarithms."""
    found = []
    for name, values in {**{name: (value,) for name, value in SHARED.items()}, **BY_ENGINE}.items():
        for centre, width in values:
            if name in RATIOS:
                found.append((np.log(centre), width, -np.inf, np.inf))
            else:
                found.append((centre, width, 0.0, 1.0 + 1e-6 if name in SHARES else np.inf))
    start, width, low, high = np.array(found).T
    return np.clip(start, low + 1e-9, high - 1e-9), SHRINKAGE * width, low, high


def drafts() -> NDArray[np.bool_]:
    """Which learned values speculative decoding alone has: others are not learned from runs with it."""
    names = list(SHARED) + [name for name in BY_ENGINE for _ in Engine]
    return np.array([name in DRAFTS for name in names])


def robust(residuals: Array) -> Array:
    """Huber's loss as residuals: linear beyond one."""
    size = np.abs(residuals)
    return np.sign(residuals) * np.where(size < 1, size, np.sqrt(np.maximum(2 * size - 1, 0)))


def made(values: Array) -> Corrections:
    """Factors from the vector that is learned."""
    rest = [float(value) for value in values]

    def natural(name: str) -> float:
        value = rest.pop(0)
        if name in RATIOS:
            return float(np.exp(value))
        return value * 1e-6 if name.endswith("_s") else value

    shared = {name: natural(name) for name in SHARED}
    by_engine = {name: tuple(natural(name) for _ in Engine) for name in BY_ENGINE}
    return Corrections(**shared, **by_engine)  # type: ignore[arg-type]


def spread(errors: Array) -> Spread:
    """Of 90 % intervals; a little beyond the quantiles, since an unseen model adds an error of its own."""
    return Spread(low=float(np.quantile(errors, 0.025)), high=float(np.quantile(errors, 0.975)))


def report(data: Data, guesses: Guesses, by_group: bool) -> None:
    tpot, ttft = guesses.point("tpot"), guesses.point("ttft")
    off = {"TPOT": np.abs(tpot / data.tpot - 1), "TTFT": np.abs(ttft / data.ttft - 1)}
    for name, error in off.items():
        for kind, mask in (("dense", ~data.experts), ("experts", data.experts)):
            part = error[mask]
            middle, high = np.quantile(part, [0.5, 0.9])
            print(f"{name} {kind:8} mean {part.mean():7.1%} median {middle:6.1%} p90 {high:6.1%}")
    if not by_group:
        return
    groups = sorted({(r["model_path"], r["system"], r["backend"], r["precision"]) for r in data.raw})
    for group in groups:
        mask = np.array([(r["model_path"], r["system"], r["backend"], r["precision"]) == group for r in data.raw])
        bias = np.median(np.log(tpot[mask] / data.tpot[mask]))
        print(
            f"  {' '.join(group):60} n {mask.sum():4d} TPOT {off['TPOT'][mask].mean():6.1%}"
            f" (median {np.median(off['TPOT'][mask]):6.1%}, bias {bias:+.2f}) TTFT {off['TTFT'][mask].mean():6.1%}"
            f" (median {np.median(off['TTFT'][mask]):6.1%})"
        )


def coverage(data: Data, guesses: Guesses) -> None:
    """Intervals for each architecture from the errors on the others."""
    family = np.array(data.family)
    for metric in ("tpot", "ttft"):
        measured = getattr(data, metric)
        error = guesses.errors(metric, measured)
        shortest, longest = guesses.ways.range(guesses.times(metric))
        inside = np.zeros(len(error), dtype=bool)
        for left_out in set(data.family):
            for kind in (False, True):
                here = (family == left_out) & (data.experts == kind)
                others = (family != left_out) & (data.experts == kind)
                if here.any() and others.any():
                    bounds = spread(error[others])
                    low, high = shortest[here] * np.exp(bounds.low), longest[here] * np.exp(bounds.high)
                    inside[here] = (measured[here] >= low) & (measured[here] <= high)
        print(f"{metric.upper()} 90 % intervals hold {inside.mean():.1%} of the rows")


def calibration(data: Data, guesses: Guesses, draws: int = 15, runs: int = 3) -> None:
    """Errors after `runs` measured runs, drawn by seed, which do not count themselves. Medians over draws."""
    rows = [row for row in data.rows if isinstance(row, ServingRow)]
    deployment = [(row.device, row.engine, row.weights, row.experts) for row in rows]
    kinds: dict[str, list[tuple[object, ...]]] = {
        "of the model": [(name,) for name in data.model],
        "of model, device, engine and formats": list(zip(data.model, deployment, strict=True)),
        "of these and the engine's version": list(
            zip(data.model, deployment, [row.version for row in rows], strict=True)
        ),
    }
    # all rows of a model are one model to the calibration, requantised or not
    rows = [dataclasses.replace(row, model=name) for row, name in zip(rows, data.model, strict=True)]
    spreads = {
        metric: {
            kind: spread(guesses.errors(metric, getattr(data, metric))[data.experts == (kind == "experts")])
            for kind in ("dense", "experts")
        }
        for metric in ("tpot", "ttft")
    }
    plain = guesses.predictions(spreads, data.experts)
    print(f"\nleft out by architecture, then calibrated on {runs} measured runs ({draws} draws)")
    for title, keys in kinds.items():
        figures: dict[str, list[list[float]]] = {"tpot": [], "ttft": []}
        groups = [np.array([place for place, other in enumerate(keys) if other == key]) for key in dict.fromkeys(keys)]
        for seed in range(draws):
            generator = np.random.default_rng(seed)
            after: list[Prediction | None] = [None] * len(rows)
            for here in groups:
                if here.size < runs + 2:
                    continue
                known = generator.permutation(here)[:runs].tolist()
                asked = np.setdiff1d(here, known).tolist()
                told = [
                    MeasuredRun(
                        row=rows[p], prediction=plain[p], ttft_s=float(data.ttft[p]), tpot_s=float(data.tpot[p])
                    )
                    for p in known
                ]
                found = calibrate([rows[p] for p in asked], [plain[p] for p in asked], told)
                for place, prediction in zip(asked, found, strict=True):
                    after[place] = prediction
            for metric, measures in figures.items():
                measures.append(figures_of(metric, getattr(data, metric), plain, after, data.experts))
        for metric, measures in figures.items():
            middle = np.median(np.array(measures, dtype=np.float64), axis=0)
            print(
                f"{metric.upper()}, runs {title}: dense {middle[0]:.1%} -> {middle[1]:.1%} (median {middle[2]:.1%}), "
                f"experts {middle[3]:.1%} -> {middle[4]:.1%} (median {middle[5]:.1%}), intervals hold {middle[6]:.1%}"
            )


def figures_of(
    metric: str,
    measured: Array,
    before: Sequence[Prediction],
    after: Sequence[Prediction | None],
    experts: NDArray[np.bool_],
) -> list[float]:
    """Mean error before, after, its median, of dense models and of those with experts; share inside the interval."""
    places = np.array([place for place, prediction in enumerate(after) if prediction is not None])

    def error(predictions: Sequence[Prediction | None]) -> Array:
        times = np.array([getattr(predictions[place], f"{metric}_s") for place in places])
        return np.asarray(np.abs(times / measured[places] - 1.0))

    intervals = np.array([getattr(after[place], f"{metric}_interval_s") for place in places])
    inside = (intervals[:, 0] <= measured[places]) & (measured[places] <= intervals[:, 1])
    found: list[float] = []
    for kind in (False, True):
        part = experts[places] == kind
        old, new = error(before)[part], error(after)[part]
        found += [float(old.mean()), float(new.mean()), float(np.median(new))]
    return [*found, float(inside.mean())]


def ranking(data: Data, tpot: Array) -> None:
    """Best configuration of a (model, device, lengths) group by prediction alone."""
    rows = [row for row in data.rows if isinstance(row, ServingRow)]
    running = [row.decode.batch * row.decode.shard.attention_replicas / row.decode.shard.gpus for row in rows]
    performance_ranking.report(performance_ranking.grouped(data.raw, data.family, (np.array(running), data.tpot, tpot)))


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
