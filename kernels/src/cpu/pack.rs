//! Unpacking of a panel of rows from the blocks of the file, once a format for all instruction sets.
//!
//! The panel is what the tiles of every set read: bytes in dot-product order, `[k/4][N rows][4]`, floats of scales
//! `[sub-block][N rows]`, and minimums beside them. Rows lie in the lanes of registers, so that the arithmetic of a
//! block (nibbles, high bits, six-bit scales) is done for all rows at once:
//!
//! ```text
//! 16 bytes of row 0   a0 a1 a2 a3      register 0   a0 b0 c0 ...    one lane a row, four weights (or eight nibbles)
//! 16 bytes of row 1   b0 b1 b2 b3  ->  register 1   a1 b1 c1 ...    in each lane: the order of a dot product
//! 16 bytes of row 2   c0 c1 c2 c3      ...
//! ```

use super::kernels::{Panel, Rows, Span};
use super::lanes::{Lanes, RowPtrs};
use crate::block::*;
use crate::quantize::{KVALUES_FP4, KVALUES_IQ4NL, e8m0_half_to_f32};

/// Unpacking of one format.
pub(crate) trait Format: 'static {
    /// Its block.
    type Block: Block;
    /// Weights that share a scale.
    const SUB: usize;
    /// How the weights are less than their bytes.
    const BELOW: Below;

    /// Unpacks the block at byte `at` of all rows.
    ///
    /// # Safety
    /// The block lies in the rows, `to` has room for it, and the machine has the instructions.
    unsafe fn unpack<L: Lanes>(rows: &RowPtrs, at: usize, to: Target);
}

/// What is subtracted from the product of scale and byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Below {
    /// The bytes stand for themselves less this.
    Offset(u8),
    /// A float for each sub-block is added.
    Float,
    /// An integer for each sub-block, times a float for the block, is subtracted.
    Minimum,
}

/// Where the parts of a block go.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    q: *mut u8,
    scale: *mut f32,
    d: *mut f32,
    min: *mut f32,
    mins: *mut i32,
}

impl Target {
    #[inline(always)]
    unsafe fn q<L: Lanes>(&self, k4: usize, v: L::V) {
        // SAFETY: promised by the caller of `unpack`.
        unsafe { L::store_weights(self.q.add(k4 * 4 * L::N * L::WEIGHT_BYTES), v) }
    }

    #[inline(always)]
    unsafe fn scale<L: Lanes>(&self, sub: usize, f: L::F) {
        // SAFETY: promised by the caller of `unpack`.
        unsafe { L::store_floats(self.scale.add(sub * L::N), f) }
    }

    #[inline(always)]
    unsafe fn min<L: Lanes>(&self, f: L::F) {
        // SAFETY: promised by the caller of `unpack`.
        unsafe { L::store_floats(self.min, f) }
    }

    /// The scale of the block, where those of the sub-blocks are integers.
    #[inline(always)]
    unsafe fn d<L: Lanes>(&self, f: L::F) {
        // SAFETY: promised by the caller of `unpack`.
        unsafe { L::store_floats(self.d, f) }
    }

    /// The minimums of sub-blocks `2 * pair` and `2 * pair + 1`.
    #[inline(always)]
    unsafe fn mins<L: Lanes>(&self, pair: usize, [a, b]: [L::V; 2]) {
        // SAFETY: promised by the caller of `unpack`.
        unsafe { L::store(self.mins.add(pair * L::N).cast(), L::pair(a, b)) }
    }

    /// The integer scales of sub-blocks `2 * pair` and `2 * pair + 1` of a format with an offset: with integer scales
    /// its minimums are the offset times these.
    #[inline(always)]
    unsafe fn centred_scales<L: Lanes>(&self, pair: usize, scales: [L::V; 2]) {
        // SAFETY: promised by the caller of `unpack`.
        unsafe {
            self.scale::<L>(2 * pair, L::scale(scales[0]));
            self.scale::<L>(2 * pair + 1, L::scale(scales[1]));
            if L::INTEGER_SCALES {
                self.mins::<L>(pair, scales);
            }
        }
    }
}

/// The `p`-th register's worth of rows of a panel, as a tile reads it.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    /// `[len/4][N][4]`; where a weight takes two bytes `[len/4][2][N][4]`.
    pub q: *const u8,
    /// `[len/SUB][N]`.
    pub scale: *const f32,
    /// `[len/block][N]`, in blocks of 256.
    pub d: *const f32,
    /// `[len/block][N]`.
    pub min: *const f32,
    /// `[len/SUB/2][N]`, pairs of 16-bit integers.
    pub mins: *const i32,
}

impl Source {
    /// From block number `block` of 256 on, with sub-blocks of `sub`.
    #[inline(always)]
    pub(crate) fn block<L: Lanes>(self, block: usize, sub: usize) -> Source {
        let [q, scale, min, mins] = sizes::<L>(256 * block, sub, 256);
        Source {
            q: self.q.wrapping_add(q),
            scale: self.scale.wrapping_add(scale),
            d: self.d.wrapping_add(min),
            min: self.min.wrapping_add(min),
            mins: self.mins.wrapping_add(mins),
        }
    }
}

/// Sizes of one register's worth of rows: of `q`, `scale`, `min` (and `d`), `mins`.
const fn sizes<L: Lanes>(len: usize, sub: usize, block: usize) -> [usize; 4] {
    [len * L::N * L::WEIGHT_BYTES, len / sub * L::N, len / block * L::N, len / sub / 2 * L::N]
}

/// The parts of the panel that hold rows `p * N..(p + 1) * N`, after [`pack`] of `len` weights with sub-blocks of `sub`
/// in blocks of `block`.
#[inline(always)]
pub(crate) fn source<L: Lanes>(panel: &Panel, len: usize, sub: usize, block: usize, p: usize) -> Source {
    let [q, scale, min, mins] = sizes::<L>(len, sub, block);
    debug_assert!(panel.q.len() >= (p + 1) * q);
    Source {
        q: panel.q.as_ptr().wrapping_add(p * q),
        scale: panel.scale.as_ptr().wrapping_add(p * scale),
        d: panel.d.as_ptr().wrapping_add(p * min),
        min: panel.min.as_ptr().wrapping_add(p * min),
        mins: panel.mins.as_ptr().wrapping_add(p * mins),
    }
}

/// Unpacks the span of the rows.
///
/// # Safety
/// The machine has the instructions of `L`.
#[inline(always)]
pub(crate) unsafe fn pack<F: Format, L: Lanes>(rows: Rows<'_>, span: Span, panel: &mut Panel) {
    let (elems, bytes) = (F::Block::DTYPE.block_elems(), F::Block::DTYPE.block_bytes());
    let registers = rows.len().div_ceil(L::N);
    assert!(span.k.is_multiple_of(elems) && span.len.is_multiple_of(elems));
    assert!((span.k + span.len) / elems * bytes <= rows.row_bytes());
    let [q, scale, min, mins] = sizes::<L>(span.len, F::SUB, elems);
    let base = Target {
        q: panel.q.at_least(registers * q).as_mut_ptr(),
        scale: panel.scale.at_least(registers * scale).as_mut_ptr(),
        d: panel.d.at_least(registers * min).as_mut_ptr(),
        min: panel.min.at_least(registers * min).as_mut_ptr(),
        mins: panel.mins.at_least(registers * mins).as_mut_ptr(),
    };
    for p in 0..registers {
        let rows = RowPtrs::new(rows.slice(p * L::N, L::N.min(rows.len() - p * L::N)));
        for block in 0..span.len / elems {
            let subs = block * (elems / F::SUB);
            // SAFETY: the buffers have the sizes above; the block is in the rows, as asserted.
            unsafe {
                let to = Target {
                    q: base.q.add(p * q + block * elems * L::N * L::WEIGHT_BYTES),
                    scale: base.scale.add(p * scale + subs * L::N),
                    d: base.d.add(p * min + block * L::N),
                    min: base.min.add(p * min + block * L::N),
                    mins: base.mins.add(p * mins + subs / 2 * L::N),
                };
                F::unpack::<L>(&rows, (span.k / elems + block) * bytes, to);
            }
        }
    }
}

#[inline(always)]
unsafe fn low<L: Lanes>(v: L::V) -> L::V {
    // SAFETY: promised by the callers.
    unsafe { L::and(v, L::splat(0x0f0f_0f0f)) }
}

#[inline(always)]
unsafe fn high<L: Lanes>(v: L::V) -> L::V {
    // SAFETY: promised by the callers.
    unsafe { low::<L>(L::shr(v, 4)) }
}

/// Bits `at..at + 2` of each byte, moved to bit `to`.
#[inline(always)]
unsafe fn two_bits<L: Lanes>(v: L::V, at: u32, to: u32) -> L::V {
    // SAFETY: promised by the callers.
    unsafe { L::shl(L::and(L::shr(v, at), L::splat(0x0303_0303)), to) }
}

/// Bit `at` of each byte, moved to bit `to`.
#[inline(always)]
unsafe fn one_bit<L: Lanes>(v: L::V, at: u32, to: u32) -> L::V {
    // SAFETY: promised by the callers.
    unsafe { L::shl(L::and(L::shr(v, at), L::splat(0x0101_0101)), to) }
}

/// Byte `i` of each lane as an integer.
#[inline(always)]
unsafe fn byte<L: Lanes>(v: L::V, i: u32) -> L::V {
    // SAFETY: promised by the callers.
    unsafe { L::and(L::shr(v, 8 * i), L::splat(0xff)) }
}

/// Bits `4 * i..4 * i + 4` of each lane, spread over the bytes of the lane, at bit 4 of each.
#[inline(always)]
unsafe fn fifth_bits<L: Lanes>(bits: L::V, i: u32) -> L::V {
    // SAFETY: promised by the callers.
    unsafe {
        let four = L::and(L::shr(bits, 4 * i), L::splat(0xf));
        // Bit b of the four moves to bit 8 b: shifts by 0, 7, 14 and 21, and what else moves is masked.
        let spread = L::mul_int(four, L::splat(1 | 1 << 7 | 1 << 14 | 1 << 21));
        L::shl(L::and(spread, L::splat(0x0101_0101)), 4)
    }
}

/// The eight scales and eight minimums of Q4_K and Q5_K, from the three words that hold them: four in each register.
#[inline(always)]
unsafe fn six_bits<L: Lanes>(a: L::V, b: L::V, c: L::V) -> ([L::V; 2], [L::V; 2]) {
    // SAFETY: promised by the callers.
    unsafe {
        let (six, two) = (L::splat(0x3f3f_3f3f), L::splat(0x3030_3030));
        let scales = [L::and(a, six), L::or(low::<L>(c), L::and(L::shr(a, 2), two))];
        let mins = [L::and(b, six), L::or(high::<L>(c), L::and(L::shr(b, 2), two))];
        (scales, mins)
    }
}

/// Scales and minimums of Q4_K and Q5_K, which begin alike.
#[inline(always)]
unsafe fn k_head<L: Lanes>(rows: &RowPtrs, at: usize, to: Target) {
    // SAFETY: promised by the callers.
    unsafe {
        let [dm, a, b, c] = L::gather16(rows, at);
        to.d::<L>(L::f16(dm));
        to.min::<L>(L::f16(L::shr(dm, 16)));
        let (scales, mins) = six_bits::<L>(a, b, c);
        for sub in 0..8 {
            to.scale::<L>(sub, L::scale(byte::<L>(scales[sub / 4], sub as u32 % 4)));
        }
        for pair in 0..4 {
            let four = L::shr(mins[pair / 2], pair as u32 % 2 * 16);
            to.mins::<L>(pair, [byte::<L>(four, 0), byte::<L>(four, 1)]);
        }
    }
}

macro_rules! formats {
    ($($name:ident = $block:ident, $sub:literal, $below:expr, |$rows:ident, $at:ident, $to:ident, $lanes:ident| $body:block)*) => {$(
        #[allow(non_camel_case_types, reason = "the names are ggml's own")]
        pub(crate) struct $name;
        impl Format for $name {
            type Block = $block;
            const SUB: usize = $sub;
            const BELOW: Below = $below;
            #[inline(always)]
            unsafe fn unpack<$lanes: Lanes>($rows: &RowPtrs, $at: usize, $to: Target) {
                // SAFETY: promised by the caller.
                unsafe { $body }
            }
        }
    )*};
}

formats! {
    Q4_0 = BlockQ4_0, 32, Below::Offset(8), |rows, at, to, L| {
        to.scale::<L>(0, L::f16(L::gather4(rows, at)));
        for (i, v) in L::gather16(rows, at + 2).into_iter().enumerate() {
            to.q::<L>(i, L::centre(low::<L>(v), 8));
            to.q::<L>(i + 4, L::centre(high::<L>(v), 8));
        }
    }
    Q4_1 = BlockQ4_1, 32, Below::Float, |rows, at, to, L| {
        let dm = L::gather4(rows, at);
        to.scale::<L>(0, L::f16(dm));
        to.min::<L>(L::f16(L::shr(dm, 16)));
        for (i, v) in L::gather16(rows, at + 4).into_iter().enumerate() {
            to.q::<L>(i, low::<L>(v));
            to.q::<L>(i + 4, high::<L>(v));
        }
    }
    Q5_0 = BlockQ5_0, 32, Below::Offset(16), |rows, at, to, L| {
        to.scale::<L>(0, L::f16(L::gather4(rows, at)));
        let bits = L::gather4(rows, at + 2);
        for (i, v) in L::gather16(rows, at + 6).into_iter().enumerate() {
            to.q::<L>(i, L::centre(L::or(low::<L>(v), fifth_bits::<L>(bits, i as u32)), 16));
            to.q::<L>(i + 4, L::centre(L::or(high::<L>(v), fifth_bits::<L>(bits, i as u32 + 4)), 16));
        }
    }
    Q5_1 = BlockQ5_1, 32, Below::Float, |rows, at, to, L| {
        let dm = L::gather4(rows, at);
        to.scale::<L>(0, L::f16(dm));
        to.min::<L>(L::f16(L::shr(dm, 16)));
        let bits = L::gather4(rows, at + 4);
        for (i, v) in L::gather16(rows, at + 8).into_iter().enumerate() {
            to.q::<L>(i, L::or(low::<L>(v), fifth_bits::<L>(bits, i as u32)));
            to.q::<L>(i + 4, L::or(high::<L>(v), fifth_bits::<L>(bits, i as u32 + 4)));
        }
    }
    Q8_0 = BlockQ8_0, 32, Below::Offset(128), |rows, at, to, L| {
        to.scale::<L>(0, L::f16(L::gather4(rows, at)));
        for half in 0..2 {
            for (i, v) in L::gather16(rows, at + 2 + 16 * half).into_iter().enumerate() {
                to.q::<L>(4 * half + i, L::centre(L::xor(v, L::splat(0x8080_8080)), 128));
            }
        }
    }
    IQ4_NL = BlockIQ4_NL, 32, Below::Offset(128), |rows, at, to, L| {
        to.scale::<L>(0, L::f16(L::gather4(rows, at)));
        for (i, v) in L::gather16(rows, at + 2).into_iter().enumerate() {
            to.q::<L>(i, L::centre(L::lookup(&IQ4_TABLE, low::<L>(v)), 128));
            to.q::<L>(i + 4, L::centre(L::lookup(&IQ4_TABLE, high::<L>(v)), 128));
        }
    }
    // The values of E2M1 are halves, so the bytes are twice the values, and the scale is half of the block's.
    MXFP4 = BlockMXFP4, 32, Below::Offset(16), |rows, at, to, L| {
        for row in 0..L::N {
            *to.scale.add(row) = e8m0_half_to_f32(*rows.at(row, at));
        }
        for (i, v) in L::gather16(rows, at + 1).into_iter().enumerate() {
            to.q::<L>(i, L::centre(L::lookup(&FP4_TABLE, low::<L>(v)), 16));
            to.q::<L>(i + 4, L::centre(L::lookup(&FP4_TABLE, high::<L>(v)), 16));
        }
    }
    Q2_K = BlockQ2_K, 16, Below::Minimum, |rows, at, to, L| {
        let dm = L::gather4(rows, at + 80);
        to.d::<L>(L::f16(dm));
        to.min::<L>(L::f16(L::shr(dm, 16)));
        for (i, v) in L::gather16(rows, at).into_iter().enumerate() {
            let (scales, mins) = (low::<L>(v), high::<L>(v));
            for j in 0..4 {
                to.scale::<L>(4 * i + j, L::scale(byte::<L>(scales, j as u32)));
            }
            for j in 0..2 {
                let two = L::shr(mins, 16 * j as u32);
                to.mins::<L>(2 * i + j, [byte::<L>(two, 0), byte::<L>(two, 1)]);
            }
        }
        for part in 0..4 {
            let (half, l) = (part / 2, part % 2);
            for (i, v) in L::gather16(rows, at + 16 + 16 * part).into_iter().enumerate() {
                for j in 0..4 {
                    to.q::<L>(32 * half + 8 * j + 4 * l + i, two_bits::<L>(v, 2 * j as u32, 0));
                }
            }
        }
    }
    Q3_K = BlockQ3_K, 16, Below::Offset(4), |rows, at, to, L| {
        to.d::<L>(L::f16(L::shr(L::gather4(rows, at + 106), 16)));
        let [a, b, c] = [96, 100, 104].map(|o| L::gather4(rows, at + o));
        let scales = [
            L::or(low::<L>(a), two_bits::<L>(c, 0, 4)),
            L::or(low::<L>(b), two_bits::<L>(c, 2, 4)),
            L::or(high::<L>(a), two_bits::<L>(c, 4, 4)),
            L::or(high::<L>(b), two_bits::<L>(c, 6, 4)),
        ];
        for (i, four) in scales.into_iter().enumerate() {
            let sc = |j: u32| L::sub_int(byte::<L>(four, j), L::splat(32));
            to.centred_scales::<L>(2 * i, [sc(0), sc(1)]);
            to.centred_scales::<L>(2 * i + 1, [sc(2), sc(3)]);
        }
        for l in 0..2 {
            let bits = L::gather16(rows, at + 16 * l);
            for half in 0..2 {
                for (i, v) in L::gather16(rows, at + 32 + 32 * half + 16 * l).into_iter().enumerate() {
                    for j in 0..4 {
                        let q = L::or(
                            two_bits::<L>(v, 2 * j as u32, 0),
                            one_bit::<L>(bits[i], (4 * half + j) as u32, 2),
                        );
                        to.q::<L>(32 * half + 8 * j + 4 * l + i, L::centre(q, 4));
                    }
                }
            }
        }
    }
    Q4_K = BlockQ4_K, 32, Below::Minimum, |rows, at, to, L| {
        k_head::<L>(rows, at, to);
        for part in 0..8 {
            let k4 = part / 2 * 16 + part % 2 * 4;
            for (i, v) in L::gather16(rows, at + 16 + 16 * part).into_iter().enumerate() {
                to.q::<L>(k4 + i, low::<L>(v));
                to.q::<L>(k4 + 8 + i, high::<L>(v));
            }
        }
    }
    Q5_K = BlockQ5_K, 32, Below::Minimum, |rows, at, to, L| {
        k_head::<L>(rows, at, to);
        for l in 0..2 {
            let bits = L::gather16(rows, at + 16 + 16 * l);
            for pair in 0..4 {
                let k4 = 16 * pair + 4 * l;
                for (i, v) in L::gather16(rows, at + 48 + 32 * pair + 16 * l).into_iter().enumerate() {
                    let (even, odd) = (2 * pair as u32, 2 * pair as u32 + 1);
                    to.q::<L>(k4 + i, L::or(low::<L>(v), one_bit::<L>(bits[i], even, 4)));
                    to.q::<L>(k4 + 8 + i, L::or(high::<L>(v), one_bit::<L>(bits[i], odd, 4)));
                }
            }
        }
    }
    Q6_K = BlockQ6_K, 16, Below::Offset(32), |rows, at, to, L| {
        to.d::<L>(L::f16(L::shr(L::gather4(rows, at + 206), 16)));
        for (i, v) in L::gather16(rows, at + 192).into_iter().enumerate() {
            let sc = |j: u32| L::sar(L::shl(v, 24 - 8 * j), 24);
            to.centred_scales::<L>(2 * i, [sc(0), sc(1)]);
            to.centred_scales::<L>(2 * i + 1, [sc(2), sc(3)]);
        }
        for half in 0..2 {
            for l in 0..2 {
                let first = L::gather16(rows, at + 64 * half + 16 * l);
                let second = L::gather16(rows, at + 64 * half + 32 + 16 * l);
                let bits = L::gather16(rows, at + 128 + 32 * half + 16 * l);
                for i in 0..4 {
                    let k4 = 32 * half + 4 * l + i;
                    let q = [low::<L>(first[i]), low::<L>(second[i]), high::<L>(first[i]), high::<L>(second[i])];
                    for (j, q) in q.into_iter().enumerate() {
                        to.q::<L>(k4 + 8 * j, L::centre(L::or(q, two_bits::<L>(bits[i], 2 * j as u32, 4)), 32));
                    }
                }
            }
        }
    }
    IQ4_XS = BlockIQ4_XS, 32, Below::Offset(128), |rows, at, to, L| {
        let head = L::gather4(rows, at);
        let high_bits = L::shr(head, 16);
        to.d::<L>(L::f16(head));
        let low_bits = L::gather4(rows, at + 4);
        for sub in 0..8 {
            let lo = L::and(L::shr(low_bits, 4 * sub as u32), L::splat(0xf));
            let hi = L::and(L::shr(high_bits, 2 * sub as u32), L::splat(3));
            let sc = L::sub_int(L::or(lo, L::shl(hi, 4)), L::splat(32));
            to.scale::<L>(sub, L::scale(sc));
            for (i, v) in L::gather16(rows, at + 8 + 16 * sub).into_iter().enumerate() {
                to.q::<L>(8 * sub + i, L::centre(L::lookup(&IQ4_TABLE, low::<L>(v)), 128));
                to.q::<L>(8 * sub + 4 + i, L::centre(L::lookup(&IQ4_TABLE, high::<L>(v)), 128));
            }
        }
    }
}

const IQ4_TABLE: [u8; 16] = raised(&KVALUES_IQ4NL, 128);
const FP4_TABLE: [u8; 16] = raised(&KVALUES_FP4, 16);

const fn raised(values: &[i8; 16], by: i32) -> [u8; 16] {
    let (mut table, mut i) = ([0; 16], 0);
    while i < 16 {
        table[i] = (values[i] as i32 + by) as u8;
        i += 1;
    }
    table
}

/// A type of plain floats: how one register of 16 bytes a row becomes floats.
pub(crate) trait Float: 'static {
    /// Bytes of one weight.
    const BYTES: usize;
    /// The floats in one word of each row.
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn floats<L: Lanes>(word: L::V, put: impl FnMut(usize, L::F));
    /// One weight.
    fn one(bytes: &[u8]) -> f32;
}

pub(crate) struct F32;
pub(crate) struct F16;
pub(crate) struct BF16;

impl Float for F32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn floats<L: Lanes>(word: L::V, mut put: impl FnMut(usize, L::F)) {
        // SAFETY: promised by the caller.
        put(0, unsafe { L::as_float(word) });
    }
    fn one(bytes: &[u8]) -> f32 {
        f32::from_le_bytes(bytes.try_into().expect("four bytes"))
    }
}

impl Float for F16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn floats<L: Lanes>(word: L::V, mut put: impl FnMut(usize, L::F)) {
        // SAFETY: promised by the caller.
        unsafe {
            put(0, L::f16(word));
            put(1, L::f16(L::shr(word, 16)));
        }
    }
    fn one(bytes: &[u8]) -> f32 {
        half::f16::from_le_bytes(bytes.try_into().expect("two bytes")).to_f32()
    }
}

impl Float for BF16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn floats<L: Lanes>(word: L::V, mut put: impl FnMut(usize, L::F)) {
        // SAFETY: promised by the caller.
        unsafe {
            put(0, L::as_float(L::shl(word, 16)));
            put(1, L::as_float(L::and(word, L::splat(0xffff_0000))));
        }
    }
    fn one(bytes: &[u8]) -> f32 {
        half::bf16::from_le_bytes(bytes.try_into().expect("two bytes")).to_f32()
    }
}

/// Unpacks floats: `[register][len][N]`.
///
/// # Safety
/// The machine has the instructions of `L`.
#[inline(always)]
pub(crate) unsafe fn pack_floats<F: Float, L: Lanes>(rows: Rows<'_>, span: Span, panel: &mut Panel) {
    let registers = rows.len().div_ceil(L::N);
    assert!((span.k + span.len) * F::BYTES <= rows.row_bytes());
    let panel = panel.x.at_least(registers * span.len * L::N);
    let step = 16 / F::BYTES;
    for (p, to) in panel.chunks_exact_mut(span.len * L::N).enumerate() {
        let rows = rows.slice(p * L::N, L::N.min(rows.len() - p * L::N));
        let ptrs = RowPtrs::new(rows);
        for k in (0..span.len / step * step).step_by(step) {
            // SAFETY: the bytes are in the rows, as asserted, and so are the floats in the panel.
            unsafe {
                for (i, word) in L::gather16(&ptrs, (span.k + k) * F::BYTES).into_iter().enumerate() {
                    F::floats::<L>(word, |j, f| L::store_floats(to.as_mut_ptr().add((k + i * step / 4 + j) * L::N), f));
                }
            }
        }
        for k in span.len / step * step..span.len {
            for lane in 0..L::N {
                let row = rows.row(lane.min(rows.len() - 1));
                to[k * L::N + lane] = F::one(&row[(span.k + k) * F::BYTES..][..F::BYTES]);
            }
        }
    }
}
