//! Rows times one column: native blocks streamed once (`cpu/streams.rs`).
//!
//! Thirty-two weights at a time are unpacked to signed bytes in their natural order, so the activations are read as
//! they lie.

use std::arch::aarch64::*;

use crate::DType;
use crate::block::F16Bytes;
use crate::cpu::kernels::Gemv;
use crate::float::neon::Neon;
use crate::float::simd::Simd;

pub(super) use floats::dot;

mod blocks256;
mod blocks32;
mod floats;

pub(super) fn kernel(dtype: DType) -> Option<Gemv> {
    use crate::block::*;
    use crate::cpu::pack::{BF16, F16, F32};
    Some(match dtype {
        DType::F32 => Gemv::F32(floats::gemv::<F32>),
        DType::F16 => Gemv::F32(floats::gemv::<F16>),
        DType::BF16 => Gemv::F32(floats::gemv::<BF16>),
        DType::Q4_0 => Gemv::Q8x32(blocks32::gemv::<BlockQ4_0>, None),
        DType::Q4_1 => Gemv::Q8x32(blocks32::gemv::<BlockQ4_1>, None),
        DType::Q5_0 => Gemv::Q8x32(blocks32::gemv::<BlockQ5_0>, None),
        DType::Q5_1 => Gemv::Q8x32(blocks32::gemv::<BlockQ5_1>, None),
        DType::Q8_0 => Gemv::Q8x32(blocks32::gemv::<BlockQ8_0>, None),
        DType::IQ4_NL => Gemv::Q8x32(blocks32::gemv::<BlockIQ4_NL>, None),
        DType::MXFP4 => Gemv::Q8x32(blocks32::gemv::<BlockMXFP4>, None),
        DType::Q2_K => Gemv::Q8x256(blocks256::gemv::<BlockQ2_K>, None),
        DType::Q3_K => Gemv::Q8x256(blocks256::gemv::<BlockQ3_K>, None),
        DType::Q4_K => Gemv::Q8x256(blocks256::gemv::<BlockQ4_K>, None),
        DType::Q5_K => Gemv::Q8x256(blocks256::gemv::<BlockQ5_K>, None),
        DType::Q6_K => Gemv::Q8x256(blocks256::gemv::<BlockQ6_K>, None),
        DType::IQ4_XS => Gemv::Q8x256(blocks256::gemv::<BlockIQ4_XS>, None),
        _ => return None,
    })
}

/// Thirty-two bytes.
type Pair = [uint8x16_t; 2];

#[inline]
#[target_feature(enable = "neon")]
fn load(bytes: &[u8; 32]) -> Pair {
    // SAFETY: 32 bytes.
    unsafe { [vld1q_u8(bytes.as_ptr()), vld1q_u8(bytes.as_ptr().add(16))] }
}

/// Bits `shift..` of each byte that are in `mask`.
#[inline]
#[target_feature(enable = "neon")]
fn bits(bytes: Pair, shift: i8, mask: u8) -> Pair {
    bytes.map(|bytes| vandq_u8(vshlq_u8(bytes, vdupq_n_s8(-shift)), vdupq_n_u8(mask)))
}

/// The nibbles of 16 bytes: the low ones, then the high ones.
#[inline]
#[target_feature(enable = "neon")]
fn nibbles16(bytes: &[u8; 16]) -> Pair {
    // SAFETY: 16 bytes.
    let bytes = unsafe { vld1q_u8(bytes.as_ptr()) };
    [vandq_u8(bytes, vdupq_n_u8(0x0f)), vshrq_n_u8::<4>(bytes)]
}

#[inline]
#[target_feature(enable = "neon")]
fn or([a0, a1]: Pair, [b0, b1]: Pair) -> Pair {
    [vorrq_u8(a0, b0), vorrq_u8(a1, b1)]
}

/// The weights: bytes less the offset.
#[inline]
#[target_feature(enable = "neon")]
fn less(bytes: Pair, offset: u8) -> [int8x16_t; 2] {
    bytes.map(|bytes| vreinterpretq_s8_u8(vsubq_u8(bytes, vdupq_n_u8(offset))))
}

#[inline]
#[target_feature(enable = "neon")]
fn lookup(table: &[i8; 16], index: Pair) -> [int8x16_t; 2] {
    // SAFETY: 16 bytes.
    let table = unsafe { vld1q_s8(table.as_ptr()) };
    index.map(|index| vqtbl1q_s8(table, index))
}

#[inline(always)]
fn half(x: F16Bytes) -> f32 {
    // SAFETY: every aarch64 has NEON.
    unsafe { vgetq_lane_f32::<0>(Neon::new().splat_f16(u16::from_le_bytes(x))) }
}
