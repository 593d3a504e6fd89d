//! Attention of a 7B-shaped model (32 heads on 8, 128 wide, f16 cache): GFLOP/s of a prompt batch, GB/s of a token.
//!
//! `cargo bench -p ostro-kernels --bench attend -- [threads] [words of the lines to measure]`

use std::time::Instant;

use ostro_kernels::Cpu;
use ostro_kernels::float::KvType;
use ostro_kernels::pool::Team;
use ostro_kernels::{Attend, AttendScratch, attend};

const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const DIM: usize = 128;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let threads = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(2);
    let wanted = |line: &str| args.iter().all(|arg| arg.parse::<usize>().is_ok() || line.contains(arg.as_str()));
    let team = Team::new(threads);
    // Attention multiplies floats: the two sets of AVX2 are the same here.
    for cpu in Cpu::all().into_iter().filter(|cpu| !matches!(cpu.name(), "scalar" | "avx2-vnni")) {
        for kind in [KvType::F32, KvType::F16, KvType::Q8_0] {
            for (n, context) in [(512, 512), (512, 8192), (1, 512), (1, 8192)] {
                let name = format!("{:10} {kind:?} n{n:<3} context{context:<4}", cpu.name());
                if wanted(&name) {
                    measure(cpu, &team, kind, n, context, &name);
                }
            }
        }
    }
}

/// The best of several runs of `n` tokens that end at position `context`.
fn measure(cpu: Cpu, team: &Team, kind: KvType, n: usize, context: usize, name: &str) {
    let q: Vec<f32> = (0..n * HEADS * DIM).map(|i| (i * 7919 % 997) as f32 / 500.0 - 1.0).collect();
    let row: Vec<f32> = (0..DIM).map(|i| (i * 31 % 17) as f32 / 8.0 - 1.0).collect();
    let bytes = kind.row_bytes(DIM);
    // Decode walks through several caches, as layers do, so that none of them stays in the processor's.
    let caches = if n == 1 { (256 << 20) / (2 * KV_HEADS * context * bytes) } else { 1 };
    let mut stored = vec![0; bytes];
    kind.store(cpu, &row, &mut stored);
    let cache: Vec<Vec<u8>> = (0..2 * caches).map(|_| stored.repeat(KV_HEADS * context)).collect();
    let mut out = vec![0.0; q.len()];
    let mut scratch = AttendScratch::new();
    let mut best = f64::MAX;
    for _ in 0..if context > 4096 && n > 1 { 5 } else { 20 } {
        let start = Instant::now();
        for kv in cache.chunks(2) {
            let args = Attend {
                q: &q,
                k: &kv[0],
                v: Some(&kv[1]),
                k_type: kind,
                v_type: kind,
                capacity: context,
                n,
                first_pos: context - n,
                n_heads: HEADS,
                n_kv_heads: KV_HEADS,
                head_dim: DIM,
                v_dim: DIM,
                window: None,
                scale: 0.08,
                softcap: None,
                out: &mut out,
            };
            attend(cpu, team, &mut scratch, args);
        }
        best = best.min(start.elapsed().as_secs_f64() / caches as f64);
    }
    let seen = (n * (2 * (context - n) + n + 1) / 2) as f64; // positions seen by all tokens
    let gflops = seen * (4 * HEADS * DIM) as f64 / best / 1e9;
    let gbytes = (2 * KV_HEADS * context * bytes) as f64 / best / 1e9;
    println!("{name} threads {}: {:9.1} us {gflops:7.1} GFLOP/s {gbytes:6.1} GB/s", team.threads(), best * 1e6);
}
