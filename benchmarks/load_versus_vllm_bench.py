"""The load generator beside `vllm bench serve`: one vLLM server, an open loop, requests alike, in turn.

    python benchmarks/load_versus_vllm_bench.py --url http://127.0.0.1:8000 --model llama --tokenizer /models/llama \\
        --vllm-command "docker run --rm --network host -v $PWD/llama:/models/llama:ro --entrypoint vllm IMAGE" \\
        --rate 4 --requests 240 --input-tokens 128 --output-tokens 32

`vllm bench` draws Poisson gaps and rescales them so that N requests leave within exactly N / rate; here
a trace that was drawn and rescaled the same way is replayed, so that both offer the same rate. Where the
two define things differently:

* Throughput: `vllm bench` divides by the time until its last answer, here windows of N / rate are used; over
  60 s with answers of 1 s that is 1.6 %.
* TTFT and end-to-end: theirs begin when a request is sent, ours when it was due.
* End: theirs is the last token, ours the last byte of the answer (usage and `[DONE]` come after the token).
* Percentiles: theirs are interpolated, ours nearest-rank.
"""

from __future__ import annotations

import argparse
import re
import shlex
import statistics
import subprocess
from typing import Final

import numpy as np

from runners.load.driver import SubprocessLoadDriver
from tuner.launch import CompletionRequest
from tuner.metric import MetricRef
from tuner.trial import TrialPlan
from tuner.workload import Lengths, TokenShapes, TraceReplay, TraceRequest, Workload

_WINDOWS: Final = 5
_ROWS: Final = (
    ("throughput, rps", "throughput", r"Request throughput \(req/s\):\s+([\d.]+)"),
    ("output tokens/s", "output_throughput", r"Output token throughput \(tok/s\):\s+([\d.]+)"),
    ("TTFT mean, ms", "mean(ttft)", r"Mean TTFT \(ms\):\s+([\d.]+)"),
    ("TTFT p50, ms", "p50(ttft)", r"Median TTFT \(ms\):\s+([\d.]+)"),
    ("TTFT p99, ms", "p99(ttft)", r"P99 TTFT \(ms\):\s+([\d.]+)"),
    ("TPOT mean, ms", "mean(tpot)", r"Mean TPOT \(ms\):\s+([\d.]+)"),
    ("TPOT p50, ms", "p50(tpot)", r"Median TPOT \(ms\):\s+([\d.]+)"),
    ("TPOT p99, ms", "p99(tpot)", r"P99 TPOT \(ms\):\s+([\d.]+)"),
    ("latency p50, ms", "p50(latency)", r"Median E2EL \(ms\):\s+([\d.]+)"),
    ("latency p99, ms", "p99(latency)", r"P99 E2EL \(ms\):\s+([\d.]+)"),
)


def poisson_trace(requests: int, rate_rps: float, seed: int) -> TraceReplay:
    """Arrivals of a Poisson process, rescaled to end at `requests / rate_rps` as `vllm bench` does."""
    times = np.cumsum(np.random.default_rng(seed).exponential(size=requests))
    times *= requests / rate_rps / times[-1]
    rows = tuple(TraceRequest(arrival_s=float(time)) for time in times - times[0])
    return TraceReplay(source="poisson", requests=rows)


def run_ours(options: argparse.Namespace, seed: int) -> list[float]:
    """The metrics of `_ROWS`."""
    shapes = TokenShapes(
        input_tokens=Lengths.constant(options.input_tokens), output_tokens=Lengths.constant(options.output_tokens)
    )
    low, high = (int(part) for part in options.token_ids.split(":"))
    request = CompletionRequest(model_name=options.model, shapes=shapes, token_ids=(low, high))
    trace = poisson_trace(options.requests, options.rate, seed)
    plan = TrialPlan(
        workload=Workload(arrival=trace, requests=shapes),
        warmup_s=0.0,
        windows=_WINDOWS,
        window_s=options.requests / options.rate / _WINDOWS,
        request_timeout_s=120.0,
        seed=seed,
    )
    found = SubprocessLoadDriver().drive(options.url, request, plan, lambda progress: None)
    if found.errors:
        raise SystemExit(f"The load generator met errors: {found.errors}")
    values = [found.value(MetricRef.parse(name)) or 0.0 for _, name, _ in _ROWS]
    return [value * (1e3 if label.endswith("ms") else 1.0) for value, (label, _, _) in zip(values, _ROWS, strict=True)]


def run_theirs(options: argparse.Namespace, seed: int) -> list[float]:
    """The metrics of `_ROWS`, as `vllm bench serve` prints them."""
    argv = [
        *shlex.split(options.vllm_command),
        *("bench", "serve", "--backend", "vllm", "--base-url", options.url, "--endpoint", "/v1/completions"),
        *("--model", options.model, "--tokenizer", options.tokenizer, "--dataset-name", "random"),
        *("--random-input-len", str(options.input_tokens), "--random-output-len", str(options.output_tokens)),
        *("--random-range-ratio", "0", "--num-prompts", str(options.requests), "--request-rate", str(options.rate)),
        *("--ignore-eos", "--temperature", "0", "--seed", str(seed), "--disable-tqdm"),
        *("--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99"),
    ]
    limit_s = 300 + 3 * options.requests / options.rate
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=limit_s)
    if done.returncode:
        raise SystemExit(f"vllm bench serve failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    found = [re.search(pattern, done.stdout) for _, _, pattern in _ROWS]
    if any(match is None for match in found):
        raise SystemExit(f"vllm bench serve printed no such table:\n{done.stdout[-3000:]}")
    return [float(match.group(1)) for match in found if match is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True, help="as the server knows it")
    parser.add_argument("--tokenizer", required=True, help="its folder, as the vllm command sees it")
    parser.add_argument("--vllm-command", default="vllm", help="how to start the vllm command line")
    parser.add_argument("--token-ids", default="300:1000", help="our prompts' ids, low:high")
    parser.add_argument("--rate", type=float, default=4.0, help="requests/s")
    parser.add_argument("--requests", type=int, default=240)
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the first repeat: a prefix cache remembers old prompts")
    options = parser.parse_args()
    ours: list[list[float]] = []
    theirs: list[list[float]] = []
    run_ours(options, seed=options.seed + 10_000)  # warms the server up, for both
    for repeat in range(options.repeats):
        turns = [(ours, run_ours), (theirs, run_theirs)]
        for found, run in turns if repeat % 2 == 0 else reversed(turns):
            found.append(run(options, options.seed + repeat + (1000 if run is run_theirs else 0)))
        print(f"repeat {repeat + 1} of {options.repeats} done", flush=True)
    print(f"{'median (least to most)':24} {'ours':>30} {'vllm bench serve':>30} {'ratio':>7}")
    for index, (label, _, _) in enumerate(_ROWS):
        mine, other = [row[index] for row in ours], [row[index] for row in theirs]
        ratio = statistics.median(mine) / statistics.median(other)
        print(f"{label:24} {spread(mine):>30} {spread(other):>30} {ratio:7.3f}")


def spread(values: list[float]) -> str:
    """Median with the extremes."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
