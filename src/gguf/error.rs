//! What can be wrong with a file: one line each, naming file, thing, found, expected and the next step.

use std::io;
use std::path::{Path, PathBuf};

use super::value::shown;

/// Why a GGUF file could not be opened, or a metadata value not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file system refused.
    #[error("{}: cannot {action}: {}{}", name(file), plain(reason), hint(reason, action))]
    Io {
        /// The file.
        file: PathBuf,
        /// What was tried: `open the file`.
        action: &'static str,
        /// The system's answer; not a `source`, as the message has it already.
        reason: io::Error,
    },
    /// A directory, a pipe or a device.
    #[error("{}: found {found}, expected a GGUF file; give the path of the file itself", name(file))]
    NotAFile {
        /// The path.
        file: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// The bytes are not a sound GGUF file.
    #[error("{}: {fault}", name(file))]
    Parse {
        /// The file.
        file: PathBuf,
        /// What is wrong with the bytes.
        fault: Box<Fault>,
    },
    /// Parts of a split set that contradict each other, or are not there.
    #[error("{}: {thing}: found {found}, expected {expected}; {next}", name(file))]
    Split {
        /// The part.
        file: PathBuf,
        /// The key or the property.
        thing: String,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
        /// What to do.
        next: String,
    },
    /// Something that no GGUF file can hold was to be written.
    #[error("{}: {thing}: found {found}, expected {expected}", name(file))]
    Write {
        /// The file.
        file: PathBuf,
        /// Tensor or key.
        thing: String,
        /// What was given.
        found: String,
        /// What should have been given.
        expected: String,
    },
    /// A metadata key that is needed is not there.
    #[error(
        "{}: key {}: found nothing, expected {expected}; convert the model again with a current converter",
        name(file),
        shown(key)
    )]
    MissingKey {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// The type that was wanted.
        expected: &'static str,
    },
    /// A metadata value of another type, or out of range.
    #[error(
        "{}: key {}: found {found}, expected {expected}; convert the model again with a current converter",
        name(file),
        shown(key)
    )]
    Value {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// Type and value in the file.
        found: String,
        /// What was wanted.
        expected: String,
    },
}

/// What is wrong with the bytes of one file; [`Error::Parse`] puts the file's name before it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// No byte at all.
    #[error("size: found 0 bytes, expected a GGUF file; download it again")]
    Empty,
    /// Another kind of file.
    #[error("magic: found {found}, expected \"GGUF\"; {next}")]
    NotGguf {
        /// The first bytes, and what they look like.
        found: String,
        /// What to do with such a file.
        next: &'static str,
    },
    /// A big-endian file.
    #[error(
        "byte order: found a big-endian file of version {version}, expected little-endian; \
         turn it around with gguf-py's gguf_convert_endian.py, or download the little-endian file"
    )]
    BigEndian {
        /// The version, read in the file's own byte order.
        version: u32,
    },
    /// A version that is not 2 or 3.
    #[error("version: found {version}, expected 2 or 3; {}", version_hint(*version))]
    Version {
        /// The version.
        version: u32,
    },
    /// An alignment that no header can be padded to.
    #[error("key general.alignment: found {found}, expected a power of two; convert the model again")]
    Alignment {
        /// Type and value.
        found: String,
    },
    /// More tensors, keys or elements than the rest of the file can hold.
    #[error("{thing}: found a count of {count} at byte {at}, expected at most {max} in a file of {has} bytes; {CUT}")]
    Count {
        /// What is counted.
        thing: String,
        /// Where the count stands.
        at: u64,
        /// The count.
        count: u64,
        /// The most that fits.
        max: u64,
        /// Bytes of the file.
        has: u64,
    },
    /// The header goes on past the end of the file.
    #[error("{thing}: found the end of the file after {has} bytes, expected {needs} more bytes at byte {at}; {CUT}")]
    Short {
        /// What was being read.
        thing: String,
        /// Where it starts.
        at: u64,
        /// Bytes it needs.
        needs: u64,
        /// Bytes of the file.
        has: u64,
    },
    /// A tensor's data goes on past the end of the file.
    #[error(
        "tensor {}: data ends at byte {end}, the file has {has}; the file is truncated: download it again",
        shown(tensor)
    )]
    PastEnd {
        /// The tensor.
        tensor: String,
        /// One past its last byte.
        end: u64,
        /// Bytes of the file.
        has: u64,
    },
    /// A tensor of a type that does not exist, or not any more.
    #[error("tensor {}: found type {id}{}, expected a ggml type of today; {}", shown(tensor), removed_name(*removed), type_hint(*removed))]
    Type {
        /// The tensor.
        tensor: String,
        /// The type's id.
        id: u32,
        /// Its name, if ggml once had it.
        removed: Option<&'static str>,
    },
    /// Two tensors that claim the same bytes.
    #[error(
        "tensor {}: found its data to start at byte {start}, expected byte {free} or later, where the data of tensor {} ends; {DAMAGED}",
        shown(tensor),
        shown(other)
    )]
    Overlap {
        /// The later tensor.
        tensor: String,
        /// The tensor before it.
        other: String,
        /// Where the later one starts.
        start: u64,
        /// Where the earlier one ends.
        free: u64,
    },
    /// Any other value that cannot be.
    #[error("{thing}: found {found} at byte {at}, expected {expected}; {DAMAGED}")]
    Bad {
        /// Key, tensor or part of the header.
        thing: String,
        /// Where it stands.
        at: u64,
        /// What is there.
        found: String,
        /// What should be there.
        expected: String,
    },
}

/// What was tried when a map failed.
pub(super) const MAP: &str = "map the file";

const CUT: &str = "the file is truncated or damaged: download it again";
const DAMAGED: &str = "the file is damaged: download or convert it again";

impl Error {
    pub(super) fn io(file: &Path, action: &'static str, reason: io::Error) -> Error {
        Error::Io { file: file.to_path_buf(), action, reason }
    }
}

/// A path on one line.
pub(super) fn name(file: &Path) -> String {
    file.to_string_lossy()
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

/// The system's message in our style: lower case, without the error number.
pub(super) fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file".into(),
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ => {
            let text = error.to_string();
            let text = text.split(" (os error").next().unwrap_or_default();
            text.chars().next().map(|c| c.to_lowercase().chain(text.chars().skip(1)).collect()).unwrap_or_default()
        }
    }
}

fn hint(error: &io::Error, action: &str) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => ", expected a GGUF file; check the path",
        io::ErrorKind::PermissionDenied => ", expected a readable file; change its permissions or its owner",
        io::ErrorKind::OutOfMemory if action == MAP => "; raise the limit with `ulimit -v unlimited`",
        io::ErrorKind::OutOfMemory => "; the file does not fit in memory: leave out --no-mmap",
        _ => "",
    }
}

fn version_hint(version: u32) -> &'static str {
    match version {
        1 => "convert the model again with a current converter",
        0 => DAMAGED,
        _ => "a newer release may read it",
    }
}

fn removed_name(removed: Option<&'static str>) -> String {
    removed.map(|name| format!(" ({name}, which ggml has removed)")).unwrap_or_default()
}

fn type_hint(removed: Option<&'static str>) -> &'static str {
    match removed {
        Some(_) => "quantize the model again, or download a newer file of it",
        None => "the file is damaged, or a newer release may read it",
    }
}
