"""`tune simulate`: one configuration of a study in detail, or engines under a trace, request by request."""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tuner.cli.performance_inputs import (
    check_place,
    device_catalogue,
    operator_tables,
    refuse_beside_a_study,
)
from tuner.errors import ModelError, StorageError, TraceError, UnknownNameError, UsageError, first_ones
from tuner.performance.batch_file import column_names, open_table
from tuner.performance.corrections import Engine, shipped
from tuner.performance.simulation.continuous import Requests, Served
from tuner.performance.simulation.deployment import ModelOnDevice, simulate_deployment
from tuner.performance.simulation.engine_settings import read_settings
from tuner.study.read_model import read_model
from tuner.whole_file import written_whole

Mask = NDArray[np.bool_]

_COLUMNS = ("arrival_s", "input_tokens", "output_tokens")
_LONGEST = 10_000_000
_LATEST_S = 1e10
"""Three hundred years: clocks count single microseconds so far."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "simulate",
        help="one configuration of a study in detail, simulated",
        description="Simulates one configuration under the study's own traffic, or (with --requests) an engine, "
        "several, or prefill and decode workers under a trace, request by request; nothing is started.",
        epilog=(
            "examples: tune simulate study.yaml --set max_num_seqs=64; "
            "tune simulate --requests trace.csv --model models/Qwen--Qwen3-8B --device h100_sxm "
            "--set max_num_seqs=64 --out per_request.csv; "
            "... --set data_parallel_size=2 enable_expert_parallel=true; "
            "... --set prefill_workers=2 decode_workers=1 decode_max_num_seqs=512"
        ),
    )
    parser.add_argument("study", type=Path, nargs="?", help="study file")
    parser.add_argument("--requests", type=Path, metavar="CSV", help=f"columns {', '.join(_COLUMNS)}")
    parser.add_argument("--model", type=Path, metavar="DIR", help="holds a config.json")
    parser.add_argument("--device", help="a device of the catalogue, for example h100_sxm")
    parser.add_argument("--engine", help="vllm, sglang or trtllm (default: vllm)")
    parser.add_argument(
        "--set", action="append", nargs="+", default=[], metavar="NAME=VALUE", help="parameters of the configuration"
    )
    parser.add_argument("--out", type=Path, metavar="CSV", help="one row per request")
    parser.add_argument("--devices", type=Path, metavar="FILE.yaml", help="your own device catalogue")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the command."""
    settings = _settings([text for texts in arguments.set for text in texts])
    if arguments.study is not None:
        if arguments.requests is not None:
            raise UsageError("A study has its own traffic, and --requests is another. Give one of them.")
        refuse_beside_a_study(arguments, ("model", "device", "engine", "out", "devices"), "--requests")
        from tuner.cli.simulate_study import show_simulation  # imports optuna, which neither help nor a trace needs

        return show_simulation(arguments.study, settings, arguments.json)
    missing = [f"--{name}" for name in ("requests", "model", "device", "out") if getattr(arguments, name) is None]
    if missing:
        raise UsageError(f"Nothing to simulate. Write a study file, or {' and '.join(missing)} too.")
    check_place(arguments.out)
    requests = read_requests(arguments.requests)
    catalogue = device_catalogue(arguments.devices)
    if arguments.device not in catalogue:
        raise UnknownNameError("device", arguments.device, catalogue)
    hardware = catalogue[arguments.device]
    graph = read_model(arguments.model)
    if not graph.generates:
        raise ModelError(f"{graph.name} ({graph.family}) generates no tokens. Give a language model.")
    engine = Engine.named(arguments.engine or "vllm")
    deployment = read_settings(settings, graph, hardware)
    accepted = accepted_requests(requests, deployment.max_model_len)
    model = ModelOnDevice(
        graph=graph,
        table=operator_tables(catalogue)[arguments.device],
        factors=shipped().corrections,
        engine=engine,
        longest=int((requests.input_tokens + requests.output_tokens)[accepted].max()),
    )
    served = simulate_deployment(requests, deployment, model)
    write_requests(arguments.out, requests, served)
    summary = {**deployment.told(), **summarize(requests, served)}
    if arguments.json:
        print(json.dumps(summary, indent=2))
    else:
        width = max(map(len, summary))
        for name, value in summary.items():
            print(f"{name:{width}} {str(value).lower() if isinstance(value, bool) else f'{value:.6g}'}")
    return 0


def read_requests(path: Path) -> Requests:
    """A trace, sorted by arrival.

    Raises:
        TraceError: a column is missing or rows are no requests; all are counted, the first ten values listed.
        UsageError: two columns have one name.
    """
    try:
        with open_table(path) as file:
            reader = csv.DictReader(file)
            names = column_names(path, reader)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path} cannot be read as CSV: {error}.") from error
    missing = [name for name in _COLUMNS if name not in names]
    if missing:
        raise TraceError(f"{path} has no column {', '.join(missing)}. Write {', '.join(_COLUMNS)}.")
    if not rows:
        raise TraceError(f"{path} holds no requests. Write one row per request.")
    values = np.zeros((len(rows), len(_COLUMNS)))
    faults = []
    for place, (line, row) in enumerate(rows):
        for column, name in enumerate(_COLUMNS):
            number = _number(row[name])
            if not (abs(number) < _LATEST_S if name == "arrival_s" else 1 <= number <= _LONGEST and number % 1 == 0):
                faults.append(f"line {line}: {name} is {row[name] or ''!r}")
            else:
                values[place, column] = number
    if faults:
        raise TraceError(
            f"{path} has values that are none: {first_ones(faults)}. "
            f"Write arrivals in seconds, and whole numbers of tokens from 1 to {_LONGEST}."
        )
    values = values[np.argsort(values[:, 0], kind="stable")]
    return Requests(
        arrival_s=values[:, 0],
        input_tokens=values[:, 1].astype(np.int64),
        output_tokens=values[:, 2].astype(np.int64),
    )


def accepted_requests(requests: Requests, max_model_len: int | None) -> Mask:
    """Which requests the engine takes; it refuses those that are longer than `max_model_len`, and a warning names them.

    Raises:
        UsageError: all are.
    """
    lengths = requests.input_tokens + requests.output_tokens
    accepted = np.ones(lengths.size, bool) if max_model_len is None else lengths <= max_model_len
    longer = np.flatnonzero(~accepted)
    if not longer.size:
        return accepted
    each = [
        f"at {requests.arrival_s[place]:g} s, {requests.input_tokens[place]} + {requests.output_tokens[place]} tokens"
        for place in longer
    ]
    words = (
        f"{longer.size} of {accepted.size} requests are longer than max_model_len, {max_model_len} tokens of prompt "
        f"and answer: {first_ones(each)}."
    )
    if not accepted.any():
        raise UsageError(f"{words} Give shorter ones, or a larger --set max_model_len=.")
    print(f"tune: {words} The engine refuses them: they count as refused, and have no times.", file=sys.stderr)
    return accepted


def write_requests(path: Path, requests: Requests, served: Served) -> None:
    """One row per request, in order of arrival; empty where a request could never be served."""
    ttft = served.first_token_s - requests.arrival_s
    e2e = served.finished_s - requests.arrival_s
    gaps = requests.output_tokens - 1
    try:
        with written_whole(path) as file:
            writer = csv.writer(file)
            writer.writerow([*_COLUMNS, "ttft_s", "tpot_s", "e2e_s", "preemptions"])
            for place in range(requests.arrival_s.size):
                tpot = (e2e[place] - ttft[place]) / gaps[place] if gaps[place] > 0 else np.nan
                writer.writerow(
                    [
                        f"{requests.arrival_s[place]:.6f}",
                        requests.input_tokens[place],
                        requests.output_tokens[place],
                        *("" if np.isnan(value) else f"{value:.6g}" for value in (ttft[place], tpot, e2e[place])),
                        served.preemptions[place],
                    ]
                )
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}.") from error


def summarize(requests: Requests, served: Served) -> dict[str, float]:
    """Throughput and percentiles; times in s."""
    done = np.isfinite(served.finished_s)
    if not done.any():
        return {"requests": float(done.size), "refused": float(served.refused)}
    ttft = (served.first_token_s - requests.arrival_s)[done]
    several = done & (requests.output_tokens > 1)
    tpot = (served.finished_s - served.first_token_s)[several] / (requests.output_tokens[several] - 1)
    span = float(served.finished_s[done].max() - requests.arrival_s[0])
    summary = {
        "requests": float(done.size),
        "refused": float(served.refused),
        "preemptions": float(served.preemptions.sum()),
        "throughput_rps": float(done.sum() / span),
        "output_tokens_per_s": float(requests.output_tokens[done].sum() / span),
    }
    for name, values in (("ttft_s", ttft), ("tpot_s", tpot)):
        if values.size:
            summary[f"mean({name})"] = float(values.mean())
            for percentile in (50, 90, 99):
                summary[f"p{percentile}({name})"] = float(np.percentile(values, percentile))
    return summary


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return math.nan


def _settings(texts: Sequence[str]) -> dict[str, str]:
    settings: dict[str, str] = {}
    for name, value in map(_setting, texts):
        if settings.setdefault(name, value) != value:
            raise UsageError(f"--set gives {name} as {settings[name]!r} and as {value!r}. Give it once.")
    return settings


def _setting(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise UsageError(f"--set {text!r} sets nothing. Write --set max_num_seqs=64.")
    return name.strip(), value.strip()


if __name__ == "__main__":
    from tuner.cli.performance_inputs import alone

    sys.exit(alone(add))
