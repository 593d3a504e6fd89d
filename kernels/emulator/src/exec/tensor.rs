//! Products of the tensor cores: a warp holds the matrices in pieces. Which lane holds what is said by the PTX manual, section
//! "Matrix Fragments for mma.m16n8k*"; NVIDIA's CUTLASS has the same in `mma_traits_sm80.hpp`.

use super::LANES;
use super::alu::{Lanes, half_to_f32};
use crate::ptx::Mma;

/// Rows of the first matrix, columns of the second.
const M: usize = 16;
const N: usize = 8;

/// The four registers of the result.
pub(super) fn mma(kind: Mma, args: &[Lanes]) -> [Lanes; 4] {
    match kind {
        Mma::S8K16 => whole(16, args),
        Mma::S8K32 => whole(32, args),
        Mma::F16K16 => floats(args, half_to_f32),
        Mma::BF16K16 => floats(args, |bits| f32::from_bits(u32::from(bits) << 16)),
    }
}

/// Row and column of piece `i` of a lane's result.
fn place(lane: usize, i: usize) -> (usize, usize) {
    (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2)
}

fn whole(k: usize, args: &[Lanes]) -> [Lanes; 4] {
    let (n_a, n_b) = (k / 8, k / 16);
    let (mut a, mut b) = ([[0i32; 32]; M], [[0i32; N]; 32]);
    for lane in 0..LANES {
        let (group, third) = (lane / 4, lane % 4);
        for (i, register) in args[..n_a].iter().enumerate() {
            for byte in 0..4 {
                a[group + 8 * (i % 2)][third * 4 + byte + 16 * (i / 2)] =
                    i32::from((register[lane] >> (8 * byte)) as i8);
            }
        }
        for (i, register) in args[n_a..n_a + n_b].iter().enumerate() {
            for byte in 0..4 {
                b[third * 4 + byte + 16 * i][group] = i32::from((register[lane] >> (8 * byte)) as i8);
            }
        }
    }
    let mut out = [[0; LANES]; 4];
    for (i, out) in out.iter_mut().enumerate() {
        for (lane, out) in out.iter_mut().enumerate() {
            let (row, column) = place(lane, i);
            let sum =
                (0..k).fold(args[n_a + n_b + i][lane] as i32, |sum, k| sum.wrapping_add(a[row][k] * b[k][column]));
            *out = u64::from(sum as u32);
        }
    }
    out
}

/// Sums in the order of k; the hardware's order is not told.
fn floats(args: &[Lanes], value: impl Fn(u16) -> f32) -> [Lanes; 4] {
    let (mut a, mut b) = ([[0f32; 16]; M], [[0f32; N]; 16]);
    for lane in 0..LANES {
        let (group, third) = (lane / 4, lane % 4);
        for (i, register) in args[..4].iter().enumerate() {
            for half in 0..2 {
                a[group + 8 * (i % 2)][third * 2 + half + 8 * (i / 2)] = value((register[lane] >> (16 * half)) as u16);
            }
        }
        for (i, register) in args[4..6].iter().enumerate() {
            for half in 0..2 {
                b[third * 2 + half + 8 * i][group] = value((register[lane] >> (16 * half)) as u16);
            }
        }
    }
    let mut out = [[0; LANES]; 4];
    for (i, out) in out.iter_mut().enumerate() {
        for (lane, out) in out.iter_mut().enumerate() {
            let (row, column) = place(lane, i);
            let first = f32::from_bits(args[6 + i][lane] as u32);
            *out = u64::from((0..16).fold(first, |sum, k| sum + a[row][k] * b[k][column]).to_bits());
        }
    }
    out
}
