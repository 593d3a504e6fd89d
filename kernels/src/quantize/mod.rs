//! The definition of every block format: what the bytes of a row mean, as f32.
//!
//! One file a format family; a format is added by an `impl Decode` there and a line in the table below.
//! The results are those of ggml's `to_float`, bit for bit, so the order of the float operations is part of the
//! format. The loops are plain and are compiled for the baseline CPU: the fast paths are in `cpu/`, and are right when
//! they agree with this. Types without a kernel of their own are computed with through here.
//!
//! Source of the formats: `ggml/src/ggml-quants.c` and `ggml-common.h` of llama.cpp.

mod bits;
mod encode;
mod fp4;
mod grid;
mod iq;
mod iq4;
mod k;
mod legacy;
mod plain;
mod scale;

use crate::DType;
use crate::block::{self, Block, cast};

pub use encode::{can_encode, encode};
pub use fp4::KVALUES_FP4;
pub use grid::{IQ1_GRID, IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID, IQ3_S_GRID, IQ3_XXS_GRID, KSIGNS};
pub use iq::{IQ1_DELTA, iq1m_scale};
pub use iq4::{KVALUES_IQ4NL, scales_iq4_xs};
pub use k::{scales_k3, scales_k4};
pub use scale::{bf16_to_f32, e8m0_half_to_f32, e8m0_to_f32, f16_to_f32, ue4m3_half_to_f32, ue4m3_to_f32};

/// Decodes whole rows of one type: bytes in, f32 out. Panics when the lengths do not belong together.
pub type DecodeFn = fn(&[u8], &mut [f32]);

macro_rules! decoders {
    ($($dtype:ident => $decoder:expr;)*) => {
        /// The decoder of a type, for loops that fetch it once. Compiled for the baseline CPU.
        pub fn decode_fn(dtype: DType) -> DecodeFn {
            match dtype { $(DType::$dtype => $decoder,)* }
        }

        /// [`decode_row`], to be compiled into its caller: a function with `#[target_feature]` that wraps this is a
        /// decoder of every type for that CPU.
        ///
        /// For x86 that is `avx2`: it doubles the speed of most formats (cached rows on one Xeon core, 10^9 elements/s:
        /// Q4_K 5.7 -> 11, IQ2_XS 5.1 -> 7.9, IQ1_S 6.2 -> 10.5, TQ1_0 4.1 -> 8.1), while `avx512*` makes LLVM gather
        /// from the grids and halves it.
        ///
        /// # Panics
        /// As [`decode_row`].
        #[inline(always)]
        pub fn decode_row_inline(dtype: DType, bytes: &[u8], out: &mut [f32]) {
            match dtype { $(DType::$dtype => $decoder(bytes, out),)* }
        }
    };
}

decoders! {
    F32 => plain::f32;
    F16 => plain::f16;
    BF16 => plain::bf16;
    F64 => plain::f64;
    I8 => plain::i8;
    I16 => plain::i16;
    I32 => plain::i32;
    I64 => plain::i64;
    Q4_0 => blocks::<block::BlockQ4_0, 32>;
    Q4_1 => blocks::<block::BlockQ4_1, 32>;
    Q5_0 => blocks::<block::BlockQ5_0, 32>;
    Q5_1 => blocks::<block::BlockQ5_1, 32>;
    Q8_0 => blocks::<block::BlockQ8_0, 32>;
    Q8_1 => blocks::<block::BlockQ8_1, 32>;
    Q2_K => blocks::<block::BlockQ2_K, 256>;
    Q3_K => blocks::<block::BlockQ3_K, 256>;
    Q4_K => blocks::<block::BlockQ4_K, 256>;
    Q5_K => blocks::<block::BlockQ5_K, 256>;
    Q6_K => blocks::<block::BlockQ6_K, 256>;
    Q8_K => blocks::<block::BlockQ8_K, 256>;
    IQ4_NL => blocks::<block::BlockIQ4_NL, 32>;
    IQ4_XS => blocks::<block::BlockIQ4_XS, 256>;
    MXFP4 => blocks::<block::BlockMXFP4, 32>;
    NVFP4 => blocks::<block::BlockNVFP4, 64>;
    Q1_0 => blocks::<block::BlockQ1_0, 128>;
    Q2_0 => blocks::<block::BlockQ2_0, 64>;
    TQ1_0 => blocks::<block::BlockTQ1_0, 256>;
    TQ2_0 => blocks::<block::BlockTQ2_0, 256>;
    IQ1_S => blocks::<block::BlockIQ1_S, 256>;
    IQ1_M => blocks::<block::BlockIQ1_M, 256>;
    IQ2_XXS => blocks::<block::BlockIQ2_XXS, 256>;
    IQ2_XS => blocks::<block::BlockIQ2_XS, 256>;
    IQ2_S => blocks::<block::BlockIQ2_S, 256>;
    IQ3_XXS => blocks::<block::BlockIQ3_XXS, 256>;
    IQ3_S => blocks::<block::BlockIQ3_S, 256>;
}

/// Decodes whole blocks of `dtype` (a row, or several that lie together) to f32. No alignment is needed.
///
/// # Panics
/// When `bytes` is not exactly the blocks of `out.len()` elements. Any bit pattern of the right length decodes.
pub fn decode_row(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    decode_fn(dtype)(bytes, out);
}

/// What a block of one format means.
pub trait Decode<const N: usize>: Block {
    /// The `N` weights of the block. Implementations are `#[inline(always)]`, for [`decode_row_inline`].
    fn decode(&self, out: &mut [f32; N]);
}

/// A row of blocks.
#[inline(always)]
fn blocks<B: Decode<N>, const N: usize>(bytes: &[u8], out: &mut [f32]) {
    const { assert!(N == B::DTYPE.block_elems()) };
    let blocks = cast::<B>(bytes);
    assert_eq!(blocks.len() * N, out.len(), "{} elements in the bytes, and room for the second", B::DTYPE);
    for (block, out) in blocks.iter().zip(out.as_chunks_mut().0) {
        block.decode(out);
    }
}
