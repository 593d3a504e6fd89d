//! F32, F16 and BF16: converted in registers.

#![allow(clippy::needless_range_loop, reason = "an index runs over the registers of several arrays at once")]

use std::arch::x86_64::*;

use super::sum;
use crate::cpu::kernels::Rows;
use crate::cpu::pack::{BF16, F16, F32, Float};
use crate::cpu::streams::{STREAMS, ahead, by_rows};

/// Eight weights.
pub(super) trait Load: Float {
    /// # Safety
    /// Eight weights can be read at `at`.
    unsafe fn load(at: *const u8) -> __m256;
}

impl Load for F32 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: promised by the caller.
        unsafe { _mm256_loadu_ps(at.cast()) }
    }
}

impl Load for F16 {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: promised by the caller.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(at.cast()) })
    }
}

impl Load for BF16 {
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: promised by the caller.
        let halves = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(at.cast()) });
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(halves))
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv<F: Load>(rows: Rows<'_>, x: &[f32], out: &mut [f32]) {
    assert!(rows.row_bytes() == x.len() * F::BYTES);
    // SAFETY: rows and column have the same length.
    by_rows(rows, out, |w| unsafe { dots::<F, STREAMS>(w, x) });
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots<F: Load, const R: usize>(w: [*const u8; R], x: &[f32]) -> [f32; R] {
    let mut f = [[_mm256_setzero_ps(); 2]; R];
    let (chunks, rest) = x.as_chunks::<16>();
    for (b, x) in chunks.iter().enumerate() {
        if R > 1 {
            w.iter().for_each(|w| ahead(R, w.wrapping_add(16 * b * F::BYTES), 16 * F::BYTES));
        }
        for h in 0..2 {
            // SAFETY: 16 floats; as many weights.
            unsafe {
                let x = _mm256_loadu_ps(x.as_ptr().add(8 * h));
                for r in 0..R {
                    f[r][h] = _mm256_fmadd_ps(F::load(w[r].add((16 * b + 8 * h) * F::BYTES)), x, f[r][h]);
                }
            }
        }
    }
    std::array::from_fn(|r| {
        let mut sum = sum(_mm256_add_ps(f[r][0], f[r][1]));
        for (i, x) in rest.iter().enumerate() {
            let at = (16 * chunks.len() + i) * F::BYTES;
            // SAFETY: a weight of the row.
            sum += F::one(unsafe { std::slice::from_raw_parts(w[r].add(at), F::BYTES) }) * x;
        }
        sum
    })
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) unsafe fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // SAFETY: the same length.
    unsafe { dots::<F32, 1>([a.as_ptr().cast()], b)[0] }
}
