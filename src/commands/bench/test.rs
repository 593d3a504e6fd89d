//! One test: what is timed, and what the machine could do while it was.
//!
//! As llama-bench does it: a prompt is given in batches, each of which ends with logits; generating gives one token at a
//! time and takes its logits. Tokens are random, the same in every run. What fills the cache before a test with depth is
//! computed once and kept: every repetition begins with the cache cut back to it.

use super::sweep::Case;
use crate::commands::interrupted;
use crate::commands::offload_args::{CardArgs, OffloadArgs};
use crate::engine::{EngineOptions, Error, Model, SeqId, Session};
use crate::placement::Lane;
use ostro_kernels::synthetic::Random;
use ostro_kernels::{Cpu, Exec, ReadProbe};
use std::time::{Instant, SystemTime};

/// What the machine can do at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes a second that the threads read.
    pub read: f64,
    /// Multiplications and additions of bytes a second.
    pub int8: f64,
}

impl Limits {
    /// Measures both.
    pub fn probe(probe: &ReadProbe, exec: &Exec) -> Limits {
        Limits { read: probe.measure(exec), int8: exec.probe_int8() }
    }

    /// The better of two: the machine was held up by others in the worse.
    pub fn or(self, other: Limits) -> Limits {
        Limits { read: self.read.max(other.read), int8: self.int8.max(other.int8) }
    }
}

/// How tests are made.
pub(super) struct Bench<'a> {
    /// The instruction set.
    pub cpu: Cpu,
    /// Kept, as its memory takes long to fill.
    pub probe: &'a ReadProbe,
    /// How often a test is timed.
    pub repetitions: usize,
    /// Once without timing before.
    pub warmup: bool,
    /// Is told what goes on.
    pub progress: &'a dyn Fn(&str),
    /// What a card does.
    pub card: &'a CardArgs,
}

/// What came out of a test.
pub(super) struct Measured {
    /// When it began.
    pub at: SystemTime,
    /// Of each repetition; fewer than were asked for after an interruption.
    pub nanoseconds: Vec<u64>,
    /// Measured around it.
    pub limits: Limits,
    /// Layers of which a half or both are computed by a card, and its name.
    pub card: (usize, String),
}

impl Bench<'_> {
    /// Measures one test; `None` when it was interrupted before there was anything to tell.
    ///
    /// # Errors
    /// What [`Session::feed`] refuses: nothing, for a model and a context that exist.
    pub fn measure<'m>(&self, model: &'m Model<'m>, case: &Case) -> anyhow::Result<Option<Measured>> {
        let at = SystemTime::now();
        let options = EngineOptions {
            n_ctx: case.context(),
            n_ubatch: case.n_ubatch,
            n_seqs: 1,
            threads: case.threads,
            kv: case.kv,
            cpu: self.cpu,
        };
        let mut random = Random::new(1);
        let n_vocab = model.spec.n_vocab as u64;
        let tokens: Vec<u32> = (0..case.context()).map(|_| (random.next() % n_vocab) as u32).collect();
        let (before, timed) = tokens.split_at(case.depth);
        let (prompt, generated) = timed.split_at(case.prompt);
        let offload = OffloadArgs { gpu_layers: case.gpu_layers, card: self.card.clone() };
        let mut engine = offload.engine(model, &options, false)?;
        let on_card = |l: &&crate::placement::Lanes| l.mixer == Lane::Gpu || l.ffn == Lane::Gpu;
        let card = (engine.placement().layers.iter().filter(on_card).count(), engine.card().to_owned());
        let mut session = Session::new(&mut engine, SeqId(0));
        let mut feed = Feed { session: &mut session, n_batch: case.n_batch };

        if self.warmup {
            (self.progress)("warm-up");
            // The whole run, where llama-bench generates one token: others may go to experts that nobody has read yet.
            let done = feed.prompt(prompt)? && feed.one_by_one(generated)?;
            feed.session.truncate(0);
            if !done {
                return Ok(None);
            }
        }
        if !before.is_empty() {
            (self.progress)("filling the cache");
            if !feed.prompt(before)? {
                return Ok(None);
            }
        }
        let limits = Limits::probe(self.probe, feed.session.engine().exec());
        let mut nanoseconds = Vec::with_capacity(self.repetitions);
        for i in 0..self.repetitions {
            (self.progress)(&format!("run {}/{}", i + 1, self.repetitions));
            feed.session.truncate(case.depth);
            let start = Instant::now();
            if !(feed.prompt(prompt)? && feed.one_by_one(generated)?) {
                break;
            }
            nanoseconds.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1));
        }
        if nanoseconds.is_empty() {
            return Ok(None);
        }
        let limits = limits.or(Limits::probe(self.probe, feed.session.engine().exec()));
        Ok(Some(Measured { at, nanoseconds, limits, card }))
    }
}

/// Gives tokens to a session. Both ways tell whether they came to the end.
struct Feed<'s, 'e, 'm> {
    session: &'s mut Session<'e, 'm>,
    n_batch: usize,
}

impl Feed<'_, '_, '_> {
    fn prompt(&mut self, tokens: &[u32]) -> Result<bool, Error> {
        for batch in tokens.chunks(self.n_batch) {
            if self.session.feed(batch, |_| !interrupted())?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn one_by_one(&mut self, tokens: &[u32]) -> Result<bool, Error> {
        for token in tokens.chunks(1) {
            if self.session.feed(token, |_| !interrupted())?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
