//! No instruction set at all: every type is decoded to f32 and multiplied in floats. Slow and obvious, it is the
//! reference of the others and runs anywhere.

use super::kernels::Kernels;
use crate::{acts, quantize};

pub(crate) static KERNELS: Kernels = Kernels {
    quantize32: |x, out| acts::quantize32(x, out),
    quantize256: |x, out| acts::quantize256(x, out),
    decode: |dtype, bytes, out| quantize::decode_row(dtype, bytes, out),
    dot,
    gemv: |_| None,
    gemm: |_| None,
};

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
