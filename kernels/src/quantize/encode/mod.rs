//! Encoders: rows of f32 to the bytes that ggml's quantizers make of them (`ggml_quantize_chunk`), bit for bit.
//!
//! ggml fixes the order of all float operations inside a block, so a block cannot be spread over a vector. Instead
//! every lane of a vector has a block of its own: `LANES` blocks are laid on their side, vector `i` holding element
//! `i` of each, and are searched together. What ggml branches on becomes a selection. Written once over [`Simd`], an
//! encoder with one lane is the reference of the others.
//!
//! One file a format family, as with the decoders: `plain`, `legacy`, `k`, `iq4`, `fp4`. The searches for scales are
//! in `search`.
//!
//! Source of the algorithms: `ggml/src/ggml-quants.c` of llama.cpp.

mod fp4;
mod group;
mod iq4;
mod k;
mod legacy;
mod plain;
mod search;

use crate::block;
use crate::float::simd::run;
use crate::{Cpu, DType};

/// Whether [`encode`] has this type.
pub fn can_encode(dtype: DType) -> bool {
    encoder(dtype).is_some()
}

/// Encodes rows of `cols` floats. `importance` is a weight for each column (ggml's `quant_weights`); types that make
/// no use of it ignore it. One thread: whoever has many rows hands them out.
///
/// The result is the same on every `cpu`. Infinite and NaN floats are encoded as anything.
///
/// # Panics
/// When [`can_encode`] says no, or `x` is not whole rows, `cols` not whole blocks, `importance` not `cols` weights,
/// `out` not exactly the bytes of the rows.
pub fn encode(cpu: Cpu, dtype: DType, x: &[f32], cols: usize, importance: Option<&[f32]>, out: &mut [u8]) {
    let encoder = encoder(dtype).unwrap_or_else(|| panic!("no encoder for {dtype}"));
    let row_bytes = dtype.row_bytes(cols).unwrap_or_else(|| panic!("{cols} columns are not whole blocks of {dtype}"));
    assert!(cols > 0 && x.len().is_multiple_of(cols), "{} floats are not rows of {cols}", x.len());
    assert_eq!(out.len(), x.len() / cols * row_bytes, "bytes for {} rows of {cols} {dtype}", x.len() / cols);
    assert!(importance.is_none_or(|w| w.len() == cols), "an importance for each of {cols} columns");
    encoder(cpu, Rows { x, cols, importance }, out);
}

/// What is encoded; the lengths belong together.
#[derive(Clone, Copy)]
struct Rows<'a> {
    x: &'a [f32],
    cols: usize,
    importance: Option<&'a [f32]>,
}

type Encoder = fn(Cpu, Rows<'_>, &mut [u8]);

fn encoder(dtype: DType) -> Option<Encoder> {
    use group::blocks;
    Some(match dtype {
        DType::F32 => |_, rows, out| plain::f32(rows.x, out),
        DType::F16 => |cpu, rows, out| run(cpu, plain::F16(rows.x, out)),
        DType::BF16 => |cpu, rows, out| run(cpu, plain::Bf16(rows.x, out)),
        DType::Q8_0 => |cpu, rows, out| run(cpu, legacy::Q8_0(rows.x, out)),
        DType::Q4_0 => blocks::<block::BlockQ4_0, 32>,
        DType::Q4_1 => blocks::<block::BlockQ4_1, 32>,
        DType::Q5_0 => blocks::<block::BlockQ5_0, 32>,
        DType::Q5_1 => blocks::<block::BlockQ5_1, 32>,
        DType::Q2_K => blocks::<block::BlockQ2_K, 256>,
        DType::Q3_K => blocks::<block::BlockQ3_K, 256>,
        DType::Q4_K => blocks::<block::BlockQ4_K, 256>,
        DType::Q5_K => blocks::<block::BlockQ5_K, 256>,
        DType::Q6_K => blocks::<block::BlockQ6_K, 256>,
        DType::IQ4_NL => blocks::<block::BlockIQ4_NL, 32>,
        DType::IQ4_XS => blocks::<block::BlockIQ4_XS, 256>,
        DType::MXFP4 => blocks::<block::BlockMXFP4, 32>,
        _ => return None,
    })
}
