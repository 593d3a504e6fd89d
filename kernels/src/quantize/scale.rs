//! The small floats that scales are stored in: f16, bf16, E8M0, UE4M3.

use half::f16;

/// An f16 as it lies in a block.
#[inline]
pub fn f16_to_f32(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

/// A bf16 as it lies in a file: the upper half of an f32.
#[inline]
pub const fn bf16_to_f32(bytes: [u8; 2]) -> f32 {
    f32::from_bits((u16::from_le_bytes(bytes) as u32) << 16)
}

/// `2^(e - 127)`, the OCP microscaling exponent. 255 is NaN in the OCP text but 2^128 = infinity here, as in ggml.
#[inline]
pub const fn e8m0_to_f32(e: u8) -> f32 {
    f32::from_bits(if e == 0 { 0x0040_0000 } else { (e as u32) << 23 })
}

/// `2^(e - 128)`: half of [`e8m0_to_f32`], for values that are stored doubled ([`super::KVALUES_FP4`]).
/// 2^-128 and 2^-127 are subnormal; all others are an exponent alone.
#[inline]
pub const fn e8m0_half_to_f32(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e as u32 - 1) << 23 })
}

/// The unsigned E4M3 of NVFP4: bias 7, 3 bits of mantissa, the top bit ignored; 0x7f, its NaN, is zero as in ggml.
#[inline]
pub const fn ue4m3_to_f32(x: u8) -> f32 {
    ue4m3_half_to_f32(x) * 2.0
}

/// Half of [`ue4m3_to_f32`], for values that are stored doubled ([`super::KVALUES_FP4`]).
#[inline]
pub const fn ue4m3_half_to_f32(x: u8) -> f32 {
    let (exp, man) = ((x as u32 >> 3) & 15, x as u32 & 7);
    if x == 0x7f {
        0.0
    } else if exp == 0 {
        man as f32 * (1.0 / 1024.0)
    } else {
        // Half of 2^(exp - 7) * (1 + man / 8), put together from the f32 fields: 127 - 7 - 1 = 119.
        f32::from_bits(((exp + 119) << 23) | (man << 20))
    }
}
