//! `ostro bench --kernels`: every format on every instruction set of this machine, without a model.
//!
//! One column streams a matrix that no cache holds, as decoding does, and is compared with reading; many columns use
//! few rows again and again, as prompts do, and are compared with multiplying bytes. Built with the feature `ggml`,
//! ggml's own kernels stand beside: they are compiled for this machine, so their figures are the same for all sets of ours.

use super::list::all;
use super::machine::cpu_info;
use super::report::{Column, Report, Row, percent};
use super::test::Limits;
use super::{BenchArgs, note};
use crate::commands::{catch_interrupts, interrupted};
use crate::model::computable;
use ostro_kernels::synthetic::{Random, weights};
use ostro_kernels::{ActKinds, Acts, Cpu, DType, Exec, Mat, Product, ReadProbe};
use serde_json::json;
use std::time::{Duration, Instant};

/// Length of a row.
const K: usize = 4096;
/// Bytes that one column streams: larger than the caches of any desktop.
const STREAMED: usize = 256 << 20;
/// They are timed in so many pieces, each long enough to keep the threads busy.
const PIECES: usize = 16;
/// Columns of the other product.
const MANY: usize = 512;
/// Its rows: about a millisecond's work, which mostly fits between two interruptions...
const ROWS: usize = 256;
/// ... and where that takes long, so few.
const FEW_ROWS: usize = 32;
/// Time for each product, more only where once takes longer.
const BUDGET: Duration = Duration::from_millis(500);

/// What one implementation makes of the two products.
#[derive(Clone, Copy)]
struct Figures {
    /// Bytes a second with one column.
    one: f64,
    /// Multiplications and additions a second with many columns.
    many: f64,
}

/// Our own kernels.
struct Ours<'a> {
    exec: &'a Exec,
    dtype: DType,
    /// Whole rows, a multiple of [`PIECES`] of them.
    bytes: &'a [u8],
    acts: Acts,
    x: Vec<f32>, // [MANY, K]
    out: Vec<f32>,
}

impl<'a> Ours<'a> {
    fn new(exec: &'a Exec, dtype: DType, bytes: &'a [u8]) -> Ours<'a> {
        Ours { exec, dtype, bytes, acts: Acts::new(), x: activations(), out: Vec::new() }
    }

    fn quantize(&mut self, columns: usize, rows_at_once: usize) {
        self.exec.quantize(&mut self.acts, &self.x[..columns * K], columns, K, ActKinds::of(self.dtype));
        self.out.resize(columns * rows_at_once, 0.0);
    }

    fn product(&mut self, w: Mat) {
        let out = &mut self.out[..w.rows() * self.acts.n()];
        self.exec.matmul(&self.acts, &mut [Product { w, out }]);
    }

    fn figures(mut self) -> Figures {
        Figures { one: self.one_column(), many: self.many_columns() }
    }

    fn one_column(&mut self) -> f64 {
        let all = whole(self.dtype, self.bytes);
        self.quantize(1, all.rows() / PIECES);
        let (pieces, time) = best_pass(PIECES, |piece| self.product(all.stacked(piece, PIECES)));
        (pieces * (self.bytes.len() / PIECES)) as f64 / time
    }

    fn many_columns(&mut self) -> f64 {
        self.quantize(MANY, ROWS);
        let (dtype, bytes) = (self.dtype, self.bytes);
        let rows = |n: usize| whole(dtype, &bytes[..n * row_bytes(dtype)]);
        let start = Instant::now();
        self.product(rows(FEW_ROWS));
        let n = if start.elapsed() * 40 < BUDGET { ROWS } else { FEW_ROWS };
        let (_, time) = best_pass(1, |_| self.product(rows(n)));
        (2 * MANY * n * K) as f64 / time
    }
}

/// ggml's kernels, where it has some for the type. It rounds the activations with every product and on one thread, which
/// is to be little beside the product: many rows.
#[cfg(feature = "ggml")]
fn ggml(dtype: DType, bytes: &[u8], threads: usize) -> Option<Figures> {
    use ostro_kernels::ggml::MatMul;
    const ROWS: usize = 4096;
    let all = whole(dtype, bytes);
    let x = activations();
    let piece = |i| MatMul::new(all.stacked(i, PIECES), &x[..K], 1, threads);
    let mut pieces = (0..PIECES).map(piece).collect::<Option<Vec<_>>>()?;
    let (done, time) = best_pass(PIECES, |i| {
        pieces[i].compute();
    });
    let one = (done * (bytes.len() / PIECES)) as f64 / time;
    let mut many = MatMul::new(whole(dtype, &bytes[..ROWS * row_bytes(dtype)]), &x, MANY, threads)?;
    let (_, time) = best_pass(1, |_| {
        many.compute();
    });
    Some(Figures { one, many: (2 * MANY * ROWS * K) as f64 / time })
}

#[cfg(not(feature = "ggml"))]
fn ggml(_: DType, _: &[u8], _: usize) -> Option<Figures> {
    None
}

/// Activations of all columns.
fn activations() -> Vec<f32> {
    (0..MANY * K).map(|i| (i % 255) as f32 - 127.0).collect()
}

/// A matrix of whole rows.
fn whole(dtype: DType, bytes: &[u8]) -> Mat<'_> {
    Mat::new(dtype, bytes.len() / row_bytes(dtype), K, bytes).expect("whole rows")
}

fn row_bytes(dtype: DType) -> usize {
    dtype.row_bytes(K).expect("K is whole blocks of every type")
}

/// The shortest time that a pass over some pieces takes, in seconds, and the pieces, of as many passes as the budget
/// allows; the machine's limit is measured so too. Pieces that the first pass does not reach in half of it are left out.
fn best_pass(pieces: usize, mut work: impl FnMut(usize)) -> (usize, f64) {
    let start = Instant::now();
    let mut n = 0;
    while n < pieces && (n == 0 || start.elapsed() < BUDGET / 2) {
        work(n);
        n += 1;
    }
    let mut best = start.elapsed();
    while start.elapsed() < BUDGET {
        let pass = Instant::now();
        (0..n).for_each(&mut work);
        best = best.min(pass.elapsed());
    }
    (n, best.as_secs_f64())
}

/// Measures all, or what the flags name.
///
/// # Errors
/// Standard output that cannot be written.
pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let or_all = |named: Vec<DType>| match named.is_empty() {
        true => DType::ALL.iter().copied().filter(|&dtype| computable(dtype)).collect(),
        false => named,
    };
    let types: Vec<DType> = or_all(all(&args.types));
    let named = all(&args.isa);
    let cpus = if named.is_empty() { Cpu::all() } else { named };
    let threads = all(&args.threads);
    catch_interrupts()?;

    let (probe, cpu_info) = (ReadProbe::new(), cpu_info());
    let execs: Vec<Exec> = threads.iter().flat_map(|&n| cpus.iter().map(move |&cpu| Exec::new(cpu, n))).collect();
    let mut limits: Vec<Option<Limits>> = vec![None; execs.len()];
    let mut report = Report::new(args.output, columns());
    let done = types.iter().try_for_each(|&dtype| {
        let bytes = streamed(dtype);
        let theirs: Vec<_> = threads.iter().map(|&n| (n, ggml(dtype, &bytes, n))).collect();
        for (exec, limit) in execs.iter().zip(&mut limits) {
            if interrupted() {
                return Ok(());
            }
            let before = Limits::probe(&probe, exec);
            let ours = Ours::new(exec, dtype, &bytes).figures();
            let theirs = theirs.iter().find(|(n, _)| *n == exec.team().threads()).and_then(|(_, figures)| *figures);
            let here = before.or(Limits::probe(&probe, exec));
            *limit = Some(limit.map_or(here, |before| before.or(here)));
            report.row(&row(dtype, exec, (ours, theirs), here, &cpu_info))?;
        }
        Ok(())
    });
    let notes =
        execs.iter().zip(limits).filter_map(|(exec, limit)| Some(note(limit?, exec.cpu(), exec.team().threads())));
    done.and(report.finish(&notes.collect::<Vec<_>>()))
}

/// 256 MB of weights. A few rows of them are random, and come again and again: making that many takes long.
fn streamed(dtype: DType) -> Vec<u8> {
    let some = weights(dtype, 64, K, &mut Random::new(1));
    let rows = STREAMED / row_bytes(dtype) / PIECES * PIECES;
    some.iter().copied().cycle().take(rows * row_bytes(dtype)).collect()
}

fn columns() -> Vec<Column> {
    let ours = [
        Column::left("type", 8, [].into_iter()),
        Column::left("isa", 10, [].into_iter()),
        Column::right("threads", 7),
        Column::right("1 column: GB/s", 14),
        Column::right("of read", 7),
        Column::right("512 columns: GOP/s", 18),
        Column::right("of int8", 7),
    ];
    let theirs = [Column::right("ggml: GB/s", 10), Column::right("ggml: GOP/s", 11)];
    ours.into_iter().chain(theirs.into_iter().filter(|_| cfg!(feature = "ggml"))).collect()
}

fn row(dtype: DType, exec: &Exec, (ours, theirs): (Figures, Option<Figures>), limits: Limits, cpu_info: &str) -> Row {
    let (isa, threads) = (exec.cpu().name(), exec.team().threads());
    let (share_read, share_int8) = (ours.one / limits.read, ours.many / limits.int8);
    let record = json!({
        "build_version": env!("CARGO_PKG_VERSION"),
        "cpu_info": cpu_info,
        "type": dtype.name(),
        "cpu_isa": isa,
        "n_threads": threads,
        "gb_s": ours.one / 1e9,
        "gop_s": ours.many / 1e9,
        "limit_read_gb_s": limits.read / 1e9,
        "limit_int8_gop_s": limits.int8 / 1e9,
        "share_read": share_read,
        "share_int8": share_int8,
        "ggml_gb_s": theirs.map(|figures| figures.one / 1e9),
        "ggml_gop_s": theirs.map(|figures| figures.many / 1e9),
    });
    let serde_json::Value::Object(record) = record else { unreachable!("it is written as an object") };
    let mut cells = vec![
        dtype.name().to_owned(),
        isa.to_owned(),
        threads.to_string(),
        format!("{:.1}", ours.one / 1e9),
        percent(share_read),
        format!("{:.0}", ours.many / 1e9),
        percent(share_int8),
    ];
    if cfg!(feature = "ggml") {
        let cell = |figure: fn(Figures) -> String| theirs.map_or("-".to_owned(), figure);
        cells.extend([cell(|f| format!("{:.1}", f.one / 1e9)), cell(|f| format!("{:.0}", f.many / 1e9))]);
    }
    Row { cells, record }
}
