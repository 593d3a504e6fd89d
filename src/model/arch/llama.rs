//! `llama`: Llama 2, 3 and 3.1, Mistral, Mixtral, SmolLM and what else was trained in their shape.

use super::{Common, MAX_SIZE};
use crate::model::{Activation, Error, Ffn, Gqa, Header, ModelSpec, Pairs};

pub(super) fn spec(h: &Header) -> Result<ModelSpec, Error> {
    let c = Common::read(h)?;
    let window = match h.opt_usize("attention.sliding_window")? {
        Some(0) | None => None,
        Some(_) => Some(h.size("attention.sliding_window", MAX_SIZE)?),
    };
    let layer = |i: usize| {
        let ffn = match c.moe(h, i, c.hidden[i])? {
            Some(moe) => Ffn::Moe(moe),
            None => c.gated(i, Activation::Silu),
        };
        Ok(c.layer(Gqa { window, qk_norm: None, ..c.gqa(h, i)? }, ffn))
    };
    let layers = (0..c.n_layers).map(layer).collect::<Result<_, Error>>()?;
    let rope = c.rope(h, Pairs::Adjacent)?;
    Ok(c.spec(h, vec![rope], layers))
}
