//! Rows times one column: native blocks streamed once, four rows at a time so that a core follows four streams.
//!
//! Sixty-four weights are unpacked to bytes in their natural order (nibbles are copied to both halves of a register
//! and shifted by 0 and 4), so the activations are read as they lie. What lies below the bytes (an offset or a
//! minimum) is applied through the sums of the activations, for a whole block of 256 at once.

use std::arch::x86_64::*;

use crate::DType;
use crate::cpu::kernels::{Gemv, Rows};

pub(super) use floats::dot;

mod blocks256;
mod blocks32;
mod floats;

/// Rows in flight.
const ROWS: usize = 4;

pub(super) fn kernel(dtype: DType) -> Option<Gemv> {
    use crate::block::*;
    use crate::cpu::pack::{BF16, F16, F32};
    Some(match dtype {
        DType::F32 => Gemv::F32(floats::gemv::<F32>),
        DType::F16 => Gemv::F32(floats::gemv::<F16>),
        DType::BF16 => Gemv::F32(floats::gemv::<BF16>),
        DType::Q4_0 => Gemv::Q8x32(blocks32::gemv::<BlockQ4_0>),
        DType::Q4_1 => Gemv::Q8x32(blocks32::gemv::<BlockQ4_1>),
        DType::Q5_0 => Gemv::Q8x32(blocks32::gemv::<BlockQ5_0>),
        DType::Q5_1 => Gemv::Q8x32(blocks32::gemv::<BlockQ5_1>),
        DType::Q8_0 => Gemv::Q8x32(blocks32::gemv::<BlockQ8_0>),
        DType::IQ4_NL => Gemv::Q8x32(blocks32::gemv::<BlockIQ4_NL>),
        DType::MXFP4 => Gemv::Q8x32(blocks32::gemv::<BlockMXFP4>),
        DType::Q2_K => Gemv::Q8x256(blocks256::gemv::<BlockQ2_K>),
        DType::Q3_K => Gemv::Q8x256(blocks256::gemv::<BlockQ3_K>),
        DType::Q4_K => Gemv::Q8x256(blocks256::gemv::<BlockQ4_K>),
        DType::Q5_K => Gemv::Q8x256(blocks256::gemv::<BlockQ5_K>),
        DType::Q6_K => Gemv::Q8x256(blocks256::gemv::<BlockQ6_K>),
        DType::IQ4_XS => Gemv::Q8x256(blocks256::gemv::<BlockIQ4_XS>),
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

/// `ROWS` rows at a time, then one at a time; `$dots::<.., R>` does `R` rows from row `i` on.
macro_rules! by_rows {
    ($rows:expr, |$i:ident, $R:ident| $call:expr) => {{
        let n = $rows;
        let mut $i = 0;
        while $i + ROWS <= n {
            const $R: usize = ROWS;
            $call;
            $i += ROWS;
        }
        while $i < n {
            const $R: usize = 1;
            $call;
            $i += 1;
        }
    }};
}
use by_rows;

/// The first blocks of `R` rows.
#[inline]
fn starts<const R: usize>(rows: Rows<'_>, i: usize) -> [*const u8; R] {
    std::array::from_fn(|r| rows.row(i + r).as_ptr())
}
