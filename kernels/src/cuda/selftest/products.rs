//! Products, quantized activations and embeddings of every type of weights.

use super::{Bench, Extent};
use crate::acts::{ActKind, ActKinds, Acts};
use crate::cuda::{CudaError, GpuMat, GpuRoute};
use crate::{Cpu, DType, Exec, Mat, quantize, synthetic};

/// Sums of some thousand products in f32, in another order than in f64.
const LIMIT: f64 = 2e-5;
/// Plain floats on tensor cores: activations keep 16 bits or more.
const LIMIT_PLAIN: f64 = 4e-5;
/// Minimums are applied through the sum of 32 activations, which has the 11 bits of an f16, as in ggml.
const LIMIT_SUMS: f64 = 1e-3;

pub(super) fn check(bench: &mut Bench<'_>, formats: &[DType]) -> Result<(), CudaError> {
    for &dtype in formats.iter().filter(|&&dtype| bench.gpu.computes(dtype)) {
        let block = dtype.block_elems().max(32);
        let shapes = bench.shapes(
            &[(5, 256, 1), (5, 256, 9)],
            &[
                // Rows that fill no warp, block or tile; one chunk, its tail, several; columns about 1, 8 and 64.
                (1, block, 1),
                (33, 1024 + 2 * block, 1),
                (70, 2048 + block, 3),
                (16, 512, 8),
                (67, 512 + block, 9),
                (65, 256, 66),
                (130, 768, 130),
            ],
            &[(4096, 4096, 1), (4096, 4096, 8), (4096, 4096, 512)],
        );
        for (rows, k, n) in shapes {
            product(bench, dtype, rows, k, n)?;
        }
        experts(bench, dtype)?;
        embedding(bench, dtype)?;
    }
    Ok(())
}

/// Weights as floats, `[rows, k]`.
fn decoded(mat: &Mat<'_>) -> Vec<f32> {
    let mut floats = vec![0.0; mat.rows() * mat.cols()];
    for (i, row) in floats.chunks_exact_mut(mat.cols()).enumerate() {
        quantize::decode_row(mat.dtype(), mat.row(i), row);
    }
    floats
}

/// What the activations stand for once they are quantized as the weights want, by the CPU.
fn seen(dtype: DType, x: &[f32], n: usize, k: usize) -> Vec<f32> {
    if matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
        return x.to_vec();
    }
    let like = if ActKind::of(dtype) == ActKind::Q8x256 { dtype } else { DType::Q8_0 };
    let mut acts = Acts::new();
    Exec::new(Cpu::by_name("scalar").expect("always present"), 1).quantize(&mut acts, x, n, k, ActKinds::of(like));
    let mut seen = vec![0.0; n * k];
    for (i, row) in seen.chunks_exact_mut(k).enumerate() {
        acts.dequantized(like, i, row);
    }
    seen
}

fn limit(dtype: DType) -> f64 {
    match dtype {
        DType::F16 | DType::BF16 => LIMIT_PLAIN,
        DType::Q4_1 | DType::Q5_1 => LIMIT_SUMS,
        _ => LIMIT,
    }
}

/// One column of a product.
fn column(w: &[f32], x: &[f32], want: &mut Vec<f64>) {
    let dot = |row: &[f32]| row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum();
    want.extend(w.chunks_exact(x.len()).map(dot).collect::<Vec<f64>>());
}

fn product(bench: &mut Bench<'_>, dtype: DType, rows: usize, k: usize, n: usize) -> Result<(), CudaError> {
    let gpu = bench.gpu;
    let bytes = synthetic::weights(dtype, rows, k, &mut bench.random);
    let mat = Mat::new(dtype, rows, k, &bytes).expect("whole rows");
    let w = gpu.upload(&[mat])?;
    let floats = bench.floats(n * k);
    let x = bench.put(&floats)?;
    let mut acts = gpu.acts(n * k)?;
    gpu.quantize(&mut acts, &x, n, k, &[dtype])?;
    let (weights, seen) = (decoded(&mat), seen(dtype, &floats, n, k));
    let mut want = Vec::new();
    // Of a large product every 16th column: the CPU computes it in f64.
    let step = if bench.extent == Extent::Large { 16 } else { 1 };
    for x in seen.chunks_exact(k).step_by(step) {
        column(&weights, x, &mut want);
    }
    let traffic = bytes.len() + n * (k + rows * 4);
    for exact in [false, true] {
        if exact && (n == 1 || bench.extent == Extent::Large) {
            continue;
        }
        let mut out = bench.blank(n * rows)?;
        let name = format!("{} {dtype} {rows} x {k}, {n} columns", if exact { "exact" } else { "product" });
        if step == 1 {
            bench.compare(name, limit(dtype), traffic, &want, &mut out, |gpu, out| {
                gpu.matmul(&acts, &x, &w, out, exact)
            })?;
        } else {
            let seconds = gpu.time(|| gpu.matmul(&acts, &x, &w, &mut out, exact))?;
            let got = bench.get(&out)?;
            let got: Vec<f32> = got.chunks_exact(rows).step_by(step).flatten().copied().collect();
            let (error, limit) = (super::difference(&got, &want), limit(dtype));
            (bench.report)(super::Check { name, error, limit, seconds, bytes: traffic });
        }
    }
    Ok(())
}

/// A router's groups and a product with the experts of each token.
fn experts(bench: &mut Bench<'_>, dtype: DType) -> Result<(), CudaError> {
    let gpu = bench.gpu;
    let block = dtype.block_elems().max(32);
    let shapes = bench.shapes(
        &[(4, 2, 8, 256, 3)],
        &[(8, 2, 34, block, 1), (8, 2, 10, 512, 5), (5, 1, 66, 256, 20), (4, 4, 7, 256, 70)],
        &[(8, 2, 2048, 2048, 1), (8, 2, 2048, 2048, 64)],
    );
    for (n_experts, n_active, rows, k, n) in shapes {
        let bytes = synthetic::weights(dtype, rows * n_experts, k, &mut bench.random);
        let all = Mat::new(dtype, rows * n_experts, k, &bytes).expect("whole rows");
        let mats: Vec<Mat<'_>> = (0..n_experts).map(|e| all.stacked(e, n_experts)).collect();
        let w: GpuMat = gpu.upload(&mats)?;
        let route = GpuRoute { n_experts, n_active, sigmoid: false, groups: None, renormalize: true, scale: 1.0 };
        let logits = bench.floats(n * n_experts);
        let scores = bench.put(&logits)?;
        let mut routing = gpu.routing(n, n_experts, n_active)?;
        gpu.route(&scores, None, n, &route, &mut routing)?;
        let floats = bench.floats(n * k);
        let x = bench.put(&floats)?;
        let mut acts = gpu.acts(n * k)?;
        gpu.quantize(&mut acts, &x, n, k, &[dtype])?;

        // Pairs by expert, then by token.
        let seen = seen(dtype, &floats, n, k);
        let chosen: Vec<Vec<usize>> =
            logits.chunks_exact(n_experts).map(|l| super::layers::best(l, n_active)).collect();
        let (mut want, mut used) = (Vec::new(), 0);
        for (e, mat) in mats.iter().enumerate() {
            let weights = decoded(mat);
            let before = want.len();
            for token in (0..n).filter(|&t| chosen[t].contains(&e)) {
                column(&weights, &seen[token * k..(token + 1) * k], &mut want);
            }
            used += usize::from(want.len() > before);
        }
        let mut out = bench.blank(n * n_active * rows)?;
        let name = format!("experts {dtype} {n_active} of {n_experts}, {rows} x {k}, {n} tokens");
        let traffic = mats[0].data().len() * used + n * (k + n_active * rows * 4);
        bench.compare(name, limit(dtype), traffic, &want, &mut out, |gpu, out| {
            gpu.matmul_experts(&acts, &x, &w, routing.by_token(n, &route), out, false)
        })?;
    }
    Ok(())
}

fn embedding(bench: &mut Bench<'_>, dtype: DType) -> Result<(), CudaError> {
    let dim = dtype.block_elems().max(32) * 2;
    let bytes = synthetic::weights(dtype, 9, dim, &mut bench.random);
    let mat = Mat::new(dtype, 9, dim, &bytes).expect("whole rows");
    let w = bench.gpu.upload(&[mat])?;
    let tokens = [8, 0, 3];
    let ids = bench.put(&tokens)?;
    let all = decoded(&mat);
    let rows = tokens.iter().flat_map(|&t| &all[t as usize * dim..(t as usize + 1) * dim]);
    let want: Vec<f64> = rows.map(|&w| 1.5 * f64::from(w)).collect();
    let mut out = bench.blank(want.len())?;
    let name = format!("embedding {dtype} {dim}, 3 tokens");
    bench.compare(name, 2e-7, want.len() * 4, &want, &mut out, |gpu, out| gpu.embed(&w, &ids, 3, 1.5, out))
}
