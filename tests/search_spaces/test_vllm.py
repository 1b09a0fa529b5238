"""What the vllm engine makes of a model: parameters, rules, command lines and exports."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.vllm import VllmSpace
from search_spaces.vllm_server import REFUSALS
from tuner.device import DeviceKind, DeviceType
from tuner.errors import ModelError, OptionsError, UnavailableError, UnknownNameError, UsageError
from tuner.launch import CompletionRequest, LaunchSpec, Target
from tuner.metric import Metric
from tuner.parameter import Config, Value
from tuner.ports import ModelSource, ServingTask
from tuner.space import Space
from tuner.workload import (
    ClosedLoop,
    Lengths,
    OpenLoop,
    TemplateShapes,
    TokenShapes,
    TraceReplay,
    TraceRequest,
    Workload,
)

GIB = 2**30
CONFIG: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "hidden_size": 512,
    "intermediate_size": 1344,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "vocab_size": 8192,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CPU = DeviceType(name="cpu-2", cpus=2, cpuset="0-1", memory_bytes=8 * GIB, price_per_hour=0.1)
H100 = DeviceType(
    name="h100x4", kind=DeviceKind.GPU, gpus=4, gpu_memory_bytes=80 * GIB, gpu_model="H100", price_per_hour=12.0
)


def write_model(folder: Path, **changes: object) -> Path:
    """A model's folder, without real weights."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"\0" * 1000)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "llama")


def task(
    model: Path,
    *devices: DeviceType,
    clients: int | None = 16,
    tokens: tuple[int, int] = (128, 32),
) -> ServingTask:
    arrival = OpenLoop(rate_rps=1.0) if clients is None else ClosedLoop(clients=clients)
    shapes = TokenShapes(input_tokens=Lengths.constant(tokens[0]), output_tokens=Lengths.constant(tokens[1]))
    return ServingTask(
        model=ModelSource(name=str(model), path=model),
        devices=devices or (CPU,),
        workload=Workload(arrival=arrival, requests=shapes),
    )


def documented_parser() -> argparse.ArgumentParser:
    """The flags that are used of `vllm serve` 0.32.0, with its types and choices (engine/arg_utils.py)."""
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    parser.add_argument("model_tag")
    for flag in ("--host", "--served-model-name", "--load-format"):
        parser.add_argument(flag)
    for flag in (
        "--port",
        "--max-model-len",
        "--max-num-seqs",
        "--max-num-batched-tokens",
        "--block-size",
        "--tensor-parallel-size",
        "--pipeline-parallel-size",
        "--kv-cache-memory-bytes",
    ):
        parser.add_argument(flag, type=int)
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--dtype", choices=["auto", "bfloat16", "float", "float16", "float32", "half"])
    parser.add_argument("--kv-cache-dtype", choices=["auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"])
    parser.add_argument("--quantization")
    parser.add_argument("--scheduling-policy", choices=["fcfs", "priority"])
    for flag in ("--enable-chunked-prefill", "--enable-prefix-caching"):
        parser.add_argument(flag, action=argparse.BooleanOptionalAction)
    for flag in ("--enforce-eager", "--trust-remote-code"):
        parser.add_argument(flag, action="store_true")
    return parser


def configurations(space: Space) -> st.SearchStrategy[Config]:
    """Valid configurations of `space`."""
    values: dict[str, st.SearchStrategy[Value]] = {p.name: st.sampled_from(p.values) for p in space.parameters}
    return st.fixed_dictionaries(values).map(space.config).filter(lambda config: not space.violations(config))


def filled(spec: LaunchSpec) -> list[str]:
    """The arguments as a runner writes them."""
    places = {"{mount:model}": "/model", "{host}": "127.0.0.1", "{port}": "8000"}
    words = []
    for word in spec.argv:
        for place, text in places.items():
            word = word.replace(place, text)
        words.append(word.replace("{{", "{").replace("}}", "}"))
    return words


LOSSY = VllmSpace({"max_model_len": 1024, "lossy": True})
EXACT = VllmSpace({"max_model_len": 1024})


@settings(max_examples=50)
@given(data=st.data(), lossy=st.booleans())
def test_every_valid_configuration_becomes_flags_that_vllm_documents(
    model: Path, data: st.DataObject, lossy: bool
) -> None:
    engine = LOSSY if lossy else EXACT
    subject = task(model, H100, CPU)
    config = data.draw(configurations(engine.space(subject)))
    parsed = documented_parser().parse_args(filled(engine.launch(subject, config, Target.CONTAINER)))

    for name in ("max_num_seqs", "max_num_batched_tokens", "block_size", "dtype", "tensor_parallel_size"):
        assert getattr(parsed, name) == config[name]
    assert parsed.enable_chunked_prefill == config["enable_chunked_prefill"]
    assert parsed.enable_prefix_caching == config["enable_prefix_caching"]
    assert (parsed.gpu_memory_utilization is None) == (config.device == CPU.name)
    assert (parsed.kv_cache_memory_bytes is None) == (config.device == H100.name)
    assert parsed.max_num_batched_tokens >= parsed.max_num_seqs
    assert parsed.enable_chunked_prefill or parsed.max_num_batched_tokens >= parsed.max_model_len
    assert parsed.block_size % (32 if config.device == CPU.name else 16) == 0
    workers = parsed.tensor_parallel_size * parsed.pipeline_parallel_size
    assert workers <= (4 if config.device == H100.name else 2)


@settings(max_examples=50)
@given(data=st.data())
def test_different_configurations_start_different_servers(model: Path, data: st.DataObject) -> None:
    subject = task(model, H100, CPU)
    space = LOSSY.space(subject)
    first, second = data.draw(configurations(space)), data.draw(configurations(space))
    one, other = (LOSSY.launch(subject, config, Target.CONTAINER) for config in (first, second))

    assert (first == second) == ((one.argv, one.environment, one.image) == (other.argv, other.environment, other.image))


@settings(max_examples=50)
@given(data=st.data())
def test_exported_script_says_what_is_launched(model: Path, data: st.DataObject) -> None:
    subject = task(model, H100, CPU)
    config = data.draw(configurations(EXACT.space(subject)))
    script = EXACT.export(subject, config, "vllm-args")["serve.sh"]
    command = script.partition("exec vllm serve ")[2].replace("\\\n", " ").removesuffix(' "$@"\n')
    launched = filled(EXACT.launch(subject, config, Target.CONTAINER))

    assert shlex.split(command)[1:] == ["--host", "0.0.0.0", *launched[3:]]
    assert shlex.split(command)[0] == str(model)


def test_defaults_are_those_of_vllm_on_the_first_device(model: Path) -> None:
    on_cpu = EXACT.space(task(model, CPU)).default
    on_gpu = EXACT.space(task(model, H100, CPU)).default
    small = DeviceType(name="l4", kind=DeviceKind.GPU, gpus=1, gpu_memory_bytes=24 * GIB, price_per_hour=1.0)
    on_small_gpu = EXACT.space(task(model, small)).default

    assert [on_cpu[name] for name in ("max_num_seqs", "max_num_batched_tokens", "block_size")] == [128, 2048, 128]
    assert [on_gpu[name] for name in ("max_num_seqs", "max_num_batched_tokens", "block_size")] == [1024, 8192, 16]
    assert [on_small_gpu[name] for name in ("max_num_seqs", "max_num_batched_tokens")] == [256, 2048]
    assert on_gpu["gpu_memory_utilization"] == 0.92
    assert on_cpu["dtype"] == on_gpu["dtype"] == "bfloat16"
    assert on_cpu["cpu_threads"] == 1  # one of two cores is left to the processes beside the worker


@pytest.mark.parametrize("devices", [(CPU,), (H100,), (H100, CPU), (CPU, H100)])
@pytest.mark.parametrize("clients", [None, 1, 16, 500])
def test_the_default_is_a_valid_configuration(
    model: Path, devices: tuple[DeviceType, ...], clients: int | None
) -> None:
    space = EXACT.space(task(model, *devices, clients=clients))
    assert space.violations(space.default) == ()


def test_what_differs_only_beyond_the_clients_is_listed_once(model: Path) -> None:
    space = EXACT.space(task(model, CPU, clients=6))
    assert space["max_num_seqs"].values == (1, 2, 4, 128)
    assert space["max_num_batched_tokens"].values == (32, 64, 128, 256, 512, 2048)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_num_seqs": 128, "max_num_batched_tokens": 32}, "at least max_num_seqs"),
        ({"enable_chunked_prefill": False, "max_num_batched_tokens": 512}, "1024 tokens of the longest"),
        ({"tensor_parallel_size": 2, "cpu_threads": 2}, "must not exceed the device's cores"),
        ({"device": "h100x4", "dtype": "float32"}, "float32 is for CPUs"),
        ({"block_size": 16}, "multiple of 16 on GPUs and of 32 on CPUs"),
        ({"device": "h100x4", "tensor_parallel_size": 4, "pipeline_parallel_size": 2}, "as many GPUs"),
        ({"pipeline_parallel_size": 2}, "on CPUs the layers are not dealt out"),
    ],
)
def test_a_broken_rule_says_why(model: Path, changes: dict[str, Value], words: str) -> None:
    space = EXACT.space(task(model, CPU, H100))
    config = space.config({**space.complete(space.default), **changes})
    assert any(words in violation for violation in space.violations(config))


@pytest.mark.parametrize(
    ("heads", "kv_heads", "width", "sizes"),
    [(32, 8, 14336, {1, 2, 4}), (6, 6, 1536, {1, 2}), (8, 1, 4096, {1, 2, 4}), (8, 4, 1345, {1})],
)
def test_tensor_parallelism_shares_heads_and_width_evenly(
    tmp_path: Path, heads: int, kv_heads: int, width: int, sizes: set[int]
) -> None:
    folder = write_model(
        tmp_path / "m", num_attention_heads=heads, num_key_value_heads=kv_heads, intermediate_size=width, head_dim=64
    )
    space = EXACT.space(task(folder, H100))
    full = space.complete(space.default)
    allowed = {
        int(size)
        for size in space["tensor_parallel_size"].values
        if not space.violations(space.config({**full, "tensor_parallel_size": size}))
    }
    assert allowed == sizes


def test_a_quantised_checkpoint_is_served_as_it_is(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", quantization_config={"quant_method": "awq"}, dtype="float16")
    space = LOSSY.space(task(folder, H100))
    argv = LOSSY.launch(task(folder, H100), space.default, Target.CONTAINER).argv

    assert space["quantization"].values == ("awq",)
    assert space["dtype"].values == ("float16",)
    assert "--quantization" not in argv


def test_quantisation_is_tried_only_where_asked_for(model: Path) -> None:
    assert EXACT.space(task(model, H100))["quantization"].values == ("none",)
    assert LOSSY.space(task(model, H100))["quantization"].values == ("none", "fp8")
    space = LOSSY.space(task(model, CPU, H100))
    on_cpu = space.config({**space.complete(space.default), "quantization": "fp8"})
    assert any("on GPUs only" in violation for violation in space.violations(on_cpu))


def test_launch_of_the_default_on_cpu(model: Path) -> None:
    subject = task(model, CPU)
    spec = EXACT.launch(subject, EXACT.space(subject).default, Target.CONTAINER)

    assert " ".join(spec.argv) == (
        "{mount:model} --host {host} --port {port} --served-model-name llama --max-model-len 1024 --enforce-eager "
        "--max-num-seqs 128 --max-num-batched-tokens 2048 --block-size 128 --scheduling-policy fcfs --dtype bfloat16 "
        "--kv-cache-dtype auto --tensor-parallel-size 1 --pipeline-parallel-size 1 --enable-chunked-prefill "
        "--enable-prefix-caching --kv-cache-memory-bytes 1073741824"
    )
    assert spec.image == "serving-tuner/vllm-cpu:0.32.0"
    assert spec.entrypoint == ("vllm", "serve")
    assert spec.environment["VLLM_CPU_OMP_THREADS_BIND"] == "0"
    assert spec.environment["VLLM_HOST_IP"] == "127.0.0.1"
    assert spec.environment["HF_HUB_OFFLINE"] == "1"
    assert spec.shm_bytes is not None
    assert spec.shm_bytes >= 256 * 2**20
    assert [(mount.source, mount.target) for mount in spec.mounts] == [(model, "/model")]
    assert spec.health.path == "/health"
    assert spec.request == CompletionRequest(model_name="llama", shapes=subject.workload.requests, token_ids=(3, 8192))  # type: ignore[arg-type]


def test_workers_on_pinned_cores_are_bound_apart_and_others_are_not_bound(model: Path) -> None:
    four = DeviceType(name="cpu-4", cpuset="2-5", price_per_hour=0.2)
    quota = DeviceType(name="quota", cpus=4, price_per_hour=0.2)
    wanted = {"tensor_parallel_size": 2, "cpu_threads": 2}
    environments = []
    for device in (four, quota):
        space = EXACT.space(task(model, device))
        config = space.config({**space.complete(space.default), **wanted})
        environments.append(EXACT.launch(task(model, device), config, Target.CONTAINER).environment)

    assert environments[0]["VLLM_CPU_OMP_THREADS_BIND"] == "2,3|4,5"
    assert environments[1]["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert environments[1]["OMP_NUM_THREADS"] == "2"


def test_launch_on_gpus_uses_the_official_image(model: Path) -> None:
    subject = task(model, H100)
    spec = EXACT.launch(subject, EXACT.space(subject).default, Target.CONTAINER)
    assert spec.image == "vllm/vllm-openai:v0.32.0"
    assert "--gpu-memory-utilization" in spec.argv
    assert "--enforce-eager" not in spec.argv
    assert "--kv-cache-memory-bytes" not in spec.argv


def test_braces_in_arguments_of_the_user_stay_literal(model: Path) -> None:
    engine = VllmSpace({"extra_args": ["--override-generation-config", '{"top_k": 1}'], "environment": {"A": "{b}"}})
    subject = task(model, CPU)
    spec = engine.launch(subject, engine.space(subject).default, Target.CONTAINER)
    assert filled(spec)[-1] == '{"top_k": 1}'
    assert spec.environment["A"] == "{{b}}"


def test_a_process_needs_vllm_on_the_path(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = task(model, CPU)
    default = EXACT.space(subject).default
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="pip install vllm"):
        EXACT.launch(subject, default, Target.PROCESS)

    program = tmp_path / "vllm"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    spec = EXACT.launch(subject, default, Target.PROCESS)
    assert spec.argv[:3] == (str(program), "serve", "{mount:model}")
    assert spec.image is None
    assert not spec.writable


def test_exported_script_runs_the_program_with_its_arguments(model: Path, tmp_path: Path) -> None:
    odd = write_model(tmp_path / "it's a $model; rm -rf x")
    subject = task(odd, CPU)
    script = EXACT.export(subject, EXACT.space(subject).default, "vllm-args")["serve.sh"]
    fake = tmp_path / "bin" / "vllm"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$VLLM_CPU_OMP_THREADS_BIND" "$@"\n')
    fake.chmod(0o755)
    answer = subprocess.run(
        ["/bin/sh", "-c", script, "serve.sh", "--seed", "7"],
        env={"PATH": f"{fake.parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    ).stdout.splitlines()

    assert answer[:3] == ["0", "serve", str(odd)]
    assert answer[-2:] == ["--seed", "7"]
    with pytest.raises(UnknownNameError, match="export format"):
        EXACT.export(subject, EXACT.space(subject).default, "triton")


@pytest.mark.parametrize(
    ("breakage", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "no valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "instead of an object"),
        (lambda folder: write_model(folder, architectures=["BertModel"]), "does not generate text"),
        (lambda folder: write_model(folder, architectures=None), "names no `architectures`"),
        (lambda folder: write_model(folder, num_attention_heads=0), "num_attention_heads as a whole number"),
        (lambda folder: write_model(folder, vocab_size="many"), "vocab_size as a whole number"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer"),
        (lambda folder: (folder / "model.safetensors").unlink(), "load_format: dummy"),
    ],
)
def test_a_damaged_model_is_refused_with_a_remedy(
    tmp_path: Path, breakage: Callable[[Path], object], words: str
) -> None:
    folder = write_model(tmp_path / "m")
    breakage(folder)
    with pytest.raises(ModelError, match=words):
        EXACT.space(task(folder))


def test_random_weights_need_no_weight_files(model: Path, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    engine = VllmSpace({"load_format": "dummy"})
    spec = engine.launch(task(folder), engine.space(task(folder)).default, Target.CONTAINER)
    assert spec.argv[spec.argv.index("--load-format") + 1] == "dummy"


def test_a_path_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        EXACT.space(task(tmp_path / "nothing"))


def test_a_hub_model_is_served_from_what_was_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    source = ModelSource(name="acme/tiny")
    subject = ServingTask(model=source, devices=(CPU,), workload=task(tmp_path).workload)
    with pytest.raises(ModelError, match="hf download acme/tiny"):
        EXACT.space(subject)

    cached = tmp_path / "models--acme--tiny"
    write_model(cached / "snapshots" / "abc")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    spec = EXACT.launch(subject, EXACT.space(subject).default, Target.CONTAINER)

    assert spec.argv[0] == "{mount:model}/snapshots/abc"
    assert spec.mounts[0].source == cached  # the snapshot's files link to blobs beside it
    assert "tiny" in spec.argv


@pytest.mark.parametrize("name", ["acme tiny", "a/b/c", "../etc", "acme/..", ""])
def test_a_malformed_hub_id_is_refused(name: str) -> None:
    subject = ServingTask(model=ModelSource(name=name), devices=(CPU,), workload=task(Path()).workload)
    with pytest.raises(ModelError, match="neither a path that exists nor the id"):
        EXACT.space(subject)


def test_prompts_avoid_special_tokens(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", bos_token_id=100, eos_token_id=[8000, 8191])
    subject = task(folder)
    request = EXACT.launch(subject, EXACT.space(subject).default, Target.CONTAINER).request
    assert isinstance(request, CompletionRequest)
    assert request.token_ids == (101, 8000)


def test_requests_longer_than_the_server_accepts_are_refused(model: Path) -> None:
    with pytest.raises(
        UsageError, match="1000 input and 100 output tokens, 1100 together, but the server accepts 1024"
    ):
        EXACT.space(task(model, tokens=(1000, 100)))
    with pytest.raises(UsageError, match="made for 2048 tokens"):
        VllmSpace({"max_model_len": 4096}).space(task(model))


def test_lengths_of_a_trace_are_checked_too(model: Path) -> None:
    trace = TraceReplay(source="t.csv", requests=(TraceRequest(arrival_s=0.0, input_tokens=1020, output_tokens=5),))
    short = task(model)
    subject = ServingTask(
        model=short.model, devices=(CPU,), workload=Workload(arrival=trace, requests=short.workload.requests)
    )
    with pytest.raises(UsageError, match="1020 input and 5 output"):
        EXACT.space(subject)


def test_requests_without_tokens_are_refused(model: Path) -> None:
    workload = Workload(arrival=ClosedLoop(clients=1), requests=TemplateShapes())
    subject = ServingTask(model=ModelSource(name="m", path=model), devices=(CPU,), workload=workload)
    with pytest.raises(UsageError, match="carry no tokens"):
        EXACT.space(subject)


def test_all_faults_of_the_options_are_told_at_once() -> None:
    with pytest.raises(OptionsError) as caught:
        VllmSpace(
            {
                "max_modle_len": 3,
                "load_format": "zip",
                "extra_args": ["--port", "8000", "--max_num_seqs=3"],
                "environment": {"HF_TOKEN": "secret", "1A": "x"},
                "start_deadline": "5 GiB",
                "version": "latest",
            }
        )
    places = {fault.where for fault in caught.value.faults}
    assert places == {
        "max_modle_len",
        "load_format",
        "extra_args.0",
        "extra_args.2",
        "environment.HF_TOKEN",
        "environment.1A",
        "start_deadline",
        "version",
    }
    assert "Did you mean 'max_model_len'" in str(caught.value)
    assert "secret" not in str(caught.value).replace("looks like a secret", "").replace("no secrets", "")


def test_reports_every_metric_and_has_a_schema() -> None:
    assert EXACT.reports == frozenset(Metric)
    assert set(VllmSpace.options_schema()["properties"]) >= {"image", "max_model_len", "extra_args"}  # type: ignore[call-overload]


REFUSED = [
    "  Value error, max_num_batched_tokens (512) is smaller than max_model_len (1024). This effectively limits",
    "pydantic_core._pydantic_core.ValidationError: 1 validation error for SchedulerConfig",
    "  Value error, Total number of attention heads (8) must be divisible by tensor parallel size (3).",
    "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
    "vllm: error: unrecognized arguments: --bogus 1",
]
NOT_REFUSED = [
    "ValueError: Available memory on node 0 (1.0/8.0 GiB) on startup is less than desired CPU memory utilization",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
    "OSError: [Errno 98] Address already in use",
    "INFO 11-21 02:04:24 [core.py:402] init engine (profile, create kv cache, warmup model) took 0.86 s",
]


@pytest.mark.parametrize("line", REFUSED)
def test_refusals_of_a_combination_are_recognised(line: str) -> None:
    assert any(re.search(pattern, line) for pattern in REFUSALS)


@pytest.mark.parametrize("line", NOT_REFUSED)
def test_other_failures_are_no_refusal_of_the_combination(line: str) -> None:
    assert not any(re.search(pattern, line) for pattern in REFUSALS)


def test_prompts_stay_within_the_tokenizer_and_out_of_its_added_tokens(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    words = {str(number): number for number in range(1000)}
    added = [{"id": 900, "content": "<tool>"}]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": words}, "added_tokens": added}))
    request = EXACT.launch(task(folder), EXACT.space(task(folder)).default, Target.CONTAINER).request
    assert isinstance(request, CompletionRequest)
    assert request.token_ids == (3, 900)
