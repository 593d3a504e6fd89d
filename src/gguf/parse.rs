//! The header of a GGUF file, read from its bytes: pure, total, and in memory proportional to the bytes read.
//!
//! ```text
//! magic "GGUF" | version u32 | tensors u64 | keys u64
//! keys x     { key string | type u32 | value }             string = length u64, bytes
//! tensors x  { name string | n_dims u32 | dims u64.. | ggml type u32 | offset u64 }
//! padding to the alignment | data: each tensor at its offset from here
//! ```
//!
//! Source: the GGUF specification (`docs/gguf.md` of ggml) and `ggml/src/gguf.cpp` of llama.cpp. Versions 2 and 3
//! have the same layout. Unlike llama.cpp, gaps between tensors and any order of offsets are accepted: only what
//! could make us read wrong bytes is refused.

use std::collections::HashSet;

use ostro_kernels::DType;

use super::magic;
use super::reader::Reader;
use super::value::shown;
use super::{Array, Fault, Metadata, Tensor, Value};

/// What stands before the data of one file.
#[derive(Clone, Debug)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// `general.alignment`, or 32.
    pub alignment: u64,
    /// Keys and values.
    pub metadata: Metadata,
    /// Tensors in the order of the file; `offset` counts from the start of the file, `file` is 0.
    pub tensors: Vec<Tensor>,
    /// Where the data section starts. In a file without tensors it may lie past the end.
    pub data_start: u64,
}

/// The alignment of a file that states none.
pub const DEFAULT_ALIGNMENT: u64 = 32;

/// Real files nest no arrays at all; the limit keeps a made-up file from exhausting the stack.
const MAX_NESTING: usize = 8;

/// Bytes of the smallest key: an empty key, the type, one byte of value.
const MIN_KEY_BYTES: u64 = 8 + 4 + 1;
/// Bytes of the smallest tensor entry: an empty name, one dimension.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

/// Reads the header of the file whose bytes are `file`: all of them, as tensors are checked against its length.
pub fn parse(file: &[u8]) -> Result<Header, Fault> {
    magic::check(file)?;
    let mut r = Reader::new(file);
    r.take(4, || "magic".into())?;
    let version = version(r.u32(|| "version".into())?)?;
    let n_tensors = r.count(MIN_TENSOR_BYTES, 8, || "header: tensors".into())?;
    let n_keys = r.count(MIN_KEY_BYTES, 0, || "header: keys".into())?;

    let mut metadata = Metadata::default();
    for i in 0..n_keys {
        let at = r.at();
        let key = r.text(|| format!("key {i} of {n_keys}"))?;
        let value = value(&mut r, key)?;
        if metadata.set(key, value).is_some() {
            return Err(bad(key_thing(key), at, "the key a second time", "each key once"));
        }
    }
    let alignment = alignment_of(&metadata).map_err(|found| Fault::Alignment { found })?;

    let mut tensors = Vec::with_capacity(n_tensors);
    let mut entries = Vec::with_capacity(n_tensors);
    for i in 0..n_tensors {
        entries.push(r.at());
        tensors.push(tensor(&mut r, i, n_tensors)?);
    }
    let data_start = r.at().next_multiple_of(alignment);
    place(&mut tensors, &entries, data_start, alignment, file.len() as u64)?;
    Ok(Header { version, alignment, metadata, tensors, data_start })
}

fn version(found: u32) -> Result<u32, Fault> {
    match (found, found.swap_bytes()) {
        (2 | 3, _) => Ok(found),
        (_, version @ 1..=0xffff) if found > 0xffff => Err(Fault::BigEndian { version }),
        _ => Err(Fault::Version { version: found }),
    }
}

/// The alignment that the metadata states, a power of two as llama.cpp demands; else what was found instead.
pub(super) fn alignment_of(metadata: &Metadata) -> Result<u64, String> {
    let Some(value) = metadata.get("general.alignment") else { return Ok(DEFAULT_ALIGNMENT) };
    match value.integer().and_then(|v| u32::try_from(v).ok()) {
        Some(v) if v.is_power_of_two() => Ok(v.into()),
        _ => Err(value.to_string()),
    }
}

fn value(r: &mut Reader, key: &str) -> Result<Value, Fault> {
    let thing = || key_thing(key);
    let at = r.at();
    Ok(match r.u32(thing)? {
        0 => Value::U8(r.u8(thing)?),
        1 => Value::I8(r.u8(thing)? as i8),
        2 => Value::U16(u16::from_le_bytes(r.fixed(thing)?)),
        3 => Value::I16(i16::from_le_bytes(r.fixed(thing)?)),
        4 => Value::U32(r.u32(thing)?),
        5 => Value::I32(i32::from_le_bytes(r.fixed(thing)?)),
        6 => Value::F32(f32::from_le_bytes(r.fixed(thing)?)),
        7 => Value::Bool(bool_of(r.at(), r.u8(thing)?, key)?),
        8 => {
            let bytes = r.string(thing)?;
            match std::str::from_utf8(bytes) {
                Ok(s) => Value::String(s.to_owned()),
                Err(_) => Value::Bytes(bytes.to_vec()),
            }
        }
        9 => Value::Array(array(r, key, 1)?),
        10 => Value::U64(r.u64(thing)?),
        11 => Value::I64(r.u64(thing)? as i64),
        12 => Value::F64(f64::from_le_bytes(r.fixed(thing)?)),
        id => return Err(bad(thing(), at, format!("value type {id}"), "0 to 12")),
    })
}

/// Reads `$n` little-endian numbers of type `$t` into a vector.
macro_rules! numbers {
    ($r:expr, $thing:expr, $t:ty) => {{
        const N: usize = size_of::<$t>();
        let n = $r.count(N as u64, 0, $thing)?;
        let bytes = $r.take((n * N) as u64, $thing)?;
        bytes.as_chunks::<N>().0.iter().map(|b| <$t>::from_le_bytes(*b)).collect()
    }};
}

fn array(r: &mut Reader, key: &str, depth: usize) -> Result<Array, Fault> {
    let thing = || key_thing(key);
    let at = r.at();
    Ok(match r.u32(thing)? {
        0 => Array::U8(numbers!(r, thing, u8)),
        1 => Array::I8(numbers!(r, thing, i8)),
        2 => Array::U16(numbers!(r, thing, u16)),
        3 => Array::I16(numbers!(r, thing, i16)),
        4 => Array::U32(numbers!(r, thing, u32)),
        5 => Array::I32(numbers!(r, thing, i32)),
        6 => Array::F32(numbers!(r, thing, f32)),
        7 => {
            let n = r.count(1, 0, thing)?;
            let at = r.at();
            let bytes = r.take(n as u64, thing)?;
            Array::Bool((at..).zip(bytes).map(|(at, &b)| bool_of(at, b, key)).collect::<Result<_, _>>()?)
        }
        8 => strings(r, key)?,
        9 if depth >= MAX_NESTING => {
            return Err(bad(thing(), at, format!("arrays nested deeper than {MAX_NESTING}"), "fewer levels"));
        }
        9 => {
            // An element is at least its type and its length.
            let n = r.count(4 + 8, 0, thing)?;
            Array::Nested((0..n).map(|_| array(r, key, depth + 1)).collect::<Result<_, _>>()?)
        }
        10 => Array::U64(numbers!(r, thing, u64)),
        11 => Array::I64(numbers!(r, thing, i64)),
        12 => Array::F64(numbers!(r, thing, f64)),
        id => return Err(bad(thing(), at, format!("an array of value type {id}"), "0 to 12")),
    })
}

fn strings(r: &mut Reader, key: &str) -> Result<Array, Fault> {
    let thing = || key_thing(key);
    let n = r.count(8, 0, thing)?;
    let mut strings = Vec::with_capacity(n);
    while strings.len() < n {
        let bytes = r.string(thing)?;
        let Ok(s) = std::str::from_utf8(bytes) else {
            // Seldom: keep all of them as bytes.
            let mut all: Vec<Vec<u8>> = strings.into_iter().map(String::into_bytes).collect();
            all.push(bytes.to_vec());
            while all.len() < n {
                all.push(r.string(thing)?.to_vec());
            }
            return Ok(Array::Bytes(all));
        };
        strings.push(s.to_owned());
    }
    Ok(Array::String(strings))
}

fn bool_of(at: u64, byte: u8, key: &str) -> Result<bool, Fault> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(bad(key_thing(key), at, format!("bool {byte}"), "0 or 1")),
    }
}

/// One tensor entry; `offset` is still counted from the data section.
fn tensor(r: &mut Reader, i: usize, n: usize) -> Result<Tensor, Fault> {
    let name = r.text(|| format!("tensor {i} of {n}"))?;
    let thing = || tensor_thing(name);

    let at = r.at();
    let n_dims = r.u32(thing)?;
    if !DIMS.contains(&u64::from(n_dims)) {
        return Err(bad(thing(), at, format!("{n_dims} dimensions"), "1 to 4"));
    }
    let at = r.at();
    let dims = (0..n_dims).map(|_| r.u64(thing)).collect::<Result<Vec<u64>, _>>()?;
    let id = r.u32(thing)?;
    let dtype =
        DType::from_id(id).ok_or_else(|| Fault::Type { tensor: name.into(), id, removed: DType::removed(id) })?;
    let bytes = tensor_bytes(dtype, &dims).map_err(|(found, expected)| bad(thing(), at, found, expected))?;
    let offset = r.u64(thing)?;
    Ok(Tensor { name: name.to_owned(), dtype, dims, file: 0, offset, bytes })
}

const DIMS: std::ops::RangeInclusive<u64> = 1..=4;

/// The size of a tensor in bytes; else what was found and what was expected.
pub(super) fn tensor_bytes(dtype: DType, dims: &[u64]) -> Result<u64, (String, String)> {
    if !DIMS.contains(&(dims.len() as u64)) {
        return Err((format!("{} dimensions", dims.len()), "1 to 4".into()));
    }
    if dims.contains(&0) {
        return Err((format!("shape {dims:?}"), "no dimension of 0".into()));
    }
    let (block_elems, block_bytes) = (dtype.block_elems() as u64, dtype.block_bytes() as u64);
    if !dims[0].is_multiple_of(block_elems) {
        return Err((format!("rows of {}", dims[0]), format!("rows of a multiple of {block_elems} ({dtype})")));
    }
    // The limit is that of file sizes. It holds for the elements too, so that a sum over tensors does not overflow soon.
    let limit = |n: &u64| i64::try_from(*n).is_ok();
    let elements = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(limit);
    elements
        .and_then(|n| (n / block_elems).checked_mul(block_bytes))
        .filter(limit)
        .ok_or_else(|| (format!("shape {dims:?}"), "less than 2^63 elements and bytes".into()))
}

/// Makes the offsets absolute and checks where the data lies.
fn place(tensors: &mut [Tensor], entries: &[u64], data_start: u64, alignment: u64, has: u64) -> Result<(), Fault> {
    let mut names = HashSet::with_capacity(tensors.len());
    for (t, &at) in tensors.iter_mut().zip(entries) {
        if t.offset % alignment != 0 {
            let expected = format!("a multiple of the alignment, {alignment}");
            return Err(bad(tensor_thing(&t.name), at, format!("offset {}", t.offset), expected));
        }
        let end = t.offset.checked_add(data_start).and_then(|start| start.checked_add(t.bytes));
        let end = end.ok_or_else(|| {
            let expected = format!("an offset within a file of {has} bytes");
            bad(tensor_thing(&t.name), at, format!("offset {}", t.offset), expected)
        })?;
        if end > has {
            return Err(Fault::PastEnd { tensor: t.name.clone(), end, has });
        }
        t.offset += data_start;
        if !names.insert(t.name.as_str()) {
            return Err(bad(tensor_thing(&t.name), at, "the name a second time", "each name once"));
        }
    }
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|t| t.offset);
    for pair in order.windows(2) {
        let free = pair[0].offset + pair[0].bytes;
        if pair[1].offset < free {
            let (tensor, other) = (pair[1].name.clone(), pair[0].name.clone());
            return Err(Fault::Overlap { tensor, other, start: pair[1].offset, free });
        }
    }
    Ok(())
}

fn bad(thing: String, at: u64, found: impl Into<String>, expected: impl Into<String>) -> Fault {
    Fault::Bad { thing, at, found: found.into(), expected: expected.into() }
}

fn key_thing(key: &str) -> String {
    format!("key {}", shown(key))
}

fn tensor_thing(name: &str) -> String {
    format!("tensor {}", shown(name))
}
