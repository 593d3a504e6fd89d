//! The tiles of AVX-512: 32 rows (two registers) times 6 columns, or 16 times 6 where no more rows are left.
//!
//! ```text
//!   for each sub-block      for each 4 weights                     32 x 6: 12 integer accumulators,
//!     acc = -128 x sum(a)     two loads of the panel               12 float ones, 2 of weights, 1 broadcast,
//!     ...                     6 broadcasts of 4 activations        2 scales: 29 of 32 registers
//!     f += scale x acc        12 vpdpbusd
//! ```
//!
//! Weights of any format are bytes by now; formats differ in the length of a sub-block, in what lies below the bytes
//! (128 of each, or a minimum), and in whether the activations have a scale for 32 or for 256.

#![allow(clippy::needless_range_loop, reason = "an index runs over the registers of several arrays at once")]

use std::arch::x86_64::*;

use super::{Zmm, dpwssd};
use crate::DType;
use crate::acts::{ActKind, Acts, Raw32, Raw256};
use crate::block::Block;
use crate::cpu::kernels::{Columns, Gemm, Panel, Rows, Span, TASK_ROWS, Tile};
use crate::cpu::pack::{self, BF16, Below, F16, F32, Float, Format, Source};

const WIDTH: usize = 6;
/// Weights of a row that are unpacked at a time, two blocks of 256: what the first adds to the sums is still in L1 for
/// the second.
const CHUNK: usize = 512;
/// Columns of a tile of floats: without integer accumulators there is room for twice as many.
const FLOAT_WIDTH: usize = 12;

pub(super) fn kernel(dtype: DType) -> Option<Gemm> {
    Some(match dtype {
        DType::Q4_0 => quantized::<pack::Q4_0>(),
        DType::Q4_1 => quantized::<pack::Q4_1>(),
        DType::Q5_0 => quantized::<pack::Q5_0>(),
        DType::Q5_1 => quantized::<pack::Q5_1>(),
        DType::Q8_0 => quantized::<pack::Q8_0>(),
        DType::IQ4_NL => quantized::<pack::IQ4_NL>(),
        DType::MXFP4 => quantized::<pack::MXFP4>(),
        DType::Q2_K => quantized::<pack::Q2_K>(),
        DType::Q3_K => quantized::<pack::Q3_K>(),
        DType::Q4_K => quantized::<pack::Q4_K>(),
        DType::Q5_K => quantized::<pack::Q5_K>(),
        DType::Q6_K => quantized::<pack::Q6_K>(),
        DType::IQ4_XS => quantized::<pack::IQ4_XS>(),
        DType::F32 => floats::<F32>(),
        DType::F16 => floats::<F16>(),
        DType::BF16 => floats::<BF16>(),
        _ => return None,
    })
}

fn quantized<F: Format>() -> Gemm {
    let (chunk, tile): (_, Tile) = match (ActKind::of(F::Block::DTYPE), F::SUB, F::BELOW) {
        (ActKind::Q8x32, 32, Below::Offset(_)) => (256, tiles32::<false>),
        (ActKind::Q8x32, 32, Below::Float) => (256, tiles32::<true>),
        (ActKind::Q8x256, 16, Below::Offset(_)) => (CHUNK, tiles256::<16, false>),
        (ActKind::Q8x256, 16, Below::Minimum) => (CHUNK, tiles256::<16, true>),
        (ActKind::Q8x256, 32, Below::Offset(_)) => (CHUNK, tiles256::<32, false>),
        (ActKind::Q8x256, 32, Below::Minimum) => (CHUNK, tiles256::<32, true>),
        _ => unreachable!("no tile for {}", F::Block::DTYPE),
    };
    Gemm { rows: 32, chunk, pack: pack_quantized::<F>, tile }
}

fn floats<F: Float>() -> Gemm {
    Gemm { rows: 32, chunk: 256, pack: pack_floats::<F>, tile: tiles_floats }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
unsafe fn pack_quantized<F: Format>(rows: Rows<'_>, span: Span, panel: &mut Panel) {
    // SAFETY: promised by the caller.
    unsafe { pack::pack::<F, Zmm>(rows, span, panel) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
unsafe fn pack_floats<F: Float>(rows: Rows<'_>, span: Span, panel: &mut Panel) {
    // SAFETY: promised by the caller.
    unsafe { pack::pack_floats::<F, Zmm>(rows, span, panel) }
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

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
unsafe fn tiles32<const MIN: bool>(panel: &Panel, span: Span, x: &Acts, columns: Columns<'_>, sums: &mut [f32]) {
    let registers = span.rows.div_ceil(16);
    let w: [Source; 2] = std::array::from_fn(|p| pack::source::<Zmm>(panel, span.len, 32, 32, p.min(registers - 1)));
    let x = x.raw32(span.k);
    for j in (0..columns.len()).step_by(WIDTH) {
        let n = WIDTH.min(columns.len() - j);
        let index: [usize; WIDTH] = std::array::from_fn(|c| columns.at(j + c.min(n - 1)));
        let sums = &mut sums[j * TASK_ROWS..][..(n - 1) * TASK_ROWS + registers * 16];
        // SAFETY: promised by the caller.
        unsafe {
            dispatch!(registers, n, [1 2 3 4 5 6], |P, N| tile32::<MIN, P, N>(&w, span, &x, &index, sums.as_mut_ptr()))
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
unsafe fn tile32<const MIN: bool, const P: usize, const N: usize>(
    w: &[Source; 2],
    span: Span,
    x: &Raw32<'_>,
    index: &[usize; WIDTH],
    sums: *mut f32,
) {
    // SAFETY: promised by the caller: the panel holds `span`, the columns exist, `sums` has room for them.
    unsafe {
        let cols: [_; N] = std::array::from_fn(|c| x.column(index[c]));
        let mut f = [[_mm512_setzero_ps(); N]; P];
        if span.k > 0 {
            for (p, f) in f.iter_mut().enumerate() {
                for (c, f) in f.iter_mut().enumerate() {
                    *f = _mm512_loadu_ps(sums.add(c * TASK_ROWS + p * 16));
                }
            }
        }
        for b in 0..span.len / 32 {
            let mut acc = [[_mm512_setzero_si512(); N]; P];
            if !MIN {
                for c in 0..N {
                    let bias = _mm512_set1_epi32(*cols[c].bias.add(b));
                    (0..P).for_each(|p| acc[p][c] = bias);
                }
            }
            dots::<P, N, 8>(&mut acc, w, b * 8, &cols.each_ref().map(|col| col.q.add(b * 32)));
            for p in 0..P {
                let scale = _mm512_loadu_ps(w[p].scale.add(b * 16));
                for c in 0..N {
                    let dot = _mm512_mul_ps(_mm512_cvtepi32_ps(acc[p][c]), _mm512_set1_ps(*cols[c].d.add(b)));
                    f[p][c] = _mm512_fmadd_ps(dot, scale, f[p][c]);
                }
                if MIN {
                    let min = _mm512_loadu_ps(w[p].min.add(b * 16));
                    for c in 0..N {
                        f[p][c] = _mm512_fmadd_ps(min, _mm512_set1_ps(*cols[c].ds.add(b)), f[p][c]);
                    }
                }
            }
        }
        for (p, f) in f.iter().enumerate() {
            for (c, f) in f.iter().enumerate() {
                _mm512_storeu_ps(sums.add(c * TASK_ROWS + p * 16), *f);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
unsafe fn tiles256<const SUB: usize, const MIN: bool>(
    panel: &Panel,
    span: Span,
    x: &Acts,
    columns: Columns<'_>,
    sums: &mut [f32],
) {
    let registers = span.rows.div_ceil(16);
    let w: [Source; 2] = std::array::from_fn(|p| pack::source::<Zmm>(panel, span.len, SUB, 256, p.min(registers - 1)));
    let x = x.raw256(span.k);
    for j in (0..columns.len()).step_by(WIDTH) {
        let n = WIDTH.min(columns.len() - j);
        let index: [usize; WIDTH] = std::array::from_fn(|c| columns.at(j + c.min(n - 1)));
        let sums = &mut sums[j * TASK_ROWS..][..(n - 1) * TASK_ROWS + registers * 16];
        for block in 0..span.len / 256 {
            let (w, k) = (w.map(|w| w.block::<Zmm>(block, SUB)), span.k + 256 * block);
            let x = x.block(block);
            // SAFETY: promised by the caller.
            unsafe {
                dispatch!(registers, n, [1 2 3 4 5 6], |P, N| tile256::<SUB, MIN, P, N>(&w, k, &x, &index, sums.as_mut_ptr()))
            }
        }
    }
}

/// One block of 256, at which `w` and `x` stand; it is the first of its rows where `k` is 0.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
unsafe fn tile256<const SUB: usize, const MIN: bool, const P: usize, const N: usize>(
    w: &[Source; 2],
    k: usize,
    x: &Raw256<'_>,
    index: &[usize; WIDTH],
    sums: *mut f32,
) {
    // SAFETY: promised by the caller: panel and columns have the block, `sums` has room for the columns.
    unsafe {
        let cols: [_; N] = std::array::from_fn(|c| x.column(index[c], SUB));
        let mut f = [[_mm512_setzero_ps(); N]; P];
        for sub in 0..256 / SUB {
            let mut acc = [[_mm512_setzero_si512(); N]; P];
            if !MIN {
                for c in 0..N {
                    let bias = _mm512_set1_epi32(*cols[c].bias.add(sub));
                    (0..P).for_each(|p| acc[p][c] = bias);
                }
            }
            let q = cols.each_ref().map(|col| col.q.add(sub * SUB));
            if SUB == 16 {
                dots::<P, N, 4>(&mut acc, w, sub * 4, &q);
            } else {
                dots::<P, N, 8>(&mut acc, w, sub * 8, &q);
            }
            for p in 0..P {
                let scale = _mm512_loadu_ps(w[p].scale.add(sub * 16));
                for c in 0..N {
                    f[p][c] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[p][c]), scale, f[p][c]);
                }
            }
        }
        // Up to here all numbers are integers, mostly below 2^24: as exact as llama.cpp's integer sums.
        for p in 0..P {
            let d = _mm512_loadu_ps(w[p].d);
            (0..N).for_each(|c| f[p][c] = _mm512_mul_ps(f[p][c], d));
        }
        if MIN {
            let mut acc = [[_mm512_setzero_si512(); N]; P];
            for pair in 0..128 / SUB {
                let mins: [_; P] = std::array::from_fn(|p| _mm512_loadu_si512(w[p].mins.add(pair * 16).cast()));
                for c in 0..N {
                    let sum = _mm512_set1_epi32(cols[c].sums.cast::<i32>().add(pair).read_unaligned());
                    for p in 0..P {
                        acc[p][c] = dpwssd(acc[p][c], mins[p], sum);
                    }
                }
            }
            for p in 0..P {
                let min = _mm512_loadu_ps(w[p].min);
                for c in 0..N {
                    f[p][c] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(acc[p][c]), min, f[p][c]);
                }
            }
        }
        for c in 0..N {
            let d = _mm512_set1_ps(*cols[c].d);
            for p in 0..P {
                let sum = sums.add(c * TASK_ROWS + p * 16);
                let before = if k > 0 { _mm512_loadu_ps(sum) } else { _mm512_setzero_ps() };
                _mm512_storeu_ps(sum, _mm512_fmadd_ps(d, f[p][c], before));
            }
        }
    }
}

/// Adds the integer products of `4 * K4` weights from word `at` of the panel on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
unsafe fn dots<const P: usize, const N: usize, const K4: usize>(
    acc: &mut [[__m512i; N]; P],
    w: &[Source; 2],
    at: usize,
    q: &[*const i8; N],
) {
    for k4 in 0..K4 {
        // SAFETY: promised by the caller.
        unsafe {
            let weights: [_; P] = std::array::from_fn(|p| _mm512_loadu_si512(w[p].q.add((at + k4) * 64).cast()));
            for c in 0..N {
                let a = _mm512_set1_epi32(q[c].add(4 * k4).cast::<i32>().read_unaligned());
                for p in 0..P {
                    acc[p][c] = _mm512_dpbusd_epi32(acc[p][c], weights[p], a);
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
unsafe fn tiles_floats(panel: &Panel, span: Span, x: &Acts, columns: Columns<'_>, sums: &mut [f32]) {
    let registers = span.rows.div_ceil(16);
    assert!(panel.x.len() >= registers * span.len * 16);
    for j in (0..columns.len()).step_by(FLOAT_WIDTH) {
        let n = FLOAT_WIDTH.min(columns.len() - j);
        let cols: [*const f32; FLOAT_WIDTH] =
            std::array::from_fn(|c| x.col_f32(columns.at(j + c.min(n - 1)))[span.k..][..span.len].as_ptr());
        let sums = &mut sums[j * TASK_ROWS..][..(n - 1) * TASK_ROWS + registers * 16];
        let w = panel.x.as_ptr();
        // SAFETY: promised by the caller, and asserted above.
        unsafe {
            dispatch!(registers, n, [1 2 3 4 5 6 7 8 9 10 11 12], |P, N| tile_floats::<P, N>(
                w,
                span,
                &cols,
                sums.as_mut_ptr()
            ))
        };
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
unsafe fn tile_floats<const P: usize, const N: usize>(
    w: *const f32,
    span: Span,
    cols: &[*const f32; FLOAT_WIDTH],
    sums: *mut f32,
) {
    // SAFETY: promised by the caller.
    unsafe {
        let mut f = [[_mm512_setzero_ps(); N]; P];
        for k in 0..span.len {
            let weights: [_; P] = std::array::from_fn(|p| _mm512_loadu_ps(w.add((p * span.len + k) * 16)));
            for c in 0..N {
                let a = _mm512_set1_ps(*cols[c].add(k));
                for p in 0..P {
                    f[p][c] = _mm512_fmadd_ps(weights[p], a, f[p][c]);
                }
            }
        }
        for (p, f) in f.iter().enumerate() {
            for (c, f) in f.iter().enumerate() {
                let sum = sums.add(c * TASK_ROWS + p * 16);
                let f = if span.k > 0 { _mm512_add_ps(_mm512_loadu_ps(sum), *f) } else { *f };
                _mm512_storeu_ps(sum, f);
            }
        }
    }
}
