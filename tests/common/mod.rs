//! What several test files need: where references lie, and the errors between logits.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io::Write;
use std::path::{Path, PathBuf};

/// The folder of reference models (see tests/README.md), unpacked; `None`, said aloud, where it is missing.
pub fn reference(part: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("OSTRO_REFERENCE") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/reference"),
    };
    found(root.join(part), "the reference folder (OSTRO_REFERENCE)", "OSTRO_REQUIRE_REFERENCE")
}

/// A real model that `ostro pull` has fetched, or that OSTRO_MODEL_<NAME> names.
pub fn real_model(name: &str, file: &str) -> Option<PathBuf> {
    let variable = format!("OSTRO_MODEL_{}", name.to_uppercase().replace('-', "_"));
    let path = match std::env::var_os(&variable) {
        Some(path) => PathBuf::from(path),
        None => {
            let set = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
            let home = set("OSTRO_HOME")
                .or_else(|| Some(set("XDG_CACHE_HOME")?.join("ostro")))
                .or_else(|| Some(std::env::home_dir()?.join(".cache/ostro")))?;
            home.join("models").join(name).join(file)
        }
    };
    found(path, &format!("the real model ({variable}, or `ostro pull {name}`)"), "OSTRO_REQUIRE_MODELS")
}

/// Says that something is not tested. `eprintln!` would be shown for failing tests only.
pub fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

fn found(path: PathBuf, what: &str, required: &str) -> Option<PathBuf> {
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var_os(required).is_none(), "{} is missing: {what}, and {required} is set", path.display());
    skipped(&format!("{} is missing: {what}", path.display()));
    None
}

/// Normalized mean squared error of `found` against `wanted`; NaN where either has one.
pub fn nmse(found: &[f32], wanted: &[f32]) -> f64 {
    assert_eq!(found.len(), wanted.len());
    let square = |x: f64| x * x;
    let error: f64 = found.iter().zip(wanted).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    error / wanted.iter().map(|&b| square(f64::from(b))).sum::<f64>()
}

/// The index of the largest value.
pub fn argmax(row: &[f32]) -> usize {
    row.iter().enumerate().fold(0, |best, (i, &x)| if x > row[best] { i } else { best })
}

/// The share of rows whose largest value stands at the same place.
pub fn top1(found: &[f32], wanted: &[f32], width: usize) -> f64 {
    let rows = found.chunks(width).zip(wanted.chunks(width));
    let n = rows.len();
    rows.filter(|(a, b)| argmax(a) == argmax(b)).count() as f64 / n as f64
}
