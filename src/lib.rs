//! Ostro: a local runner for large language models in GGUF files.

#![deny(unsafe_code)]

pub mod gguf;
pub mod tokenizer;
