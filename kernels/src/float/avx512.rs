//! Vectors of 16 floats: AVX-512.

use std::arch::x86_64::*;

use super::avx2::{Avx2, eight_columns};
use super::simd::{MAX_LANES, Simd};

/// Proof of AVX-512 F, BW, VL and DQ.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The machine has AVX-512 F, BW, VL and DQ.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Avx512(())
    }
}

macro_rules! ops {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: `self` proves that the instructions exist; what is read and written is borrowed.
            unsafe { $body }
        }
    )*};
}

impl Simd for Avx512 {
    type V = __m512;
    type M = __mmask16;
    type I = __m512i;
    const LANES: usize = 16;
    const WIDE: bool = true;

    ops! {
        fn splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        fn add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        fn sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        fn mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fn div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        fn max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        fn min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        fn abs(a: __m512) -> __m512 = _mm512_abs_ps(a);
        fn round(a: __m512) -> __m512 = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        fn scale_exp(v: __m512, n: __m512) -> __m512 = _mm512_scalef_ps(v, n);
        fn if_less(a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 =
            _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes);
        fn sqrt(a: __m512) -> __m512 = _mm512_sqrt_ps(a);
        fn less(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b);
        fn equal(a: __m512, b: __m512) -> __mmask16 = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b);
        fn select(m: __mmask16, yes: __m512, no: __m512) -> __m512 = _mm512_mask_blend_ps(m, no, yes);
        fn splat_int(x: u32) -> __m512i = _mm512_set1_epi32(x as i32);
        fn to_int(a: __m512) -> __m512i = _mm512_cvttps_epi32(a);
        fn to_float(a: __m512i) -> __m512 = _mm512_cvtepi32_ps(a);
        fn bits(a: __m512) -> __m512i = _mm512_castps_si512(a);
        fn sub_int(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
        fn and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        fn or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        fn shl(a: __m512i, by: u32) -> __m512i = _mm512_sll_epi32(a, _mm_cvtsi32_si128(by as i32));
        fn shr(a: __m512i, by: u32) -> __m512i = _mm512_srl_epi32(a, _mm_cvtsi32_si128(by as i32));
        fn descend(i: __m512i, left: __mmask16) -> __m512i = {
            let even = _mm512_add_epi32(i, i);
            _mm512_mask_add_epi32(even, !left, even, _mm512_set1_epi32(1))
        };
        fn pick(table: &[f32; 8], i: __m512i) -> __m512 =
            _mm512_permutexvar_ps(i, _mm512_broadcast_f32x8(_mm256_loadu_ps(table.as_ptr())));
        fn to_array(a: __m512i) -> [u32; MAX_LANES] = std::mem::transmute::<__m512i, [u32; MAX_LANES]>(a);
        fn f16_bits(a: __m512) -> __m512i = _mm512_cvtepu16_epi32(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a));
        fn f16_value(a: __m512i) -> __m512 = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a));
        fn splat_f16(bits: u16) -> __m512 = _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))));
        fn sum(a: __m512) -> f32 = {
            // Halves, so that the order is fixed by us and not by the compiler.
            let a = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
        };
        fn sums(a: [__m512; 4]) -> [f32; 4] = {
            let a0 = _mm256_add_ps(_mm512_castps512_ps256(a[0]), _mm512_extractf32x8_ps::<1>(a[0]));
            let a1 = _mm256_add_ps(_mm512_castps512_ps256(a[1]), _mm512_extractf32x8_ps::<1>(a[1]));
            let a2 = _mm256_add_ps(_mm512_castps512_ps256(a[2]), _mm512_extractf32x8_ps::<1>(a[2]));
            let a3 = _mm256_add_ps(_mm512_castps512_ps256(a[3]), _mm512_extractf32x8_ps::<1>(a[3]));
            let halves = _mm256_hadd_ps(_mm256_hadd_ps(a0, a1), _mm256_hadd_ps(a2, a3));
            let sums = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
            std::mem::transmute::<__m128, [f32; 4]>(sums)
        };
        fn top(a: __m512) -> f32 = _mm512_reduce_max_ps(a);
    }

    #[inline(always)]
    fn both(self, a: __mmask16, b: __mmask16) -> __mmask16 {
        a & b
    }

    #[inline(always)]
    fn not(self, a: __mmask16) -> __mmask16 {
        !a
    }

    #[inline(always)]
    fn any(self, a: __mmask16) -> bool {
        a != 0
    }

    #[inline(always)]
    fn columns(self, rows: &[&[f32]; MAX_LANES], at: usize, out: &mut [__m512]) {
        // SAFETY: a machine with AVX-512 has AVX2, FMA and F16C, and is not taken for one otherwise.
        let half = unsafe { Avx2::new() };
        let (low, high) = (rows.first_chunk().expect("16 rows"), rows.last_chunk().expect("16 rows"));
        for (at, out) in [at, at + 8].into_iter().zip(out[..16].chunks_mut(8)) {
            let squares = eight_columns(half, low, at).into_iter().zip(eight_columns(half, high, at));
            for (out, (low, high)) in out.iter_mut().zip(squares) {
                // SAFETY: `self` proves that the instructions exist.
                *out = unsafe { _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high) };
            }
        }
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a hint, which reads nothing and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> __m512 {
        // SAFETY: the caller's promise: 32 bytes.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }

    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8, v: __m512) {
        // SAFETY: the caller's promise: 32 bytes.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> __m512 {
        // SAFETY: the caller's promise: 16 bytes.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, a: __m512i) {
        // SAFETY: the caller's promise: 16 bytes.
        unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(a)) }
    }
}
