//! The safetensors files of a checkpoint: which there are, and the tensors that their headers list.
//!
//! Only headers are read. The format: eight bytes with the header's length, the header in JSON, the tensors' bytes.

use super::super::{Error, SourceFile};
use super::json::{self, AGAIN};
use ostro_kernels::DType;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

/// A tensor of a checkpoint.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub name: String,
    pub dtype: String,
    /// As PyTorch writes shapes: the length of a row last.
    pub shape: Vec<u64>,
    pub file: usize,
    pub offset: u64,
    bytes: u64,
}

/// All tensors of a checkpoint, file after file and by name in each, and the files.
#[derive(Debug)]
pub(super) struct Files {
    pub tensors: Vec<Stored>,
    pub files: Vec<SourceFile>,
}

/// Longer headers are refused, as the format's own readers do.
const MAX_HEADER: u64 = 100_000_000;

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Files {
    /// Opens the files whose names begin with `prefix`, or those that the index names.
    pub(super) fn open(dir: &Path, prefix: &str) -> Result<Files, Error> {
        let index_path = dir.join(format!("{prefix}.safetensors.index.json"));
        let index: Option<Index> = json::read(&index_path)?;
        let paths = match &index {
            Some(index) => listed(dir, &index_path, index)?,
            None => found(dir, prefix)?,
        };
        let mut all = Files { tensors: Vec::new(), files: Vec::new() };
        for path in paths {
            all.add(&path)?;
        }
        let mut seen: HashMap<&str, &Path> = HashMap::new();
        for t in &all.tensors {
            if let Some(first) = seen.insert(&t.name, &all.files[t.file].path) {
                let found = format!("it here and in {}", first.display());
                return Err(all.bad(t, found, "each tensor once", "remove the file that does not belong here"));
            }
        }
        if let Some(index) = &index {
            if let Some((name, file)) = index.weight_map.iter().find(|(name, _)| !seen.contains_key(name.as_str())) {
                let thing = format!("tensor {name}");
                return Err(Error::bad(&dir.join(file), thing, "nothing", "it, which the index names", AGAIN));
            }
            if let Some(t) = all.tensors.iter().find(|t| !index.weight_map.contains_key(&t.name)) {
                let expected = format!("only tensors that {} names", index_path.display());
                return Err(all.bad(t, "it", expected, AGAIN));
            }
        }
        Ok(all)
    }

    /// An error about a tensor.
    pub(super) fn bad(&self, t: &Stored, found: impl ToString, expected: impl Into<String>, next: &str) -> Error {
        Error::bad(&self.files[t.file].path, format!("tensor {}", t.name), found, expected, next)
    }

    /// The type of a tensor in ggml.
    pub(super) fn dtype(&self, t: &Stored) -> Result<DType, Error> {
        match t.dtype.as_str() {
            "F32" => Ok(DType::F32),
            "F16" => Ok(DType::F16),
            "BF16" => Ok(DType::BF16),
            other => {
                let next = "take a checkpoint that is not quantized, or save it as BF16 with transformers";
                Err(self.bad(t, format!("type {other}"), "F32, F16 or BF16", next))
            }
        }
    }

    fn add(&mut self, path: &Path) -> Result<(), Error> {
        let bad = |thing: &str, found: &dyn ToString, expected: String| {
            Error::bad(path, thing, found.to_string(), expected, AGAIN)
        };
        let file = SourceFile::open(path)?;
        let len = file.bytes()?;
        let mut start = [0; 8];
        if len < 8 {
            return Err(bad("the header's length", &format!("a file of {len} bytes"), "at least 8".into()));
        }
        file.read_at(0, &mut start)?;
        let header_len = u64::from_le_bytes(start);
        let most = (len - 8).min(MAX_HEADER);
        if header_len > most {
            return Err(bad("the header's length", &header_len, format!("at most {most} in a file of {len} bytes")));
        }
        let mut header = vec![0; header_len as usize];
        file.read_at(8, &mut header)?;
        let mut entries: BTreeMap<String, serde_json::Value> = serde_json::from_slice(&header)
            .map_err(|e| bad("the header", &e, "JSON with a line for each tensor".into()))?;
        entries.remove("__metadata__");
        let data = 8 + header_len;
        for (name, entry) in entries {
            let thing = format!("tensor {name}");
            let Entry { dtype, shape, data_offsets: (from, to) } =
                serde_json::from_value(entry).map_err(|e| bad(&thing, &e, "dtype, shape and data_offsets".into()))?;
            if from > to || to > len - data {
                let found = format!("bytes {from} to {to} of the data");
                return Err(bad(&thing, &found, format!("a place in the {} bytes that the file has", len - data)));
            }
            let file = self.files.len();
            self.tensors.push(Stored { name, dtype, shape, file, offset: data + from, bytes: to - from });
        }
        self.files.push(file);
        Ok(())
    }

    /// Checks that the bytes of a tensor are those of its shape, and gives its dimensions in ggml's order.
    pub(super) fn dims(&self, t: &Stored, dtype: DType) -> Result<Vec<u64>, Error> {
        if t.shape.is_empty() || t.shape.len() > 4 || t.shape.contains(&0) {
            return Err(self.bad(t, format!("shape {:?}", t.shape), "one to four dimensions, none of them 0", ""));
        }
        let size = dtype.block_bytes() as u64;
        let bytes = t.shape.iter().try_fold(size, |n, &d| n.checked_mul(d));
        if bytes != Some(t.bytes) {
            let expected = format!("those of shape {:?} in {}", t.shape, t.dtype);
            return Err(self.bad(t, format!("{} bytes", t.bytes), expected, AGAIN));
        }
        Ok(t.shape.iter().rev().copied().collect())
    }
}

/// The files that an index names.
fn listed(dir: &Path, index_path: &Path, index: &Index) -> Result<Vec<PathBuf>, Error> {
    let mut names: Vec<&String> = index.weight_map.values().collect();
    names.sort();
    names.dedup();
    let mut paths = Vec::with_capacity(names.len());
    for name in names {
        let plain = Path::new(name).file_name().is_some_and(|n| n == name.as_str());
        if !plain {
            return Err(Error::bad(index_path, "weight_map", name, "names of files beside it", AGAIN));
        }
        let path = dir.join(name);
        if !path.is_file() {
            return Err(Error::bad(
                dir,
                name,
                "nothing",
                format!("the file, which {} names", index_path.display()),
                AGAIN,
            ));
        }
        paths.push(path);
    }
    Ok(paths)
}

/// The files that begin with `prefix`, by name.
fn found(dir: &Path, prefix: &str) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(dir, "list the folder", e))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io(dir, "list the folder", e))?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
        if name.starts_with(prefix) && name.ends_with(".safetensors") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        let next = "download the safetensors files of the model; pickled weights (.bin, .pth) are not read";
        return Err(Error::bad(dir, "the weights", "nothing", format!("{prefix}*.safetensors"), next));
    }
    Ok(paths)
}
