"""The study files that `tune init` writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
import yaml

from tuner.errors import UnknownNameError
from tuner.study import adapters
from tuner.study.file import check, load_study
from tuner.study.template import template
from tuner.testing.fakes import installed


@pytest.fixture(scope="module", autouse=True)
def _fakes() -> Iterator[None]:
    with installed():
        yield


def _onnx_model(folder: Path) -> None:
    shape: list[str | int] = ["batch", 8]
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = onnx.helper.make_graph([node], "relu", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, folder / "model.onnx")


def _language_model(folder: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "vocab_size": 1000,
        "torch_dtype": "bfloat16",
    }
    folder.joinpath("model").mkdir()
    folder.joinpath("model", "config.json").write_text(json.dumps(config))
    folder.joinpath("model", "tokenizer.json").write_text("{}")
    folder.joinpath("model", "model.safetensors").write_bytes(bytes(100))


def _any_folder(folder: Path) -> None:
    folder.joinpath("model").mkdir()


MODELS: dict[str, Callable[[Path], None]] = {"triton": _onnx_model, "vllm": _language_model}


@pytest.mark.parametrize("engine", [*adapters.names(adapters.SEARCH_SPACES), "fake"])
def test_a_template_lacks_nothing_but_the_model(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(template(engine))
    assert [fault.where for fault in check(path)] == ["model"]
    MODELS.get(engine, _any_folder)(tmp_path)
    study = load_study(path)
    assert study.engine.name == engine
    assert study.search.budget.trials == 15


@pytest.mark.parametrize("engine", [*adapters.names(adapters.SEARCH_SPACES), "fake"])
def test_the_defaults_that_a_template_shows_are_the_defaults(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(template(engine))
    MODELS.get(engine, _any_folder)(tmp_path)
    shown = load_study(path).plan
    parts = yaml.safe_load(template(engine))
    del parts["trial"]
    path.write_text(yaml.safe_dump(parts))
    assert load_study(path).plan == shown


@pytest.mark.parametrize("engine", adapters.names(adapters.SEARCH_SPACES))
def test_the_domains_that_a_template_suggests_are_valid(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    text = template(engine)
    assert "  # space:" in text
    path.write_text(text.replace("  # space:", "  space:"))
    MODELS.get(engine, _any_folder)(tmp_path)
    assert len(load_study(path).search.overrides) >= 2


@pytest.mark.parametrize("engine", [*adapters.names(adapters.SEARCH_SPACES), "fake"])
def test_a_template_fits_a_screen(engine: str) -> None:
    assert max(map(len, template(engine).splitlines())) <= 120


def test_an_unknown_engine_is_named_with_its_neighbours() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'triton'"):
        template("trition")
