//! Checkpoints that become `deepseek2`. What makes keys and values of the latent is split in two, the keys' part turned round.

use crate::gguf::Value;
use crate::model::Error;
use crate::model::checkpoint::How::{Expert, Experts, GateAndUp, KeysAndValues, Named, Same};
use crate::model::checkpoint::{Checkpoint, Config, Keys, Name, Rotary, Vocabulary, name};

pub(super) const DEEPSEEK_V2: Checkpoint = Checkpoint {
    classes: &["DeepseekV2ForCausalLM"],
    arch: "deepseek2",
    complete: complete_2,
    names: NAMES,
    cut_layers: true,
    keys,
    tokenizers: &[Vocabulary::Bytes],
    pre: &["deepseek-llm", "deepseek-v3", "deepseek-coder"],
    ..Checkpoint::PLAIN
};

pub(super) const DEEPSEEK_V3: Checkpoint =
    Checkpoint { classes: &["DeepseekV3ForCausalLM"], complete: complete_3, ..DEEPSEEK_V2 };

const NAMES: &[Name] = &[
    name("model.embed_tokens", "token_embd", Same),
    name("model.norm", "output_norm", Same),
    name("lm_head", "output", Same),
    name("model.layers.{l}.input_layernorm", "blk.{l}.attn_norm", Same),
    name("model.layers.{l}.self_attn.q_proj", "blk.{l}.attn_q", Same),
    name("model.layers.{l}.self_attn.q_a_proj", "blk.{l}.attn_q_a", Same),
    name("model.layers.{l}.self_attn.q_a_layernorm", "blk.{l}.attn_q_a_norm", Same),
    name("model.layers.{l}.self_attn.q_b_proj", "blk.{l}.attn_q_b", Same),
    name("model.layers.{l}.self_attn.kv_a_proj_with_mqa", "blk.{l}.attn_kv_a_mqa", Same),
    name("model.layers.{l}.self_attn.kv_a_layernorm", "blk.{l}.attn_kv_a_norm", Same),
    name("model.layers.{l}.self_attn.kv_b_proj", "blk.{l}.attn_k_b", KeysAndValues("blk.{l}.attn_v_b")),
    name("model.layers.{l}.self_attn.o_proj", "blk.{l}.attn_output", Same),
    name("model.layers.{l}.post_attention_layernorm", "blk.{l}.ffn_norm", Same),
    name("model.layers.{l}.mlp.gate_proj", "blk.{l}.ffn_gate", Same),
    name("model.layers.{l}.mlp.down_proj", "blk.{l}.ffn_down", Same),
    name("model.layers.{l}.mlp.up_proj", "blk.{l}.ffn_up", Same),
    name("model.layers.{l}.mlp.gate", "blk.{l}.ffn_gate_inp", Same),
    name("model.layers.{l}.mlp.gate.e_score_correction_bias", "blk.{l}.exp_probs_b.bias", Named),
    name("model.layers.{l}.mlp.experts.{e}.down_proj", "blk.{l}.ffn_down_exps", Expert),
    name("model.layers.{l}.mlp.experts.{e}.gate_proj", "blk.{l}.ffn_gate_exps", Expert),
    name("model.layers.{l}.mlp.experts.{e}.up_proj", "blk.{l}.ffn_up_exps", Expert),
    name("model.layers.{l}.mlp.experts.gate_up_proj", "blk.{l}.ffn_gate_exps", GateAndUp("blk.{l}.ffn_up_exps")),
    name("model.layers.{l}.mlp.experts.down_proj", "blk.{l}.ffn_down_exps", Experts),
    name("model.layers.{l}.mlp.shared_experts.gate_proj", "blk.{l}.ffn_gate_shexp", Same),
    name("model.layers.{l}.mlp.shared_experts.down_proj", "blk.{l}.ffn_down_shexp", Same),
    name("model.layers.{l}.mlp.shared_experts.up_proj", "blk.{l}.ffn_up_shexp", Same),
];

fn complete(c: &mut Config) -> Result<(), Error> {
    c.assume("rms_norm_eps", 1e-6);
    c.assume("rope_theta", 10000.0);
    // The smaller ones say that they have none.
    if !c.is_null("q_lora_rank") {
        c.assume("q_lora_rank", 1536);
    }
    c.assume("kv_lora_rank", 512);
    c.assume("qk_nope_head_dim", 128);
    c.assume("qk_rope_head_dim", 64);
    c.assume("v_head_dim", 128);
    let rotated = c.require_u32(&["qk_rope_head_dim"])?;
    c.assume("head_dim", rotated);
    // The latent is one head that all share.
    c.set("num_key_value_heads", 1);
    Ok(())
}

fn complete_2(c: &mut Config) -> Result<(), Error> {
    c.assume("vocab_size", 102_400);
    c.assume("hidden_size", 4096);
    c.assume("intermediate_size", 11008);
    c.assume("moe_intermediate_size", 1407);
    c.assume("num_hidden_layers", 32);
    c.assume("num_attention_heads", 32);
    c.assume("max_position_embeddings", 2048);
    c.assume("n_routed_experts", 64);
    c.assume("n_shared_experts", 2);
    c.assume("routed_scaling_factor", 1.0);
    complete(c)
}

fn complete_3(c: &mut Config) -> Result<(), Error> {
    c.assume("vocab_size", 129_280);
    c.assume("hidden_size", 7168);
    c.assume("intermediate_size", 18432);
    c.assume("moe_intermediate_size", 2048);
    c.assume("num_hidden_layers", 61);
    c.assume("num_attention_heads", 128);
    c.assume("max_position_embeddings", 4096);
    c.assume("n_routed_experts", 256);
    c.assume("n_shared_experts", 1);
    c.assume("num_experts_per_tok", 8);
    c.assume("n_group", 8);
    c.assume("topk_group", 4);
    c.assume("first_k_dense_replace", 3);
    c.assume("norm_topk_prob", true);
    c.assume("routed_scaling_factor", 2.5);
    c.assume("scoring_func", "sigmoid");
    complete(c)
}

fn keys(c: &Config, rotary: &Rotary, keys: &mut Keys) -> Result<(), Error> {
    let need = |key| c.require_u32(&[key]);
    let (rank, nope, rotated) = (need("kv_lora_rank")?, need("qk_nope_head_dim")?, need("qk_rope_head_dim")?);
    keys.u32("leading_dense_block_count", Some(c.u32(&["first_k_dense_replace"])?.unwrap_or(0)));
    keys.u32("vocab_size", c.u32(&["vocab_size"])?);
    keys.u32("attention.q_lora_rank", c.u32(&["q_lora_rank"])?);
    keys.u32("attention.kv_lora_rank", Some(rank));
    keys.u32("attention.key_length", rank.checked_add(rotated));
    keys.u32("attention.value_length", Some(rank));
    keys.u32("attention.key_length_mla", nope.checked_add(rotated));
    keys.u32("attention.value_length_mla", c.u32(&["v_head_dim"])?);
    keys.u32("expert_feed_forward_length", c.u32(&["moe_intermediate_size"])?);
    keys.u32("expert_shared_count", c.u32(&["n_shared_experts"])?);
    keys.f32("expert_weights_scale", c.f32(&["routed_scaling_factor"])?);
    if c.bool("norm_topk_prob")? == Some(true) {
        keys.own("expert_weights_norm", Some(Value::Bool(true)));
    }
    keys.u32("rope.dimension_count", Some(rotated));
    let multiplier = rotary.scaling.f64("mscale_all_dim")?;
    keys.f32("rope.scaling.yarn_log_multiplier", multiplier.map(|m| (0.1 * m) as f32));
    Ok(())
}
