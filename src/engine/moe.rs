//! The router's choice: which experts each token goes to, with what weight, and the tokens grouped by expert.

use crate::model::{ExpertGroups, Moe, Router};
use ostro_kernels::{Cpu, Groups, float};

/// Pairs of (token, expert) of a batch, sorted by expert, then by token.
#[derive(Default)]
pub(super) struct Routing {
    /// Pairs of expert `e` are `offsets[e]..offsets[e + 1]`; `[n_experts + 1]`.
    pub offsets: Vec<usize>,
    /// The token of each pair, `[pairs]`.
    pub token: Vec<u32>,
    /// The pair of each choice, in the order of the choices, `[n, n_active]`.
    pub pair: Vec<u32>,
    /// The weight of each choice, `[n, n_active]`.
    pub weight: Vec<f32>,
    /// `0, 1, 2, ...`: each pair reads its own row.
    pub own: Vec<u32>,
    /// The expert of each choice, `[n, n_active]`.
    chosen: Vec<u32>,
    /// Where the next pair of each expert goes.
    next: Vec<usize>,
    /// What the experts of a token are chosen by, `[n_experts]`.
    keys: Vec<f32>,
    group_scores: Vec<f32>,
}

impl Routing {
    /// Room for `n` tokens, so that a step allocates nothing.
    pub fn reserve(&mut self, n: usize, n_experts: usize, n_active: usize) {
        let pairs = n * n_active;
        self.offsets.reserve(n_experts + 1);
        self.next.reserve(n_experts);
        self.keys.reserve(n_experts);
        self.group_scores.reserve(n_experts);
        self.token.reserve(pairs);
        self.pair.reserve(pairs);
        self.weight.reserve(pairs);
        self.chosen.reserve(pairs);
        if self.own.len() < pairs {
            self.own = (0..pairs as u32).collect();
        }
    }

    /// Chooses from router logits `[n, n_experts]`, with `bias` added to what is chosen by. Of equal scores the lower index is
    /// taken.
    pub fn choose(&mut self, cpu: Cpu, logits: &mut [f32], bias: Option<&[f32]>, n: usize, moe: &Moe) {
        self.chosen.clear();
        self.weight.clear();
        for scores in logits.chunks_exact_mut(moe.n_experts).take(n) {
            match moe.router {
                Router::Softmax => float::softmax(cpu, scores),
                Router::Sigmoid => scores.iter_mut().for_each(|s| *s = 1.0 / (1.0 + (-*s).exp())),
            }
            let keys = &mut self.keys;
            keys.clear();
            keys.extend_from_slice(scores);
            if let Some(bias) = bias {
                keys.iter_mut().zip(bias).for_each(|(key, bias)| *key += bias);
            }
            if let Some(groups) = moe.groups {
                leave_best_groups(keys, groups, &mut self.group_scores);
            }
            let first = self.weight.len();
            for _ in 0..moe.n_active {
                let best = (0..moe.n_experts).fold(0, |best, e| if keys[e] > keys[best] { e } else { best });
                self.chosen.push(best as u32);
                self.weight.push(scores[best]);
                keys[best] = f32::NEG_INFINITY;
            }
            let chosen = &mut self.weight[first..];
            if moe.renormalize {
                // llama.cpp's floor, the smallest normal f16, keeps a vanished sum from dividing.
                let sum = chosen.iter().sum::<f32>().max(6.103_515_6e-5);
                chosen.iter_mut().for_each(|w| *w /= sum);
            }
            chosen.iter_mut().for_each(|w| *w *= moe.scale);
        }
        self.group(n, moe);
    }

    /// The first `pairs` pairs; each reads the row of its token, or a row of its `own`.
    pub fn groups(&self, pairs: usize, own: bool) -> Groups<'_> {
        Groups { offsets: &self.offsets, pick: if own { &self.own[..pairs] } else { &self.token } }
    }

    /// Sorts the choices by expert, keeping the order of the tokens.
    fn group(&mut self, n: usize, moe: &Moe) {
        self.offsets.clear();
        self.offsets.resize(moe.n_experts + 1, 0);
        for &e in &self.chosen {
            self.offsets[e as usize + 1] += 1;
        }
        for e in 0..moe.n_experts {
            self.offsets[e + 1] += self.offsets[e];
        }
        self.next.clear();
        self.next.extend_from_slice(&self.offsets[..moe.n_experts]);
        self.token.clear();
        self.token.resize(n * moe.n_active, 0);
        self.pair.clear();
        for (choice, &e) in self.chosen.iter().enumerate() {
            let place = &mut self.next[e as usize];
            self.token[*place] = (choice / moe.n_active) as u32;
            self.pair.push(*place as u32);
            *place += 1;
        }
    }
}

/// Takes the experts of all but the best groups out of the choice. Of equal groups the lower index is taken.
fn leave_best_groups(keys: &mut [f32], groups: ExpertGroups, scores: &mut Vec<f32>) {
    let each = keys.len() / groups.n;
    let score = |group: &[f32]| {
        // The best few in turn; a group has few experts.
        let mut taken = [usize::MAX; 2];
        (0..groups.best.min(2)).fold(0.0, |sum, round| {
            let left = (0..each).filter(|e| !taken.contains(e));
            let best =
                left.fold(usize::MAX, |best, e| if best == usize::MAX || group[e] > group[best] { e } else { best });
            taken[round] = best;
            sum + group.get(best).copied().unwrap_or(0.0)
        })
    };
    scores.clear();
    scores.extend(keys.chunks_exact(each).map(score));
    for _ in 0..groups.n_active {
        let best = (0..groups.n).fold(0, |best, g| if scores[g] > scores[best] { g } else { best });
        scores[best] = f32::NEG_INFINITY;
    }
    // A group that was taken has no score left.
    for (group, _) in scores.iter().enumerate().filter(|(_, score)| **score > f32::NEG_INFINITY) {
        keys[group * each..(group + 1) * each].fill(f32::NEG_INFINITY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Activation;

    #[test]
    fn choices_are_the_best_and_grouped() {
        let moe = Moe {
            n_experts: 4,
            n_active: 2,
            hidden: 1,
            act: Activation::Silu,
            router: Router::Softmax,
            groups: None,
            bias: false,
            renormalize: true,
            scale: 1.0,
            shared: None,
            fused: false,
        };
        let ln = f32::ln;
        // Token 0 wants experts 3 (weight 3/4) and 1 (1/4), token 1 has a tie: 0 and 1 are taken, in this order.
        let mut logits = [ln(0.1), ln(0.2), ln(0.1), ln(0.6), ln(0.25), ln(0.25), ln(0.25), ln(0.25)];
        let mut routing = Routing::default();
        routing.reserve(2, 4, 2);
        routing.choose(Cpu::detect(), &mut logits, None, 2, &moe);
        assert_eq!(routing.offsets, [0, 1, 3, 3, 4]);
        assert_eq!(routing.token, [1, 0, 1, 0]);
        assert_eq!(routing.pair, [3, 1, 0, 2]);
        for (found, wanted) in routing.weight.iter().zip([0.75, 0.25, 0.5, 0.5]) {
            assert!((found - wanted).abs() < 1e-6, "{:?}", routing.weight);
        }
    }

    /// The second version of DeepSeek takes a group by its best expert, the third by the sum of its two best, biases counted; the
    /// weights are the scores without them.
    #[test]
    fn only_experts_of_the_best_groups_are_chosen() {
        let moe = |best, router| Moe {
            n_experts: 6,
            n_active: 2,
            hidden: 1,
            act: Activation::Silu,
            router,
            groups: Some(ExpertGroups { n: 3, n_active: 1, best }),
            bias: true,
            renormalize: false,
            scale: 2.0,
            shared: None,
            fused: false,
        };
        let chosen = |moe: &Moe, scores: [f32; 6], bias: [f32; 6]| {
            let mut logits = match moe.router {
                Router::Softmax => scores.map(f32::ln),
                Router::Sigmoid => scores.map(|s| (s / (1.0 - s)).ln()),
            };
            let mut routing = Routing::default();
            routing.reserve(1, 6, 2);
            routing.choose(Cpu::detect(), &mut logits, Some(&bias), 1, moe);
            let weights: Vec<i32> = routing.weight.iter().map(|w| (w * 100.0).round() as i32).collect();
            (routing.chosen, weights)
        };
        // Groups of two: the first has the best expert, the second the best pair.
        let scores = [0.40, 0.02, 0.25, 0.20, 0.08, 0.05];
        assert_eq!(chosen(&moe(1, Router::Softmax), scores, [0.0; 6]), (vec![0, 1], vec![80, 4]));
        assert_eq!(chosen(&moe(2, Router::Sigmoid), scores, [0.0; 6]), (vec![2, 3], vec![50, 40]));
        // A bias moves the choice to the third.
        let bias = [0.0, 0.0, 0.0, 0.0, 0.1, 0.5];
        assert_eq!(chosen(&moe(2, Router::Sigmoid), scores, bias), (vec![5, 4], vec![10, 16]));
        assert_eq!(chosen(&moe(1, Router::Softmax), scores, bias), (vec![5, 4], vec![10, 16]));
        // Equal groups: the first.
        assert_eq!(chosen(&moe(1, Router::Sigmoid), [0.3, 0.2, 0.3, 0.1, 0.3, 0.1], [0.0; 6]).0, [0, 1]);
    }
}
