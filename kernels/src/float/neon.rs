//! Vectors of 4 floats: NEON.

use std::arch::aarch64::*;
use std::arch::asm;

use super::simd::{MAX_LANES, Simd};

/// Proof of NEON.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    /// # Safety
    /// The machine has NEON.
    #[inline(always)]
    pub(crate) unsafe fn new() -> Self {
        Neon(())
    }
}

macro_rules! ops {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            // SAFETY: `self` proves that the instructions exist; what is read and written is borrowed.
            unsafe { $body }
        }
    )*};
}

impl Simd for Neon {
    type V = float32x4_t;
    type M = uint32x4_t;
    type I = uint32x4_t;
    const LANES: usize = 4;
    const WIDE: bool = true;

    ops! {
        fn splat(x: f32) -> float32x4_t = vdupq_n_f32(x);
        fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t = vaddq_f32(a, b);
        fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t = vsubq_f32(a, b);
        fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32(a, b);
        fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t = vdivq_f32(a, b);
        fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmaq_f32(c, a, b);
        fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmaxq_f32(a, b);
        fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t = vminq_f32(a, b);
        fn abs(a: float32x4_t) -> float32x4_t = vabsq_f32(a);
        fn round(a: float32x4_t) -> float32x4_t = vrndnq_f32(a);
        fn scale_exp(v: float32x4_t, n: float32x4_t) -> float32x4_t = {
            // Two factors, for 2^-152 and 2^128 are not f32.
            let n = vcvtnq_s32_f32(n);
            let half = vshrq_n_s32::<1>(n);
            let bias = vdupq_n_s32(127);
            let a = vshlq_n_s32::<23>(vaddq_s32(half, bias));
            let b = vshlq_n_s32::<23>(vaddq_s32(vsubq_s32(n, half), bias));
            vmulq_f32(vmulq_f32(v, vreinterpretq_f32_s32(a)), vreinterpretq_f32_s32(b))
        };
        fn if_less(a: float32x4_t, b: float32x4_t, yes: float32x4_t, no: float32x4_t) -> float32x4_t =
            vbslq_f32(vcltq_f32(a, b), yes, no);
        fn sqrt(a: float32x4_t) -> float32x4_t = vsqrtq_f32(a);
        fn less(a: float32x4_t, b: float32x4_t) -> uint32x4_t = vcltq_f32(a, b);
        fn equal(a: float32x4_t, b: float32x4_t) -> uint32x4_t = vceqq_f32(a, b);
        fn both(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vandq_u32(a, b);
        fn not(a: uint32x4_t) -> uint32x4_t = vmvnq_u32(a);
        fn any(a: uint32x4_t) -> bool = vmaxvq_u32(a) != 0;
        fn select(m: uint32x4_t, yes: float32x4_t, no: float32x4_t) -> float32x4_t = vbslq_f32(m, yes, no);
        fn splat_int(x: u32) -> uint32x4_t = vdupq_n_u32(x);
        fn to_int(a: float32x4_t) -> uint32x4_t = {
            // This set makes of them what is nearest, and zero of NaN.
            let fits = vcltq_f32(vabsq_f32(a), vdupq_n_f32(2_147_483_648.0));
            vbslq_u32(fits, vreinterpretq_u32_s32(vcvtq_s32_f32(a)), vdupq_n_u32(0x8000_0000))
        };
        fn to_float(a: uint32x4_t) -> float32x4_t = vcvtq_f32_s32(vreinterpretq_s32_u32(a));
        fn bits(a: float32x4_t) -> uint32x4_t = vreinterpretq_u32_f32(a);
        fn sub_int(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vsubq_u32(a, b);
        fn and(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vandq_u32(a, b);
        fn or(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vorrq_u32(a, b);
        fn shl(a: uint32x4_t, by: u32) -> uint32x4_t = vshlq_u32(a, vdupq_n_s32(by as i32));
        fn shr(a: uint32x4_t, by: u32) -> uint32x4_t = vshlq_u32(a, vdupq_n_s32(-(by as i32)));
        fn descend(i: uint32x4_t, left: uint32x4_t) -> uint32x4_t =
            // A truth is -1.
            vaddq_u32(vaddq_u32(i, i), vaddq_u32(vdupq_n_u32(1), left));
        fn pick(table: &[f32; 8], i: uint32x4_t) -> float32x4_t = {
            // Byte `b` of a float is byte `4 i + b` of the table.
            let places = vmlaq_n_u32(vdupq_n_u32(0x0302_0100), i, 0x0404_0404);
            let table = vld1q_u8_x2(table.as_ptr().cast());
            vreinterpretq_f32_u8(vqtbl2q_u8(table, vreinterpretq_u8_u32(places)))
        };
        fn to_array(a: uint32x4_t) -> [u32; MAX_LANES] = {
            let mut lanes = [0; MAX_LANES];
            vst1q_u32(lanes.as_mut_ptr(), a);
            lanes
        };
        fn sum(a: float32x4_t) -> f32 = vaddvq_f32(a);
        fn sums(a: [float32x4_t; 4]) -> [f32; 4] = {
            let sums = vpaddq_f32(vpaddq_f32(a[0], a[1]), vpaddq_f32(a[2], a[3]));
            std::mem::transmute::<float32x4_t, [f32; 4]>(sums)
        };
        fn top(a: float32x4_t) -> f32 = vmaxvq_f32(a);
    }

    #[inline(always)]
    fn splat_f16(self, bits: u16) -> float32x4_t {
        let x: f32;
        // SAFETY: an instruction of every ARMv8, between registers.
        unsafe {
            asm!("fmov {x:s}, {bits:w}", "fcvt {x:s}, {x:h}", bits = in(reg) u32::from(bits), x = out(vreg) x,
                 options(pure, nomem, nostack, preserves_flags));
        }
        self.splat(x)
    }

    #[inline(always)]
    fn f16_bits(self, a: float32x4_t) -> uint32x4_t {
        let bits: uint32x4_t;
        // SAFETY: instructions of every ARMv8, between registers.
        unsafe {
            asm!("fcvtn {t:v}.4h, {v:v}.4s", "ushll {t:v}.4s, {t:v}.4h, #0", v = in(vreg) a, t = out(vreg) bits,
                 options(pure, nomem, nostack, preserves_flags));
        }
        bits
    }

    #[inline(always)]
    fn f16_value(self, a: uint32x4_t) -> float32x4_t {
        let v: float32x4_t;
        // SAFETY: instructions of every ARMv8, between registers.
        unsafe {
            asm!("xtn {v:v}.4h, {a:v}.4s", "fcvtl {v:v}.4s, {v:v}.4h", a = in(vreg) a, v = out(vreg) v,
                 options(pure, nomem, nostack, preserves_flags));
        }
        v
    }

    #[inline(always)]
    fn columns(self, rows: &[&[f32]; MAX_LANES], at: usize, out: &mut [float32x4_t]) {
        let mut r = [self.splat(0.0); 4];
        for (r, row) in r.iter_mut().zip(rows) {
            // SAFETY: the slice has the 4 floats that are read of it.
            *r = unsafe { self.load(row[at..at + 4].as_ptr()) };
        }
        // SAFETY: `self` proves that the instructions exist.
        unsafe {
            // Pairs of rows, then all four, as pairs of floats.
            let pair =
                |a, b| vreinterpretq_f64_f32(if b { vtrn2q_f32(r[a], r[a + 1]) } else { vtrn1q_f32(r[a], r[a + 1]) });
            let (even, odd) = ([pair(0, false), pair(2, false)], [pair(0, true), pair(2, true)]);
            out[..4].copy_from_slice(&[
                vreinterpretq_f32_f64(vtrn1q_f64(even[0], even[1])),
                vreinterpretq_f32_f64(vtrn1q_f64(odd[0], odd[1])),
                vreinterpretq_f32_f64(vtrn2q_f64(even[0], even[1])),
                vreinterpretq_f32_f64(vtrn2q_f64(odd[0], odd[1])),
            ]);
        }
    }

    #[inline(always)]
    fn prefetch(self, p: *const u8) {
        // SAFETY: a hint, which reads nothing and never faults. No intrinsic of it is stable.
        unsafe { asm!("prfm pldl1keep, [{p}]", p = in(reg) p, options(readonly, nostack, preserves_flags)) }
    }

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> float32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vld1q_f32(p) }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: float32x4_t) {
        // SAFETY: the caller's promise.
        unsafe { vst1q_f32(p, v) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> float32x4_t {
        let v: float32x4_t;
        // As assembly, because Rust 1.89 has no stable f16 vectors; the instructions are in every ARMv8.
        // SAFETY: reads 8 bytes at `p`, the caller's promise.
        unsafe {
            asm!("ldr {v:d}, [{p}]", "fcvtl {v:v}.4s, {v:v}.4h", p = in(reg) p, v = out(vreg) v,
                 options(pure, readonly, nostack, preserves_flags));
        }
        v
    }

    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8, v: float32x4_t) {
        // SAFETY: writes 8 bytes at `p`, the caller's promise. Rust never changes the rounding mode from nearest even.
        unsafe {
            asm!("fcvtn {t:v}.4h, {v:v}.4s", "str {t:d}, [{p}]", p = in(reg) p, v = in(vreg) v, t = out(vreg) _,
                 options(nostack, preserves_flags));
        }
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> float32x4_t {
        // SAFETY: the caller's promise: 4 bytes.
        let bytes = unsafe { p.cast::<u32>().read_unaligned() };
        // SAFETY: `self` proves that the instructions exist.
        unsafe { vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(bytes)))))) }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, a: uint32x4_t) {
        // SAFETY: the caller's promise: 4 bytes.
        unsafe {
            let halves = vmovn_u32(a);
            let bytes = vreinterpret_u32_u8(vmovn_u16(vcombine_u16(halves, halves)));
            p.cast::<u32>().write_unaligned(vget_lane_u32::<0>(bytes));
        }
    }
}
