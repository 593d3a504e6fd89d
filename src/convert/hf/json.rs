//! The JSON files of a checkpoint.

use super::super::Error;
use crate::model::checkpoint::Config;
use serde::de::DeserializeOwned;
use std::io::ErrorKind;
use std::path::Path;

/// The text of a file; `None` when there is no such file.
pub(super) fn text(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(path, "read the file", e)),
    }
}

/// What a JSON file holds; `None` when there is no such file.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let Some(text) = text(path)? else { return Ok(None) };
    let parsed = serde_json::from_str(&text);
    parsed.map(Some).map_err(|e| Error::bad(path, "JSON", e, "a file as its writer makes it", AGAIN))
}

/// A JSON file that holds an object; `None` when there is no such file.
pub(super) fn object(path: &Path) -> Result<Option<Config>, Error> {
    Ok(read(path)?.map(|map| Config::new(path, map)))
}

/// What to do about a file that is not whole.
pub(super) const AGAIN: &str = "download it again";
