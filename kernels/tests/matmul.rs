//! Every type on every instruction set of this machine, against a product in f64.

use ostro_kernels::synthetic::{Random, extreme_weights, weights};
use ostro_kernels::{ActKinds, Activation, Acts, Cpu, DType, Exec, Groups, Mat, Product, float, quantize};

/// Rows, columns and blocks that hit main loops, tails and one. Panels have 8, 16 or 32 rows, tiles up to 12
/// columns, of which 24 are multiplied between two requests for memory; groups of blocks have 4 and 16.
const ROWS: &[usize] = &[1, 3, 15, 16, 17, 40];
const COLUMNS: &[usize] = &[1, 2, 3, 5, 8, 9, 25, 33];

fn lengths(dtype: DType) -> &'static [usize] {
    match dtype.block_elems() {
        1 => &[1, 7, 16, 100, 576],
        32 => &[32, 64, 96, 576, 608, 1088],
        64 => &[64, 576],
        128 => &[128, 640],
        _ => &[256, 768],
    }
}

/// `[n, rows]` in f64: decoded weights times the given activations.
fn product(w: Mat<'_>, x: &[f32]) -> Vec<f64> {
    let (k, rows) = (w.cols(), w.rows());
    let mut decoded = vec![0.0; k * rows];
    quantize::decode_row(w.dtype(), w.data(), &mut decoded);
    let row = |j: usize, i: usize| {
        decoded[i * k..][..k].iter().zip(&x[j * k..][..k]).map(|(&w, &x)| w as f64 * x as f64).sum()
    };
    (0..x.len() / k).flat_map(|j| (0..rows).map(move |i| row(j, i))).collect()
}

/// What rounding may do: the same product of absolute values, times this.
///
/// Integer parts are exact, so the error is that of the float sums: of `k/16` sub-blocks in one order here and another
/// there, each addition losing at most 6e-8 of what has been summed up; offsets and minimums are subtracted from sums
/// that are larger than the result, which the absolute values of `w * x` do not show, hence a wide margin.
fn tolerance(dtype: DType) -> f64 {
    match dtype {
        // Their minimums are multiplied with the scaled sums of the activations, which have 11 bits, as ggml's have:
        // half of 2^-11 of a sum that cancels somewhat.
        DType::Q4_1 | DType::Q5_1 => 1e-3,
        _ => 2e-5,
    }
}

/// How the result differs from the exact product with what the activations became, or nothing.
fn differs(w: Mat<'_>, acts: &Acts, x: &[f32], found: &[f32]) -> Option<String> {
    let (n, k) = (acts.n(), acts.k());
    let mut rounded = vec![0.0; n * k];
    for j in 0..n {
        acts.dequantized(w.dtype(), j, &mut rounded[j * k..][..k]);
    }
    let expected = product(w, &rounded);
    let absolute = magnitudes(w, &rounded);
    for (i, ((&found, &expected), &absolute)) in found.iter().zip(&expected).zip(&absolute).enumerate() {
        let error = (found as f64 - expected).abs();
        if error.is_nan() || error > tolerance(w.dtype()) * absolute + 1e-30 {
            let (column, row) = (i / w.rows(), i % w.rows());
            return Some(format!("row {row}, column {column}: {found}, expected {expected} ({absolute})"));
        }
    }
    // The activations in int8 lose less than one part in 254 of each block's largest: far below 1e-3 of the energy,
    // unless the sums cancel, which random weights do only up to a point.
    let exact = product(w, x);
    let energy: f64 = exact.iter().map(|e| e * e).sum();
    let noise: f64 = exact.iter().zip(found).map(|(e, &f)| (e - f as f64) * (e - f as f64)).sum();
    (n * w.rows() >= 40 && noise > 2e-3 * energy).then(|| format!("NMSE {:.2e}", noise / energy))
}

fn magnitudes(w: Mat<'_>, x: &[f32]) -> Vec<f64> {
    let (k, rows) = (w.cols(), w.rows());
    let mut decoded = vec![0.0; k * rows];
    quantize::decode_row(w.dtype(), w.data(), &mut decoded);
    let row = |j: usize, i: usize| {
        decoded[i * k..][..k].iter().zip(&x[j * k..][..k]).map(|(&w, &x)| (w as f64 * x as f64).abs()).sum()
    };
    (0..x.len() / k).flat_map(|j| (0..rows).map(move |i| row(j, i))).collect()
}

fn acts(exec: &Exec, x: &[f32], k: usize, dtype: DType) -> Acts {
    let mut acts = Acts::new();
    exec.quantize(&mut acts, x, x.len() / k, k, ActKinds::of(dtype));
    acts
}

fn activations(n: usize, k: usize, random: &mut Random) -> Vec<f32> {
    (0..n * k).map(|_| 3.0 * random.signed()).collect()
}

fn matmul(exec: &Exec, x: &Acts, w: Mat<'_>) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.n() * w.rows()];
    exec.matmul(x, &mut [Product { w, out: &mut out }]);
    out
}

fn report(failures: Vec<String>) {
    assert!(failures.is_empty(), "{} rows fail:\n{}", failures.len(), failures.join("\n"));
}

fn every_shape(cpu: Cpu, failures: &mut Vec<String>) {
    let exec = Exec::new(cpu, 2);
    let mut random = Random::new(7);
    for &dtype in DType::ALL {
        for &k in lengths(dtype) {
            let rows = ROWS.iter().max().expect("some");
            let bytes = weights(dtype, *rows, k, &mut random);
            let all = Mat::new(dtype, *rows, k, &bytes).expect("fits");
            for &n in COLUMNS {
                let x = activations(n, k, &mut random);
                let acts = acts(&exec, &x, k, dtype);
                for &rows in ROWS {
                    let w = Mat::new(dtype, rows, k, &all.data()[..rows * all.row_bytes()]).expect("fits");
                    if let Some(how) = differs(w, &acts, &x, &matmul(&exec, &acts, w)) {
                        failures.push(format!("{dtype} {} rows {rows}, n {n}, k {k}: {how}", cpu.name()));
                    }
                }
            }
        }
    }
}

#[test]
fn every_type_set_and_shape() {
    let mut failures = Vec::new();
    for cpu in Cpu::all() {
        every_shape(cpu, &mut failures);
    }
    report(failures);
}

#[test]
fn extreme_values_do_not_saturate() {
    let (rows, k) = (17, 512);
    let mut failures = Vec::new();
    for cpu in Cpu::all() {
        let exec = Exec::new(cpu, 1);
        for &dtype in DType::ALL {
            if matches!(dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64) {
                continue;
            }
            for fill in [0xff, 0x00, 0x80, 0x7f, 0x88, 0xf0, 0x0f] {
                let bytes = extreme_weights(dtype, rows, k, fill);
                let w = Mat::new(dtype, rows, k, &bytes).expect("fits");
                for n in [1, 9] {
                    for sign in [[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]] {
                        let x: Vec<f32> = (0..n * k).map(|i| 2.5 * sign[i % 2]).collect();
                        let acts = acts(&exec, &x, k, dtype);
                        if let Some(how) = differs(w, &acts, &x, &matmul(&exec, &acts, w))
                            && !how.starts_with("NMSE")
                        {
                            failures.push(format!("{dtype} {} fill {fill:02x}, n {n}, {sign:?}: {how}", cpu.name()));
                        }
                    }
                }
            }
        }
    }
    report(failures);
}

#[test]
fn the_same_bits_for_any_number_of_threads() {
    let mut failures = Vec::new();
    let (rows, k) = (203, 768); // a task has a multiple of eight rows, so one of them has some left over
    for cpu in Cpu::all() {
        let execs = [1, 2, 3].map(|threads| Exec::new(cpu, threads));
        let mut random = Random::new(3);
        for &dtype in DType::ALL {
            let bytes = weights(dtype, rows, k, &mut random);
            let w = Mat::new(dtype, rows, k, &bytes).expect("fits");
            for n in [1, 2, 7, 150] {
                if cpu.name() == "scalar" && n > 7 {
                    continue; // the same loop again, and slow
                }
                let x = activations(n, k, &mut random);
                let outs = execs.each_ref().map(|exec| matmul(exec, &acts(exec, &x, k, dtype), w));
                if outs[0] != outs[1] || outs[0] != outs[2] {
                    failures.push(format!("{dtype} {} n {n}", cpu.name()));
                }
            }
        }
    }
    // A few rows and many columns are cut by columns, into pieces that depend on the threads and may leave one over.
    let (rows, k, n) = (8, 64, 577);
    for cpu in Cpu::all() {
        for dtype in [DType::F32, DType::F16, DType::Q8_0] {
            let mut random = Random::new(4);
            let bytes = weights(dtype, rows, k, &mut random);
            let x = activations(n, k, &mut random);
            let outs = [1, 2, 3, 8].map(|threads| {
                let exec = Exec::new(cpu, threads);
                matmul(&exec, &acts(&exec, &x, k, dtype), Mat::new(dtype, rows, k, &bytes).expect("fits"))
            });
            if outs.iter().any(|out| *out != outs[0]) {
                failures.push(format!("{dtype} {} n {n}", cpu.name()));
            }
        }
    }
    report(failures);
}

#[test]
fn a_column_does_not_depend_on_its_neighbours() {
    let mut failures = Vec::new();
    let (rows, k) = (40, 512);
    for cpu in Cpu::all() {
        let exec = Exec::new(cpu, 2);
        let mut random = Random::new(3);
        for &dtype in DType::ALL {
            let bytes = weights(dtype, rows, k, &mut random);
            let w = Mat::new(dtype, rows, k, &bytes).expect("fits");
            let x = activations(33, k, &mut random);
            let all = matmul(&exec, &acts(&exec, &x, k, dtype), w);
            for n in [4, 5, 9, 20] {
                if matmul(&exec, &acts(&exec, &x[..n * k], k, dtype), w) != all[..n * rows] {
                    failures.push(format!("{dtype} {} n {n}", cpu.name()));
                }
            }
        }
    }
    report(failures);
}

#[test]
fn several_products_share_a_pass() {
    let (n, k) = (5, 512);
    for cpu in Cpu::all() {
        let exec = Exec::new(cpu, 2);
        let mut random = Random::new(11);
        let x = activations(n, k, &mut random);
        let shapes = [(DType::Q4_K, 48), (DType::Q8_0, 16), (DType::Q6_K, 33), (DType::F32, 5), (DType::IQ1_S, 2)];
        let bytes = shapes.map(|(dtype, rows)| weights(dtype, rows, k, &mut random));
        let mats: Vec<Mat<'_>> = shapes
            .iter()
            .zip(&bytes)
            .map(|(&(dtype, rows), bytes)| Mat::new(dtype, rows, k, bytes).expect("fits"))
            .collect();
        let kinds = shapes.iter().fold(ActKinds::NONE, |kinds, (dtype, _)| kinds | ActKinds::of(*dtype));
        let mut acts = Acts::new();
        exec.quantize(&mut acts, &x, n, k, kinds);
        let mut outs = shapes.map(|(_, rows)| vec![f32::NAN; n * rows]);
        let mut jobs: Vec<Product<'_>> = mats.iter().zip(&mut outs).map(|(&w, out)| Product { w, out }).collect();
        exec.matmul(&acts, &mut jobs);
        for (w, out) in mats.iter().zip(&outs) {
            assert_eq!(*out, matmul(&exec, &acts, *w), "{} {}", w.dtype(), cpu.name());
        }
    }
}

#[test]
fn gated_is_the_two_products_and_the_gate() {
    let (rows, k) = (40, 256);
    let mut failures = Vec::new();
    for cpu in Cpu::all() {
        let exec = Exec::new(cpu, 2);
        let mut random = Random::new(5);
        for (gate_type, up_type) in [(DType::Q4_K, DType::Q4_K), (DType::Q8_0, DType::Q4_1), (DType::F16, DType::IQ2_S)]
        {
            let (gate, up) = (weights(gate_type, rows, k, &mut random), weights(up_type, rows, k, &mut random));
            let gate = Mat::new(gate_type, rows, k, &gate).expect("fits");
            let up = Mat::new(up_type, rows, k, &up).expect("fits");
            for n in [1, 3, 17] {
                let mut acts = Acts::new();
                let x = activations(n, k, &mut random);
                exec.quantize(&mut acts, &x, n, k, ActKinds::of(gate_type) | ActKinds::of(up_type));
                for act in [Activation::Silu, Activation::GeluTanh] {
                    let mut out = vec![f32::NAN; n * rows];
                    exec.gated(&acts, gate, up, act, &mut out);
                    let (g, u) = (matmul(&exec, &acts, gate), matmul(&exec, &acts, up));
                    let mut expected = g;
                    float::gate(cpu, act, &mut expected, &u);
                    if out != expected {
                        failures.push(format!("{gate_type} {up_type} {} n {n} {act:?}", cpu.name()));
                    }
                }
            }
        }
    }
    report(failures);
}

#[test]
fn experts_are_products_of_their_pairs() {
    let (experts, rows, k, n) = (5, 40, 512, 12);
    // Experts 0 and 3 have nobody, 1 has one column, 2 few, 4 many; activations are read twice and not at all.
    let offsets = [0, 0, 1, 4, 4, 15];
    let pick = [3, 0, 3, 9, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0];
    let mut failures = Vec::new();
    for cpu in Cpu::all() {
        let exec = Exec::new(cpu, 2);
        let mut random = Random::new(9);
        for &dtype in DType::ALL {
            let bytes = weights(dtype, experts * rows, k, &mut random);
            let stack = Mat::new(dtype, experts * rows, k, &bytes).expect("fits");
            let x = activations(n, k, &mut random);
            let all = acts(&exec, &x, k, dtype);
            let groups = Groups { offsets: &offsets, pick: &pick };
            let mut out = vec![f32::NAN; pick.len() * rows];
            let w = |e| stack.stacked(e, experts);
            let mats: Vec<Mat> = (0..experts).map(w).collect();
            let mut next = mats.clone();
            next.rotate_left(1);
            exec.matmul_experts(&all, &mats, groups, &mut out);
            let mut gated = vec![f32::NAN; pick.len() * rows];
            exec.gated_experts(&all, &mats, &next, groups, Activation::Silu, &mut gated);
            for e in 0..experts {
                let pairs = offsets[e]..offsets[e + 1];
                if pairs.is_empty() {
                    continue;
                }
                let x: Vec<f32> = pick[pairs.clone()].iter().flat_map(|&i| x[i as usize * k..][..k].to_vec()).collect();
                let acts = acts(&exec, &x, k, dtype);
                let range = pairs.start * rows..pairs.end * rows;
                if out[range.clone()] != matmul(&exec, &acts, w(e)) {
                    failures.push(format!("{dtype} {} expert {e}", cpu.name()));
                }
                let mut expected = vec![f32::NAN; x.len() / k * rows];
                exec.gated(&acts, w(e), w((e + 1) % experts), Activation::Silu, &mut expected);
                if gated[range] != expected {
                    failures.push(format!("{dtype} {} expert {e}, gated", cpu.name()));
                }
            }
        }
    }
    report(failures);
}

#[test]
fn nothing_in_gives_nothing_out() {
    for cpu in Cpu::all() {
        let exec = Exec::new(cpu, 2);
        let mut acts = Acts::new();
        exec.quantize(&mut acts, &[], 0, 256, ActKinds::of(DType::Q4_K));
        let bytes = vec![0; 144 * 3];
        let w = Mat::new(DType::Q4_K, 3, 256, &bytes).expect("fits");
        exec.matmul(&acts, &mut [Product { w, out: &mut [] }]);
        exec.matmul(&acts, &mut []);
        exec.matmul_experts(&acts, &[w], Groups { offsets: &[0, 0], pick: &[] }, &mut []);
        exec.matmul_experts(&acts, &[], Groups { offsets: &[0], pick: &[] }, &mut []);
    }
}

#[test]
fn what_is_not_a_number_stays_so_and_harms_nobody_else() {
    let (rows, k) = (17, 512);
    for cpu in Cpu::all() {
        let exec = Exec::new(cpu, 1);
        for &dtype in DType::ALL {
            let bytes = weights(dtype, rows, k, &mut Random::new(2));
            let w = Mat::new(dtype, rows, k, &bytes).expect("fits");
            for n in [1, 3, 9] {
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut x = activations(n, k, &mut Random::new(4));
                    x[(n - 1) * k + 5] = bad;
                    let out = matmul(&exec, &acts(&exec, &x, k, dtype), w);
                    let (good, broken) = out.split_at((n - 1) * rows);
                    assert!(good.iter().all(|x| x.is_finite()), "{dtype} {} n {n}: {bad} spread", cpu.name());
                    assert!(
                        broken.iter().all(|x| !x.is_finite()) || dtype.block_elems() == 1 && w.data().contains(&0),
                        "{dtype} {} n {n}: {bad} was lost",
                        cpu.name()
                    );
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "activations were not quantized for Q4_K")]
fn a_missing_representation_is_an_error() {
    let exec = Exec::new(Cpu::detect(), 1);
    let bytes = [0; 144];
    let w = Mat::new(DType::Q4_K, 1, 256, &bytes).expect("fits");
    matmul(&exec, &acts(&exec, &[0.0; 256], 256, DType::Q8_0), w);
}
