//! The tiles of AVX2: 16 rows (two registers) times 3 columns, or 8 times 3 where no more rows are left.
//!
//! ```text
//!   pairs of products, 16 bits:   acc16 += maddubs(weights, activations)     as many times as fit 16 bits
//!   sums of four, 32 bits:        acc32 += madd(acc16, 1)
//! ```
//!
//! With AVX-VNNI one instruction does both, in 32 bits, and no group below is needed.
//!
//! A pair is at most `2 x 127 x largest byte`: with four-bit weights 3,810, so eight of them are added in 16 bits; five
//! bits: four, six bits: two. Eight-bit weights are signed here, and `|w| x sign(w) a` stays just below 32,768.

#![allow(clippy::needless_range_loop, reason = "an index runs over the registers of several arrays at once")]

use std::arch::x86_64::*;

use super::{Ymm, dpbusd};
use crate::DType;
use crate::acts::{ActKind, Acts, Raw32, Raw256};
use crate::block::Block;
use crate::cpu::kernels::{Columns, Gemm, Panel, Rows, Span, TASK_ROWS, Tile};
use crate::cpu::pack::{self, BF16, Below, F16, F32, Float, Format, Source};

const WIDTH: usize = 3;
/// Columns of a tile of floats: without integer accumulators there is room for twice as many.
const FLOAT_WIDTH: usize = 6;

/// Instead of a number of pairs that may be added in 16 bits, for signed bytes: not even two may.
const SIGNED: usize = 0;

pub(super) fn kernel<const VNNI: bool>(dtype: DType) -> Option<Gemm> {
    Some(match dtype {
        DType::Q4_0 => quantized::<pack::Q4_0, 8, VNNI>(),
        DType::Q4_1 => quantized::<pack::Q4_1, 8, VNNI>(),
        DType::Q5_0 => quantized::<pack::Q5_0, 4, VNNI>(),
        DType::Q5_1 => quantized::<pack::Q5_1, 4, VNNI>(),
        DType::Q8_0 => quantized::<pack::Q8_0, SIGNED, VNNI>(),
        DType::IQ4_NL => quantized::<pack::IQ4_NL, SIGNED, VNNI>(),
        DType::MXFP4 => quantized::<pack::MXFP4, 4, VNNI>(),
        DType::Q2_K => quantized::<pack::Q2_K, 4, VNNI>(),
        DType::Q3_K => quantized::<pack::Q3_K, 4, VNNI>(),
        DType::Q4_K => quantized::<pack::Q4_K, 8, VNNI>(),
        DType::Q5_K => quantized::<pack::Q5_K, 4, VNNI>(),
        DType::Q6_K => quantized::<pack::Q6_K, 2, VNNI>(),
        DType::IQ4_XS => quantized::<pack::IQ4_XS, SIGNED, VNNI>(),
        DType::F32 => floats::<F32>(),
        DType::F16 => floats::<F16>(),
        DType::BF16 => floats::<BF16>(),
        _ => return None,
    })
}

fn quantized<F: Format, const GROUP: usize, const VNNI: bool>() -> Gemm {
    let x32 = ActKind::of(F::Block::DTYPE) == ActKind::Q8x32;
    let (chunk, tile): (_, Tile) =
        if x32 { (512, tiles32::<F, GROUP, VNNI>) } else { (256, tiles256::<F, GROUP, VNNI>) };
    Gemm { rows: 16, chunk, pack: pack_quantized::<F, VNNI>, tile }
}

fn floats<F: Float>() -> Gemm {
    Gemm { rows: 16, chunk: 256, pack: pack_floats::<F>, tile: tiles_floats }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack_quantized<F: Format, const VNNI: bool>(rows: Rows<'_>, span: Span, panel: &mut Panel) {
    // SAFETY: promised by the caller.
    unsafe { pack::pack::<F, Ymm<VNNI>>(rows, span, panel) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack_floats<F: Float>(rows: Rows<'_>, span: Span, panel: &mut Panel) {
    // SAFETY: promised by the caller.
    unsafe { pack::pack_floats::<F, Ymm<false>>(rows, span, panel) }
}

/// `$call` with the constants `$P` and `$N` set to the registers of rows and the columns at hand.
macro_rules! dispatch {
    ($p:expr, $n:expr, [$($width:literal)*], |$P:ident, $N:ident| $call:expr) => {
        match ($p, $n) {
            $((1, $width) => { const $P: usize = 1; const $N: usize = $width; $call })*
            $((2, $width) => { const $P: usize = 2; const $N: usize = $width; $call })*
            _ => unreachable!("no tile of {} x {}", $p, $n),
        }
    };
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tiles32<F: Format, const GROUP: usize, const VNNI: bool>(
    panel: &Panel,
    span: Span,
    x: &Acts,
    columns: Columns<'_>,
    sums: &mut [f32],
) {
    let registers = span.rows.div_ceil(8);
    let w: [Source; 2] = std::array::from_fn(|p| {
        pack::source::<Ymm<VNNI>>(panel, span.len, F::SUB, F::Block::DTYPE.block_elems(), p.min(registers - 1))
    });
    let x = x.raw32(span.k);
    for j in (0..columns.len()).step_by(WIDTH) {
        let n = WIDTH.min(columns.len() - j);
        let index: [usize; WIDTH] = std::array::from_fn(|c| columns.at(j + c.min(n - 1)));
        let sums = &mut sums[j * TASK_ROWS..][..(n - 1) * TASK_ROWS + registers * 8];
        // SAFETY: promised by the caller.
        unsafe {
            dispatch!(registers, n, [1 2 3], |P, N| tile32::<F, GROUP, VNNI, P, N>(&w, span, &x, &index, sums.as_mut_ptr()))
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile32<F: Format, const GROUP: usize, const VNNI: bool, const P: usize, const N: usize>(
    w: &[Source; 2],
    span: Span,
    x: &Raw32<'_>,
    index: &[usize; WIDTH],
    sums: *mut f32,
) {
    // SAFETY: promised by the caller: the panel holds `span`, the columns exist, `sums` has room for them.
    unsafe {
        let cols: [_; N] = std::array::from_fn(|c| x.column(index[c]));
        let mut f = [[_mm256_setzero_ps(); N]; P];
        if span.k > 0 {
            for (p, f) in f.iter_mut().enumerate() {
                for (c, f) in f.iter_mut().enumerate() {
                    *f = _mm256_loadu_ps(sums.add(c * TASK_ROWS + p * 8));
                }
            }
        }
        for b in 0..span.len / 32 {
            let q = cols.each_ref().map(|col| col.q.add(b * 32));
            let mut acc = dots::<GROUP, VNNI, P, N, 8>(w, b * 8, &q);
            if let Some(shift) = shift::<F>(VNNI) {
                for c in 0..N {
                    let bias = _mm256_set1_epi32(*cols[c].bias.add(b) >> shift);
                    (0..P).for_each(|p| acc[p][c] = _mm256_add_epi32(acc[p][c], bias));
                }
            }
            for p in 0..P {
                let scale = _mm256_loadu_ps(w[p].scale.add(b * 8));
                for c in 0..N {
                    let dot = _mm256_mul_ps(_mm256_cvtepi32_ps(acc[p][c]), _mm256_set1_ps(*cols[c].d.add(b)));
                    f[p][c] = _mm256_fmadd_ps(dot, scale, f[p][c]);
                }
                if let Below::Float = F::BELOW {
                    let min = _mm256_loadu_ps(w[p].min.add(b * 8));
                    for c in 0..N {
                        f[p][c] = _mm256_fmadd_ps(min, _mm256_set1_ps(*cols[c].ds.add(b)), f[p][c]);
                    }
                }
            }
        }
        for (p, f) in f.iter().enumerate() {
            for (c, f) in f.iter().enumerate() {
                _mm256_storeu_ps(sums.add(c * TASK_ROWS + p * 8), *f);
            }
        }
    }
}

/// By how much -128 times a sum is shifted to become the offset times the sum; nothing where there is no offset.
const fn shift<F: Format>(vnni: bool) -> Option<u32> {
    match F::BELOW {
        Below::Offset(128) if !vnni => None, // signed bytes
        Below::Float | Below::Minimum => None,
        Below::Offset(offset) => Some(7 - offset.trailing_zeros()),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tiles256<F: Format, const GROUP: usize, const VNNI: bool>(
    panel: &Panel,
    span: Span,
    x: &Acts,
    columns: Columns<'_>,
    sums: &mut [f32],
) {
    let registers = span.rows.div_ceil(8);
    let w: [Source; 2] = std::array::from_fn(|p| {
        pack::source::<Ymm<VNNI>>(panel, span.len, F::SUB, F::Block::DTYPE.block_elems(), p.min(registers - 1))
    });
    let x = x.raw256(span.k);
    for j in (0..columns.len()).step_by(WIDTH) {
        let n = WIDTH.min(columns.len() - j);
        let index: [usize; WIDTH] = std::array::from_fn(|c| columns.at(j + c.min(n - 1)));
        let sums = &mut sums[j * TASK_ROWS..][..(n - 1) * TASK_ROWS + registers * 8];
        // SAFETY: promised by the caller.
        unsafe {
            dispatch!(registers, n, [1 2 3], |P, N| tile256::<F, GROUP, VNNI, P, N>(&w, span, &x, &index, sums.as_mut_ptr()))
        }
    }
}

/// One block of 256.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile256<F: Format, const GROUP: usize, const VNNI: bool, const P: usize, const N: usize>(
    w: &[Source; 2],
    span: Span,
    x: &Raw256<'_>,
    index: &[usize; WIDTH],
    sums: *mut f32,
) {
    // SAFETY: promised by the caller: the panel holds `span`, the columns exist, `sums` has room for them.
    unsafe {
        let cols: [_; N] = std::array::from_fn(|c| x.column(index[c], F::SUB));
        let mut f = [[_mm256_setzero_ps(); N]; P];
        for sub in 0..256 / F::SUB {
            let q = cols.each_ref().map(|col| col.q.add(sub * F::SUB));
            let mut acc = if F::SUB == 16 {
                dots::<GROUP, VNNI, P, N, 4>(w, sub * 4, &q)
            } else {
                dots::<GROUP, VNNI, P, N, 8>(w, sub * 8, &q)
            };
            if let Some(shift) = shift::<F>(VNNI) {
                for c in 0..N {
                    let bias = _mm256_set1_epi32(*cols[c].bias.add(sub) >> shift);
                    (0..P).for_each(|p| acc[p][c] = _mm256_add_epi32(acc[p][c], bias));
                }
            }
            for p in 0..P {
                let scale = _mm256_loadu_ps(w[p].scale.add(sub * 8));
                for c in 0..N {
                    f[p][c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[p][c]), scale, f[p][c]);
                }
            }
        }
        // Up to here all numbers are integers, mostly below 2^24: as exact as llama.cpp's integer sums.
        for p in 0..P {
            let d = _mm256_loadu_ps(w[p].d);
            (0..N).for_each(|c| f[p][c] = _mm256_mul_ps(f[p][c], d));
        }
        if let Below::Minimum = F::BELOW {
            let mut acc = [[_mm256_setzero_si256(); N]; P];
            for pair in 0..128 / F::SUB {
                for c in 0..N {
                    let sum = _mm256_set1_epi32(cols[c].sums.cast::<i32>().add(pair).read_unaligned());
                    for p in 0..P {
                        let mins = _mm256_loadu_si256(w[p].mins.add(pair * 8).cast());
                        acc[p][c] = _mm256_add_epi32(acc[p][c], _mm256_madd_epi16(mins, sum));
                    }
                }
            }
            for p in 0..P {
                let min = _mm256_loadu_ps(w[p].min);
                for c in 0..N {
                    f[p][c] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(acc[p][c]), min, f[p][c]);
                }
            }
        }
        for c in 0..N {
            let d = _mm256_set1_ps(*cols[c].d);
            for p in 0..P {
                let sum = sums.add(c * TASK_ROWS + p * 8);
                let before = if span.k > 0 { _mm256_loadu_ps(sum) } else { _mm256_setzero_ps() };
                _mm256_storeu_ps(sum, _mm256_fmadd_ps(d, f[p][c], before));
            }
        }
    }
}

/// The integer products of `4 * K4` weights from word `at` of the panel on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots<const GROUP: usize, const VNNI: bool, const P: usize, const N: usize, const K4: usize>(
    w: &[Source; 2],
    at: usize,
    q: &[*const i8; N],
) -> [[__m256i; N]; P] {
    let ones = _mm256_set1_epi16(1);
    let mut acc = [[_mm256_setzero_si256(); N]; P];
    if VNNI {
        for k4 in 0..K4 {
            // SAFETY: promised by the caller.
            unsafe {
                let weights: [_; P] = std::array::from_fn(|p| _mm256_loadu_si256(w[p].q.add((at + k4) * 32).cast()));
                for c in 0..N {
                    let a = _mm256_set1_epi32(q[c].add(4 * k4).cast::<i32>().read_unaligned());
                    (0..P).for_each(|p| acc[p][c] = dpbusd(acc[p][c], weights[p], a));
                }
            }
        }
        return acc;
    }
    // Pairs are added in 16 bits over `step` words, then to 32 bits.
    let step = if GROUP == SIGNED { 1 } else { GROUP };
    for group in (0..K4).step_by(step) {
        let mut acc16 = [[_mm256_setzero_si256(); N]; P];
        for k4 in group..K4.min(group + step) {
            // SAFETY: promised by the caller.
            unsafe {
                let weights: [_; P] = std::array::from_fn(|p| _mm256_loadu_si256(w[p].q.add((at + k4) * 32).cast()));
                for c in 0..N {
                    let a = _mm256_set1_epi32(q[c].add(4 * k4).cast::<i32>().read_unaligned());
                    for p in 0..P {
                        let pairs = if GROUP == SIGNED {
                            _mm256_maddubs_epi16(_mm256_abs_epi8(weights[p]), _mm256_sign_epi8(a, weights[p]))
                        } else {
                            _mm256_maddubs_epi16(weights[p], a)
                        };
                        acc16[p][c] = if k4 == group { pairs } else { _mm256_add_epi16(acc16[p][c], pairs) };
                    }
                }
            }
        }
        for p in 0..P {
            for c in 0..N {
                let fours = _mm256_madd_epi16(acc16[p][c], ones);
                acc[p][c] = if group == 0 { fours } else { _mm256_add_epi32(acc[p][c], fours) };
            }
        }
    }
    acc
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tiles_floats(panel: &Panel, span: Span, x: &Acts, columns: Columns<'_>, sums: &mut [f32]) {
    let registers = span.rows.div_ceil(8);
    assert!(panel.x.len() >= registers * span.len * 8);
    for j in (0..columns.len()).step_by(FLOAT_WIDTH) {
        let n = FLOAT_WIDTH.min(columns.len() - j);
        let cols: [*const f32; FLOAT_WIDTH] =
            std::array::from_fn(|c| x.col_f32(columns.at(j + c.min(n - 1)))[span.k..][..span.len].as_ptr());
        let sums = &mut sums[j * TASK_ROWS..][..(n - 1) * TASK_ROWS + registers * 8];
        let w = panel.x.as_ptr();
        // SAFETY: promised by the caller, and asserted above.
        unsafe { dispatch!(registers, n, [1 2 3 4 5 6], |P, N| tile_floats::<P, N>(w, span, &cols, sums.as_mut_ptr())) }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile_floats<const P: usize, const N: usize>(
    w: *const f32,
    span: Span,
    cols: &[*const f32; FLOAT_WIDTH],
    sums: *mut f32,
) {
    // SAFETY: promised by the caller.
    unsafe {
        let mut f = [[_mm256_setzero_ps(); N]; P];
        for k in 0..span.len {
            let weights: [_; P] = std::array::from_fn(|p| _mm256_loadu_ps(w.add((p * span.len + k) * 8)));
            for c in 0..N {
                let a = _mm256_set1_ps(*cols[c].add(k));
                for p in 0..P {
                    f[p][c] = _mm256_fmadd_ps(weights[p], a, f[p][c]);
                }
            }
        }
        for (p, f) in f.iter().enumerate() {
            for (c, f) in f.iter().enumerate() {
                let sum = sums.add(c * TASK_ROWS + p * 8);
                let f = if span.k > 0 { _mm256_add_ps(_mm256_loadu_ps(sum), *f) } else { *f };
                _mm256_storeu_ps(sum, f);
            }
        }
    }
}
