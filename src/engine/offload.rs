//! An engine that shares its work with a card.

use super::gpu::{GpuOps, Share, refuses};
use super::{Engine, EngineOptions, Error, Model};
use crate::model::{Ffn, Part};
use crate::placement::{Lane, Placement, ranges};
use ostro_kernels::cuda::Gpu;
use ostro_kernels::{ActKinds, Acts, Exec, Product};
use std::rc::Rc;
use std::time::Instant;

/// What a card is to do.
pub struct Offload<'a> {
    /// The card.
    pub gpu: Rc<Gpu>,
    /// Where each part is to be computed.
    pub placement: Placement,
    /// Batches of so many tokens or more go through the card for experts that are in memory; `None`: what a measurement at
    /// start finds, `usize::MAX`: never.
    pub stream_from: Option<usize>,
    /// Is told of bytes that were copied to the card.
    pub progress: &'a mut dyn FnMut(u64),
    /// Is told what the user should know, a sentence each.
    pub note: &'a mut dyn FnMut(String),
}

impl<'m> Engine<'m> {
    /// An engine for `model` on the CPU and a card. What the card cannot compute or has no room for stays with the CPU, and
    /// is told.
    ///
    /// # Errors
    /// A card that fails.
    pub fn offloaded(model: &'m Model<'m>, options: &EngineOptions, offload: Offload<'_>) -> Result<Engine<'m>, Error> {
        let Offload { gpu, mut placement, stream_from, progress, note } = offload;
        keep_what_is_refused(&gpu, model, &mut placement, note);
        let wanted = placement.clone();
        let n_seqs = options.n_seqs.max(1);
        let n_ubatch = options.n_ubatch.clamp(1, (options.n_ctx * n_seqs).max(1));
        let stream = stream_from != Some(usize::MAX) && n_ubatch > 1;
        let mut share = Share { placement, n_ctx: options.n_ctx, n_ubatch, n_seqs, kv: options.kv, stream };
        let made = if wanted.uses(Lane::Gpu) { Some(GpuOps::new(&gpu, model, &mut share, progress)) } else { None };
        let mut card = match made {
            Some(Ok(card)) => Some(card),
            Some(Err(e)) if e.is_out_of_memory() => {
                share.placement = Placement::all(Lane::Cpu, model.spec.layers.len());
                None
            }
            Some(Err(e)) => return Err(e.into()),
            None => None,
        };
        tell_moved(&wanted, &share.placement, note);
        let mut engine = Engine::placed(model, options, share.placement);
        if let Some(card) = &mut card {
            engine.devices.streamed = card.streamed_layers().to_vec();
            if !engine.devices.streamed.is_empty() {
                engine.devices.stream_from = match stream_from {
                    Some(from) => from,
                    None => break_even(engine.exec(), model, engine.devices.streamed[0], card.seconds_a_byte()?),
                };
            }
        }
        if card.is_some() {
            engine.devices.card = gpu.info().name.clone();
        }
        engine.devices.gpu = card.map(|card| Box::new(card) as _);
        Ok(engine)
    }

    /// From how many tokens on a batch goes through the card for experts that are in memory, if ever.
    pub fn streams_from(&self) -> Option<usize> {
        Some(self.devices.stream_from).filter(|_| !self.devices.streamed.is_empty())
    }
}

/// Moves to the CPU what has no kernel on a card.
fn keep_what_is_refused(gpu: &Gpu, model: &Model<'_>, placement: &mut Placement, note: &mut dyn FnMut(String)) {
    let mut why = Vec::new();
    let mut check = |lane: &mut Lane, at, half| {
        if *lane == Lane::Gpu
            && let Some(reason) = refuses(gpu, model, at, half)
        {
            *lane = Lane::Cpu;
            if !why.contains(&reason) {
                why.push(reason);
            }
        }
    };
    for (index, lanes) in placement.layers.iter_mut().enumerate() {
        check(&mut lanes.mixer, Some(index), Part::is_mixer);
        check(&mut lanes.ffn, Some(index), |part| !part.is_mixer());
    }
    let head = if model.spec.tied_head { |part| part == Part::Embed } else { |part| part == Part::Head };
    check(&mut placement.head, None, head);
    for reason in why {
        note(format!("the CPU computes what the card cannot: {reason}"));
    }
}

/// Tells which halves found no room.
fn tell_moved(wanted: &Placement, got: &Placement, note: &mut dyn FnMut(String)) {
    let moved = |of: fn(&crate::placement::Lanes) -> Lane| -> Vec<usize> {
        let both = wanted.layers.iter().zip(&got.layers).enumerate();
        both.filter(|(_, (wanted, got))| of(wanted) != of(got)).map(|(i, _)| i).collect()
    };
    let mut parts = Vec::new();
    for (name, layers) in [("attention", moved(|l| l.mixer)), ("the feed-forward part", moved(|l| l.ffn))] {
        if !layers.is_empty() {
            parts.push(format!("{name} of layers {}", ranges(&layers)));
        }
    }
    if wanted.head != got.head {
        parts.push("the head".to_owned());
    }
    if !parts.is_empty() {
        note(format!("the card has no room for {}: the CPU computes it", parts.join(", ")));
    }
}

/// Columns of the product that is timed.
const TIMED: usize = 32;

/// From how many tokens on copying a layer's experts to the card takes less time than computing them here.
fn break_even(exec: &Exec, model: &Model<'_>, layer: usize, seconds_a_byte: f64) -> usize {
    let parts = model.parts(Some(layer));
    let Ffn::Moe(m) = &model.spec.layers[layer].ffn else { return usize::MAX };
    let tables = [Part::GateExps, Part::UpExps, Part::DownExps].map(|part| parts.experts(part));
    let bytes: usize = tables.iter().flat_map(|t| t.iter()).map(|m| m.data().len()).sum();
    let w = tables[0][0];
    let (mut acts, mut out) = (Acts::new(), vec![0.0; TIMED * w.rows()]);
    exec.quantize(&mut acts, &vec![0.5; TIMED * w.cols()], TIMED, w.cols(), ActKinds::of(w.dtype()));
    let mut product = || exec.matmul(&acts, &mut [Product { w, out: &mut out }]);
    product(); // brings the weights to memory
    let start = Instant::now();
    product();
    let a_token = start.elapsed().as_secs_f64() / TIMED as f64 * (tables.len() * m.n_active) as f64;
    ((bytes as f64 * seconds_a_byte / a_token).ceil() as usize).max(1)
}
