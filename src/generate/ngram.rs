//! Prompt lookup: what followed the last words when they stood in the text before. It needs no second model and gains
//! where an answer repeats what it was given: a text to be corrected, code to be changed, quotations.

use super::Drafter;
use crate::engine;

/// Guesses that what followed the longest earlier occurrence of the last tokens follows again.
#[derive(Debug)]
pub struct Ngram {
    /// Tokens that must have occurred before.
    least: usize,
}

/// Longer matches than this are as good as any.
const LONG_ENOUGH: usize = 24;

impl Ngram {
    /// Looks for at least `least` tokens.
    pub fn new(least: usize) -> Ngram {
        Ngram { least: least.max(1) }
    }
}

impl Drafter for Ngram {
    fn draft(&mut self, tokens: &[u32], most: usize, out: &mut Vec<u32>) -> Result<(), engine::Error> {
        let Some((&last, before)) = tokens.split_last() else { return Ok(()) };
        // Where the longest match ends, the latest of equals.
        let mut best = (0, 0);
        for (at, _) in before.iter().enumerate().rev().filter(|&(_, &t)| t == last) {
            let earlier = before[..at].iter().rev();
            let n = 1 + earlier.zip(before.iter().rev()).take(LONG_ENOUGH).take_while(|(a, b)| a == b).count();
            if n > best.0 {
                best = (n, at + 1);
            }
            if n > LONG_ENOUGH {
                break;
            }
        }
        let (n, follows) = best;
        if n >= self.least {
            out.extend(tokens[follows..].iter().take(most));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_match_and_then_the_latest_is_continued() {
        // Tokens, least, most, guesses.
        type Case<'a> = (&'a [u32], usize, usize, &'a [u32]);
        let cases: &[Case] = &[
            (&[], 1, 4, &[]),
            (&[1], 1, 4, &[]),
            (&[1, 2, 3, 1], 1, 2, &[2, 3]),
            (&[1, 2, 3, 1], 2, 2, &[]),
            // The later of two.
            (&[1, 2, 1, 3, 1], 1, 1, &[3]),
            // The longer of two, though it is earlier.
            (&[7, 1, 2, 8, 1, 3, 7, 1], 1, 2, &[2, 8]),
            // It may run into what is matched itself.
            (&[5, 5, 5], 1, 4, &[5]),
            (&[1, 2, 1, 2], 2, 4, &[1, 2]),
        ];
        for (tokens, least, most, want) in cases {
            let mut out = Vec::new();
            Ngram::new(*least).draft(tokens, *most, &mut out).unwrap();
            assert_eq!(out, *want, "{tokens:?} {least} {most}");
        }
    }
}
