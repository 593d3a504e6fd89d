//! Vectors of 8 floats: AVX2, FMA, F16C.

use std::arch::x86_64::*;

use super::simd::{MAX_LANES, Simd};

/// Proof of AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The machine has AVX2, FMA and F16C.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Avx2(())
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

impl Simd for Avx2 {
    type V = __m256;
    type M = __m256;
    type I = __m256i;
    const LANES: usize = 8;
    const WIDE: bool = false;

    ops! {
        fn splat(x: f32) -> __m256 = _mm256_set1_ps(x);
        fn add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
        fn sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        fn mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        fn div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
        fn fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        fn max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
        fn min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
        fn abs(a: __m256) -> __m256 = _mm256_andnot_ps(_mm256_set1_ps(-0.0), a);
        fn round(a: __m256) -> __m256 = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
        fn scale_exp(v: __m256, n: __m256) -> __m256 = {
            // Two factors, for 2^-152 and 2^128 are not f32.
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let bias = _mm256_set1_epi32(127);
            let a = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
            let b = _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias));
            _mm256_mul_ps(_mm256_mul_ps(v, _mm256_castsi256_ps(a)), _mm256_castsi256_ps(b))
        };
        fn if_less(a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 =
            _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b));
        fn sqrt(a: __m256) -> __m256 = _mm256_sqrt_ps(a);
        fn less(a: __m256, b: __m256) -> __m256 = _mm256_cmp_ps::<_CMP_LT_OQ>(a, b);
        fn equal(a: __m256, b: __m256) -> __m256 = _mm256_cmp_ps::<_CMP_EQ_OQ>(a, b);
        fn both(a: __m256, b: __m256) -> __m256 = _mm256_and_ps(a, b);
        fn not(a: __m256) -> __m256 = _mm256_xor_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(-1)));
        fn any(a: __m256) -> bool = _mm256_movemask_ps(a) != 0;
        fn select(m: __m256, yes: __m256, no: __m256) -> __m256 = _mm256_blendv_ps(no, yes, m);
        fn splat_int(x: u32) -> __m256i = _mm256_set1_epi32(x as i32);
        fn to_int(a: __m256) -> __m256i = _mm256_cvttps_epi32(a);
        fn to_float(a: __m256i) -> __m256 = _mm256_cvtepi32_ps(a);
        fn bits(a: __m256) -> __m256i = _mm256_castps_si256(a);
        fn sub_int(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi32(a, b);
        fn and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
        fn or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
        fn shl(a: __m256i, by: u32) -> __m256i = _mm256_sll_epi32(a, _mm_cvtsi32_si128(by as i32));
        fn shr(a: __m256i, by: u32) -> __m256i = _mm256_srl_epi32(a, _mm_cvtsi32_si128(by as i32));
        fn descend(i: __m256i, left: __m256) -> __m256i = {
            // A truth is -1.
            let odd = _mm256_add_epi32(_mm256_set1_epi32(1), _mm256_castps_si256(left));
            _mm256_add_epi32(_mm256_add_epi32(i, i), odd)
        };
        fn pick(table: &[f32; 8], i: __m256i) -> __m256 = _mm256_permutevar8x32_ps(_mm256_loadu_ps(table.as_ptr()), i);
        fn to_array(a: __m256i) -> [u32; MAX_LANES] = {
            let mut lanes = [0; MAX_LANES];
            _mm256_storeu_si256(lanes.as_mut_ptr().cast(), a);
            lanes
        };
        fn f16_bits(a: __m256) -> __m256i = _mm256_cvtepu16_epi32(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a));
        fn f16_value(a: __m256i) -> __m256 = {
            let halves = _mm256_packus_epi32(a, a);
            _mm256_cvtph_ps(_mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(halves)))
        };
        fn splat_f16(bits: u16) -> __m256 = _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))));
        fn sum(a: __m256) -> f32 = {
            let a = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)))
        };
        fn sums(a: [__m256; 4]) -> [f32; 4] = {
            let halves = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
            let sums = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
            std::mem::transmute::<__m128, [f32; 4]>(sums)
        };
        fn top(a: __m256) -> f32 = {
            let a = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let a = _mm_max_ps(a, _mm_movehl_ps(a, a));
            _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)))
        };
    }

    #[inline(always)]
    fn columns(self, rows: &[&[f32]; MAX_LANES], at: usize, out: &mut [__m256]) {
        let square = eight_columns(self, rows.first_chunk().expect("16 rows"), at);
        out[..8].copy_from_slice(&square);
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a hint, which reads nothing and never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(p) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_ps(p, v) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> __m256 {
        // SAFETY: the caller's promise: 16 bytes.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }

    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8, v: __m256) {
        // SAFETY: the caller's promise: 16 bytes.
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)) }
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> __m256 {
        // SAFETY: the caller's promise: 8 bytes.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))) }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, a: __m256i) {
        // SAFETY: the caller's promise: 8 bytes.
        unsafe {
            let order = _mm256_setr_epi8(
                0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, //
                0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1,
            );
            let fours = _mm256_shuffle_epi8(a, order);
            let eight = _mm_unpacklo_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256::<1>(fours));
            _mm_storel_epi64(p.cast(), eight);
        }
    }
}

/// Eight floats of each of eight rows, on their side.
#[inline(always)]
pub(super) fn eight_columns(s: Avx2, rows: &[&[f32]; 8], at: usize) -> [__m256; 8] {
    let mut r = [s.splat(0.0); 8];
    for (r, row) in r.iter_mut().zip(rows) {
        // SAFETY: the slice has the 8 floats that are read of it.
        *r = unsafe { s.load(row[at..at + 8].as_ptr()) };
    }
    // SAFETY: `s` proves that the instructions exist.
    unsafe {
        // Pairs of rows, then fours, then all eight.
        let low = |i: usize| _mm256_unpacklo_ps(r[i], r[i + 1]);
        let high = |i: usize| _mm256_unpackhi_ps(r[i], r[i + 1]);
        let (a, b) = ([low(0), low(4), high(0), high(4)], [low(2), low(6), high(2), high(6)]);
        let first = |i: usize| _mm256_shuffle_ps::<0x44>(a[i], b[i]);
        let second = |i: usize| _mm256_shuffle_ps::<0xee>(a[i], b[i]);
        let (top, bottom) = ([first(0), second(0), first(2), second(2)], [first(1), second(1), first(3), second(3)]);
        let near = |i: usize| _mm256_permute2f128_ps::<0x20>(top[i], bottom[i]);
        let far = |i: usize| _mm256_permute2f128_ps::<0x31>(top[i], bottom[i]);
        [near(0), near(1), near(2), near(3), far(0), far(1), far(2), far(3)]
    }
}
