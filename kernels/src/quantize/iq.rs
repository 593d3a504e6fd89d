//! IQ1, IQ2, IQ3: groups of 8 (or 4) weights at once, as an index into a grid of the likeliest patterns.
//!
//! IQ2 and IQ3 grids hold magnitudes, and each weight has a sign bit (in the `_XXS` and `_XS` kinds the eighth sign of
//! a group makes the parity even and is not stored). IQ1 grids hold -1, 0, 1, and a shift of 1/8 either way.
//!
//! ```text
//!           sub-block  index of a group                       signs     scale of the sub-block
//! IQ2_XXS   32         8 bits, four in the first u32 ...      7 bits x 4, and ... d * (0.5 + sc) / 4 in the second u32
//! IQ2_XS    16         9 bits of a u16                        7 bits    d * (0.5 + sc) / 4
//! IQ2_S     16         8 bits of qs, 2 of qh                  8 bits    d * (0.5 + sc) / 4
//! IQ3_XXS   32         8 bits (4 weights)                     7 bits    d * (0.5 + sc) / 2
//! IQ3_S     32         8 bits of qs, 1 of qh (4 weights)      8 bits    d * (1 + 2 sc)
//! IQ1_S     32         8 bits of qs, 3 of qh                  shift     d * (1 + 2 sc)
//! IQ1_M     16         8 bits of qs, 3 of qh                  shift     d * (1 + 2 sc)
//! ```

use super::Decode;
use super::grid::{
    IQ1_GRID, IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID, IQ3_S_GRID, IQ3_XXS_GRID, SIGN_BITS, SIGN_BITS_EVEN,
};
use super::scale::f16_to_f32;
use crate::block::{BlockIQ1_M, BlockIQ1_S, BlockIQ2_S, BlockIQ2_XS, BlockIQ2_XXS, BlockIQ3_S, BlockIQ3_XXS};

/// The shift of IQ1_S and IQ1_M, added to -1, 0, 1 or taken from them. Source: `IQ1S_DELTA` in `ggml-common.h`.
pub const IQ1_DELTA: f32 = 0.125;

/// By the bit that says the direction.
const IQ1_DELTAS: [f32; 2] = [IQ1_DELTA, -IQ1_DELTA];

/// The f16 scale of IQ1_M, whose nibbles are the tops of the four u16 of `scales`.
#[inline]
pub fn iq1m_scale(scales: &[u8; 8]) -> f32 {
    let [a, b, c, d] = [1, 3, 5, 7].map(|i| scales[i] >> 4);
    f16_to_f32([a | b << 4, c | d << 4])
}

/// Magnitudes under a scale, with the sign bits put in: exactly `scale * magnitude * +-1`.
#[inline(always)]
fn signed<const N: usize>(scale: f32, grid: &[i8; N], signs: &[u32], out: &mut [f32]) {
    for ((out, &magnitude), sign) in out.iter_mut().zip(grid).zip(signs) {
        *out = f32::from_bits((scale * f32::from(magnitude)).to_bits() ^ sign);
    }
}

/// Two groups of four under the signs of one byte.
#[inline(always)]
fn signed_pair(scale: f32, grids: [&[i8; 4]; 2], signs: &[u32; 8], out: &mut [f32; 8]) {
    signed(scale, grids[0], &signs[..4], &mut out[..4]);
    signed(scale, grids[1], &signs[4..], &mut out[4..]);
}

#[inline(always)]
fn shifted(scale: f32, index: usize, delta: f32, out: &mut [f32; 8]) {
    for (out, &trit) in out.iter_mut().zip(&IQ1_GRID[index]) {
        *out = scale * (f32::from(trit) + delta);
    }
}

impl Decode<256> for BlockIQ2_XXS {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f16_to_f32(self.d);
        for (out, qs) in out.as_chunks_mut::<32>().0.iter_mut().zip(self.qs.as_chunks::<8>().0) {
            let word = u32::from_le_bytes([qs[4], qs[5], qs[6], qs[7]]);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.25;
            for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let signs = &SIGN_BITS_EVEN[(word >> (7 * l)) as usize & 127];
                signed(scale, &IQ2_XXS_GRID[usize::from(qs[l])], signs, out);
            }
        }
    }
}

impl Decode<256> for BlockIQ2_XS {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f16_to_f32(self.d);
        let parts = out.as_chunks_mut::<32>().0.iter_mut().zip(self.qs.as_chunks::<8>().0).zip(self.scales);
        for ((out, qs), scales) in parts {
            let scales = [scales & 15, scales >> 4].map(|s| d * (0.5 + f32::from(s)) * 0.25);
            for (l, (out, &q)) in out.as_chunks_mut::<8>().0.iter_mut().zip(qs.as_chunks::<2>().0).enumerate() {
                let q = usize::from(u16::from_le_bytes(q));
                signed(scales[l / 2], &IQ2_XS_GRID[q & 511], &SIGN_BITS_EVEN[q >> 9], out);
            }
        }
    }
}

impl Decode<256> for BlockIQ2_S {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f16_to_f32(self.d);
        let (low, signs) = self.qs.split_at(32);
        for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let scales = [self.scales[i] & 15, self.scales[i] >> 4].map(|s| d * (0.5 + f32::from(s)) * 0.25);
            for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let index = usize::from(low[i * 4 + l]) | usize::from(self.qh[i] >> (2 * l) & 3) << 8;
                signed(scales[l / 2], &IQ2_S_GRID[index], &SIGN_BITS[usize::from(signs[i * 4 + l])], out);
            }
        }
    }
}

impl Decode<256> for BlockIQ3_XXS {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f16_to_f32(self.d);
        let (indices, words) = self.qs.split_at(64);
        let parts = out.as_chunks_mut::<32>().0.iter_mut().zip(indices.as_chunks::<8>().0).zip(words.as_chunks().0);
        for ((out, indices), &word) in parts {
            let word = u32::from_le_bytes(word);
            let scale = d * (0.5 + (word >> 28) as f32) * 0.5;
            for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let grids = [indices[2 * l], indices[2 * l + 1]].map(|i| &IQ3_XXS_GRID[usize::from(i)]);
                signed_pair(scale, grids, &SIGN_BITS_EVEN[(word >> (7 * l)) as usize & 127], out);
            }
        }
    }
}

impl Decode<256> for BlockIQ3_S {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f16_to_f32(self.d);
        for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let scale = d * f32::from(1 + 2 * (self.scales[i / 2] >> (i % 2 * 4) & 15));
            let high = usize::from(self.qh[i]);
            for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let grids =
                    [2 * l, 2 * l + 1].map(|j| &IQ3_S_GRID[usize::from(self.qs[i * 8 + j]) | (high >> j & 1) << 8]);
                signed_pair(scale, grids, &SIGN_BITS[usize::from(self.signs[i * 4 + l])], out);
            }
        }
    }
}

impl Decode<256> for BlockIQ1_S {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f16_to_f32(self.d);
        for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let high = u16::from_le_bytes([self.qh[2 * i], self.qh[2 * i + 1]]);
            let scale = d * f32::from(1 + 2 * (high >> 12 & 7));
            let delta = IQ1_DELTAS[usize::from(high >> 15)];
            for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let index = usize::from(self.qs[i * 4 + l]) | usize::from(high >> (3 * l) & 7) << 8;
                shifted(scale, index, delta, out);
            }
        }
    }
}

impl Decode<256> for BlockIQ1_M {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let d = iq1m_scale(&self.scales);
        for (i, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let word = u16::from_le_bytes([self.scales[i / 4 * 2], self.scales[i / 4 * 2 + 1]]);
            let scale = d * f32::from(1 + 2 * (word >> (i % 4 * 3) & 7));
            for (l, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                // A nibble a group: three bits of the index, and the direction of the shift.
                let high = self.qh[i] >> (4 * l);
                let delta = IQ1_DELTAS[usize::from(high >> 3 & 1)];
                shifted(scale, usize::from(self.qs[i * 2 + l]) | usize::from(high & 7) << 8, delta, out);
            }
        }
    }
}
