//! Loops over rows of f32: norms, activations, rope, softmax, and the conversions of the KV cache.
//!
//! Every function takes the [`Cpu`](crate::Cpu) whose instructions it may use. `scalar` in a file is what a loop
//! means; the vector form, one for all instruction sets, is right when it agrees with it. Nothing here allocates or
//! starts threads: whoever has many rows hands them out to a [`Team`](crate::pool::Team).

mod act;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod kv;
pub(crate) mod math;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
mod norm;
pub(crate) mod one;
mod rope;
pub(crate) mod simd;
mod softmax;
mod update;

#[cfg(test)]
pub(crate) mod check;

pub use act::{Activation, exp, gate, soft_cap};
pub use kv::KvType;
pub(crate) use kv::{F16, F32, Q8_0, Stored, load_row};
pub use norm::{layer_norm_in_place, rms_norm, rms_norm_in_place};
pub use rope::{Pairs, rope};
pub use softmax::softmax;
pub use update::{add_assign, mul_add, scale};
