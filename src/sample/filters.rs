//! The filters of the sampling chain, each a function over the list of candidates, which it takes in any order.
//!
//! Definitions: llama.cpp's `src/llama-sampler.cpp`, with its edges: where it takes "at least" or "more than" there is
//! the same here. A list in which something is possible keeps something possible, whatever the parameters.

use super::SampleOptions;
use super::candidates::{Candidate, Softmax, better, keep_sum, logit, max_logit, of_token, select};
use super::math::{ln, pow};

/// Makes seen tokens less likely. `counts` is scratch, a zero for each token of the vocabulary.
pub(super) fn penalties(list: &mut [Candidate], seen: &[u32], counts: &mut [u32], o: &SampleOptions) {
    if o.repeat_penalty == 1.0 && o.presence_penalty == 0.0 && o.frequency_penalty == 0.0 {
        return;
    }
    let last_n = o.repeat_last_n.unwrap_or(usize::MAX).min(seen.len());
    let seen = &seen[seen.len() - last_n..];
    for &token in seen {
        if let Some(count) = counts.get_mut(token as usize) {
            *count += 1;
        }
    }
    for &token in seen {
        // Taken away, so that what was seen twice is not penalized twice, and all are zero in the end.
        let count = counts.get_mut(token as usize).map_or(0, std::mem::take);
        if count == 0 {
            continue;
        }
        let Some(c) = of_token(list, token) else { continue };
        // Dividing would make what is below zero likelier.
        let logit = if c.logit <= 0.0 { c.logit * o.repeat_penalty } else { c.logit / o.repeat_penalty };
        c.set(logit - (count as f32 * o.frequency_penalty + o.presence_penalty));
    }
}

/// Keeps the `k` best, sorted; 0 keeps all. Where there are no more than `k` the list stays as it is.
pub(super) fn top_k(list: &mut Vec<Candidate>, k: usize) {
    if k > 0 && k < list.len() {
        *list = select(list, k, logit);
    }
}

/// Keeps the best tokens whose probabilities sum to at least `p`, one at least, sorted; 1 keeps all.
pub(super) fn top_p(list: &mut Vec<Candidate>, p: f32) {
    if p >= 1.0 {
        return;
    }
    let Some(softmax) = Softmax::of(list) else { return };
    keep_sum(list, &softmax, logit, |sum| sum >= f64::from(p));
}

/// Keeps the tokens whose probability is at least `p` times that of the best; 0 keeps all.
pub(super) fn min_p(list: &mut Vec<Candidate>, p: f32) {
    if p <= 0.0 {
        return;
    }
    let least = f64::from(max_logit(list)) + ln(f64::from(p.min(1.0)));
    list.retain(|c| f64::from(c.logit) >= least);
}

/// Keeps the tokens whose surprise is nearest to the expected one, until their probabilities exceed `p`; 1 keeps all.
pub(super) fn typical(list: &mut Vec<Candidate>, p: f32) {
    if p >= 1.0 {
        return;
    }
    let Some(softmax) = Softmax::of(list) else { return };
    // Surprises are logits turned round, so both are equally far from what is expected.
    let expected = softmax.logit_of_surprise(softmax.entropy());
    keep_sum(list, &softmax, |c: &Candidate| -(f64::from(c.logit) - expected).abs(), |sum| sum > f64::from(p));
}

/// Keeps the tokens within `n` standard deviations of the logits below the best one; 0 or less keeps all.
pub(super) fn top_n_sigma(list: &mut Vec<Candidate>, n: f32) {
    let logits = || list.iter().filter(|c| c.logit > f32::NEG_INFINITY).map(|c| f64::from(c.logit));
    let count = logits().count() as f64;
    if n <= 0.0 || count < 2.0 {
        return;
    }
    let mean = logits().sum::<f64>() / count;
    let deviation = (logits().map(|l| (l - mean) * (l - mean)).sum::<f64>() / count).sqrt();
    let least = f64::from(max_logit(list)) - f64::from(n) * deviation;
    list.retain(|c| f64::from(c.logit) >= least);
}

/// Excludes all but the least likely of the tokens of at least `threshold`, if `chance`, in 0..1, is not above the
/// probability of doing so.
pub(super) fn xtc(list: &mut Vec<Candidate>, chance: f64, o: &SampleOptions) {
    if list.len() < 2 || o.xtc_threshold > 0.5 || chance > f64::from(o.xtc_probability) {
        return;
    }
    let Some(softmax) = Softmax::of(list) else { return };
    let least = softmax.logit_of_surprise(-ln(f64::from(o.xtc_threshold)));
    let likely = |c: &&Candidate| f64::from(c.logit) >= least && c.logit > f32::NEG_INFINITY;
    if let Some(last) = list.iter().filter(likely).max_by(|a, b| better(a, b)).copied() {
        list.retain(|c| better(c, &last).is_ge());
    }
}

/// The temperature with its range: the divisor follows the entropy, from `temp - range` where one token is sure to
/// `temp + range` where all are alike.
pub(super) fn temperature(list: &mut Vec<Candidate>, o: &SampleOptions) {
    let softmax = if o.dynatemp_range > 0.0 && list.len() > 1 { Softmax::of(list) } else { None };
    let Some(softmax) = softmax else { return divide(list, o.temp) };
    let (low, high) = ((o.temp - o.dynatemp_range).max(0.0), o.temp + o.dynatemp_range);
    // Rounding may take the share a little out of 0..1.
    let share = (softmax.entropy() / ln(list.len() as f64)).clamp(0.0, 1.0);
    divide(list, low + (high - low) * pow(share, f64::from(o.dynatemp_exp)) as f32);
}

/// Divides the logits by a temperature. At 0 or less the best one stays alone.
pub(super) fn divide(list: &mut Vec<Candidate>, temp: f32) {
    if temp <= 0.0 {
        return top_k(list, 1);
    }
    let max = max_logit(list);
    // Only differences matter to a draw, so where a small divisor would overflow, the largest becomes zero. Else the
    // logits keep their signs, as penalties that come later tell them apart by these.
    let shift = if (max / temp).abs() < f32::MAX / 2.0 { 0.0 } else { max };
    if max > f32::NEG_INFINITY {
        list.iter_mut().for_each(|c| c.set((c.logit - shift) / temp));
    }
}

#[cfg(test)]
mod tests {
    use super::super::candidates::draw;
    use super::*;

    fn list(probabilities: &[f32]) -> Vec<Candidate> {
        probabilities.iter().zip(0..).map(|(p, token)| Candidate { token, logit: p.ln() }).collect()
    }

    fn tokens(list: &[Candidate]) -> Vec<u32> {
        list.iter().map(|c| c.token).collect()
    }

    fn sorted(list: &[Candidate]) -> Vec<u32> {
        let mut tokens = tokens(list);
        tokens.sort_unstable();
        tokens
    }

    /// The probabilities that a list stands for, by its tokens.
    fn distribution(list: &[Candidate]) -> Vec<(u32, f64)> {
        let total: f64 = list.iter().map(|c| f64::from(c.logit).exp()).sum();
        let mut found: Vec<_> = list.iter().map(|c| (c.token, f64::from(c.logit).exp() / total)).collect();
        found.sort_by_key(|(token, _)| *token);
        found
    }

    #[test]
    fn each_filter_keeps_what_its_definition_says() {
        let p = [0.1, 0.4, 0.2, 0.05, 0.25];
        type Filter = fn(&mut Vec<Candidate>);
        let rows: &[(&str, Filter, &[u32])] = &[
            ("top_k 2", |l| top_k(l, 2), &[1, 4]),
            ("top_k 0", |l| top_k(l, 0), &[0, 1, 2, 3, 4]),
            ("top_k 9", |l| top_k(l, 9), &[0, 1, 2, 3, 4]),
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
            let mut nothing = Vec::new();
            filter(&mut nothing);
            assert_eq!(nothing, [], "{name}");
            let mut one = list(&[1.0]);
            filter(&mut one);
            assert_eq!(tokens(&one), [0], "{name}");
        }
    }

    #[test]
    fn ties_keep_the_lower_id() {
        for filter in [|l: &mut Vec<Candidate>| top_k(l, 2), |l: &mut Vec<Candidate>| top_p(l, 0.5)] {
            let mut l = list(&[0.25; 4]);
            filter(&mut l);
            assert_eq!(tokens(&l), [0, 1]);
        }
    }

    /// A large vocabulary, so that it is sorted in steps: what is kept is what sorting all would keep.
    #[test]
    fn top_p_of_many_is_that_of_all_sorted() {
        let many: Vec<Candidate> =
            (0..5000).map(|token| Candidate { token, logit: (token as f32 * 0.37).sin() * 3.0 }).collect();
        for p in [0.01, 0.3, 0.9, 0.999] {
            let mut found = many.clone();
            top_p(&mut found, p);
            let mut all = many.clone();
            all.sort_by(|a, b| b.logit.partial_cmp(&a.logit).unwrap().then(a.token.cmp(&b.token)));
            let total: f64 = all.iter().map(|c| f64::from(c.logit).exp()).sum();
            let mut sum = 0.0;
            let n = all.iter().take_while(|c| {
                let before = sum;
                sum += f64::from(c.logit).exp() / total;
                before < f64::from(p)
            });
            assert_eq!(tokens(&found), n.map(|c| c.token).collect::<Vec<_>>(), "{p}");
        }
    }

    #[test]
    fn typical_keeps_what_surprises_as_expected() {
        // Entropy of these: 1.2799 nats; surprises 0.69, 1.39, 2.08, 2.08: token 1 is nearest, then 0, then 2 and 3.
        let p = [0.5, 0.25, 0.125, 0.125];
        let rows: [(f32, &[u32]); 5] =
            [(0.2, &[1]), (0.26, &[0, 1]), (0.8, &[0, 1, 2]), (0.99, &[0, 1, 2, 3]), (1.0, &[0, 1, 2, 3])];
        for (keep, want) in rows {
            let mut l = list(&p);
            typical(&mut l, keep);
            assert_eq!(sorted(&l), want, "{keep}");
        }
    }

    #[test]
    fn top_n_sigma_keeps_what_is_near_the_best() {
        let logits = [1.0f32, 4.0, 2.0, -1.0, f32::NEG_INFINITY];
        let finite = &logits[..4];
        let mean: f64 = finite.iter().map(|&l| f64::from(l)).sum::<f64>() / 4.0;
        let deviation = (finite.iter().map(|&l| (f64::from(l) - mean).powi(2)).sum::<f64>() / 4.0).sqrt();
        for n in [0.5f32, 1.0, 1.7, 3.0] {
            let mut l: Vec<Candidate> =
                logits.iter().zip(0..).map(|(&logit, token)| Candidate { token, logit }).collect();
            top_n_sigma(&mut l, n);
            let want: Vec<u32> =
                (0..4).filter(|&i| f64::from(finite[i as usize]) >= 4.0 - f64::from(n) * deviation).collect();
            assert_eq!(tokens(&l), want, "{n}");
        }
        let mut l = list(&[0.9, 0.1]);
        top_n_sigma(&mut l, -1.0);
        assert_eq!(l.len(), 2);
    }

    #[test]
    fn xtc_excludes_all_likely_tokens_but_the_last() {
        let o = |probability, threshold| SampleOptions {
            xtc_probability: probability,
            xtc_threshold: threshold,
            ..SampleOptions::default()
        };
        let p = [0.1, 0.4, 0.2, 0.05, 0.25];
        let rows: &[(f32, f32, f64, &[u32])] = &[
            (1.0, 0.19, 0.5, &[0, 2, 3]),
            (1.0, 0.3, 0.5, &[0, 1, 2, 3, 4]),
            (1.0, 0.01, 0.5, &[3]),
            (1.0, 0.6, 0.5, &[0, 1, 2, 3, 4]),
            (0.5, 0.19, 0.49, &[0, 2, 3]),
            (0.5, 0.19, 0.51, &[0, 1, 2, 3, 4]),
        ];
        for (probability, threshold, chance, want) in rows {
            let mut l = list(&p);
            xtc(&mut l, *chance, &o(*probability, *threshold));
            assert_eq!(sorted(&l), *want, "{probability} {threshold} {chance}");
        }
    }

    #[test]
    fn temperatures_follow_their_definitions() {
        let p = [0.1, 0.4, 0.2, 0.05, 0.25];
        let entropy: f64 = p.iter().map(|p| -f64::from(*p) * f64::from(*p).ln()).sum();
        let share = entropy / 5f64.ln();
        for (temp, range, exponent) in [(0.5, 0.0, 1.0), (2.0, 0.0, 1.0), (1.0, 0.5, 1.0), (0.4, 0.8, 2.0)] {
            let o = SampleOptions { temp, dynatemp_range: range, dynatemp_exp: exponent, ..SampleOptions::default() };
            let (temp, range) = (f64::from(temp), f64::from(range));
            let low = (temp - range).max(0.0);
            let by = if range > 0.0 { low + (temp + range - low) * share.powf(f64::from(exponent)) } else { temp };
            let powers: Vec<f64> = p.iter().map(|p| f64::from(*p).powf(1.0 / by)).collect();
            let mut l = list(&p);
            temperature(&mut l, &o);
            for ((token, found), power) in distribution(&l).into_iter().zip(&powers) {
                let want = power / powers.iter().sum::<f64>();
                assert!(
                    (found - want).abs() < 1e-6,
                    "{temp} {range} {exponent} token {token}: {found}, expected {want}"
                );
            }
        }
        for temp in [0.0, -1.0] {
            let mut l = list(&[0.1, 0.4, 0.4, 0.1]);
            temperature(&mut l, &SampleOptions { temp, ..SampleOptions::default() });
            assert_eq!(tokens(&l), [1]);
        }
    }

    #[test]
    fn penalties_follow_their_definition() {
        let o = SampleOptions {
            repeat_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            ..SampleOptions::default()
        };
        let mut l = [(0, 2.0), (1, -1.0), (2, 5.0)].map(|(token, logit)| Candidate { token, logit });
        let want = [(0, 2.0 / 2.0 - 0.5 - 0.5), (1, -2.0 - 0.25 - 0.5), (2, 5.0)];
        penalties(&mut l, &[0, 1, 0, 99], &mut [0; 3], &o);
        assert_eq!(l.map(|c| (c.token, c.logit)), want);
        // In another order the same.
        let mut l = [(2, 5.0), (0, 2.0), (1, -1.0)].map(|(token, logit)| Candidate { token, logit });
        penalties(&mut l, &[0, 1, 0, 99], &mut [0; 3], &o);
        assert_eq!(l.map(|c| (c.token, c.logit)), [want[2], want[0], want[1]]);
    }

    #[test]
    fn a_draw_meets_the_edges() {
        let l = list(&[0.5, 0.0, 0.5]);
        for (at, want) in [(0.0, 0), (0.4999, 0), (0.5001, 2), (0.999_999_999, 2)] {
            let (token, p) = draw(&l, at).unwrap();
            assert_eq!(token, want);
            assert!((p - 0.5).abs() < 1e-7);
        }
        assert_eq!(draw(&[], 0.5), None);
    }
}
