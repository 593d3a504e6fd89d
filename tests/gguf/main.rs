//! The GGUF layer from outside, and what `ostro inspect` says about a file: bad files, split sets, values, the writer, made-up bytes, and real files.

mod bad;
#[path = "../common/mod.rs"]
mod common;
mod fuzz;
mod inspect;
mod raw;
mod reference;
mod split;
mod values;
mod writer;
