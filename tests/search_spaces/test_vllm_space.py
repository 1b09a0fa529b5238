"""What vllm may be set to: values, defaults and rules, by model and device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.search_spaces.vllm_tasks import CPU, EXACT, GIB, H100, LOSSY, task, write_model
from tuner.device import DeviceKind, DeviceType
from tuner.launch import Target
from tuner.parameter import Value


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


@pytest.mark.parametrize(("memory_gib", "fits"), [(1.5, False), (2.0, False), (2.4, True), (8.0, True)])
def test_the_cache_leaves_room_for_the_engine_itself(model: Path, memory_gib: float, fits: bool) -> None:
    space = EXACT.space(task(model, replace(CPU, memory_bytes=round(memory_gib * GIB))))
    assert space.default["kv_cache_gib"] == 1
    assert any("fit into the memory" in each for each in space.violations(space.default)) is not fits
