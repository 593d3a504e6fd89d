//! Checkpoints become sources: against the files of llama.cpp's own converter, in Mistral's own layout, and bad ones.

mod bad;
mod checkpoint;
#[path = "../common/mod.rs"]
mod common;
mod golden;
mod native;
mod variants;
