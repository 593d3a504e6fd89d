//! `ostro perplexity`: its figure against the logits, its files against each other, and what it refuses.

use std::fs;

use tempfile::TempDir;

use super::tiny::{Experts, Tiny};
use super::{Done, answer, ostro, words};

const TEXT: &str = "the inner state, seen from the harbour: a thing that was there, and then was not there any more. ";

/// The small model, less sure of what it says.
fn quiet(experts: Experts) -> Tiny {
    let mut tiny = Tiny::new(experts);
    let head = tiny.tensors.iter_mut().find(|t| t.0 == "output.weight").unwrap();
    for x in head.3.as_chunks_mut().0 {
        *x = (f32::from_le_bytes(*x) / 20.0).to_le_bytes();
    }
    tiny
}

/// A folder with the models `m` and `moe` and some 1,500 tokens of text.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    quiet(Experts::None).write(&folder.path().join("m"));
    quiet(Experts::Merged).write(&folder.path().join("moe"));
    fs::write(folder.path().join("text"), TEXT.repeat(20) + "\n").unwrap();
    fs::write(folder.path().join("short"), TEXT).unwrap();
    folder
}

/// The figure of `Final estimate: PPL = x +/- y`.
fn figure(out: &str) -> f64 {
    let rest = out.strip_prefix("Final estimate: PPL = ").unwrap_or_else(|| panic!("{out:?}"));
    let (figure, error) = rest.trim_end().split_once(" +/- ").unwrap();
    assert!(error.parse::<f64>().unwrap() > 0.0 && out.lines().count() == 1, "{out:?}");
    figure.parse().unwrap()
}

fn perplexity(folder: &TempDir, line: &str) -> f64 {
    let done = Done::from(ostro(folder.path(), words(&format!("perplexity {line}"))).output().unwrap());
    assert_eq!(done.code, Some(0), "{line}: {done:?}");
    figure(&done.out)
}

/// The same from the logits of each chunk, in f64.
#[test]
fn the_figure_follows_from_the_logits() {
    let folder = folder();
    let len = 96;
    // The line's end at the end of a file is no part of the text.
    fs::write(folder.path().join("bare"), TEXT.repeat(20)).unwrap();
    let ids = answer(&folder, "tokenize m -f bare");
    let tokens: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
    let chunks: Vec<&[u32]> = tokens.chunks_exact(len).collect();
    assert!(chunks.len() > 10);
    for model in ["m", "moe"] {
        let (mut sum, mut count) = (0.0, 0);
        for chunk in &chunks {
            // Each begins with BOS.
            let list: Vec<String> = [1].iter().chain(&chunk[1..]).map(u32::to_string).collect();
            let line = format!("logits {model} --tokens {} -o out.npy", list.join(","));
            assert_eq!(answer(&folder, &line), "");
            let bytes = fs::read(folder.path().join("out.npy")).unwrap();
            let floats: Vec<f32> = bytes[bytes.len() - len * 294 * 4..]
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
                .collect();
            for (i, row) in floats.chunks_exact(294).enumerate().take(len - 1).skip(len / 2) {
                let all: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
                sum += all.ln() - f64::from(row[chunk[i + 1] as usize]);
                count += 1;
            }
        }
        let expected = (sum / f64::from(count)).exp();
        for flags in ["", "-ub 96", "-ub 40 -t 1", "-ub 300 -t 3", "-ub 1", "-ctk f32 -ctv f32"] {
            let found = perplexity(&folder, &format!("{model} -f text -c {len} {flags}"));
            assert!((found / expected - 1.0).abs() < 2e-3, "{model} {flags}: {found}, {expected}");
        }
    }
}

#[test]
fn spellings_and_parts() {
    let folder = folder();
    let whole = perplexity(&folder, "m -f text -c 64");
    let text = TEXT.repeat(20);
    let done = Done::from(ostro(folder.path(), ["perplexity", "-m", "m", "-c", "64", "-p", &text]).output().unwrap());
    assert_eq!(figure(&done.out), whole);
    // The running figures: the last is the one of the whole.
    assert!(done.err.contains(&format!("]{whole:.4},\n")) && done.err.contains("[1]"), "{}", done.err);
    assert_ne!(perplexity(&folder, "m -f text -c 64 --chunks 3"), whole);
    assert_eq!(perplexity(&folder, "m -f text -c 64 --chunks 100000"), whole);
    // A window of 256 that moves by 32.
    assert!(perplexity(&folder, "m -f text -c 64 --ppl-stride 32") > 1.0);
}

#[test]
fn a_model_differs_from_another_and_not_from_itself() {
    let folder = folder();
    let plain = answer_of(&folder, "m -f text -c 64 --chunks 8");
    let base = answer_of(&folder, "m -f text -c 64 --chunks 8 --kl-divergence-base base");
    // Its log-likelihoods are rounded to floats.
    assert!((figure(&plain) / figure(&base) - 1.0).abs() < 1e-5, "{plain} {base}");
    let value = |out: &str, name: &str| -> f64 {
        let line = out.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {out}"));
        let rest = line[name.len()..].trim_start_matches([' ', ':']);
        rest.split([' ', '%']).next().unwrap().parse().unwrap()
    };
    let same = answer_of(&folder, "m --kl-divergence --kl-divergence-base base -ub 40");
    assert!(value(&same, "Mean    KLD").abs() < 1e-3 && value(&same, "Same top p") > 98.0, "{same}");
    assert!((value(&same, "Mean PPL(Q)  ") / figure(&plain) - 1.0).abs() < 2e-3, "{same}");
    assert!((value(&same, "Cor(ln(PPL(Q)), ln(PPL(base)))") - 100.0).abs() < 0.1, "{same}");
    let other = answer_of(&folder, "moe --kl-divergence --kl-divergence-base base");
    let own = answer_of(&folder, "moe -f text -c 64 --chunks 8");
    assert!(value(&other, "Mean    KLD") > 0.01 && value(&other, "Same top p") < 98.0, "{other}");
    assert!((value(&other, "Mean PPL(Q)  ") / figure(&own) - 1.0).abs() < 1e-4, "{other} {own}");
    let part = answer_of(&folder, "moe --kl-divergence --kl-divergence-base base --chunks 2");
    assert_ne!(part, other);
}

fn answer_of(folder: &TempDir, line: &str) -> String {
    let done = Done::from(ostro(folder.path(), words(&format!("perplexity {line}"))).output().unwrap());
    assert_eq!(done.code, Some(0), "{line}: {done:?}");
    done.out
}

#[test]
fn what_it_refuses() {
    let folder = folder();
    answer_of(&folder, "m -f text -c 64 --chunks 2 --kl-divergence-base base");
    let base = fs::read(folder.path().join("base")).unwrap();
    let put = |name: &str, at: usize, value: u32| {
        let mut bytes = base.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        fs::write(folder.path().join(name), bytes).unwrap();
    };
    put("vocab", 12, 295);
    put("chunks", 16, u32::MAX);
    put("token", 20, 999);
    put("len", 8, 2);
    fs::write(folder.path().join("cut"), &base[..base.len() - 1]).unwrap();
    fs::write(folder.path().join("tiny"), &base[..19]).unwrap();
    let rows = [
        (
            "m -f short",
            "text: found 74 tokens, expected at least 1024, two chunks of 512; give a longer one, or a smaller --ctx-size",
        ),
        ("m -f text -c 2", "--ctx-size: found 2, expected 3 tokens or more"),
        ("m -f text -c 64 --chunks 0", "--chunks: found 0, expected at least 1, or -1 for all"),
        ("m -f text -c 64 --ppl-stride 64", "--ppl-stride: found 64, expected 1 to 63, less than a chunk"),
        ("m -f none -c 64", "none: cannot be read"),
        ("m --kl-divergence --kl-divergence-base none", "none: cannot be read"),
        ("m --kl-divergence --kl-divergence-base text", "text: magic: found \"the inne\", expected \"_logits_\""),
        ("m --kl-divergence --kl-divergence-base tiny", "tiny: size: found 19 bytes, expected a header of 20"),
        ("m --kl-divergence --kl-divergence-base cut", "cut: size: found"),
        (
            "m --kl-divergence --kl-divergence-base len",
            "len: chunks: found 2 of 2 tokens, expected at least one, of 3 or more",
        ),
        ("m --kl-divergence --kl-divergence-base chunks", "chunks: size: found"),
        ("m --kl-divergence --kl-divergence-base token", "token: tokens: found 999, expected 0 to 293"),
        (
            "m --kl-divergence --kl-divergence-base vocab",
            "vocab: vocabulary: found 295 tokens, the model has 294; give",
        ),
    ];
    for (line, expected) in rows {
        let done = Done::from(ostro(folder.path(), words(&format!("perplexity {line}"))).output().unwrap());
        let told = done.err.contains(&format!("error: {expected}"));
        assert!(done.code == Some(1) && done.out.is_empty() && told, "{line}: {done:?}");
    }
    // A file of probabilities that could not be completed is not there.
    let failed =
        ostro(folder.path(), words("perplexity m -f text -c 64 --kl-divergence-base no/base")).output().unwrap();
    assert!(failed.status.code() == Some(1) && !folder.path().join("no").exists());
}
