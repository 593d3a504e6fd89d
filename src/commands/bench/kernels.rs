//! `ostro bench --kernels`: every format on every instruction set of this machine, without a model.
//!
//! One column streams a matrix that no cache holds, as decoding does, and is compared with reading; many columns use
//! few rows again and again, as prompts do, and are compared with multiplying bytes. A [`Contestant`] is one
//! implementation of both products; what it makes stands in columns of its own.

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

/// One implementation of the two products, with the weights that it reads.
trait Contestant {
    /// Bytes a second with one column.
    fn one_column(&mut self) -> f64;
    /// Multiplications and additions a second with many columns.
    fn many_columns(&mut self) -> f64;
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
        let x = (0..MANY * K).map(|i| (i % 255) as f32 - 127.0).collect();
        Ours { exec, dtype, bytes, acts: Acts::new(), x, out: Vec::new() }
    }

    fn quantize(&mut self, columns: usize, rows_at_once: usize) {
        self.exec.quantize(&mut self.acts, &self.x[..columns * K], columns, K, ActKinds::of(self.dtype));
        self.out.resize(columns * rows_at_once, 0.0);
    }

    fn product(&mut self, w: Mat) {
        let out = &mut self.out[..w.rows() * self.acts.n()];
        self.exec.matmul(&self.acts, &mut [Product { w, out }]);
    }
}

impl Contestant for Ours<'_> {
    fn one_column(&mut self) -> f64 {
        let rows = self.bytes.len() / row_bytes(self.dtype);
        let all = Mat::new(self.dtype, rows, K, self.bytes).expect("whole rows");
        self.quantize(1, rows / PIECES);
        let best = best_times(PIECES, |piece| self.product(all.stacked(piece, PIECES)));
        (best.len() * (self.bytes.len() / PIECES)) as f64 / best.iter().sum::<f64>()
    }

    fn many_columns(&mut self) -> f64 {
        self.quantize(MANY, ROWS);
        let (dtype, bytes) = (self.dtype, self.bytes);
        let rows = |n: usize| Mat::new(dtype, n, K, &bytes[..n * row_bytes(dtype)]).expect("there are more");
        let start = Instant::now();
        self.product(rows(FEW_ROWS));
        let n = if start.elapsed() * 40 < BUDGET { ROWS } else { FEW_ROWS };
        let best = best_times(1, |_| self.product(rows(n)));
        (2 * MANY * n * K) as f64 / best[0]
    }
}

fn row_bytes(dtype: DType) -> usize {
    dtype.row_bytes(K).expect("K is whole blocks of every type")
}

/// The shortest time of each piece, in seconds, over as many passes as the budget allows. Pieces that the first pass
/// does not reach in half of it are left out.
fn best_times(pieces: usize, mut work: impl FnMut(usize)) -> Vec<f64> {
    let start = Instant::now();
    let mut time = |piece| {
        let one = Instant::now();
        work(piece);
        one.elapsed().as_secs_f64()
    };
    let mut best = Vec::with_capacity(pieces);
    while best.len() < pieces && (best.is_empty() || start.elapsed() < BUDGET / 2) {
        best.push(time(best.len()));
    }
    while start.elapsed() < BUDGET {
        best.iter_mut().enumerate().for_each(|(piece, best)| *best = time(piece).min(*best));
    }
    best
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
        for (exec, limit) in execs.iter().zip(&mut limits) {
            if interrupted() {
                return Ok(());
            }
            let before = Limits::probe(&probe, exec);
            let mut ours = Ours::new(exec, dtype, &bytes);
            let (one, many) = (ours.one_column(), ours.many_columns());
            let here = before.or(Limits::probe(&probe, exec));
            *limit = Some(limit.map_or(here, |before| before.or(here)));
            report.row(&row(dtype, exec, one, many, here, &cpu_info))?;
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
    vec![
        Column::left("type", 8, [].into_iter()),
        Column::left("isa", 8, [].into_iter()),
        Column::right("threads", 7),
        Column::right("1 column: GB/s", 14),
        Column::right("of read", 7),
        Column::right("512 columns: GOP/s", 18),
        Column::right("of int8", 7),
    ]
}

fn row(dtype: DType, exec: &Exec, one: f64, many: f64, limits: Limits, cpu_info: &str) -> Row {
    let (isa, threads) = (exec.cpu().name(), exec.team().threads());
    let (share_read, share_int8) = (one / limits.read, many / limits.int8);
    let record = json!({
        "build_version": env!("CARGO_PKG_VERSION"),
        "cpu_info": cpu_info,
        "type": dtype.name(),
        "cpu_isa": isa,
        "n_threads": threads,
        "gb_s": one / 1e9,
        "gop_s": many / 1e9,
        "limit_read_gb_s": limits.read / 1e9,
        "limit_int8_gop_s": limits.int8 / 1e9,
        "share_read": share_read,
        "share_int8": share_int8,
    });
    let serde_json::Value::Object(record) = record else { unreachable!("it is written as an object") };
    let cells = vec![
        dtype.name().to_owned(),
        isa.to_owned(),
        threads.to_string(),
        format!("{:.1}", one / 1e9),
        percent(share_read),
        format!("{:.0}", many / 1e9),
        percent(share_int8),
    ];
    Row { cells, record }
}
