//! Where each part of a model is computed: which halves of which layers on the card, which on the CPU.
//!
//! Pure: numbers in, a plan out. The half of a layer is the unit, since of a mixture of experts all but the experts is small and
//! is read for every token.

mod advice;
mod plan;
mod request;
mod sizes;

pub use advice::advise;
pub use plan::{Binds, Held, Longest, Machine, Plan, plan};
pub use request::{GpuLayers, Request};
pub use sizes::{Context, Size, Sizes, latent_heads, latent_rows};

/// A device that computes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// The CPU, with the weights in the file's map.
    Cpu,
    /// The card.
    Gpu,
}

/// Where the two halves of a layer are computed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Lanes {
    /// Attention with its norms and its cache.
    pub mixer: Lane,
    /// The feed-forward part with its norm, and its router where it has one.
    pub ffn: Lane,
}

/// Where each part of a model is computed. The embedding is looked up by the CPU, or by the card where that has it as the head.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Placement {
    /// One a layer.
    pub layers: Vec<Lanes>,
    /// The last norm and the head.
    pub head: Lane,
}

impl Placement {
    /// All on one device.
    pub fn all(lane: Lane, n_layers: usize) -> Placement {
        Placement { layers: vec![Lanes { mixer: lane, ffn: lane }; n_layers], head: lane }
    }

    /// Whether a part is on this device.
    pub fn uses(&self, lane: Lane) -> bool {
        self.head == lane || self.layers.iter().any(|l| l.mixer == lane || l.ffn == lane)
    }
}

/// `0-3, 7`: ascending numbers, neighbours together.
pub fn ranges(numbers: &[usize]) -> String {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for &n in numbers {
        match runs.last_mut() {
            Some(run) if run.end == n => run.end += 1,
            _ => runs.push(n..n + 1),
        }
    }
    let text = |run: &std::ops::Range<usize>| match run.len() {
        1 => run.start.to_string(),
        _ => format!("{}-{}", run.start, run.end - 1),
    };
    runs.iter().map(text).collect::<Vec<_>>().join(", ")
}
