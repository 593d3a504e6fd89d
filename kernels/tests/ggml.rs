//! Every format and product that we share with ggml, against ggml itself: the feature `ggml` links it.
#![cfg(feature = "ggml")]

use ostro_kernels::DType::{self, *};
use ostro_kernels::synthetic::{Random, weights};
use ostro_kernels::{ActKinds, Acts, Cpu, Exec, Mat, Product, ggml, quantize};

/// The types that ggml of April 2024 multiplies with. It could encode and decode all of them.
const SHARED: &[DType] = &[
    F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ2_XXS, IQ2_XS, IQ3_XXS, IQ1_S, IQ4_NL,
    IQ3_S, IQ2_S, IQ4_XS, IQ1_M,
];

/// Panels have 8, 16 or 32 rows; one column is streamed, two and more go through tiles of up to 8.
const ROWS: &[usize] = &[1, 3, 17, 40];
const COLUMNS: &[usize] = &[1, 2, 9];

/// ggml takes blocks of 32 in pairs.
fn lengths(dtype: DType) -> &'static [usize] {
    match dtype.block_elems() {
        1 => &[1, 7, 100, 576],
        32 => &[64, 576],
        _ => &[256, 768],
    }
}

/// Runs `case` for each row, then reports all that failed.
fn check<T>(rows: impl IntoIterator<Item = T>, case: impl Fn(T) -> Result<(), String>) {
    let (mut n, mut failed) = (0, Vec::new());
    for row in rows {
        n += 1;
        failed.extend(case(row).err());
    }
    assert!(failed.is_empty(), "{} of {n} rows failed:\n{}", failed.len(), failed.join("\n"));
    assert!(n > 0, "no rows");
}

fn decoded(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; bytes.len() / dtype.block_bytes() * dtype.block_elems()];
    quantize::decode_row(dtype, bytes, &mut out);
    out
}

/// All bits of our floats and ggml's agree.
fn decodes(dtype: DType, what: &str, bytes: &[u8]) -> Result<(), String> {
    let found = decoded(dtype, bytes);
    let mut expected = vec![f32::NAN; found.len()];
    ggml::dequantize(dtype, bytes, &mut expected).ok_or_else(|| format!("ggml decodes no {dtype}"))?;
    match found.iter().zip(&expected).position(|(a, b)| a.to_bits() != b.to_bits()) {
        None => Ok(()),
        Some(i) => Err(format!("{dtype} {what}: element {i} is {:e}, expected {:e}", found[i], expected[i])),
    }
}

/// Float `i` of some.
type Float = fn(usize, &mut Random) -> f32;

/// Floats to encode.
const FLOATS: &[(&str, Float)] = &[
    ("activations", |_, random| 3.0 * random.signed()),
    ("small", |_, random| 1e-6 * random.signed()),
    ("large", |_, random| 1e3 * random.signed()),
    ("positive", |_, random| random.unit()),
    ("zero", |_, _| 0.0),
    ("ones", |_, _| -1.0),
    ("outlier", |i, random| if i % 100 == 7 { 8.0 } else { 0.1 * random.signed() }),
];

#[test]
fn the_shared_types_are_these() {
    let multiplies = |dtype: &&DType| {
        let k = dtype.block_elems().max(64);
        ggml::dot(**dtype, &vec![0; dtype.row_bytes(k).expect("whole blocks")], &vec![0.0; k]).is_some()
    };
    assert_eq!(DType::ALL.iter().filter(multiplies).copied().collect::<Vec<_>>(), SHARED);
}

/// The times of code for another machine would be worth nothing.
#[test]
fn the_c_code_is_compiled_for_this_machine() {
    let here = ggml::instructions();
    for (set, names) in
        [("avx2", vec!["avx2", "fma", "f16c"]), ("avx512", vec!["avx512f", "avx512vnni"]), ("neon", vec!["neon"])]
    {
        assert!(Cpu::by_name(set).is_none() || names.iter().all(|name| here.contains(name)), "{set}: {here:?}");
    }
}

#[test]
fn what_ggml_encodes_decodes_to_its_floats() {
    check(
        SHARED.iter().flat_map(|&dtype| FLOATS.iter().map(move |floats| (dtype, floats))),
        |(dtype, (what, float))| {
            let mut random = Random::new(1);
            let x: Vec<f32> = (0..3072).map(|i| float(i, &mut random)).collect();
            let bytes = ggml::quantize(dtype, &x, 768).ok_or_else(|| format!("ggml encodes no {dtype}"))?;
            decodes(dtype, what, &bytes)
        },
    );
}

#[test]
fn random_bytes_decode_to_ggmls_floats() {
    check(SHARED, |&dtype| decodes(dtype, "of random bytes", &weights(dtype, 256, 768, &mut Random::new(2))));
}

/// Activations of one kind, `[n, k]`.
type Activations = fn(usize, usize, &mut Random) -> Vec<f32>;

/// Whole multiples of 1/32, of which each block of 32 has one of 127/32: they are the same numbers in f32, f16, Q8_0,
/// Q8_1 and Q8_K, so that only the order of the sums is compared.
fn exact(n: usize, k: usize, random: &mut Random) -> Vec<f32> {
    let mut number = |i| if i % 32 == 5 { 127 } else { (random.next() % 255) as i32 - 127 };
    (0..n * k).map(|i| number(i) as f32 / 32.0).collect()
}

/// Ordinary ones, which both must round alike.
fn ordinary(n: usize, k: usize, random: &mut Random) -> Vec<f32> {
    (0..n * k).map(|_| 3.0 * random.signed()).collect()
}

const ACTIVATIONS: &[(&str, Activations)] = &[("exact", exact), ("ordinary", ordinary)];

/// A type that is multiplied as floats here, while ggml rounds the activations first.
fn floats_here(dtype: DType) -> bool {
    matches!(dtype, F16 | IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S | IQ1_S | IQ1_M)
}

#[test]
fn activations_are_rounded_as_ggml_rounds_them() {
    let rows = Cpu::all().into_iter().flat_map(|cpu| SHARED.iter().map(move |&dtype| (cpu, dtype)));
    let rows = rows.filter(|(_, dtype)| !floats_here(*dtype));
    check(rows.flat_map(|row| ACTIVATIONS.iter().map(move |kind| (row, kind))), |((cpu, dtype), (kind, make))| {
        let k = 7680;
        let x = make(1, k, &mut Random::new(3));
        let (companion, bytes) = ggml::activations(dtype, &x).expect("shared");
        let mut found = vec![f32::NAN; k];
        acts(&Exec::new(cpu, 1), &x, k, dtype).dequantized(dtype, 0, &mut found);
        // The scale of a Q8_K is 1 / (127 / max) in ggml and max / 127 here: three roundings.
        let tolerance = if companion == Q8_K { 3.0 * f32::EPSILON / 2.0 } else { 0.0 };
        let expected = decoded(companion, &bytes);
        let differs = |(a, b): (&f32, &f32)| (a - b).abs() > tolerance * b.abs() || a.is_nan();
        match found.iter().zip(&expected).position(differs) {
            None => Ok(()),
            Some(i) => Err(format!(
                "{dtype} {} {kind}: activation {i} is {:e}, expected {:e} of {companion}",
                cpu.name(),
                found[i],
                expected[i]
            )),
        }
    });
}

fn acts(exec: &Exec, x: &[f32], k: usize, dtype: DType) -> Acts {
    let mut acts = Acts::new();
    exec.quantize(&mut acts, x, x.len() / k, k, ActKinds::of(dtype));
    acts
}

/// How far two right answers may be apart, `[n, rows]`.
///
/// Within a block all sums are of integers, here and there; what differs is the order in which the floats of blocks (in
/// the float types: of elements) are added. That is some roundings of 6e-8 of sums which minimums and offsets, that are
/// subtracted later, make larger than the absolute values of the products. Those times SUMS are three times what was
/// ever seen with these lengths (3.4e-7, by the scalar set; 1.2e-7 by the others).
///
/// Where we multiply floats, ggml's rounding of the activations is added: half a step of 127 in a block of 256, half of
/// 2^-10 of an f16.
fn tolerances(w: Mat<'_>, x: &[f32], kind: &str) -> Vec<f64> {
    const SUMS: f64 = 1e-6;
    let rounds = floats_here(w.dtype()) && kind != "exact";
    let step = |x: &[f32], i: usize| match w.dtype() {
        F16 => x[i].abs() as f64 / 2048.0,
        _ => x[i / 256 * 256..][..256].iter().fold(0.0, |max: f64, x| max.max(x.abs() as f64)) / 254.0,
    };
    let (k, floats) = (w.cols(), decoded(w.dtype(), w.data()));
    let mut out = Vec::new();
    for x in x.chunks_exact(k) {
        let steps: Vec<f64> = (0..k).map(|i| if rounds { step(x, i) } else { 0.0 }).collect();
        out.extend(floats.chunks_exact(k).map(|w| {
            let each = w.iter().zip(x).zip(&steps);
            each.map(|((&w, &x), step)| (w as f64).abs() * (SUMS * (x as f64).abs() + 1.001 * step)).sum::<f64>()
        }));
    }
    out
}

/// What the scalar set may differ by in Q4_1 and Q5_1: it multiplies decoded weights, and so their minimums with the sum
/// of the rounded activations. ggml and the fast sets multiply them with the sum that a Q8_1 has, `d * sum(q)` rounded
/// to f16 of a `d` that was not: two roundings of 2^-11 lie between, and the minimum is what they are of.
fn add_minimums(w: Mat<'_>, acts: &Acts, tolerances: &mut [f64]) {
    let mut x = vec![f32::NAN; w.cols()];
    for (j, tolerances) in tolerances.chunks_exact_mut(w.rows()).enumerate() {
        acts.dequantized(w.dtype(), j, &mut x);
        let sums: Vec<f64> = x.as_chunks::<32>().0.iter().map(|x| x.iter().map(|&x| x as f64).sum()).collect();
        for (i, tolerance) in tolerances.iter_mut().enumerate() {
            let minimums = w.row(i).chunks_exact(w.dtype().block_bytes()).map(|b| quantize::f16_to_f32([b[2], b[3]]));
            *tolerance += minimums.zip(&sums).map(|(m, sum)| (m as f64 * sum).abs() * 1.001 / 1024.0).sum::<f64>();
        }
    }
}

/// The element that is farthest outside of what it may be.
fn compare(what: &str, rows: usize, found: &[f32], expected: &[f32], tolerances: &[f64]) -> Result<(), String> {
    assert!(found.len() == expected.len() && found.len() == tolerances.len());
    let excess = |i: usize| (found[i] as f64 - expected[i] as f64).abs() / (tolerances[i] + 1e-30);
    let worst = (0..found.len()).max_by(|&i, &j| excess(i).total_cmp(&excess(j))).expect("some");
    if excess(worst) <= 1.0 {
        return Ok(());
    }
    let (column, row) = (worst / rows, worst % rows);
    let (found, expected, tolerance) = (found[worst], expected[worst], tolerances[worst]);
    Err(format!("{what}: row {row}, column {column}: {found}, expected {expected} +- {tolerance:.1e}"))
}

/// Both ways that ggml multiplies, and every instruction set, on one matrix and one batch.
fn products(execs: &[Exec], w: Mat<'_>, n: usize, x: &[f32], kind: &str) -> Result<(), String> {
    let (dtype, rows, k) = (w.dtype(), w.rows(), w.cols());
    let graph = ggml::MatMul::new(w, x, n, 1).expect("shared").compute().to_vec();
    let dots = x.chunks_exact(k).flat_map(|x| (0..rows).map(move |i| ggml::dot(dtype, w.row(i), x).expect("shared")));
    let dots: Vec<f32> = dots.collect();
    let (tolerances, mut failed) = (tolerances(w, x, kind), Vec::new());
    for exec in execs {
        let what = |of: &str| format!("{dtype} {} rows {rows}, n {n}, k {k}, {kind}, {of}", exec.cpu().name());
        let (mut found, acts) = (vec![f32::NAN; n * rows], acts(exec, x, k, dtype));
        exec.matmul(&acts, &mut [Product { w, out: &mut found }]);
        let mut tolerances = tolerances.clone();
        if exec.cpu().name() == "scalar" && matches!(dtype, Q4_1 | Q5_1) && kind != "exact" {
            add_minimums(w, &acts, &mut tolerances);
        }
        failed.extend(compare(&what("graph"), rows, &found, &graph, &tolerances).err());
        failed.extend(compare(&what("dot"), rows, &found, &dots, &tolerances).err());
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

#[test]
fn every_product_is_ggmls() {
    let execs: Vec<Exec> = Cpu::all().into_iter().map(|cpu| Exec::new(cpu, 2)).collect();
    let rows = SHARED.iter().flat_map(|&dtype| lengths(dtype).iter().map(move |&k| (dtype, k)));
    let rows = rows.flat_map(|row| COLUMNS.iter().map(move |&n| (row, n)));
    check(rows.flat_map(|row| ACTIVATIONS.iter().map(move |kind| (row, kind))), |(((dtype, k), n), (kind, make))| {
        let mut random = Random::new(5);
        let most = *ROWS.iter().max().expect("some");
        let x = make(n, k, &mut random);
        let encoded = ggml::quantize(dtype, &ordinary(most, k, &mut random), k).expect("shared");
        for bytes in [encoded, weights(dtype, most, k, &mut random)] {
            for &rows in ROWS {
                let w = Mat::new(dtype, rows, k, &bytes[..bytes.len() / most * rows]).expect("fits");
                products(&execs, w, n, &x, kind)?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_product_runs_again_and_from_any_address() {
    let (rows, k, n) = (17, 512, 3);
    check(SHARED, |&dtype| {
        let mut random = Random::new(6);
        let bytes = [vec![0], weights(dtype, rows, k, &mut random)].concat();
        let x = ordinary(n, k, &mut random);
        let mut outs = Vec::new();
        for at in [0, 1] {
            // The same weights, once where a vector begins and once a byte later.
            let bytes = if at == 0 { &bytes[1..].to_vec() } else { &bytes };
            let w = Mat::new(dtype, rows, k, &bytes[at..]).expect("fits");
            for threads in [1, 3] {
                let mut product = ggml::MatMul::new(w, &x, n, threads).expect("shared");
                outs.push(product.compute().to_vec());
                let mut moved = Box::new(product);
                outs.push(moved.compute().to_vec());
            }
        }
        if outs.iter().all(|out| *out == outs[0]) { Ok(()) } else { Err(format!("{dtype}: {outs:?}")) }
    });
}
