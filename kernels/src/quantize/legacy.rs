//! The first formats: blocks of 32 with one scale, and a minimum in the `_1` kinds.
//!
//! ```text
//! Q4_0  d(f16)            qs[16]      d * (q - 8)
//! Q4_1  d(f16) m(f16)     qs[16]      d * q + m
//! Q5_0  d(f16)        qh  qs[16]      d * (q - 16)
//! Q5_1  d(f16) m(f16) qh  qs[16]      d * q + m
//! Q8_0  d(f16)            qs[32]      d * q
//! Q8_1  d(f16) s(f16)     qs[32]      d * q, s = d * sum(q): an activation format
//!
//! byte i of qs:  low nibble = element i, high nibble = element i + 16
//! bit i of qh:   bit 4 of element i
//! ```

use super::Decode;
use super::scale::f16_to_f32;
use crate::block::{BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1, BlockQ8_0, BlockQ8_1};

impl Decode<32> for BlockQ4_0 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        let d = f16_to_f32(self.d);
        for (i, &q) in self.qs.iter().enumerate() {
            out[i] = d * f32::from((q & 15) as i8 - 8);
            out[i + 16] = d * f32::from((q >> 4) as i8 - 8);
        }
    }
}

impl Decode<32> for BlockQ4_1 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        let (d, m) = (f16_to_f32(self.d), f16_to_f32(self.m));
        for (i, &q) in self.qs.iter().enumerate() {
            out[i] = d * f32::from(q & 15) + m;
            out[i + 16] = d * f32::from(q >> 4) + m;
        }
    }
}

/// The 5-bit values of a block.
#[inline(always)]
fn five_bits(qh: [u8; 4], qs: &[u8; 16]) -> [u8; 32] {
    let qh = u32::from_le_bytes(qh);
    let mut q = [0; 32];
    for (i, &low) in qs.iter().enumerate() {
        q[i] = low & 15 | ((qh >> i) as u8 & 1) << 4;
        q[i + 16] = low >> 4 | ((qh >> (i + 16)) as u8 & 1) << 4;
    }
    q
}

impl Decode<32> for BlockQ5_0 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        let d = f16_to_f32(self.d);
        for (out, q) in out.iter_mut().zip(five_bits(self.qh, &self.qs)) {
            *out = d * f32::from(q as i8 - 16);
        }
    }
}

impl Decode<32> for BlockQ5_1 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        let (d, m) = (f16_to_f32(self.d), f16_to_f32(self.m));
        for (out, q) in out.iter_mut().zip(five_bits(self.qh, &self.qs)) {
            *out = d * f32::from(q) + m;
        }
    }
}

impl Decode<32> for BlockQ8_0 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        let d = f16_to_f32(self.d);
        for (out, &q) in out.iter_mut().zip(&self.qs) {
            *out = d * f32::from(q as i8);
        }
    }
}

impl Decode<32> for BlockQ8_1 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        let d = f16_to_f32(self.d);
        for (out, &q) in out.iter_mut().zip(&self.qs) {
            *out = d * f32::from(q as i8);
        }
    }
}
