"""What damaged or careless `config.json` files get: the fault, the value and what to do, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from profilers.huggingface.fields import Fields
from profilers.huggingface.reader import HuggingFaceReader, read_config
from tests.profilers.model_families import DECODERS
from tests.profilers.seeing_families import ENCODER_DECODERS, ENCODERS, WRAPPERS
from tuner.errors import ModelError
from tuner.model_graph import ModelGraph
from tuner.step import Shard, StepLoad

DENSE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
SPARSE = {**DENSE, "model_type": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}


def read(folder: Path, values: dict[str, Any]) -> ModelGraph:
    (folder / "config.json").write_text(json.dumps(values))
    return HuggingFaceReader().read(folder)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"'num_hidden_layers'.* is missing"):
        read(tmp_path, {"model_type": "llama", "hidden_size": 64})


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is no JSON"):
        HuggingFaceReader().read(tmp_path)


@pytest.mark.parametrize("value", ["a", None, -1, 1.5, True, [0]])
def test_a_list_of_layers_that_holds_something_else_is_refused_at_its_place(tmp_path: Path, value: object) -> None:
    with pytest.raises(ModelError, match=r"'mlp_only_layers' holds .* at place 1. Write whole numbers"):
        read(tmp_path, {**SPARSE, "mlp_only_layers": [0, value]})


def test_a_block_size_that_is_no_number_is_refused(tmp_path: Path) -> None:
    stated = {"quant_method": "fp8", "weight_block_size": ["a"]}
    with pytest.raises(ModelError, match="'weight_block_size' holds 'a' at place 0"):
        read(tmp_path, {**DENSE, "quantization_config": stated})


def test_a_pattern_of_modules_that_is_none_is_refused(tmp_path: Path) -> None:
    stated = {"quant_method": "compressed-tensors", "ignore": ["re:("]}
    with pytest.raises(ModelError, match=r"'ignore' holds 're:\(', which is no regular expression: .* Correct it"):
        read(tmp_path, {**DENSE, "quantization_config": stated})


def test_objects_nested_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(ModelError, match="nests objects or lists too deeply"):
        HuggingFaceReader().read(tmp_path)


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    plain = read(tmp_path, DENSE)
    (tmp_path / "config.json").write_text(json.dumps(DENSE), encoding="utf-8-sig")
    assert HuggingFaceReader().read(tmp_path) == plain


JUNK: tuple[object, ...] = (None, "a", 0, -1, 1, 2.5, True, [], ["a"], [None], {}, {"a": 1}, 2**39, float("nan"))


@pytest.mark.parametrize("families", [DECODERS, ENCODERS, WRAPPERS, ENCODER_DECODERS])
def test_any_value_of_any_key_is_read_or_refused(families: dict[str, list[dict[str, Any]]]) -> None:
    for family, variants in families.items():
        for values in variants:
            for damaged in _damaged({**values, "model_type": family}):
                try:
                    graph = read_config(Fields(damaged, "test"), family)
                except ModelError:
                    continue
                assert graph.parameters >= graph.active_parameters
                assert all(operator.count > 0 for operator in graph.operators)
                assert graph.flops(StepLoad.decode(2, 16)) >= 0
                assert graph.weight_bytes(Shard()) >= 0


def _damaged(values: dict[str, Any]) -> list[dict[str, Any]]:
    found = [{**values, key: junk} for key in values if key != "model_type" for junk in JUNK]
    for part in ("text_config", "vision_config"):
        inner = values.get(part, {})
        found += [{**values, part: {**inner, key: junk}} for key in inner for junk in JUNK]
    return found
