//! Rows times one column: native blocks streamed once (`cpu/streams.rs`).
//!
//! Thirty-two weights at a time are unpacked to bytes in their natural order, so the activations are read as they lie.

use std::arch::x86_64::*;

use crate::DType;
use crate::block::F16Bytes;
use crate::cpu::kernels::Gemv;

pub(super) use floats::dot;

/// `$body` for each of the four rows, one after the other and not as a loop: the compiler leaves a loop with a long body
/// one, and then keeps what is of a row in memory.
macro_rules! each_stream {
    (|$r:ident| $body:block) => {{
        each_stream!(@ $r = 0, $body);
        each_stream!(@ $r = 1, $body);
        each_stream!(@ $r = 2, $body);
        each_stream!(@ $r = 3, $body);
    }};
    (@ $r:ident = $i:literal, $body:block) => {{
        #[allow(non_upper_case_globals, reason = "it is an index to whoever writes the body")]
        const $r: usize = $i;
        $body
    }};
}

mod blocks256;
mod blocks32;
mod floats;

pub(super) fn kernel<const VNNI: bool>(dtype: DType) -> Option<Gemv> {
    use crate::block::*;
    use crate::cpu::pack::{BF16, F16, F32};
    Some(match dtype {
        DType::F32 => Gemv::F32(floats::gemv::<F32>),
        DType::F16 => Gemv::F32(floats::gemv::<F16>),
        DType::BF16 => Gemv::F32(floats::gemv::<BF16>),
        DType::Q4_0 => blocks32::kernel::<BlockQ4_0, VNNI>(),
        DType::Q4_1 => blocks32::kernel::<BlockQ4_1, VNNI>(),
        DType::Q5_0 => blocks32::kernel::<BlockQ5_0, VNNI>(),
        DType::Q5_1 => blocks32::kernel::<BlockQ5_1, VNNI>(),
        DType::Q8_0 => blocks32::kernel::<BlockQ8_0, VNNI>(),
        DType::IQ4_NL => blocks32::kernel::<BlockIQ4_NL, VNNI>(),
        DType::MXFP4 => blocks32::kernel::<BlockMXFP4, VNNI>(),
        DType::Q2_K => blocks256::kernel::<BlockQ2_K, VNNI>(),
        DType::Q3_K => blocks256::kernel::<BlockQ3_K, VNNI>(),
        DType::Q4_K => blocks256::kernel::<BlockQ4_K, VNNI>(),
        DType::Q5_K => blocks256::kernel::<BlockQ5_K, VNNI>(),
        DType::Q6_K => blocks256::kernel::<BlockQ6_K, VNNI>(),
        DType::IQ4_XS => blocks256::kernel::<BlockIQ4_XS, VNNI>(),
        _ => return None,
    })
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Bits `shift..` of each byte that are in `mask`.
#[inline]
#[target_feature(enable = "avx2")]
fn bits(bytes: __m256i, shift: i32, mask: i8) -> __m256i {
    _mm256_and_si256(_mm256_srl_epi16(bytes, _mm_cvtsi32_si128(shift)), _mm256_set1_epi8(mask))
}

/// The nibbles of 16 bytes: the low ones, then the high ones.
#[inline]
#[target_feature(enable = "avx2")]
fn nibbles16(bytes: &[u8; 16]) -> __m256i {
    // SAFETY: 16 bytes.
    let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    let both = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(bytes), _mm_srli_epi16::<4>(bytes));
    _mm256_and_si256(both, _mm256_set1_epi8(0x0f))
}

#[inline]
#[target_feature(enable = "avx2")]
fn lookup(table: &[i8; 16], index: __m256i) -> __m256i {
    // SAFETY: 16 bytes.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), index)
}

/// Sums of two products, 16 bits. Signed bytes: `|w| x sign(w) a`, at most 2 x 128 x 127.
#[inline]
#[target_feature(enable = "avx2")]
fn pairs<const SIGNED: bool>(q: __m256i, a: __m256i) -> __m256i {
    if SIGNED { _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(a, q)) } else { _mm256_maddubs_epi16(q, a) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum(f: __m256) -> f32 {
    let f = _mm_add_ps(_mm256_castps256_ps128(f), _mm256_extractf128_ps::<1>(f));
    let f = _mm_add_ps(f, _mm_movehl_ps(f, f));
    _mm_cvtss_f32(_mm_add_ss(f, _mm_movehdup_ps(f)))
}

/// The floats of two f16 each of four rows: `[first, second]` of one row after the other.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn heads(rows: [(F16Bytes, F16Bytes); 4]) -> __m256 {
    let [a, b, c, d] = rows.map(|(a, b)| i32::from_le_bytes([a[0], a[1], b[0], b[1]]));
    _mm256_cvtph_ps(_mm_set_epi32(d, c, b, a))
}

/// The first of the two floats of row `r`, everywhere.
#[inline]
#[target_feature(enable = "avx2")]
fn first_of(r: usize, heads: __m256) -> __m256 {
    _mm256_permutevar8x32_ps(heads, _mm256_set1_epi32(2 * r as i32))
}
