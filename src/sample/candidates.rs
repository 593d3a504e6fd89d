//! The candidates that a chain narrows down, and what its samplers need of them: order, probabilities, a draw.
//!
//! A list is in the order of the ids until something sorts it; sorted is best first, and of equals the lower id first.
//! Sums run in the order of the list, so the same logits and the same seed give the same token on every machine.

use super::math::{exp, ln};
use std::cmp::Ordering;

/// A token that may be drawn. No logit is NaN or plus infinity; minus infinity is impossible.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub token: u32,
    pub logit: f32,
}

impl Candidate {
    /// Changes the logit; what overflows upwards stays a number, so that it can be compared with others.
    pub fn set(&mut self, logit: f32) {
        self.logit = if logit.is_nan() { f32::NEG_INFINITY } else { logit.min(f32::MAX) };
    }
}

/// The candidate of a token: at its own place as long as nothing was taken out or moved.
pub(super) fn of_token(list: &mut [Candidate], token: u32) -> Option<&mut Candidate> {
    match list.get(token as usize) {
        Some(c) if c.token == token => list.get_mut(token as usize),
        _ => list.iter_mut().find(|c| c.token == token),
    }
}

/// The order of a list by a key, the largest first, and by id where keys are equal.
fn by(key: impl Fn(&Candidate) -> f64) -> impl Fn(&Candidate, &Candidate) -> Ordering {
    // Adding zero makes the two zeros one.
    move |a, b| (key(b) + 0.0).total_cmp(&(key(a) + 0.0)).then(a.token.cmp(&b.token))
}

/// The key that puts the best first.
pub(super) fn logit(c: &Candidate) -> f64 {
    f64::from(c.logit)
}

/// Whether a candidate comes before another.
pub(super) fn better(a: &Candidate, b: &Candidate) -> Ordering {
    by(logit)(a, b)
}

/// The largest logit; minus infinity where nothing is possible.
pub(super) fn max_logit(list: &[Candidate]) -> f32 {
    list.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max)
}

/// The `k` candidates of the largest keys, sorted.
///
/// One pass that mostly compares with the least key still worth having: of a vocabulary of 128k, the best 40 take a
/// tenth of a millisecond, a third of what partitioning takes.
pub(super) fn select(list: &[Candidate], k: usize, key: impl Fn(&Candidate) -> f64 + Copy) -> Vec<Candidate> {
    let room = k.saturating_mul(4);
    let mut best;
    if room >= list.len() {
        best = list.to_vec();
    } else {
        best = Vec::with_capacity(room);
        let mut least = f64::NEG_INFINITY;
        for c in list {
            // Equals may have the lower id, if the list is in another order: the partitioning decides.
            if key(c) < least {
                continue;
            }
            best.push(*c);
            if best.len() == room {
                cut(&mut best, k, key);
                least = best.last().map_or(least, key);
            }
        }
    }
    cut(&mut best, k, key);
    best.sort_unstable_by(by(key));
    best
}

/// Cuts a list to the `k` of the largest keys, the least of them last.
fn cut(list: &mut Vec<Candidate>, k: usize, key: impl Fn(&Candidate) -> f64) {
    if k < list.len() && k > 0 {
        list.select_nth_unstable_by(k - 1, by(key));
    }
    list.truncate(k);
}

/// Keeps candidates, the largest key first, up to the one with which the sum of their probabilities is `enough`; all
/// if it never is.
pub(super) fn keep_sum(
    list: &mut Vec<Candidate>,
    softmax: &Softmax,
    key: impl Fn(&Candidate) -> f64 + Copy,
    enough: impl Fn(f64) -> bool,
) {
    // Mostly few are kept; for a flat distribution more and more are put in order.
    let mut k = 256;
    loop {
        let mut best = select(list, k, key);
        let mut sum = 0.0;
        let last = best.iter().position(|c| {
            sum += softmax.p(c);
            enough(sum)
        });
        if last.is_some() || k >= list.len() {
            best.truncate(last.map_or(best.len(), |last| last + 1));
            *list = best;
            return;
        }
        k = k.saturating_mul(16);
    }
}

/// What turns the logits of a list into probabilities.
pub(super) struct Softmax {
    max: f64,
    total: f64,
    /// The sum of weights times how far their logits are below the largest.
    below: f64,
}

impl Softmax {
    /// Of a list in which something is possible.
    pub fn of(list: &[Candidate]) -> Option<Softmax> {
        let max = f64::from(max_logit(list));
        let mut softmax = Softmax { max, total: 0.0, below: 0.0 };
        for c in list.iter().filter(|c| c.logit > f32::NEG_INFINITY) {
            let weight = softmax.weight(c);
            softmax.total += weight;
            softmax.below += weight * (max - f64::from(c.logit));
        }
        (softmax.total > 0.0).then_some(softmax)
    }

    /// A probability times the total.
    fn weight(&self, c: &Candidate) -> f64 {
        exp(f64::from(c.logit) - self.max)
    }

    /// The probability of a candidate.
    pub fn p(&self, c: &Candidate) -> f64 {
        self.weight(c) / self.total
    }

    /// The logit of a candidate of this surprise, in nats: minus the logarithm of its probability.
    pub fn logit_of_surprise(&self, surprise: f64) -> f64 {
        self.max + ln(self.total) - surprise
    }

    /// The expected surprise in nats.
    pub fn entropy(&self) -> f64 {
        ln(self.total) + self.below / self.total
    }
}

/// The candidate at the place `at`, in 0..1, of the cumulated probabilities, and its probability.
pub(super) fn draw(list: &[Candidate], at: f64) -> Option<(u32, f64)> {
    let softmax = Softmax::of(list)?;
    let mut left = at * softmax.total;
    let mut last = None;
    for c in list {
        let weight = softmax.weight(c);
        if weight > 0.0 {
            last = Some((c.token, weight / softmax.total));
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
    }
    last
}
