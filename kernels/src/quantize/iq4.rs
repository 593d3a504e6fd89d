//! IQ4: nibbles that index 16 values, close together near zero and wide apart at the ends.
//!
//! ```text
//! IQ4_NL  32       d(f16) qs[16]                             d * KVALUES[q]
//! IQ4_XS  8 x 32   d(f16) scales_h(u16) scales_l[4] qs[128]  d * (sc - 32) * KVALUES[q]
//!
//! byte i of qs of 32 elements: low nibble = element i, high nibble = element i + 16
//! ```

use super::Decode;
use super::scale::f16_to_f32;
use crate::block::{BlockIQ4_NL, BlockIQ4_XS};

/// What the nibbles of IQ4_NL and IQ4_XS stand for. Source: `kvalues_iq4nl` in `ggml-common.h`.
pub const KVALUES_IQ4NL: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The 8 scales of IQ4_XS, with the 32 already taken off: -32..=31.
#[inline]
pub const fn scales_iq4_xs(scales_h: [u8; 2], scales_l: [u8; 4]) -> [i8; 8] {
    let (high, low) = (u16::from_le_bytes(scales_h), u32::from_le_bytes(scales_l));
    let mut out = [0; 8];
    let mut i = 0;
    while i < 8 {
        out[i] = ((low >> (4 * i) & 15) as i8 | ((high >> (2 * i) & 3) as i8) << 4) - 32;
        i += 1;
    }
    out
}

/// 32 elements through the table. The 16 products are made once: a load is cheaper than a conversion and a product.
#[inline(always)]
pub(super) fn nibbles_32(d: f32, values: &[i8; 16], qs: &[u8; 16], out: &mut [f32; 32]) {
    let table = values.map(|v| d * f32::from(v));
    for (i, &q) in qs.iter().enumerate() {
        out[i] = table[usize::from(q & 15)];
        out[i + 16] = table[usize::from(q >> 4)];
    }
}

impl Decode<32> for BlockIQ4_NL {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        nibbles_32(f16_to_f32(self.d), &KVALUES_IQ4NL, &self.qs, out);
    }
}

impl Decode<256> for BlockIQ4_XS {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f16_to_f32(self.d);
        let scales = scales_iq4_xs(self.scales_h, self.scales_l);
        let parts = out.as_chunks_mut().0.iter_mut().zip(self.qs.as_chunks().0).zip(scales);
        for ((out, qs), scale) in parts {
            nibbles_32(d * f32::from(scale), &KVALUES_IQ4NL, qs, out);
        }
    }
}
