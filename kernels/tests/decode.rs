//! Every block type against ggml's `to_float`, bit for bit.
//!
//! Three sources: a committed fixture (`data/decode.json`, made by `data/make_decode.py`) with some blocks of each type
//! and a digest of ggml's floats over many random blocks, which reach every grid point, scale and bit; and, where it
//! is at hand, the reference folder.

use std::path::PathBuf;

use ostro_kernels::DType;
use ostro_kernels::quantize::{decode_fn, decode_row};
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

fn decoded(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![f32::NAN; bytes.len() / dtype.block_bytes() * dtype.block_elems()];
    decode_row(dtype, bytes, &mut out);
    out
}

/// All bits must agree, except which NaN it is: that depends on the machine.
fn compare(what: &str, found: &[f32], expected: &[f32]) -> Result<(), String> {
    if found.len() != expected.len() {
        return Err(format!("{what}: {} floats, expected {}", found.len(), expected.len()));
    }
    let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
    let wrong = found.iter().zip(expected).filter(|&pair| !same(pair)).count();
    match found.iter().zip(expected).position(|pair| !same(pair)) {
        None => Ok(()),
        Some(i) => Err(format!("{what}: {wrong} differ, first {i}: found {:e}, expected {:e}", found[i], expected[i])),
    }
}

fn dtype(entry: &Value) -> DType {
    let name = entry["type"].as_str().unwrap();
    *DType::ALL.iter().find(|t| t.name() == name).unwrap_or_else(|| panic!("no type {name}"))
}

fn fixture() -> Vec<Value> {
    let entries: Vec<Value> = serde_json::from_str(include_str!("data/decode.json")).unwrap();
    assert_eq!(entries.iter().map(dtype).collect::<Vec<_>>(), DType::ALL, "the fixture has every type once");
    entries
}

fn hex(entry: &Value) -> Vec<u8> {
    let text = entry.as_str().unwrap();
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// The finalizer of splitmix64.
fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn random_bytes(seed: u64, n: usize) -> Vec<u8> {
    let words = (1u64..).flat_map(|i| mix(seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15))).to_le_bytes());
    words.take(n).collect()
}

/// Depends on each bit and on its place; all NaN are one.
fn digest(floats: &[f32]) -> u64 {
    let bits = floats.iter().map(|f| if f.is_nan() { 0x7fc0_0000 } else { f.to_bits() });
    bits.enumerate().fold(0, |sum, (i, bits)| mix(((i as u64) << 32) + u64::from(bits)).wrapping_add(sum))
}

#[test]
fn blocks_of_the_fixture() {
    check(fixture(), |entry| {
        let dtype = dtype(entry);
        compare(dtype.name(), &decoded(dtype, &hex(&entry["bytes"])), &floats(&hex(&entry["floats"])))
    });
}

/// Bytes that nobody encoded decode too, and to what ggml makes of them.
#[test]
fn random_blocks() {
    check(fixture(), |entry| {
        let dtype = dtype(entry);
        let blocks = entry["random_blocks"].as_u64().unwrap() as usize;
        let found = digest(&decoded(dtype, &random_bytes(dtype.id().into(), blocks * dtype.block_bytes())));
        let expected = entry["random_digest"].as_str().unwrap();
        if format!("{found:016x}") == expected {
            Ok(())
        } else {
            Err(format!("{dtype}: digest of {blocks} blocks {found:016x}, expected {expected}"))
        }
    });
}

/// Zero blocks, one, and several at any address: each block is decoded by itself.
#[test]
fn every_length_and_alignment() {
    check(DType::ALL, |&&dtype| {
        let (bytes, elems) = (dtype.block_bytes(), dtype.block_elems());
        for blocks in [0, 1, 2, 3, 257] {
            let data = random_bytes(7, blocks * bytes + 3);
            for offset in 0..3 {
                let data = &data[offset..][..blocks * bytes];
                let one_by_one: Vec<f32> = data.chunks(bytes).flat_map(|block| decoded(dtype, block)).collect();
                assert_eq!(one_by_one.len(), blocks * elems);
                compare(&format!("{dtype} x {blocks} at {offset}"), &decoded(dtype, data), &one_by_one)?;
            }
        }
        Ok(())
    });
}

#[test]
fn lengths_that_do_not_belong_together_panic() {
    let cases = DType::ALL.iter().flat_map(|&dtype| {
        let (bytes, elems) = (dtype.block_bytes(), dtype.block_elems());
        [(bytes, 0), (0, elems), (2 * bytes, elems), (bytes, 2 * elems), (bytes + 1, elems), (bytes, elems + 1)]
            .map(|(bytes, elems)| (dtype, bytes, elems))
    });
    // Without the message and the backtrace of each, which takes minutes under an emulator; other tests keep theirs.
    let (default, here) = (std::panic::take_hook(), std::thread::current().id());
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().id() != here {
            default(panic);
        }
    }));
    // A byte more than an I8 is a whole element more, and F32 has 4 bytes: all of these are wrong for every type.
    let accepted: Vec<_> = cases
        .filter(|&(dtype, bytes, elems)| {
            std::panic::catch_unwind(|| decode_fn(dtype)(&vec![0; bytes], &mut vec![0.0; elems])).is_ok()
        })
        .collect();
    drop(std::panic::take_hook());
    assert!(accepted.is_empty(), "accepted (type, bytes, elements): {accepted:?}");
}

/// All rows of all entries of the reference folder.
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
    let entries = manifest["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 47, "entries of the manifest");
    let read = |name: &Value| std::fs::read(quants.join(name.as_str().unwrap())).unwrap();
    check(entries, |entry| {
        let expected = floats(&read(&entry["dequant_file"]));
        let what = entry["bytes_file"].as_str().unwrap();
        compare(what, &decoded(dtype(entry), &read(&entry["bytes_file"])), &expected)
    });
}
