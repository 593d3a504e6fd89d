//! The flags that say what a card does, shared by every command that computes with one, and the engine that follows.

use super::tell;
use crate::engine::{Engine, EngineOptions, Model};
#[cfg(feature = "cuda")]
use crate::placement::{Context, Plan, Sizes};
use crate::placement::{GpuLayers, Lane, Request};
#[cfg(feature = "cuda")]
use anyhow::Context as _;
use clap::Args;
use regex::Regex;

/// What a card does.
#[derive(Args, Debug)]
#[command(next_help_heading = "Offload to a card")]
pub struct OffloadArgs {
    /// Layers on the card (-ngl), from the last on, 1 being the head: a number, all, or auto for what fits
    #[arg(long, visible_alias = "n-gpu-layers", value_name = "N", default_value = "auto", value_parser = gpu_layers, allow_negative_numbers = true)]
    pub gpu_layers: GpuLayers,

    #[command(flatten)]
    pub card: CardArgs,
}

/// What a card does with its layers.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Offload to a card")]
pub struct CardArgs {
    /// Keep the experts of all layers with the CPU (-cmoe)
    #[arg(long)]
    pub cpu_moe: bool,

    /// Keep the experts of the first N layers with the CPU (-ncmoe)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub n_cpu_moe: usize,

    /// Where halves of layers go whose tensors match (-ot): REGEX=CPU or REGEX=CUDA0, several with commas
    #[arg(long, value_name = "REGEX=DEVICE", value_parser = overrides)]
    pub override_tensor: Vec<Overrides>,

    /// Keep the cache, and so attention, with the CPU (-nkvo)
    #[arg(long, hide_short_help = true)]
    pub no_kv_offload: bool,

    /// MiB of the card that stay free (-fitt)
    #[arg(long, value_name = "MIB", default_value_t = 1024, hide_short_help = true)]
    pub fit_target: u64,

    /// From how many tokens on a batch goes through the card for experts that are in memory; 0 never [default: measured at start]
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub offload_min_batch: Option<usize>,
}

/// Where tensors go whose names match.
#[derive(Clone, Debug)]
pub struct Overrides(Vec<(Regex, Lane)>);

pub(super) fn gpu_layers(text: &str) -> Result<GpuLayers, String> {
    match text.to_ascii_lowercase().as_str() {
        "auto" | "-1" => Ok(GpuLayers::Auto),
        "all" | "-2" => Ok(GpuLayers::All),
        n => n.parse().map(GpuLayers::Count).map_err(|_| "expected a number, all or auto".to_owned()),
    }
}

fn overrides(text: &str) -> Result<Overrides, String> {
    let one = |part: &str| {
        let (regex, device) = part.rsplit_once('=').ok_or_else(|| format!("found {part:?}, expected REGEX=DEVICE"))?;
        let lane = match device.to_ascii_lowercase().as_str() {
            "cpu" => Lane::Cpu,
            "cuda0" | "gpu0" | "gpu" => Lane::Gpu,
            _ => return Err(format!("device {device:?}, expected CPU or CUDA0")),
        };
        Regex::new(regex).map(|regex| (regex, lane)).map_err(|e| format!("regular expression {regex:?}: {e}"))
    };
    text.split(',').map(one).collect::<Result<_, _>>().map(Overrides)
}

impl OffloadArgs {
    /// What the planner is asked.
    pub fn request(&self) -> Request {
        Request {
            gpu_layers: self.gpu_layers,
            cpu_moe: self.card.cpu_moe,
            n_cpu_moe: self.card.n_cpu_moe,
            overrides: self.card.override_tensor.iter().flat_map(|o| o.0.iter().cloned()).collect(),
            no_kv_offload: self.card.no_kv_offload,
            margin: self.card.fit_target << 20,
        }
    }

    /// Whether nothing may go to a card.
    fn is_off(&self) -> bool {
        self.gpu_layers == GpuLayers::Count(0) && self.card.override_tensor.is_empty()
    }

    /// Whether the user has spoken of a card.
    #[cfg(feature = "cuda")]
    fn is_asked(&self) -> bool {
        let experts = self.card.cpu_moe || self.card.n_cpu_moe > 0 || self.card.offload_min_batch.is_some();
        self.gpu_layers != GpuLayers::Auto
            || !self.card.override_tensor.is_empty()
            || experts
            || self.card.no_kv_offload
    }

    /// An engine for `model`, with what a card can do on the card, if there is one.
    ///
    /// # Errors
    /// A card that fails after it was found to be right.
    pub fn engine<'m>(
        &self,
        model: &'m Model<'m>,
        options: &EngineOptions,
        verbose: bool,
    ) -> anyhow::Result<Engine<'m>> {
        if self.is_off() {
            return Ok(Engine::new(model, options));
        }
        #[cfg(feature = "cuda")]
        if let Some(engine) = self.offloaded(model, options, verbose)? {
            return Ok(engine);
        }
        #[cfg(not(feature = "cuda"))]
        if verbose {
            tell("this build cannot use a card");
        }
        Ok(Engine::new(model, options))
    }

    #[cfg(feature = "cuda")]
    fn offloaded<'m>(
        &self,
        model: &'m Model<'m>,
        options: &EngineOptions,
        verbose: bool,
    ) -> anyhow::Result<Option<Engine<'m>>> {
        use ostro_kernels::cuda::{Gpu, NoGpu};
        let opened = while_waiting(COMPILING, || Gpu::open().map(|gpu| (quick_check(&gpu, model), gpu)));
        let (checked, gpu) = match opened {
            Ok(opened) => opened,
            Err(why) => {
                // Most machines have none, and whoever did not speak of it knows.
                if !matches!(why, NoGpu::NoDriver) || self.is_asked() || verbose {
                    tell(format_args!("note: {why}: the CPU computes everything"));
                }
                return Ok(None);
            }
        };
        let name = &gpu.info().name;
        let wrong = match checked {
            Ok(None) => None,
            Ok(Some(wrong)) => Some(format!("{name} gives wrong results ({wrong})")),
            Err(e) => Some(format!("{name} fails ({e})")),
        };
        if let Some(wrong) = wrong {
            tell(format_args!("warning: {wrong}: the CPU computes everything; `ostro cuda-selftest` shows more"));
            return Ok(None);
        }
        let free = gpu.free_memory().with_context(|| gpu.info().name.clone())?;
        let plan = self.plan(model, options, free);
        if verbose {
            tell(format_args!("{}: {:.1} GiB free; {}", gpu.info().name, gib(free), summary(&plan)));
        }
        for note in plan.notes.iter().filter(|_| self.is_asked()) {
            tell(format_args!("note: {note}"));
        }
        if !plan.placement.uses(Lane::Gpu) {
            if self.is_asked() || verbose {
                tell(format_args!("note: {} has no room for any part: the CPU computes everything", gpu.info().name));
            }
            return Ok(None);
        }
        let bar = super::progress::upload_bar(plan.gpu.weights);
        let offload = crate::engine::Offload {
            gpu: std::rc::Rc::new(gpu),
            placement: plan.placement.clone(),
            // Without room for the slots nothing is streamed.
            stream_from: match self.card.offload_min_batch {
                Some(n) if n > 0 => Some(n),
                None if plan.gpu.slots > 0 => None,
                _ => Some(usize::MAX),
            },
            progress: &mut |bytes| bar.inc(bytes),
            note: &mut |note| bar.suspend(|| tell(format_args!("note: {note}"))),
        };
        let engine = Engine::offloaded(model, options, offload)?;
        bar.finish_and_clear();
        if let Some(from) = engine.streams_from().filter(|_| verbose) {
            tell(format_args!("batches of {from} tokens or more go through the card for experts that are in memory"));
        }
        Ok(Some(engine))
    }

    #[cfg(feature = "cuda")]
    fn plan(&self, model: &Model, options: &EngineOptions, free: u64) -> Plan {
        let machine = super::plan::Assumed::default().machine(Some(free));
        let context = context(options);
        let sizes = Sizes::new(&model.spec, &model.manifest, &model.account.by_binding, &context);
        crate::placement::plan(&sizes, context.n_ctx, &machine, &self.request())
    }
}

/// What takes so long when a card is opened for the first time.
#[cfg(feature = "cuda")]
const COMPILING: &str = "the card's driver compiles the kernels; it keeps them for the next start";

/// Does `work`, and tells what is waited for when it takes more than a few seconds.
#[cfg(feature = "cuda")]
fn while_waiting<T>(for_what: &str, work: impl FnOnce() -> T) -> T {
    use std::sync::mpsc::{RecvTimeoutError, channel};
    let (working, ended) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if ended.recv_timeout(std::time::Duration::from_secs(3)) == Err(RecvTimeoutError::Timeout) {
                tell(for_what);
            }
        });
        let result = work();
        drop(working);
        result
    })
}

/// What the planner needs of the options.
#[cfg(feature = "cuda")]
fn context(options: &EngineOptions) -> Context {
    let n_ctx = options.n_ctx * options.n_seqs;
    Context { n_ctx, n_ubatch: options.n_ubatch.min(n_ctx.max(1)), k: options.kv.k, v: options.kv.v }
}

pub(super) fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

/// What goes to the card, in a line.
#[cfg(feature = "cuda")]
fn summary(plan: &Plan) -> String {
    let count =
        |of: fn(&crate::placement::Lanes) -> Lane| plan.placement.layers.iter().filter(|l| of(l) == Lane::Gpu).count();
    format!(
        "attention of {} and the feed-forward part of {} of {} layers on the card, {:.1} GiB",
        count(|l| l.mixer),
        count(|l| l.ffn),
        plan.placement.layers.len(),
        gib(plan.gpu.bytes())
    )
}

/// A few milliseconds of every kernel that the model needs: what is wrong, if anything.
#[cfg(feature = "cuda")]
fn quick_check(
    gpu: &ostro_kernels::cuda::Gpu,
    model: &Model,
) -> Result<Option<String>, ostro_kernels::cuda::CudaError> {
    use ostro_kernels::cuda::selftest::{Extent, selftest};
    let mut wrong = None;
    selftest(gpu, Extent::Quick, &model.dtypes(), &mut |check| {
        if !check.passed() && wrong.is_none() {
            wrong = Some(format!("{}: off by {:.1e}", check.name, check.error));
        }
    })?;
    Ok(wrong)
}
