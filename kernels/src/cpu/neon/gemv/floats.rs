//! F32, F16 and BF16: converted in registers.

#![allow(clippy::needless_range_loop, reason = "an index runs over the registers of several arrays at once")]

use std::arch::aarch64::*;

use crate::cpu::kernels::Rows;
use crate::cpu::pack::{BF16, F16, F32, Float};
use crate::cpu::streams::{STREAMS, ahead, by_rows};
use crate::float::neon::Neon;
use crate::float::simd::Simd;

/// Four weights.
pub(super) trait Load: Float {
    /// # Safety
    /// Four weights can be read at `at`, which need not be aligned.
    unsafe fn load(at: *const u8) -> float32x4_t;
}

impl Load for F32 {
    #[inline(always)]
    unsafe fn load(at: *const u8) -> float32x4_t {
        // SAFETY: promised by the caller.
        unsafe { vreinterpretq_f32_u8(vld1q_u8(at)) }
    }
}

impl Load for F16 {
    #[inline(always)]
    unsafe fn load(at: *const u8) -> float32x4_t {
        // SAFETY: promised by the caller.
        unsafe { Neon::new().load_f16(at) }
    }
}

impl Load for BF16 {
    #[inline(always)]
    unsafe fn load(at: *const u8) -> float32x4_t {
        // SAFETY: promised by the caller.
        unsafe { vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(at)))) }
    }
}

pub(super) unsafe fn gemv<F: Load>(rows: Rows<'_>, x: &[f32], out: &mut [f32]) {
    assert!(rows.row_bytes() == x.len() * F::BYTES);
    // SAFETY: rows and column have the same length.
    by_rows(rows, out, |w| unsafe { dots::<F, STREAMS>(w, x) });
}

#[inline]
unsafe fn dots<F: Load, const R: usize>(w: [*const u8; R], x: &[f32]) -> [f32; R] {
    // SAFETY: every aarch64 has NEON; what is read lies in the rows, as the caller promises.
    unsafe {
        let mut f = [[vdupq_n_f32(0.0); 2]; R];
        let (chunks, rest) = x.as_chunks::<8>();
        for (b, x) in chunks.iter().enumerate() {
            w.iter().for_each(|w| ahead(R, w.wrapping_add(8 * b * F::BYTES), 8 * F::BYTES));
            for h in 0..2 {
                let x = vld1q_f32(x.as_ptr().add(4 * h));
                for r in 0..R {
                    f[r][h] = vfmaq_f32(f[r][h], F::load(w[r].add((8 * b + 4 * h) * F::BYTES)), x);
                }
            }
        }
        std::array::from_fn(|r| {
            let mut sum = vaddvq_f32(vaddq_f32(f[r][0], f[r][1]));
            for (i, x) in rest.iter().enumerate() {
                let at = w[r].add((8 * chunks.len() + i) * F::BYTES);
                sum += F::one(std::slice::from_raw_parts(at, F::BYTES)) * x;
            }
            sum
        })
    }
}

pub(crate) unsafe fn dot(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    // SAFETY: the same length.
    unsafe { dots::<F32, 1>([a.as_ptr().cast()], b)[0] }
}
