"""Decoding beside prompts, and over unequal contexts, where an engine's kernels were timed at it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from profilers.huggingface.fields import Fields
from profilers.huggingface.reader import read_config
from profilers.shipped import folder
from search_spaces.device_catalogue import catalogue
from tuner.performance.corrections import Engine, shipped
from tuner.performance.operator_table import OperatorTable
from tuner.performance.prediction import Predictor
from tuner.performance.serving_row import read_row
from tuner.performance.simulation.step_tables import StepTables
from tuner.performance.step_time import StepTime
from tuner.performance.table_choice import tables_for
from tuner.performance.table_file import DECODE, MIXED, UNEQUAL, write_table
from tuner.step import NumberFormat, Shard

LLAMA = (32, 8, 128, 0)
LLAMA_CONFIG = {
    "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
}  # fmt: skip
KEYS = {"head_dim": 128, "window_size": 0, "num_heads": 32, "num_key_value_heads": 8}
BATCHES, CONTEXTS = (1, 16, 1, 16), (256, 256, 4096, 4096)


@pytest.fixture(scope="module")
def tables() -> dict[str, OperatorTable]:
    return tables_for(catalogue(), folder())


def table_of(place: Path) -> OperatorTable:
    """A table that was profiled on a GPU of which nothing else is known."""
    shape = {name: [value] * 4 for name, value in KEYS.items()}
    points = {"kv_cache_dtype": ["bfloat16"] * 4, **shape, "batch_size": BATCHES, "past_kv_len": CONTEXTS}
    write_table(place / f"{DECODE}.parquet", points, [1e-5, 2e-5, 4e-5, 8e-5], {})
    write_table(place / f"{MIXED}.parquet", points, [1e-5, 4e-5, 6e-5, 32e-5], {})
    sums = {**{name: [value] * 6 for name, value in KEYS.items()}, "beside_prompts": [0, 0, 0, 1, 1, 1]}
    kinds = ["mean", "longest", "unequal"] * 2
    write_table(place / f"{UNEQUAL}.parquet", {**sums, "contexts": kinds}, [1.0, 3.0, 1.2, 1.0, 2.0, 1.5], {})
    return OperatorTable(catalogue()["l4"], None, None, [place])


def test_ratio_is_that_of_the_measured_points(tmp_path: Path) -> None:
    found = table_of(tmp_path).mixed_ratio(*LLAMA, np.array(BATCHES), np.array(CONTEXTS))
    assert found == pytest.approx([1.0, 2.0, 1.5, 4.0], rel=2e-3)


def test_share_of_unequal_contexts_is_the_pooled_one(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    assert table.unequal_share(*LLAMA) == pytest.approx(0.1, rel=0.01)
    assert table.unequal_share(*LLAMA, beside_prompts=True) == pytest.approx(0.5, rel=0.01)


def test_another_shape_takes_the_nearest_one_that_was_timed(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    assert table.mixed_ratio(28, 4, 128, 0, 16, 4096) == table.mixed_ratio(*LLAMA, 16, 4096)
    assert table.unequal_share(28, 4, 128, 0) == table.unequal_share(*LLAMA)


def test_nothing_measured_changes_nothing(tables: dict[str, OperatorTable]) -> None:
    assert (tables["h100_sxm"].mixed_ratio(*LLAMA, np.array(BATCHES), np.array(CONTEXTS)) == 1.0).all()
    assert tables["h100_sxm"].unequal_share(*LLAMA, beside_prompts=True) == 0.0


@pytest.mark.parametrize("device", ["rtx_4090", "rtx_pro_6000_server"])
def test_shipped_profiles_of_vllm_slow_decoding_beside_prompts(tables: dict[str, OperatorTable], device: str) -> None:
    ratio = tables[device].mixed_ratio(*LLAMA, np.array([[8], [64], [128]]), np.array([256, 1024, 4096]))
    assert (ratio >= 1.0).all()
    assert 1.3 < ratio.mean() < 3.0
    for beside_prompts in (False, True):
        assert 0.0 < tables[device].unequal_share(*LLAMA, beside_prompts=beside_prompts) < 0.3


def test_devices_borrow_only_what_was_not_timed_on_them(tables: dict[str, OperatorTable]) -> None:
    own = tables["rtx_4090"]
    for device in ("rtx_4090", "rtx_3090", "a6000", "a40"):
        assert not tables[device].borrows(NumberFormat.BF16)
    assert own.borrows(NumberFormat.FP8)
    assert own.borrows(NumberFormat.BF16, experts=True)
    assert tables["t4"].borrows(NumberFormat.BF16)
    assert not tables["h100_sxm"].borrows(NumberFormat.BF16, experts=True)


def test_predictions_count_it_where_prompts_join_decode_steps(tmp_path: Path) -> None:
    graph = read_config(Fields(LLAMA_CONFIG, "llama"), "llama", None)
    row = read_row(
        {
            "model_path": "llama", "system": "l4", "backend_version": "0.15.0", "mode": "agg", "isl": "1024",
            "osl": "512", "batch_size": "16", "tp_size": "1", "precision": "", "source": "", "backend": "vllm",
        }
    )  # fmt: skip
    with_it = table_of(tmp_path / "with")
    table_of(tmp_path / "without")
    (tmp_path / "without" / f"{MIXED}.parquet").unlink()
    without = OperatorTable(catalogue()["l4"], None, None, [tmp_path / "without"])
    for engine, joins in ((Engine.VLLM, True), (Engine.SGLANG, False)):
        found = [
            Predictor(lambda *_: graph, {"l4": table}, shipped()).predict([replace(row, engine=engine)])[0].tpot_s
            for table in (with_it, without)
        ]
        assert found[0] is not None
        assert found[1] is not None
        assert (found[0] > found[1]) is joins


def test_simulated_steps_take_what_was_timed_beside_prompts_and_over_unequal_contexts(
    tables: dict[str, OperatorTable],
) -> None:
    graph = read_config(Fields(LLAMA_CONFIG, "llama"), "llama", None)
    for device, slower in (("rtx_4090", True), ("h100_sxm", False)):
        step = StepTime(graph, tables[device], Shard())
        found = StepTables.of(step, shipped().corrections, Engine.VLLM, True, 2048, 4096)
        assert (found.mixed_decode_s >= found.decode_s * (1 - 1e-9)).all()
        assert bool(found.mixed_decode_s.sum() > 1.3 * found.decode_s.sum()) is slower
        assert bool(found.mixed_skew > found.skew > 0) is slower
