//! `command-r` (Command R, R+) and `cohere2` (Command R7B, Command A): both parts of a layer read the same norm.

use super::{Common, MAX_SIZE, local_layers};
use crate::model::{Activation, Error, Gqa, Header, Layer, ModelSpec, Pairs, Residual};

/// R+ normalizes query and key heads, each with weights of its own.
pub(super) fn command_r(h: &Header) -> Result<ModelSpec, Error> {
    let c = Common::read(h)?;
    spec(h, c, |gqa, _| Gqa { norm_by_head: true, ..gqa })
}

/// Three layers of a window, then one that sees all and does not mark positions.
pub(super) fn cohere2(h: &Header) -> Result<ModelSpec, Error> {
    let c = Common::read(h)?;
    let window = h.size("attention.sliding_window", MAX_SIZE)?;
    let local = local_layers(h, c.n_layers, 4)?;
    spec(h, c, |gqa, i| match local[i] {
        true => Gqa { window: Some(window), ..gqa },
        false => Gqa { rope: None, ..gqa },
    })
}

fn spec(h: &Header, c: Common, of: impl Fn(Gqa, usize) -> Gqa) -> Result<ModelSpec, Error> {
    let layer = |i: usize| {
        let layer = c.layer(of(c.gqa(h, i)?, i), c.gated(i, Activation::Silu));
        Ok(Layer { residual: Residual::Parallel, ..layer })
    };
    let layers = (0..c.n_layers).map(layer).collect::<Result<_, Error>>()?;
    let rope = c.rope(h, Pairs::Adjacent)?;
    let logit_scale = h.opt_f32("logit_scale")?.filter(|&scale| scale != 0.0).unwrap_or(1.0);
    Ok(ModelSpec { logit_scale, ..c.spec(h, vec![rope], layers) })
}
