//! The forward pass and what it needs: weights in the map, KV cache, buffers, a batch of tokens.
//!
//! The only place that runs tensors. It follows a [`ModelSpec`](crate::model::ModelSpec) and knows no architecture by
//! name. A batch may mix tokens of several sequences; a [`Session`] drives one of them.

mod batch;
mod buffers;
mod cpu;
mod devices;
mod forward;
#[cfg(feature = "cuda")]
mod gpu;
mod kv;
mod latent;
mod moe;
mod observer;
#[cfg(feature = "cuda")]
mod offload;
mod ops;
mod session;
mod state;
mod weights;

pub use batch::{BatchToken, SeqId};
pub use kv::KvTypes;
pub use observer::{Inputs, Observer};
#[cfg(feature = "cuda")]
pub use offload::Offload;
pub use session::Session;
pub use weights::Model;

use crate::model;
use crate::placement::{Lane, Placement};
use batch::Run;
use cpu::CpuOps;
use devices::Devices;
use kv::KvCache;
use ostro_kernels::{Cpu, Exec};
use std::ops::Range;

/// How an [`Engine`] is set up.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Positions of a sequence that the cache can hold.
    pub n_ctx: usize,
    /// Tokens computed at once.
    pub n_ubatch: usize,
    /// Sequences that can be held at once.
    pub n_seqs: usize,
    /// Threads, the caller's among them.
    pub threads: usize,
    /// Types of the cache.
    pub kv: KvTypes,
    /// The instruction set.
    pub cpu: Cpu,
}

/// Why a step could not be computed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file's header does not describe a model that can be run.
    #[error(transparent)]
    Model(#[from] model::Error),

    /// The sequence would outgrow the cache.
    #[error("context: {needed} positions needed, {n_ctx} available; give a larger --ctx-size or a shorter prompt")]
    ContextFull {
        /// Positions that the batch needs.
        needed: usize,
        /// Positions that the cache has.
        n_ctx: usize,
    },

    /// A saved cache of another kind than the session's.
    #[error("{0}")]
    StateDiffers(String),

    /// A saved cache that cannot be read.
    #[error(transparent)]
    State(#[from] std::io::Error),

    /// A token that the model has no embedding for.
    #[error("token {token}: found in the input, the model has tokens 0 to {}", n_vocab - 1)]
    Token {
        /// The token.
        token: u32,
        /// Tokens of the model.
        n_vocab: usize,
    },

    /// A card that fails.
    #[error("{0}; -ngl 0 runs on the CPU alone")]
    Gpu(String),

    /// A batch that does not continue its sequences, or names one that does not exist.
    #[error("batch: token {index}: {what}")]
    Batch {
        /// Index in the batch.
        index: usize,
        /// What is wrong.
        what: String,
    },
}

/// A model ready to compute: weights in the map or on a card, threads waiting, cache and buffers in place.
pub struct Engine<'m> {
    model: &'m Model<'m>,
    devices: Devices<'m>,
    /// Positions that each sequence holds.
    lens: Vec<usize>,
    /// The batch at hand, by sequences.
    runs: Vec<Run>,
    /// Indices of its tokens that want logits.
    wanted: Vec<usize>,
    n_ubatch: usize,
    kv: KvTypes,
}

impl<'m> Engine<'m> {
    /// An engine for `model` on the CPU. Cache and buffers are reserved here; their pages are touched as they are used.
    pub fn new(model: &'m Model<'m>, options: &EngineOptions) -> Engine<'m> {
        Engine::placed(model, options, Placement::all(Lane::Cpu, model.spec.layers.len()))
    }

    /// An engine whose card, if the placement uses one, is still to be given.
    fn placed(model: &'m Model<'m>, options: &EngineOptions, placement: Placement) -> Engine<'m> {
        let (n_ctx, n_seqs) = (options.n_ctx, options.n_seqs.max(1));
        let n_ubatch = options.n_ubatch.clamp(1, (n_ctx * n_seqs).max(1));
        let here = |layer: usize| placement.layers[layer].mixer == Lane::Cpu;
        let kv = KvCache::new(&model.spec, n_seqs, n_ctx, options.kv, here);
        let cpu = CpuOps::new(model, Exec::new(options.cpu, options.threads), kv, n_ubatch);
        Engine {
            model,
            devices: Devices {
                cpu,
                gpu: None,
                placement,
                card: String::new(),
                stream_from: usize::MAX,
                streamed: Vec::new(),
            },
            lens: vec![0; n_seqs],
            runs: Vec::with_capacity(n_ubatch),
            wanted: Vec::with_capacity(n_ubatch),
            n_ubatch,
            kv: options.kv,
        }
    }

    /// The model.
    pub fn model(&self) -> &'m Model<'m> {
        self.model
    }

    /// Where its parts are computed.
    pub fn placement(&self) -> &Placement {
        &self.devices.placement
    }

    /// The name of the card that computes a part; empty where there is none.
    pub fn card(&self) -> &str {
        &self.devices.card
    }

    /// What computes on the CPU: an instruction set and threads, for measurements beside the engine's own.
    pub fn exec(&self) -> &Exec {
        &self.devices.cpu.exec
    }

    /// The logits of the last step, `[wanted, n_vocab]`.
    pub fn logits(&self) -> &[f32] {
        self.devices.logits(self.wanted.len() * self.model.spec.n_vocab)
    }

    /// Positions of a sequence that the cache can hold.
    pub fn n_ctx(&self) -> usize {
        self.devices.cpu.kv.n_ctx()
    }

    /// Tokens that one [`Engine::forward`] takes.
    pub fn n_ubatch(&self) -> usize {
        self.n_ubatch
    }

    /// The types of the cache.
    pub fn kv_types(&self) -> KvTypes {
        self.kv
    }

    /// Positions that a sequence holds.
    pub fn seq_len(&self, seq: SeqId) -> usize {
        self.lens[seq.0]
    }

    /// Forgets the positions of a sequence from `len` on.
    pub fn truncate(&mut self, seq: SeqId, len: usize) {
        let held = &mut self.lens[seq.0];
        *held = (*held).min(len);
    }

    /// Forgets the positions `range` of a sequence and moves the later ones down: their keys turn back by as many
    /// positions. What they hold still knows what was forgotten, but for the first layer's, which depends on nothing before.
    ///
    /// # Errors
    /// A card that fails.
    ///
    /// # Panics
    /// When `range` is not within what the sequence holds.
    pub fn remove(&mut self, seq: SeqId, range: Range<usize>) -> Result<(), Error> {
        let held = self.lens[seq.0];
        assert!(range.start <= range.end && range.end <= held, "positions {range:?} of {held}");
        self.devices.remove(seq, range.clone(), held)?;
        self.lens[seq.0] = held - range.len();
        Ok(())
    }
}
