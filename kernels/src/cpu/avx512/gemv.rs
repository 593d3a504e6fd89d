//! Rows times one column: native blocks streamed once (`cpu/streams.rs`).
//!
//! Sixty-four weights are unpacked to bytes at a time, in the order in which that takes fewest instructions; the
//! activations are brought into the same order, once for four rows. What lies below the bytes (an offset or a
//! minimum) is applied through the sums of the activations, for a whole block of 256 at once.

use std::arch::x86_64::*;

use crate::DType;
use crate::cpu::kernels::Gemv;

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

/// Thirty-two bytes in both halves.
#[inline]
#[target_feature(enable = "avx512f")]
fn both_halves(bytes: &[u8; 32]) -> __m512i {
    // SAFETY: 32 bytes.
    _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
}

/// A shift of each half of a register.
#[inline]
#[target_feature(enable = "avx512f")]
fn halves(low: i32, high: i32) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_set1_epi32(low), _mm256_set1_epi32(high))
}

/// Four times sixteen bytes, one in each quarter.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn quarters([a, b, c, d]: [__m128i; 4]) -> __m512i {
    let low = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b);
    let v = _mm512_inserti32x4::<2>(_mm512_castsi256_si512(low), c);
    _mm512_inserti32x4::<3>(v, d)
}

/// The first sixteen bytes of a longer array or block.
#[inline]
#[target_feature(enable = "avx512f")]
fn first16<T: Copy>(bytes: &T) -> __m128i {
    const { assert!(size_of::<T>() >= 16) };
    // SAFETY: as many bytes, as asserted.
    unsafe { _mm_loadu_si128((&raw const *bytes).cast()) }
}
