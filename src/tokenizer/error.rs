//! What can be wrong with the vocabulary of a file.

use std::path::PathBuf;

use crate::gguf;

/// A vocabulary that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key is missing or has the wrong type.
    #[error(transparent)]
    Metadata(#[from] gguf::Error),
    /// `tokenizer.ggml.model` names a kind of tokenizer that we do not have.
    #[error(
        "{file}: tokenizer.ggml.model: found {found:?}, expected one of {supported}; it needs a newer ostro",
        file = .file.display()
    )]
    Model {
        /// The file.
        file: PathBuf,
        /// The name in the file.
        found: String,
        /// The names that work.
        supported: String,
    },
    /// `tokenizer.ggml.pre` names a pre-tokenizer that we do not have.
    #[error(
        "{file}: tokenizer.ggml.pre: found {found:?}, which needs a newer ostro; expected one of {known}",
        file = .file.display()
    )]
    Pre {
        /// The file.
        file: PathBuf,
        /// The name in the file.
        found: String,
        /// The names that work.
        known: String,
    },
    /// An array has another length than the list of tokens, or an entry that cannot be.
    #[error("{file}: {key}: found {found}, expected {expected}; convert the model again with a current converter", file = .file.display())]
    Value {
        /// The file.
        file: PathBuf,
        /// The metadata key.
        key: &'static str,
        /// What the file has.
        found: String,
        /// What it should have.
        expected: String,
    },
}
