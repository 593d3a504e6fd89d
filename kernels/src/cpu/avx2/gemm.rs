//! The tiles of AVX2: 16 rows (two registers) times 3 columns, or 8 times 3 where no more rows are left; the products of bytes
//! are made in one of the three ways of `dots.rs`.

#![allow(clippy::needless_range_loop, reason = "an index runs over the registers of several arrays at once")]

use std::arch::x86_64::*;

use super::Ymm;
use super::dots::{Dots, Fours, Pairs, Signed};
use crate::DType;
use crate::acts::{ActKind, Acts, RawCol32, RawCol256};
use crate::block::Block;
use crate::cpu::kernels::{Columns, Gemm, Panel, Rows, Span, TASK_ROWS, Tile};
use crate::cpu::pack::{self, BF16, Below, F16, F32, Float, Format, Source};
use crate::cpu::streams::ask;

const WIDTH: usize = 3;
/// Columns of a tile of floats: without integer accumulators there is room for twice as many.
const FLOAT_WIDTH: usize = 6;

pub(super) fn kernel<const VNNI: bool>(dtype: DType) -> Option<Gemm> {
    Some(match dtype {
        DType::Q4_0 => quantized::<pack::Q4_0, Pairs<8>, VNNI>(),
        DType::Q4_1 => quantized::<pack::Q4_1, Pairs<8>, VNNI>(),
        DType::Q5_0 => quantized::<pack::Q5_0, Pairs<4>, VNNI>(),
        DType::Q5_1 => quantized::<pack::Q5_1, Pairs<4>, VNNI>(),
        DType::Q8_0 => quantized::<pack::Q8_0, Signed, VNNI>(),
        DType::IQ4_NL => quantized::<pack::IQ4_NL, Signed, VNNI>(),
        DType::MXFP4 => quantized::<pack::MXFP4, Pairs<4>, VNNI>(),
        DType::Q2_K => quantized::<pack::Q2_K, Pairs<4>, VNNI>(),
        DType::Q3_K => quantized::<pack::Q3_K, Pairs<4>, VNNI>(),
        DType::Q4_K => quantized::<pack::Q4_K, Pairs<8>, VNNI>(),
        DType::Q5_K => quantized::<pack::Q5_K, Pairs<4>, VNNI>(),
        DType::Q6_K => quantized::<pack::Q6_K, Pairs<2>, VNNI>(),
        DType::IQ4_XS => quantized::<pack::IQ4_XS, Signed, VNNI>(),
        DType::F32 => floats::<F32>(),
        DType::F16 => floats::<F16>(),
        DType::BF16 => floats::<BF16>(),
        _ => return None,
    })
}

/// The kernels of a format whose bytes are multiplied as `D` does without AVX-VNNI.
fn quantized<F: Format, D: Dots, const VNNI: bool>() -> Gemm {
    if VNNI { quantized_by::<F, Fours>() } else { quantized_by::<F, D>() }
}

fn quantized_by<F: Format, D: Dots>() -> Gemm {
    let x32 = ActKind::of(F::Block::DTYPE) == ActKind::Q8x32;
    let (chunk, tile): (_, Tile) = if x32 { (512, tiles32::<F, D>) } else { (256, tiles256::<F, D>) };
    Gemm { rows: 16, chunk, pack: pack_quantized::<F, D>, tile }
}

fn floats<F: Float>() -> Gemm {
    Gemm { rows: 16, chunk: 256, pack: pack_floats::<F>, tile: tiles_floats }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack_quantized<F: Format, D: Dots>(rows: Rows<'_>, span: Span, panel: &mut Panel) {
    // SAFETY: promised by the caller.
    unsafe { pack::pack::<F, Ymm<D>>(rows, span, panel) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack_floats<F: Float>(rows: Rows<'_>, span: Span, panel: &mut Panel) {
    // SAFETY: promised by the caller.
    unsafe { pack::pack_floats::<F, Ymm<Fours>>(rows, span, panel) }
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
unsafe fn tiles32<F: Format, D: Dots>(panel: &Panel, span: Span, x: &Acts, columns: Columns<'_>, sums: &mut [f32]) {
    let registers = span.rows.div_ceil(8);
    let w = sources::<F, D>(panel, span);
    let x = x.raw32(span.k);
    for j in (0..columns.len()).step_by(WIDTH) {
        let n = WIDTH.min(columns.len() - j);
        ask_for_next(j, columns, sums, span.len, |i| x.column(i).q);
        let x: [_; WIDTH] = std::array::from_fn(|c| x.column(columns.at(j + c.min(n - 1))));
        let sums = &mut sums[j * TASK_ROWS..][..(n - 1) * TASK_ROWS + registers * 8];
        // SAFETY: promised by the caller.
        unsafe { dispatch!(registers, n, [1 2 3], |P, N| tile32::<F, D, P, N>(&w, span, &x, sums.as_mut_ptr())) }
    }
}

/// Asks for the activations and sums of the columns after those from `j` on: they are in L2, in pieces that no processor
/// foresees (Q4_K on Zen 3: 6 % faster).
#[inline(always)]
fn ask_for_next(j: usize, columns: Columns<'_>, sums: &[f32], len: usize, activations: impl Fn(usize) -> *const i8) {
    for c in j + WIDTH..columns.len().min(j + 2 * WIDTH) {
        ask(activations(columns.at(c)).cast(), len);
        ask(sums[c * TASK_ROWS..].as_ptr().cast(), 64);
    }
}

/// The registers of rows of a panel; where there is one, it is both.
fn sources<F: Format, D: Dots>(panel: &Panel, span: Span) -> [Source; 2] {
    let last = span.rows.div_ceil(8) - 1;
    std::array::from_fn(|p| pack::source::<Ymm<D>>(panel, span.len, F::SUB, F::Block::DTYPE.block_elems(), p.min(last)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile32<F: Format, D: Dots, const P: usize, const N: usize>(
    w: &[Source; 2],
    span: Span,
    x: &[RawCol32; WIDTH],
    sums: *mut f32,
) {
    // SAFETY: promised by the caller: the panel holds `span`, the columns exist, `sums` has room for them.
    unsafe {
        let mut f = [[_mm256_setzero_ps(); N]; P];
        if span.k > 0 {
            f = load_sums(sums);
        } else if !D::LEAVES_REGISTERS {
            store_sums(f, sums);
        }
        for b in 0..span.len / 32 {
            let a = std::array::from_fn(|c| x[c].q.add(b * 32));
            let mut acc = [[_mm256_setzero_si256(); N]; P];
            D::add::<P, N, 8>(&mut acc, w, b * 8, &a, [_mm256_set1_epi16(1); P]);
            if let Some(shift) = shift::<F, D>() {
                for c in 0..N {
                    let bias = _mm256_sra_epi32(_mm256_set1_epi32(*x[c].bias.add(b)), _mm_cvtsi32_si128(shift));
                    (0..P).for_each(|p| acc[p][c] = _mm256_add_epi32(acc[p][c], bias));
                }
            }
            if !D::LEAVES_REGISTERS {
                // The compiler must not carry the sums from block to block in registers: it would spill the products.
                std::arch::asm!("", options(nostack, preserves_flags));
                f = load_sums(sums);
            }
            for p in 0..P {
                let scale = _mm256_loadu_ps(w[p].scale.add(b * 8));
                for c in 0..N {
                    let dot = _mm256_mul_ps(_mm256_cvtepi32_ps(acc[p][c]), _mm256_set1_ps(*x[c].d.add(b)));
                    f[p][c] = _mm256_fmadd_ps(dot, scale, f[p][c]);
                }
                if let Below::Float = F::BELOW {
                    let min = _mm256_loadu_ps(w[p].min.add(b * 8));
                    for c in 0..N {
                        f[p][c] = _mm256_fmadd_ps(min, _mm256_set1_ps(*x[c].ds.add(b)), f[p][c]);
                    }
                }
            }
            if !D::LEAVES_REGISTERS {
                store_sums(f, sums);
            }
        }
        if D::LEAVES_REGISTERS {
            store_sums(f, sums);
        }
    }
}

#[inline]
#[target_feature(enable = "avx")]
unsafe fn load_sums<const P: usize, const N: usize>(sums: *const f32) -> [[__m256; N]; P] {
    // SAFETY: promised by the callers.
    std::array::from_fn(|p| std::array::from_fn(|c| unsafe { _mm256_loadu_ps(sums.add(c * TASK_ROWS + p * 8)) }))
}

#[inline]
#[target_feature(enable = "avx")]
unsafe fn store_sums<const P: usize, const N: usize>(f: [[__m256; N]; P], sums: *mut f32) {
    for p in 0..P {
        // SAFETY: promised by the callers.
        (0..N).for_each(|c| unsafe { _mm256_storeu_ps(sums.add(c * TASK_ROWS + p * 8), f[p][c]) });
    }
}

/// By how much -128 times a sum is shifted to become the offset times the sum; nothing where there is no offset.
const fn shift<F: Format, D: Dots>() -> Option<i32> {
    match F::BELOW {
        Below::Offset(128) if D::SIGNED => None,
        Below::Float | Below::Minimum => None,
        Below::Offset(offset) => Some(7 - offset.trailing_zeros() as i32),
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tiles256<F: Format, D: Dots>(panel: &Panel, span: Span, x: &Acts, columns: Columns<'_>, sums: &mut [f32]) {
    let registers = span.rows.div_ceil(8);
    let w = sources::<F, D>(panel, span);
    let x = x.raw256(span.k);
    for j in (0..columns.len()).step_by(WIDTH) {
        let n = WIDTH.min(columns.len() - j);
        ask_for_next(j, columns, sums, 256, |i| x.column(i, F::SUB).q);
        let x: [_; WIDTH] = std::array::from_fn(|c| x.column(columns.at(j + c.min(n - 1)), F::SUB));
        let sums = &mut sums[j * TASK_ROWS..][..(n - 1) * TASK_ROWS + registers * 8];
        let first = span.k == 0;
        // SAFETY: promised by the caller.
        unsafe { dispatch!(registers, n, [1 2 3], |P, N| tile256::<F, D, P, N>(&w, &x, first, sums.as_mut_ptr())) }
    }
}

/// One block of 256; the `first` of the rows, or not.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile256<F: Format, D: Dots, const P: usize, const N: usize>(
    w: &[Source; 2],
    x: &[RawCol256; WIDTH],
    first: bool,
    sums: *mut f32,
) {
    // SAFETY: promised by the caller: the panel holds a block, the columns exist, `sums` has room for them.
    unsafe {
        // Up to the scales of the block all numbers are integers; where they are floats, mostly below 2^24: as exact as
        // llama.cpp's integer sums.
        let mut f = [[_mm256_setzero_ps(); N]; P];
        let mut acc = [[_mm256_setzero_si256(); N]; P];
        for sub in 0..256 / F::SUB {
            let a = std::array::from_fn(|c| x[c].q.add(sub * F::SUB));
            let scales: [_; P] = std::array::from_fn(|p| _mm256_loadu_si256(w[p].scale.add(sub * 8).cast()));
            if !D::FACTORS {
                acc = [[_mm256_setzero_si256(); N]; P];
            }
            let factors = if D::FACTORS { scales } else { [_mm256_set1_epi16(1); P] };
            match F::SUB {
                16 => D::add::<P, N, 4>(&mut acc, w, sub * 4, &a, factors),
                _ => D::add::<P, N, 8>(&mut acc, w, sub * 8, &a, factors),
            }
            if D::FACTORS {
                continue;
            }
            if let Some(shift) = shift::<F, D>() {
                for c in 0..N {
                    let bias = _mm256_sra_epi32(_mm256_set1_epi32(*x[c].bias.add(sub)), _mm_cvtsi32_si128(shift));
                    (0..P).for_each(|p| acc[p][c] = _mm256_add_epi32(acc[p][c], bias));
                }
            }
            for p in 0..P {
                let scale = _mm256_castsi256_ps(scales[p]);
                for c in 0..N {
                    f[p][c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[p][c]), scale, f[p][c]);
                }
            }
        }
        // Minimums, or scales as minimums: an offset times the scales of all weights.
        let offset = match F::BELOW {
            Below::Offset(offset) if D::FACTORS => Some(offset),
            _ => None,
        };
        let mut under = [[_mm256_setzero_si256(); N]; P];
        if F::BELOW == Below::Minimum || offset.is_some() {
            for pair in 0..128 / F::SUB {
                let mins: [_; P] = std::array::from_fn(|p| _mm256_loadu_si256(w[p].mins.add(pair * 8).cast()));
                for c in 0..N {
                    let sum = _mm256_set1_epi32(x[c].sums.cast::<i32>().add(pair).read_unaligned());
                    for p in 0..P {
                        under[p][c] = _mm256_add_epi32(under[p][c], _mm256_madd_epi16(mins[p], sum));
                    }
                }
            }
        }
        for p in 0..P {
            let (d, min) = (_mm256_loadu_ps(w[p].d), _mm256_loadu_ps(w[p].min));
            for c in 0..N {
                if let Some(offset) = offset {
                    let by = _mm_cvtsi32_si128(offset.trailing_zeros() as i32);
                    acc[p][c] = _mm256_sub_epi32(acc[p][c], _mm256_sll_epi32(under[p][c], by));
                }
                if D::FACTORS {
                    f[p][c] = _mm256_cvtepi32_ps(acc[p][c]);
                }
                f[p][c] = _mm256_mul_ps(f[p][c], d);
                if F::BELOW == Below::Minimum {
                    f[p][c] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(under[p][c]), min, f[p][c]);
                }
            }
        }
        for c in 0..N {
            let d = _mm256_set1_ps(*x[c].d);
            for p in 0..P {
                let sum = sums.add(c * TASK_ROWS + p * 8);
                let before = if first { _mm256_setzero_ps() } else { _mm256_loadu_ps(sum) };
                _mm256_storeu_ps(sum, _mm256_fmadd_ps(d, f[p][c], before));
            }
        }
    }
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
