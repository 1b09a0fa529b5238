"""Parameters of every family against transformers: as saved, as published, and with everything left out that can be."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from benchmarks.reader_defaults import FILE, defaults, keys_read
from profilers.huggingface.families import FAMILIES
from profilers.huggingface.fields import Fields
from profilers.huggingface.reader import FAMILIES_READ, read_config
from tests.profilers.model_families import DECODERS
from tests.profilers.seeing_families import ENCODER_DECODERS, ENCODERS, WRAPPERS
from tuner.model_graph import ModelGraph
from tuner.step import Shard, StepLoad

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402


def variants_of(families: dict[str, list[dict[str, Any]]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        ("family", "values"),
        [
            pytest.param(family, values, id=f"{family}-{place}")
            for family, variants in families.items()
            for place, values in enumerate(variants)
        ],
    )


COUNTED_OTHERWISE = {
    "bamba": "its scan", "falcon_h1": "its scan", "falcon_mamba": "its scan", "granitemoehybrid": "its scan",
    "jamba": "its scan", "mamba": "its scan", "mamba2": "its scan", "nemotron_h": "its scan",
    "minimax": "its linear attention",
    "deepseek_v32": "transformers computes what its indexer leaves out",
    "glm_moe_dsa": "transformers computes what its indexer leaves out",
    "llama4_text": "transformers computes all experts for every token",
}  # fmt: skip
"""Why the FLOPs of a family are not those that torch counts."""


def configuration(family: str, values: dict[str, Any]) -> Any:
    return transformers.CONFIG_MAPPING[family](**values)


def forms(config: Any, values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The same model as a file that states everything, as one that is saved, and as one that states the least."""
    family = {"model_type": config.model_type}
    return {
        "whole": {**json.loads(config.to_json_string(use_diff=False)), **family},
        "saved": {**json.loads(config.to_json_string()), **family},
        "least": {**values, **family},
    }


def graphs_and_parameters(auto: Any, family: str, values: dict[str, Any]) -> tuple[dict[str, ModelGraph], int]:
    """The graph of a model by the form of its file, and how many parameters the model of that `auto` class has."""
    config = configuration(family, copy.deepcopy(values))
    with torch.device("meta"):
        model = auto.from_config(config)
    graphs = {form: read_config(Fields(stated, form), family) for form, stated in forms(config, values).items()}
    return graphs, sum(weight.numel() for weight in model.parameters())


@variants_of(DECODERS)
def test_decoders_count_exactly_however_much_their_files_leave_out(family: str, values: dict[str, Any]) -> None:
    graphs, parameters = graphs_and_parameters(transformers.AutoModelForCausalLM, family, values)
    counted = {form: graph.parameters for form, graph in graphs.items()}
    assert counted == dict.fromkeys(counted, parameters)


@pytest.mark.parametrize("family", sorted(DECODERS.keys() - COUNTED_OTHERWISE.keys()))
def test_flops_of_decoders_are_within_two_percent_of_torchs_counter(family: str) -> None:
    values = DECODERS[family][0]
    torch.manual_seed(0)
    eager = {"attn_implementation": "eager", "experts_implementation": "eager"}
    model = transformers.AutoModelForCausalLM.from_config(configuration(family, {**values, **eager})).eval()
    sequences, length = 2, 48
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randint(3, 290, (sequences, length)), use_cache=False)
    graph = read_config(Fields({**values, "model_type": family}, "test"), family)
    load = StepLoad(prefill_tokens=sequences * length, prefill_sequences=sequences, counts_masked=True)
    outputs = [operator for operator in graph.operators if operator.name in ("lm_head", "output_project")]
    repeated = sum(operator.flops(load, Shard()) for operator in outputs) * (length - 1)  # it asks for every logit
    assert graph.flops(load) + repeated == pytest.approx(counter.get_total_flops(), rel=0.02)


@variants_of(WRAPPERS)
def test_models_that_see_count_exactly_however_much_their_files_leave_out(family: str, values: dict[str, Any]) -> None:
    graphs, parameters = graphs_and_parameters(transformers.AutoModelForImageTextToText, family, values)
    counted = {form: graph.parameters for form, graph in graphs.items()}
    assert counted == dict.fromkeys(counted, parameters)
    assert {graph.assumptions for graph in graphs.values()} == {()}


@variants_of(ENCODERS)
def test_encoders_count_exactly_however_much_their_files_leave_out(family: str, values: dict[str, Any]) -> None:
    graphs, parameters = graphs_and_parameters(transformers.AutoModel, family, values)
    counted = {form: graph.parameters for form, graph in graphs.items()}
    assert counted == dict.fromkeys(counted, parameters)
    assert not any(graph.generates for graph in graphs.values())


@variants_of(ENCODER_DECODERS)
def test_encoder_decoders_count_exactly_and_say_what_is_supposed(family: str, values: dict[str, Any]) -> None:
    graphs, parameters = graphs_and_parameters(transformers.AutoModelForSeq2SeqLM, family, values)
    for graph in graphs.values():
        assert graph.parameters == parameters
        assert "encoder-decoder" in graph.assumptions[0]


def test_an_output_layer_of_its_own_is_counted_as_flan_t5_publishes_it() -> None:
    (values,) = ENCODER_DECODERS["mt5"]
    tied, untied = (
        read_config(Fields({**values, "model_type": "t5", "tie_word_embeddings": tied}, "test"), "t5").parameters
        for tied in (True, False)
    )
    assert untied - tied == values["vocab_size"] * values["d_model"]


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl"])
def test_text_keys_beside_a_vision_tower_are_those_of_the_text_model(family: str) -> None:
    (values,) = WRAPPERS[family]
    nested = read_config(Fields({**values, "model_type": family}, "nested"), family)
    flat = {**values["text_config"], "vision_config": values["vision_config"], "model_type": family}
    assert read_config(Fields(flat, "flat"), family) == nested


def test_every_family_is_counted() -> None:
    assert FAMILIES.keys() - DECODERS.keys() == PARTS_OF_WRAPPERS


PARTS_OF_WRAPPERS = {
    "kimi_k2", "ministral", "mllama_text_model", "qwen2_5_vl_text", "qwen2_vl_text", "qwen3_vl_moe_text",
    "qwen3_vl_text",
}  # fmt: skip
"""Text models that come with a vision tower alone, and those that ask for keys which no class has (Kimi, Ministral)."""


@pytest.mark.skipif(transformers.__version__ != "5.23.0", reason="the defaults are those of transformers 5.23.0")
def test_known_defaults_are_those_of_transformers() -> None:
    assert json.loads(FILE.read_text()) == defaults(FAMILIES_READ, keys_read())
