//! Every encoder against ggml's `ggml_quantize_chunk`, byte for byte, on every instruction set.
//!
//! Sources: a committed fixture (`data/encode.json`, made by `data/make_encode.py`) with digests of ggml's bytes, and,
//! where it is at hand, the reference folder. Floats that neither has are encoded on every instruction set and
//! compared with the scalar bytes.

use std::path::PathBuf;

use ostro_kernels::quantize::{can_encode, encode};
use ostro_kernels::{Cpu, DType};
use serde_json::Value;

/// Runs `case` for each row, then reports all that failed.
fn check<T>(rows: impl IntoIterator<Item = T>, case: impl Fn(&T) -> Result<(), String>) {
    let (mut n, mut failed) = (0, Vec::new());
    for row in rows {
        n += 1;
        failed.extend(case(&row).err());
    }
    assert!(failed.is_empty(), "{} of {n} rows failed:\n{}", failed.len(), failed.join("\n"));
    assert!(n > 0, "no rows");
}

fn encoded(cpu: Cpu, dtype: DType, x: &[f32], cols: usize, importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0xaa; x.len() / cols * dtype.row_bytes(cols).unwrap()];
    encode(cpu, dtype, x, cols, importance, &mut out);
    out
}

fn types() -> impl Iterator<Item = DType> {
    DType::ALL.iter().copied().filter(|&dtype| can_encode(dtype))
}

fn named(name: &str) -> DType {
    *DType::ALL.iter().find(|t| t.name() == name).unwrap_or_else(|| panic!("no type {name}"))
}

/// The first block that differs.
fn compare(what: &str, dtype: DType, found: &[u8], expected: &[u8]) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{what}: {} bytes, expected {}", found.len(), expected.len()));
    }
    let size = dtype.block_bytes();
    match found.chunks(size).zip(expected.chunks(size)).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(i) => {
            let at = i * size..(i + 1) * size;
            Err(format!("{what}: block {i} is {:02x?}, expected {:02x?}", &found[at.clone()], &expected[at]))
        }
    }
}

/// The finalizer of splitmix64.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn digest(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().enumerate();
    bytes.fold(0, |sum, (i, &byte)| mix(((i as u64) << 32) + u64::from(byte)).wrapping_add(sum))
}

/// Even floats with spikes; groups of 16 differ in size up to 2^11, so that scales of sub-blocks become zero. Odd rows
/// are bf16, which has many equal floats.
fn floats(rows: usize, cols: usize) -> Vec<f32> {
    let float = |i: u64| {
        let (random, group) = (mix(i + 1), mix(i / 16 + (1 << 40)));
        let spike = if random.is_multiple_of(97) { 16.0 } else { 1.0 };
        let x = ((random >> 40) as f32 - (1 << 23) as f32) / (1 << 27) as f32 * spike / (1 << (group % 12)) as f32;
        if i / cols as u64 % 2 == 1 { f32::from_bits(x.to_bits() & 0xffff_0000) } else { x }
    };
    (0..(rows * cols) as u64).map(float).collect()
}

/// Weights in 0..1, mostly small; some are zero.
fn importance(cols: usize) -> Vec<f32> {
    let weight = |i: u64| {
        let random = mix(i + (1 << 41));
        let w = (random >> 40) as f32 / (1 << 24) as f32;
        if random.is_multiple_of(50) { 0.0 } else { w * w }
    };
    (0..cols as u64).map(weight).collect()
}

#[test]
fn digests_of_the_fixture() {
    let entries: Vec<Value> = serde_json::from_str(include_str!("data/encode.json")).unwrap();
    let names: Vec<&str> = entries.iter().map(|entry| entry["type"].as_str().unwrap()).collect();
    assert_eq!(names, types().map(DType::name).collect::<Vec<_>>(), "the fixture has every type once");
    let (x, weights) = (floats(37, 768), importance(768));
    let kinds = [("plain", None), ("importance", Some(weights.as_slice()))];
    let rows = entries
        .iter()
        .flat_map(|entry| kinds.iter().flat_map(move |kind| Cpu::all().into_iter().map(move |cpu| (entry, kind, cpu))));
    check(rows, |(entry, (kind, weights), cpu)| {
        let dtype = named(entry["type"].as_str().unwrap());
        let found = format!("{:016x}", digest(&encoded(*cpu, dtype, &x, 768, *weights)));
        let expected = entry[*kind].as_str().unwrap();
        let failed = || format!("{dtype} {kind}, {}: digest {found}, expected {expected}", cpu.name());
        (found == expected).then_some(()).ok_or_else(failed)
    });
}

/// A float of its index and a random number.
type Float = fn(usize, u64) -> f32;

/// In -1..1.
fn signed(random: u64) -> f32 {
    (random >> 40) as f32 / (1 << 23) as f32 - 1.0
}

const AWKWARD: &[(&str, Float)] = &[
    ("even", |_, r| signed(r)),
    ("zeros", |_, _| 0.0),
    ("zeros of both signs", |_, r| if r & 1 == 0 { 0.0 } else { -0.0 }),
    ("a constant", |_, _| 0.37),
    ("a negative constant", |_, _| -0.37),
    ("all positive", |_, r| signed(r).abs() + 0.01),
    ("all negative", |_, r| -signed(r).abs() - 0.01),
    ("few values", |_, r| (r % 3) as f32 - 1.0),
    ("one spike in 256", |i, r| if i % 256 == 77 { -3.0 } else { signed(r) * 1e-4 }),
    ("zeros but for a spike", |i, _| if i % 256 == 200 { 1.0 } else { 0.0 }),
    ("blocks of zeros between others", |i, r| if i / 32 % 3 == 1 { 0.0 } else { signed(r) }),
    ("subnormal in f16", |_, r| signed(r) * 1e-7),
    ("near the least that is not zero", |_, r| signed(r) * 2e-15),
    ("below it", |_, r| signed(r) * 1e-17),
    ("subnormal", |_, r| signed(r) * 1e-39),
    ("the smallest there are", |_, r| f32::from_bits((r % 3) as u32 | (r >> 32 & 0x8000_0000) as u32)),
    ("great", |_, r| signed(r) * 1e6),
    ("squares overflow", |_, r| signed(r) * 1e25),
    ("ranges overflow", |_, r| signed(r) * 3.4e38),
    ("any exponent", |_, r| signed(r) * f32::from_bits(((r % 200 + 27) as u32) << 23)),
    ("steps of the table", |i, _| (i % 255) as f32 - 127.0),
    ("halves", |i, _| (i % 61) as f32 * 0.5 - 15.0),
];

/// One block, and numbers of blocks that fill no group of lanes. All but NaN comes out alike.
#[test]
fn every_instruction_set_gives_the_scalar_bytes() {
    let rows = types().flat_map(|dtype| AWKWARD.iter().map(move |(what, float)| (dtype, *what, *float)));
    check(rows, |&(dtype, what, float)| {
        let width = dtype.block_elems().max(32);
        for (rows, cols) in [(1, width), (1, 3 * width), (3, width), (5, 7 * width), (17, 2 * width)] {
            let x: Vec<f32> = (0..rows * cols).map(|i| float(i, mix(i as u64 + 1))).collect();
            for weights in [None, Some(importance(cols))] {
                let scalar = encoded(Cpu::all()[0], dtype, &x, cols, weights.as_deref());
                for cpu in Cpu::all().into_iter().skip(1) {
                    let found = encoded(cpu, dtype, &x, cols, weights.as_deref());
                    let kind = if weights.is_some() { "importance" } else { "plain" };
                    let what = format!("{dtype} {what}, {rows} x {cols} {kind}, {}", cpu.name());
                    compare(&what, dtype, &found, &scalar)?;
                }
            }
        }
        Ok(())
    });
}

/// Each row is encoded by itself, so that rows may be handed out.
#[test]
fn rows_do_not_meet() {
    check(types(), |&dtype| {
        let cols = 2 * dtype.block_elems().max(32);
        let (x, weights) = (floats(19, cols), importance(cols));
        for cpu in Cpu::all() {
            let alone: Vec<u8> =
                x.chunks(cols).flat_map(|row| encoded(cpu, dtype, row, cols, Some(&weights))).collect();
            compare(
                &format!("{dtype}, {}", cpu.name()),
                dtype,
                &encoded(cpu, dtype, &x, cols, Some(&weights)),
                &alone,
            )?;
        }
        Ok(())
    });
}

#[test]
fn infinite_and_nan_are_encoded_as_anything() {
    check(types(), |&dtype| {
        let cols = dtype.block_elems().max(32);
        for bad in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN] {
            for every in [1, 7, 100] {
                let mut x = floats(9, cols);
                x.iter_mut().step_by(every).for_each(|x| *x = bad);
                for cpu in Cpu::all() {
                    for weights in [None, Some(x[..cols].to_vec()), Some(importance(cols))] {
                        encoded(cpu, dtype, &x, cols, weights.as_deref());
                    }
                }
            }
        }
        Ok(())
    });
}

/// NaN as ggml has them: one in f16, in bf16 the float's own upper half, made quiet.
#[test]
fn nan_of_halves() {
    let x: Vec<f32> = [0x7f80_0001, 0xff80_0001, 0x7fc1_2345, 0xffff_ffff, 0x7f80_0000, 0xff7f_ffff]
        .map(f32::from_bits)
        .into_iter()
        .cycle()
        .take(6 * 11)
        .collect();
    let rows = [
        (DType::F16, [0x7e00, 0xfe00, 0x7e00, 0xfe00, 0x7c00, 0xfc00]),
        (DType::BF16, [0x7fc0, 0xffc0, 0x7fc1, 0xffff, 0x7f80, 0xff80u16]),
    ];
    check(rows, |(dtype, expected)| {
        let expected: Vec<u8> = expected.iter().cycle().take(x.len()).flat_map(|h| h.to_le_bytes()).collect();
        Cpu::all().into_iter().try_for_each(|cpu| {
            compare(&format!("{dtype}, {}", cpu.name()), *dtype, &encoded(cpu, *dtype, &x, x.len(), None), &expected)
        })
    });
}

#[test]
fn lengths_that_do_not_belong_together_panic() {
    // Columns, floats, weights, bytes.
    let cases: &[(usize, usize, Option<usize>, usize)] = &[
        (256, 256, None, 143),
        (256, 256, None, 145),
        (256, 512, None, 144),
        (256, 100, None, 144),
        (100, 100, None, 144),
        (0, 0, None, 0),
        (256, 256, Some(255), 144),
        (256, 256, Some(512), 144),
    ];
    // Without the message and the backtrace of each; other tests keep theirs.
    let (default, here) = (std::panic::take_hook(), std::thread::current().id());
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().id() != here {
            default(panic);
        }
    }));
    let accepted: Vec<_> = cases
        .iter()
        .filter(|(cols, floats, weights, bytes)| {
            let (x, weights) = (vec![0.5; *floats], weights.map(|n| vec![1.0; n]));
            std::panic::catch_unwind(|| {
                encode(Cpu::detect(), DType::Q4_K, &x, *cols, weights.as_deref(), &mut vec![0; *bytes]);
            })
            .is_ok()
        })
        .collect();
    drop(std::panic::take_hook());
    assert!(accepted.is_empty(), "accepted (columns, floats, weights, bytes): {accepted:?}");
}

/// All entries of the reference folder whose types are encoded.
#[test]
fn reference_quants() {
    let root = std::env::var_os("OSTRO_REFERENCE")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference"), PathBuf::from);
    let quants = root.join("quants");
    let Ok(manifest) = std::fs::read(quants.join("manifest.json")) else {
        let reason = format!("no {}; set OSTRO_REFERENCE", quants.join("manifest.json").display());
        assert!(std::env::var_os("OSTRO_REQUIRE_REFERENCE").is_none(), "{reason}");
        // Past the test harness, which shows what passing tests print to nobody.
        let _ =
            std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIPPED: reference_quants: {reason}\n"));
        return;
    };
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let read = |name: &Value| std::fs::read(quants.join(name.as_str().unwrap())).unwrap();
    let floats =
        |name: &Value| -> Vec<f32> { read(name).as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect() };
    let cols = manifest["cols"].as_u64().unwrap() as usize;
    let (x, weights) = (floats(&manifest["input"]), floats(&manifest["imatrix"]));
    let mut rows: Vec<(DType, bool, &Value)> = manifest["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            (named(entry["type"].as_str().unwrap()), entry["imatrix"].as_bool().unwrap(), &entry["bytes_file"])
        })
        .filter(|(dtype, ..)| can_encode(*dtype))
        .collect();
    assert_eq!(rows.len(), 26, "entries of the manifest that are encoded");
    rows.push((DType::F16, false, &manifest["half"]["f16"]["file"]));
    rows.push((DType::BF16, false, &manifest["half"]["bf16"]["file"]));
    check(rows, |(dtype, weighted, file)| {
        let weights = weighted.then_some(weights.as_slice());
        Cpu::all().into_iter().try_for_each(|cpu| {
            let what = format!("{}, {}", file.as_str().unwrap(), cpu.name());
            compare(&what, *dtype, &encoded(cpu, *dtype, &x, cols, weights), &read(file))
        })
    });
}
