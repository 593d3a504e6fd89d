//! The definitions once more, slow and plain, in f64 with full sorts and the system's own exponentials: what the
//! filters are compared with on random lists.

use super::candidates::{Candidate, keep_sum, logit, select};
use super::filters::*;
use super::{SampleOptions, Sampler};

/// Tokens with their logits.
type List = Vec<(u32, f64)>;

/// Random numbers, which are no matter of the sampler's own.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }

    fn unit(&mut self) -> f64 {
        self.below(1 << 24) as f64 / f64::from(1 << 24)
    }

    /// Logits as models have them, in quarters so that some are equal, a few impossible.
    fn list(&mut self, n: usize) -> List {
        let holes = self.below(2) == 0;
        let mut list: List = (0..n as u32)
            .map(|token| {
                let sum: f64 = (0..4).map(|_| self.unit()).sum();
                let hole = holes && token > 0 && self.below(5) == 0;
                (token, if hole { f64::NEG_INFINITY } else { ((sum - 2.0) * 24.0).round() / 4.0 })
            })
            .collect();
        if self.below(2) == 0 {
            for i in (1..n).rev() {
                list.swap(i, self.below(i as u64 + 1) as usize);
            }
        }
        list
    }
}

fn softmax(list: &[(u32, f64)]) -> Vec<f64> {
    let max = list.iter().map(|c| c.1).fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = list.iter().map(|c| (c.1 - max).exp()).sum();
    list.iter().map(|c| (c.1 - max).exp() / total).collect()
}

fn entropy(list: &[(u32, f64)]) -> f64 {
    softmax(list).iter().filter(|q| **q > 0.0).map(|q| -q * q.ln()).sum()
}

/// Best first, of equals the lower id.
fn sorted(list: &[(u32, f64)]) -> List {
    let mut list = list.to_vec();
    list.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
    list
}

/// The first of `list` until `enough` says so of the sum of their probabilities, in all of `list`.
fn until(list: List, enough: impl Fn(f64) -> bool) -> List {
    let mut sum = 0.0;
    let mut kept = List::new();
    for (c, q) in list.iter().zip(softmax(&list)) {
        kept.push(*c);
        sum += q;
        if enough(sum) {
            break;
        }
    }
    kept
}

fn naive_top_p(list: &[(u32, f64)], p: f64) -> List {
    if p >= 1.0 { list.to_vec() } else { until(sorted(list), |sum| sum >= p) }
}

fn naive_typical(list: &[(u32, f64)], p: f64) -> List {
    if p >= 1.0 {
        return list.to_vec();
    }
    let h = entropy(list);
    let mut scored: Vec<_> = list.iter().zip(softmax(list)).map(|(c, q)| ((-q.ln() - h).abs(), *c)).collect();
    scored.sort_by(|a, b| a.0.partial_cmp(&b.0).unwrap().then(a.1.0.cmp(&b.1.0)));
    until(scored.into_iter().map(|(_, c)| c).collect(), |sum| sum > p)
}

fn naive_min_p(list: &[(u32, f64)], p: f64) -> List {
    let q = softmax(list);
    let most = q.iter().copied().fold(0.0, f64::max);
    list.iter().zip(q).filter(|(_, q)| *q >= p * most).map(|(c, _)| *c).collect()
}

fn naive_top_n_sigma(list: &[(u32, f64)], n: f64) -> List {
    let finite: Vec<f64> = list.iter().map(|c| c.1).filter(|l| l.is_finite()).collect();
    if n <= 0.0 || finite.len() < 2 {
        return list.to_vec();
    }
    let mean = finite.iter().sum::<f64>() / finite.len() as f64;
    let deviation = (finite.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / finite.len() as f64).sqrt();
    let max = finite.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    list.iter().filter(|c| c.1 >= max - n * deviation).copied().collect()
}

fn naive_xtc(list: &[(u32, f64)], threshold: f64) -> List {
    let list = sorted(list);
    let likely = softmax(&list).iter().filter(|q| **q >= threshold && **q > 0.0).count();
    if threshold > 0.5 { list } else { list[likely.max(1) - 1..].to_vec() }
}

fn naive_temperature(list: &[(u32, f64)], temp: f64, range: f64, exponent: f64) -> List {
    let temp = if range > 0.0 && list.len() > 1 {
        let low = (temp - range).max(0.0);
        low + (temp + range - low) * (entropy(list) / (list.len() as f64).ln()).min(1.0).powf(exponent)
    } else {
        temp
    };
    if temp <= 0.0 {
        return sorted(list)[..1].to_vec();
    }
    list.iter().map(|&(token, logit)| (token, logit / temp)).collect()
}

/// What is possible in both is the same, with the same probabilities. Ids tell what a decision at the edge was, so
/// lists where one falls within rounding are left to the tests by hand.
fn same(name: &str, found: &[Candidate], want: &[(u32, f64)]) {
    let order = |list: &[(u32, f64)]| {
        let mut list: List = list.iter().copied().filter(|c| c.1 > f64::NEG_INFINITY).collect();
        list.sort_by_key(|c| c.0);
        list
    };
    let found = order(&found.iter().map(|c| (c.token, f64::from(c.logit))).collect::<Vec<_>>());
    let want = order(want);
    let tokens = |list: &List| list.iter().map(|c| c.0).collect::<Vec<_>>();
    assert_eq!(tokens(&found), tokens(&want), "{name}");
    for ((token, p), q) in want.iter().map(|c| c.0).zip(softmax(&found)).zip(softmax(&want)) {
        assert!((p - q).abs() < 1e-5, "{name}: token {token}: {p}, expected {q}");
    }
}

fn candidates(list: &[(u32, f64)]) -> Vec<Candidate> {
    list.iter().map(|&(token, logit)| Candidate { token, logit: logit as f32 }).collect()
}

#[test]
fn filters_keep_what_their_definitions_keep() {
    let mut random = Random(1);
    for round in 0..600 {
        let n = [1, 2, 3, 7, 40, 300, 3000][round % 7];
        let list = random.list(n);
        // Parameters that no sum of probabilities of such lists meets exactly, and the ends.
        let p = [0.0, 0.013_57, 0.273_1, 0.717_3, 0.913_7, 0.999_1, 1.0][random.below(7) as usize];
        let number = random.unit() * 4.0 - 0.5;
        let k = random.below(2 * n as u64) as usize;
        let check = |name: &str, filter: &dyn Fn(&mut Vec<Candidate>), want: List| {
            let mut found = candidates(&list);
            filter(&mut found);
            same(&format!("round {round}, {n} tokens: {name}"), &found, &want);
        };
        let all = || list.clone();
        let best = || sorted(&list);
        let (p32, p) = (p as f32, f64::from(p as f32));
        let (number32, number) = (number as f32, f64::from(number as f32));
        check(&format!("top-k {k}"), &|l| top_k(l, k), if k == 0 { all() } else { best()[..k.min(n)].to_vec() });
        check(&format!("top-p {p}"), &|l| top_p(l, p32), naive_top_p(&list, p));
        check(&format!("min-p {p}"), &|l| min_p(l, p32), naive_min_p(&list, p));
        check(&format!("typical {p}"), &|l| typical(l, p32), naive_typical(&list, p));
        check(&format!("top-nsigma {number}"), &|l| top_n_sigma(l, number32), naive_top_n_sigma(&list, number));
        let o = SampleOptions { xtc_probability: 0.5, xtc_threshold: p32, ..SampleOptions::default() };
        check(&format!("xtc {p}"), &|l| xtc(l, 0.5, &o), naive_xtc(&list, p));
        check(&format!("xtc {p}, not now"), &|l| xtc(l, 0.501, &o), all());
        for range in [0.0, 0.25, 2.0] {
            let exponent = [1.0, 2.0, 0.5][random.below(3) as usize];
            let o = SampleOptions {
                temp: number32,
                dynatemp_range: range,
                dynatemp_exp: exponent as f32,
                ..SampleOptions::default()
            };
            let want = naive_temperature(&list, number, f64::from(range), exponent);
            check(&format!("temperature {number} +- {range} ^ {exponent}"), &|l| temperature(l, &o), want);
        }
    }
}

/// Selecting is sorting and cutting, for any order, ties and sizes.
#[test]
fn selecting_is_sorting_and_cutting() {
    let mut random = Random(2);
    for n in [0, 1, 5, 63, 257, 2000] {
        let list = if n == 0 { List::new() } else { random.list(n) };
        let flat: List = list.iter().map(|c| (c.0, 0.0)).collect();
        // Zeros of both signs are equal.
        let zeros: List = list.iter().map(|c| (c.0, if c.0 % 3 == 0 { -0.0 } else { 0.0 })).collect();
        for list in [list, flat, zeros] {
            let best = candidates(&sorted(&list));
            for k in [0, 1, 2, 40, 100, n / 2, n, n + 1] {
                let found = select(&candidates(&list), k, logit);
                assert_eq!(found, best[..k.min(n)], "{k} of {n}");
            }
        }
    }
}

/// A flat distribution, of which most is kept.
#[test]
fn a_sum_that_few_do_not_reach_takes_more() {
    for n in [10u32, 256, 257, 5000, 70_000] {
        let mut list: Vec<Candidate> = (0..n).rev().map(|token| Candidate { token, logit: 1.0 }).collect();
        let softmax = super::candidates::Softmax::of(&list).unwrap();
        keep_sum(&mut list, &softmax, logit, |sum| sum > 0.899_99);
        let want = (0.899_99 * f64::from(n)) as u32 + 1;
        assert!(list.iter().map(|c| c.token).eq(0..want), "{n}: {}", list.len());
        keep_sum(&mut list, &softmax, logit, |_| false);
        assert_eq!(list.len(), want as usize);
    }
}

/// Penalties after the temperature see the signs of the logits, which it keeps.
#[test]
fn a_temperature_keeps_signs_and_does_not_overflow() {
    let mut list = candidates(&[(0, 4.0), (1, -2.0)]);
    divide(&mut list, 0.5);
    assert_eq!(list, candidates(&[(0, 8.0), (1, -4.0)]));
    for temp in [f32::MIN_POSITIVE, 1e-45, 1e-30] {
        let mut list = candidates(&[(0, 4e30), (1, 4.0), (2, f64::NEG_INFINITY)]);
        divide(&mut list, temp);
        assert!(list.iter().all(|c| !c.logit.is_nan() && c.logit < f32::INFINITY), "{list:?}");
        same("the best alone", &list[..1], &[(0, 0.0)]);
        assert!(list[0].logit > list[1].logit && list[2].logit == f32::NEG_INFINITY, "{list:?}");
    }
}

/// Biases and penalties of any size leave numbers.
#[test]
fn large_settings_leave_numbers() {
    let o = SampleOptions {
        logit_bias: vec![(0, 3e38), (0, 3e38), (1, -3e38), (1, -3e38)],
        repeat_penalty: 1e-37,
        frequency_penalty: -3e38,
        dry_multiplier: -3e38,
        seed: Some(1),
        ..SampleOptions::default()
    };
    let mut sampler = Sampler::new(o);
    sampler.begin(&[2, 2, 2, 2, 0, 0, 0, 0]);
    for _ in 0..20 {
        assert_ne!(sampler.sample(&[1.0, 2.0, 3.0, f32::NEG_INFINITY]), Ok(3));
    }
}

/// Two draws of which the first is not taken leave mirostat where it was: what is not accepted teaches nothing.
#[test]
fn only_accepted_tokens_teach() {
    let logits: Vec<f32> = (0..200).map(|i| -0.05 * i as f32).collect();
    for (letters, mirostat) in [("a", 0), ("", 1), ("", 2)] {
        let mut o = SampleOptions { mirostat, mirostat_ent: 2.0, adaptive_target: 0.02, ..SampleOptions::default() };
        o.seed = Some(3);
        o.set("sampling-seq", letters).unwrap();
        let run = |doubled: bool| {
            let mut sampler = Sampler::new(o.clone());
            let mut learned = Vec::new();
            for _ in 0..30 {
                if doubled {
                    // As if another token had been forced at this place: nothing is learned of it either.
                    let rejected = sampler.sample(&logits).unwrap();
                    sampler.accept(rejected + 1000).unwrap();
                }
                learned.push((sampler.mirostat, sampler.adaptive));
            }
            learned
        };
        assert_eq!(run(true), run(false), "{letters} {mirostat}");
    }
}

/// What was learned stays when other parameters change, and begins anew with its own.
#[test]
fn changes_forget_only_what_they_concern() {
    let logits: Vec<f32> = (0..200).map(|i| -0.05 * i as f32).collect();
    let mut sampler = Sampler::new(SampleOptions { mirostat: 2, seed: Some(3), ..SampleOptions::default() });
    let begun = sampler.mirostat;
    let token = sampler.sample(&logits).unwrap();
    sampler.accept(token).unwrap();
    let learned = sampler.mirostat;
    assert_ne!(begun, learned);
    sampler.set_options(SampleOptions { temp: 0.5, ..sampler.options().clone() });
    assert_eq!(sampler.mirostat, learned);
    sampler.set_options(SampleOptions { mirostat_ent: 4.0, ..sampler.options().clone() });
    assert_ne!(sampler.mirostat, learned);
    // The random seed that was taken is told, and given again it draws the same.
    let mut first = Sampler::new(SampleOptions::default());
    let mut again = Sampler::new(first.options().clone());
    for _ in 0..20 {
        assert_eq!(first.sample(&logits), again.sample(&logits));
    }
}
