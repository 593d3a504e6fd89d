//! GB/s of few columns and GOP/s of many, for each type and instruction set.
//!
//! `cargo bench -p ostro-kernels --bench matmul -- [types] [sets] [threads=2] [columns=512] [mb=256]`, for example
//! `-- Q4_K Q8_0 avx512 threads=1`. The machine is shared with others often enough: compare ratios, within one run.

use std::time::{Duration, Instant};

use ostro_kernels::synthetic::{Random, weights};
use ostro_kernels::{ActKinds, Acts, Cpu, DType, Exec, Mat, Product};

const K: usize = 4096;

/// Rows of one timed product: about a millisecond's work, which mostly fits between two interruptions.
const ROWS: usize = 256;

/// Seconds for all rows, some at a time: the sum of each part's shortest time in about half a second of passes.
fn matmul(exec: &Exec, acts: &Acts, w: Mat<'_>, rows_at_once: usize) -> f64 {
    let parts = w.rows() / rows_at_once;
    let mut best = vec![Duration::MAX; parts];
    let mut out = vec![0.0; acts.n() * rows_at_once];
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(500) {
        for (i, best) in best.iter_mut().enumerate() {
            let job = Product { w: w.stacked(i, parts), out: &mut out };
            let one = Instant::now();
            exec.matmul(acts, &mut [job]);
            *best = one.elapsed().min(*best);
        }
    }
    best.iter().sum::<Duration>().as_secs_f64()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let number =
        |key: &str, default: usize| args.iter().find_map(|arg| arg.strip_prefix(key)?.parse().ok()).unwrap_or(default);
    let (threads, columns, mb) = (number("threads=", 2), number("columns=", 512), number("mb=", 256));
    let named = |name: &str| args.iter().any(|arg| arg == name);
    let cpus: Vec<Cpu> = Cpu::all().into_iter().filter(|cpu| named(cpu.name())).collect();
    let cpus = if cpus.is_empty() { Cpu::all().into_iter().skip(1).collect() } else { cpus };
    let types: Vec<DType> = DType::ALL.iter().copied().filter(|dtype| named(dtype.name())).collect();
    let types = if types.is_empty() { DType::ALL.to_vec() } else { types };
    println!("{threads} threads, k = {K}, many = {columns} columns, {mb} MB of weights for one column");
    let probe = ostro_kernels::ReadProbe::new();
    for cpu in &cpus {
        let exec = Exec::new(*cpu, threads);
        println!("{}: {:.1} GB/s, {:.0} GOP/s", cpu.name(), probe.measure(&exec) / 1e9, exec.probe_int8() / 1e9);
    }
    println!("{:>8} {:>8} {:>12} {:>12} {:>12} {:>12}", "type", "set", "1: GB/s", "2: GB/s", "4: GOP/s", "many: GOP/s");
    for dtype in types {
        let row_bytes = dtype.row_bytes(K).expect("whole blocks");
        let rows = (mb << 20) / row_bytes / 512 * 512;
        let some = weights(dtype, 64, K, &mut Random::new(1));
        let bytes: Vec<u8> = some.iter().copied().cycle().take(rows * row_bytes).collect();
        for cpu in &cpus {
            let exec = Exec::new(*cpu, threads);
            let mut acts = Acts::new();
            let x: Vec<f32> = (0..columns.max(4) * K).map(|i| (i % 255) as f32 - 127.0).collect();
            let mut run = |n: usize, rows: usize, rows_at_once: usize| {
                let w = Mat::new(dtype, rows, K, &bytes[..rows * row_bytes]).expect("fits");
                exec.quantize(&mut acts, &x[..n * K], n, K, ActKinds::of(dtype));
                matmul(&exec, &acts, w, rows_at_once)
            };
            let gb = |seconds: f64| (rows * row_bytes) as f64 / 1e9 / seconds;
            let gop = |n: usize, seconds: f64| (2 * n * ROWS * K) as f64 / 1e9 / seconds;
            let (one, two) = (gb(run(1, rows, rows / 16)), gb(run(2, rows, rows / 16)));
            let (four, many) = (gop(4, run(4, ROWS, ROWS)), gop(columns, run(columns, ROWS, ROWS)));
            println!("{:>8} {:>8} {one:>12.1} {two:>12.1} {four:>12.0} {many:>12.0}", dtype.name(), cpu.name());
        }
    }
}
