//! An emulated CUDA driver: PTX is executed on the CPU, instruction by instruction, and what it does is checked.
//!
//! Built as a library with the driver's C interface, it stands in for `libcuda.so.1` under an unmodified program. See README.md for
//! what it checks, its settings, and what it can not show.

mod api;
pub mod driver;
pub mod exec;
pub mod memory;
pub mod ptx;
pub mod settings;
pub mod stats;
