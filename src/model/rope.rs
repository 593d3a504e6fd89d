//! Frequencies of a rotary embedding, and the cosines and sines of a position.

use super::{RopeScaling, RopeSpec};
use std::f32::consts::PI;

/// The angles of one rotary embedding.
///
/// Computed in f32 by the steps that ggml takes (`ggml_rope_cache_init` in `ggml-cpu/ops.cpp`): an angle is off by
/// some 1e-7 of itself either way, but one that is off in the same way rounds the activations in the same way, and that
/// keeps long greedy answers equal to llama.cpp's.
#[derive(Clone, Debug)]
pub struct Rope {
    /// The angle of a pair, divided by that of the pair before.
    ratio: f32,
    /// Angles are divided by this, `[dim / 2]`.
    factors: Vec<f32>,
    /// Angles of each pair are multiplied by this, `[dim / 2]`.
    stretch: Vec<f32>,
    /// Cosines and sines are multiplied by this (YaRN's attention scale).
    magnitude: f32,
}

impl Rope {
    /// The angles of `spec`, divided by `factors` (`rope_freqs.weight`, `[dim / 2]`) where given.
    pub fn new(spec: &RopeSpec, factors: Option<&[f32]>) -> Rope {
        let (dim, pairs) = (spec.dim as f32, spec.dim / 2);
        let (mut stretch, mut magnitude) = (vec![1.0; pairs], spec.magnitude);
        match spec.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear(factor) => stretch.fill(1.0 / factor),
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, attn_factor } => {
                // The pair that makes `turns` turns over the original length.
                let pair = |turns: f32| dim * (original as f32 / (turns * 2.0 * PI)).ln() / (2.0 * spec.base.ln());
                let low = pair(beta_fast).floor().max(0.0);
                let high = pair(beta_slow).ceil().min(dim - 1.0);
                for (i, s) in stretch.iter_mut().enumerate() {
                    let ramp = ((i as f32 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                    *s = ramp / factor + (1.0 - ramp);
                }
                magnitude *= attn_factor * (1.0 + 0.1 * factor.ln());
            }
        }
        Rope {
            ratio: spec.base.powf(-2.0 / dim),
            factors: factors.map_or_else(|| vec![1.0; pairs], <[f32]>::to_vec),
            stretch,
            magnitude,
        }
    }

    /// Pairs in a head.
    pub fn pairs(&self) -> usize {
        self.factors.len()
    }

    /// Writes the cosines and sines of `position`, `[dim / 2]` each.
    pub fn fill(&self, position: u32, cos: &mut [f32], sin: &mut [f32]) {
        let mut angle = position as f32;
        for (((c, s), by), stretch) in cos.iter_mut().zip(sin).zip(&self.factors).zip(&self.stretch) {
            let (sine, cosine) = (angle / by * stretch).sin_cos();
            *c = cosine * self.magnitude;
            *s = sine * self.magnitude;
            angle *= self.ratio;
        }
    }
}

impl Rope {
    /// [`Rope::fill`] for each position in turn, `[positions, pairs]`.
    pub fn fill_all(&self, positions: impl Iterator<Item = u32>, cos: &mut [f32], sin: &mut [f32]) {
        let rows = cos.chunks_exact_mut(self.pairs()).zip(sin.chunks_exact_mut(self.pairs()));
        for (position, (cos, sin)) in positions.zip(rows) {
            self.fill(position, cos, sin);
        }
    }

    /// Cosines and sines that turn back what was turned by [`Rope::fill`] at some position to what it would be `by`
    /// positions before: the angle alone, as the magnitude is there already.
    pub fn back(&self, by: u32) -> (Vec<f32>, Vec<f32>) {
        let (mut cos, mut sin) = (vec![0.0; self.pairs()], vec![0.0; self.pairs()]);
        self.fill(by, &mut cos, &mut sin);
        cos.iter_mut().for_each(|c| *c /= self.magnitude);
        sin.iter_mut().for_each(|s| *s /= -self.magnitude);
        (cos, sin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Pairs, RopeFactors};

    fn spec(scaling: RopeScaling) -> RopeSpec {
        RopeSpec { dim: 8, pairs: Pairs::Adjacent, base: 10000.0, scaling, factors: RopeFactors::None, magnitude: 1.0 }
    }

    /// The angles of position 1 are the frequencies.
    fn check(name: &str, rope: &Rope, want: [f64; 4], magnitude: f64) {
        let (mut cos, mut sin) = ([f32::NAN; 4], [f32::NAN; 4]);
        rope.fill(1, &mut cos, &mut sin);
        for i in 0..4 {
            let (c, s) = (want[i].cos() * magnitude, want[i].sin() * magnitude);
            assert!((f64::from(cos[i]) - c).abs() < 1e-6, "{name}: cosine {i} is {}, expected {c}", cos[i]);
            assert!((f64::from(sin[i]) - s).abs() < 1e-6, "{name}: sine {i} is {}, expected {s}", sin[i]);
        }
        rope.fill(0, &mut cos, &mut sin);
        assert_eq!((cos, sin), ([magnitude as f32; 4], [0.0; 4]), "{name}: position 0");
    }

    #[test]
    fn frequencies_follow_their_definitions() {
        check("plain", &Rope::new(&spec(RopeScaling::None), None), [1.0, 0.1, 0.01, 0.001], 1.0);
        check("linear", &Rope::new(&spec(RopeScaling::Linear(4.0)), None), [0.25, 0.025, 0.0025, 0.00025], 1.0);
        let factors = [1.0, 2.0, 8.0, 4.0];
        check("factors", &Rope::new(&spec(RopeScaling::None), Some(&factors)), [1.0, 0.05, 0.00125, 0.00025], 1.0);
    }

    #[test]
    fn yarn_keeps_fast_pairs_and_divides_slow_ones() {
        let scaling =
            RopeScaling::Yarn { factor: 4.0, original: 4096, beta_fast: 32.0, beta_slow: 1.0, attn_factor: 1.0 };
        // Over 4096 positions pair 0 turns 652 times and pair 3 0.65 times; the ramp goes from pair 1 to pair 3.
        check("yarn", &Rope::new(&spec(scaling), None), [1.0, 0.1, 0.00625, 0.00025], 1.0 + 0.1 * 4f64.ln());
    }
}
