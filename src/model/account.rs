//! What a model weighs: bytes by role, bytes that one token reads, and multiplications that it costs.

use super::{Binding, Manifest, ModelSpec, Part, Role};
use crate::gguf::Tensor;
use std::collections::BTreeMap;

/// Bytes of a model's weights, and what one token does with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Bytes of all tensors of a role.
    pub by_role: BTreeMap<Role, u64>,
    /// Bytes of each weight, in the manifest's order.
    pub by_binding: Vec<u64>,
    /// Bytes of weights that must be read to decode one token alone: of the experts only those a token is sent to,
    /// of an embedding that is not the head one row.
    pub read_per_token: u64,
    /// Multiplications by the weight matrices.
    pub macs: Macs,
}

/// Multiply-adds of one token with the weight matrices: of the experts only those it is sent to. Looking up the
/// embedding is none, and those of attention scores, which grow with the context, are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Macs {
    /// In all layers.
    pub layers: u64,
    /// The part of `layers` that follows the last layer's attention, and that a token whose logits nobody wants goes
    /// without: nothing reads what it would make.
    pub last: u64,
    /// In the head.
    pub head: u64,
}

impl Macs {
    /// Multiply-adds of `tokens` tokens, of which `logits` want theirs.
    pub fn of(self, tokens: u64, logits: u64) -> u64 {
        tokens * (self.layers - self.last) + logits * (self.last + self.head)
    }
}

impl Account {
    /// Adds up the tensors that [`Manifest::resolve`] found.
    pub fn new(spec: &ModelSpec, manifest: &Manifest, tensors: &[Vec<&Tensor>]) -> Account {
        let mut account = Account::default();
        for (binding, tensors) in manifest.bindings.iter().zip(tensors) {
            let bytes = binding.bytes(tensors);
            account.by_binding.push(bytes);
            *account.by_role.entry(binding.role).or_default() += bytes;
            account.read_per_token += read(spec, binding, bytes);
            account.macs.add(spec, binding);
        }
        account
    }

    /// Bytes of all weights.
    pub fn total(&self) -> u64 {
        self.by_role.values().sum()
    }
}

impl Macs {
    fn add(&mut self, spec: &ModelSpec, binding: &Binding) {
        if binding.dims.len() < 2 {
            return;
        }
        let macs = binding.active(spec, binding.dims.iter().product());
        match (binding.slot.layer, binding.role) {
            (None, Role::Embed) if spec.tied_head => self.head += macs,
            (None, Role::Head) => self.head += macs,
            (None, _) => {}
            (Some(layer), _) => {
                self.layers += macs;
                if layer + 1 == spec.layers.len() && !before_attention(binding.slot.part) {
                    self.last += macs;
                }
            }
        }
    }
}

/// Whether a matrix is multiplied with every token, whatever is wanted of it.
fn before_attention(part: Part) -> bool {
    use Part::*;
    matches!(part, Q | K | V | QA | QB | KvA)
}

fn read(spec: &ModelSpec, binding: &Binding, bytes: u64) -> u64 {
    match binding.role {
        Role::Embed if !spec.tied_head => bytes / spec.n_vocab as u64,
        Role::Table => 0,
        _ => binding.active(spec, bytes),
    }
}
