//! Types that are not quantized: one number an element, little-endian.
//!
//! f64 and the wide integers round to the nearest f32; weights are not stored in them, small tables are.

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::scale::{bf16_to_f32, f16_to_f32};

/// Runs `decode` on each `N`-byte number.
#[inline(always)]
fn each<const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn([u8; N]) -> f32) {
    assert_eq!(bytes.len(), out.len() * N, "bytes, and {N} for each element");
    for (out, &number) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = decode(number);
    }
}

#[inline(always)]
pub(super) fn f32(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, f32::from_le_bytes);
}

/// `half` converts eight at a time where the CPU can, when the numbers lie at even addresses, as they do in files.
#[inline(always)]
pub(super) fn f16(bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() * 2, "bytes, and 2 for each element");
    // SAFETY: any two bytes are a u16.
    let (before, numbers, after) = unsafe { bytes.align_to::<u16>() };
    if cfg!(target_endian = "little") && before.is_empty() && after.is_empty() {
        numbers.reinterpret_cast::<half::f16>().convert_to_f32_slice(out);
    } else {
        each(bytes, out, f16_to_f32);
    }
}

#[inline(always)]
pub(super) fn bf16(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, bf16_to_f32);
}

#[inline(always)]
pub(super) fn f64(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b| f64::from_le_bytes(b) as f32);
}

#[inline(always)]
pub(super) fn i8(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b| i8::from_le_bytes(b) as f32);
}

#[inline(always)]
pub(super) fn i16(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b| i16::from_le_bytes(b) as f32);
}

#[inline(always)]
pub(super) fn i32(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b| i32::from_le_bytes(b) as f32);
}

#[inline(always)]
pub(super) fn i64(bytes: &[u8], out: &mut [f32]) {
    each(bytes, out, |b| i64::from_le_bytes(b) as f32);
}
