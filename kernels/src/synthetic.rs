//! Random weights of any type and random activations, to test and to measure with.

use half::f16;

use crate::DType;

/// A small generator of random numbers (xorshift64*), the same on every machine.
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Any number.
    #[allow(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// In `[0, 1)`.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 24) as f32
    }

    /// In `[-1, 1)`, denser around zero, as activations are.
    pub fn signed(&mut self) -> f32 {
        let x = 2.0 * self.unit() - 1.0;
        x * self.unit()
    }
}

/// Bytes of `rows` rows of `k` weights: any quants, scales of ordinary size.
///
/// # Panics
/// When `k` is not a whole number of blocks.
pub fn weights(dtype: DType, rows: usize, k: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = vec![0; dtype.row_bytes(k).expect("whole blocks") * rows];
    for byte in bytes.iter_mut() {
        *byte = random.next() as u8;
    }
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        set_scales(dtype, block, |random_part| random_part * 0.02 + 0.005, random);
    }
    bytes
}

/// Bytes with all quants and scale bits set to those of `fill`, and super scales of 0.01: with all ones, the largest
/// products there are.
///
/// # Panics
/// As [`weights`].
pub fn extreme_weights(dtype: DType, rows: usize, k: usize, fill: u8) -> Vec<u8> {
    let mut bytes = vec![fill; dtype.row_bytes(k).expect("whole blocks") * rows];
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        set_scales(dtype, block, |_| 0.01, &mut Random::new(1));
    }
    bytes
}

/// Writes ordinary numbers where a block has floats.
fn set_scales(dtype: DType, block: &mut [u8], scale: impl Fn(f32) -> f32, random: &mut Random) {
    use DType::*;
    let f16s: &[usize] = match dtype {
        Q4_0 | Q5_0 | Q8_0 | IQ4_NL | IQ4_XS | Q1_0 | Q2_0 => &[0],
        IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S | IQ1_S | F16 => &[0],
        Q4_1 | Q5_1 | Q4_K | Q5_K | Q8_1 => &[0, 2],
        Q2_K => &[80, 82],
        Q3_K => &[108],
        Q6_K => &[208],
        TQ1_0 => &[52],
        TQ2_0 => &[64],
        _ => &[],
    };
    let mut number = || scale(random.unit());
    for &at in f16s {
        let sign = if block[at] & 1 == 0 { 1.0 } else { -1.0 };
        block[at..at + 2].copy_from_slice(&f16::from_f32(sign * number()).to_le_bytes());
    }
    match dtype {
        F32 => block.copy_from_slice(&(number() - 0.015).to_le_bytes()),
        BF16 => block.copy_from_slice(&half::bf16::from_f32(number() - 0.015).to_le_bytes()),
        F64 => block.copy_from_slice(&((number() - 0.015) as f64).to_le_bytes()),
        I32 => block.copy_from_slice(&((number() * 1e5) as i32).to_le_bytes()),
        I64 => block.copy_from_slice(&((number() * 1e5) as i64).to_le_bytes()),
        Q8_K => block[..4].copy_from_slice(&number().to_le_bytes()),
        MXFP4 => block[0] = 118 + block[0] % 8,
        NVFP4 => block[..4].iter_mut().for_each(|d| *d = 0x20 + *d % 16),
        IQ1_M => {
            // The bits of the f16 are the high nibbles of four words.
            let bits = f16::from_f32(number()).to_bits();
            for i in 0..4 {
                let byte = &mut block[48 + 2 * i + 1];
                *byte = *byte & 0x0f | ((bits >> (4 * i)) as u8 & 0x0f) << 4;
            }
        }
        _ => {}
    }
}
