//! AVX2 with FMA and F16C: eight rows to a register, products of bytes in pairs of 16 bits; and the same with AVX-VNNI,
//! which adds four products to 32 bits at once. The kernels are one, with a constant `VNNI`.

mod dots;
mod gemm;
mod gemv;

use std::arch::x86_64::*;
use std::marker::PhantomData;

use dots::Dots;

use super::kernels::Kernels;
use super::lanes::{Lanes, RowPtrs};
use crate::DType;
use crate::acts::{self, Col32Mut, Col256Mut};
use crate::probe::Int8Peak;
use crate::quantize::decode_row_inline;

pub(crate) static PLAIN: Kernels = Kernels {
    quantize32,
    quantize256,
    decode,
    dot: gemv::dot,
    gemv: gemv::kernel::<false>,
    gemm: gemm::kernel::<false>,
    int8_peak: Int8Peak { products: 8 * 32, rounds: int8_peak },
};

pub(crate) static VNNI: Kernels = Kernels {
    gemv: gemv::kernel::<true>,
    gemm: gemm::kernel::<true>,
    int8_peak: Int8Peak { products: 10 * 32, rounds: int8_peak_vnni },
    ..PLAIN
};

/// Ten independent sums: more than the latency of `vpdpbusd` times its rate.
#[target_feature(enable = "avx2")]
unsafe fn int8_peak_vnni(rounds: usize) -> i32 {
    let (w, a) = (_mm256_set1_epi8(3), _mm256_set1_epi8(-5));
    let mut sums = [_mm256_setzero_si256(); 10];
    for _ in 0..rounds {
        // SAFETY: the caller has AVX-VNNI.
        sums.iter_mut().for_each(|sum| *sum = unsafe { dpbusd(*sum, w, a) });
    }
    _mm256_extract_epi32::<0>(sums.into_iter().fold(_mm256_setzero_si256(), |a, b| _mm256_add_epi32(a, b)))
}

/// Adds the products of four unsigned bytes and four signed ones to each 32 bits. As assembly, so that functions with
/// and without it are compiled for the same instructions, and are one.
///
/// # Safety
/// The machine has AVX-VNNI.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dpbusd(mut acc: __m256i, unsigned: __m256i, signed: __m256i) -> __m256i {
    // SAFETY: arithmetic on registers alone.
    unsafe {
        std::arch::asm!("{{vex}} vpdpbusd {0}, {1}, {2}", inout(ymm_reg) acc, in(ymm_reg) unsigned, in(ymm_reg) signed,
                        options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// Adds the products of pairs of 16-bit integers, as [`dpbusd`] does.
///
/// # Safety
/// The machine has AVX-VNNI.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dpwssd(mut acc: __m256i, a: __m256i, b: __m256i) -> __m256i {
    // SAFETY: arithmetic on registers alone.
    unsafe {
        std::arch::asm!("{{vex}} vpdpwssd {0}, {1}, {2}", inout(ymm_reg) acc, in(ymm_reg) a, in(ymm_reg) b,
                        options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// Products of pairs, added up in 16 bits: what no product of bytes can do without.
#[target_feature(enable = "avx2")]
unsafe fn int8_peak(rounds: usize) -> i32 {
    let (w, a) = (_mm256_set1_epi8(3), _mm256_set1_epi8(-5));
    let mut sums = [_mm256_setzero_si256(); 8];
    for _ in 0..rounds {
        for sum in &mut sums {
            let mut pairs;
            // SAFETY: between registers. As assembly, or the product of constants would be made once.
            unsafe {
                std::arch::asm!("vpmaddubsw {0}, {1}, {2}", out(ymm_reg) pairs, in(ymm_reg) w, in(ymm_reg) a,
                                options(nomem, nostack, preserves_flags));
            }
            *sum = _mm256_add_epi16(*sum, pairs);
        }
    }
    let sum = sums.into_iter().fold(_mm256_setzero_si256(), |a, b| _mm256_add_epi16(a, b));
    _mm256_extract_epi32::<0>(sum)
}

/// AVX-512 machines use it too: compiled for them, LLVM gathers from the grids and takes twice as long.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    decode_row_inline(dtype, bytes, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantize32(x: &[f32], out: Col32Mut<'_>) {
    acts::quantize32(x, out);
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn quantize256(x: &[f32], out: Col256Mut<'_>) {
    acts::quantize256(x, out);
}

/// Eight lanes, of panels that are multiplied as `D` says.
struct Ymm<D>(PhantomData<D>);

impl<D: Dots> Lanes for Ymm<D> {
    type V = __m256i;
    type F = __m256;
    const N: usize = 8;
    const WEIGHT_BYTES: usize = if D::SIGNED { 2 } else { 1 };
    const INTEGER_SCALES: bool = D::FACTORS;

    #[inline(always)]
    unsafe fn gather16(rows: &RowPtrs, at: usize) -> [__m256i; 4] {
        // SAFETY: promised by the caller.
        unsafe {
            let load = |i: usize| _mm_loadu_si128(rows.at(i, at).cast());
            // Register i holds rows i and i + 4; transposed within the halves, lane 4 j + i is row 4 j + i.
            let four = |i: usize| _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load(i)), load(i + 4));
            let (a, b, c, d) = (four(0), four(1), four(2), four(3));
            let (ab01, ab23) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let (cd01, cd23) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            [
                _mm256_unpacklo_epi64(ab01, cd01),
                _mm256_unpackhi_epi64(ab01, cd01),
                _mm256_unpacklo_epi64(ab23, cd23),
                _mm256_unpackhi_epi64(ab23, cd23),
            ]
        }
    }

    #[inline(always)]
    unsafe fn gather4(rows: &RowPtrs, at: usize) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe {
            let base = rows.base.add(at).cast();
            let low = _mm256_i64gather_epi32::<1>(base, _mm256_loadu_si256(rows.offsets.as_ptr().cast()));
            let high = _mm256_i64gather_epi32::<1>(base, _mm256_loadu_si256(rows.offsets.as_ptr().add(4).cast()));
            _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
        }
    }

    #[inline(always)]
    unsafe fn store(to: *mut u8, v: __m256i) {
        // SAFETY: promised by the caller.
        unsafe { _mm256_storeu_si256(to.cast(), v) }
    }

    #[inline(always)]
    unsafe fn store_floats(to: *mut f32, f: __m256) {
        // SAFETY: promised by the caller.
        unsafe { _mm256_storeu_ps(to, f) }
    }

    #[inline(always)]
    unsafe fn splat(x: u32) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe { _mm256_set1_epi32(x as i32) }
    }

    #[inline(always)]
    unsafe fn and(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe { _mm256_and_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn xor(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe { _mm256_xor_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn shr(a: __m256i, by: u32) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe { _mm256_srlv_epi32(a, _mm256_set1_epi32(by as i32)) }
    }

    #[inline(always)]
    unsafe fn shl(a: __m256i, by: u32) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe { _mm256_sllv_epi32(a, _mm256_set1_epi32(by as i32)) }
    }

    #[inline(always)]
    unsafe fn sar(a: __m256i, by: u32) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe { _mm256_srav_epi32(a, _mm256_set1_epi32(by as i32)) }
    }

    #[inline(always)]
    unsafe fn mul_int(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe { _mm256_mullo_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn sub_int(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe { _mm256_sub_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn lookup(table: &[u8; 16], index: __m256i) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe { _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), index) }
    }

    #[inline(always)]
    unsafe fn f16(v: __m256i) -> __m256 {
        // SAFETY: promised by the caller.
        unsafe {
            let low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
            let packed = _mm256_permute4x64_epi64::<0x08>(_mm256_packus_epi32(low, low));
            _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
        }
    }

    #[inline(always)]
    unsafe fn to_float(v: __m256i) -> __m256 {
        // SAFETY: promised by the caller.
        unsafe { _mm256_cvtepi32_ps(v) }
    }

    #[inline(always)]
    unsafe fn as_float(v: __m256i) -> __m256 {
        // SAFETY: promised by the caller.
        unsafe { _mm256_castsi256_ps(v) }
    }

    #[inline(always)]
    unsafe fn store_weights(to: *mut u8, v: __m256i) {
        // SAFETY: promised by the caller.
        unsafe {
            Self::store(to, v);
            if D::SIGNED {
                Self::store(to.add(32), _mm256_abs_epi8(v));
            }
        }
    }

    #[inline(always)]
    unsafe fn scale(v: __m256i) -> __m256 {
        // SAFETY: promised by the caller.
        unsafe {
            match D::FACTORS {
                true => _mm256_castsi256_ps(Self::pair(v, v)),
                false => _mm256_cvtepi32_ps(v),
            }
        }
    }

    /// Sums of products in 16 bits are only as long as the bytes are small: they stay unsigned, and the offset is subtracted
    /// through the sums of the activations.
    #[inline(always)]
    unsafe fn centre(q: __m256i, offset: u8) -> __m256i {
        // SAFETY: promised by the caller.
        unsafe { if offset == 128 && D::SIGNED { _mm256_xor_si256(q, _mm256_set1_epi8(-128)) } else { q } }
    }
}
