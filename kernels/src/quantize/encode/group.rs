//! Groups of blocks, one block a lane: how they are laid on their side, and how their bytes are written.

use std::marker::PhantomData;

use super::Rows;
use crate::Cpu;
use crate::block::Block;
use crate::float::one::One;
use crate::float::simd::{Kernel, MAX_LANES, Simd, run};

/// A format that is encoded with a block in each lane.
pub(super) trait Encode<const N: usize>: Block {
    /// Whether [`Group::mean_square`] is asked for.
    const OF_ROW: bool = false;

    /// Writes all bytes of the blocks of a group. Must be `#[inline(always)]`.
    fn encode<S: Simd>(s: S, group: &Group<'_, S, N>, out: &mut Blocks<'_>);
}

/// A block of `N` floats in each lane.
pub(super) struct Group<'a, S: Simd, const N: usize> {
    pub x: &'a [S::V; N],
    pub importance: Option<&'a [S::V; N]>,
    /// Of the whole row that a block is part of; zero when there is no importance or it is not [`Encode::OF_ROW`].
    pub mean_square: S::V,
}

/// The bytes of the blocks of a group. The last group has fewer blocks than lanes.
pub(super) struct Blocks<'a> {
    bytes: &'a mut [u8],
    size: usize,
}

impl Blocks<'_> {
    /// Writes the low `B` bytes of each lane, little-endian, at byte `at` of its block.
    #[inline(always)]
    pub(super) fn put<S: Simd, const B: usize>(&mut self, s: S, at: usize, v: S::I) {
        let lanes = s.to_array(v);
        for (block, lane) in self.bytes.chunks_exact_mut(self.size).zip(lanes) {
            block[at..at + B].copy_from_slice(&lane.to_le_bytes()[..B]);
        }
    }

    /// Writes a byte.
    #[inline(always)]
    pub(super) fn byte<S: Simd>(&mut self, s: S, at: usize, v: S::I) {
        self.put::<S, 1>(s, at, v);
    }

    /// Writes two bytes.
    #[inline(always)]
    pub(super) fn half<S: Simd>(&mut self, s: S, at: usize, v: S::I) {
        self.put::<S, 2>(s, at, v);
    }

    /// Writes four bytes.
    #[inline(always)]
    pub(super) fn word<S: Simd>(&mut self, s: S, at: usize, v: S::I) {
        self.put::<S, 4>(s, at, v);
    }

    /// Writes bytes, four at a time: their number is a multiple of four.
    #[inline(always)]
    pub(super) fn bytes<S: Simd>(&mut self, s: S, at: usize, bytes: &[S::I]) {
        self.fields(s, at, bytes.len(), bytes, 0, 8);
    }

    /// Writes `n` bytes, each with as many fields of `width` bits as levels stand `n` apart: of each level the bits
    /// from bit `from`. `n` is a multiple of four.
    #[inline(always)]
    pub(super) fn fields<S: Simd>(&mut self, s: S, at: usize, n: usize, levels: &[S::I], from: u32, width: u32) {
        for j in (0..n).step_by(4) {
            let mut word = s.splat_int(0);
            for byte in 0..4 {
                for (i, &level) in levels[j + byte..].iter().step_by(n).enumerate() {
                    word = s.or(word, s.shl(bits(s, level, from, width), 8 * byte as u32 + i as u32 * width));
                }
            }
            self.word(s, at + j, word);
        }
    }
}

/// Of an integer `width` bits from bit `from`.
#[inline(always)]
pub(super) fn bits<S: Simd>(s: S, x: S::I, from: u32, width: u32) -> S::I {
    s.and(s.shr(x, from), s.splat_int((1 << width) - 1))
}

/// Encodes rows with a block in each lane.
pub(super) fn blocks<B: Encode<N>, const N: usize>(cpu: Cpu, rows: Rows<'_>, out: &mut [u8]) {
    const { assert!(N == B::DTYPE.block_elems()) };
    run(cpu, Job::<B, N> { rows, out, block: PhantomData });
}

struct Job<'a, B, const N: usize> {
    rows: Rows<'a>,
    out: &'a mut [u8],
    block: PhantomData<B>,
}

impl<B: Encode<N>, const N: usize> Kernel for Job<'_, B, N> {
    type Out = ();

    fn scalar(self) {
        self.simd(One);
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        let Rows { x, cols, importance } = self.rows;
        let zero = s.splat(0.0);
        let (mut floats, mut weights) = ([zero; N], [zero; N]);
        // As many rows as lanes at a time: their blocks fill all groups but the last of all.
        let slabs = x.chunks(S::LANES * cols).zip(self.out.chunks_mut(S::LANES * cols / N * size_of::<B>()));
        for (x, out) in slabs {
            let squares = if B::OF_ROW && importance.is_some() { mean_squares(s, x, cols) } else { [0.0; MAX_LANES] };
            let blocks = x.len() / N;
            for (group, out) in out.chunks_mut(S::LANES * size_of::<B>()).enumerate() {
                // Lanes past the last block repeat it: what comes of them is not written.
                let lanes: [usize; MAX_LANES] =
                    std::array::from_fn(|lane| N * (group * S::LANES + lane).min(blocks - 1));
                on_their_side(s, &lanes.map(|at| &x[at..at + N]), &mut floats);
                if let Some(importance) = importance {
                    on_their_side(s, &lanes.map(|at| &importance[at % cols..][..N]), &mut weights);
                }
                let of_row = lanes.map(|at| squares[at / cols]);
                let group = Group {
                    x: &floats,
                    importance: importance.is_some().then_some(&weights),
                    // SAFETY: MAX_LANES floats can be read.
                    mean_square: unsafe { s.load(of_row.as_ptr()) },
                };
                B::encode(s, &group, &mut Blocks { bytes: out, size: size_of::<B>() });
            }
        }
    }
}

/// Lays a block of each row on its side.
#[inline(always)]
fn on_their_side<S: Simd>(s: S, rows: &[&[f32]; MAX_LANES], out: &mut [S::V]) {
    for (i, out) in out.chunks_exact_mut(S::LANES).enumerate() {
        s.columns(rows, i * S::LANES, out);
    }
}

/// The mean of the squares of each row, summed from left to right; at most `LANES` rows.
#[inline(always)]
fn mean_squares<S: Simd>(s: S, x: &[f32], cols: usize) -> [f32; MAX_LANES] {
    let last = x.len() - cols;
    let rows: [&[f32]; MAX_LANES] = std::array::from_fn(|row| &x[(row * cols).min(last)..][..cols]);
    let mut sum = s.splat(0.0);
    let mut part = [sum; MAX_LANES];
    for at in (0..cols).step_by(S::LANES) {
        s.columns(&rows, at, &mut part);
        for &x in &part[..S::LANES] {
            sum = s.add(sum, s.mul(x, x));
        }
    }
    let mut means = [0.0; MAX_LANES];
    // SAFETY: there is room for MAX_LANES floats.
    unsafe { s.store(means.as_mut_ptr(), s.div(sum, s.splat(cols as f32))) };
    means
}
