"""Small models beside decoders: text models that see, encoders, and encoders with a decoder."""

from __future__ import annotations

from typing import Final

from tests.profilers.model_families import DECODERS, SMALL, Values

TRANSLATOR: Final[Values] = {
    "vocab_size": 300,
    "d_model": 96,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 4,
}
STACKS: Final[Values] = {
    "vocab_size": 300, "d_model": 96, "encoder_layers": 2, "decoder_layers": 3, "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 112, "encoder_attention_heads": 4, "decoder_attention_heads": 6, "max_position_embeddings": 50,
}  # fmt: skip

ENCODER_DECODERS: Final[dict[str, list[Values]]] = {
    "bart": [STACKS],
    "mbart": [STACKS],
    "mt5": [TRANSLATOR],
    "t5": [TRANSLATOR, {**TRANSLATOR, "num_decoder_layers": 3, "feed_forward_proj": "gated-gelu"}],
    "umt5": [TRANSLATOR],
}

TOWER: Final[Values] = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 56,
    "patch_size": 14,
}
FRAMES: Final[Values] = {
    "depth": 2,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_heads": 4,
    "out_hidden_size": 128,
}
STACKED: Final[Values] = {**FRAMES, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}

WRAPPERS: Final[dict[str, list[Values]]] = {
    "gemma3": [
        {"text_config": SMALL, "vision_config": TOWER},
        {"text_config": SMALL, "vision_config": {**TOWER, "vision_use_head": False}},
    ],
    "llama4": [
        {
            "text_config": DECODERS["llama4_text"][0],
            "vision_config": {
                **TOWER, "intermediate_size": 192, "vision_output_dim": 64, "projector_input_dim": 64,
                "projector_output_dim": 64,
            },
        }
    ],
    "llava": [
        {
            "text_config": {**SMALL, "model_type": "llama"},
            "vision_config": {**TOWER, "model_type": "clip_vision_model"},
        },
        {
            "text_config": {**SMALL, "model_type": "mistral"},
            "vision_config": {**TOWER, "model_type": "siglip_vision_model"},
        },
    ],
    "llava_next": [
        {
            "text_config": {**SMALL, "model_type": "mistral"},
            "vision_config": {**TOWER, "model_type": "clip_vision_model"},
        }
    ],
    "mistral3": [
        {"text_config": {**SMALL, "model_type": "mistral"}, "vision_config": {**TOWER, "model_type": "pixtral"}}
    ],
    "mllama": [
        {
            "text_config": {**SMALL, "cross_attention_layers": [1], "pad_token_id": 0},
            "vision_config": {
                "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_global_layers": 1,
                "attention_heads": 4, "image_size": 56, "patch_size": 14, "vision_output_dim": 96,
                "intermediate_layers_indices": [0],
            },
        }
    ],
    "qwen2_5_vl": [{"text_config": SMALL, "vision_config": {**FRAMES, "fullatt_block_indexes": [1]}}],
    "qwen2_vl": [
        {
            "text_config": SMALL,
            "vision_config": {"depth": 2, "embed_dim": 48, "num_heads": 4, "hidden_size": 128, "mlp_ratio": 2},
        }
    ],
    "qwen3_vl": [{"text_config": SMALL, "vision_config": STACKED}],
    "qwen3_vl_moe": [{"text_config": DECODERS["qwen3_moe"][0], "vision_config": STACKED}],
}  # fmt: skip
"""Text models beside a vision tower."""

ENCODER: Final[Values] = {
    "vocab_size": 300, "hidden_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128,
    "max_position_embeddings": 70,
}  # fmt: skip
IMAGES: Final[Values] = {**TOWER, "hidden_size": 96, "image_size": 64, "patch_size": 16}
RELATIVE: Final[Values] = {**ENCODER, "relative_attention": True}

ENCODERS: Final[dict[str, list[Values]]] = {
    "albert": [
        {**ENCODER, "embedding_size": 32},
        {**ENCODER, "embedding_size": 32, "num_hidden_groups": 3},
        {**ENCODER, "embedding_size": 32, "inner_group_num": 2},
    ],
    "bert": [ENCODER, {**ENCODER, "type_vocab_size": 1}],
    "camembert": [ENCODER],
    "clip": [
        {
            "text_config": {**ENCODER, "projection_dim": 40}, "vision_config": {**IMAGES, "projection_dim": 40},
            "projection_dim": 40,
        }
    ],
    "deberta-v2": [
        ENCODER,
        {
            **RELATIVE, "position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0, "position_biased_input": False,
            "max_relative_positions": -1,
        },
        {**RELATIVE, "pos_att_type": "p2c|c2p", "conv_kernel_size": 3, "embedding_size": 64},
    ],
    "deit": [IMAGES],
    "distilbert": [{"vocab_size": 300, "dim": 96, "n_layers": 3, "n_heads": 4, "hidden_dim": 128}],
    "electra": [{**ENCODER, "embedding_size": 64}, {**ENCODER, "embedding_size": 96}],
    "modernbert": [
        {**ENCODER, "pad_token_id": 0},
        {**ENCODER, "pad_token_id": 0, "norm_bias": True, "attention_bias": True, "mlp_bias": True},
    ],
    "mpnet": [ENCODER],
    "roberta": [ENCODER],
    "siglip": [
        {"text_config": ENCODER, "vision_config": IMAGES},
        {"text_config": {**ENCODER, "projection_size": 50}, "vision_config": IMAGES},
    ],
    "vit": [IMAGES],
    "xlm-roberta": [ENCODER],
    "xlm-roberta-xl": [ENCODER],
}  # fmt: skip
"""Encoders of text, of images, and of both."""
