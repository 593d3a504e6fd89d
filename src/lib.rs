//! Ostro: a local runner for large language models in GGUF files.
