//! One, two or log2(3) bits a weight under one scale: no table, no sub-blocks.
//!
//! ```text
//! Q1_0   128  d(f16) qs[16]        d or -d: bit i % 8 of byte i / 8
//! Q2_0    64  d(f16) qs[16]        d * (q - 1): bits 2 (i % 4) of byte i / 4
//! TQ2_0  256  qs[64] d(f16)        d * (q - 1): a byte of half h holds elements 128 h + i, + 32, + 64, + 96
//! TQ1_0  256  qs[48] qh[4] d(f16)  d * (t - 1): five trits a byte, in runs of 32, 16 and (four trits) 4 bytes
//! ```
//!
//! A byte of TQ1_0 is a fraction in base 3: ceil(256 / 243 * (81 t0 + 27 t1 + 9 t2 + 3 t3 + t4)) / 256.
//! So `byte * 3^n` modulo 256 has trit n in front, and `* 3 >> 8` reads it.

use super::Decode;
use super::scale::f16_to_f32;
use crate::block::{BlockQ1_0, BlockQ2_0, BlockTQ1_0, BlockTQ2_0};

impl Decode<128> for BlockQ1_0 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 128]) {
        let d = f16_to_f32(self.d);
        for (out, &bits) in out.as_chunks_mut::<8>().0.iter_mut().zip(&self.qs) {
            for (i, out) in out.iter_mut().enumerate() {
                *out = if bits >> i & 1 != 0 { d } else { -d };
            }
        }
    }
}

impl Decode<64> for BlockQ2_0 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 64]) {
        let d = f16_to_f32(self.d);
        for (out, &q) in out.as_chunks_mut::<4>().0.iter_mut().zip(&self.qs) {
            for (i, out) in out.iter_mut().enumerate() {
                *out = d * f32::from((q >> (2 * i) & 3) as i8 - 1);
            }
        }
    }
}

impl Decode<256> for BlockTQ2_0 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f16_to_f32(self.d);
        for (i, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (out, q) in out.iter_mut().zip(&self.qs[i / 4 * 32..][..32]) {
                *out = d * f32::from((q >> (i % 4 * 2) & 3) as i8 - 1);
            }
        }
    }
}

/// `TRITS` runs of `qs.len()` elements: trit 0 of every byte, then trit 1 of every byte, ...
#[inline(always)]
fn trits<const TRITS: usize, const N: usize>(d: f32, qs: &[u8; N], out: &mut [f32]) {
    let mut power = 1u8;
    for out in out.as_chunks_mut::<N>().0.iter_mut().take(TRITS) {
        for (out, q) in out.iter_mut().zip(qs) {
            let trit = (u16::from(q.wrapping_mul(power)) * 3) >> 8;
            *out = d * f32::from(trit as i16 - 1);
        }
        power = power.wrapping_mul(3);
    }
}

impl Decode<256> for BlockTQ1_0 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f16_to_f32(self.d);
        let (wide, rest) = self.qs.split_first_chunk::<32>().expect("48 bytes");
        let narrow = rest.first_chunk::<16>().expect("16 bytes");
        trits::<5, 32>(d, wide, &mut out[..160]);
        trits::<5, 16>(d, narrow, &mut out[160..240]);
        trits::<4, 4>(d, &self.qh, &mut out[240..]);
    }
}
