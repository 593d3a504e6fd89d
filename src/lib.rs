//! Ostro: a local runner for large language models in GGUF files.

#![deny(unsafe_code)]

pub mod chat;
pub mod commands;
pub mod convert;
pub mod engine;
pub mod generate;
pub mod gguf;
pub mod model;
pub mod placement;
pub mod registry;
pub mod sample;
pub mod tokenizer;
