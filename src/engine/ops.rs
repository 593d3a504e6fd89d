//! What a device does: the seam between the forward pass, which follows the spec, and the devices that compute.
//!
//! A device has rows of its own for a batch, which the forward pass names, and its own part of the cache. The residual is the only
//! thing that goes from one device to another.

use super::batch::{BatchToken, Run};
use super::{Error, SeqId};
use crate::model::{Activation, Cached, Gqa, Mla, Moe, Norm, Part};
use ostro_kernels::Groups;
use std::ops::Range;

/// Rows of a batch on a device, one a token unless it is said otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub(super) enum Rows {
    /// The residual stream, `[n, dim]`.
    X,
    /// The normalized input of a part, then its output, `[n, dim]`.
    H,
    /// Queries, `[n, n_heads, head_dim]`.
    Q,
    /// What queries are made from where they have a latent of their own, `[n, q_rank]`.
    QLatent,
    /// Keys, `[n, n_kv_heads, head_dim]`; or latents, each with its rotated key, `[n, kv_rank + rope_dim]`.
    K,
    /// Values, `[n, n_kv_heads, v_dim]`.
    V,
    /// What attention gives, `[n, n_heads, v_dim]`.
    Att,
    /// Inner activations, `[n or pairs, hidden]`.
    Hidden,
    /// The router's logits, `[n, n_experts]`.
    Router,
    /// What the network gives that every token goes through beside the experts, `[n, dim]`.
    Shared,
    /// Logits of the tokens that want them, `[wanted, n_vocab]`.
    Logits,
}

/// Which layer's weights are meant, or the model's own.
pub(super) type At = Option<usize>;

/// Keys or values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Half {
    Keys,
    Values,
}

/// A device. Shapes follow from the spec; `n` is the rows at hand.
pub(super) trait Ops {
    /// Makes ready for a batch: the angles of its positions. `exact`: each token's results have the bits that it would have
    /// alone.
    fn begin(&mut self, batch: &[BatchToken], exact: bool) -> Result<(), Error>;

    /// `X` = the tokens' embeddings.
    fn embed(&mut self, batch: &[BatchToken]) -> Result<(), Error>;

    /// `to = norm(from)`, in rows as wide as the weight; both may be the same.
    fn norm(&mut self, at: At, part: Part, norm: Norm, from: Rows, to: Rows, n: usize) -> Result<(), Error>;

    /// Makes rows ready to be multiplied with some matrices of a layer.
    fn quantize(&mut self, at: At, from: Rows, parts: &[Part], n: usize) -> Result<(), Error>;

    /// Products of the rows that were made ready last.
    fn matmul(&mut self, at: At, products: &[(Part, Rows)]) -> Result<(), Error>;

    /// `rows += bias`.
    fn bias(&mut self, at: At, part: Part, rows: Rows, n: usize) -> Result<(), Error>;

    /// Normalizes each query (`Rows::Q`) or key (`Rows::K`) head where the layer says so, and rotates it.
    fn rotate(&mut self, layer: usize, a: &Gqa, rows: Rows, n: usize) -> Result<(), Error>;

    /// Normalizes the latents (`Rows::K`), and rotates the ends of these and of each query head.
    fn latent(&mut self, layer: usize, a: &Mla, n: usize) -> Result<(), Error>;

    /// Keys and values of a run's tokens to the cache.
    fn store(&mut self, layer: usize, cached: Cached, run: Run) -> Result<(), Error>;

    /// Attention of a run's tokens over the cache, to `Rows::Att`.
    fn attend(&mut self, layer: usize, a: &Gqa, run: Run) -> Result<(), Error>;

    /// [`Ops::attend`] of latent attention: over the latents in the cache, whose keys and values are made of them.
    fn attend_latent(&mut self, layer: usize, a: &Mla, run: Run) -> Result<(), Error>;

    /// `hidden = act(gate) * up` of the rows that were made ready last, with two matrices.
    fn gated(&mut self, layer: usize, parts: [Part; 2], act: Activation, hidden: usize) -> Result<(), Error>;

    /// Multiplies each row of `Rows::Shared` by the sigmoid of the product of its token's `Rows::H` with the layer's vector.
    fn gate_shared(&mut self, layer: usize, n: usize) -> Result<(), Error>;

    /// Chooses the experts of each token by `Rows::Router`.
    fn route(&mut self, layer: usize, m: &Moe, n: usize) -> Result<(), Error>;

    /// `hidden = act(gate) * up` of each token's `Rows::H`, made ready before, and each expert that it goes to, `[pairs, hidden]`.
    fn gated_experts(&mut self, layer: usize, m: &Moe, n: usize) -> Result<(), Error>;

    /// The down projection of the pairs that were made ready last, summed by token under the router's weights to `Rows::H`.
    fn combine_experts(&mut self, layer: usize, m: &Moe, n: usize) -> Result<(), Error>;

    /// `to += from`, `[n, dim]`.
    fn add(&mut self, to: Rows, from: Rows, n: usize) -> Result<(), Error>;

    /// Moves the rows `keep` (ascending) to the front, `width` floats each.
    fn keep(&mut self, rows: Rows, width: usize, keep: &[usize]) -> Result<(), Error>;

    /// Scales and caps `n` rows of logits, and has them ready for [`Ops::logits`].
    fn finish(&mut self, n: usize) -> Result<(), Error>;

    /// The first `len` logits of the last step.
    fn logits(&self, len: usize) -> &[f32];

    /// The first `len` floats of some rows.
    fn read(&mut self, rows: Rows, len: usize) -> Result<&[f32], Error>;

    /// Replaces the first floats of some rows.
    fn write(&mut self, rows: Rows, values: &[f32]) -> Result<(), Error>;

    /// Which pairs of token and expert the router made; `own`: each pair reads a row of its own.
    fn groups(&mut self, m: &Moe, n: usize, own: bool) -> Result<Groups<'_>, Error>;

    /// Forgets the positions `gone` of a sequence in this device's layers and moves those up to `held` down.
    fn remove(&mut self, seq: SeqId, gone: Range<usize>, held: usize) -> Result<(), Error>;

    /// The cached rows of the first `n` positions, head after head.
    fn cache(&self, layer: usize, seq: SeqId, half: Half, n: usize) -> Result<Vec<u8>, Error>;

    /// Replaces them.
    fn set_cache(&mut self, layer: usize, seq: SeqId, half: Half, n: usize, bytes: &[u8]) -> Result<(), Error>;
}
