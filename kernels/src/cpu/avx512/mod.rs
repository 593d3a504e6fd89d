//! AVX-512 with VNNI: sixteen rows to a register, four products to a lane and instruction.

mod gemm;
mod gemv;

use std::arch::x86_64::*;

use super::avx2::decode;
use super::kernels::Kernels;
use super::lanes::{Lanes, RowPtrs};
use crate::acts::{self, Col32Mut, Col256Mut};
use crate::probe::Int8Peak;

pub(crate) static KERNELS: Kernels = Kernels {
    quantize32,
    quantize256,
    decode,
    dot: gemv::dot,
    gemv: gemv::kernel,
    gemm: gemm::kernel,
    int8_peak: Int8Peak { products: 16 * 64, rounds: int8_peak },
};

/// Sixteen independent sums: more than the latency of `vpdpbusd` times its rate on any processor.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn int8_peak(rounds: usize) -> i32 {
    let (w, a) = (_mm512_set1_epi8(3), _mm512_set1_epi8(-5));
    let mut sums = [_mm512_setzero_si512(); 16];
    for _ in 0..rounds {
        sums.iter_mut().for_each(|sum| *sum = _mm512_dpbusd_epi32(*sum, w, a));
    }
    _mm512_reduce_add_epi32(sums.into_iter().fold(_mm512_setzero_si512(), |a, b| _mm512_add_epi32(a, b)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
unsafe fn quantize32(x: &[f32], out: Col32Mut<'_>) {
    acts::quantize32(x, out);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
unsafe fn quantize256(x: &[f32], out: Col256Mut<'_>) {
    acts::quantize256(x, out);
}

/// Adds the products of pairs of 16-bit integers. The intrinsic compiles to a multiplication and an addition, because
/// of a processor that takes longer for the two in one.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dpwssd(mut acc: __m512i, a: __m512i, b: __m512i) -> __m512i {
    // SAFETY: arithmetic on registers alone, with an instruction that the caller has.
    unsafe {
        std::arch::asm!(
            "vpdpwssd {0}, {1}, {2}", inout(zmm_reg) acc, in(zmm_reg) a, in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags)
        )
    };
    acc
}

/// Sixteen lanes.
pub(super) struct Zmm;

impl Lanes for Zmm {
    type V = __m512i;
    type F = __m512;
    const N: usize = 16;

    #[inline(always)]
    unsafe fn gather16(rows: &RowPtrs, at: usize) -> [__m512i; 4] {
        // SAFETY: promised by the caller.
        unsafe {
            let load = |i: usize| _mm_loadu_si128(rows.at(i, at).cast());
            // Register i holds rows i, i + 4, i + 8 and i + 12; transposed within the quarters, lane 4 j + i is row 4 j + i.
            let four = |i: usize| {
                let v = _mm512_castsi128_si512(load(i));
                let v = _mm512_inserti32x4::<1>(v, load(i + 4));
                let v = _mm512_inserti32x4::<2>(v, load(i + 8));
                _mm512_inserti32x4::<3>(v, load(i + 12))
            };
            let (a, b, c, d) = (four(0), four(1), four(2), four(3));
            let (ab01, ab23) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let (cd01, cd23) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            [
                _mm512_unpacklo_epi64(ab01, cd01),
                _mm512_unpackhi_epi64(ab01, cd01),
                _mm512_unpacklo_epi64(ab23, cd23),
                _mm512_unpackhi_epi64(ab23, cd23),
            ]
        }
    }

    #[inline(always)]
    unsafe fn gather4(rows: &RowPtrs, at: usize) -> __m512i {
        // SAFETY: promised by the caller.
        unsafe {
            let base = rows.base.add(at).cast();
            let low = _mm512_i64gather_epi32::<1>(_mm512_loadu_si512(rows.offsets.as_ptr().cast()), base);
            let high = _mm512_i64gather_epi32::<1>(_mm512_loadu_si512(rows.offsets.as_ptr().add(8).cast()), base);
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
        }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, v: __m512i) {
        // SAFETY: promised by the caller.
        unsafe { _mm512_storeu_si512(to.cast(), v) }
    }

    #[inline(always)]
    unsafe fn store_floats(to: *mut f32, f: __m512) {
        // SAFETY: promised by the caller.
        unsafe { _mm512_storeu_ps(to, f) }
    }

    #[inline(always)]
    unsafe fn splat(x: u32) -> __m512i {
        // SAFETY: promised by the caller.
        unsafe { _mm512_set1_epi32(x as i32) }
    }

    #[inline(always)]
    unsafe fn and(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: promised by the caller.
        unsafe { _mm512_and_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: promised by the caller.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn xor(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: promised by the caller.
        unsafe { _mm512_xor_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn shr(a: __m512i, by: u32) -> __m512i {
        // SAFETY: promised by the caller.
        unsafe { _mm512_srlv_epi32(a, _mm512_set1_epi32(by as i32)) }
    }

    #[inline(always)]
    unsafe fn shl(a: __m512i, by: u32) -> __m512i {
        // SAFETY: promised by the caller.
        unsafe { _mm512_sllv_epi32(a, _mm512_set1_epi32(by as i32)) }
    }

    #[inline(always)]
    unsafe fn sar(a: __m512i, by: u32) -> __m512i {
        // SAFETY: promised by the caller.
        unsafe { _mm512_srav_epi32(a, _mm512_set1_epi32(by as i32)) }
    }

    #[inline(always)]
    unsafe fn mul_int(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: promised by the caller.
        unsafe { _mm512_mullo_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn sub_int(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: promised by the caller.
        unsafe { _mm512_sub_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], index: __m512i) -> __m512i {
        // SAFETY: promised by the caller.
        unsafe { _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), index) }
    }

    #[inline(always)]
    unsafe fn f16(v: __m512i) -> __m512 {
        // SAFETY: promised by the caller.
        unsafe { _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)) }
    }

    #[inline(always)]
    unsafe fn to_float(v: __m512i) -> __m512 {
        // SAFETY: promised by the caller.
        unsafe { _mm512_cvtepi32_ps(v) }
    }

    #[inline(always)]
    unsafe fn as_float(v: __m512i) -> __m512 {
        // SAFETY: promised by the caller.
        unsafe { _mm512_castsi512_ps(v) }
    }

    /// `vpdpbusd` takes unsigned bytes and does not saturate, so every format stands 128 above: one constant, through
    /// which the sums of the activations start the accumulators.
    #[inline(always)]
    unsafe fn centre(q: __m512i, offset: u8) -> __m512i {
        // SAFETY: promised by the caller.
        unsafe { _mm512_add_epi8(q, _mm512_set1_epi8((128 - offset) as i8)) }
    }
}
