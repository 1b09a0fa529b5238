"""What each layer of a decoder is: how it mixes tokens, how far it sees, and what feed-forward follows."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from profilers.huggingface.dimensions import Dimensions
from profilers.huggingface.families import Mixer
from profilers.huggingface.fields import Fields


class FeedForward(Enum):
    """What follows the mixer of a layer."""

    DENSE = "dense"
    SPARSE = "experts"
    NONE = "nothing"


@dataclass(frozen=True, slots=True)
class Layer:
    """What tells one layer from another.

    Attributes:
        mixers: none in a layer that is a feed-forward alone, two where they run beside each other.
        window: tokens that attention sees back, `None` for all.
        full: whether attention sees everything.
        follows: the feed-forward.
        reuses: whether attention takes the keys and values of an earlier layer.
    """

    mixers: tuple[Mixer, ...]
    window: int | None
    full: bool
    follows: FeedForward
    reuses: bool = False


_STATE_SPACE: Final = frozenset({"mamba", "mamba2", "falcon_mamba"})
_PATTERN_LETTERS: Final = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
"""Of `hybrid_override_pattern` in Nemotron-H."""


def layers_of(dimensions: Dimensions) -> list[Layer]:
    """All layers, first to last."""
    config, count = dimensions.config, dimensions.layers
    window = _window(dimensions)
    kinds = _kinds(dimensions, window)
    crossed = frozenset(config.integers("cross_attention_layers"))
    sparse = _sparse(dimensions)
    first_reusing = count - config.integer("num_kv_shared_layers", default=0)
    found = []
    for index in range(count):
        kind = kinds[index]
        sliding = kind in ("sliding_attention", "chunked_attention")
        mixers = (Mixer.CROSS,) if index in crossed else _mixers(dimensions, kind)
        found.append(
            Layer(
                mixers=mixers,
                window=window if sliding else None,
                full=not sliding,
                follows=_follows(dimensions, kind, index in sparse),
                reuses=index >= first_reusing,
            )
        )
    return found


def _window(dimensions: Dimensions) -> int | None:
    config = dimensions.config
    if dimensions.family == "llama4_text":
        return config.optional("attention_chunk_size")
    if not config.texts("layer_types") and not config.flag("use_sliding_window", default=True):
        return None
    return config.optional("sliding_window", "window_size")


def _mixers(dimensions: Dimensions, kind: str) -> tuple[Mixer, ...]:
    if dimensions.family == "falcon_h1":
        return (Mixer.MAMBA2, Mixer.SOFTMAX)
    if kind in ("mlp", "moe"):
        return ()
    if kind in ("linear_attention", "mamba", "conv"):
        return (dimensions.facts.linear,)
    return (Mixer.SOFTMAX,)


def _follows(dimensions: Dimensions, kind: str, sparse: bool) -> FeedForward:
    if dimensions.family in _STATE_SPACE:
        return FeedForward.NONE
    if dimensions.family == "nemotron_h":
        return {"mlp": FeedForward.DENSE, "moe": FeedForward.SPARSE}.get(kind, FeedForward.NONE)
    return FeedForward.SPARSE if sparse else FeedForward.DENSE


def _kinds(dimensions: Dimensions, window: int | None) -> list[str]:
    """A word for each layer, as `layer_types` has them."""
    config, count = dimensions.config, dimensions.layers
    stated = _stated(dimensions)
    if len(stated) >= count:
        return list(stated)
    rest = [_word(dimensions, index, window) for index in range(count)]
    return [*stated, *rest[len(stated) :]] if config.texts("layer_types") else rest


def _stated(dimensions: Dimensions) -> tuple[str, ...]:
    config = dimensions.config
    letters = config.text("hybrid_override_pattern")
    if letters:
        return tuple(_PATTERN_LETTERS.get(letter, letter) for letter in letters)
    lightning = config.integers("attn_type_list")
    if lightning:
        return tuple("full_attention" if kind else "linear_attention" for kind in lightning)
    return config.texts("layer_types") or config.texts("layers_block_type")


def _word(dimensions: Dimensions, index: int, window: int | None) -> str:
    config, family = dimensions.config, dimensions.family
    if family in _STATE_SPACE or family == "granitemoehybrid":
        return "linear_attention"
    if family in ("bamba", "lfm2"):
        known = config.integers("attn_layer_indices") or config.integers("full_attn_idxs")
        return "full_attention" if index in known or (not known and family == "lfm2") else "linear_attention"
    period = config.optional("attn_layer_period")
    if period:
        chosen = index % period == config.integer("attn_layer_offset", default=0)
        return "full_attention" if chosen else "linear_attention"
    if family == "minimax":
        return "full_attention" if (index + 1) % 2 else "linear_attention"
    if "linear_num_value_heads" in config:
        interval = config.optional("full_attention_interval") or 4
        return "full_attention" if (index + 1) % interval == 0 else "linear_attention"
    if family == "llama4_text":
        return _llama4(config, index)
    if not window:
        return "full_attention"
    letters = config.text("sliding_window_pattern")
    if letters:  # EXAONE 4: LLLG
        return "full_attention" if letters[index % len(letters)] == "G" else "sliding_attention"
    pattern = config.optional("sliding_window_pattern", "_sliding_window_pattern") or dimensions.facts.pattern
    if pattern:
        last = family == "gemma4_text" and index == dimensions.layers - 1
        return "full_attention" if last or (index + 1) % pattern == 0 else "sliding_attention"
    return "full_attention" if index < _full_first(dimensions) else "sliding_attention"


def _llama4(config: Fields, index: int) -> str:
    rotary = config.integers("no_rope_layers")
    if rotary and index < len(rotary):
        return "chunked_attention" if rotary[index] else "full_attention"
    every = config.optional("no_rope_layer_interval") or 4
    return "full_attention" if (index + 1) % every == 0 else "chunked_attention"


def _full_first(dimensions: Dimensions) -> int:
    """Layers before those with a window, in Qwen."""
    if not dimensions.family.startswith("qwen2"):
        return 0
    return dimensions.config.integer("max_window_layers", default=0)


def _sparse(dimensions: Dimensions) -> frozenset[int]:
    """Layers of experts."""
    config, count = dimensions.config, dimensions.layers
    if dimensions.experts is None:
        return frozenset()
    words = config.texts("mlp_layer_types")
    if words:
        return frozenset(index for index, word in enumerate(words) if word == "sparse")
    listed = config.integers("moe_layers")
    if listed:
        return frozenset(listed)
    flags = config.integers("moe_layer_freq") or config.integers("is_moe_layer")
    if flags:
        return frozenset(index for index, flag in enumerate(flags) if flag)
    period = config.optional("expert_layer_period")
    if period:
        offset = config.integer("expert_layer_offset", default=0)
        return frozenset(index for index in range(count) if index % period == offset)
    if "moe_layer_start_index" in config:
        return _from_start_to_end(config, count)
    dense_first = config.integer("first_k_dense_replace", default=dimensions.facts.dense_first)
    dense_only = frozenset(config.integers("mlp_only_layers"))
    stride = config.integer("decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_freq", default=1) or 1
    return frozenset(
        index
        for index in range(count)
        if index >= dense_first and index not in dense_only and (index + 1) % stride == 0
    )


def _from_start_to_end(config: Fields, count: int) -> frozenset[int]:
    start, interval = config.integer("moe_layer_start_index"), config.integer("moe_layer_interval", default=1) or 1
    end = config.number("moe_layer_end_index", default=-1.0)
    return frozenset(
        index for index in range(start, count) if (end < 0 or index <= end) and (index + 1) % interval == 0
    )
