//! F32, F16 and BF16: converted in registers.

#![allow(clippy::needless_range_loop, reason = "an index runs over the registers of several arrays at once")]

use std::arch::x86_64::*;

use crate::cpu::kernels::Rows;
use crate::cpu::pack::{BF16, F16, F32, Float};
use crate::cpu::streams::{ahead, by_rows};

/// Sixteen weights.
pub(super) trait Load: Float {
    /// # Safety
    /// Those of the sixteen that are in `mask` can be read at `at`.
    unsafe fn load(at: *const u8, mask: __mmask16) -> __m512;
}

impl Load for F32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(at: *const u8, mask: __mmask16) -> __m512 {
        // SAFETY: promised by the caller.
        unsafe { _mm512_maskz_loadu_ps(mask, at.cast()) }
    }
}

impl Load for F16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(at: *const u8, mask: __mmask16) -> __m512 {
        // SAFETY: promised by the caller.
        _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(mask, at.cast()) })
    }
}

impl Load for BF16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(at: *const u8, mask: __mmask16) -> __m512 {
        // SAFETY: promised by the caller.
        let halves = _mm512_cvtepu16_epi32(unsafe { _mm256_maskz_loadu_epi16(mask, at.cast()) });
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(halves))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
pub(super) unsafe fn gemv<F: Load>(rows: Rows<'_>, x: &[f32], out: &mut [f32]) {
    assert!(rows.row_bytes() == x.len() * F::BYTES);
    // SAFETY: rows and column have the same length.
    by_rows(rows, out, |w| unsafe { dots::<F, 4>(w, x) });
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
unsafe fn dots<F: Load, const R: usize>(w: [*const u8; R], x: &[f32]) -> [f32; R] {
    let mut f = [[_mm512_setzero_ps(); 2]; R];
    let (pairs, rest) = x.as_chunks::<32>();
    for (b, x) in pairs.iter().enumerate() {
        if R > 1 {
            w.iter().for_each(|w| ahead(R, w.wrapping_add(32 * b * F::BYTES), 32 * F::BYTES));
        }
        for h in 0..2 {
            // SAFETY: 32 floats; as many weights.
            unsafe {
                let x = _mm512_loadu_ps(x.as_ptr().add(16 * h));
                for r in 0..R {
                    f[r][h] = _mm512_fmadd_ps(F::load(w[r].add((32 * b + 16 * h) * F::BYTES), !0), x, f[r][h]);
                }
            }
        }
    }
    for (h, x_rest) in rest.chunks(16).enumerate() {
        let mask = ((1u32 << x_rest.len()) - 1) as __mmask16;
        let at = (x.len() - rest.len() + 16 * h) * F::BYTES;
        // SAFETY: the mask leaves what is there.
        unsafe {
            let x = _mm512_maskz_loadu_ps(mask, x_rest.as_ptr());
            for r in 0..R {
                f[r][h] = _mm512_fmadd_ps(F::load(w[r].add(at), mask), x, f[r][h]);
            }
        }
    }
    f.map(|f| _mm512_reduce_add_ps(_mm512_add_ps(f[0], f[1])))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
pub(crate) unsafe fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // SAFETY: the same length.
    unsafe { dots::<F32, 1>([a.as_ptr().cast()], b)[0] }
}
