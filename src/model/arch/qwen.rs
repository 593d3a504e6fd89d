//! `qwen2`, `qwen2moe`, `qwen3`, `qwen3moe`: biases of query, key and value in the second generation, norms of query and
//! key heads in the third; both are told by the tensors.

use super::{Common, MAX_SIZE};
use crate::model::{Activation, Error, Ffn, Header, Layer, ModelSpec, Moe, Pairs, Shared};

pub(super) fn dense(h: &Header) -> Result<ModelSpec, Error> {
    spec(h, |c, i| Ok(c.gated(i, Activation::Silu)))
}

/// The second generation has a shared expert with a gate of its own, and does not renormalize the chosen weights.
pub(super) fn moe(h: &Header) -> Result<ModelSpec, Error> {
    let n_layers = h.usize("block_count")?;
    let widths = h.per_layer("expert_feed_forward_length", n_layers.min(MAX_SIZE), MAX_SIZE)?;
    let shared = h.opt_usize("expert_shared_feed_forward_length")?.filter(|&hidden| hidden > 0);
    spec(h, |c, i| {
        let n_active = h.size("expert_used_count", MAX_SIZE)?;
        let hidden = widths.as_ref().map_or(c.hidden[i] / n_active, |widths| widths[i]);
        let has_shared = h.has(&format!("blk.{i}.ffn_up_shexp.weight"));
        let shared = has_shared.then(|| Shared { hidden: shared.unwrap_or(c.hidden[i]), gated: true });
        let moe = c.moe(h, i, hidden)?.ok_or_else(|| h.bad("expert_count", 0, "experts"))?;
        Ok(Ffn::Moe(Moe { shared, renormalize: !has_shared, ..moe }))
    })
}

fn spec(h: &Header, ffn: impl Fn(&Common, usize) -> Result<Ffn, Error>) -> Result<ModelSpec, Error> {
    let c = Common::read(h)?;
    let layer = |i: usize| Ok(c.layer(c.gqa(h, i)?, ffn(&c, i)?));
    let layers = (0..c.n_layers).map(layer).collect::<Result<Vec<Layer>, Error>>()?;
    let rope = c.rope(h, Pairs::Halves)?;
    Ok(c.spec(h, vec![rope], layers))
}
