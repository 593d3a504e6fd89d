//! What a vector of f32 can do, whatever the instruction set: the loops of this crate over floats are written once
//! over [`Simd`] and compiled once for each set.
//!
//! A [`Kernel`] is a loop with its arguments. [`run`] enters a function compiled with the instructions of the given
//! [`Cpu`] and inlines the loop there, so everything generic over `Simd` must be `#[inline(always)]`: what stays a
//! function of its own is compiled without the instructions and calls each of them.

use crate::Cpu;
use crate::cpu::Isa;

#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// The lanes of the widest vector.
pub(crate) const MAX_LANES: usize = 16;

/// A vector of f32 of one instruction set. The value itself proves that the machine has the instructions.
pub(crate) trait Simd: Copy {
    type V: Copy;
    /// A truth in every lane.
    type M: Copy;
    /// An integer of 32 bits in every lane.
    type I: Copy;
    const LANES: usize;
    /// 32 registers rather than 16: room for twice the accumulators.
    const WIDE: bool;

    fn splat(self, x: f32) -> Self::V;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The greater; when `b` is NaN, NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// The lesser; when `b` is NaN, NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn abs(self, a: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// `v * 2^n` for integral `n` in -152..=128; the result may be subnormal, zero or infinite.
    fn scale_exp(self, v: Self::V, n: Self::V) -> Self::V;
    /// `yes` where `a < b`, else `no`.
    fn if_less(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// `a < b`; false for NaN.
    fn less(self, a: Self::V, b: Self::V) -> Self::M;
    /// `a == b`; false for NaN, and both zeros are equal.
    fn equal(self, a: Self::V, b: Self::V) -> Self::M;
    fn both(self, a: Self::M, b: Self::M) -> Self::M;
    fn not(self, a: Self::M) -> Self::M;
    /// Whether it is so in any lane.
    fn any(self, a: Self::M) -> bool;
    fn select(self, m: Self::M, yes: Self::V, no: Self::V) -> Self::V;

    fn splat_int(self, x: u32) -> Self::I;
    /// Towards zero. What an i32 cannot hold, NaN too, is `i32::MIN`.
    fn to_int(self, a: Self::V) -> Self::I;
    /// From i32.
    fn to_float(self, a: Self::I) -> Self::V;
    /// The bits of the floats.
    fn bits(self, a: Self::V) -> Self::I;
    fn sub_int(self, a: Self::I, b: Self::I) -> Self::I;
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    fn shl(self, a: Self::I, by: u32) -> Self::I;
    /// Zeros come in from the left.
    fn shr(self, a: Self::I, by: u32) -> Self::I;
    /// A step down a binary tree in an array: `2 i` where `left`, else `2 i + 1`.
    fn descend(self, i: Self::I, left: Self::M) -> Self::I;
    /// Entries of a table; the indices are below 8.
    fn pick(self, table: &[f32; 8], i: Self::I) -> Self::V;
    /// The lanes; what follows them in the array is any value.
    fn to_array(self, a: Self::I) -> [u32; MAX_LANES];
    /// To f16 bits, ties to even.
    fn f16_bits(self, a: Self::V) -> Self::I;
    /// From f16 bits; the upper halves of the lanes are zero.
    fn f16_value(self, a: Self::I) -> Self::V;
    /// A square of floats on its side: lane `i` of `out[j]` is `rows[i][at + j]`, for `LANES` of each.
    ///
    /// # Panics
    /// When a row or `out` is too short.
    fn columns(self, rows: &[&[f32]; MAX_LANES], at: usize, out: &mut [Self::V]);

    /// The sum of the lanes, in a fixed order.
    fn sum(self, a: Self::V) -> f32;
    /// Four sums at once, each in a fixed order.
    fn sums(self, a: [Self::V; 4]) -> [f32; 4];
    /// The greatest of the lanes.
    fn top(self, a: Self::V) -> f32;

    /// An f16, from its bits, in every lane.
    fn splat_f16(self, bits: u16) -> Self::V;

    /// Asks for the cache line at `p`; any address will do.
    fn prefetch(self, p: *const u8);

    /// # Safety
    /// `LANES` floats can be read at `p`.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// # Safety
    /// `LANES` floats can be written at `p`.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// # Safety
    /// `2 * LANES` bytes can be read at `p`: little-endian f16.
    unsafe fn load_f16(self, p: *const u8) -> Self::V;
    /// Rounds to nearest, ties to even.
    ///
    /// # Safety
    /// `2 * LANES` bytes can be written at `p`.
    unsafe fn store_f16(self, p: *mut u8, v: Self::V);
    /// # Safety
    /// `LANES` bytes can be read at `p`: i8.
    unsafe fn load_i8(self, p: *const u8) -> Self::V;
    /// The lowest byte of each lane.
    ///
    /// # Safety
    /// `LANES` bytes can be written at `p`.
    unsafe fn store_bytes(self, p: *mut u8, a: Self::I);

    /// The first floats of `x`; lanes past its end are `fill`.
    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> Self::V {
        if x.len() >= Self::LANES {
            // SAFETY: the slice is long enough.
            return unsafe { self.load(x.as_ptr()) };
        }
        let mut part = [fill; MAX_LANES];
        part[..x.len()].copy_from_slice(x);
        // SAFETY: `part` holds MAX_LANES >= LANES floats.
        unsafe { self.load(part.as_ptr()) }
    }

    /// Writes as many lanes as `x` has room for.
    #[inline(always)]
    fn store_part(self, x: &mut [f32], v: Self::V) {
        if x.len() >= Self::LANES {
            // SAFETY: the slice is long enough.
            return unsafe { self.store(x.as_mut_ptr(), v) };
        }
        let mut part = [0.0; MAX_LANES];
        // SAFETY: `part` holds MAX_LANES >= LANES floats.
        unsafe { self.store(part.as_mut_ptr(), v) };
        let n = x.len();
        x.copy_from_slice(&part[..n]);
    }
}

/// A loop with its arguments.
pub(crate) trait Kernel {
    type Out;
    /// Slow and obvious: what the loop means.
    fn scalar(self) -> Self::Out;
    /// The same with vectors; must be `#[inline(always)]`.
    fn simd<S: Simd>(self, s: S) -> Self::Out;
}

/// Runs a loop with the instructions of `cpu`.
#[inline]
pub(crate) fn run<K: Kernel>(cpu: Cpu, kernel: K) -> K::Out {
    match cpu.isa() {
        Isa::Scalar => kernel.scalar(),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `cpu` proves that the instructions exist.
        Isa::Avx2 | Isa::Avx2Vnni => unsafe { with_avx2(kernel) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx512 => unsafe { with_avx512(kernel) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Isa::Neon => unsafe { with_neon(kernel) },
        #[allow(unreachable_patterns, reason = "the sets of other machines")]
        _ => kernel.scalar(),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_avx2<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: this function is entered on machines with these instructions only.
    kernel.simd(unsafe { Avx2::new() })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
fn with_avx512<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: this function is entered on machines with these instructions only.
    kernel.simd(unsafe { Avx512::new() })
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn with_neon<K: Kernel>(kernel: K) -> K::Out {
    // SAFETY: this function is entered on machines with these instructions only.
    kernel.simd(unsafe { Neon::new() })
}
