//! The cache and attention over it.

use super::{Bench, difference};
use crate::cuda::{CudaError, Gpu, GpuAttend, GpuRope};
use crate::{Cpu, KvType, Pairs};

/// Scores of some hundred products under an exponential.
const LIMIT: f64 = 1e-5;

#[derive(Clone, Copy)]
struct Shape {
    n: usize,
    first_pos: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    v_dim: usize,
    window: Option<usize>,
    cap: Option<f32>,
    /// Values are the front of the keys.
    in_keys: bool,
}

const PLAIN: Shape = Shape {
    n: 1,
    first_pos: 0,
    heads: 4,
    kv_heads: 2,
    head_dim: 64,
    v_dim: 64,
    window: None,
    cap: None,
    in_keys: false,
};
/// As DeepSeek's latents are.
const LATENT: Shape = Shape { heads: 16, kv_heads: 1, head_dim: 576, v_dim: 512, in_keys: true, ..PLAIN };

pub(super) fn check(bench: &mut Bench<'_>) -> Result<(), CudaError> {
    let thorough = [
        PLAIN,
        Shape { n: 1, first_pos: 300, heads: 6, kv_heads: 1, ..PLAIN },
        Shape { n: 7, first_pos: 33, ..PLAIN },
        Shape { n: 1, first_pos: 700, window: Some(40), ..PLAIN },
        Shape { n: 40, first_pos: 3, window: Some(9), head_dim: 96, v_dim: 80, ..PLAIN },
        Shape { n: 3, first_pos: 280, head_dim: 256, v_dim: 256, cap: Some(2.0), ..PLAIN },
        Shape { n: 20, first_pos: 0, heads: 3, kv_heads: 3, head_dim: 40, v_dim: 24, ..PLAIN },
        Shape { n: 2, first_pos: 1, heads: 34, kv_heads: 2, head_dim: 128, v_dim: 128, ..PLAIN },
        Shape { n: 2, first_pos: 30, heads: 3, head_dim: 192, v_dim: 128, kv_heads: 3, ..PLAIN },
        Shape { first_pos: 270, ..LATENT },
        Shape { n: 3, first_pos: 2, heads: 5, ..LATENT },
        Shape { n: 4, first_pos: 9, head_dim: 80, v_dim: 64, ..LATENT },
    ];
    let quick = [Shape { n: 3, first_pos: 40, ..PLAIN }];
    let big = Shape { heads: 48, kv_heads: 8, head_dim: 128, v_dim: 128, ..PLAIN };
    let large = [
        Shape { first_pos: 4095, ..big },
        Shape { n: 64, first_pos: 448, ..big },
        Shape { first_pos: 4095, heads: 128, ..LATENT },
    ];
    for shape in bench.shapes(&quick, &thorough, &large) {
        for kind in [KvType::F32, KvType::F16, KvType::Q8_0] {
            attention(bench, shape, kind)?;
        }
    }
    for kind in [KvType::F32, KvType::F16, KvType::Q8_0] {
        shift(bench, kind)?;
    }
    Ok(())
}

/// Rows as the CPU stores them, and as it reads them back.
fn stored(kind: KvType, rows: &[f32], width: usize) -> (Vec<u8>, Vec<f32>) {
    let cpu = Cpu::by_name("scalar").expect("always present");
    let (mut bytes, mut back) = (Vec::new(), Vec::new());
    for row in rows.chunks_exact(width) {
        let mut as_bytes = vec![0; kind.row_bytes(width)];
        kind.store(cpu, row, &mut as_bytes);
        let mut floats = vec![0.0; width];
        kind.load(cpu, &as_bytes, &mut floats);
        bytes.extend(as_bytes);
        back.extend(floats);
    }
    (bytes, back)
}

fn attention(bench: &mut Bench<'_>, s: Shape, kind: KvType) -> Result<(), CudaError> {
    let (gpu, held) = (bench.gpu, s.first_pos + s.n);
    let capacity = held + 5;
    let q = bench.floats(s.n * s.heads * s.head_dim);
    let (k, v) = (bench.floats(held * s.kv_heads * s.head_dim), bench.floats(held * s.kv_heads * s.v_dim));
    let (_, k_seen) = stored(kind, &k, s.head_dim);
    let v_seen = match s.in_keys {
        true => k_seen.chunks_exact(s.head_dim).flat_map(|key| &key[..s.v_dim]).copied().collect(),
        false => stored(kind, &v, s.v_dim).1,
    };
    let scale = 1.0 / (s.head_dim as f32).sqrt();
    let mut want = Vec::new();
    for (row, q) in q.chunks_exact(s.head_dim).enumerate() {
        let (pos, kv_head) = (s.first_pos + row / s.heads, row % s.heads / (s.heads / s.kv_heads));
        let from = (pos + 1).saturating_sub(s.window.unwrap_or(usize::MAX));
        let at = |p: usize, width: usize| (p * s.kv_heads + kv_head) * width;
        let score = |p: usize| {
            let key = &k_seen[at(p, s.head_dim)..];
            let score: f64 =
                q.iter().zip(key).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum::<f64>() * f64::from(scale);
            s.cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        };
        let scores: Vec<f64> = (from..=pos).map(score).collect();
        let top = scores.iter().copied().fold(f64::MIN, f64::max);
        let total: f64 = scores.iter().map(|s| (s - top).exp()).sum();
        let mut out = vec![0.0; s.v_dim];
        for (p, score) in (from..).zip(&scores) {
            let weight = (score - top).exp() / total;
            out.iter_mut().zip(&v_seen[at(p, s.v_dim)..]).for_each(|(o, &v)| *o += weight * f64::from(v));
        }
        want.extend(out);
    }

    let mut keys = gpu.kv(kind, s.kv_heads, capacity, s.head_dim)?;
    let mut values = gpu.kv(kind, s.kv_heads, capacity, s.v_dim)?;
    let (k, v, q) = (bench.put(&k)?, bench.put(&v)?, bench.put(&q)?);
    gpu.store(&mut keys, &k, 0, held, 0)?;
    gpu.store(&mut values, &v, 0, held, 0)?;
    let mut out = bench.blank(s.n * s.heads * s.v_dim)?;
    let mut scratch = gpu.buffer(Gpu::attend_scratch(s.n, s.heads, s.v_dim))?;
    let name = format!(
        "attention {kind:?} {} tokens at {}, {} / {} heads of {}{}{}{}",
        s.n,
        s.first_pos,
        s.heads,
        s.kv_heads,
        s.head_dim,
        if s.window.is_some() { ", window" } else { "" },
        if s.cap.is_some() { ", cap" } else { "" },
        if s.in_keys { ", values in keys" } else { "" },
    );
    let bytes = held * s.kv_heads * (kind.row_bytes(s.head_dim) + kind.row_bytes(s.v_dim));
    let (n_heads, window, softcap) = (s.heads, s.window, s.cap);
    bench.compare(name, LIMIT, bytes, &want, &mut out, |gpu, out| {
        let (q, k, v, v_dim) = (&q, &keys, (!s.in_keys).then_some(&values), s.v_dim);
        let attend =
            GpuAttend { q, k, v, v_dim, first: 0, n: s.n, first_pos: s.first_pos, n_heads, window, scale, softcap };
        gpu.attend(&attend, &mut scratch, out)
    })
}

/// Keys that move down are turned back, values move as they are, and the rows before and the bytes of a row are the CPU's.
fn shift(bench: &mut Bench<'_>, kind: KvType) -> Result<(), CudaError> {
    let (gpu, heads, capacity, width, held, gone) = (bench.gpu, 2, 40, 48, 33, 5..12);
    let rows = bench.floats(held * heads * width);
    let on_card = bench.put(&rows)?;
    let angles: Vec<f64> = (0..16).map(|i| -7.0 / 1.7f64.powi(i)).collect();
    let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
    let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
    let (cos_card, sin_card) = (bench.put(&cos)?, bench.put(&sin)?);
    for (turned, skip) in [(false, 0), (true, 0), (true, 16)] {
        let mut kv = gpu.kv(kind, heads, capacity, width)?;
        gpu.store(&mut kv, &on_card, 0, held, 0)?;
        let rope = GpuRope { cos: &cos_card, sin: &sin_card, pairs: 16, pairing: Pairs::Halves };
        let seconds = gpu.time(|| gpu.shift(&mut kv, turned.then_some((&rope, skip)), gone.clone(), held))?;
        let bytes = bench.get(kv.bytes())?;
        let (mut got, mut want) = (Vec::new(), Vec::new());
        for head in 0..heads {
            for pos in 0..held - gone.len() {
                let from = if pos < gone.start { pos } else { pos + gone.len() };
                let (_, mut row) = stored(kind, &rows[(from * heads + head) * width..][..width], width);
                if turned && pos >= gone.start {
                    for i in skip..skip + 16 {
                        let (a, b) = (row[i], row[i + 16]);
                        (row[i], row[i + 16]) =
                            (a * cos[i - skip] - b * sin[i - skip], a * sin[i - skip] + b * cos[i - skip]);
                    }
                    (_, row) = stored(kind, &row, width);
                }
                want.extend(row.iter().map(|&x| f64::from(x)));
                let at = (head * capacity + pos) * kind.row_bytes(width);
                let mut floats = vec![0.0; width];
                let cpu = Cpu::by_name("scalar").expect("always present");
                kind.load(cpu, &bytes[at..at + kind.row_bytes(width)], &mut floats);
                got.extend(floats);
            }
        }
        // A last bit before rounding may make a step of the stored type, so the largest such step is allowed.
        let limit = if turned && kind == KvType::Q8_0 { 0.01 } else { 1e-6 };
        let name = format!("shift {kind:?}{}", if turned { format!(", turned from {skip}") } else { String::new() });
        let error = difference(&got, &want);
        (bench.report)(super::Check { name, error, limit, seconds, bytes: bytes.len() });
    }
    Ok(())
}
