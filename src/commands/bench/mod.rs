//! `ostro bench`: how fast models and kernels are here, and how much of what the machine can do that is.
//!
//! In the manner of llama-bench, with its flags, tests, tables and field names. Beside them stand two limits that are
//! measured on the same threads around each test: generating ends at reading memory, a prompt at multiplying bytes.
//! Operations are those with weights, as counted by [`Macs`](crate::model::Macs): attention scores are not among them.

mod kernels;
mod list;
mod machine;
mod report;
mod rows;
mod subject;
mod sweep;
mod test;

use super::model_args::{cpu, fits_in_memory, open};
use super::offload_args::CardArgs;
use super::{catch_interrupts, interrupted, resolve, tell, tell_notes};
use crate::engine::Model;
use crate::gguf::{Gguf, OpenOptions};
use crate::placement::GpuLayers;
use anyhow::{Context, bail};
use clap::Args;
use list::{List, all};
use ostro_kernels::{Cpu, DType, KvType, ReadProbe};
use report::{Output, Report};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use subject::Subject;
use sweep::Case;
use test::{Bench, Limits};

/// Flags of `ostro bench`.
#[derive(Args, Debug)]
#[command(
    after_help = "Numbers and types take lists (128,512) and may be repeated; numbers take the ranges first-last, first-last+step and first-last*mult. All combinations are measured."
)]
pub struct BenchArgs {
    /// GGUF files, first parts of split sets, or aliases of the catalogue
    #[arg(value_name = "MODEL", required_unless_present_any = ["model", "kernels"])]
    positional: Vec<String>,

    /// The same, in llama.cpp's way; several with commas
    #[arg(short = 'm', long, value_name = "MODEL", value_parser = list::models)]
    model: Vec<List<String>>,

    /// Tokens of a prompt; 0 for no such test
    #[arg(short = 'p', long, value_name = "N", default_value = "512", value_parser = list::counts, allow_negative_numbers = true)]
    n_prompt: Vec<List<usize>>,

    /// Tokens to generate; 0 for no such test
    #[arg(short = 'n', long, value_name = "N", default_value = "128", value_parser = list::counts, allow_negative_numbers = true)]
    n_gen: Vec<List<usize>>,

    /// A prompt and what is generated after it, timed together (-pg)
    #[arg(long, value_name = "PP,TG", value_parser = list::pair)]
    prompt_gen: Vec<(usize, usize)>,

    /// Tokens that the cache holds before a test
    #[arg(short = 'd', long, value_name = "N", default_value = "0", value_parser = list::counts, allow_negative_numbers = true)]
    n_depth: Vec<List<usize>>,

    /// Tokens of the prompt taken in one batch
    #[arg(short = 'b', long, value_name = "N", default_value = "2048", value_parser = list::sizes, allow_negative_numbers = true)]
    batch_size: Vec<List<usize>>,

    /// Tokens computed at once (-ub)
    #[arg(long, value_name = "N", default_value = "512", value_parser = list::sizes, allow_negative_numbers = true)]
    ubatch_size: Vec<List<usize>>,

    /// Type of the cached keys (-ctk): f32, f16, q8_0
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = list::kv_types)]
    cache_type_k: Vec<List<KvType>>,

    /// Type of the cached values (-ctv): f32, f16, q8_0
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = list::kv_types)]
    cache_type_v: Vec<List<KvType>>,

    /// Threads; -1 takes the physical cores
    #[arg(short = 't', long, value_name = "N", default_value = "-1", value_parser = list::threads, allow_negative_numbers = true)]
    threads: Vec<List<usize>>,

    /// How often each test is timed
    #[arg(short = 'r', long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000), allow_negative_numbers = true)]
    repetitions: u32,

    /// Format of standard output
    #[arg(short = 'o', long, value_name = "FORMAT", value_enum, default_value_t = Output::Md)]
    output: Output,

    /// Time the first run too, while the weights may still have to be read from the disk
    #[arg(long)]
    no_warmup: bool,

    /// Seconds to wait between two tests
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=86_400), allow_negative_numbers = true)]
    delay: u64,

    /// Tell on standard error what goes on
    #[arg(long)]
    progress: bool,

    /// Measure matrix products of every type on every instruction set, without a model
    #[arg(long, conflicts_with_all = [
        "positional", "model", "n_prompt", "n_gen", "prompt_gen", "n_depth", "batch_size", "ubatch_size", "cache_type_k",
        "cache_type_v", "repetitions", "no_warmup", "delay", "progress",
    ])]
    kernels: bool,

    /// With --kernels: types of weights, such as Q4_K,Q8_0 [default: all]
    #[arg(long, value_name = "TYPE", requires = "kernels", conflicts_with_all = ["positional", "model"], value_parser = list::dtypes)]
    types: Vec<List<DType>>,

    /// With --kernels: instruction sets, such as avx2,avx512 [default: all of this machine]
    #[arg(long, value_name = "SET", requires = "kernels", conflicts_with_all = ["positional", "model"], value_parser = list::cpus)]
    isa: Vec<List<Cpu>>,

    /// Layers on the card (-ngl), from the last on, 1 being the head: numbers, all, or auto for what fits
    #[arg(long, visible_alias = "n-gpu-layers", value_name = "N", default_value = "auto", value_parser = list::gpu_layers, allow_negative_numbers = true, help_heading = "Offload to a card")]
    gpu_layers: Vec<List<GpuLayers>>,

    #[command(flatten)]
    card: CardArgs,
}

/// Measures, and prints a row after each test.
///
/// # Errors
/// A model that cannot be run, a cache that does not fit in memory, no test at all; a closed pipe as its I/O error.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    if args.kernels { kernels::run(args) } else { models(args) }
}

fn models(args: &BenchArgs) -> anyhow::Result<()> {
    let names: Vec<_> = args.positional.iter().cloned().chain(all(&args.model)).collect();
    let cases = sweep::cases(args, names.len())
        .context("sweep: found more than 100000 tests, expected fewer; give shorter lists")?;
    if cases.is_empty() {
        bail!("tests: found none, expected at least one; give -p, -n or -pg a number above 0");
    }
    let cpu = cpu()?;
    let files: Vec<_> = names.iter().map(|name| file(name)).collect::<anyhow::Result<_>>()?;
    let mut subjects = Vec::new();
    for (i, gguf) in files.iter().enumerate() {
        let model = Model::load(gguf)?;
        tell_notes(model.warnings.iter());
        check_contexts(gguf.path(), &model, cases.iter().filter(|case| case.model == i))?;
        subjects.push(Subject::new(gguf, model));
    }
    catch_interrupts()?;

    let table = rows::Table::new(&cases);
    let mut report = Report::new(args.output, table.columns(&subjects, &cases));
    // By threads: the best that was seen.
    let mut limits = BTreeMap::new();
    let (probe, cpu_info) = (ReadProbe::new(), machine::cpu_info());
    let mut measure = |i: usize, case: &Case| -> anyhow::Result<()> {
        let progress = |what: &str| {
            if args.progress {
                tell(format_args!("test {}/{}, {}: {what}", i + 1, cases.len(), case.name()));
            }
        };
        let bench = Bench {
            card: &args.card,
            cpu,
            probe: &probe,
            repetitions: args.repetitions as usize,
            warmup: !args.no_warmup,
            progress: &progress,
        };
        let subject = &subjects[case.model];
        let Some(measured) = bench.measure(&subject.model, case)? else { return Ok(()) };
        let best = limits.entry(case.threads).or_insert(measured.limits);
        *best = best.or(measured.limits);
        report.row(&table.row(subject, case, &measured, cpu, &cpu_info))?;
        if measured.nanoseconds.len() < bench.repetitions {
            let (done, all) = (measured.nanoseconds.len(), bench.repetitions);
            tell(format_args!("interrupted: {} was timed {done} times of {all}", case.name()));
        }
        Ok(())
    };
    let mut done = Ok(());
    for (i, case) in cases.iter().enumerate() {
        if i > 0 {
            wait(Duration::from_secs(args.delay));
        }
        if done.is_err() || interrupted() {
            break;
        }
        done = measure(i, case);
    }
    let notes: Vec<_> = limits.iter().map(|(&threads, &limits)| note(limits, cpu, threads)).collect();
    done.and(report.finish(&notes))
}

fn file(name: &str) -> anyhow::Result<Gguf> {
    open(&resolve::model(Some(name))?.path, &OpenOptions { mmap: true, mlock: false })
}

/// Before anything is measured: every cache must fit, and what is longer than the model's context is told once.
fn check_contexts<'c>(path: &Path, model: &Model, cases: impl Iterator<Item = &'c Case>) -> anyhow::Result<()> {
    let mut most = 0;
    for case in cases {
        let (n, per_token) = (case.context(), case.kv.bytes_per_token(&model.spec));
        if !fits_in_memory(per_token, n) {
            bail!(
                "{}: {}: found a context of {n} tokens, expected a cache that fits in memory, at {per_token} bytes a token; give fewer",
                path.display(),
                case.name()
            );
        }
        most = most.max(n);
    }
    if most > model.spec.context {
        tell(format_args!(
            "warning: {}: a test has {most} tokens, the model was trained for {}; beyond them only its speed means something",
            path.display(),
            model.spec.context
        ));
    }
    Ok(())
}

/// Waits, unless it is interrupted.
fn wait(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time && !interrupted() {
        std::thread::sleep(Duration::from_millis(50).min(time.saturating_sub(start.elapsed())));
    }
}

/// What the machine can do, for below a table.
fn note(limits: Limits, cpu: Cpu, threads: usize) -> String {
    format!(
        "limits of this machine: {:.1} GB/s read, {:.0} GOP/s int8 ({}, {threads} {})",
        limits.read / 1e9,
        limits.int8 / 1e9,
        cpu.name(),
        if threads == 1 { "thread" } else { "threads" }
    )
}
