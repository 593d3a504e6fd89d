//! Norms, rotation, gates, the router and the best logits.

use super::{Bench, Check};
use crate::cuda::{CudaError, GpuHeads, GpuNorm, GpuRope, GpuRoute};
use crate::{Activation, Pairs};

/// A few roundings of f32.
const LIMIT: f64 = 1e-6;

pub(super) fn check(bench: &mut Bench<'_>) -> Result<(), CudaError> {
    norms(bench)?;
    elementwise(bench)?;
    rotation(bench)?;
    router(bench)?;
    grouped_router(bench)?;
    best_logits(bench)
}

fn norms(bench: &mut Bench<'_>) -> Result<(), CudaError> {
    for (rows, dim) in bench.shapes(&[(3, 300)], &[(1, 1), (3, 31), (2, 256), (5, 2049)], &[(512, 6144)]) {
        let (x, weight) = (bench.floats(rows * dim), bench.floats(dim));
        let (on_card, w) = (bench.put(&x)?, bench.put(&weight)?);
        for centred in [false, true] {
            let eps = 1e-5f32;
            let mut want = Vec::new();
            for row in x.chunks_exact(dim) {
                let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / dim as f64 * f64::from(u8::from(centred));
                let square = row.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / dim as f64;
                let factor = 1.0 / (square + f64::from(eps)).sqrt();
                want.extend(row.iter().zip(&weight).map(|(&x, &w)| (f64::from(x) - mean) * factor * f64::from(w)));
            }
            let name = format!("{} norm {rows} x {dim}", if centred { "layer" } else { "rms" });
            let mut out = bench.blank(rows * dim)?;
            // A row of one float, centred, is nothing but rounding.
            let limit = if centred && dim == 1 { f64::INFINITY } else { 2.0 * LIMIT };
            let norm = if centred { GpuNorm::Layer } else { GpuNorm::Rms };
            bench.compare(name, limit, rows * dim * 8, &want, &mut out, |gpu, out| {
                gpu.norm(norm, &on_card, &w, eps, rows, out)
            })?;
        }
    }
    norms_of_heads(bench)
}

/// In place, of the front of each row, with weights that take turns.
fn norms_of_heads(bench: &mut Bench<'_>) -> Result<(), CudaError> {
    let (rows, dim, stride, period, eps) = (6, 40, 48, 3, 1e-6f32);
    let (x, weight) = (bench.floats(rows * stride), bench.floats(period * dim));
    let mut want: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
    for (row, x) in want.chunks_exact_mut(stride).enumerate() {
        let mean = x[..dim].iter().sum::<f64>() / dim as f64;
        let square = x[..dim].iter().map(|x| (x - mean).powi(2)).sum::<f64>() / dim as f64;
        for (x, w) in x[..dim].iter_mut().zip(&weight[row % period * dim..]) {
            *x = (*x - mean) / (square + f64::from(eps)).sqrt() * f64::from(*w);
        }
    }
    let (w, mut out) = (bench.put(&weight)?, bench.put(&x)?);
    let name = format!("layer norm of heads {rows} x {dim}");
    bench.compare(name, 2.0 * LIMIT, rows * dim * 8, &want, &mut out, |gpu, out| {
        gpu.norm_in_place(GpuNorm::Layer, out, stride, (&w, period), eps, rows)
    })
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn gelu(x: f64) -> f64 {
    let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
    x / (1.0 + (-2.0 * u).exp())
}

fn elementwise(bench: &mut Bench<'_>) -> Result<(), CudaError> {
    for n in bench.shapes(&[300], &[1, 256, 1003], &[1 << 22]) {
        let (mut x, y) = (bench.floats(n), bench.floats(n));
        x.iter_mut().for_each(|x| *x *= 3.0);
        let y_card = bench.put(&y)?;
        let pairs = |f: &dyn Fn(f64, f64) -> f64| -> Vec<f64> {
            x.iter().zip(&y).map(|(&x, &y)| f(f64::from(x), f64::from(y))).collect()
        };
        for (name, act, f) in [("silu", Activation::Silu, silu as fn(f64) -> f64), ("gelu", Activation::GeluTanh, gelu)]
        {
            let mut out = bench.put(&x)?;
            let want = pairs(&|x, y| f(x) * y);
            bench.compare(format!("{name} gate {n}"), LIMIT, n * 12, &want, &mut out, |gpu, out| {
                gpu.gate(act, out, &y_card, n)
            })?;
        }
        let mut out = bench.put(&x)?;
        bench.compare(format!("add {n}"), LIMIT, n * 12, &pairs(&|x, y| x + y), &mut out, |gpu, out| {
            gpu.add(out, &y_card, n)
        })?;
        let mut out = bench.put(&x)?;
        let capped = pairs(&|x, _| 5.0 * (x * 0.5 / 5.0).tanh());
        bench.compare(format!("scale and cap {n}"), LIMIT, n * 8, &capped, &mut out, |gpu, out| {
            gpu.scale_and_cap(out, n, 0.5, Some(5.0))
        })?;
    }
    let (rows, bias) = (bench.floats(3 * 40), bench.floats(40));
    let bias_card = bench.put(&bias)?;
    let want: Vec<f64> = rows.iter().enumerate().map(|(i, &x)| f64::from(x) + f64::from(bias[i % 40])).collect();
    let mut out = bench.put(&rows)?;
    bench
        .compare("bias 3 x 40".to_owned(), LIMIT, 960, &want, &mut out, |gpu, out| gpu.add_bias(out, &bias_card, 3))?;
    let from = bench.put(&rows)?;
    let picked = bench.put(&[2, 0])?;
    let want: Vec<f64> = rows[80..].iter().chain(&rows[..40]).map(|&x| f64::from(x)).collect();
    let mut out = bench.blank(80)?;
    bench.compare("pick 2 of 3 rows".to_owned(), 0.0, 640, &want, &mut out, |gpu, out| {
        gpu.pick_rows(&from, &picked, 2, 40, out)
    })?;
    let (h, weight) = (bench.floats(3 * 40), bench.floats(40));
    let (h_card, weight_card, mut out) = (bench.put(&h)?, bench.put(&weight)?, bench.put(&rows)?);
    let dot = |row: &[f32]| row.iter().zip(&weight).map(|(&h, &w)| f64::from(h) * f64::from(w)).sum::<f64>();
    let factors: Vec<f64> = h.chunks_exact(40).map(|row| 1.0 / (1.0 + (-dot(row)).exp())).collect();
    let want: Vec<f64> = rows.iter().enumerate().map(|(i, &x)| f64::from(x) * factors[i / 40]).collect();
    bench.compare("gate 3 rows of 40".to_owned(), LIMIT, 960, &want, &mut out, |gpu, out| {
        gpu.gate_rows(out, &h_card, &weight_card, 3)
    })?;
    // Two of three heads of two tokens, by head, without the front of each.
    let want: Vec<f64> = [(0, 1), (1, 1), (0, 2), (1, 2)]
        .iter()
        .flat_map(|(token, head)| &rows[token * 60 + head * 20 + 4..][..16])
        .map(|&x| f64::from(x))
        .collect();
    let mut out = bench.blank(64)?;
    bench.compare("move 2 x 2 heads of 16".to_owned(), 0.0, 512, &want, &mut out, |gpu, out| {
        let (from_at, to_at) =
            (GpuHeads { start: 24, token: 60, head: 20 }, GpuHeads { start: 0, token: 16, head: 32 });
        gpu.move_heads((&from, from_at), (out, to_at), (2, 2, 16))
    })
}

fn rotation(bench: &mut Bench<'_>) -> Result<(), CudaError> {
    let shapes =
        bench.shapes(&[(2, 3, 64, 32)], &[(1, 1, 8, 1), (3, 4, 80, 10), (2, 5, 128, 64)], &[(512, 48, 128, 64)]);
    for (skip, (n, heads, head_dim, pairs)) in
        shapes.into_iter().flat_map(|shape| [(0, shape), (shape.2 - 2 * shape.3, shape)])
    {
        let x = bench.floats(n * heads * head_dim);
        let angles: Vec<f64> =
            (0..n * pairs).map(|i| (i / pairs * 37) as f64 / 1.3f64.powi((i % pairs) as i32)).collect();
        let cos: Vec<f32> = angles.iter().map(|a| a.cos() as f32).collect();
        let sin: Vec<f32> = angles.iter().map(|a| a.sin() as f32).collect();
        let (cos_card, sin_card) = (bench.put(&cos)?, bench.put(&sin)?);
        for pairing in [Pairs::Adjacent, Pairs::Halves] {
            let mut want: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
            for (row, head) in want.chunks_exact_mut(head_dim).enumerate() {
                for i in 0..pairs {
                    let (a, b) = match pairing {
                        Pairs::Adjacent => (2 * i, 2 * i + 1),
                        Pairs::Halves => (i, i + pairs),
                    };
                    let at = row / heads * pairs + i;
                    let (c, s) = (f64::from(cos[at]), f64::from(sin[at]));
                    let head = &mut head[skip..];
                    (head[a], head[b]) = (head[a] * c - head[b] * s, head[a] * s + head[b] * c);
                }
            }
            let mut out = bench.put(&x)?;
            let name = format!("rope {pairing:?} {n} x {heads} x {head_dim}, {pairs} pairs from {skip}");
            let rope = GpuRope { cos: &cos_card, sin: &sin_card, pairs, pairing };
            bench.compare(name, LIMIT, x.len() * 8, &want, &mut out, |gpu, out| {
                gpu.rope(out, &rope, n, heads, head_dim, skip)
            })?;
        }
    }
    Ok(())
}

/// The indices of the largest, largest first; of equal ones the first.
pub(super) fn best(scores: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    order.truncate(k);
    order
}

/// The router with what becomes of the experts' rows: each row says its pair, so the sums say who was chosen.
fn router(bench: &mut Bench<'_>) -> Result<(), CudaError> {
    let shapes =
        bench.shapes(&[(3, 8, 2)], &[(1, 4, 1), (5, 8, 2), (70, 60, 4), (3, 512, 8), (2, 3, 3)], &[(512, 128, 8)]);
    for (n, n_experts, n_active) in shapes {
        let mut logits = bench.floats(n * n_experts);
        logits[0] = logits[n_experts - 1]; // a tie
        let dim = 5;
        let rows = bench.floats(n * n_active * dim);
        for renormalize in [true, false] {
            let route = GpuRoute { n_experts, n_active, sigmoid: false, groups: None, renormalize, scale: 1.5 };
            let chosen: Vec<Vec<usize>> = logits.chunks_exact(n_experts).map(|l| best(l, n_active)).collect();
            let mut want = Vec::new();
            for (token, scores) in logits.chunks_exact(n_experts).enumerate() {
                let e = |expert: usize| f64::from(scores[expert]).exp();
                let of: &mut dyn Iterator<Item = usize> =
                    if renormalize { &mut chosen[token].iter().copied() } else { &mut (0..n_experts) };
                let total: f64 = of.map(e).sum();
                let mut sums = vec![0.0; dim];
                for &expert in &chosen[token] {
                    // Pairs come by expert, then by token.
                    let before =
                        |t: usize| chosen[t].iter().filter(|&&c| c < expert || c == expert && t < token).count();
                    let pair: usize = (0..n).map(before).sum();
                    for (sum, row) in sums.iter_mut().zip(&rows[pair * dim..]) {
                        *sum += 1.5 * e(expert) / total * f64::from(*row);
                    }
                }
                want.extend(sums);
            }
            let (logits, rows) = (bench.put(&logits)?, bench.put(&rows)?);
            let mut routing = bench.gpu.routing(n, n_experts, n_active)?;
            let mut out = bench.blank(n * dim)?;
            let name = format!("router {n_active} of {n_experts}, {n} tokens");
            bench.compare(name, 2.0 * LIMIT, n * n_experts * 4, &want, &mut out, |gpu, out| {
                gpu.route(&logits, None, n, &route, &mut routing)?;
                gpu.combine(&rows, &routing, n, n_active, dim, out)
            })?;
        }
    }
    Ok(())
}

/// Sigmoid or softmax, with and without a bias, and groups that are chosen by their one or two best.
fn grouped_router(bench: &mut Bench<'_>) -> Result<(), CudaError> {
    let shapes = bench.shapes(
        &[(2, 16, 4, (4, 2, 2))],
        &[(5, 160, 6, (8, 3, 1)), (4, 256, 8, (8, 4, 2)), (3, 12, 2, (6, 2, 2)), (3, 64, 5, (32, 7, 1))],
        &[(512, 256, 8, (8, 4, 2))],
    );
    for (n, n_experts, n_active, groups) in shapes {
        for sigmoid in [false, true] {
            let (logits, bias) = (bench.floats(n * n_experts), bench.floats(n_experts));
            let route =
                GpuRoute { n_experts, n_active, sigmoid, groups: Some(groups), renormalize: sigmoid, scale: 2.5 };
            let (count, taken, few) = groups;
            let each = n_experts / count;
            let mut want = Vec::new();
            for logits in logits.chunks_exact(n_experts) {
                let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
                let score = |e: usize| match sigmoid {
                    true => 1.0 / (1.0 + (-f64::from(logits[e])).exp()),
                    false => f64::from(logits[e]).exp() / total,
                };
                let keys: Vec<f32> = (0..n_experts).map(|e| (score(e) + f64::from(bias[e])) as f32).collect();
                let group =
                    |g: usize| best(&keys[g * each..(g + 1) * each], few).into_iter().map(move |e| g * each + e);
                let scores: Vec<f32> = (0..count).map(|g| group(g).map(|e| keys[e]).sum()).collect();
                let left = best(&scores, taken);
                let open = |e: usize| if left.contains(&(e / each)) { keys[e] } else { f32::MIN };
                let chosen = best(&(0..n_experts).map(open).collect::<Vec<_>>(), n_active);
                let sum: f64 = if sigmoid { chosen.iter().map(|&e| score(e)).sum() } else { 1.0 };
                // A row of ones: the weights' sum; then each expert by its number.
                want.push(chosen.iter().map(|&e| score(e) / sum * 2.5).sum::<f64>());
                want.push(chosen.iter().map(|&e| score(e) / sum * 2.5 * e as f64).sum::<f64>());
            }
            let (logits, bias) = (bench.put(&logits)?, bench.put(&bias)?);
            let mut routing = bench.gpu.routing(n, n_experts, n_active)?;
            let mut out = bench.blank(n * 2)?;
            let name = format!("router {n_active} of {n_experts} in {count} groups, {n} tokens");
            bench.compare(name, 2.0 * LIMIT, n * n_experts * 4, &want, &mut out, |gpu, out| {
                gpu.route(&logits, Some(&bias), n, &route, &mut routing)?;
                let (offsets, token) = gpu.read_routing(&routing, n, &route)?;
                let expert = |pair: usize| offsets.iter().skip(1).filter(|&&end| end as usize <= pair).count();
                let rows: Vec<f32> = (0..token.len()).flat_map(|pair| [1.0, expert(pair) as f32]).collect();
                let on_card = gpu.buffer(rows.len())?;
                gpu.write(&on_card, 0, &rows)?;
                gpu.combine(&on_card, &routing, n, n_active, 2, out)
            })?;
        }
    }
    Ok(())
}

fn best_logits(bench: &mut Bench<'_>) -> Result<(), CudaError> {
    for (n, k) in bench.shapes(&[(300, 3)], &[(1, 1), (2, 5), (4096, 64), (9000, 40)], &[(131_072, 40)]) {
        let mut values = bench.floats(n);
        values[n / 2] = values[n - 1];
        let on_card = bench.put(&values)?;
        let mut found = Vec::new();
        let seconds = bench.gpu.time(|| {
            found = bench.gpu.top(&on_card, n, k)?;
            Ok(())
        })?;
        let want: Vec<(u32, f32)> = best(&values, k).into_iter().map(|i| (i as u32, values[i])).collect();
        let error = if found == want { 0.0 } else { 1.0 };
        (bench.report)(Check { name: format!("best {k} of {n}"), error, limit: 0.0, seconds, bytes: n * 4 });
    }
    Ok(())
}
