//! The metadata of a file: keys in the file's order, and getters that say what was wrong.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::{Array, Error, Value};

/// Metadata keys and values, in the order of the file.
///
/// A getter returns `Ok(None)` when the key is absent, and an error naming file, key, found and expected when the
/// value has another type or is out of range. Integers of any width convert when the value fits.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    file: PathBuf,
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

const U32: &str = "an integer from 0 to 4294967295";
const U64: &str = "an integer from 0 to 18446744073709551615";
const F32: &str = "a number";
const BOOL: &str = "a bool";
const STR: &str = "a string";
const STRINGS: &str = "an array of strings";
const U32S: &str = "an array of integers from 0 to 4294967295";
const I32S: &str = "an array of integers from -2147483648 to 2147483647";
const F32S: &str = "an array of numbers";
const BOOLS: &str = "an array of bools";

impl Metadata {
    /// No keys; errors will name `file`.
    pub fn new(file: &Path) -> Metadata {
        Metadata { file: file.to_path_buf(), ..Metadata::default() }
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&i| &self.entries[i].1)
    }

    /// Keys and values in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The file that errors name.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Sets `key`: in its place when it is there, else at the end. Returns the value it had.
    pub fn set(&mut self, key: &str, value: Value) -> Option<Value> {
        match self.index.get(key) {
            Some(&i) => Some(std::mem::replace(&mut self.entries[i].1, value)),
            None => {
                self.index.insert(key.to_owned(), self.entries.len());
                self.entries.push((key.to_owned(), value));
                None
            }
        }
    }

    /// Takes `key` out; what stands behind it moves up.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.index.remove(key)?;
        self.index.values_mut().filter(|i| **i > at).for_each(|i| *i -= 1);
        Some(self.entries.remove(at).1)
    }

    pub(super) fn set_file(&mut self, file: &Path) {
        self.file = file.to_path_buf();
    }

    /// An integer that fits in 32 bits without sign.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.scalar(key, U32, |v| u32::try_from(v.integer()?).ok())
    }

    /// An integer that fits in 64 bits without sign.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, Error> {
        self.scalar(key, U64, |v| u64::try_from(v.integer()?).ok())
    }

    /// A number: of either float type, or an integer.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, Error> {
        self.scalar(key, F32, number)
    }

    /// A bool.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.scalar(key, BOOL, |v| if let Value::Bool(b) = v { Some(*b) } else { None })
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>, Error> {
        self.scalar(key, STR, |v| if let Value::String(s) = v { Some(s.as_str()) } else { None })
    }

    /// An array of strings, all of them UTF-8.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value {
            Value::Array(Array::String(v)) => Ok(Some(v)),
            Value::Array(Array::Bytes(v)) => {
                let bad = v.iter().position(|s| std::str::from_utf8(s).is_err()).unwrap_or_default();
                Err(self.wrong(key, format!("bytes that are not UTF-8 in string {bad}"), "an array of UTF-8 strings"))
            }
            _ => Err(self.wrong(key, value.to_string(), STRINGS)),
        }
    }

    /// An array of strings as bytes, whether they are UTF-8 or not.
    pub fn byte_strings(&self, key: &str) -> Result<Option<Vec<&[u8]>>, Error> {
        self.array(key, STRINGS, |a| match a {
            Array::String(v) => Some(v.iter().map(|s| s.as_bytes()).collect()),
            Array::Bytes(v) => Some(v.iter().map(|s| s.as_slice()).collect()),
            _ => None,
        })
    }

    /// An array of integers without sign, stored in any width.
    pub fn u32s(&self, key: &str) -> Result<Option<Cow<'_, [u32]>>, Error> {
        self.array(key, U32S, |a| match a {
            Array::U32(v) => Some(Cow::Borrowed(v.as_slice())),
            _ => integers(a).map(Cow::Owned),
        })
    }

    /// An array of integers, stored in any width.
    pub fn i32s(&self, key: &str) -> Result<Option<Cow<'_, [i32]>>, Error> {
        self.array(key, I32S, |a| match a {
            Array::I32(v) => Some(Cow::Borrowed(v.as_slice())),
            _ => integers(a).map(Cow::Owned),
        })
    }

    /// An array of numbers.
    pub fn f32s(&self, key: &str) -> Result<Option<Cow<'_, [f32]>>, Error> {
        self.array(key, F32S, |a| match a {
            Array::F32(v) => Some(Cow::Borrowed(v.as_slice())),
            _ => (0..a.len()).map(|i| number(&a.value(i)?)).collect::<Option<_>>().map(Cow::Owned),
        })
    }

    /// An array of bools.
    pub fn bools(&self, key: &str) -> Result<Option<&[bool]>, Error> {
        self.array(key, BOOLS, |a| if let Array::Bool(v) = a { Some(v.as_slice()) } else { None })
    }

    /// One integer for each of `n` things (layers): an array of that length, or a single integer that holds for all.
    pub fn u32_each(&self, key: &str, n: usize) -> Result<Option<Vec<u32>>, Error> {
        match self.get(key) {
            Some(Value::Array(_)) => {}
            _ => return Ok(self.u32(key)?.map(|v| vec![v; n])),
        }
        match self.u32s(key)? {
            Some(v) if v.len() != n => {
                Err(self.wrong(key, format!("an array of {}", v.len()), format!("an array of {n}, or one integer")))
            }
            v => Ok(v.map(Cow::into_owned)),
        }
    }

    /// [`Metadata::u32`], absent is an error.
    pub fn require_u32(&self, key: &str) -> Result<u32, Error> {
        self.require(key, U32, self.u32(key)?)
    }

    /// [`Metadata::str`], absent is an error.
    pub fn require_str(&self, key: &str) -> Result<&str, Error> {
        self.require(key, STR, self.str(key)?)
    }

    /// [`Metadata::strings`], absent is an error.
    pub fn require_strings(&self, key: &str) -> Result<&[String], Error> {
        self.require(key, STRINGS, self.strings(key)?)
    }

    /// [`Metadata::byte_strings`], absent is an error.
    pub fn require_byte_strings(&self, key: &str) -> Result<Vec<&[u8]>, Error> {
        self.require(key, STRINGS, self.byte_strings(key)?)
    }

    /// [`Metadata::f32s`], absent is an error.
    pub fn require_f32s(&self, key: &str) -> Result<Cow<'_, [f32]>, Error> {
        self.require(key, F32S, self.f32s(key)?)
    }

    /// [`Metadata::bools`], absent is an error.
    pub fn require_bools(&self, key: &str) -> Result<&[bool], Error> {
        self.require(key, BOOLS, self.bools(key)?)
    }

    fn require<T>(&self, key: &str, expected: &'static str, found: Option<T>) -> Result<T, Error> {
        found.ok_or_else(|| Error::MissingKey { file: self.file.clone(), key: key.to_owned(), expected })
    }

    fn scalar<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| self.wrong(key, value.to_string(), expected))
    }

    fn array<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl Fn(&'a Array) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let converted = if let Value::Array(a) = value { convert(a) } else { None };
        converted.map(Some).ok_or_else(|| self.wrong(key, value.to_string(), expected))
    }

    fn wrong(&self, key: &str, found: String, expected: impl Into<String>) -> Error {
        Error::Value { file: self.file.clone(), key: key.to_owned(), found, expected: expected.into() }
    }
}

fn number(value: &Value) -> Option<f32> {
    match value {
        Value::F32(v) => Some(*v),
        // A finite f64 that becomes infinite as f32 is out of range.
        Value::F64(v) => (v.is_finite() == (*v as f32).is_finite()).then_some(*v as f32),
        other => other.integer().map(|i| i as f32),
    }
}

fn integers<T: TryFrom<i128>>(array: &Array) -> Option<Vec<T>> {
    (0..array.len()).map(|i| T::try_from(array.value(i)?.integer()?).ok()).collect()
}
