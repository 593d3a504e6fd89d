//! What an importance matrix looks like: llama-imatrix's statistics, by tensor and by layer.

use crate::convert::Entry;
use crate::convert::Imatrix;
use std::collections::BTreeMap;
use std::fmt::Write;

/// One tensor's mean squares.
struct Row<'a> {
    layer: Option<u32>,
    /// The name without layer and `weight`.
    name: &'a str,
    total: f32,
    min: f32,
    max: f32,
    mean: f32,
    deviation: f32,
    /// The share of columns that are used at all.
    active: f32,
    columns: usize,
    entropy: f32,
    /// The share of columns more than one deviation above the mean.
    outliers: f32,
    /// Cosine of the angle to the same tensor of the layer before.
    cosine: f32,
}

/// A table of all tensors, then one of the layers.
pub(super) fn table(imatrix: &Imatrix) -> String {
    let mut rows: Vec<_> = imatrix.entries().filter_map(|(name, entry)| row(imatrix, name, entry)).collect();
    rows.sort_by(|a, b| a.name.cmp(b.name).then(b.total.total_cmp(&a.total)));
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write(&rows, &mut out);
    out
}

fn write(rows: &[Row], out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "layer\t{:<20}\t{:>10}\t{:>8}\t{:>11}\t{:>6}\t{:>6}\t{:>9}\t{:>6}\t{:>10}\t{:>7}\t{:>11}\t{:>8}",
        "tensor", "Σ(act²)", "min", "max", "μ", "σ", "active", "N", "entropy", "E norm", "ZD", "cos sim"
    )?;
    let mut layers: BTreeMap<u32, (f32, f32, f32, usize)> = BTreeMap::new();
    for r in rows {
        let layer = r.layer.map_or("-".to_owned(), |n| n.to_string());
        let norm = if r.columns > 0 { 100.0 * r.entropy / (r.columns as f32).log2() } else { 0.0 };
        writeln!(
            out,
            "{layer:>5}\t{:<20}\t{:10.2}\t{:8.4}\t{:11.4}\t{:6.2}\t{:6.2}\t{:8.2}%\t{:6}\t{:10.4}\t{norm:6.2}%\t{:10.2}%\t{:8.4}",
            r.name,
            r.total,
            r.min,
            r.max,
            r.mean,
            r.deviation,
            100.0 * r.active,
            r.columns,
            r.entropy,
            100.0 * r.outliers,
            r.cosine
        )?;
        if let Some(layer) = r.layer {
            let (total, outliers, cosine, columns) = layers.entry(layer).or_default();
            let n = r.columns as f32;
            *total += n * r.total;
            *outliers += n * r.outliers;
            *cosine += n * r.cosine;
            *columns += r.columns;
        }
    }
    writeln!(out, "\nlayer\t{:>14}\t{:>11}\tμ cos sim", "μ Σ(act²)", "μ ZD")?;
    for (layer, (total, outliers, cosine, columns)) in layers {
        let n = columns as f32;
        writeln!(out, "{layer:>5}\t{:14.2}\t{:10.4}%\t{:6.4}", total / n, 100.0 * outliers / n, cosine / n)?;
    }
    Ok(())
}

fn row<'a>(imatrix: &Imatrix, name: &'a str, entry: &Entry) -> Option<Row<'a>> {
    let cols = entry.sums.len() / entry.counts.len();
    let seen = entry.sums.chunks_exact(cols.max(1)).zip(&entry.counts).filter(|(_, count)| **count > 0);
    let values: Vec<f32> = seen.flat_map(|(sums, &count)| sums.iter().map(move |sum| sum / count as f32)).collect();
    if values.is_empty() {
        return None;
    }
    let n = values.len() as f32;
    let total: f32 = values.iter().sum();
    let mean = total / n;
    let variance = values.iter().map(|x| x * x).sum::<f32>() / n - mean * mean;
    let deviation = variance.max(0.0).sqrt();
    let shares = values.iter().map(|x| x / total).filter(|&p| p > 0.0);
    let share = |count: usize| count as f32 / n;
    let (layer, part) = parts(name);
    let before = layer.and_then(|layer| layer.checked_sub(1)).and_then(|before| {
        let name = name.replacen(&format!("blk.{}.", before + 1), &format!("blk.{before}."), 1);
        imatrix.entries().find(|(other, _)| *other == name)
    });
    Some(Row {
        layer,
        name: part,
        total,
        min: values.iter().copied().fold(f32::INFINITY, f32::min),
        max: values.iter().copied().fold(f32::NEG_INFINITY, f32::max),
        mean,
        deviation,
        active: 1.0 - share(values.iter().filter(|x| x.abs() <= 1e-5).count()),
        columns: values.len(),
        entropy: if total > 0.0 { -shares.map(|p| p * p.log2()).sum::<f32>() } else { 0.0 },
        outliers: share(values.iter().filter(|&x| deviation > 0.0 && (x - mean) / deviation > 1.0).count()),
        cosine: before.map_or(0.0, |(_, other)| cosine(&entry.sums, &other.sums)),
    })
}

/// The layer and the part of a tensor's name: `blk.3.attn_q.weight` is layer 3 and `attn_q`.
fn parts(name: &str) -> (Option<u32>, &str) {
    let stem = name.strip_suffix(".weight").unwrap_or(name);
    match stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
        Some((layer, part)) => (layer.parse().ok(), part),
        None => (None, stem),
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    (dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()) as f32
}
