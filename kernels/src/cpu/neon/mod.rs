//! NEON with the dot products of ARMv8.2 (`sdot`): four rows to a register, signed bytes on both sides.
//!
//! `sdot` multiplies signed bytes, and every format's weights less their offset fit one: so no offset is left for the
//! sums of the activations to subtract, as on x86, only the minimums of the formats that have such.

mod gemm;
mod gemv;

use std::arch::aarch64::*;
use std::arch::asm;

use super::kernels::Kernels;
use super::lanes::{Lanes, RowPtrs};
use crate::probe::Int8Peak;
use crate::{acts, quantize};

/// Plain Rust needs no function of its own to be compiled for NEON: every aarch64 has it.
pub(crate) static KERNELS: Kernels = Kernels {
    quantize32: |x, out| acts::quantize32(x, out),
    quantize256: |x, out| acts::quantize256(x, out),
    decode: |dtype, bytes, out| quantize::decode_row(dtype, bytes, out),
    dot: gemv::dot,
    gemv: gemv::kernel,
    gemm: gemm::kernel,
    int8_peak: Int8Peak { products: 16 * 16, rounds: int8_peak },
};

/// Sixteen independent sums: more than the latency of `sdot` times its rate on any processor.
#[target_feature(enable = "neon,dotprod")]
unsafe fn int8_peak(rounds: usize) -> i32 {
    let (w, a) = (vdupq_n_s8(3), vdupq_n_s8(-5));
    let mut sums = [vdupq_n_s32(0); 16];
    for _ in 0..rounds {
        sums.iter_mut().for_each(|sum| *sum = sdot(*sum, w, a));
    }
    vaddvq_s32(sums.into_iter().fold(vdupq_n_s32(0), |a, b| vaddq_s32(a, b)))
}

/// `acc[i] += a[4 i..4 i + 4] . b[4 i..4 i + 4]`; as assembly, because the intrinsic is not stable.
#[inline]
#[target_feature(enable = "dotprod")]
fn sdot(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: an instruction of `dotprod`, between registers.
    unsafe {
        asm!("sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b", acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b,
             options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// `acc[i] += a[4 i..4 i + 4] . b[4 LANE..4 LANE + 4]`: four rows and four activations.
#[inline]
#[target_feature(enable = "dotprod")]
fn sdot_lane<const LANE: usize>(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: an instruction of `dotprod`, between registers.
    unsafe {
        asm!("sdot {acc:v}.4s, {a:v}.16b, {b:v}.4b[{lane}]", acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b,
             lane = const LANE, options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// Four lanes.
struct Quad;

/// Trait functions whose body is one expression of intrinsics.
macro_rules! lanes {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) $(-> $out:ty)? = $body:expr;)*) => {$(
        $(#[$doc])*
        #[inline(always)]
        unsafe fn $name($($arg: $ty),*) $(-> $out)? {
            // SAFETY: promised by the caller.
            unsafe { $body }
        }
    )*};
}

impl Lanes for Quad {
    type V = uint32x4_t;
    type F = float32x4_t;
    const N: usize = 4;

    lanes! {
        fn gather16(rows: &RowPtrs, at: usize) -> [uint32x4_t; 4] = {
            let [a, b, c, d] = [0, 1, 2, 3].map(|row| vreinterpretq_u32_u8(vld1q_u8(rows.at(row, at))));
            let even = |a, b| vreinterpretq_u64_u32(vtrn1q_u32(a, b)); // a0 b0 a2 b2
            let odd = |a, b| vreinterpretq_u64_u32(vtrn2q_u32(a, b)); // a1 b1 a3 b3
            let (ab02, ab13, cd02, cd13) = (even(a, b), odd(a, b), even(c, d), odd(c, d));
            [vtrn1q_u64(ab02, cd02), vtrn1q_u64(ab13, cd13), vtrn2q_u64(ab02, cd02), vtrn2q_u64(ab13, cd13)]
                .map(|v| vreinterpretq_u32_u64(v))
        };
        fn gather4(rows: &RowPtrs, at: usize) -> uint32x4_t = {
            let words = [0, 1, 2, 3].map(|row| rows.at(row, at).cast::<u32>().read_unaligned());
            vld1q_u32(words.as_ptr())
        };
        fn store(to: *mut u8, v: uint32x4_t) = vst1q_u8(to, vreinterpretq_u8_u32(v));
        fn store_floats(to: *mut f32, f: float32x4_t) = vst1q_f32(to, f);
        fn splat(x: u32) -> uint32x4_t = vdupq_n_u32(x);
        fn and(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vandq_u32(a, b);
        fn or(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vorrq_u32(a, b);
        fn xor(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = veorq_u32(a, b);
        // A shift to the left by less than nothing.
        fn shr(a: uint32x4_t, by: u32) -> uint32x4_t = vshlq_u32(a, vdupq_n_s32(-(by as i32)));
        fn shl(a: uint32x4_t, by: u32) -> uint32x4_t = vshlq_u32(a, vdupq_n_s32(by as i32));
        fn sar(a: uint32x4_t, by: u32) -> uint32x4_t =
            vreinterpretq_u32_s32(vshlq_s32(vreinterpretq_s32_u32(a), vdupq_n_s32(-(by as i32))));
        fn mul_int(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vmulq_u32(a, b);
        fn sub_int(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vsubq_u32(a, b);
        fn lookup(table: &[u8; 16], index: uint32x4_t) -> uint32x4_t =
            vreinterpretq_u32_u8(vqtbl1q_u8(vld1q_u8(table.as_ptr()), vreinterpretq_u8_u32(index)));
        fn f16(v: uint32x4_t) -> float32x4_t = {
            let floats: float32x4_t;
            // As assembly, because Rust 1.89 has no stable f16 vectors; the instruction is in every ARMv8.
            asm!("fcvtl {f:v}.4s, {h:v}.4h", h = in(vreg) vmovn_u32(v), f = lateout(vreg) floats,
                 options(pure, nomem, nostack, preserves_flags));
            floats
        };
        fn to_float(v: uint32x4_t) -> float32x4_t = vcvtq_f32_s32(vreinterpretq_s32_u32(v));
        fn as_float(v: uint32x4_t) -> float32x4_t = vreinterpretq_f32_u32(v);
        /// Signed bytes, which are the weights themselves.
        fn centre(q: uint32x4_t, offset: u8) -> uint32x4_t =
            vreinterpretq_u32_u8(vsubq_u8(vreinterpretq_u8_u32(q), vdupq_n_u8(offset)));
    }
}
