"""Predictions: laws of the closed form, tables, memory rule, calibration and the batch file."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import math
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profilers.huggingface.fields import Fields
from profilers.huggingface.reader import read_config
from profilers.shipped import folder
from search_spaces.device_catalogue import catalogue
from tuner.errors import ModelError, StudyFileError, UsageError
from tuner.model_graph import ModelGraph
from tuner.performance.batch_file import PREDICTED, predict_rows, read_rows, write_rows
from tuner.performance.calibration import TPOT, adjusted
from tuner.performance.corrections import BORROWED, shipped
from tuner.performance.grid import LogGrid
from tuner.performance.memory import memory_need
from tuner.performance.operator_table import OperatorTable
from tuner.performance.prediction import Predictor
from tuner.performance.published_sweeps import Launch
from tuner.performance.serving_row import ServingRow, read_row
from tuner.performance.steady_state import latencies
from tuner.performance.step_time import StepLoads, StepTime
from tuner.performance.table_choice import tables_for
from tuner.performance.table_file import read_table
from tuner.step import NumberFormat, Shard

LLAMA = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
}  # fmt: skip
MIXTRAL = {**LLAMA, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
ROW = {
    "model_path": "meta/llama", "system": "h100_sxm", "backend": "vllm", "backend_version": "0.15.0", "mode": "agg",
    "isl": "1024", "osl": "512", "batch_size": "16", "tp_size": "1", "precision": "", "source": "",
}  # fmt: skip


def model(name: str, weights: NumberFormat | None) -> ModelGraph:
    known = {"meta/llama": LLAMA, "mistral/mixtral": MIXTRAL}
    if name not in known:
        raise ModelError(f"{name} has no config.json. Add one.")
    return read_config(Fields(known[name], name), name, weights)


@functools.cache
def shared_predictor() -> Predictor:
    return Predictor(model, tables_for(catalogue(), folder()), shipped())


@functools.cache
def shared_table() -> OperatorTable:
    return OperatorTable(catalogue()["h100_sxm"], folder() / "h100_sxm")


@pytest.fixture
def predictor() -> Predictor:
    return shared_predictor()


def test_a_grid_returns_what_it_was_given() -> None:
    axes = [np.array([1.0, 4.0, 64.0]), np.array([2.0, 32.0])]
    values = np.arange(6.0).reshape(3, 2)
    grid = LogGrid(axes, values)
    assert np.allclose(grid([1, 4, 64], [2, 2, 32]), [0, 2, 5])
    assert grid(2.0, 2.0) == pytest.approx(1.0)
    assert grid(1e9, 1e9) == pytest.approx(5.0)


def test_a_point_left_out_is_predicted_by_its_neighbours() -> None:
    grid = LogGrid([np.array([1.0, 2.0, 4.0, 8.0])], np.array([0.0, 1.0, 5.0, 5.5]))
    between, outermost = grid.left_out()
    assert between == pytest.approx([1.5, -1.75])
    assert outermost == pytest.approx([1.0, -0.5])


def test_points_that_were_not_measured_are_not_judged() -> None:
    between, outermost = LogGrid([np.array([1.0, 2.0, 4.0])], np.array([0.0, np.nan, 5.0])).left_out()
    assert between.size == outermost.size == 0


def test_a_table_states_its_error_only_of_what_it_was_asked() -> None:
    table = OperatorTable(catalogue()["h100_sxm"], folder() / "h100_sxm")
    assert table.left_out("all_reduce") is None
    table.all_reduce_s(8, 1e6)
    error = table.left_out("all_reduce")
    assert error is not None
    assert 0.0 < error.inside < 0.5


@settings(max_examples=50, deadline=None)
@given(n=st.integers(64, 30_000), k=st.integers(64, 30_000), m=st.integers(1, 60_000))
def test_products_are_never_faster_than_their_roofline_by_much(n: int, k: int, m: int) -> None:
    table = shared_table()
    seconds = float(table.matmul_s(NumberFormat.BF16, n, k, m))
    compute = 2.0 * n * k * m / table.hardware.peak_flops_per_s(NumberFormat.BF16)
    assert seconds > 0.9 * compute


@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(1, 256), isl=st.integers(64, 16_000), osl=st.integers(2, 4000), tp=st.sampled_from([1, 2, 4, 8])
)
def test_predictions_are_positive_and_inside_their_intervals(batch: int, isl: int, osl: int, tp: int) -> None:
    found = shared_predictor().predict(
        [read_row({**ROW, "batch_size": str(batch), "isl": str(isl), "osl": str(osl), "tp_size": str(tp)})]
    )[0]
    assert found.tpot_s is not None
    assert found.tpot_interval_s is not None
    assert 0 < found.tpot_interval_s[0] <= found.tpot_s <= found.tpot_interval_s[1]


def test_more_sequences_never_make_a_token_faster(predictor: Predictor) -> None:
    rows = [read_row({**ROW, "batch_size": str(batch)}) for batch in (1, 4, 16, 64, 128)]
    tpot = [found.tpot_s for found in predictor.predict(rows)]
    assert tpot == sorted(tpot, key=lambda value: value or 0.0)


@pytest.mark.parametrize(
    ("change", "share"),
    [
        ({}, 1.0),
        ({"batch_size": "15"}, 1.0 / 3.0),
        ({"system": "h200_sxm"}, 0.0),
        ({"backend": "vllm"}, 0.0),
        ({"source": ""}, 0.0),
    ],
)
def test_only_published_sweeps_of_sglang_on_blackwell_look_for_requests_now_and_then(
    predictor: Predictor, change: dict[str, str], share: float
) -> None:
    row = read_row({**ROW, "backend": "sglang", "system": "b200_sxm", "source": "2026-03-25.csv", **change})
    loads, _, _ = predictor.loads([row])
    assert loads is not None
    assert loads.polling == pytest.approx([share])


def drafting(row: ServingRow, tokens: int) -> ServingRow:
    """The same, every sequence drafting so many tokens ahead."""
    return dataclasses.replace(row, launched=Launch(drafted=tokens))


def test_drafts_are_quicker_with_few_sequences_the_longer_the_answer(predictor: Predictor) -> None:
    gains = []
    for osl in ("512", "4096"):
        row = read_row({**ROW, "batch_size": "2", "osl": osl})
        plain, drafted = (found.tpot_s or 0.0 for found in predictor.predict([row, drafting(row, 3)]))
        gains.append(plain / drafted)
    assert 1.0 < gains[0] < gains[1] < 4.0


def test_a_smaller_budget_of_tokens_makes_the_opening_burst_slower(predictor: Predictor) -> None:
    row = read_row({**ROW, "batch_size": "64", "isl": "256"})
    whole = dataclasses.replace(row, launched=Launch(token_budget=512.0, whole_prompts=True))
    wide, narrow = (found.ttft_s or 0.0 for found in predictor.predict([row, whole]))
    assert narrow > wide


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(1, 256), isl=st.integers(64, 16_000), osl=st.integers(2, 4000))
def test_one_request_at_a_time_is_never_slowed_by_the_prompts_of_others(batch: int, isl: int, osl: int) -> None:
    rows = [read_row({**ROW, "batch_size": size, "isl": str(isl), "osl": str(osl)}) for size in ("1", str(batch))]
    loads, _, _ = shared_predictor().loads(rows)
    assert loads is not None
    factors = shipped().corrections
    busy = dataclasses.replace(factors, prefill=tuple(4.0 * each for each in factors.prefill))
    usual, slow = (latencies(loads, each).tpot_s for each in (factors, busy))
    assert slow[0] == pytest.approx(usual[0])
    assert slow[1] >= usual[1] * (1 - 1e-9)


@given(batch=st.integers(2, 512), isl=st.integers(16, 8192), osl=st.integers(2, 4096))
@settings(max_examples=40, deadline=None)
def test_without_graphs_a_step_takes_at_least_as_long_as_launching_its_kernels(batch: int, isl: int, osl: int) -> None:
    row = read_row({**ROW, "batch_size": str(batch), "isl": str(isl), "osl": str(osl)})
    captured, launched = shared_predictor().predict([row, _without_graphs(row)])
    loads, _, _ = shared_predictor().loads([row])
    assert loads is not None
    assert captured.tpot_s is not None
    assert launched.tpot_s is not None
    factors = shipped().corrections
    longest = factors.of("launch_s", loads.engines)[0] * float(loads.decode.kernels[0])
    assert launched.tpot_s >= longest * (1 - 1e-9)
    # TPOT and the prompts of a pass are found in rounds, up to some 1e-4
    assert launched.tpot_s >= captured.tpot_s * (1 - 1e-3)


@settings(max_examples=30, deadline=None)
@given(batch=st.integers(1, 256), host_ms=st.floats(0.1, 50.0))
def test_a_loop_beside_the_gpu_makes_a_step_at_most_as_long_as_both_together(batch: int, host_ms: float) -> None:
    loads, _, _ = shared_predictor().loads([read_row({**ROW, "batch_size": str(batch), "isl": "16", "osl": "4096"})])
    assert loads is not None
    idle = dataclasses.replace(
        shipped().corrections, host_s=(0.0,) * 3, host_per_sequence_s=(0.0,) * 3, host_per_request_s=(0.0,) * 3
    )
    busy = dataclasses.replace(idle, host_s=(host_ms / 1e3,) * 3)
    gpu, step = (float(latencies(loads, each).tpot_s[0]) for each in (idle, busy))
    assert max(gpu, host_ms / 1e3) * (1 - 1e-3) <= step <= 1.27 * max(gpu, host_ms / 1e3)


def test_experts_and_sums_over_gpus_are_kernels_of_a_step_too() -> None:
    shards = {"one": Shard(), "two": Shard(tensor=2, expert_tensor=2)}
    kernels = {
        (name, gpus): float(StepTime(model(name, None), shared_table(), shard).parts(step).replayed[0])
        for name in ("meta/llama", "mistral/mixtral")
        for gpus, shard in shards.items()
        for step in [StepLoads.decode(np.array([8.0]), np.array([1024.0]))]
    }
    layers = model("meta/llama", None).layers
    assert kernels["meta/llama", "two"] - kernels["meta/llama", "one"] == 2 * layers
    assert kernels["mistral/mixtral", "one"] - kernels["meta/llama", "one"] > 4 * layers


@pytest.mark.parametrize(
    ("device", "engine", "faster"),
    [("b200_sxm", "trtllm", True), ("h200_sxm", "trtllm", False), ("b200_sxm", "vllm", False)],
)
def test_no_time_passes_between_kernels_of_tensorrt_llm_on_blackwell(device: str, engine: str, faster: bool) -> None:
    loads, _, _ = shared_predictor().loads([read_row({**ROW, "system": device, "backend": engine})])
    assert loads is not None
    factors = shipped().corrections
    slower = dataclasses.replace(factors, kernel_s=2.0 * factors.kernel_s)
    usual, more = (latencies(loads, each).tpot_s[0] for each in (factors, slower))
    assert (more == usual) == faster


def test_steps_of_one_sequence_are_captured_wherever_they_can_be(predictor: Predictor) -> None:
    row = read_row({**ROW, "batch_size": "1"})
    captured, alike = predictor.predict([row, _without_graphs(row)])
    assert alike.tpot_s == captured.tpot_s


def _without_graphs(row: ServingRow) -> ServingRow:
    return dataclasses.replace(row, launched=dataclasses.replace(row.launched, captured=False))


@pytest.mark.parametrize("device", ["b200_sxm", "gb200", "b300_sxm", "h100_sxm"])
def test_a_product_of_one_row_takes_hardly_longer_than_one_of_two(device: str) -> None:
    table = OperatorTable(catalogue()[device], folder() / device)
    for n, k in ((7168, 2048), (2112, 7168), (24576, 1536)):
        one, two = table.matmul_s(NumberFormat.FP8_BLOCK, n, k, np.array([1.0, 2.0]))
        assert one < 1.5 * two


def test_a_device_without_tables_borrows_and_says_so(predictor: Predictor) -> None:
    own, borrowed = predictor.predict([read_row(ROW), read_row({**ROW, "system": "mi300x"})])
    assert own.origin == "predicted"
    assert "scaled from" in borrowed.origin
    assert own.tpot_s is not None
    assert borrowed.tpot_s is not None
    assert own.tpot_interval_s is not None
    assert borrowed.tpot_interval_s is not None
    assert borrowed.tpot_interval_s[1] / borrowed.tpot_s > own.tpot_interval_s[1] / own.tpot_s
    assert borrowed.tpot_interval_s[0] / borrowed.tpot_s < own.tpot_interval_s[0] / own.tpot_s
    alone = borrowed.tpot_s * math.exp(BORROWED.low), borrowed.tpot_s * math.exp(BORROWED.high)
    assert borrowed.tpot_interval_s[0] <= alone[0] < alone[1] <= borrowed.tpot_interval_s[1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"system": "abacus"}, "not in the catalogue"),
        ({"model_path": "no/where"}, "has no config.json"),
        ({"tp_size": "3"}, "not shared evenly by 3"),
        ({"isl": "-5"}, "isl is -5"),
        ({"osl": "inf"}, "not finite"),
        ({"isl": "abc"}, "no number"),
        ({"backend": "tensorflow"}, "No measured run taught"),
        ({"isl": "200000"}, "exceed the model's 131072"),
        ({"gemm_quant_mode": "fp3"}, "not known"),
        ({"mode": "aggregate"}, "mode is 'aggregate', neither agg nor disagg"),
        ({"pp_size": "33"}, "33 stages .* 32 layers"),
        ({"system": "H100"}, "Did you mean 'h100_"),
        ({"system": "t4"}, "weights of 15 GiB on each GPU exceed the 14.9 GiB that t4 has"),
        ({"model_path": "mistral/mixtral", "tp_size": "4", "moe_tp_size": "3"}, r"experts are on 3 x 1 GPUs"),
        ({"model_path": "mistral/mixtral", "tp_size": "4", "moe_ep_size": "8"}, r"experts are on 1 x 8 GPUs"),
        ({"model_path": "mistral/mixtral", "attention_dp_size": "16"} | {"moe_ep_size": "16"}, "8 experts are fewer"),
    ],
)
def test_what_cannot_be_predicted_is_declined_with_its_reason(
    predictor: Predictor, change: dict[str, str], reason: str
) -> None:
    found = predict_rows(predictor, [{**ROW, **change}])[0]
    assert found.tpot_s is None
    assert re.search(reason, found.reason)


@pytest.mark.parametrize("name", ["H100_SXM", "H100 SXM", "h100-sxm"])
def test_a_device_is_known_however_its_name_is_written(predictor: Predictor, name: str) -> None:
    assert predict_rows(predictor, [{**ROW, "system": name}]) == predict_rows(predictor, [ROW])


@pytest.mark.parametrize("left", [{}, {"moe_ep_size": "4"}, {"moe_tp_size": "1", "moe_ep_size": "1"}])
def test_experts_are_on_the_gpus_that_share_attention_where_a_row_does_not_say(
    predictor: Predictor, left: dict[str, str]
) -> None:
    row = {**ROW, "model_path": "mistral/mixtral", "tp_size": "4", **left}
    stated = {**row, "moe_tp_size": "1" if left.get("moe_ep_size") == "4" else "4"}
    assert predict_rows(predictor, [row]) == predict_rows(predictor, [stated])


def test_a_single_client_waits_for_no_other(predictor: Predictor) -> None:
    row = {**ROW, "batch_size": "1", "source": "gap-analysis/h100_sxm/vllm/0.15.0/llama.csv"}
    found = predict_rows(predictor, [row])[0]
    assert found.ttft_interval_s is not None
    assert found.ttft_s is not None
    assert found.ttft_interval_s[1] < 10 * found.ttft_s


def test_the_batch_file_keeps_its_rows_and_adds_columns(predictor: Predictor, tmp_path: Path) -> None:
    source, target = tmp_path / "rows.csv", tmp_path / "out.csv.gz"
    with source.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(ROW))
        writer.writeheader()
        writer.writerows([ROW, {**ROW, "system": "abacus"}])
    names, rows = read_rows(source)
    write_rows(target, names, rows, predict_rows(predictor, rows))
    again, written = read_rows(target)
    assert again == [*ROW, *PREDICTED]
    assert float(written[0]["predicted_tpot_ms"]) > 0
    assert written[1]["origin"] == "declined"


def test_a_file_without_needed_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UsageError, match="no column model_path, system"):
        read_rows(tmp_path / "rows.csv")


def test_measured_rows_pull_predictions_towards_them(predictor: Predictor) -> None:
    plain = predict_rows(predictor, [ROW])[0]
    assert plain.tpot_s is not None
    measured = {**ROW, "silicon_tpot_ms": str(plain.tpot_s * 1.3e3), "silicon_ttft_ms": "100"}
    calibrated = predict_rows(predictor, [ROW], [measured])[0]
    assert calibrated.tpot_s is not None
    assert plain.tpot_s < calibrated.tpot_s < plain.tpot_s * 1.3
    assert "calibrated" in calibrated.origin
    spelt = predict_rows(predictor, [ROW], [{**measured, "system": "H100 SXM"}])[0]
    assert spelt.tpot_s == calibrated.tpot_s


@given(error=st.floats(-0.5, 0.5))
def test_runs_of_other_models_change_nothing(error: float) -> None:
    row = read_row(ROW)
    other = read_row({**ROW, "model_path": "another"})
    assert isinstance(row, ServingRow)
    adjustment = adjusted([row], [other], np.array([error]), TPOT)
    assert adjustment.factor[0] == 1.0
    assert adjustment.narrowing[0] == 1.0


def test_a_run_of_the_same_version_says_more_than_one_of_another(predictor: Predictor) -> None:
    far = {**ROW, "isl": "8192", "batch_size": "256", "tp_size": "4"}
    plain = predict_rows(predictor, [far])[0]
    near = predict_rows(predictor, [ROW])[0]
    assert plain.tpot_s is not None
    assert near.tpot_s is not None
    slow = {**ROW, "silicon_tpot_ms": str(near.tpot_s * 1.5e3)}
    same, other = (
        predict_rows(predictor, [far], [{**slow, "backend_version": version}])[0].tpot_s
        for version in ("0.15.0", "0.16.0")
    )
    assert same is not None
    assert other is not None
    assert plain.tpot_s < other < same


def test_the_memory_rule_refuses_what_cannot_fit() -> None:
    graph = model("meta/llama", None)
    assert "exceed" in str(memory_need(graph, Shard(), 16e9, 1024).refusal)
    assert memory_need(graph, Shard(), 24e9, 1024).refusal is None
    assert memory_need(graph, Shard.tensor_parallel(2), 16e9, 1024).refusal is None


def test_a_foreign_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gemm.parquet").write_bytes(b"nothing")
    with pytest.raises(UsageError, match="is damaged"):
        read_table(tmp_path / "gemm.parquet")
    words = pa.table({"latency_code": [1]}).replace_schema_metadata({"serving_tuner": "not JSON"})
    pq.write_table(words, tmp_path / "nccl.parquet")
    with pytest.raises(UsageError, match="is damaged"):
        read_table(tmp_path / "nccl.parquet")


def test_a_wrong_catalogue_is_refused_with_every_fault(tmp_path: Path) -> None:
    path = tmp_path / "devices.yaml"
    path.write_text(json.dumps({"devices": {"x": {"memory": -1, "bandwidth": 1, "flops": {"bf16": 1}, "link": 1}}}))
    with pytest.raises(StudyFileError, match="2 faults"):
        catalogue(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\xff\xfe\x00", "is no YAML"),
        (b"[" * 100_000, "is no YAML"),
        (b"", "holds no devices"),
        (b"a,b\n" * 999, "holds no devices"),
        (b"devices: {x: {source: s, memory: .inf, bandwidth: 1, flops: {bf16: 1}, link: 1}}", "memory.*finite"),
        (
            b"devices: {x: {source: s, memory: 1, bandwidth: 1, flops: {bf16: -1}, link: 1}}",
            "flops.bf16.*greater than 0",
        ),
        (b"devices: {x: {source: s, memory: 1, bandwidth: 1, flops: {}, link: 1}}", "flops.*at least 1"),
    ],
)
def test_what_is_no_catalogue_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "devices.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=words) as caught:
        catalogue(tmp_path / "devices.yaml")
    assert len(str(caught.value)) < 500
