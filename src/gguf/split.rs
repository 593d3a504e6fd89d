//! Split sets: `NAME-00001-of-00003.gguf` and its sisters, as llama.cpp's `gguf-split` writes them.
//!
//! The first part has all metadata; each part has `split.no` (from 0), `split.count` and `split.tensors.count`, and
//! its own tensors. Source: `tools/gguf-split` and `llama_split_path` of llama.cpp.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Error, Metadata, Tensor, shown};

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// A split set, known by its first part.
pub(super) struct Set {
    first: PathBuf,
    /// The name before `-00001-of-`, with the folder.
    stem: PathBuf,
    count: u32,
    tensors: Option<u64>,
}

impl Set {
    /// The set that `path` is the first part of; `None` for a file that is not split.
    pub(super) fn of_first(path: &Path, metadata: &Metadata) -> Result<Option<Set>, Error> {
        let no = metadata.u32(NO)?.unwrap_or(0);
        let count = metadata.u32(COUNT)?.unwrap_or(0);
        let tensors = metadata.u64(TENSORS)?;
        if count <= 1 && no == 0 {
            return Ok(None);
        }
        // Both are u16 in the files of llama.cpp, and five digits in the name.
        if count > 0xffff || no >= count {
            let found = format!("{no} of {count}");
            return Err(wrong(path, "keys split.no, split.count", found, "a part within the set", DAMAGED));
        }
        let stem = stem(path, no, count);
        if no != 0 {
            let first = match &stem {
                Some(stem) => part_path(stem, 0, count).display().to_string(),
                None => format!("the file whose name ends in -00001-of-{count:05}.gguf"),
            };
            let found = format!("part {} of {count}", no + 1);
            return Err(wrong(path, "key split.no", found, "the first part of the set", &format!("give {first}")));
        }
        let Some(stem) = stem else {
            return Err(wrong(
                path,
                "file name",
                shown(&path.file_name().unwrap_or_default().to_string_lossy()),
                &format!("a name that ends in -00001-of-{count:05}.gguf, as this is part 1 of {count}"),
                "give the parts their names back, or merge them",
            ));
        };
        Ok(Some(Set { first: path.to_path_buf(), stem, count, tensors }))
    }

    /// The paths of the parts after the first, all of which exist.
    pub(super) fn later_parts(&self) -> Result<Vec<PathBuf>, Error> {
        let parts: Vec<PathBuf> = (1..self.count).map(|no| part_path(&self.stem, no, self.count)).collect();
        let missing: Vec<&PathBuf> = parts.iter().filter(|p| !p.exists()).collect();
        if let Some(part) = missing.first() {
            let name = |p: &Path| shown(&p.file_name().unwrap_or_default().to_string_lossy());
            let more = match missing.len() {
                1 => String::new(),
                n => format!(" and {} more", n - 1),
            };
            return Err(wrong(
                &self.first,
                "split set",
                format!("no {}{more}", name(part)),
                &format!("{} parts in one folder", self.count),
                "download the missing parts to the folder of the first",
            ));
        }
        Ok(parts)
    }

    /// Checks the metadata of part `no` (from 0) against the set.
    pub(super) fn check_part(&self, no: usize, metadata: &Metadata) -> Result<(), Error> {
        let next = "the parts are of different sets: download them again";
        let check = |key: &str, found: Option<u64>, expected: u64| match found {
            Some(v) if v == expected => Ok(()),
            found => {
                let found = found.map_or("nothing".into(), |v| v.to_string());
                Err(wrong(metadata.file(), &format!("key {key}"), found, &expected.to_string(), next))
            }
        };
        check(NO, metadata.u64(NO)?, no as u64)?;
        check(COUNT, metadata.u64(COUNT)?, self.count.into())?;
        match (self.tensors, metadata.u64(TENSORS)?) {
            (Some(expected), Some(found)) => check(TENSORS, Some(found), expected),
            _ => Ok(()),
        }
    }

    /// Checks the tensors of all parts together: their number, and that no name comes twice.
    pub(super) fn check_tensors(&self, tensors: &[Tensor]) -> Result<(), Error> {
        let next = "the parts are of different sets: download them again";
        if let Some(expected) = self.tensors
            && expected != tensors.len() as u64
        {
            let found = format!("{} tensors in {} parts", tensors.len(), self.count);
            return Err(wrong(&self.first, "split set", found, &format!("{expected} ({TENSORS})"), next));
        }
        let mut seen = HashMap::with_capacity(tensors.len());
        for t in tensors {
            if let Some(other) = seen.insert(t.name.as_str(), t.file) {
                let part = part_path(&self.stem, t.file as u32, self.count);
                let found = format!("it also in part {}", other + 1);
                return Err(wrong(&part, &format!("tensor {}", shown(&t.name)), found, "each name once", next));
            }
        }
        Ok(())
    }
}

const DAMAGED: &str = "the file is damaged: download or split it again";

/// What stands before `-00001-of-00003.gguf` in the path of part `no`.
fn stem(path: &Path, no: u32, count: u32) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(&suffix(no, count))?;
    Some(path.with_file_name(stem))
}

/// The path of part `no` (from 0) of a set of `count`: `stem-00001-of-00003.gguf`.
pub fn part_path(stem: &Path, no: u32, count: u32) -> PathBuf {
    let mut path = stem.as_os_str().to_owned();
    path.push(suffix(no, count));
    path.into()
}

fn suffix(no: u32, count: u32) -> String {
    format!("-{:05}-of-{count:05}.gguf", no + 1)
}

fn wrong(file: &Path, thing: &str, found: String, expected: &str, next: &str) -> Error {
    Error::Split { file: file.to_path_buf(), thing: thing.into(), found, expected: expected.into(), next: next.into() }
}
