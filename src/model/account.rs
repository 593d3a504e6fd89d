//! What a model weighs: bytes by role, and bytes that one token reads.

use super::{Binding, Manifest, ModelSpec, Role};
use crate::gguf::Tensor;
use std::collections::BTreeMap;

/// Bytes of a model's weights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Bytes of all tensors of a role.
    pub by_role: BTreeMap<Role, u64>,
    /// Bytes of weights that must be read to decode one token alone: of the experts only those a token is sent to,
    /// of an embedding that is not the head one row.
    pub read_per_token: u64,
}

impl Account {
    /// Adds up the tensors that [`Manifest::resolve`] found.
    pub fn new(spec: &ModelSpec, manifest: &Manifest, tensors: &[Vec<&Tensor>]) -> Account {
        let mut account = Account::default();
        for (binding, tensors) in manifest.bindings.iter().zip(tensors) {
            let bytes: u64 = tensors.iter().map(|t| t.bytes).sum();
            *account.by_role.entry(binding.role).or_default() += bytes;
            account.read_per_token += read(spec, binding, bytes);
        }
        account
    }

    /// Bytes of all weights.
    pub fn total(&self) -> u64 {
        self.by_role.values().sum()
    }
}

fn read(spec: &ModelSpec, binding: &Binding, bytes: u64) -> u64 {
    match binding.role {
        Role::Embed if !spec.tied_head => bytes / spec.n_vocab as u64,
        Role::Table => 0,
        _ => binding.active(spec, bytes),
    }
}
