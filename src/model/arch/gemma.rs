//! `gemma2` and `gemma3`: layers of a sliding window between layers of full attention, and a norm after each part.

use super::{Common, MAX_SIZE, local_layers, rope_base};
use crate::model::{Activation, Error, Gqa, Header, Layer, ModelSpec, Pairs, RopeScaling, RopeSpec};

/// Every second layer sees all; scores and logits are capped.
pub(super) fn gemma2(h: &Header) -> Result<ModelSpec, Error> {
    let c = Common::read(h)?;
    let window = h.opt_usize("attention.sliding_window")?.unwrap_or(4096).clamp(1, MAX_SIZE);
    let softcap = capped(h, "attn_logit_softcapping", Some(50.0))?;
    let scale = scale(h, &c)?;
    let layers = layers(h, &c, window, 2, |gqa, _| Gqa { softcap, scale, qk_norm: None, ..gqa })?;
    let rope = c.rope(h, Pairs::Halves)?;
    finish(h, c, vec![rope], layers, Some(30.0))
}

/// Every sixth layer sees all, and each kind has its own rotary base.
pub(super) fn gemma3(h: &Header) -> Result<ModelSpec, Error> {
    let c = Common::read(h)?;
    let window = h.size("attention.sliding_window", MAX_SIZE)?;
    let scale = scale(h, &c)?;
    let qk_norm = Some(c.norm);
    let layers = layers(h, &c, window, 6, |gqa, local| Gqa { rope: Some(usize::from(local)), scale, qk_norm, ..gqa })?;
    let full = RopeSpec { base: rope_base(h, "rope.freq_base", 1_000_000.0)?, ..c.rope(h, Pairs::Halves)? };
    let near = RopeSpec { base: rope_base(h, "rope.freq_base_swa", 10_000.0)?, scaling: RopeScaling::None, ..full };
    finish(h, c, vec![full, near], layers, None)
}

/// `query_pre_attn_scalar` does not travel in the file: it is the head's width, except in the 27B models, the only ones whose
/// heads are 128 wide, where it is the width of the model divided among the heads.
fn scale(h: &Header, c: &Common) -> Result<f32, Error> {
    let scalar = if c.head_dim == 128 { c.dim / c.n_heads[0] } else { c.head_dim };
    Ok(h.opt_f32("attention.scale")?.unwrap_or(1.0 / (scalar as f32).sqrt()))
}

/// A cap, or what it is where the file does not say.
fn capped(h: &Header, key: &str, default: Option<f32>) -> Result<Option<f32>, Error> {
    Ok(h.opt_f32(key)?.or(default).filter(|&cap| cap > 0.0))
}

fn layers(
    h: &Header,
    c: &Common,
    window: usize,
    period: usize,
    of: impl Fn(Gqa, bool) -> Gqa,
) -> Result<Vec<Layer>, Error> {
    let layer = |(i, local): (usize, bool)| {
        let gqa = Gqa { window: local.then_some(window), ..c.gqa(h, i)? };
        Ok(Layer { post_norm: Some(c.norm), ..c.layer(of(gqa, local), c.gated(i, Activation::GeluTanh)) })
    };
    local_layers(h, c.n_layers, period)?.into_iter().enumerate().map(layer).collect()
}

fn finish(
    h: &Header,
    c: Common,
    ropes: Vec<RopeSpec>,
    layers: Vec<Layer>,
    cap: Option<f32>,
) -> Result<ModelSpec, Error> {
    let (embed_scale, logit_softcap) = ((c.dim as f32).sqrt(), capped(h, "final_logit_softcapping", cap)?);
    Ok(ModelSpec { embed_scale, logit_softcap, ..c.spec(h, ropes, layers) })
}
