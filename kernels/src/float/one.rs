//! Vectors of one float: no instruction set at all.
//!
//! For loops whose lanes do not meet, as those of the encoders: written once, they are their own reference here.

use half::f16;

use super::simd::{MAX_LANES, Simd};

/// A float at a time.
#[derive(Clone, Copy)]
pub(crate) struct One;

macro_rules! ops {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty = $body:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($arg: $ty),*) -> $out {
            $body
        }
    )*};
}

impl Simd for One {
    type V = f32;
    type M = bool;
    type I = u32;
    const LANES: usize = 1;
    const WIDE: bool = false;

    ops! {
        fn splat(x: f32) -> f32 = x;
        fn add(a: f32, b: f32) -> f32 = a + b;
        fn sub(a: f32, b: f32) -> f32 = a - b;
        fn mul(a: f32, b: f32) -> f32 = a * b;
        fn div(a: f32, b: f32) -> f32 = a / b;
        fn fma(a: f32, b: f32, c: f32) -> f32 = a.mul_add(b, c);
        fn max(a: f32, b: f32) -> f32 = if a > b { a } else { b };
        fn min(a: f32, b: f32) -> f32 = if a < b { a } else { b };
        fn abs(a: f32) -> f32 = a.abs();
        fn round(a: f32) -> f32 = a.round_ties_even();
        fn if_less(a: f32, b: f32, yes: f32, no: f32) -> f32 = if a < b { yes } else { no };
        fn sqrt(a: f32) -> f32 = a.sqrt();
        fn less(a: f32, b: f32) -> bool = a < b;
        fn equal(a: f32, b: f32) -> bool = a == b;
        fn both(a: bool, b: bool) -> bool = a && b;
        fn not(a: bool) -> bool = !a;
        fn any(a: bool) -> bool = a;
        fn select(m: bool, yes: f32, no: f32) -> f32 = if m { yes } else { no };
        fn splat_int(x: u32) -> u32 = x;
        fn to_int(a: f32) -> u32 = if a.abs() < 2_147_483_648.0 { a as i32 as u32 } else { i32::MIN as u32 };
        fn to_float(a: u32) -> f32 = a as i32 as f32;
        fn bits(a: f32) -> u32 = a.to_bits();
        fn sub_int(a: u32, b: u32) -> u32 = a.wrapping_sub(b);
        fn and(a: u32, b: u32) -> u32 = a & b;
        fn or(a: u32, b: u32) -> u32 = a | b;
        fn shl(a: u32, by: u32) -> u32 = a << by;
        fn shr(a: u32, by: u32) -> u32 = a >> by;
        fn descend(i: u32, left: bool) -> u32 = 2 * i + u32::from(!left);
        fn pick(table: &[f32; 8], i: u32) -> f32 = table[i as usize];
        fn to_array(a: u32) -> [u32; MAX_LANES] = [a; MAX_LANES];
        fn f16_bits(a: f32) -> u32 = u32::from(f16::from_f32_const(a).to_bits());
        fn f16_value(a: u32) -> f32 = f16::from_bits(a as u16).to_f32_const();
        fn sum(a: f32) -> f32 = a;
        fn sums(a: [f32; 4]) -> [f32; 4] = a;
        fn top(a: f32) -> f32 = a;
        fn splat_f16(bits: u16) -> f32 = f16::from_bits(bits).to_f32_const();
        fn scale_exp(v: f32, n: f32) -> f32 = {
            // Two factors, for 2^-152 and 2^128 are not f32.
            let half = (n as i32) >> 1;
            let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
            v * power(half) * power(n as i32 - half)
        };
    }

    #[inline(always)]
    fn columns(self, rows: &[&[f32]; MAX_LANES], at: usize, out: &mut [f32]) {
        out[0] = rows[0][at];
    }

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}

    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { p.read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: f32) {
        // SAFETY: the caller's promise.
        unsafe { p.write_unaligned(v) }
    }

    #[inline(always)]
    unsafe fn load_f16(self, p: *const u8) -> f32 {
        // SAFETY: the caller's promise.
        f16::from_le_bytes(unsafe { p.cast::<[u8; 2]>().read() }).to_f32_const()
    }

    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u8, v: f32) {
        // SAFETY: the caller's promise.
        unsafe { p.cast::<[u8; 2]>().write(f16::from_f32_const(v).to_le_bytes()) }
    }

    #[inline(always)]
    unsafe fn load_i8(self, p: *const u8) -> f32 {
        // SAFETY: the caller's promise.
        f32::from(unsafe { p.read() } as i8)
    }

    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, a: u32) {
        // SAFETY: the caller's promise.
        unsafe { p.write(a as u8) }
    }
}
