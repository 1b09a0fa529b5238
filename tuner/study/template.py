"""Study files to start from: commented, and complete but for the model."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Final

from tuner.errors import UnknownNameError
from tuner.study import adapters

TEMPLATE = """\
# yaml-language-server: $schema=study.schema.json
# What to tune, for whom, and how: `tune check` reports every fault, `tune run` carries it out.
# `tune schema > study.schema.json` lets editors complete and explain the keys.

# The model: a path relative to this file, or its name on a hub.
{model}
{engine_lines}
# Device types to choose from, with their price per hour. GPUs: {{name: l4, gpus: 1, gpu: L4, price: 0.80 USD/h}}.
devices:
  - {{name: cpu-1, cpus: 1, memory: {memory}, price: 0.05 USD/h}}
  - {{name: cpu-2, cpus: 2, memory: {memory}, price: 0.10 USD/h}}

workload:
  # Open loop: process poisson, gamma (with cv) or constant. The range of rates is searched for the highest one
  # that holds the SLO; a single one, rate: 50 rps, tunes for that load. Closed loop: {{clients: 32}}.
  # Your own traffic: {{trace: ./traffic.csv}}, with the columns arrival_s, input_tokens, output_tokens.
  arrival: {{process: poisson, rate: {rate}}}
{requests}
# Bounds that must hold: on p50, p90, p99.9… or mean of {populations}; on error_rate, throughput, goodput.
slo:
{slos}
  - error_rate <= 0.1%

# What the best configuration is best at; a list of two asks for a Pareto front. Others: throughput, goodput,
# max_arrival_rate, cost_per_hour, p99(latency).
objective: {objective}

search:
  # The study ends when the first limit is reached; money is the devices' price over the time of the trials.
  budget: {{trials: 15, time: 60 min}}
  # Parameters are the engine's own; here they can be fixed, listed or given a range:
  # space: {space}
  # sampler: TPESampler     # any Optuna sampler by name; ours when left out
  # seed: 0
  # priors: auto            # earlier studies of this engine in your library; none, or a file or folder of them
  # remember: true          # add this study to your library when it ends
  # predictions: false      # do without the performance model
  # early_end: false        # load every trial to its end, also one that surely misses the SLO
  # stop: never             # go on until the budget ends, even if little is left to find

# How one configuration is measured. All of these are the defaults.
trial:
  warmup: 2 s
  windows: 5
  window: 2 s
  request_timeout: 30 s
  max_error_rate: 5%

# docker, process, or auto: docker where a daemon answers.
runner: auto

# The study's database, an Optuna storage URL, such as postgresql+psycopg://me:${{PASSWORD}}@host/studies.
# A file in .tuner beside this one when left out.
# storage: sqlite:///study.db

# Files for deployment, written when the study ends, by format: {formats}.
export:
  compose: ./deploy
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """What differs between the templates of engines."""

    model: str
    memory: str
    rate: str
    requests: str
    populations: str
    slos: tuple[str, ...]
    objective: str
    space: str
    formats: str
    engine_lines: str | None = None


_NAMED: Final = "# The model server; options go beside its name: {{name: {engine}, …}}.\nengine: {engine}"

_GENERIC: Final = _Sample(
    model="./model",
    memory="4 GiB",
    rate="{low: 5 rps, high: 500 rps}",
    requests="requests: {tensors: {rows: 1}}",
    populations="latency",
    slos=("p99(latency) <= 200 ms",),
    objective="cost_per_million_requests",
    space="{a_parameter: 1, another: [1, 2, 4], a_third: {low: 1, high: 8}}",
    formats="json, yaml, env, compose",
)
_SAMPLES: Final = {
    "command": _Sample(
        model="./model",
        engine_lines="""\
# Any server: an image or a program, with {placeholders} for its parameters, the model and the port.
engine:
  name: command
  image: my-server:1.0            # for the docker runner
  command: [serve, --port, "{port}", --model, "{model}", --threads, "{threads}", --batch, "{max_batch}"]
  environment: {OMP_NUM_THREADS: "{threads}"}
  health: {path: /health}         # GET answers 2xx once the server is ready
  parameters:
    threads: {values: [1, 2, 4], default: 1, scale: log, says: threads of the server}
    max_batch: {range: {low: 1, high: 32, factor: 2}, default: 1, says: requests in one batch}
  rules: [threads * max_batch <= 64]""",
        memory="4 GiB",
        rate="{low: 5 rps, high: 500 rps}",
        requests=(
            "# A body that is written as a mapping is sent as JSON.\n"
            "requests:\n"
            '  template: {path: /predict, body: {id: "{request_id}", inputs: [1, 2, 3]}, expect: outputs}'
        ),
        populations="latency (ttft if streamed)",
        slos=("p99(latency) <= 200 ms",),
        objective="cost_per_million_requests",
        space="{threads: 1, max_batch: {low: 4, high: 16}}",
        formats="json, yaml, env, compose, script",
    ),
    "triton": _Sample(
        model="./model.onnx",
        memory="4 GiB",
        rate="{low: 5 rps, high: 500 rps}",
        requests=(
            "# Sizes of the model's dynamic dimensions by name: one size, or several to draw from.\n"
            "# requests: {tensors: {dims: {sequence: [16, 32]}, rows: 1}}\n"
            "requests: {tensors: {rows: 1}}"
        ),
        populations="latency",
        slos=("p99(latency) <= 200 ms",),
        objective="cost_per_million_requests",
        space="{max_batch_size: [4, 8, 16], instance_count: {low: 1, high: 4}, intra_op_thread_count: 1}",
        formats="json, yaml, env, compose, triton",
    ),
    "vllm": _Sample(
        model="./model",
        memory="8 GiB",
        rate="{low: 0.2 rps, high: 20 rps}",
        requests=(
            "# Lengths in tokens: a number, or {shape: lognormal, mean: 256, std: 128, low: 16, high: 1024}\n"
            "# (or normal, or uniform with low and high).\n"
            "requests:\n"
            "  tokens: {input: 128, output: 64, shared_prefix: 0}"
        ),
        populations="latency, ttft, tpot and itl",
        slos=("p95(ttft) <= 500 ms", "p95(tpot) <= 200 ms"),
        objective="cost_per_million_tokens",
        space="{max_num_seqs: [16, 64, 256], enable_prefix_caching: true}",
        formats="json, yaml, env, compose, vllm-args",
    ),
}


def template(engine: str = "triton") -> str:
    """A commented study file for an engine; `tune check` finds nothing wrong with it but the model's path.

    Raises:
        UnknownNameError: no engine is called so.
    """
    known = adapters.names(adapters.SEARCH_SPACES)
    if engine not in known:
        raise UnknownNameError("engine", engine, known)
    sample = _SAMPLES.get(engine, _GENERIC)
    return TEMPLATE.format(
        model=f"model: {sample.model}\n",
        engine_lines=(_NAMED.format(engine=engine) if sample.engine_lines is None else sample.engine_lines) + "\n",
        memory=sample.memory,
        rate=sample.rate,
        requests=textwrap.indent(sample.requests, "  ") + "\n",
        populations=sample.populations,
        slos="\n".join(f"  - {slo}" for slo in sample.slos),
        objective=sample.objective,
        space=sample.space,
        formats=sample.formats,
    )
