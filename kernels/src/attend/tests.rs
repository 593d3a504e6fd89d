//! Attention against a naive one in f64, over the stored cache as it reads back.

use super::*;
use crate::float::check::{check, close, floats};

/// A shape to test; the rest has the defaults below.
#[derive(Clone, Copy, Debug)]
struct Case {
    n: usize,
    first_pos: usize,
    n_kv_heads: usize,
    group: usize,
    head_dim: usize,
    v_dim: usize,
    k_type: KvType,
    v_type: KvType,
    window: Option<usize>,
    softcap: Option<f32>,
    /// Values are the front of the keys.
    in_keys: bool,
}

const PLAIN: Case = Case {
    n: 1,
    first_pos: 0,
    n_kv_heads: 2,
    group: 1,
    head_dim: 64,
    v_dim: 64,
    k_type: KvType::F16,
    v_type: KvType::F16,
    window: None,
    softcap: None,
    in_keys: false,
};

/// Inputs of a case, and its cache, where unused positions are NaN if the type has one.
struct Data {
    q: Vec<f32>,
    k: Vec<u8>,
    v: Vec<u8>,
    capacity: usize,
}

impl Case {
    fn data(&self) -> Data {
        let capacity = self.first_pos + self.n + 3;
        let cpu = Cpu::all()[0];
        let rows = |kind: KvType, dim: usize, seed: u64| {
            let bytes = kind.row_bytes(dim);
            let mut cache = vec![0xff; self.n_kv_heads * capacity * bytes];
            for (i, row) in cache.chunks_mut(bytes).enumerate() {
                if i % capacity < self.first_pos + self.n {
                    kind.store(cpu, &floats(dim, seed + i as u64), row);
                }
            }
            cache
        };
        Data {
            q: floats(self.n * self.n_kv_heads * self.group * self.head_dim, 1),
            k: rows(self.k_type, self.head_dim, 1000),
            v: rows(self.v_type, self.v_dim, 1_000_000),
            capacity,
        }
    }

    fn scale(&self) -> f32 {
        0.5 / (self.head_dim as f32).sqrt()
    }

    /// Attention of the tokens `from..to` of the case.
    fn run(
        &self,
        cpu: Cpu,
        team: &Team,
        scratch: &mut AttendScratch,
        data: &Data,
        (from, to): (usize, usize),
    ) -> Vec<f32> {
        let n_heads = self.n_kv_heads * self.group;
        let mut out = vec![f32::NAN; (to - from) * n_heads * self.v_dim];
        let args = Attend {
            q: &data.q[from * n_heads * self.head_dim..to * n_heads * self.head_dim],
            k: &data.k,
            v: (!self.in_keys).then_some(&data.v[..]),
            k_type: self.k_type,
            v_type: self.v_type,
            capacity: data.capacity,
            n: to - from,
            first_pos: self.first_pos + from,
            n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            v_dim: self.v_dim,
            window: self.window,
            scale: self.scale(),
            softcap: self.softcap,
            out: &mut out,
        };
        attend(cpu, team, scratch, args);
        out
    }

    fn naive(&self, data: &Data) -> Vec<f64> {
        let n_heads = self.n_kv_heads * self.group;
        let load = |kind: KvType, cache: &[u8], dim: usize, kv_head: usize, pos: usize| {
            let (bytes, mut x) = (kind.row_bytes(dim), vec![0.0; dim]);
            kind.load_scalar(&cache[(kv_head * data.capacity + pos) * bytes..][..bytes], &mut x);
            x
        };
        let mut out = Vec::new();
        for token in 0..self.n {
            let pos = self.first_pos + token;
            let from = self.window.map_or(0, |window| (pos + 1).saturating_sub(window));
            for head in 0..n_heads {
                let q = &data.q[(token * n_heads + head) * self.head_dim..][..self.head_dim];
                let scores: Vec<f64> = (from..=pos)
                    .map(|pos| {
                        let k = load(self.k_type, &data.k, self.head_dim, head / self.group, pos);
                        let dot: f64 = q.iter().zip(&k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                        let score = dot * f64::from(self.scale());
                        self.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
                    })
                    .collect();
                let top = scores.iter().copied().fold(f64::MIN, f64::max);
                let total: f64 = scores.iter().map(|score| (score - top).exp()).sum();
                let mut sums = vec![0.0; self.v_dim];
                for (i, score) in scores.iter().enumerate() {
                    let v = match self.in_keys {
                        true => load(self.k_type, &data.k, self.head_dim, head / self.group, from + i),
                        false => load(self.v_type, &data.v, self.v_dim, head / self.group, from + i),
                    };
                    let weight = (score - top).exp() / total;
                    sums.iter_mut().zip(&v).for_each(|(sum, v)| *sum += weight * f64::from(*v));
                }
                out.extend(sums);
            }
        }
        out
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for head_dim in [32, 64, 80, 96, 128, 192, 256, 512] {
        for (n, first_pos) in [(1, 5), (33, 40)] {
            cases.push(Case { n, first_pos, head_dim, v_dim: head_dim, ..PLAIN });
        }
    }
    for (head_dim, v_dim) in [(192, 128), (64, 72), (40, 8), (8, 136)] {
        for (n, first_pos) in [(1, 70), (40, 3)] {
            cases.push(Case { n, first_pos, head_dim, v_dim, ..PLAIN });
        }
    }
    for group in [1, 3, 4, 7, 8, 20] {
        for (n, first_pos) in [(1, 0), (1, 63), (1, 300), (2, 255), (5, 257), (17, 0), (70, 61)] {
            cases.push(Case { n, first_pos, group, ..PLAIN });
        }
    }
    for k_type in [KvType::F32, KvType::F16, KvType::Q8_0] {
        for v_type in [KvType::F32, KvType::F16, KvType::Q8_0] {
            for (n, first_pos) in [(1, 520), (24, 100)] {
                cases.push(Case { n, first_pos, k_type, v_type, head_dim: 80, v_dim: 80, group: 3, ..PLAIN });
            }
        }
    }
    for window in [1, 2, 50, 64, 256, 1000] {
        for (n, first_pos) in [(1, 0), (1, 600), (3, 254), (90, 0), (90, 200)] {
            cases.push(Case { n, first_pos, window: Some(window), group: 4, ..PLAIN });
        }
    }
    // Tasks of several chunks, the last one of fewer.
    for window in [None, Some(2500)] {
        cases.push(Case { n: 1, first_pos: 3400, window, n_kv_heads: 5, ..PLAIN });
    }
    for (n, first_pos) in [(1, 90), (30, 7)] {
        cases.push(Case { n, first_pos, softcap: Some(2.0), group: 4, ..PLAIN });
        cases.push(Case { n, first_pos, softcap: Some(50.0), window: Some(33), ..PLAIN });
    }
    cases
}

/// Weighted means of values below 4; the scores are sums of up to 512 products, wrong by about 1e-6.
const TOLERANCE: f64 = 2e-5;

#[test]
fn agrees_with_f64_for_any_number_of_threads() {
    let teams: Vec<Team> = (1..=3).map(Team::new).collect();
    let cases: Vec<(Case, Data, Vec<f64>)> = cases()
        .into_iter()
        .map(|case| {
            let data = case.data();
            let want = case.naive(&data);
            (case, data, want)
        })
        .collect();
    check("attend", |cpu, fail| {
        let mut scratch = AttendScratch::new();
        for (case, data, want) in &cases {
            let got = case.run(cpu, &teams[0], &mut scratch, data, (0, case.n));
            let wrong = |(got, want): &(&f32, &f64)| !close(**got, **want, TOLERANCE);
            let bad = got.iter().zip(want).filter(wrong).count();
            if bad > 0 {
                let (got, want) = got.iter().zip(want).find(wrong).expect("counted");
                fail(format!("{case:?}: {bad} values, first {got}, expected {want}"));
            }
            for team in &teams[1..] {
                let again = case.run(cpu, team, &mut scratch, data, (0, case.n));
                if again.iter().zip(&got).any(|(a, b)| a.to_bits() != b.to_bits()) {
                    fail(format!("{case:?}: other bits with {} threads", team.threads()));
                }
            }
        }
    });
}

#[test]
fn a_batch_agrees_with_its_tokens() {
    let team = Team::new(2);
    check("attend, token by token", |cpu, fail| {
        let mut scratch = AttendScratch::new();
        for window in [None, Some(20)] {
            let case = Case { n: 50, first_pos: 230, group: 4, window, ..PLAIN };
            let data = case.data();
            let batch = case.run(cpu, &team, &mut scratch, &data, (0, case.n));
            let tokens: Vec<f32> =
                (0..case.n).flat_map(|i| case.run(cpu, &team, &mut scratch, &data, (i, i + 1))).collect();
            let far = batch.iter().zip(&tokens).find(|(a, b)| !close(**a, f64::from(**b), TOLERANCE));
            if let Some(far) = far {
                fail(format!("window {window:?}: differs: {far:?}"));
            }
        }
    });
}

#[test]
fn no_tokens_no_result() {
    let team = Team::new(2);
    for cpu in Cpu::all() {
        let case = Case { n: 0, first_pos: 9, ..PLAIN };
        assert!(case.run(cpu, &team, &mut AttendScratch::new(), &case.data(), (0, 0)).is_empty());
    }
}

#[test]
#[should_panic(expected = "positions up to 8 in a cache of 7")]
fn tokens_outside_the_cache_are_refused() {
    let case = Case { n: 4, ..PLAIN };
    let data = case.data();
    let case = Case { first_pos: 4, ..case };
    case.run(Cpu::detect(), &Team::new(1), &mut AttendScratch::new(), &data, (0, 4));
}
