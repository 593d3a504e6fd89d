//! A JSON object of a checkpoint, whose getters say what was wrong.

use crate::gguf::shown;
use crate::model::Error;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// An object of a JSON file. A key whose value is `null` counts as absent.
#[derive(Clone, Debug, Default)]
pub struct Config {
    file: PathBuf,
    map: Map<String, Value>,
}

impl Config {
    /// The object `map` of `file`, which errors will name.
    pub fn new(file: &Path, map: Map<String, Value>) -> Config {
        Config { file: file.to_path_buf(), map }
    }

    /// The file that errors name.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The object itself.
    pub fn map(&self) -> &Map<String, Value> {
        &self.map
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// Whether the file has `null` for `key`, where that is not the same as nothing.
    pub fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    /// Sets `key` to `value` when it is absent.
    pub fn assume(&mut self, key: &str, value: impl Into<Value>) {
        if self.get(key).is_none() {
            self.map.insert(key.to_owned(), value.into());
        }
    }

    /// Sets `key` to `value`, whatever it was.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.map.insert(key.to_owned(), value.into());
    }

    /// Takes over all keys of the object under `key`; they win.
    pub fn flatten(&mut self, key: &str) {
        if let Some(Value::Object(inner)) = self.map.get(key).cloned() {
            self.map.extend(inner);
        }
    }

    /// The first of `keys` that is there, as an integer that fits in 32 bits without sign.
    pub fn u32(&self, keys: &[&str]) -> Result<Option<u32>, Error> {
        self.first(keys, "an integer from 0 to 4294967295", |v| u32::try_from(v.as_u64()?).ok())
    }

    /// The first of `keys` that is there, as a number.
    pub fn f32(&self, keys: &[&str]) -> Result<Option<f32>, Error> {
        let number = |v: &Value| v.as_f64().map(|v| v as f32).filter(|v| v.is_finite());
        self.first(keys, "a number", number)
    }

    /// A number in full precision.
    pub fn f64(&self, key: &str) -> Result<Option<f64>, Error> {
        self.first(&[key], "a number", |v| v.as_f64().filter(|v| v.is_finite()))
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.first(&[key], "true or false", Value::as_bool)
    }

    /// A text.
    pub fn str(&self, key: &str) -> Result<Option<&str>, Error> {
        self.first(&[key], "a string", Value::as_str)
    }

    /// An object.
    pub fn object(&self, key: &str) -> Result<Option<Config>, Error> {
        let object = self.first(&[key], "an object", Value::as_object)?;
        Ok(object.map(|map| Config::new(&self.file, map.clone())))
    }

    /// A list of numbers.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, Error> {
        let list = |v: &Value| v.as_array()?.iter().map(|v| v.as_f64().map(|v| v as f32)).collect::<Option<Vec<f32>>>();
        self.first(&[key], "a list of numbers", list)
    }

    /// [`Config::u32`], absent is an error.
    pub fn require_u32(&self, keys: &[&str]) -> Result<u32, Error> {
        self.u32(keys)?.ok_or_else(|| self.bad(keys[0], "nothing", "an integer"))
    }

    /// A required number over another: the elements of a head, of those of all heads.
    pub fn divided(&self, width: &str, heads: &str) -> Result<u32, Error> {
        let (width, n) = (self.require_u32(&[width])?, self.require_u32(&[heads])?);
        width.checked_div(n).ok_or_else(|| self.bad(heads, 0, "at least 1"))
    }

    /// An error about the value of a key.
    pub fn bad(&self, key: &str, found: impl ToString, expected: impl ToString) -> Error {
        Error::Config {
            file: self.file.display().to_string(),
            key: key.to_owned(),
            found: shown(&found.to_string()),
            expected: expected.to_string(),
        }
    }

    fn first<'a, T>(
        &'a self,
        keys: &[&str],
        expected: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some((key, value)) = keys.iter().find_map(|&key| Some((key, self.get(key)?))) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| self.bad(key, value, expected))
    }
}
