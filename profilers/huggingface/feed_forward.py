"""What follows attention in a decoder's layer: a dense feed-forward, or routed experts and shared ones."""

from __future__ import annotations

from profilers.huggingface.dimensions import Dimensions
from profilers.huggingface.layers import Layer
from tuner.errors import ModelError
from tuner.operators import AllReduce, Experts, MatMul, Operator, Pointwise
from tuner.step import Split


def dense(dimensions: Dimensions, count: int, inner: int, name: str = "mlp", reduced: bool = True) -> list[Operator]:
    """A feed-forward of width `inner`; `reduced` where a sum over GPUs follows it."""
    hidden, biased, gated = dimensions.hidden, dimensions.has("mlp_bias"), dimensions.facts.gated
    format = dimensions.quantization.of(f"model.layers.0.{name}.down_proj")
    found: list[Operator] = [
        MatMul(
            name=f"{name}.gate_up_proj" if gated else f"{name}.up_proj", count=count,
            outputs=(2 if gated else 1) * inner, inputs=hidden, split=Split.OUTPUT, format=format, bias=biased,
        ),
        Pointwise(name=f"{name}.activation", count=count, width=inner, reads=2.0 if gated else 1.0, splits=True),
        MatMul(
            name=f"{name}.down_proj", count=count, outputs=hidden, inputs=inner, split=Split.INPUT,
            format=format, bias=biased,
        ),
    ]  # fmt: skip
    if reduced:
        found.append(AllReduce(name=f"{name}_all_reduce", count=count, width=hidden))
    return found


def dense_inner(dimensions: Dimensions, layer: Layer) -> int:
    """Width of a layer without experts."""
    config = dimensions.config
    if layer.reuses and config.flag("use_double_wide_mlp"):
        return 2 * dimensions.inner
    if dimensions.family == "granitemoehybrid":
        return config.integer("shared_intermediate_size", default=dimensions.inner)
    return config.integer("intermediate_size_mlp", default=dimensions.inner)


def routed(dimensions: Dimensions, count: int) -> list[Operator]:
    """A router, its experts, and those that every token meets."""
    config, hidden, facts = dimensions.config, dimensions.hidden, dimensions.facts
    if dimensions.experts is None:
        raise ModelError(
            f"{config.source}: a layer of experts is named, but not how many experts there are. "
            "Add their number, or use the config.json that the model's authors published."
        )
    inner = config.integer("moe_intermediate_size", default=dimensions.inner)
    latent = config.optional("moe_latent_size")
    found: list[Operator] = [
        MatMul(name="router", count=count, outputs=dimensions.experts, inputs=hidden, bias=facts.expert_bias)
    ]
    if dimensions.family == "gemma4_text":
        found.append(dimensions.norm("router_scale", count, hidden, hidden + dimensions.experts))
        found.append(dimensions.norm("expert_norms", 3 * count, hidden))
    if facts.router_values:
        values = facts.router_values * dimensions.experts
        found.append(Pointwise(name="router_scores", count=count, width=dimensions.experts, weights=values))
    if latent:
        biased = dimensions.has("mlp_bias")
        found.append(MatMul(name="experts_down", count=count, outputs=latent, inputs=hidden, bias=biased))
        found.append(MatMul(name="experts_up", count=count, outputs=hidden, inputs=latent, bias=biased))
    found.append(
        Experts(
            name="experts", count=count, experts=dimensions.experts, chosen=dimensions.chosen, hidden=latent or hidden,
            inner=inner, gated=facts.gated, bias=facts.expert_bias,
            format=dimensions.quantization.of("model.layers.0.mlp.experts.0"),
        )
    )  # fmt: skip
    shared = _shared(dimensions, inner)
    if shared and facts.shared_gate:
        found.append(MatMul(name="shared_expert_gate", count=count, outputs=1, inputs=hidden))
    if shared:
        found += dense(dimensions, count, shared, "mlp.shared_experts", reduced=False)
    found.append(AllReduce(name="experts_all_reduce", count=count, width=hidden, after_experts=True))
    return found


def _shared(dimensions: Dimensions, inner: int) -> int:
    """Width of all shared experts together, 0 where there are none."""
    config = dimensions.config
    stated = config.optional(
        "shared_expert_intermediate_size", "shared_intermediate_size", "moe_shared_expert_intermediate_size"
    )
    if stated is not None:
        return stated
    counted = config.integer(
        "n_shared_experts", "num_shared_experts", "moe_num_shared_experts", default=dimensions.facts.sparse_shared
    )
    return counted * inner
