//! Four-bit floats (E2M1) under a small float scale.
//!
//! ```text
//! MXFP4  32       e(E8M0) qs[16]       2^(e - 127) * E2M1[q]
//! NVFP4  4 x 16   d[4](UE4M3) qs[32]   d * E2M1[q]
//!
//! byte i of qs of a (sub-)block of n: low nibble = element i, high nibble = element i + n / 2
//! ```
//!
//! The values 0, 0.5, 1, 1.5, 2, 3, 4, 6 are stored doubled, as integers, and the scale is halved.

use super::Decode;
use super::iq4::nibbles_32;
use super::scale::{e8m0_half_to_f32, ue4m3_half_to_f32};
use crate::block::{BlockMXFP4, BlockNVFP4};

/// Twice what a nibble (sign, 2 bits of exponent, 1 of mantissa) stands for; -0 is 0.
/// Sources: OCP Microscaling Formats 1.0; `kvalues_mxfp4` in `ggml-common.h`.
pub const KVALUES_FP4: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

impl Decode<32> for BlockMXFP4 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 32]) {
        nibbles_32(e8m0_half_to_f32(self.e), &KVALUES_FP4, &self.qs, out);
    }
}

impl Decode<64> for BlockNVFP4 {
    #[inline(always)]
    fn decode(&self, out: &mut [f32; 64]) {
        let parts = out.as_chunks_mut::<16>().0.iter_mut().zip(self.qs.as_chunks::<8>().0).zip(self.d);
        for ((out, qs), d) in parts {
            let d = ue4m3_half_to_f32(d);
            for (i, &q) in qs.iter().enumerate() {
                out[i] = d * f32::from(KVALUES_FP4[usize::from(q & 15)]);
                out[i + 8] = d * f32::from(KVALUES_FP4[usize::from(q >> 4)]);
            }
        }
    }
}
