//! `phi3`: Phi 3, 3.5 and 4: query, key and value in one tensor, gate and up in another; the angles of long contexts from a
//! table.

use super::{Common, MAX_SIZE};
use crate::model::{Activation, Error, Ffn, Gated, Gqa, Header, ModelSpec, Pairs};

pub(super) fn spec(h: &Header) -> Result<ModelSpec, Error> {
    let c = Common::read(h)?;
    // Phi 4 writes 0 for none.
    let window = h.opt_usize("attention.sliding_window")?.filter(|window| (1..=MAX_SIZE).contains(window));
    let layer = |i: usize| {
        let fused = !h.has(&format!("blk.{i}.ffn_gate.weight"));
        let ffn = Ffn::Gated(Gated { hidden: c.hidden[i], act: Activation::Silu, fused });
        Ok(c.layer(Gqa { window, ..c.gqa(h, i)? }, ffn))
    };
    let layers = (0..c.n_layers).map(layer).collect::<Result<_, Error>>()?;
    let rope = c.rope(h, Pairs::Halves)?;
    Ok(c.spec(h, vec![rope], layers))
}
