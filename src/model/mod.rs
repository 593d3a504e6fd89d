//! What a model is: plain data read from a file's header. No arithmetic on tensor data, no file is opened here.
//!
//! [`ModelSpec`] says what the forward pass does, [`Manifest`] which tensors it does it with.
//! An architecture is one file of `arch/` that fills a spec; nothing above this module knows one by name.

mod account;
mod arch;
pub mod checkpoint;
mod error;
mod header;
mod manifest;
pub mod rope;
mod spec;

pub use account::{Account, Macs};
pub use arch::architectures;
pub use error::Error;
pub use header::{Header, Shapes};
pub use manifest::{Binding, Manifest, Part, Role, Slot, Source, computable, without_ones};
pub use spec::{
    Activation, Cached, ExpertGroups, Ffn, Gated, Gqa, Layer, Mixer, Mla, ModelSpec, Moe, Norm, NormKind, Pairs,
    Residual, RopeFactors, RopeScaling, RopeSpec, Router, Shared,
};
