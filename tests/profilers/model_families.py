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

ROUTED: Final[Values] = {
    "n_routed_experts": 8, "num_experts_per_tok": 2, "n_shared_experts": 1, "moe_intermediate_size": 64,
    "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
ROTARY: Final[Values] = {"head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
DENSE_LATENT: Final = {key: value for key, value in LATENT.items() if key not in ROUTED}

DECODERS: Final[dict[str, list[Values]]] = {
    "aria_text": [SMALL],
    "cwm": [SMALL],
    "dots1": [{**SMALL, **ROUTED}],
    "exaone_moe": [{**SMALL, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64}],
    "flex_olmo": [{**SMALL, "pad_token_id": 0, "num_experts": 8, "num_experts_per_tok": 2}],
    "gpt-sw3": [GPT2],
    "granite_swa": [SMALL],
    "granitemoe_swa": [{**SMALL, "num_local_experts": 4}],
    "hunyuan_v1_dense": [{**SMALL, **ROTARY}],
    "hunyuan_v1_moe": [{**SMALL, **ROTARY, "num_experts": 4, "moe_topk": 2}],
    "internlm3": [SMALL, {**SMALL, "qkv_bias": True, "bias": True}],
    "iquestcoder": [SMALL],
    "minicpm3": [DENSE_LATENT],
    "solar_open": [{**SMALL, **ROUTED, "first_k_dense_replace": 0}],
    "vaultgemma": [SMALL],
    "youtu": [DENSE_LATENT],
    "arcee": [SMALL],
    "bamba": [{**SMALL, "attn_layer_indices": [1], "mamba_n_heads": 16, "mamba_d_state": 32}],
    "bloom": [{"vocab_size": 512, "hidden_size": 128, "n_layer": 3, "n_head": 8}],
    "codegen": [{"vocab_size": 512, "n_embd": 128, "n_layer": 3, "n_head": 8, "rotary_dim": 8}],
    "cohere": [SMALL, {**SMALL, "use_qk_norm": True}],
    "cohere2": [SMALL],
    "deepseek_v2": [
        LATENT,
        {**LATENT, "q_lora_rank": None, "attention_bias": True},
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
