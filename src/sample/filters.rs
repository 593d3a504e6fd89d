//! The filters of the sampling chain, each a function over the list of candidates.
//!
//! Definitions: llama.cpp's `src/llama-sampler.cpp`. Until [`top_k`] or [`top_p`] sorts them, candidates stand in the
//! order of their ids; afterwards best first, and of equals the lower id first.

use super::SampleOptions;
use std::cmp::Ordering;

/// A token that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub token: u32,
    pub logit: f32,
}

fn better(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// Makes seen tokens less likely. `list` must be in the order of the ids; `counts` is scratch.
pub(super) fn penalties(list: &mut [Candidate], seen: &[u32], counts: &mut Vec<(u32, u32)>, o: &SampleOptions) {
    if o.repeat_penalty == 1.0 && o.presence_penalty == 0.0 && o.frequency_penalty == 0.0 {
        return;
    }
    counts.clear();
    counts.extend(seen.iter().map(|&token| (token, 1)));
    counts.sort_unstable();
    counts.dedup_by(|next, first| {
        let same = next.0 == first.0;
        if same {
            first.1 += next.1;
        }
        same
    });
    for &(token, count) in counts.iter() {
        let Some(c) = list.get_mut(token as usize) else { continue };
        if c.logit <= 0.0 {
            c.logit *= o.repeat_penalty;
        } else {
            c.logit /= o.repeat_penalty;
        }
        c.logit -= count as f32 * o.frequency_penalty + o.presence_penalty;
    }
}

/// The best token.
pub(super) fn best(list: &[Candidate]) -> Option<u32> {
    let best = list.iter().min_by(|a, b| better(a, b))?;
    (best.logit > f32::NEG_INFINITY).then_some(best.token)
}

/// Keeps the `k` best, sorted; 0 keeps all.
pub(super) fn top_k(list: &mut Vec<Candidate>, k: usize) {
    if k == 0 {
        return;
    }
    if k < list.len() {
        list.select_nth_unstable_by(k, better);
        list.truncate(k);
    }
    list.sort_unstable_by(better);
}

/// Keeps the best tokens whose probabilities sum to at least `p`, one at least, sorted; 1 keeps all.
pub(super) fn top_p(list: &mut Vec<Candidate>, p: f32) {
    if p >= 1.0 {
        return;
    }
    list.sort_unstable_by(better);
    let total: f64 = weights(list).sum();
    let mut sum = 0.0;
    let last = weights(list).position(|w| {
        sum += w / total;
        sum >= f64::from(p)
    });
    if let Some(last) = last {
        list.truncate(last + 1);
    }
}

/// Keeps the tokens whose probability is at least `p` times that of the best; 0 keeps all.
pub(super) fn min_p(list: &mut Vec<Candidate>, p: f32) {
    if p <= 0.0 {
        return;
    }
    let least = max_logit(list) + p.min(1.0).ln();
    list.retain(|c| c.logit >= least);
}

/// Divides the logits, after taking the largest from all: it stays at zero however small the divisor.
pub(super) fn temperature(list: &mut [Candidate], temp: f32) {
    let max = max_logit(list);
    if max > f32::NEG_INFINITY {
        list.iter_mut().for_each(|c| c.logit = (c.logit - max) / temp);
    }
}

/// The token at the place `at`, in 0..1, of the cumulated probabilities.
pub(super) fn draw(list: &[Candidate], at: f64) -> Option<u32> {
    let total: f64 = weights(list).sum();
    let mut left = at * total;
    let mut last = None;
    for (c, w) in list.iter().zip(weights(list)) {
        if w > 0.0 {
            last = Some(c.token);
            left -= w;
            if left < 0.0 {
                break;
            }
        }
    }
    last
}

fn max_logit(list: &[Candidate]) -> f32 {
    list.iter().map(|c| c.logit).fold(f32::NEG_INFINITY, f32::max)
}

/// Probabilities times a common factor.
fn weights(list: &[Candidate]) -> impl Iterator<Item = f64> {
    let max = f64::from(max_logit(list));
    list.iter().map(move |c| if c.logit == f32::NEG_INFINITY { 0.0 } else { (f64::from(c.logit) - max).exp() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(probabilities: &[f32]) -> Vec<Candidate> {
        probabilities.iter().zip(0..).map(|(p, token)| Candidate { token, logit: p.ln() }).collect()
    }

    fn tokens(list: &[Candidate]) -> Vec<u32> {
        list.iter().map(|c| c.token).collect()
    }

    #[test]
    fn each_filter_keeps_what_its_definition_says() {
        let p = [0.1, 0.4, 0.2, 0.05, 0.25];
        type Filter = fn(&mut Vec<Candidate>);
        let rows: &[(&str, Filter, &[u32])] = &[
            ("top_k 2", |l| top_k(l, 2), &[1, 4]),
            ("top_k 0", |l| top_k(l, 0), &[0, 1, 2, 3, 4]),
            ("top_k 9", |l| top_k(l, 9), &[1, 4, 2, 0, 3]),
            ("top_p 0.5", |l| top_p(l, 0.5), &[1, 4]),
            ("top_p 0.7", |l| top_p(l, 0.7), &[1, 4, 2]),
            ("top_p 0", |l| top_p(l, 0.0), &[1]),
            ("top_p 1", |l| top_p(l, 1.0), &[0, 1, 2, 3, 4]),
            ("min_p 0.5", |l| min_p(l, 0.49), &[1, 2, 4]),
            ("min_p 1", |l| min_p(l, 1.0), &[1]),
            ("min_p 2", |l| min_p(l, 2.0), &[1]),
            ("min_p 0", |l| min_p(l, 0.0), &[0, 1, 2, 3, 4]),
        ];
        for (name, filter, want) in rows {
            let mut l = list(&p);
            filter(&mut l);
            assert_eq!(tokens(&l), *want, "{name}");
        }
    }

    #[test]
    fn ties_keep_the_lower_id() {
        let mut l = list(&[0.25; 4]);
        top_k(&mut l, 2);
        assert_eq!(tokens(&l), [0, 1]);
    }

    #[test]
    fn penalties_follow_their_definition() {
        let mut l = vec![
            Candidate { token: 0, logit: 2.0 },
            Candidate { token: 1, logit: -1.0 },
            Candidate { token: 2, logit: 5.0 },
        ];
        let o = SampleOptions {
            repeat_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            ..SampleOptions::default()
        };
        penalties(&mut l, &[0, 1, 0, 99], &mut Vec::new(), &o);
        assert_eq!(l.iter().map(|c| c.logit).collect::<Vec<_>>(), [2.0 / 2.0 - 0.5 - 0.5, -2.0 - 0.25 - 0.5, 5.0]);
    }

    #[test]
    fn a_draw_meets_the_edges() {
        let l = list(&[0.5, 0.0, 0.5]);
        assert_eq!(draw(&l, 0.0), Some(0));
        assert_eq!(draw(&l, 0.4999), Some(0));
        assert_eq!(draw(&l, 0.5001), Some(2));
        assert_eq!(draw(&l, 0.999_999_999), Some(2));
        assert_eq!(draw(&[], 0.5), None);
    }
}
