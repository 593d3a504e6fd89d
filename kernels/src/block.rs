//! The blocks of every quantized ggml type as they lie in a file, and the only casts between bytes and blocks.
//!
//! All fields are bytes, so a block has alignment 1 and a file map of any alignment can be read in place.
//! Source of the layouts: `ggml/src/ggml-common.h` of llama.cpp. What the fields mean is said by `quantize/`.

use crate::DType;

/// A block of one quantized type: plain bytes, any alignment, any bit pattern is valid.
///
/// # Safety
/// The type must be `#[repr(C)]`, made of bytes alone, and of the size that [`DType::block_bytes`] gives.
pub unsafe trait Block: Copy + 'static {
    /// The type whose blocks these are.
    const DTYPE: DType;
}

macro_rules! blocks {
    ($($(#[$doc:meta])* $name:ident, $dtype:ident { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy)]
        #[repr(C)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty,)* }
        const _: () = assert!(size_of::<$name>() == DType::$dtype.block_bytes() && align_of::<$name>() == 1);
        // SAFETY: `#[repr(C)]`, byte arrays only; the size is asserted above.
        unsafe impl Block for $name { const DTYPE: DType = DType::$dtype; }
    )*};
}

/// An f16 as it lies in a block, little-endian.
pub type F16Bytes = [u8; 2];

blocks! {
    /// 32 weights `d * (q - 8)`, nibbles: low half first.
    BlockQ4_0, Q4_0 { /** scale */ d: F16Bytes, /** nibbles */ qs: [u8; 16], }
    /// 32 weights `d * q + m`.
    BlockQ4_1, Q4_1 { /** scale */ d: F16Bytes, /** minimum */ m: F16Bytes, /** nibbles */ qs: [u8; 16], }
    /// 32 weights `d * (q - 16)`.
    BlockQ5_0, Q5_0 { /** scale */ d: F16Bytes, /** fifth bits */ qh: [u8; 4], /** nibbles */ qs: [u8; 16], }
    /// 32 weights `d * q + m`.
    BlockQ5_1, Q5_1 { /** scale */ d: F16Bytes, /** minimum */ m: F16Bytes, /** fifth bits */ qh: [u8; 4], /** nibbles */ qs: [u8; 16], }
    /// 32 weights `d * q`.
    BlockQ8_0, Q8_0 { /** scale */ d: F16Bytes, /** i8 values */ qs: [u8; 32], }
    /// 32 activations `d * q`, with their sum for the minimums of the weights they meet.
    BlockQ8_1, Q8_1 { /** scale */ d: F16Bytes, /** `d` times the sum of the values, f16 */ s: F16Bytes, /** i8 values */ qs: [u8; 32], }
    /// 256 weights in 16 sub-blocks of 16, `d * sc * q - dmin * m`.
    BlockQ2_K, Q2_K { /** scale and minimum of each sub-block, 4 bits each */ scales: [u8; 16], /** 2-bit values */ qs: [u8; 64], /** super scale */ d: F16Bytes, /** super minimum */ dmin: F16Bytes, }
    /// 256 weights in 16 sub-blocks of 16, `d * (sc - 32) * (q - 4)`.
    BlockQ3_K, Q3_K { /** third bits */ hmask: [u8; 32], /** low 2 bits */ qs: [u8; 64], /** 16 scales of 6 bits */ scales: [u8; 12], /** super scale */ d: F16Bytes, }
    /// 256 weights in 8 sub-blocks of 32, `d * sc * q - dmin * m`.
    BlockQ4_K, Q4_K { /** super scale */ d: F16Bytes, /** super minimum */ dmin: F16Bytes, /** 8 scales and 8 minimums of 6 bits */ scales: [u8; 12], /** nibbles */ qs: [u8; 128], }
    /// 256 weights in 8 sub-blocks of 32, `d * sc * q - dmin * m`.
    BlockQ5_K, Q5_K { /** super scale */ d: F16Bytes, /** super minimum */ dmin: F16Bytes, /** 8 scales and 8 minimums of 6 bits */ scales: [u8; 12], /** fifth bits */ qh: [u8; 32], /** nibbles */ qs: [u8; 128], }
    /// 256 weights in 16 sub-blocks of 16, `d * sc * (q - 32)`.
    BlockQ6_K, Q6_K { /** low nibbles */ ql: [u8; 128], /** high 2 bits */ qh: [u8; 64], /** i8 scales */ scales: [u8; 16], /** super scale */ d: F16Bytes, }
    /// 256 activations `d * q`, with the sums of each 16.
    BlockQ8_K, Q8_K { /** scale, f32 */ d: [u8; 4], /** i8 values */ qs: [u8; 256], /** i16 sums of each 16 values */ bsums: [u8; 32], }
    /// 32 weights `d * KVALUES[q]`.
    BlockIQ4_NL, IQ4_NL { /** scale */ d: F16Bytes, /** nibbles */ qs: [u8; 16], }
    /// 256 weights in 8 sub-blocks of 32, `d * (ls - 32) * KVALUES[q]`.
    BlockIQ4_XS, IQ4_XS { /** super scale */ d: F16Bytes, /** high 2 bits of the scales */ scales_h: [u8; 2], /** low nibbles of the scales */ scales_l: [u8; 4], /** nibbles */ qs: [u8; 128], }
    /// 32 weights `2^(e - 127) * E2M1[q]`.
    BlockMXFP4, MXFP4 { /** E8M0 exponent */ e: u8, /** nibbles */ qs: [u8; 16], }
    /// 64 weights in 4 sub-blocks of 16, `UE4M3(d) * E2M1[q]`.
    BlockNVFP4, NVFP4 { /** UE4M3 scales */ d: [u8; 4], /** nibbles */ qs: [u8; 32], }
    /// 128 weights `d * (2 b - 1)`.
    BlockQ1_0, Q1_0 { /** scale */ d: F16Bytes, /** bits */ qs: [u8; 16], }
    /// 64 weights `d * (q - 1)`, 2 bits each.
    BlockQ2_0, Q2_0 { /** scale */ d: F16Bytes, /** 2-bit values */ qs: [u8; 16], }
    /// 256 weights, ternary, five to a byte.
    BlockTQ1_0, TQ1_0 { /** five trits a byte */ qs: [u8; 48], /** four trits a byte */ qh: [u8; 4], /** scale */ d: F16Bytes, }
    /// 256 weights, ternary, four to a byte.
    BlockTQ2_0, TQ2_0 { /** 2-bit values */ qs: [u8; 64], /** scale */ d: F16Bytes, }
    /// 256 weights from a grid of 256 eights with signs.
    BlockIQ2_XXS, IQ2_XXS { /** super scale */ d: F16Bytes, /** grid indices, signs and scales */ qs: [u8; 64], }
    /// 256 weights from a grid of 512 eights with signs.
    BlockIQ2_XS, IQ2_XS { /** super scale */ d: F16Bytes, /** grid indices and signs */ qs: [u8; 64], /** 16 scales of 4 bits */ scales: [u8; 8], }
    /// 256 weights from a grid of 1024 eights with signs.
    BlockIQ2_S, IQ2_S { /** super scale */ d: F16Bytes, /** low index bytes, then signs */ qs: [u8; 64], /** high index bits */ qh: [u8; 8], /** 16 scales of 4 bits */ scales: [u8; 8], }
    /// 256 weights from a grid of 256 fours with signs.
    BlockIQ3_XXS, IQ3_XXS { /** super scale */ d: F16Bytes, /** grid indices, then signs and scales */ qs: [u8; 96], }
    /// 256 weights from a grid of 512 fours with signs.
    BlockIQ3_S, IQ3_S { /** super scale */ d: F16Bytes, /** low index bytes */ qs: [u8; 64], /** high index bits */ qh: [u8; 8], /** signs */ signs: [u8; 32], /** 8 scales of 4 bits */ scales: [u8; 4], }
    /// 256 weights from a grid of 2048 ternary eights with a shift.
    BlockIQ1_S, IQ1_S { /** super scale */ d: F16Bytes, /** low index bytes */ qs: [u8; 32], /** high index bits, scales, shifts */ qh: [u8; 16], }
    /// 256 weights from a grid of 2048 ternary eights with a shift.
    BlockIQ1_M, IQ1_M { /** low index bytes */ qs: [u8; 32], /** high index bits and shifts */ qh: [u8; 16], /** 3-bit scales and the f16 super scale */ scales: [u8; 8], }
}

/// The blocks of a row or of a matrix, without a copy.
///
/// # Panics
/// When `bytes` is not a whole number of blocks: shapes are checked where bytes enter ([`crate::Mat::new`]).
pub fn cast<B: Block>(bytes: &[u8]) -> &[B] {
    assert_eq!(bytes.len() % size_of::<B>(), 0, "not a whole number of {} blocks", B::DTYPE);
    // SAFETY: `B` is made of bytes, so alignment 1 and any bit pattern are fine; the length is whole.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<B>()) }
}
