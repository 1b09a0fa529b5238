"""Whatever a study file holds, it is a study or a list of faults; never anything else."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuner.errors import StudyFileError
from tuner.study.definition import Study
from tuner.study.file import parse_study
from tuner.testing.fakes import installed

SEARCHED_RATE = """\
name: encoder
model: {hub: owner/encoder}
engine: fake
devices:
  - {name: cpu-1, cpus: 1, memory: 2 GiB, price: 0.05 USD/h}
  - {name: l4, gpus: 1, gpu: L4, gpu_memory: 24 GiB, price: 0.8 USD/h}
workload:
  arrival: {process: gamma, cv: 2, rate: {low: 5 rps, high: 500 rps}}
  requests: {tensors: {dims: {sequence: [16, 32]}, rows: 1}}
slo: [p99(latency) <= 50 ms, error_rate <= 0.1%]
objective: [cost_per_million_requests, max_arrival_rate]
search:
  space: {dynamic_batching: true, max_batch_size: [2, 4], instance_count: {low: 1, high: 2}, threads: 1}
  budget: {trials: 15, time: 20 min, money: 5 USD}
trial: {warmup: 2 s, windows: 5, window: 2 s, request_timeout: 30 s, max_error_rate: 5%}
runner: {name: fake, noise: 0.1}
storage: sqlite:///study.db
export: {fake: ./out, compose: ./deploy}
"""
TOKENS = """\
model: owner/llama
engine: {name: fake, streams_tokens: true}
devices: [{name: cpu, price: $1/h}]
workload:
  arrival: {clients: 32, think_time: 10 ms}
  requests:
    tokens:
      input: {shape: lognormal, mean: 128, std: 64, low: 1, high: 1024}
      output: 64
      shared_prefix: 16
slo: p95(ttft) <= 300 ms
objective: cost_per_million_tokens
search: {space: {precision: [fp16], dynamic_batching: false}, seed: 7}
"""
TRACE = """\
model: owner/anything
engine: fake
devices: [{name: cpu}]
workload:
  arrival: {trace: traffic.csv, speed: 2}
  requests:
    template: {path: /predict, headers: {Accept: text/plain}, body: {inputs: [1, 2]}, expect: outputs}
objective: p99(latency)
search: {space: {dynamic_batching: false, threads: {low: 1, high: 8, factor: 2}}, sampler: random}
"""
COMMAND = """\
model: my-model
engine:
  name: command
  image: server:1
  command: [serve, "{port}", "{model}", {when: {fast: true}, args: [--fast]}, "{threads}"]
  environment: {THREADS: "{threads}"}
  files: {server.conf: "batch={batch}"}
  health: {path: /health, deadline: 60 s}
  parameters:
    threads: {values: [1, 2, 4], default: 1, scale: log}
    fast: {values: [true, false], when: {threads: [2, 4]}}
    batch: {range: {low: 1, high: 32, factor: 2}, default: 1}
  rules: [threads * batch <= 64]
  request: {protocol: template, path: /predict, body: {x: 1}}
devices: [{name: cpu, cpus: 2, price: 1}]
workload: {arrival: {rate: 20 rps}}
slo: [p99(latency) <= 1 s]
objective: throughput
runner: {name: docker}
"""
TRITON = """\
model: ./model.onnx
engine: {name: triton, backend: python, inputs: {x: {low: 0, high: 2}}, extra_args: ["--log-verbose=1"]}
devices: [{name: cpu, cpus: 2, price: 1}]
workload: {arrival: {rate: 20 rps}, requests: {tensors: {dims: {width: [4, 8]}}}}
slo: [p99(latency) <= 1 s]
objective: [throughput, p50(latency)]
search: {space: {max_batch_size: [2, 4], instance_count: {low: 1, high: 2}}}
runner: {name: process}
"""
VLLM = """\
model: ./llama
engine: {name: vllm, load_format: dummy, max_model_len: 1024, extra_args: [--seed=1]}
devices: [{name: cpu, cpus: 2, memory: 8 GiB, price: 1}]
workload: {arrival: {rate: 2 rps}, requests: {tokens: {input: 64, output: {low: 8, high: 32}}}}
slo: [p95(ttft) <= 1 s]
objective: output_throughput
search: {space: {max_num_seqs: [16, 64]}}
"""
GOOD = (SEARCHED_RATE, TOKENS, TRACE, COMMAND, TRITON, VLLM)
JUNK: list[object] = [
    None, True, -1, 0, 1, 2**70, 1e308, 1e-300, float("nan"), float("inf"), "", " ", "x", "50", "-3 ms", "1e999 s",
    "50 parsecs", "${HOME}", "${NOT_SET}", "p99(latency) <= 5 ms", "../../x", "/dev/null", "/etc/passwd",
    "\u202e\U0001f4a5",
    "x" * 5000, [], [[]], [1, [2, [3]]], {}, {"a": {"b": {}}}, {"name": "fake"}, {"low": 3, "high": 1}, {"clients": 1},
    {"low": "9 rps", "high": "1 rps"}, "a\x00b", "{}", "{x}", ["a", "a"], {"hub": "a b"}, "0 rps", 0.1, "docker",
    "auto",
]  # fmt: skip
TOP_KEYS = list(yaml.safe_load(SEARCHED_RATE))
FAST = yaml.CSafeLoader
KEYS = [
    "name",
    "rate",
    "Rate",
    "clients",
    "trace",
    "hub",
    "",
    "x" * 300,
    "model",
    "tokens",
    "price",
    "\u00e9",
    "0",
    "<<",
]


@pytest.fixture(scope="module", autouse=True)
def _fakes() -> Iterator[None]:
    with installed():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the trace and the models that the good files name."""
    made = tmp_path_factory.mktemp("studies")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", "width"]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "relu", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, made / "model.onnx")
    llama = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "num_hidden_layers": 2}
    llama |= {"num_attention_heads": 4, "vocab_size": 1000, "max_position_embeddings": 2048, "intermediate_size": 512}
    made.joinpath("llama").mkdir()
    made.joinpath("llama", "config.json").write_text(json.dumps(llama))
    made.joinpath("llama", "tokenizer.json").write_text("{}")
    made.joinpath("traffic.csv").write_text("arrival_s,input_tokens,output_tokens\n0,1,2\n0.5,3,4\n")
    return made


def _places(value: object, place: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    children: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    return [place, *(inner for key, child in children for inner in _places(child, (*place, key)))]


def _mutated_value(value: object, chance: random.Random) -> object:
    """`value` with one entry dropped, renamed, replaced, wrapped or doubled."""
    place = chance.choice(_places(value)[1:] or [()])
    if not place:
        return copy.deepcopy(chance.choice(JUNK))
    holder = value
    for part in place[:-1]:
        holder = holder[part]  # type: ignore[index]
    key = place[-1]
    match chance.randrange(5):
        case 0:
            del holder[key]  # type: ignore[attr-defined]
        case 1 if isinstance(holder, dict):
            holder[chance.choice(KEYS)] = holder.pop(key)
        case 2:
            holder[key] = [holder[key]] * chance.randint(1, 3)  # type: ignore[index]
        case 3 if isinstance(holder, dict):
            holder[chance.choice(KEYS)] = copy.deepcopy(chance.choice(JUNK))
        case _:
            holder[key] = copy.deepcopy(chance.choice(JUNK))  # type: ignore[index]
    return value


def _mutated_text(data: bytes, chance: random.Random) -> bytes:
    """`data` with lines or bytes lost, swapped, doubled or inserted."""
    lines = data.splitlines(keepends=True) or [b""]
    at = chance.randrange(len(lines))
    match chance.randrange(7):
        case 0:
            del lines[at]
        case 1:
            lines.insert(chance.randrange(len(lines)), lines[at])
        case 2:
            lines[at] = b"\t" + lines[at]
        case 3:
            lines[at] = b" " * chance.randint(1, 9) + lines[at].lstrip()
        case 4:
            cut = chance.randrange(len(data) + 1)
            return data[:cut]
        case 5:
            cut = chance.randrange(len(data) + 1)
            return data[:cut] + chance.randbytes(chance.randint(1, 4)) + data[cut:]
        case _:
            cut = chance.randrange(len(data) + 1)
            return (
                data[:cut] + chance.choice([b":", b"&a ", b"*a", b"{", b"]", b"'", b"!!x ", b"#", b"|\n"]) + data[cut:]
            )
    return b"".join(lines)


def _dumped(value: object) -> bytes:
    return yaml.dump(value, Dumper=yaml.CSafeDumper, allow_unicode=True).encode("utf-8", "surrogatepass")


def _outcome(data: bytes, folder: Path) -> Study | StudyFileError:
    try:
        return parse_study(data, folder / "study.yaml", environment={"HOME": "/root"})
    except StudyFileError as error:
        return error


def _holds(data: bytes, folder: Path) -> None:
    """The law: a study, or faults that each have a line, a problem and a remedy on one line of text."""
    outcome = _outcome(data, folder)
    if isinstance(outcome, Study):
        return
    assert outcome.faults
    for fault in outcome.faults:
        assert fault.line is not None
        assert fault.problem
        assert fault.remedy, fault
        assert len(str(fault).splitlines()) == 1
        assert "Report this" not in fault.remedy, fault


@pytest.mark.parametrize("text", GOOD)
def test_the_files_that_are_broken_below_are_good_ones(text: str, folder: Path) -> None:
    assert isinstance(_outcome(text.encode(), folder), Study)


@given(chance=st.randoms(use_true_random=False), base=st.sampled_from(GOOD), count=st.integers(1, 4))
@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_study_file_with_wrong_entries_is_faults_or_still_a_study(
    chance: random.Random, base: str, count: int, folder: Path
) -> None:
    value: object = yaml.load(base, FAST)
    for _ in range(count):
        value = _mutated_value(value, chance)
    _holds(_dumped(value), folder)


@given(chance=st.randoms(use_true_random=False), base=st.sampled_from(GOOD), count=st.integers(1, 4))
@settings(max_examples=350, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_study_file_with_damaged_text_is_faults_or_still_a_study(
    chance: random.Random, base: str, count: int, folder: Path
) -> None:
    data = base.encode()
    for _ in range(count):
        data = _mutated_text(data, chance)
    _holds(data, folder)


@given(value=st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(JUNK[:30]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.sampled_from(TOP_KEYS) | st.text(max_size=8), inner, max_size=5),
    max_leaves=20,
))  # fmt: skip
@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_yaml_value_is_a_study_or_faults(value: object, folder: Path) -> None:
    _holds(_dumped(value), folder)


@given(data=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_bytes_are_a_study_or_faults(data: bytes, folder: Path) -> None:
    _holds(data, folder)
