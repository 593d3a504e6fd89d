//! Types that are not quantized.

use crate::float::one::One;
use crate::float::simd::{Kernel, Simd};

pub(super) fn f32(x: &[f32], out: &mut [u8]) {
    for (out, x) in out.as_chunks_mut().0.iter_mut().zip(x) {
        *out = x.to_le_bytes();
    }
}

/// Rounds to nearest, ties to even. Every NaN is the same one, with its sign.
pub(super) struct F16<'a>(pub &'a [f32], pub &'a mut [u8]);

impl Kernel for F16<'_> {
    type Out = ();

    fn scalar(self) {
        self.simd(One);
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        for (x, out) in self.0.chunks(S::LANES).zip(self.1.chunks_mut(2 * S::LANES)) {
            let v = s.load_part(x, 0.0);
            let lanes = s.to_array(s.f16_bits(v));
            if s.any(s.not(s.equal(v, v))) || x.len() < S::LANES {
                for ((out, x), bits) in out.as_chunks_mut().0.iter_mut().zip(x).zip(lanes) {
                    let nan = 0x7e00 | (x.to_bits() >> 16 & 0x8000);
                    *out = (if x.is_nan() { nan } else { bits } as u16).to_le_bytes();
                }
            } else {
                // SAFETY: the chunk has room for LANES halves.
                unsafe { s.store_f16(out.as_mut_ptr(), v) };
            }
        }
    }
}

/// Rounds to nearest, ties to even. A NaN stays the one it is, made quiet.
pub(super) struct Bf16<'a>(pub &'a [f32], pub &'a mut [u8]);

impl Bf16<'_> {
    /// The compiler makes vectors of it.
    #[inline(always)]
    fn go(self) {
        for (out, x) in self.1.as_chunks_mut().0.iter_mut().zip(self.0) {
            let bits = x.to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            let nan = bits >> 16 | 64;
            *out = (if bits & 0x7fff_ffff > 0x7f80_0000 { nan } else { rounded } as u16).to_le_bytes();
        }
    }
}

impl Kernel for Bf16<'_> {
    type Out = ();

    fn scalar(self) {
        self.go();
    }

    #[inline(always)]
    fn simd<S: Simd>(self, _: S) {
        self.go();
    }
}
