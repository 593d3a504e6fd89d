//! The K-quants: 256 weights in sub-blocks of 16 or 32, whose scales are themselves quantized under one f16.
//!
//! ```text
//! Q2_K  16 x 16   d * sc * q - dmin * m     sc, m of 4 bits in one byte; q of 2 bits
//! Q3_K  16 x 16   d * (sc - 32) * (q - 4)   sc of 6 bits; q = 2 bits of qs and a bit of hmask
//! Q4_K   8 x 32   d * sc * q - dmin * m     sc, m of 6 bits; q of 4 bits
//! Q5_K   8 x 32   d * sc * q - dmin * m     the same with a fifth bit in qh
//! Q6_K  16 x 16   d * sc * (q - 32)         sc an i8; q = 4 bits of ql and 2 of qh
//! Q8_K   1 x 256  d * q                     d an f32; with the sums of each 16: an activation format
//! ```
//!
//! The values lie in strides of 32: the fields of one byte are elements i, i + 32, i + 64, i + 96 of a half block
//! (in Q4_K and Q5_K: i and i + 32 of a quarter), so that one shift and mask of a vector gives neighbours.

use super::Decode;
use super::scale::f16_to_f32;
use crate::block::{BlockQ2_K, BlockQ3_K, BlockQ4_K, BlockQ5_K, BlockQ6_K, BlockQ8_K};

/// The 8 scales and 8 minimums of Q4_K and Q5_K, 6 bits each.
///
/// ```text
/// byte 0..4    scale 0..4, and above it 2 high bits of scale 4..8
/// byte 4..8    minimum 0..4, and above it 2 high bits of minimum 4..8
/// byte 8..12   low nibble of scale 4..8, low nibble of minimum 4..8
/// ```
#[inline]
pub const fn scales_k4(scales: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    const fn pair(low: u32, high: u32) -> [u8; 8] {
        (low as u64 | (high as u64) << 32).to_le_bytes()
    }
    let (s, m, sm) = (word(scales, 0), word(scales, 4), word(scales, 8));
    (
        pair(s & 0x3f3f_3f3f, sm & 0x0f0f_0f0f | (s >> 2) & 0x3030_3030),
        pair(m & 0x3f3f_3f3f, (sm >> 4) & 0x0f0f_0f0f | (m >> 2) & 0x3030_3030),
    )
}

/// The 16 scales of Q3_K, 6 bits each, with the 32 already taken off: -32..=31.
///
/// ```text
/// byte 0..8    low nibble of scale 0..8, low nibble of scale 8..16
/// byte 8..12   high 2 bits of scale i, i + 4, i + 8, i + 12
/// ```
#[inline]
pub const fn scales_k3(scales: &[u8; 12]) -> [i8; 16] {
    let (low, high) = (word(scales, 0) as u64 | (word(scales, 4) as u64) << 32, word(scales, 8));
    let quads = [
        low as u32 & 0x0f0f_0f0f | high << 4 & 0x3030_3030,
        (low >> 32) as u32 & 0x0f0f_0f0f | high << 2 & 0x3030_3030,
        (low >> 4) as u32 & 0x0f0f_0f0f | high & 0x3030_3030,
        (low >> 36) as u32 & 0x0f0f_0f0f | high >> 2 & 0x3030_3030,
    ];
    let mut out = [0; 16];
    let mut i = 0;
    while i < 16 {
        out[i] = quads[i / 4].to_le_bytes()[i % 4] as i8 - 32;
        i += 1;
    }
    out
}

/// Four scales at a time, in the bytes of a word.
const fn word(bytes: &[u8; 12], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The 2-bit fields of 64 bytes in the order of the elements. Bytes first and floats after is what vectorizes.
#[inline(always)]
fn two_bits(bytes: &[u8; 64]) -> [u8; 256] {
    let mut values = [0; 256];
    for (values, bytes) in values.as_chunks_mut::<128>().0.iter_mut().zip(bytes.as_chunks::<32>().0) {
        for (i, byte) in bytes.iter().enumerate() {
            values[i] = byte & 3;
            values[i + 32] = byte >> 2 & 3;
            values[i + 64] = byte >> 4 & 3;
            values[i + 96] = byte >> 6;
        }
    }
    values
}

/// `d * factor` for each element, from a factor for each 16: with it the last loop is one over all elements.
#[inline(always)]
fn spread(d: f32, factors: &[i8; 16]) -> [f32; 256] {
    let mut spread = [0.0; 256];
    for (spread, &factor) in spread.as_chunks_mut::<16>().0.iter_mut().zip(factors) {
        *spread = [d * f32::from(factor); 16];
    }
    spread
}

/// `d * scale * (q - ZERO)` in sub-blocks of 16.
#[inline(always)]
fn sixteens<const ZERO: i8>(d: f32, scales: &[i8; 16], values: &[u8; 256], out: &mut [f32; 256]) {
    for ((out, &q), scale) in out.iter_mut().zip(values).zip(&spread(d, scales)) {
        *out = scale * f32::from(q as i8 - ZERO);
    }
}

impl Decode<256> for BlockQ2_K {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let (mut scales, mut mins) = ([0; 16], [0; 16]);
        for (i, byte) in self.scales.iter().enumerate() {
            scales[i] = (byte & 15) as i8;
            mins[i] = (byte >> 4) as i8;
        }
        let (scales, mins) = (spread(f16_to_f32(self.d), &scales), spread(f16_to_f32(self.dmin), &mins));
        for (((out, q), scale), min) in out.iter_mut().zip(two_bits(&self.qs)).zip(&scales).zip(&mins) {
            *out = scale * f32::from(q) - min;
        }
    }
}

impl Decode<256> for BlockQ3_K {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let mut values = two_bits(&self.qs);
        for (i, values) in values.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (q, high) in values.iter_mut().zip(&self.hmask) {
                *q |= (high >> i & 1) << 2;
            }
        }
        sixteens::<4>(f16_to_f32(self.d), &scales_k3(&self.scales), &values, out);
    }
}

impl Decode<256> for BlockQ4_K {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (f16_to_f32(self.d), f16_to_f32(self.dmin));
        let (scales, mins) = scales_k4(&self.scales);
        for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = (d * f32::from(scales[i]), dmin * f32::from(mins[i]));
            for (out, q) in out.iter_mut().zip(&self.qs[i / 2 * 32..][..32]) {
                *out = scale * f32::from(q >> (i % 2 * 4) & 15) - min;
            }
        }
    }
}

impl Decode<256> for BlockQ5_K {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (f16_to_f32(self.d), f16_to_f32(self.dmin));
        let (scales, mins) = scales_k4(&self.scales);
        for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, min) = (d * f32::from(scales[i]), dmin * f32::from(mins[i]));
            for (out, (low, high)) in out.iter_mut().zip(self.qs[i / 2 * 32..][..32].iter().zip(&self.qh)) {
                let q = low >> (i % 2 * 4) & 15 | (high >> i & 1) << 4;
                *out = scale * f32::from(q) - min;
            }
        }
    }
}

impl Decode<256> for BlockQ6_K {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let mut values = two_bits(&self.qh);
        for (i, values) in values.as_chunks_mut::<64>().0.iter_mut().enumerate() {
            // Of the 64 bytes of a half block the low nibbles are its first 64 elements, the high ones the others.
            for (q, low) in values.iter_mut().zip(&self.ql[i / 2 * 64..][..64]) {
                *q = *q << 4 | low >> (i % 2 * 4) & 15;
            }
        }
        let mut scales = [0; 16];
        for (scale, &byte) in scales.iter_mut().zip(&self.scales) {
            *scale = byte as i8;
        }
        sixteens::<32>(f16_to_f32(self.d), &scales, &values, out);
    }
}

impl Decode<256> for BlockQ8_K {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f32::from_le_bytes(self.d);
        for (out, &q) in out.iter_mut().zip(&self.qs) {
            *out = d * f32::from(q as i8);
        }
    }
}
