//! Metadata values: the thirteen value types of GGUF, typed arrays, and how an error names them.
//!
//! A string of GGUF is bytes with a length. Nearly all are UTF-8 and are held as `String`; one that is not (a
//! vocabulary with pieces of raw bytes) is kept byte for byte in `Bytes`, so that nothing is lost or replaced.

use std::fmt;

/// One metadata value.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variants are the value types of the format")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(String),
    /// A string of the file that is not UTF-8.
    Bytes(Vec<u8>),
    Array(Array),
}

/// A metadata array: every element has the same type.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variants are the value types of the format")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F32(Vec<f32>),
    F64(Vec<f64>),
    Bool(Vec<bool>),
    String(Vec<String>),
    /// Strings of which at least one is not UTF-8: all of them as bytes.
    Bytes(Vec<Vec<u8>>),
    Nested(Vec<Array>),
}

/// Runs an expression on the vector inside an [`Array`], whatever its type.
macro_rules! with_vec {
    ($array:expr, $v:ident => $body:expr) => {
        match $array {
            Array::U8($v) => $body,
            Array::I8($v) => $body,
            Array::U16($v) => $body,
            Array::I16($v) => $body,
            Array::U32($v) => $body,
            Array::I32($v) => $body,
            Array::U64($v) => $body,
            Array::I64($v) => $body,
            Array::F32($v) => $body,
            Array::F64($v) => $body,
            Array::Bool($v) => $body,
            Array::String($v) => $body,
            Array::Bytes($v) => $body,
            Array::Nested($v) => $body,
        }
    };
}

impl Value {
    /// The value as an integer, when its type is an integer one.
    pub fn integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// The name of the type, in one word (`u32`, `string`, `array`).
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::U8(_) => "u8",
            Value::I8(_) => "i8",
            Value::U16(_) => "u16",
            Value::I16(_) => "i16",
            Value::U32(_) => "u32",
            Value::I32(_) => "i32",
            Value::U64(_) => "u64",
            Value::I64(_) => "i64",
            Value::F32(_) => "f32",
            Value::F64(_) => "f64",
            Value::Bool(_) => "bool",
            Value::String(_) | Value::Bytes(_) => "string",
            Value::Array(_) => "array",
        }
    }
}

impl Value {
    /// The number of elements of an array.
    pub fn array_len(&self) -> Option<usize> {
        match self {
            Value::Array(array) => Some(array.len()),
            _ => None,
        }
    }
}

impl Array {
    /// The number of elements.
    pub fn len(&self) -> usize {
        with_vec!(self, v => v.len())
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of the elements' type, in one word.
    pub fn type_name(&self) -> &'static str {
        match self {
            Array::U8(_) => "u8",
            Array::I8(_) => "i8",
            Array::U16(_) => "u16",
            Array::I16(_) => "i16",
            Array::U32(_) => "u32",
            Array::I32(_) => "i32",
            Array::U64(_) => "u64",
            Array::I64(_) => "i64",
            Array::F32(_) => "f32",
            Array::F64(_) => "f64",
            Array::Bool(_) => "bool",
            Array::String(_) | Array::Bytes(_) => "string",
            Array::Nested(_) => "array",
        }
    }

    /// Element `i` as a value of its own; `None` past the end.
    pub fn value(&self, i: usize) -> Option<Value> {
        Some(match self {
            Array::U8(v) => Value::U8(*v.get(i)?),
            Array::I8(v) => Value::I8(*v.get(i)?),
            Array::U16(v) => Value::U16(*v.get(i)?),
            Array::I16(v) => Value::I16(*v.get(i)?),
            Array::U32(v) => Value::U32(*v.get(i)?),
            Array::I32(v) => Value::I32(*v.get(i)?),
            Array::U64(v) => Value::U64(*v.get(i)?),
            Array::I64(v) => Value::I64(*v.get(i)?),
            Array::F32(v) => Value::F32(*v.get(i)?),
            Array::F64(v) => Value::F64(*v.get(i)?),
            Array::Bool(v) => Value::Bool(*v.get(i)?),
            Array::String(v) => Value::String(v.get(i)?.clone()),
            Array::Bytes(v) => Value::Bytes(v.get(i)?.clone()),
            Array::Nested(v) => Value::Array(v.get(i)?.clone()),
        })
    }
}

/// The type and a short form of the value, in one line, as an error names what it found: `u32 7`, `string "abc"`,
/// `array of 3 u32`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::String(s) => write!(f, "string \"{}\"", shown(s)),
            Value::Bytes(b) => write!(f, "string \"{}\" (not UTF-8)", shown(&String::from_utf8_lossy(b))),
            Value::Array(a) => write!(f, "array of {} {}", a.len(), a.type_name()),
            Value::F32(v) => write!(f, "f32 {v}"),
            Value::F64(v) => write!(f, "f64 {v}"),
            Value::Bool(v) => write!(f, "bool {v}"),
            other => write!(f, "{} {}", other.type_name(), other.integer().unwrap_or_default()),
        }
    }
}

/// A text from a file as it may stand in a message: on one line, without control characters, not too long.
pub fn shown(text: &str) -> String {
    const MAX: usize = 80;
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == MAX {
            out.push_str("...");
            break;
        }
        match c {
            c if c.is_control() || c == '\u{2028}' || c == '\u{2029}' => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}
