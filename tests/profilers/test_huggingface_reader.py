"""Parameter counts and FLOPs against transformers itself, and what bad configurations get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profilers.huggingface.fields import Fields
from profilers.huggingface.reader import HuggingFaceReader, read_config
from tuner.errors import ModelError
from tuner.make_up import make_up
from tuner.model_graph import ModelGraph
from tuner.operators import Attention, Experts, LatentAttention, MatMul
from tuner.step import NumberFormat, Shard, StepLoad

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SHARED = Path(__file__).resolve().parents[3] / "shared" / "models"
CONFIGS = sorted(path.parent for path in SHARED.glob("*/config.json"))

SMALL = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MOE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 48,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", SMALL),
    "qwen2": ("Qwen2ForCausalLM", SMALL),
    "qwen3": ("Qwen3ForCausalLM", SMALL),
    "mixtral": ("MixtralForCausalLM", {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {**SMALL, **MOE}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", {**SMALL, **MOE, "shared_expert_intermediate_size": 96}),
    "deepseek_v3": ("DeepseekV3ForCausalLM", {**SMALL, **LATENT, "head_dim": 16}),
    "minimax_m2": ("MiniMaxM2ForCausalLM", {**SMALL, "num_local_experts": 8, "num_experts_per_tok": 2}),
    "gemma2": ("Gemma2ForCausalLM", SMALL),
    "gemma3_text": ("Gemma3ForCausalLM", {**SMALL, "sliding_window": 64}),
    "gpt_oss": (
        "GptOssForCausalLM",
        {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2, "attention_bias": True},
    ),
}


def instantiate(kind: str, values: dict[str, Any], device: str) -> Any:
    architecture, _ = SHAPES[kind]
    extra = {"attn_implementation": "eager", "experts_implementation": "eager"}
    config = transformers.CONFIG_MAPPING[kind](**values, **extra)
    with torch.device(device):
        return getattr(transformers, architecture)(config)


def graph_of(kind: str, values: dict[str, Any]) -> ModelGraph:
    config = transformers.CONFIG_MAPPING[kind](**values)
    return read_config(Fields({**config.to_dict(), "model_type": kind}, "test"), kind)


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_parameters_are_those_of_transformers(kind: str) -> None:
    model = instantiate(kind, SHAPES[kind][1], "meta")
    assert graph_of(kind, SHAPES[kind][1]).parameters == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mixtral", "qwen3_moe", "deepseek_v3", "gpt_oss", "gemma3_text"])
def test_flops_are_within_two_percent_of_torchs_counter(kind: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    model = instantiate(kind, SHAPES[kind][1], "cpu").eval()
    tokens = torch.randint(3, 500, (2, 48))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(tokens, use_cache=False, logits_to_keep=1)
    load = StepLoad(prefill_tokens=96, prefill_sequences=2, counts_masked=True)
    assert graph_of(kind, SHAPES[kind][1]).flops(load) == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.shared
@pytest.mark.skipif(not CONFIGS, reason="needs the configurations in ../shared/models")
@pytest.mark.parametrize("folder", CONFIGS, ids=lambda folder: folder.name)
def test_published_configurations_count_exactly(folder: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(folder)
    for part in (config, getattr(config, "text_config", config)):
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    architecture = getattr(transformers, name.replace("KimiK25", "Kimi_K25"), None)
    if architecture is None:
        from transformers.models.kimi_k25.modeling_kimi_k25 import Kimi_K25ForConditionalGeneration as architecture
    with torch.device("meta"):
        model = architecture(config)
    assert HuggingFaceReader().read(folder).parameters == sum(weight.numel() for weight in model.parameters())


def test_encoder_flops_are_within_two_percent_of_torchs_counter() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    small = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    config = transformers.BertConfig(**small, vocab_size=300, attn_implementation="eager")
    model = transformers.BertModel(config).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randint(0, 299, (3, 40)))
    graph = read_config(Fields({**config.to_dict(), "model_type": "bert"}, "test"), "bert")
    assert graph.flops(StepLoad.prefill(3, 40)) == pytest.approx(counter.get_total_flops(), rel=0.02)


@given(sequences=st.integers(1, 64), context=st.integers(1, 4096), tensor=st.sampled_from([1, 2, 4]))
def test_sharding_never_adds_work_to_a_gpu(sequences: int, context: int, tensor: int) -> None:
    graph = graph_of("qwen3_moe", SHAPES["qwen3_moe"][1])
    load, shard = StepLoad.decode(sequences, context), Shard.tensor_parallel(tensor)
    assert graph.flops(load, shard) <= graph.flops(load)
    assert graph.weight_bytes(shard) <= graph.weight_bytes(Shard())


@given(tokens=st.integers(1, 20_000))
def test_sliding_windows_never_cache_more_than_full_attention(tokens: int) -> None:
    sliding = graph_of("gemma3_text", SHAPES["gemma3_text"][1])
    full = graph_of("qwen3", {**SHAPES["qwen3"][1]})
    assert sliding.cache_bytes(tokens, Shard()) <= full.cache_bytes(tokens, Shard())


def test_cache_of_grouped_heads_by_eye() -> None:
    # 4 layers x 2 kv heads x (32 + 32) values x 2 bytes
    assert graph_of("llama", SMALL).cache_bytes(1, Shard()) == 4 * 2 * 64 * 2


def test_latent_cache_does_not_shrink_with_tensor_parallelism() -> None:
    graph = graph_of("deepseek_v3", SHAPES["deepseek_v3"][1])
    assert graph.cache_bytes(10, Shard.tensor_parallel(4)) == graph.cache_bytes(10, Shard())
    assert any(isinstance(operator, LatentAttention) for operator in graph.operators)


def test_quantised_weights_are_counted_in_their_format() -> None:
    values = {**SMALL, "model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2}
    quantised = {
        **values,
        "quantization_config": {
            "quant_method": "mxfp4",
            "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"],
        },
    }
    graph = read_config(Fields(quantised, "test"), "x")
    formats = {type(operator): operator.format for operator in graph.operators if isinstance(operator, Experts)}
    assert formats[Experts] is NumberFormat.MXFP4
    projections = [op for op in graph.operators if isinstance(op, MatMul) and op.name == "o_proj"]
    assert {op.format for op in projections} == {NumberFormat.BF16}


def windows(values: dict[str, Any]) -> list[tuple[int | None, int]]:
    graph = read_config(Fields(values, "test"), "x")
    return [(op.window, op.count) for op in graph.operators if isinstance(op, Attention)]


def test_windows_follow_the_pattern_of_a_family_that_leaves_it_out() -> None:
    seven = {**SMALL, "num_hidden_layers": 7, "sliding_window": 64}
    assert windows({**seven, "model_type": "gemma3_text"}) == [(64, 6), (None, 1)]
    assert windows({**seven, "model_type": "gemma2"}) == [(64, 4), (None, 3)]
    assert windows({**seven, "model_type": "cohere2"}) == [(64, 6), (None, 1)]
    assert windows({**seven, "model_type": "exaone4", "sliding_window_pattern": "LLG"}) == [(64, 5), (None, 2)]


def test_windows_that_a_file_switches_off_are_none() -> None:
    assert windows({**SMALL, "model_type": "qwen2", "sliding_window": 64}) == [(None, 4)]
    assert windows({**SMALL, "model_type": "mistral", "sliding_window": None}) == [(None, 4)]


def test_experts_stand_where_a_list_of_layers_says() -> None:
    values = {**SMALL, **MOE, "model_type": "deepseek_v3", **LATENT, "moe_layer_freq": [0, 1, 0, 1]}
    graph = read_config(Fields(values, "test"), "x")
    assert sum(op.count for op in graph.operators if isinstance(op, Experts)) == 2


def test_a_part_of_an_unknown_whole_is_counted_and_said_to_be_one() -> None:
    graph = read_config(
        Fields({"model_type": "brand_new", "text_config": {**SMALL, "model_type": "llama"}}, "test"), "x"
    )
    assert graph.parameters == graph_of("llama", SMALL).parameters
    assert graph.assumptions == ("model_type 'brand_new' is not known: only its text model is counted",)


def test_an_unknown_family_is_read_and_said_so() -> None:
    graph = read_config(Fields({**SMALL, "model_type": "brand_new"}, "test"), "x")
    assert "brand_new" in graph.assumptions[0]
    assert any(isinstance(operator, Attention) for operator in graph.operators)


def test_heads_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ModelError, match="4 attention heads, which 3 GPUs"):
        graph_of("llama", SMALL).check(Shard.tensor_parallel(3))


def test_experts_that_do_not_divide_are_refused() -> None:
    graph = graph_of("qwen3_moe", SHAPES["qwen3_moe"][1])
    with pytest.raises(ModelError, match="8 experts, which 3 groups"):
        graph.check(Shard(expert_parallel=3))
    with pytest.raises(ModelError, match="cannot be cut 128 ways"):
        graph.check(Shard(expert_tensor=128))


@pytest.mark.parametrize("name", ["prefill_tokens", "prefill_context", "decode_sequences", "decode_context", "patches"])
@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
def test_lengths_that_cannot_be_are_refused(name: str, value: float) -> None:
    with pytest.raises(ModelError, match=f"{name}="):
        StepLoad(**{name: value})


def test_models_of_one_family_are_made_of_alike_operators() -> None:
    """A dense model of another size is nearer to a dense one than experts of the same family are."""
    names = ("Qwen3-8B", "Qwen3-32B", "Qwen3-30B-A3B")
    paths = [SHARED / f"Qwen--{name}" for name in names]
    if not all(path.exists() for path in paths):
        pytest.skip("the shared models are not here")
    small, large, experts = (
        {key: value for key, value in make_up(HuggingFaceReader().read(path)).items() if "share" in key}
        for path in paths
    )

    def apart(one: dict[str, float], other: dict[str, float]) -> float:
        return sum(abs(one[key] - other[key]) for key in one)

    assert apart(small, large) < 0.2 * apart(small, experts)
