//! DRY: a token that would go on with a repetition is penalized, the more the longer the repetition is.
//!
//! Definition: <https://github.com/oobabooga/text-generation-webui/pull/5677>, with llama.cpp's handling of breakers. With
//! `n` the longest run of tokens before a token that is also the end of the context, and nothing of it beyond a breaker, the
//! token's logit falls by `multiplier * base ^ (n - allowed_length)` if `n >= allowed_length`.

use super::SampleOptions;
use super::candidates::{Candidate, of_token};
use super::math::{ln, pow};
use std::collections::{BTreeMap, HashMap};

/// Sequences of tokens that begin with a breaker: the token in which it begins, and those that must follow.
#[derive(Clone, Debug, Default)]
pub struct Breakers {
    by_head: HashMap<u32, Vec<Vec<u32>>>,
}

/// Bytes of a breaker, and tokens after its first, that are looked at.
const LONGEST_TEXT: usize = 40;
const LONGEST_TAIL: usize = 20;

impl Breakers {
    /// The sequences for `texts`, in a vocabulary of `pieces`; `encode` gives the tokens of a text.
    pub fn new(
        texts: &[String],
        pieces: impl Iterator<Item = (u32, Vec<u8>)>,
        encode: impl Fn(&str) -> Vec<u32>,
    ) -> Breakers {
        let cut = |text: &str| {
            let end = (0..=LONGEST_TEXT.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
            text[..end].to_owned()
        };
        let texts: Vec<String> = texts.iter().map(|t| cut(t)).filter(|t| !t.is_empty()).collect();
        let mut by_head: HashMap<u32, Vec<Vec<u32>>> = HashMap::new();
        for (id, piece) in pieces {
            for text in &texts {
                let bytes = text.as_bytes();
                if piece.windows(bytes.len()).any(|w| w == bytes) {
                    by_head.entry(id).or_default().push(Vec::new());
                    continue;
                }
                // The piece may end in the breaker's beginning.
                for n in (1..bytes.len().min(piece.len() + 1)).filter(|&n| piece.ends_with(&bytes[..n])) {
                    let Some(rest) = text.get(n..) else { continue };
                    let mut tail = encode(rest);
                    tail.truncate(LONGEST_TAIL);
                    let tails = by_head.entry(id).or_default();
                    if !tails.contains(&tail) {
                        tails.push(tail);
                    }
                }
            }
        }
        Breakers { by_head }
    }

    /// Sequences of tokens as they are.
    #[cfg(test)]
    fn of(sequences: &[&[u32]]) -> Breakers {
        let mut by_head: HashMap<u32, Vec<Vec<u32>>> = HashMap::new();
        for sequence in sequences {
            let (head, tail) = sequence.split_first().unwrap();
            by_head.entry(*head).or_default().push(tail.to_vec());
        }
        Breakers { by_head }
    }

    /// Whether a token alone is a breaker.
    fn is_one(&self, token: u32) -> bool {
        self.by_head.get(&token).is_some_and(|tails| tails.iter().any(Vec::is_empty))
    }

    /// How many last tokens of `seen` come after the last breaker.
    fn since(&self, seen: &[u32]) -> usize {
        if self.by_head.is_empty() {
            return seen.len();
        }
        for i in 0..seen.len() {
            let at = seen.len() - 1 - i;
            let Some(tails) = self.by_head.get(&seen[at]) else { continue };
            let longest = tails.iter().filter(|tail| seen[at + 1..].starts_with(tail)).map(Vec::len).max();
            if let Some(longest) = longest {
                return i - longest;
            }
        }
        seen.len()
    }
}

/// Penalizes the tokens that would go on with a repetition in `seen`.
pub(super) fn dry(list: &mut [Candidate], seen: &[u32], breakers: &Breakers, o: &SampleOptions) {
    let last_n = o.dry_penalty_last_n.unwrap_or(usize::MAX).min(seen.len());
    if o.dry_multiplier == 0.0 || o.dry_base < 1.0 || last_n <= o.dry_allowed_length {
        return;
    }
    let seen = &seen[seen.len() - last_n..];
    let limit = breakers.since(seen);
    if limit < o.dry_allowed_length {
        return;
    }
    let mut longest: BTreeMap<u32, usize> = BTreeMap::new();
    for (at, n) in repeats(seen).into_iter().enumerate().take(seen.len() - 1) {
        let n = n.min(limit);
        if n >= o.dry_allowed_length {
            let longest = longest.entry(seen[at + 1]).or_default();
            *longest = n.max(*longest);
        }
    }
    // The penalty stays a number.
    let most =
        if o.dry_base > 1.000001 { (ln(f64::from(f32::MAX)) / ln(f64::from(o.dry_base))) as usize } else { usize::MAX };
    for (token, n) in longest {
        if breakers.is_one(token) {
            continue;
        }
        if let Some(c) = of_token(list, token) {
            let exponent = (n - o.dry_allowed_length).min(most);
            c.set(c.logit - o.dry_multiplier * pow(f64::from(o.dry_base), exponent as f64) as f32);
        }
    }
}

/// For each place, how many tokens up to it are also the last of all: the Z-algorithm, backwards.
fn repeats(seen: &[u32]) -> Vec<usize> {
    let n = seen.len();
    let at = |i: usize| seen[n - 1 - i];
    let mut z = vec![0; n];
    let (mut left, mut right) = (0, 0);
    for k in 1..n {
        let mut len = if k < right { z[k - left].min(right - k) } else { 0 };
        while k + len < n && at(len) == at(k + len) {
            len += 1;
        }
        if k + len > right {
            (left, right) = (k, k + len);
        }
        z[k] = len;
    }
    z.reverse();
    z
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, without any cleverness.
    fn naive(seen: &[u32], breakers: &[u32], allowed: usize) -> BTreeMap<u32, usize> {
        let since = seen.iter().rev().take_while(|t| !breakers.contains(t)).count();
        let mut found = BTreeMap::new();
        for end in 1..seen.len() {
            let n = (0..end).take_while(|&i| seen[end - 1 - i] == seen[seen.len() - 1 - i]).count().min(since);
            if n >= allowed && !breakers.contains(&seen[end]) {
                let longest = found.entry(seen[end]).or_insert(0);
                *longest = n.max(*longest);
            }
        }
        found
    }

    #[test]
    fn repetitions_are_those_of_the_definition() {
        let mut x = 1u64;
        let mut random = |n: u64| {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 33) % n
        };
        for round in 0..400 {
            let seen: Vec<u32> = (0..random(40) + 2).map(|_| random(3) as u32).collect();
            let breakers: Vec<u32> = if round % 2 == 0 { vec![] } else { vec![2] };
            let allowed = random(3) as usize + 1;
            let o = SampleOptions {
                dry_multiplier: 1.0,
                dry_base: 2.0,
                dry_allowed_length: allowed,
                dry_penalty_last_n: None,
                ..SampleOptions::default()
            };
            let mut list: Vec<Candidate> = (0..3).map(|token| Candidate { token, logit: 0.0 }).collect();
            let sequences: Vec<&[u32]> = breakers.iter().map(std::slice::from_ref).collect();
            dry(&mut list, &seen, &Breakers::of(&sequences), &o);
            let want = naive(&seen, &breakers, allowed);
            for c in &list {
                let penalty = want.get(&c.token).map_or(0.0, |&n| 2f32.powi((n - allowed) as i32));
                assert_eq!(c.logit, 0.0 - penalty, "{seen:?} {breakers:?} {allowed} token {}", c.token);
            }
        }
    }

    #[test]
    fn breakers_are_found_inside_and_across_pieces() {
        let pieces = ["a", "b:", ":", "x\n", "<<", "<", "y"].map(|p| p.as_bytes().to_vec());
        let encode = |text: &str| text.bytes().map(|b| if b == b'<' { 5 } else { 6 }).collect();
        let texts = [":".to_owned(), "<<<".to_owned()];
        let breakers = Breakers::new(&texts, (0..).zip(pieces), encode);
        assert!(breakers.is_one(1) && breakers.is_one(2) && !breakers.is_one(0) && !breakers.is_one(3));
        // `<<` and then `<`, or `<` and then two more.
        assert_eq!(breakers.since(&[0, 1, 0, 0]), 2);
        assert_eq!(breakers.since(&[4, 5, 0]), 1);
        assert_eq!(breakers.since(&[5, 5, 5, 0]), 1);
        assert_eq!(breakers.since(&[4, 0, 0]), 3);
    }

    #[test]
    fn a_penalty_is_a_number_however_long_the_repetition() {
        let seen = vec![0; 5000];
        let o = SampleOptions { dry_multiplier: 1.0, dry_penalty_last_n: None, ..SampleOptions::default() };
        let mut list = vec![Candidate { token: 0, logit: 1.0 }];
        dry(&mut list, &seen, &Breakers::default(), &o);
        assert!(list[0].logit.is_finite() && list[0].logit < -1e30, "{}", list[0].logit);
    }
}
