//! Block formats of ggml and the loops over them.
//!
//! This crate knows shapes and slices: no file, no layer, no token, no model.

mod acts;
mod attend;
pub mod block;
mod buf;
mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod dtype;
mod exec;
pub mod float;
#[cfg(feature = "ggml")]
pub mod ggml;
mod mat;
pub mod pool;
mod probe;
pub mod quantize;
mod rows;
pub mod synthetic;

pub use acts::{ActKinds, Acts};
pub use attend::{Attend, AttendScratch, attend};
pub use cpu::Cpu;
pub use dtype::DType;
pub use exec::{Exec, Groups, Product};
pub use float::{Activation, KvType, Pairs};
pub use mat::Mat;
pub use probe::ReadProbe;
