//! The part of `ostro inspect` that follows from the model's spec: roles, and bytes that a token costs.

use crate::engine::KvTypes;
use crate::gguf::Gguf;
use crate::model::{Account, Error, Manifest, ModelSpec};
use ostro_kernels::KvType;
use serde_json::json;

/// What a model weighs, from its header.
pub(super) struct ModelSummary {
    spec: ModelSpec,
    parameters: u64,
    active: u64,
    account: Account,
}

impl ModelSummary {
    /// # Errors
    /// A header that does not describe a model that can be run.
    pub fn read(gguf: &Gguf) -> Result<ModelSummary, Error> {
        let (spec, _) = ModelSpec::from_gguf(gguf)?;
        let manifest = Manifest::new(&spec, gguf);
        let account = Account::new(&spec, &manifest, &manifest.resolve(&spec, gguf)?);
        Ok(ModelSummary { parameters: manifest.parameters(), active: manifest.active_parameters(&spec), account, spec })
    }

    /// Rows of name, number and unit.
    pub fn rows(&self) -> Vec<(String, u64, &'static str)> {
        let role = |(role, &bytes): (_, &u64)| (format!("{role:?}").to_lowercase(), bytes, "bytes");
        let mut rows = vec![
            ("parameters".to_owned(), self.parameters, ""),
            ("used for a token".to_owned(), self.active, ""),
            ("context".to_owned(), self.spec.context as u64, "tokens"),
        ];
        rows.extend(self.account.by_role.iter().map(role));
        rows.push(("all weights".to_owned(), self.account.total(), "bytes"));
        rows.push(("read for a token".to_owned(), self.account.read_per_token, "bytes"));
        rows.extend(self.kv().map(|(name, bytes)| (format!("cache {name}"), bytes, "bytes a token")));
        rows
    }

    pub fn json(&self) -> serde_json::Value {
        let kv: serde_json::Map<_, _> = self.kv().map(|(name, bytes)| (name.to_owned(), bytes.into())).collect();
        json!({
            "architecture": self.spec.arch,
            "parameters": self.parameters,
            "active_parameters": self.active,
            "layers": self.spec.layers.len(),
            "context": self.spec.context,
            "bytes_by_role": self.account.by_role,
            "bytes_read_per_token": self.account.read_per_token,
            "kv_bytes_per_token": kv,
        })
    }

    fn kv(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [("f32", KvType::F32), ("f16", KvType::F16), ("q8_0", KvType::Q8_0)]
            .into_iter()
            .map(|(name, kind)| (name, KvTypes { k: kind, v: kind }.bytes_per_token(&self.spec) as u64))
    }
}
