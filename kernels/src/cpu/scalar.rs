//! No instruction set at all: every type is decoded to f32 and multiplied in floats. Slow and obvious, it is the
//! reference of the others and runs anywhere.

use super::kernels::Kernels;
use crate::probe::Int8Peak;
use crate::{acts, quantize};

pub(crate) static KERNELS: Kernels = Kernels {
    quantize32: |x, out| acts::quantize32(x, out),
    quantize256: |x, out| acts::quantize256(x, out),
    decode: |dtype, bytes, out| quantize::decode_row(dtype, bytes, out),
    dot,
    gemv: |_| None,
    gemm: |_| None,
    int8_peak: Int8Peak { products: 64, rounds: int8_peak },
};

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn int8_peak(rounds: usize) -> i32 {
    let mut sum = 0i32;
    for _ in 0..rounds {
        let (w, a) = std::hint::black_box(([3u8; 64], [-5i8; 64]));
        sum = sum.wrapping_add(w.iter().zip(a).map(|(&w, a)| w as i32 * a as i32).sum());
    }
    sum
}
