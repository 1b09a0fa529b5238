"""How a configuration of vllm becomes a command line, an environment and an exported script."""

from __future__ import annotations

import argparse
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.vllm import VllmSpace
from tests.search_spaces.vllm_tasks import CPU, EXACT, H100, LOSSY, configurations, filled, task, write_model
from tuner.device import DeviceType
from tuner.errors import UnavailableError, UnknownNameError
from tuner.launch import CompletionRequest, Target


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
