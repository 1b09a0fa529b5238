"""Small models of every family whose parameters the reader counts as `transformers` does.

What a variant sets is what its family's published configurations differ in; sizes are small and unequal, so
that no two products have one shape.
"""

from __future__ import annotations

from typing import Any, Final

Values = dict[str, Any]

SMALL: Final[Values] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
UNGROUPED: Final = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
LATENT: Final[Values] = {
    **SMALL,
    "num_key_value_heads": 8,
    "q_lora_rank": 48,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
}
GPT2: Final[Values] = {"vocab_size": 512, "n_embd": 128, "n_layer": 3, "n_head": 8, "n_positions": 100}
FALCON: Final[Values] = {"vocab_size": 512, "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 8}
OPT: Final[Values] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "ffn_dim": 200,
    "num_attention_heads": 8,
    "max_position_embeddings": 64,
}
NEMOTRON_H: Final[Values] = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "mamba_num_heads": 16,
    "mamba_head_dim": 16,
    "n_groups": 2,
    "ssm_state_size": 16,
    "hybrid_override_pattern": "M-M*E-",
    "n_routed_experts": 4,
    "moe_intermediate_size": 48,
    "moe_shared_expert_intermediate_size": 56,
}

DECODERS: Final[dict[str, list[Values]]] = {
    "arcee": [SMALL],
    "bamba": [{**SMALL, "attn_layer_indices": [1], "mamba_n_heads": 16, "mamba_d_state": 32}],
    "bloom": [{"vocab_size": 512, "hidden_size": 128, "n_layer": 3, "n_head": 8}],
    "codegen": [{"vocab_size": 512, "n_embd": 128, "n_layer": 3, "n_head": 8, "rotary_dim": 8}],
    "cohere": [SMALL, {**SMALL, "use_qk_norm": True}],
    "cohere2": [SMALL],
    "deepseek_v2": [
        LATENT,
        {
            **UNGROUPED,
            "num_key_value_heads": 8,
            "q_lora_rank": None,
            "kv_lora_rank": 32,
            "qk_rope_head_dim": 16,
            "qk_nope_head_dim": 32,
            "v_head_dim": 32,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_shared_experts": 2,
            "moe_intermediate_size": 64,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
            "attention_bias": True,
        },
    ],
    "deepseek_v3": [LATENT, {**LATENT, "attention_bias": True}],
    "deepseek_v32": [LATENT],
    "ernie4_5": [SMALL, {**SMALL, "use_bias": True}],
    "ernie4_5_moe": [
        {**SMALL, "moe_num_experts": 8, "moe_intermediate_size": 64},
        {
            **SMALL,
            "moe_num_experts": 8,
            "moe_intermediate_size": 64,
            "moe_layer_end_index": 2,
            "use_bias": True,
            "moe_num_shared_experts": 0,
            "tie_word_embeddings": False,
        },
    ],
    "exaone4": [{**SMALL, "layer_types": ["full_attention", "full_attention", "full_attention", "full_attention"]}],
    "falcon": [
        FALCON,
        {**FALCON, "num_kv_heads": 2, "new_decoder_architecture": True},
        {**FALCON, "multi_query": False, "parallel_attn": False, "bias": True, "alibi": True},
        {
            **FALCON,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
            "num_ln_in_parallel_attn": 1,
            "ffn_hidden_size": 99,
        },
    ],
    "falcon_h1": [
        {**SMALL, "mamba_d_ssm": 128, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 32},
        {
            **SMALL,
            "mamba_d_ssm": 128,
            "mamba_n_heads": 8,
            "mamba_d_head": 16,
            "mamba_d_state": 32,
            "mamba_rms_norm": True,
        },
    ],
    "falcon_mamba": [{"vocab_size": 512, "hidden_size": 128, "num_hidden_layers": 3}],
    "gemma": [SMALL],
    "gemma2": [SMALL, {**SMALL, "head_dim": 16}],
    "gemma3_text": [SMALL, {**SMALL, "head_dim": 16}],
    "gemma4_text": [
        {
            **SMALL,
            "head_dim": 16,
            "global_head_dim": 32,
            "hidden_size_per_layer_input": 24,
            "vocab_size_per_layer_input": 300,
            "num_kv_shared_layers": 2,
            "use_double_wide_mlp": True,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
        {
            **SMALL,
            "head_dim": 16,
            "global_head_dim": 32,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "hidden_size_per_layer_input": 0,
            "enable_moe_block": True,
            "num_experts": 8,
            "top_k_experts": 2,
            "moe_intermediate_size": 64,
        },
    ],
    "glm": [{**SMALL, "pad_token_id": 0}],
    "glm4": [{**SMALL, "pad_token_id": 0}],
    "glm4_moe": [
        {**SMALL, "n_routed_experts": 8, "moe_intermediate_size": 64, "num_experts_per_tok": 2, "use_qk_norm": True},
        {**SMALL, "n_routed_experts": 8, "moe_intermediate_size": 64},
    ],
    "glm4_moe_lite": [LATENT],
    "glm_moe_dsa": [LATENT],
    "gpt2": [GPT2, {**GPT2, "n_inner": 100}, {**GPT2, "tie_word_embeddings": False}],
    "gpt_bigcode": [GPT2, {**GPT2, "multi_query": False}],
    "gpt_neo": [
        {
            "vocab_size": 512,
            "hidden_size": 128,
            "num_layers": 4,
            "num_heads": 8,
            "attention_types": [[["global", "local"], 2]],
            "max_position_embeddings": 99,
        }
    ],
    "gpt_neox": [UNGROUPED, {**UNGROUPED, "use_parallel_residual": False, "attention_bias": False}],
    "gpt_oss": [{**SMALL, "num_local_experts": 4}],
    "gptj": [{"vocab_size": 512, "n_embd": 128, "n_layer": 3, "n_head": 8, "rotary_dim": 8}],
    "granite": [SMALL],
    "granitemoe": [{**SMALL, "num_local_experts": 4}],
    "granitemoehybrid": [
        {
            **SMALL,
            "num_local_experts": 4,
            "mamba_n_heads": 16,
            "mamba_d_state": 32,
            "shared_intermediate_size": 96,
            "layer_types": ["mamba", "mamba", "attention", "mamba"],
        },
        {
            **SMALL,
            "num_local_experts": 0,
            "mamba_n_heads": 16,
            "mamba_d_state": 32,
            "shared_intermediate_size": 96,
            "layer_types": ["mamba", "mamba", "attention", "mamba"],
        },
    ],
    "granitemoeshared": [
        {**SMALL, "num_local_experts": 4, "shared_intermediate_size": 96},
        {**SMALL, "num_local_experts": 4, "shared_intermediate_size": 0},
    ],
    "helium": [{**SMALL, "head_dim": 16}],
    "jamba": [
        {
            "vocab_size": 512,
            "hidden_size": 128,
            "intermediate_size": 192,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "num_experts": 4,
        },
        {
            "vocab_size": 512,
            "hidden_size": 128,
            "intermediate_size": 192,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "num_experts": 1,
            "mamba_dt_rank": 9,
        },
    ],
    "lfm2": [
        {**SMALL, "full_attn_idxs": [1, 3]},
        {**SMALL, "layer_types": ["conv", "full_attention", "conv", "conv"], "conv_bias": True},
    ],
    "llama": [
        SMALL,
        {**SMALL, "attention_bias": True, "mlp_bias": True},
        {**SMALL, "head_dim": 24, "tie_word_embeddings": True},
    ],
    "llama4_text": [
        {**SMALL, "intermediate_size_mlp": 256, "num_local_experts": 4, "interleave_moe_layer_step": 2},
        {**SMALL, "intermediate_size_mlp": 256, "num_local_experts": 4},
    ],
    "mamba": [{"vocab_size": 512, "hidden_size": 128, "num_hidden_layers": 3}],
    "mamba2": [
        {
            "vocab_size": 512,
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_heads": 16,
            "head_dim": 16,
            "n_groups": 2,
            "state_size": 16,
        }
    ],
    "minimax": [{**SMALL, "num_local_experts": 4}],
    "minimax_m2": [{**SMALL, "num_experts_per_tok": 2, "num_local_experts": 4}],
    "ministral3": [SMALL],
    "mistral": [SMALL],
    "mixtral": [{**SMALL, "num_local_experts": 4}],
    "mpt": [{"vocab_size": 512, "d_model": 128, "n_layers": 3, "n_heads": 8}],
    "nemotron": [SMALL],
    "nemotron_h": [NEMOTRON_H, {**NEMOTRON_H, "moe_latent_size": 32}],
    "olmo": [SMALL],
    "olmo2": [SMALL],
    "olmo3": [SMALL],
    "olmoe": [{**SMALL, "num_experts": 8, "num_experts_per_tok": 2}],
    "opt": [
        {**FALCON, "ffn_dim": 200, "max_position_embeddings": 64, "word_embed_proj_dim": 128},
        {
            **FALCON,
            "ffn_dim": 200,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 64,
            "do_layer_norm_before": False,
        },
        {
            **FALCON,
            "ffn_dim": 200,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 128,
            "enable_bias": False,
            "layer_norm_elementwise_affine": False,
        },
    ],
    "persimmon": [UNGROUPED],
    "phi": [SMALL, {**SMALL, "qk_layernorm": True}],
    "phi3": [{**SMALL, "pad_token_id": 0}],
    "phimoe": [
        {**SMALL, "num_local_experts": 4},
        {**SMALL, "num_local_experts": 4, "attention_bias": True, "lm_head_bias": True},
    ],
    "qwen2": [SMALL],
    "qwen2_moe": [
        {
            **SMALL,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 96,
        },
        {
            **SMALL,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 96,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
        },
    ],
    "qwen3": [SMALL],
    "qwen3_5_moe_text": [
        {
            **SMALL,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 96,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        }
    ],
    "qwen3_5_text": [
        {
            **SMALL,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        }
    ],
    "qwen3_moe": [{**SMALL, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}],
    "qwen3_next": [
        {
            **SMALL,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 96,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 16,
        }
    ],
    "seed_oss": [SMALL, {**SMALL, "attention_out_bias": True, "attention_bias": False}],
    "smollm3": [{**SMALL, "pad_token_id": 0}],
    "stablelm": [SMALL, {**SMALL, "use_qkv_bias": True, "use_parallel_residual": True, "qk_layernorm": True}],
    "starcoder2": [SMALL, {**SMALL, "use_bias": False}],
}

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
