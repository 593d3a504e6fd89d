//! What can go wrong on the way from an alias to a verified file.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// A failed operation of the registry.
#[derive(Debug, Error)]
pub enum Error {
    /// A models.toml that cannot be read or does not make sense.
    #[error("{file}: {reason}")]
    Catalogue {
        /// The file, or `models.toml (built in)`.
        file: String,
        /// Key or alias, what was found, what was expected.
        reason: String,
    },
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] IoAt),
    /// Not enough room, found out before the download.
    #[error(
        "{alias}: not enough disk space in {dir}: needs {} more, found {}: make room or set OSTRO_HOME to a folder on a larger disk",
        super::human_bytes(*.need), super::human_bytes(*.free)
    )]
    NoSpace {
        /// The entry.
        alias: String,
        /// The cache folder.
        dir: PathBuf,
        /// Bytes still to be written.
        need: u64,
        /// Bytes free for this user.
        free: u64,
    },
    /// Every source failed.
    #[error(
        "{alias}: no source worked: {reasons}; try again later, or give the path of a GGUF file instead of the alias, or add a source to your own models.toml"
    )]
    NoSource {
        /// The entry.
        alias: String,
        /// One reason a source.
        reasons: String,
    },
    /// Another process holds the entry.
    #[error("{alias}: another process is pulling it: wait for it to end, then try again")]
    Busy {
        /// The entry.
        alias: String,
    },
    /// Nothing to remove.
    #[error("{alias}: not in the cache {dir}: `ostro list` shows what is")]
    NotCached {
        /// The alias.
        alias: String,
        /// The folder that would hold it.
        dir: PathBuf,
    },
}

/// Why one source failed; the next one is tried.
#[derive(Debug, Error)]
pub enum SourceError {
    /// No answer, or the connection broke.
    #[error("{url}: {reason}")]
    Network {
        /// What was asked for.
        url: String,
        /// What the client said.
        reason: String,
    },
    /// An answer that is not the file.
    #[error("{url}: HTTP status {status}{hint}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: u16,
        /// What to do about it, or nothing.
        hint: &'static str,
    },
    /// A file of another length.
    #[error("{file}: size {found} bytes, expected {expected}: the file there is another one")]
    Size {
        /// The file.
        file: String,
        /// Its length.
        found: u64,
        /// The length in the catalogue or that the server stated.
        expected: u64,
    },
    /// A file of another content.
    #[error("{file}: sha256 {found}, expected {expected}: the download was thrown away")]
    Hash {
        /// The file.
        file: String,
        /// The hash of what came.
        found: String,
        /// The hash of the catalogue or of the Hub.
        expected: String,
    },
    /// The Hub does not say what the file must hash to, and neither does the catalogue.
    #[error("{url}: no sha256 in the catalogue, and the Hub states none: add one to models.toml")]
    NoHash {
        /// What was asked for.
        url: String,
    },
    /// pip failed.
    #[error("pip download {package}: {reason}")]
    Pip {
        /// name==version.
        package: String,
        /// pip's last words.
        reason: String,
    },
    /// A wheel that is not what the catalogue says.
    #[error("{wheel}: {reason}")]
    Wheel {
        /// The wheel.
        wheel: String,
        /// What was found and expected.
        reason: String,
    },
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] IoAt),
}

impl SourceError {
    /// Whether asking again may help.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Network { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500..=599),
            _ => false,
        }
    }
}

/// An I/O error with the path and the action it belongs to.
#[derive(Debug, Error)]
// The field is not called `source`: the system's words stand in this line, once.
#[error("{path}: {action}: {error}")]
pub struct IoAt {
    /// The file or folder.
    pub path: PathBuf,
    /// What was being done.
    pub action: &'static str,
    /// What the system said.
    pub error: io::Error,
}

impl IoAt {
    /// For `map_err`.
    pub(super) fn new(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self { path, action, error }
    }
}
