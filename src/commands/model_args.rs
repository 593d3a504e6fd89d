//! The flags that say how a model is loaded and computed, shared by every command that computes.

use super::offload_args::OffloadArgs;
use super::tell;
use crate::engine::{Engine, EngineOptions, KvTypes, Model};
use crate::gguf::{Gguf, OpenOptions};
use anyhow::{Context, bail};
use clap::Args;
use ostro_kernels::{Cpu, KvType};
use std::num::NonZeroUsize;
use std::path::Path;

/// How a model is loaded and computed.
#[derive(Args, Debug)]
#[command(next_help_heading = "Computing")]
pub struct ModelArgs {
    /// Threads; -1 takes the physical cores
    #[arg(short = 't', long, value_name = "N", default_value_t = -1, value_parser = threads, allow_negative_numbers = true)]
    threads: i64,

    /// Context in tokens; 0 takes the model's
    #[arg(short = 'c', long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    ctx_size: usize,

    /// Tokens of the prompt taken in one batch
    #[arg(short = 'b', long, value_name = "N", default_value = "2048", allow_negative_numbers = true)]
    batch_size: NonZeroUsize,

    /// Tokens computed at once (-ub)
    #[arg(long, value_name = "N", default_value = "512", allow_negative_numbers = true)]
    ubatch_size: NonZeroUsize,

    /// Type of the cached keys (-ctk): f32, f16, q8_0
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = kv_type)]
    cache_type_k: KvType,

    /// Type of the cached values (-ctv): f32, f16, q8_0
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = kv_type)]
    cache_type_v: KvType,

    /// Read the file into memory instead of mapping it
    #[arg(long)]
    no_mmap: bool,

    /// Keep the weights in memory
    #[arg(long)]
    mlock: bool,

    /// Tell what is loaded and how
    #[arg(short = 'v', long)]
    pub verbose: bool,
}

/// How a model is loaded and computed, where a card may help.
#[derive(Args, Debug)]
pub struct CardModelArgs {
    #[command(flatten)]
    model: ModelArgs,

    #[command(flatten)]
    offload: OffloadArgs,
}

impl std::ops::Deref for CardModelArgs {
    type Target = ModelArgs;

    fn deref(&self) -> &ModelArgs {
        &self.model
    }
}

impl CardModelArgs {
    /// An engine for `model`, with what a card can do on the card, if there is one.
    ///
    /// # Errors
    /// A card that fails.
    pub fn engine<'m>(&self, model: &'m Model<'m>, options: &EngineOptions) -> anyhow::Result<Engine<'m>> {
        self.offload.engine(model, options, self.verbose)
    }
}

/// The type of a cache by its name.
pub(super) fn kv_type(text: &str) -> Result<KvType, String> {
    match text.to_ascii_lowercase().as_str() {
        "f32" => Ok(KvType::F32),
        "f16" => Ok(KvType::F16),
        "q8_0" => Ok(KvType::Q8_0),
        _ => Err("expected f32, f16 or q8_0".into()),
    }
}

fn threads(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(n) if n == -1 || (1..=1024).contains(&n) => Ok(n),
        _ => Err("expected 1 to 1024, or -1 for the physical cores".into()),
    }
}

impl ModelArgs {
    /// Opens a file or a split set, and tells what its user should know.
    pub fn open(&self, path: &Path) -> anyhow::Result<Gguf> {
        let gguf = open(path, &OpenOptions { mmap: !self.no_mmap, mlock: self.mlock })?;
        if self.verbose {
            tell(format_args!("{}: {:.2} GB", path.display(), bytes(&gguf) as f64 / 1e9));
        }
        Ok(gguf)
    }

    /// How the engine is set up for a sequence of at most `most` tokens. Without --ctx-size the context is
    /// `recommended`, else the model's, but no more than memory can hold.
    ///
    /// # Errors
    /// A context that memory cannot hold, and an instruction set that this machine does not have.
    pub fn engine_options(
        &self,
        model: &Model,
        most: usize,
        recommended: Option<usize>,
    ) -> anyhow::Result<EngineOptions> {
        let spec = &model.spec;
        let kv = KvTypes { k: self.cache_type_k, v: self.cache_type_v };
        let per_token = kv.bytes_per_token(spec);
        let fits = |n_ctx: usize| fits_in_memory(per_token, n_ctx);
        let n_ctx = match self.ctx_size {
            0 => {
                let wanted = most.min(recommended.unwrap_or(spec.context).min(spec.context));
                let n_ctx = std::iter::successors(Some(wanted), |n| Some(n / 2)).find(|&n| fits(n)).unwrap_or(0);
                if n_ctx < wanted {
                    tell(format_args!(
                        "note: the context is {n_ctx} tokens, as a cache of {wanted} does not fit in memory; --ctx-size sets it"
                    ));
                }
                n_ctx
            }
            n if fits(n) => n,
            n => bail!(
                "--ctx-size: found {n}, expected a cache that fits in memory, at {per_token} bytes a token; give a smaller one"
            ),
        };
        if n_ctx > spec.context {
            tell(format_args!(
                "warning: --ctx-size {n_ctx}: the model was trained for {} tokens; beyond them it may lose the thread",
                spec.context
            ));
        }
        let options = EngineOptions {
            n_ctx,
            n_ubatch: self.ubatch_size.min(self.batch_size).get(),
            n_seqs: 1,
            threads: usize::try_from(self.threads).unwrap_or_else(|_| physical_cores()),
            kv,
            cpu: cpu()?,
        };
        if self.verbose {
            tell(format_args!("{}: {}, {} layers, width {}", spec.name, spec.arch, spec.layers.len(), spec.dim));
            tell(format_args!(
                "context {n_ctx} of {}, cache {} bytes a token, {:.1} MB when full",
                spec.context,
                per_token,
                (per_token * n_ctx) as f64 / 1e6
            ));
            tell(format_args!("{} threads, instruction set {}", options.threads, options.cpu.name()));
        }
        Ok(options)
    }
}

/// Opens a file or a split set, and tells what its user should know.
pub(super) fn open(path: &Path, options: &OpenOptions) -> anyhow::Result<Gguf> {
    let gguf = Gguf::open_with(path, options)?;
    for warning in gguf.warnings() {
        tell(format_args!("warning: {warning}"));
    }
    let bytes = bytes(&gguf);
    if let Some(memory) = memory().filter(|&memory| bytes > memory) {
        tell(format_args!(
            "note: {:.1} GB of weights are more than the {:.1} GB of memory: they are read from the disk again and again, which takes long",
            bytes as f64 / 1e9,
            memory as f64 / 1e9
        ));
    }
    Ok(gguf)
}

fn bytes(gguf: &Gguf) -> u64 {
    gguf.files().map(|(_, bytes)| bytes).sum()
}

/// Whether a cache of `n_ctx` positions can be had. The system refuses what is more than all its memory; the engine
/// would find no way to go on.
pub(super) fn fits_in_memory(per_token: usize, n_ctx: usize) -> bool {
    per_token.checked_mul(n_ctx).is_some_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok())
}

/// The best instruction set of this machine, or the one that `OSTRO_CPU` names.
pub(super) fn cpu() -> anyhow::Result<Cpu> {
    let Some(name) = std::env::var_os("OSTRO_CPU").filter(|name| !name.is_empty()) else { return Ok(Cpu::detect()) };
    let name = name.to_string_lossy();
    Cpu::by_name(&name).with_context(|| {
        let here: Vec<_> = Cpu::all().into_iter().map(Cpu::name).collect();
        format!("OSTRO_CPU: found {name:?}, expected one of {}; unset it for the best of them", here.join(", "))
    })
}

/// Bytes of this machine's memory, where the system tells (Linux).
pub(super) fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Cores, as hyper-threads share the units that the kernels use; no more than the process may run on.
pub(super) fn physical_cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    num_cpus::get_physical().clamp(1, allowed)
}
