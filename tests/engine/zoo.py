"""Tiny random models of every causal language model that transformers can build: for tests of what must hold for all.

`build(kind)` gives a model of two layers and hidden size 32; ValueError says why a kind cannot be built that small.
"""

import copy

import torch

VOCABULARY = 96
WIDTH = 32
SETTINGS = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "attention_hidden_size", "model_dim",
        "embedding_size"), WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers",
        "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads",
        "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "multi_query_group_num"), 2),
    **dict.fromkeys(("intermediate_size", "n_inner", "d_ff", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim",
        "ffn_hidden_size", "d_inner", "shared_expert_intermediate_size", "moe_intermediate_size",
        "dense_intermediate_size", "shared_intermediate_size", "intermediate_size_mlp", "block_ff_dim",
        "block_multiple_of", "lru_width", "ffn_hidden_dim"), 2 * WIDTH),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "context_length", "seq_length"),
        128),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts"),
        4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "num_experts_per_token"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "n_group", "topk_group",
        "num_expert_groups", "expert_groups"), 1),
    **dict.fromkeys(("sliding_window", "attention_window_size", "sliding_window_size"), 5),
    **dict.fromkeys(("head_dim", "kv_lora_rank", "attention_head_dim", "linear_key_head_dim", "linear_value_head_dim",
        "v_head_dim", "mamba_d_head", "mamba_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim", "mamba_n_groups", "n_groups", "ssm_ngroups",
        "mamba_n_groups"), 4),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "mamba_num_heads", "mamba_n_heads"), 8),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state", "time_step_rank", "chunk_size",
        "mamba_chunk_size", "time_mix_extra_dim", "index_head_dim", "conv_dim", "vocab_size_per_layer_input",
        "hidden_size_per_layer_input"), 8),
    **dict.fromkeys(("q_lora_rank", "query_pre_attn_scalar", "index_topk", "index_n_heads"), 16),
    "vocab_size": VOCABULARY, "initializer_range": 0.15, "init_std": 0.15, "attention_chunk_size": 5,
    "max_window_layers": 0,
    "first_k_dense_replace": 1, "is_decoder": True, "use_cache": True, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}  # fmt: skip


def build(kind: str):
    """A random model of this kind, in eval mode; whatever transformers raises where it cannot be that small."""
    from transformers import AutoConfig, AutoModelForCausalLM

    known = AutoConfig.for_model(kind).to_dict()
    config = AutoConfig.for_model(kind, **{k: v for k, v in SETTINGS.items() if k in known})
    for name in ("layer_types", "layers_block_type"):
        if isinstance(known.get(name), list) and len(known[name]) > 2:  # one layer of each kind, where there are two
            kinds = list(dict.fromkeys(known[name]))
            setattr(config, name, (kinds * 2)[:2])
    with torch.device("meta"):
        size = sum(p.numel() for p in AutoModelForCausalLM.from_config(copy.deepcopy(config)).parameters())
    if size > 3_000_000:
        raise ValueError(f"{kind} has {size} parameters at this size")
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
