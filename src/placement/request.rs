//! What the user asks for, in llama.cpp's words.

use super::Lane;
use regex::Regex;

/// How many layers go to the card.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum GpuLayers {
    /// As much as there is room for.
    #[default]
    Auto,
    /// All, with the head.
    All,
    /// The head, and so many layers without one from the last on, as llama.cpp counts.
    Count(usize),
}

impl std::fmt::Display for GpuLayers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            GpuLayers::Auto => f.write_str("auto"),
            GpuLayers::All => f.write_str("all"),
            GpuLayers::Count(n) => n.fmt(f),
        }
    }
}

/// The flags.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// --gpu-layers
    pub gpu_layers: GpuLayers,
    /// --cpu-moe: all experts stay with the CPU.
    pub cpu_moe: bool,
    /// --n-cpu-moe: the experts of the first so many layers stay with the CPU.
    pub n_cpu_moe: usize,
    /// --override-tensor: where the halves go that have a matrix of such a name; the first that matches counts.
    pub overrides: Vec<(Regex, Lane)>,
    /// --no-kv-offload: the cache, and so attention, stays with the CPU.
    pub no_kv_offload: bool,
    /// Bytes of the card that stay free.
    pub margin: u64,
}

/// What a flag says of a part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Say {
    /// It goes there.
    Must(Lane),
    /// Nothing.
    Free,
}

impl Request {
    /// What the flags say of a mixer, or a feed-forward half, of a layer.
    pub(super) fn half(&self, layer: usize, n_layers: usize, mixer: bool, is_moe: bool, names: &[String]) -> Say {
        if mixer && self.no_kv_offload {
            return Say::Must(Lane::Cpu);
        }
        if let Some(lane) = self.overridden(names) {
            return Say::Must(lane);
        }
        if !mixer && is_moe && (self.cpu_moe || layer < self.n_cpu_moe) {
            return Say::Must(Lane::Cpu);
        }
        match self.gpu_layers {
            GpuLayers::Auto => Say::Free,
            GpuLayers::All => Say::Must(Lane::Gpu),
            GpuLayers::Count(n) if layer + n > n_layers => Say::Must(Lane::Gpu),
            GpuLayers::Count(_) => Say::Must(Lane::Cpu),
        }
    }

    /// What they say of the head.
    pub(super) fn head(&self, names: &[String]) -> Say {
        match (self.overridden(names), self.gpu_layers) {
            (Some(lane), _) => Say::Must(lane),
            (None, GpuLayers::Auto) => Say::Free,
            (None, GpuLayers::Count(0)) => Say::Must(Lane::Cpu),
            (None, _) => Say::Must(Lane::Gpu),
        }
    }

    /// Where an override sends a part: to the CPU if any of its matrices must go there.
    pub(super) fn overridden(&self, names: &[String]) -> Option<Lane> {
        let of = |name: &String| self.overrides.iter().find(|(regex, _)| regex.is_match(name)).map(|&(_, lane)| lane);
        let lanes: Vec<Lane> = names.iter().filter_map(of).collect();
        match lanes.contains(&Lane::Cpu) {
            true => Some(Lane::Cpu),
            false => lanes.first().copied(),
        }
    }

    /// Matrices that an override names, but that go with others of their half elsewhere, or take others with them.
    pub(super) fn divides(&self, names: &[String]) -> bool {
        let of = |name: &String| self.overrides.iter().find(|(regex, _)| regex.is_match(name)).map(|&(_, lane)| lane);
        let all: Vec<Option<Lane>> = names.iter().map(of).collect();
        // Of a router nobody speaks: it goes with its experts.
        let spoken = all.iter().flatten().next();
        let matrices = names.iter().zip(&all).filter(|(name, _)| !name.contains("ffn_gate_inp"));
        spoken.is_some() && matrices.into_iter().any(|(_, lane)| lane.as_ref() != spoken)
    }
}
