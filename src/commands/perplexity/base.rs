//! The probabilities of a model for each token of a text, in the file format of llama-perplexity.
//!
//! `_logits_`, then in 32 bits each: tokens of a chunk, tokens of the vocabulary, chunks, all tokens of the chunks. Then
//! a row for each scored position: two floats, scale and least log-probability, and for each token of the vocabulary how
//! many scales its log-probability lies above that, in 16 bits; rows are padded to a multiple of four bytes.

use super::score::max_and_sum_exp;
use crate::commands::chunks::Chunks;
use anyhow::{Context, bail};
use ostro_kernels::Cpu;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"_logits_";
/// Probabilities more than e^16 below the highest are written as 0.
const RANGE: f32 = 16.0;

/// 16-bit numbers of a row.
fn row_len(n_vocab: usize) -> usize {
    n_vocab.next_multiple_of(2) + 4
}

/// Writes all but the rows.
pub(super) fn write_header(out: &mut impl Write, chunks: &Chunks, n_vocab: usize) -> io::Result<()> {
    out.write_all(MAGIC)?;
    let counts = [chunks.len, n_vocab, chunks.n].map(|n| n as u32);
    let tokens = &chunks.tokens[..chunks.n * chunks.len];
    counts.iter().chain(tokens).try_for_each(|n| out.write_all(&n.to_le_bytes()))
}

/// A row of the file from a row of logits, and the negative log-likelihood of the token `next`.
pub(super) fn row(cpu: Cpu, logits: &[f32], next: u32) -> (Vec<u8>, f64) {
    let (max, sum) = max_and_sum_exp(cpu, logits);
    let min = logits.iter().copied().fold(max, f32::min).max(max - RANGE);
    let log_sum = sum.ln() as f32;
    let scale = (max - min) / 65535.0;
    let mut out = Vec::with_capacity(2 * row_len(logits.len()));
    out.extend(scale.to_le_bytes());
    out.extend((min - max - log_sum).to_le_bytes());
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    for &x in logits {
        let steps = if x > min { (inverse * (x - min)).round_ties_even() as u16 } else { 0 };
        out.extend(steps.to_le_bytes());
    }
    out.resize(2 * row_len(logits.len()), 0);
    (out, f64::from(max + log_sum - logits[next as usize]))
}

/// A row as it was read.
pub(super) struct Row<'a> {
    scale: f32,
    least: f32,
    steps: &'a [[u8; 2]],
}

impl<'a> Row<'a> {
    /// From the bytes of a file.
    pub fn new(bytes: &'a [u8], n_vocab: usize) -> Row<'a> {
        let float = |at: usize| f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Row { scale: float(0), least: float(4), steps: &bytes.as_chunks().0[4..4 + n_vocab] }
    }

    /// The log-probabilities of all tokens.
    pub fn log_probabilities(&self) -> impl Iterator<Item = f32> {
        self.steps.iter().map(|&steps| self.scale * f32::from(u16::from_le_bytes(steps)) + self.least)
    }

    /// The log-probability of a token.
    pub fn of(&self, token: u32) -> f32 {
        self.scale * f32::from(u16::from_le_bytes(self.steps[token as usize])) + self.least
    }
}

/// An open file.
pub(super) struct Base {
    path: PathBuf,
    file: BufReader<File>,
    n_vocab: usize,
}

impl Base {
    /// Opens a file that was made with a vocabulary of `n_vocab` tokens, and gives its chunks.
    ///
    /// # Errors
    /// A file that cannot be read, is no such file, is cut off, or was made with another vocabulary.
    pub fn open(path: &Path, n_vocab: usize, bos: Option<u32>) -> anyhow::Result<(Base, Chunks)> {
        let unread = || format!("{}: cannot be read", path.display());
        let bad = |thing: &str, found: String, expected: String| {
            let next = "write it again with --kl-divergence-base and without --kl-divergence";
            anyhow::anyhow!("{}: {thing}: found {found}, expected {expected}; {next}", path.display())
        };
        let file = File::open(path).with_context(unread)?;
        let bytes = file.metadata().with_context(unread)?.len();
        let mut file = BufReader::with_capacity(1 << 20, file);
        if bytes < 20 {
            return Err(bad("size", format!("{bytes} bytes"), "a header of 20".into()));
        }
        let mut magic = [0; 8];
        file.read_exact(&mut magic).with_context(unread)?;
        if &magic != MAGIC {
            return Err(bad("magic", format!("\"{}\"", magic.escape_ascii()), "\"_logits_\"".into()));
        }
        let mut int = || -> anyhow::Result<u32> {
            let mut bytes = [0; 4];
            file.read_exact(&mut bytes).with_context(unread)?;
            Ok(u32::from_le_bytes(bytes))
        };
        let [len, vocab, n] = [int()?, int()?, int()?];
        if vocab as usize != n_vocab {
            bail!(
                "{}: vocabulary: found {vocab} tokens, the model has {n_vocab}; give a file of a model of the same vocabulary",
                path.display()
            );
        }
        let (len, n) = (len as usize, n as usize);
        if len < 3 || n == 0 {
            return Err(bad("chunks", format!("{n} of {len} tokens"), "at least one, of 3 or more".into()));
        }
        let row = 2 * row_len(n_vocab) as u128;
        let needed = 20 + n as u128 * (4 * len as u128 + row * (len - 1 - len / 2) as u128);
        if u128::from(bytes) < needed {
            return Err(bad("size", format!("{bytes} bytes"), format!("{needed} for {n} chunks of {len} tokens")));
        }
        let tokens = (0..len * n).map(|_| int()).collect::<anyhow::Result<Vec<_>>>()?;
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= n_vocab) {
            return Err(bad("tokens", token.to_string(), format!("0 to {}", n_vocab - 1)));
        }
        Ok((Base { path: path.to_owned(), file, n_vocab }, Chunks { tokens, len, step: len, n, bos }))
    }

    /// Bytes of a row.
    pub fn row_bytes(&self) -> usize {
        2 * row_len(self.n_vocab)
    }

    /// Reads the next `n` rows.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn read_rows(&mut self, n: usize, rows: &mut Vec<u8>) -> anyhow::Result<()> {
        rows.resize(n * self.row_bytes(), 0);
        self.file.read_exact(rows).with_context(|| format!("{}: cannot be read", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back() {
        for cpu in Cpu::all() {
            for n in [5usize, 8, 1001] {
                let logits: Vec<f32> = (0..n).map(|i| ((i * 7919) % 1000) as f32 / 40.0).collect();
                let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
                let (bytes, nll) = row(cpu, &logits, 2);
                assert_eq!(bytes.len(), 2 * row_len(n));
                assert!((nll - (sum.ln() - f64::from(logits[2]))).abs() < 1e-5);
                let row = Row::new(&bytes, n);
                let max = logits.iter().copied().fold(0.0, f32::max);
                for ((i, found), &logit) in row.log_probabilities().enumerate().zip(&logits) {
                    let expected = f64::from(logit.max(max - RANGE)) - sum.ln();
                    assert!((f64::from(found) - expected).abs() < 2e-4, "{n} {i}: {found}, {expected}");
                    assert_eq!(row.of(i as u32), found);
                }
            }
        }
        // Equal logits have no scale.
        let (bytes, _) = row(Cpu::detect(), &[3.0; 4], 0);
        assert!(Row::new(&bytes, 4).log_probabilities().all(|p| (p + 4f32.ln()).abs() < 1e-6));
    }
}
