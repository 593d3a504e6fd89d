//! Encoders: millions of weights a second of one core, for each type and instruction set.
//!
//! `cargo bench -p ostro-kernels --bench encode -- [words of the lines to measure]`

use std::time::Instant;

use ostro_kernels::quantize::{can_encode, decode_row, encode};
use ostro_kernels::synthetic::Random;
use ostro_kernels::{Cpu, DType};

const COLS: usize = 4096;
const ROWS: usize = 64;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let wanted = |line: &str| args.iter().all(|arg| line.contains(arg.as_str()));
    // The sum of eight even floats is nearly normal; cut to bf16, as weights come.
    let mut random = Random::new(1);
    let mut float = || f32::from_bits((0..8).map(|_| random.signed()).sum::<f32>().to_bits() & 0xffff_0000) / 64.0;
    let x: Vec<f32> = (0..ROWS * COLS).map(|_| float()).collect();
    let weights: Vec<f32> = (0..COLS).map(|_| float().powi(2)).collect();
    for cpu in Cpu::all() {
        for &dtype in DType::ALL.iter().filter(|&&dtype| can_encode(dtype)) {
            for (kind, importance) in [("plain", None), ("importance", Some(weights.as_slice()))] {
                let name = format!("{:10} {:7} {kind:10}", cpu.name(), dtype.name());
                if wanted(&name) {
                    let mut out = vec![0; ROWS * dtype.row_bytes(COLS).expect("whole blocks")];
                    let rate = best(|| encode(cpu, dtype, &x, COLS, importance, &mut out));
                    println!("{name} {rate:8.1} M weights/s");
                }
            }
        }
    }
    let mut bytes = vec![0; 2 * x.len()];
    encode(Cpu::detect(), DType::BF16, &x, COLS, None, &mut bytes);
    let mut floats = vec![0.0; x.len()];
    if wanted("decode BF16") {
        println!("decode BF16 {:8.1} M weights/s", best(|| decode_row(DType::BF16, &bytes, &mut floats)));
    }
}

/// Of the runs in half a second the fastest, as millions of weights a second.
fn best(mut run: impl FnMut()) -> f64 {
    let (begin, mut best) = (Instant::now(), f64::MAX);
    while begin.elapsed().as_secs_f64() < 0.5 || best == f64::MAX {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    (ROWS * COLS) as f64 / best / 1e6
}
