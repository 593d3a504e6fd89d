//! The rows of a report on models: llama-bench's fields and columns, and shares of what the machine can do.

use super::machine::iso_8601;
use super::report::{Column, Row, percent};
use super::subject::Subject;
use super::sweep::Case;
use super::test::{Limits, Measured};
use crate::engine::{KvTypes, Model};
use crate::placement::GpuLayers;
use ostro_kernels::{Cpu, KvType};
use serde_json::json;

/// Which columns the table has beside the usual ones: those of parameters that are not llama-bench's in some test.
pub(super) struct Table {
    gpu_layers: bool,
    n_batch: bool,
    n_ubatch: bool,
    type_k: bool,
    type_v: bool,
}

impl Table {
    /// The table of these tests.
    pub fn new(cases: &[Case]) -> Table {
        let some = |other: &dyn Fn(&Case) -> bool| cases.iter().any(other);
        Table {
            gpu_layers: some(&|c| c.gpu_layers != GpuLayers::Auto),
            n_batch: some(&|c| c.n_batch != 2048),
            n_ubatch: some(&|c| c.n_ubatch != 512),
            type_k: some(&|c| c.kv.k != KvType::F16),
            type_v: some(&|c| c.kv.v != KvType::F16),
        }
    }

    /// The columns.
    pub fn columns(&self, subjects: &[Subject], cases: &[Case]) -> Vec<Column> {
        let names: Vec<_> = cases.iter().map(Case::name).collect();
        let test = names.iter().map(|name| name.chars().count()).fold(15, usize::max);
        let columns = [
            (true, Column::left("model", 30, subjects.iter().map(|s| s.kind.as_str()))),
            (true, Column::right("size", 10)),
            (true, Column::right("params", 10)),
            (true, Column::left("backend", 10, [].into_iter())),
            (true, Column::right("threads", 7)),
            (self.gpu_layers, Column::right("ngl", 4)),
            (self.n_batch, Column::right("n_batch", 7)),
            (self.n_ubatch, Column::right("n_ubatch", 8)),
            (self.type_k, Column::right("type_k", 6)),
            (self.type_v, Column::right("type_v", 6)),
            (true, Column::right("test", test)),
            (true, Column::right("t/s", 20)),
            (true, Column::right("GB/s", 7)),
            (true, Column::right("of read", 7)),
            (true, Column::right("GOP/s", 7)),
            (true, Column::right("of int8", 7)),
        ];
        columns.into_iter().filter_map(|(shown, column)| shown.then_some(column)).collect()
    }

    /// What came out of a test.
    pub fn row(&self, subject: &Subject, case: &Case, measured: &Measured, cpu: Cpu, cpu_info: &str) -> Row {
        let Limits { read, int8 } = measured.limits;
        let speed = Speed::new(&subject.model, case, &measured.nanoseconds);
        let share_read = speed.bytes.map(|bytes| bytes / read);
        let none = || "-".to_owned();
        let backend = if measured.card.0 > 0 { "CUDA" } else { "CPU" };
        let cells = [
            (true, subject.kind.clone()),
            (true, size(subject.bytes)),
            (true, count(subject.parameters)),
            (true, backend.to_owned()),
            (true, case.threads.to_string()),
            (self.gpu_layers, case.gpu_layers.to_string()),
            (self.n_batch, case.n_batch.to_string()),
            (self.n_ubatch, case.n_ubatch.to_string()),
            (self.type_k, kv_name(case.kv.k).to_owned()),
            (self.type_v, kv_name(case.kv.v).to_owned()),
            (true, case.name()),
            (true, format!("{:.2} ± {:.2}", speed.tokens.mean, speed.tokens.deviation)),
            (true, speed.bytes.map_or_else(none, |bytes| format!("{:.1}", bytes / 1e9))),
            (true, share_read.map_or_else(none, percent)),
            (true, format!("{:.0}", speed.operations / 1e9)),
            (true, percent(speed.operations / int8)),
        ];
        let record = json!({
            "build_version": env!("CARGO_PKG_VERSION"),
            "cpu_info": cpu_info,
            "gpu_info": measured.card.1,
            "backends": backend,
            "model_filename": subject.file,
            "model_type": subject.kind,
            "model_size": subject.bytes,
            "model_n_params": subject.parameters,
            "n_batch": case.n_batch,
            "n_ubatch": case.n_ubatch,
            "n_threads": case.threads,
            "type_k": kv_name(case.kv.k),
            "type_v": kv_name(case.kv.v),
            "n_gpu_layers": measured.card.0,
            "use_mmap": true,
            "n_prompt": case.prompt,
            "n_gen": case.generated,
            "n_depth": case.depth,
            "test_time": iso_8601(measured.at),
            "avg_ns": speed.nanoseconds.mean.round() as u64,
            "stddev_ns": speed.nanoseconds.deviation.round() as u64,
            "avg_ts": speed.tokens.mean,
            "stddev_ts": speed.tokens.deviation,
            "samples_ns": measured.nanoseconds,
            "samples_ts": speed.samples,
            "cpu_isa": cpu.name(),
            "gb_s": speed.bytes.map(|bytes| bytes / 1e9),
            "gop_s": speed.operations / 1e9,
            "limit_read_gb_s": read / 1e9,
            "limit_int8_gop_s": int8 / 1e9,
            "share_read": share_read,
            "share_int8": speed.operations / int8,
        });
        let serde_json::Value::Object(record) = record else { unreachable!("it is written as an object") };
        Row { cells: cells.into_iter().filter_map(|(shown, cell)| shown.then_some(cell)).collect(), record }
    }
}

/// How fast a test was.
struct Speed {
    nanoseconds: Spread,
    tokens: Spread,
    /// Tokens a second of each repetition.
    samples: Vec<f64>,
    /// Bytes of weights and cache that were read a second; a prompt uses each of them for many tokens.
    bytes: Option<f64>,
    /// Multiplications and additions with weights a second.
    operations: f64,
}

impl Speed {
    fn new(model: &Model, case: &Case, nanoseconds: &[u64]) -> Speed {
        let samples: Vec<_> = nanoseconds.iter().map(|&ns| case.tokens() as f64 * 1e9 / ns as f64).collect();
        let tokens = Spread::of(&samples);
        let bytes = (case.prompt == 0).then(|| bytes_per_token(model, case, case.kv) * tokens.mean);
        let (prompt, generated) = (case.prompt as u64, case.generated as u64);
        let macs = model.account.macs;
        let macs = macs.of(prompt, prompt.div_ceil(case.n_batch as u64)) + macs.of(generated, generated);
        let operations = 2.0 * macs as f64 / case.tokens() as f64 * tokens.mean;
        let nanoseconds: Vec<_> = nanoseconds.iter().map(|&ns| ns as f64).collect();
        Speed { nanoseconds: Spread::of(&nanoseconds), tokens, samples, bytes, operations }
    }
}

/// What a generated token reads: weights, and the cache at the average of the test's positions.
fn bytes_per_token(model: &Model, case: &Case, kv: KvTypes) -> f64 {
    let cache: usize = (1..=case.generated).map(|i| kv.bytes_read(&model.spec, case.depth + i)).sum();
    model.account.read_per_token as f64 + cache as f64 / case.generated as f64
}

/// Mean and sample standard deviation.
struct Spread {
    mean: f64,
    deviation: f64,
}

impl Spread {
    fn of(samples: &[f64]) -> Spread {
        let n = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / n;
        let squares: f64 = samples.iter().map(|x| (x - mean).powi(2)).sum();
        Spread { mean, deviation: if samples.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 } }
    }
}

/// As llama-bench writes sizes.
fn size(bytes: u64) -> String {
    match bytes as f64 / (1u64 << 30) as f64 {
        gib if gib >= 1.0 => format!("{gib:.2} GiB"),
        gib => format!("{:.2} MiB", gib * 1024.0),
    }
}

/// As llama-bench writes counts of parameters.
fn count(n: u64) -> String {
    if n >= 1_000_000_000 { format!("{:.2} B", n as f64 / 1e9) } else { format!("{:.2} M", n as f64 / 1e6) }
}

fn kv_name(kind: KvType) -> &'static str {
    match kind {
        KvType::F32 => "f32",
        KvType::F16 => "f16",
        KvType::Q8_0 => "q8_0",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads() {
        let rows: &[(&[f64], f64, f64)] =
            &[(&[5.0], 5.0, 0.0), (&[1.0, 3.0], 2.0, 2f64.sqrt()), (&[2.0, 4.0, 9.0], 5.0, 13f64.sqrt())];
        for (samples, mean, deviation) in rows {
            let found = Spread::of(samples);
            assert!((found.mean - mean).abs() + (found.deviation - deviation).abs() < 1e-12, "{samples:?}");
        }
    }

    #[test]
    fn sizes_and_counts() {
        assert_eq!((size(955_000_000), size(4 << 30)), ("910.76 MiB".to_owned(), "4.00 GiB".to_owned()));
        assert_eq!((count(134_515_008), count(7_248_023_552)), ("134.52 M".to_owned(), "7.25 B".to_owned()));
    }
}
