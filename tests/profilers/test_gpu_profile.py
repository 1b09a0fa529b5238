"""What is timed on a GPU, that every such call computes, and that predictions read what was timed."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from profilers.gpu_calls import gpu_calls
from profilers.gpu_probes import gpu_probes, untimed_formats
from profilers.huggingface.reader import HuggingFaceReader
from profilers.microbenchmark import Profile, profile
from profilers.operator_tables import write_operator_tables
from profilers.probe import Probe
from profilers.shipped import folder as shipped_tables
from profilers.timing import Timing
from search_spaces.device_catalogue import catalogue
from tuner.errors import UnavailableError
from tuner.model_graph import ModelGraph
from tuner.operators import AllReduce, MatMul
from tuner.performance.operator_table import OperatorTable
from tuner.performance.roofline import FLOOR_S
from tuner.performance.step_time import StepLoads, StepTime
from tuner.performance.table_choice import profiled_tables, tables_for
from tuner.step import NumberFormat, Rows, Shard
from tuner.traced_operators import Convolution

torch = pytest.importorskip("torch")

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 512,
    "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 1000,
    "max_position_embeddings": 2048, "torch_dtype": "bfloat16", "hidden_act": "silu", "rms_norm_eps": 1e-5,
}  # fmt: skip
MIXTRAL = {
    **LLAMA, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 8,
    "num_experts_per_tok": 2,
}  # fmt: skip
BERT = {
    "architectures": ["BertModel"], "model_type": "bert", "hidden_size": 128, "intermediate_size": 256,
    "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 1000, "max_position_embeddings": 512,
    "type_vocab_size": 2,
}  # fmt: skip
SHAPE = {"size": [8, 8], "kernel": [3, 3], "stride": [1, 1], "padding": [2, 2], "dilation": [1, 1], "groups": 2}
MEMORY = 80e9


def read(folder: Path, config: dict[str, object]) -> ModelGraph:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return HuggingFaceReader().read(folder)


def timed(probes: list[Probe], device: str = "NVIDIA H100 80GB HBM3") -> Profile:
    """A profile in which every probe took a time of its own."""
    timings = {
        probe: Timing(median_s=1e-5 * (1 + place), low_s=1e-5, high_s=1e-3, repeats=5, kernel="made up")
        for place, probe in enumerate(probes)
    }
    return Profile(timings=timings, missing=(), origin={"device": device, "software": "torch", "date": "2026-11-26"})


@pytest.mark.parametrize("config", [LLAMA, MIXTRAL, BERT], ids=["dense", "experts", "encoder"])
def test_every_product_attention_and_expert_of_a_model_has_points(tmp_path: Path, config: dict[str, object]) -> None:
    graph = read(tmp_path / "model", config)
    found = gpu_probes(graph, 128, MEMORY)
    assert len(found) == len(set(found))
    kinds = {probe.kind for probe in found}
    assert {"matmul", "attention"} <= kinds
    assert ("decode_attention" in kinds) == graph.generates
    assert ("experts" in kinds) == (config is MIXTRAL)


def test_a_profile_that_is_cut_short_has_every_operator_coarsely(tmp_path: Path) -> None:
    graph = read(tmp_path / "model", MIXTRAL)
    found = gpu_probes(graph, 128, MEMORY)
    shapes = {(probe.kind, probe.width, probe.inner) for probe in found}
    early = {(probe.kind, probe.width, probe.inner) for probe in found[: len(found) // 3]}
    assert shapes == early


def test_no_probe_exceeds_its_share_of_the_memory(tmp_path: Path) -> None:
    graph = read(tmp_path / "model", LLAMA)
    assert max(probe.values_moved * 2 for probe in gpu_probes(graph, 128, 1e8)) <= 1e7


def test_formats_that_torch_does_not_multiply_are_named(tmp_path: Path) -> None:
    quantized = {**LLAMA, "quantization_config": {"quant_method": "awq", "bits": 4}}
    graph = read(tmp_path / "model", quantized)
    assert untimed_formats(graph) == {NumberFormat.INT4}
    assert not untimed_formats(read(tmp_path / "plain", LLAMA))


@pytest.mark.parametrize(
    "probe",
    [
        Probe("matmul", 4, 32, 16, format="bf16"),
        Probe("attention", 32, 64, 16, 8, causal=True, kv_heads=2),
        Probe("decode_attention", 3, 64, 16, 8, causal=True, kv_heads=2),
        Probe("decode_attention", 3, 64, 16, 8, causal=True, kv_heads=4, window=4),
        Probe("experts", 8, 32, 16, detail=json.dumps({"experts": 4, "chosen": 2, "tensor": 1, "groups": 1})),
        Probe("experts", 8, 32, 16, detail=json.dumps({"experts": 4, "chosen": 2, "tensor": 2, "groups": 2})),
        Probe("convolution", 2, 4, 6, detail=json.dumps(SHAPE)),
        Probe("convolution", 2, 4, 6, detail=json.dumps({**{name: [3] for name in SHAPE}, "groups": 2})),
        Probe("convolution", 2, 4, 6, detail=json.dumps({**{name: [3] * 3 for name in SHAPE}, "groups": 1})),
    ],
    ids=lambda probe: f"{probe.kind}-{probe.kv_heads}-{probe.window}-{probe.detail[:12]}",
)
def test_some_kernel_computes_it(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, where the first run of each call shows that its shapes fit."""
    monkeypatch.setattr("profilers.gpu_calls._MOST_RUNS", 2)
    calls, runs = gpu_calls(probe, "cpu")
    assert runs >= 1
    done = 0
    for call in calls.values():
        try:
            call()
        except RuntimeError:  # a kernel that CPUs lack
            continue
        done += 1
    assert done


def test_convolutions_are_tried_in_both_layouts_without_their_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool]] = []

    def convolve(images: torch.Tensor, weight: torch.Tensor, bias: object, *_: object) -> torch.Tensor:
        seen.append((images.is_contiguous(memory_format=torch.channels_last), bias is None))
        return images

    monkeypatch.setattr("profilers.gpu_calls._CONVOLUTIONS", {2: (convolve, torch.channels_last)})
    calls, runs = gpu_calls(Probe("convolution", 2, 4, 6, detail=json.dumps(SHAPE)), "cpu")
    for name, call in calls.items():
        seen.clear()
        call()
        assert seen == [(name == "torch_channels_last", True)] * runs


def test_products_over_all_places_of_a_sequence_are_timed_for_many_sequences() -> None:
    """As a vision transformer read off a graph has them: 197 rows for each image."""
    product = MatMul(name="up", count=1, outputs=64, inputs=32, rows=Rows.SEQUENCE, rows_each=197)
    last = MatMul(name="classes", count=1, outputs=10, inputs=32, rows=Rows.SEQUENCE)
    graph = ModelGraph(
        name="vision", family="onnx", operators=(product, last), layers=1, hidden=32, max_context=None, generates=False
    )
    rows = {width: max(p.rows for p in gpu_probes(graph, 128, MEMORY) if p.width == width) for width in (64, 10)}
    assert rows == {64: 8192, 10: 512}


@pytest.mark.parametrize("config", [LLAMA, MIXTRAL, BERT], ids=["dense", "experts", "encoder"])
def test_predictions_give_back_what_was_timed(tmp_path: Path, config: dict[str, object]) -> None:
    graph = read(tmp_path / "model", config)
    found = timed(gpu_probes(graph, 128, MEMORY), "NVIDIA L4")
    write_operator_tables(found, tmp_path / "profiles" / "model" / "torch-cuda")
    table = tables_for(catalogue(), shipped_tables(), tmp_path / "profiles")["l4"]
    checked = 0
    for probe, timing in found.timings.items():
        seconds = _looked_up(table, probe)
        if seconds is not None:
            assert seconds == pytest.approx(timing.median_s, rel=1e-3), probe
            checked += 1
    assert checked > 20
    assert "profiles of single models" in table.label


def _looked_up(table: OperatorTable, probe: Probe) -> float | None:
    heads = probe.width // probe.inner if probe.inner else 0
    bf16 = NumberFormat.BF16
    if probe.kind == "matmul":
        return float(table.matmul_s(bf16, probe.width, probe.inner, probe.rows))
    if probe.kind == "attention":
        batch = probe.rows // probe.length
        return float(
            table.prefill_attention_s(heads, probe.kv_heads, probe.inner, 0, bf16, batch, probe.length, probe.causal)
        )
    if probe.kind == "decode_attention":
        return float(table.decode_attention_s(heads, probe.kv_heads, probe.inner, 0, bf16, probe.rows, probe.length))
    if probe.kind == "experts":
        known = probe.routing()
        return float(
            table.experts_s(
                bf16, probe.width, probe.inner, known["chosen"], known["experts"], known["tensor"], known["groups"],
                probe.rows,
            )
        )  # fmt: skip
    return None


def test_a_profile_changes_only_its_own_device_and_its_own_shapes(tmp_path: Path) -> None:
    graph = read(tmp_path / "model", LLAMA)
    write_operator_tables(timed(gpu_probes(graph, 128, MEMORY)), tmp_path / "profiles")
    plain, own = (tables_for(catalogue(), shipped_tables(), where) for where in (None, tmp_path / "profiles"))
    for name, (n, k) in itertools.product(("h100_sxm", "a100_sxm", "l4"), ((4096, 4096), (14336, 1024))):
        before = plain[name].matmul_s(NumberFormat.BF16, n, k, np.array([1.0, 64.0]))
        np.testing.assert_array_equal(before, own[name].matmul_s(NumberFormat.BF16, n, k, np.array([1.0, 64.0])))


def test_kernels_of_engines_come_before_those_of_torch(tmp_path: Path) -> None:
    """A product of 4096 x 4096 is in the shipped tables of the H100, one of 1000 x 256 is not."""
    found = timed([Probe("matmul", 64, 4096, 4096, format="bf16"), Probe("matmul", 64, 1000, 256, format="bf16")])
    write_operator_tables(found, tmp_path / "profiles")
    plain, own = (tables_for(catalogue(), shipped_tables(), where)["h100_sxm"] for where in (None, tmp_path))
    bf16 = NumberFormat.BF16
    assert own.matmul_s(bf16, 4096, 4096, 64) == plain.matmul_s(bf16, 4096, 4096, 64)
    assert float(own.matmul_s(bf16, 1000, 256, 64)) == pytest.approx(
        found.timings[Probe("matmul", 64, 1000, 256, format="bf16")].median_s, rel=1e-3
    )


def test_a_gpu_without_shipped_tables_is_known_by_its_profile(tmp_path: Path) -> None:
    graph = read(tmp_path / "model", LLAMA)
    write_operator_tables(timed(gpu_probes(graph, 128, MEMORY), "NVIDIA L4"), tmp_path / "profiles")
    tables = tables_for(catalogue(), shipped_tables(), tmp_path / "profiles")
    assert not tables["l4"].is_borrowed
    assert tables["t4"].is_borrowed
    step = StepTime(graph, tables["l4"], Shard())
    assert float(step.parts(StepLoads.decode(np.array([8.0]), np.array([512.0]))).total[0]) > 0


def test_two_models_profiled_on_one_gpu_are_both_known(tmp_path: Path) -> None:
    profiles = tmp_path / "profiles"
    for name, config in (("dense", LLAMA), ("experts", MIXTRAL)):
        graph = read(tmp_path / name, {**config, "hidden_size": 256 if name == "dense" else 512})
        write_operator_tables(timed(gpu_probes(graph, 128, MEMORY)), profiles / name)
    assert len(profiled_tables(catalogue(), profiles)["h100_sxm"]) == 2
    table = tables_for(catalogue(), shipped_tables(), profiles)["h100_sxm"]
    plain = tables_for(catalogue(), shipped_tables())["h100_sxm"]
    for width in (256, 512):  # of the output layer, which no shipped table holds
        assert table.matmul_s(NumberFormat.BF16, 1000, width, 64) != plain.matmul_s(NumberFormat.BF16, 1000, width, 64)


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions_that_nobody_timed_take_half_as_long_again_as_their_roofline(kernel: int) -> None:
    """As all operators do; in single precision, which servers convert on loading, as long as in 16 bits."""
    single = Convolution(
        name="c", count=1, channels_in=64, channels_out=64, size=(56, 56), kernel=(kernel, kernel), stride=(1, 1),
        padding=(kernel - 1, kernel - 1), dilation=(1, 1), format=NumberFormat.FP32, activation_bytes=4,
    )  # fmt: skip
    half = dataclasses.replace(single, format=NumberFormat.BF16, activation_bytes=2)
    device = catalogue()["h100_sxm"]
    table = OperatorTable(device, shipped_tables() / "h100_sxm")
    images = np.array([1.0, 64.0])
    compute = images * single.flops_each / device.peak_flops_per_s(NumberFormat.BF16)
    moved = (images * 56 * 56 * 128 + single.parameters) * 2.0 / device.bandwidth_bytes_per_s
    for each in (single, half):
        np.testing.assert_allclose(table.convolution_s(each, images), 1.5 * (np.maximum(compute, moved) + FLOOR_S))
    assert not table.holds(single)


def test_the_profile_that_comes_along_knows_a_convolutional_network() -> None:
    tables = tables_for(catalogue(), shipped_tables())
    stem = Convolution(
        name="stem", count=1, channels_in=3, channels_out=64, size=(224, 224), kernel=(7, 7), stride=(2, 2),
        padding=(6, 6), dilation=(1, 1),
    )  # fmt: skip
    assert tables["h100_sxm"].holds(stem)
    assert not tables["a100_sxm"].holds(stem)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_times_a_small_model(tmp_path: Path) -> None:
    graph = read(tmp_path / "model", LLAMA)
    wanted = gpu_probes(graph, 128, MEMORY)[:20]
    found = profile(wanted, "cuda", tmp_path / "journal.jsonl", 60.0)
    assert not found.failed
    assert all(0 < timing.median_s < 0.1 for timing in found.timings.values())
    with pytest.raises(UnavailableError, match="no cuda:99"):
        profile(wanted, "cuda:99", tmp_path / "other.jsonl")


def test_convolutions_and_sums_are_timed_and_read_back(tmp_path: Path) -> None:
    convolution = Convolution(
        name="stem", count=2, channels_in=3, channels_out=8, size=(16, 16), kernel=(3, 3), stride=(1, 1),
        padding=(2, 2), dilation=(1, 1), rows_each=2,
    )  # fmt: skip
    sums = AllReduce(name="sum", count=4, width=64)
    graph = ModelGraph(
        name="vision", family="onnx", operators=(convolution, sums), layers=1, hidden=8, max_context=None,
        generates=False,
    )  # fmt: skip
    shard = Shard.tensor_parallel(2)
    assert {probe.kind for probe in gpu_probes(graph, 128, MEMORY, shard, 1)} == {"convolution"}
    wanted = gpu_probes(graph, 128, MEMORY, shard, 2)
    assert {probe.kind for probe in wanted} == {"convolution", "all_reduce"}
    found = timed(wanted, "NVIDIA L4")
    write_operator_tables(found, tmp_path / "profiles")
    table = tables_for(catalogue(), shipped_tables(), tmp_path / "profiles")["l4"]
    for probe, timing in found.timings.items():
        if probe.kind == "convolution":
            seconds = table.convolution_s(convolution, probe.rows / convolution.rows_each)
        else:
            seconds = table.all_reduce_s(2, probe.inner * 2.0)
        assert float(seconds) == pytest.approx(timing.median_s, rel=1e-3), probe
