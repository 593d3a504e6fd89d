//! Vectors of 4 floats: NEON.

use std::arch::aarch64::*;
use std::arch::asm;

use super::simd::Simd;

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
            // SAFETY: `self` proves that the instructions exist; nothing here touches memory.
            unsafe { $body }
        }
    )*};
}

impl Simd for Neon {
    type V = float32x4_t;
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
}
