//! An architecture's view of a file: keys under its own prefix, and which tensors are there.

use super::Error;
use crate::gguf::{Gguf, Metadata, shown};
use std::cell::RefCell;
use std::collections::HashSet;

/// The tensors of a file, or of what shall become one.
pub trait Shapes {
    /// The shape of the tensor of this name, fastest dimension first.
    fn dims(&self, name: &str) -> Option<&[u64]>;

    /// How many tensors there are.
    fn count(&self) -> usize;
}

impl Shapes for Gguf {
    fn dims(&self, name: &str) -> Option<&[u64]> {
        self.tensor(name).map(|t| t.dims.as_slice())
    }

    fn count(&self) -> usize {
        self.tensors().len()
    }
}

/// The header of one file, read by `arch/*.rs`. It remembers which keys were asked for, so that the rest can be told.
pub struct Header<'a> {
    metadata: &'a Metadata,
    shapes: &'a dyn Shapes,
    arch: &'a str,
    asked: RefCell<HashSet<String>>,
}

impl<'a> Header<'a> {
    /// The header of a file with these keys and tensors, whose `general.architecture` is `arch`.
    pub fn new(metadata: &'a Metadata, shapes: &'a dyn Shapes, arch: &'a str) -> Header<'a> {
        Header { metadata, shapes, arch, asked: RefCell::default() }
    }

    /// `general.architecture`.
    pub fn arch(&self) -> &'a str {
        self.arch
    }

    /// The file's name, for messages.
    pub fn file(&self) -> String {
        self.metadata.file().display().to_string()
    }

    /// All metadata.
    pub fn metadata(&self) -> &'a Metadata {
        self.metadata
    }

    /// Whether the file has this tensor.
    pub fn has(&self, tensor: &str) -> bool {
        self.shapes.dims(tensor).is_some()
    }

    /// A tensor's shape, fastest dimension first.
    pub fn dims(&self, tensor: &str) -> Option<&'a [u64]> {
        self.shapes.dims(tensor)
    }

    /// The full name of `suffix` under the architecture's prefix; it counts as asked for.
    pub fn key(&self, suffix: &str) -> String {
        let key = format!("{}.{suffix}", self.arch);
        self.asked.borrow_mut().insert(key.clone());
        key
    }

    /// An unsigned number, if it is there.
    pub fn opt_usize(&self, suffix: &str) -> Result<Option<usize>, Error> {
        Ok(self.metadata().u32(&self.key(suffix))?.map(|v| v as usize))
    }

    /// An unsigned number that must be there.
    pub fn usize(&self, suffix: &str) -> Result<usize, Error> {
        Ok(self.metadata().require_u32(&self.key(suffix))? as usize)
    }

    /// An unsigned number in `1..=max` that must be there: sizes and counts, whose products must not overflow.
    pub fn size(&self, suffix: &str, max: usize) -> Result<usize, Error> {
        let value = self.usize(suffix)?;
        self.within(suffix, value, max)
    }

    /// A number that is one for all layers or one per layer; each in `1..=max`.
    pub fn per_layer(&self, suffix: &str, n_layers: usize, max: usize) -> Result<Option<Vec<usize>>, Error> {
        let Some(values) = self.metadata().u32_each(&self.key(suffix), n_layers)? else { return Ok(None) };
        values.iter().map(|&v| self.within(suffix, v as usize, max)).collect::<Result<_, _>>().map(Some)
    }

    /// A real number, if it is there; it must be finite.
    pub fn opt_f32(&self, suffix: &str) -> Result<Option<f32>, Error> {
        let value = self.metadata().f32(&self.key(suffix))?;
        match value {
            Some(v) if !v.is_finite() => Err(self.bad(suffix, v, "a finite number")),
            v => Ok(v),
        }
    }

    /// A text, if it is there.
    pub fn opt_str(&self, suffix: &str) -> Result<Option<&'a str>, Error> {
        Ok(self.metadata().str(&self.key(suffix))?)
    }

    /// An error about the value of a key.
    pub fn bad(&self, suffix: &str, found: impl ToString, expected: impl ToString) -> Error {
        Error::Value {
            file: self.file(),
            key: self.key(suffix),
            found: shown(&found.to_string()),
            expected: expected.to_string(),
        }
    }

    /// Keys of the architecture that nothing has asked for and that may change results.
    pub fn unasked(&self) -> Vec<String> {
        let prefix = format!("{}.", self.arch);
        let asked = self.asked.borrow();
        let mut keys: Vec<String> = self
            .metadata()
            .iter()
            .map(|(key, _)| key)
            .filter(|key| key.starts_with(&prefix) && !asked.contains(*key))
            .map(str::to_owned)
            .collect();
        keys.sort();
        keys
    }

    fn within(&self, suffix: &str, value: usize, max: usize) -> Result<usize, Error> {
        if (1..=max).contains(&value) { Ok(value) } else { Err(self.bad(suffix, value, format!("1 to {max}"))) }
    }
}
