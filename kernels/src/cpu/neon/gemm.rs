//! The tiles of NEON: 8 rows (two registers) times 4 columns.
//!
//! ```text
//!   for each 16 activations               8 x 4: 8 integer accumulators, 8 float ones,
//!     4 loads, one a column               4 registers of activations, 2 of weights, 2 scales
//!     for each 4 weights
//!       two loads of the panel
//!       8 sdot with a lane of the activations
//!   f += scale x acc                      after each sub-block
//! ```
//!
//! The bytes of the panel are the weights of any format by now; formats differ in the length of a sub-block, in whether
//! they have minimums, and in whether the activations have a scale for 32 or for 256. A panel that is not full
//! multiplies its last register twice: `sums` has room for it, and nobody reads it.

#![allow(clippy::needless_range_loop, reason = "an index runs over the registers of several arrays at once")]

use std::arch::aarch64::*;

use super::{Quad, sdot_lane};
use crate::DType;
use crate::acts::{ActKind, Acts, Raw32, Raw256};
use crate::block::Block;
use crate::cpu::kernels::{Columns, Gemm, Panel, Span, TASK_ROWS, Tile};
use crate::cpu::pack::{self, BF16, Below, F16, F32, Float, Format, Source};

/// Rows of a panel.
const ROWS: usize = 8;
const WIDTH: usize = 4;
/// Columns of a tile of floats: without integer accumulators there is room for twice as many.
const FLOAT_WIDTH: usize = 8;

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
        (ActKind::Q8x32, 32, Below::Offset(_)) => (512, tiles32::<false>),
        (ActKind::Q8x32, 32, Below::Float) => (512, tiles32::<true>),
        (ActKind::Q8x256, 16, Below::Offset(_)) => (256, tiles256::<16, false>),
        (ActKind::Q8x256, 16, Below::Minimum) => (256, tiles256::<16, true>),
        (ActKind::Q8x256, 32, Below::Offset(_)) => (256, tiles256::<32, false>),
        (ActKind::Q8x256, 32, Below::Minimum) => (256, tiles256::<32, true>),
        _ => unreachable!("no tile for {}", F::Block::DTYPE),
    };
    Gemm { rows: ROWS, chunk, pack: pack::pack::<F, Quad>, tile }
}

fn floats<F: Float>() -> Gemm {
    Gemm { rows: ROWS, chunk: 256, pack: pack::pack_floats::<F, Quad>, tile: tiles_floats }
}

/// The two registers of rows.
fn sources(panel: &Panel, span: Span, sub: usize, block: usize) -> [Source; 2] {
    let registers = span.rows.div_ceil(4);
    [0, registers - 1].map(|p| pack::source::<Quad>(panel, span.len, sub, block, p))
}

/// `$call` for each `WIDTH` columns: the constant `$N` is how many, `$index` their numbers, `$sums` where theirs begin.
macro_rules! by_columns {
    ($columns:expr, $sums:expr, $width:ident [$($n:literal)*], |$N:ident, $index:ident, $to:ident| $call:expr) => {
        for j in (0..$columns.len()).step_by($width) {
            let n = $width.min($columns.len() - j);
            let $index: [usize; $width] = std::array::from_fn(|c| $columns.at(j + c.min(n - 1)));
            let $to = $sums[j * TASK_ROWS..][..(n - 1) * TASK_ROWS + ROWS].as_mut_ptr();
            match n {
                $($n => { const $N: usize = $n; $call })*
                _ => unreachable!("no tile of {n} columns"),
            }
        }
    };
}

#[target_feature(enable = "dotprod")]
unsafe fn tiles32<const MIN: bool>(panel: &Panel, span: Span, x: &Acts, columns: Columns<'_>, sums: &mut [f32]) {
    let (w, x) = (sources(panel, span, 32, 32), x.raw32(span.k));
    // SAFETY: promised by the caller.
    by_columns!(columns, sums, WIDTH [1 2 3 4], |N, index, to| unsafe { tile32::<MIN, N>(&w, span, &x, &index, to) });
}

#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn tile32<const MIN: bool, const N: usize>(
    w: &[Source; 2],
    span: Span,
    x: &Raw32<'_>,
    index: &[usize; WIDTH],
    sums: *mut f32,
) {
    // SAFETY: promised by the caller: the panel holds `span`, the columns exist, `sums` has room for them.
    unsafe {
        let cols: [_; N] = std::array::from_fn(|c| x.column(index[c]));
        let q = cols.map(|col| col.q);
        let mut f = before::<N>(span, sums);
        for b in 0..span.len / 32 {
            let acc = dots::<32, N>(w, b * 32, &q);
            for p in 0..2 {
                let scale = vld1q_f32(w[p].scale.add(b * 4));
                for c in 0..N {
                    let dot = vmulq_n_f32(vcvtq_f32_s32(acc[p][c]), *cols[c].d.add(b));
                    f[p][c] = vfmaq_f32(f[p][c], dot, scale);
                }
                if MIN {
                    let min = vld1q_f32(w[p].min.add(b * 4));
                    for c in 0..N {
                        f[p][c] = vfmaq_n_f32(f[p][c], min, *cols[c].ds.add(b));
                    }
                }
            }
        }
        store(&f, sums);
    }
}

#[target_feature(enable = "dotprod")]
unsafe fn tiles256<const SUB: usize, const MIN: bool>(
    panel: &Panel,
    span: Span,
    x: &Acts,
    columns: Columns<'_>,
    sums: &mut [f32],
) {
    let (w, x) = (sources(panel, span, SUB, 256), x.raw256(span.k));
    by_columns!(columns, sums, WIDTH [1 2 3 4], |N, index, to| {
        // SAFETY: promised by the caller.
        unsafe { tile256::<SUB, MIN, N>(&w, span, &x, &index, to) }
    });
}

/// One block of 256.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn tile256<const SUB: usize, const MIN: bool, const N: usize>(
    w: &[Source; 2],
    span: Span,
    x: &Raw256<'_>,
    index: &[usize; WIDTH],
    sums: *mut f32,
) {
    // SAFETY: promised by the caller: the panel holds `span`, the columns exist, `sums` has room for them.
    unsafe {
        let cols: [_; N] = std::array::from_fn(|c| x.column(index[c], SUB));
        let q = cols.map(|col| col.q);
        let mut f = [[vdupq_n_f32(0.0); N]; 2];
        for sub in 0..256 / SUB {
            let acc = dots::<SUB, N>(w, sub * SUB, &q);
            for p in 0..2 {
                let scale = vld1q_f32(w[p].scale.add(sub * 4));
                for c in 0..N {
                    f[p][c] = vfmaq_f32(f[p][c], vcvtq_f32_s32(acc[p][c]), scale);
                }
            }
        }
        // Up to here all numbers are integers, mostly below 2^24: as exact as llama.cpp's integer sums.
        for p in 0..2 {
            let d = vld1q_f32(w[p].d);
            (0..N).for_each(|c| f[p][c] = vmulq_f32(f[p][c], d));
        }
        if MIN {
            let mut acc = [[vdupq_n_s32(0); N]; 2];
            for pair in 0..128 / SUB {
                for p in 0..2 {
                    let mins = vld1q_s32(w[p].mins.add(pair * 4));
                    let (even, odd) = (vandq_s32(mins, vdupq_n_s32(0xffff)), vshrq_n_s32::<16>(mins));
                    for c in 0..N {
                        let sums = cols[c].sums.add(2 * pair);
                        acc[p][c] = vmlaq_n_s32(acc[p][c], even, *sums as i32);
                        acc[p][c] = vmlaq_n_s32(acc[p][c], odd, *sums.add(1) as i32);
                    }
                }
            }
            for p in 0..2 {
                let min = vld1q_f32(w[p].min);
                for c in 0..N {
                    f[p][c] = vfmsq_f32(f[p][c], vcvtq_f32_s32(acc[p][c]), min);
                }
            }
        }
        let mut total = before::<N>(span, sums);
        for p in 0..2 {
            for c in 0..N {
                total[p][c] = vfmaq_n_f32(total[p][c], f[p][c], *cols[c].d);
            }
        }
        store(&total, sums);
    }
}

/// The integer products of `SUB` weights from the `k`-th of the panel on.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn dots<const SUB: usize, const N: usize>(w: &[Source; 2], k: usize, q: &[*const i8; N]) -> [[int32x4_t; N]; 2] {
    let mut acc = [[vdupq_n_s32(0); N]; 2];
    for k in (k..k + SUB).step_by(16) {
        // SAFETY: promised by the caller: the panel and the columns have these.
        unsafe {
            let a = q.map(|q| vld1q_s8(q.add(k)));
            let w = w.map(|w| w.q.add(k * 4).cast::<i8>());
            fours::<0, N>(&mut acc, w, &a);
            fours::<1, N>(&mut acc, w, &a);
            fours::<2, N>(&mut acc, w, &a);
            fours::<3, N>(&mut acc, w, &a);
        }
    }
    acc
}

/// Adds the products of four weights, the `LANE`-th word of 16.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn fours<const LANE: usize, const N: usize>(
    acc: &mut [[int32x4_t; N]; 2],
    w: [*const i8; 2],
    a: &[int8x16_t; N],
) {
    for p in 0..2 {
        // SAFETY: promised by the caller.
        let weights = unsafe { vld1q_s8(w[p].add(LANE * 16)) };
        for c in 0..N {
            acc[p][c] = sdot_lane::<LANE>(acc[p][c], weights, a[c]);
        }
    }
}

#[target_feature(enable = "neon")]
unsafe fn tiles_floats(panel: &Panel, span: Span, x: &Acts, columns: Columns<'_>, sums: &mut [f32]) {
    let registers = span.rows.div_ceil(4);
    assert!(panel.x.len() >= registers * span.len * 4);
    let w = [0, registers - 1].map(|p| panel.x.as_ptr().wrapping_add(p * span.len * 4));
    by_columns!(columns, sums, FLOAT_WIDTH [1 2 3 4 5 6 7 8], |N, index, to| {
        let cols: [_; N] = std::array::from_fn(|c| x.col_f32(index[c])[span.k..][..span.len].as_ptr());
        // SAFETY: promised by the caller, and asserted above.
        unsafe { tile_floats::<N>(&w, span, &cols, to) }
    });
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn tile_floats<const N: usize>(w: &[*const f32; 2], span: Span, cols: &[*const f32; N], sums: *mut f32) {
    // SAFETY: promised by the caller.
    unsafe {
        let mut f = [[vdupq_n_f32(0.0); N]; 2];
        for k in 0..span.len {
            let weights = w.map(|w| vld1q_f32(w.add(k * 4)));
            for c in 0..N {
                let a = *cols[c].add(k);
                for p in 0..2 {
                    f[p][c] = vfmaq_n_f32(f[p][c], weights[p], a);
                }
            }
        }
        let mut total = before::<N>(span, sums);
        for p in 0..2 {
            for c in 0..N {
                total[p][c] = vaddq_f32(total[p][c], f[p][c]);
            }
        }
        store(&total, sums);
    }
}

/// The sums of the chunks before this one.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn before<const N: usize>(span: Span, sums: *const f32) -> [[float32x4_t; N]; 2] {
    let mut f = [[vdupq_n_f32(0.0); N]; 2];
    if span.k > 0 {
        for p in 0..2 {
            for c in 0..N {
                // SAFETY: promised by the caller.
                f[p][c] = unsafe { vld1q_f32(sums.add(c * TASK_ROWS + p * 4)) };
            }
        }
    }
    f
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn store<const N: usize>(f: &[[float32x4_t; N]; 2], sums: *mut f32) {
    for p in 0..2 {
        for c in 0..N {
            // SAFETY: promised by the caller.
            unsafe { vst1q_f32(sums.add(c * TASK_ROWS + p * 4), f[p][c]) };
        }
    }
}
