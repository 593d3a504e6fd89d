//! What can be wrong with what is to be converted.

use crate::gguf;
use std::path::{Path, PathBuf};

/// Why a model cannot be converted or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Of a GGUF file.
    #[error(transparent)]
    Gguf(#[from] gguf::Error),
    /// Of a configuration, or of a model that cannot be computed.
    #[error(transparent)]
    Model(#[from] crate::model::Error),
    /// The system refused.
    #[error("{}: cannot {doing}: {source}", file.display())]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// What was to be done.
        doing: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds what cannot be converted.
    #[error("{}: {thing}: found {found}, expected {expected}{}{next}", file.display(), if next.is_empty() { "" } else { "; " })]
    Bad {
        /// The file or folder.
        file: PathBuf,
        /// The key, tensor or part of it.
        thing: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
        /// What its user can do; may be empty.
        next: String,
    },
}

impl Error {
    /// The system refused to do something with a file.
    pub fn io(file: &Path, doing: &'static str, source: std::io::Error) -> Error {
        Error::Io { file: file.to_path_buf(), doing, source }
    }

    /// A file holds something that cannot be used.
    pub fn bad(
        file: &Path,
        thing: impl Into<String>,
        found: impl ToString,
        expected: impl Into<String>,
        next: impl Into<String>,
    ) -> Error {
        Error::Bad {
            file: file.to_path_buf(),
            thing: thing.into(),
            found: found.to_string(),
            expected: expected.into(),
            next: next.into(),
        }
    }
}
