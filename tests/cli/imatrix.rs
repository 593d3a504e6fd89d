//! `ostro imatrix`: what is collected, how files are combined, and what it refuses.

use std::fs;

use ostro::convert::Imatrix;
use tempfile::TempDir;

use super::tiny::{Experts, Tiny};
use super::{Done, answer, ostro, words};

const TEXT: &str = "the inner state, seen from the harbour: a thing that was there, and then was not there any more. ";

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    Tiny::new(Experts::None).write(&folder.path().join("m"));
    Tiny::new(Experts::Merged).write(&folder.path().join("moe"));
    Tiny::new(Experts::Merged).legacy().write(&folder.path().join("legacy"));
    fs::write(folder.path().join("text"), TEXT.repeat(20)).unwrap();
    folder
}

/// What a line prints and writes.
fn imatrix(folder: &TempDir, line: &str) -> (String, Imatrix) {
    let done = Done::from(ostro(folder.path(), words(&format!("imatrix {line} -o out"))).output().unwrap());
    assert_eq!(done.code, Some(0), "{line}: {done:?}");
    let path = folder.path().join("out");
    let imatrix = Imatrix::open(&path).unwrap();
    fs::rename(&path, folder.path().join("last")).unwrap();
    (done.out, imatrix)
}

/// Names, shapes and counts are equal, sums nearly.
fn same(a: &Imatrix, b: &Imatrix, tolerance: f32) {
    assert_eq!((a.len(), a.chunk_count, a.chunk_size), (b.len(), b.chunk_count, b.chunk_size));
    for ((name, x), (other, y)) in a.entries().zip(b.entries()) {
        assert_eq!((name, &x.counts, x.sums.len()), (other, &y.counts, y.sums.len()));
        for (i, (x, y)) in x.sums.iter().zip(&y.sums).enumerate() {
            assert!((x - y).abs() <= tolerance * y.abs(), "{name} {i}: {x}, {y}");
        }
    }
}

#[test]
fn inputs_of_every_matrix_are_collected() {
    let folder = folder();
    for (model, matrices) in [("m", 7), ("moe", 8)] {
        let (out, found) = imatrix(&folder, &format!("{model} -f text -c 64 --chunks 6"));
        assert_eq!((found.len(), found.chunk_count, found.chunk_size), (2 * matrices, 6, 64));
        assert_eq!(found.datasets, ["text"]);
        // The figure is that of `ostro perplexity`, which drops rows that nobody wants.
        assert_eq!(out, answer_of(&folder, &format!("perplexity {model} -f text -c 64 --chunks 6")));
        for (name, entry) in found.entries() {
            let experts = name.contains("_exps");
            assert_eq!(entry.counts.len(), if experts { 4 } else { 1 }, "{name}");
            // Each token goes to two of four experts.
            assert_eq!(entry.counts.iter().sum::<u64>(), if experts { 2 * 6 * 64 } else { 6 * 64 }, "{name}");
            let cols = if name.contains("ffn_down") { 96 } else { 64 };
            assert_eq!(entry.sums.len(), cols * entry.counts.len(), "{name}");
            assert!(entry.sums.iter().all(|&x| x >= 0.0) && entry.sums.iter().sum::<f32>() > 0.0, "{name}");
            // What a norm of ones gives has a mean square of one.
            if !name.contains("ffn_down") && !name.contains("attn_output") {
                for (sums, &count) in entry.sums.chunks_exact(64).zip(&entry.counts).filter(|(_, count)| **count > 0) {
                    let mean = sums.iter().sum::<f32>() / count as f32 / 64.0;
                    assert!((mean - 1.0).abs() < 1e-2, "{name}: {mean}");
                }
            }
        }
        let (_, head) = imatrix(&folder, &format!("{model} -f text -c 64 --chunks 6 --process-output --no-ppl"));
        assert_eq!(head.len(), found.len() + 1);
        let (_, entry) = head.entries().last().unwrap();
        assert_eq!((head.entries().last().unwrap().0, entry.counts.as_slice()), ("output.weight", &[6 * 64][..]));
    }
    // One tensor an expert: under the name of the table.
    let merged = imatrix(&folder, "moe -f text -c 64 --chunks 3").1;
    assert!(imatrix(&folder, "legacy -f text -c 64 --chunks 3").1 == merged);
}

#[test]
fn batches_and_parts_come_to_the_same() {
    let folder = folder();
    for model in ["m", "moe"] {
        let (out, whole) = imatrix(&folder, &format!("{model} -f text -c 64 --chunks 8 --no-ppl"));
        assert_eq!(out, "");
        for flags in ["-ub 64", "-ub 40 -t 1", "-ub 1000 --output-frequency 2"] {
            let (_, found) = imatrix(&folder, &format!("{model} -f text -c 64 --chunks 8 --no-ppl {flags}"));
            same(&found, &whole, 2e-2);
        }
        // The first five chunks, and three more on top of them; then both files combined without a model.
        let (_, _) = imatrix(&folder, &format!("{model} -f text -c 64 --chunks 5 --no-ppl"));
        fs::rename(folder.path().join("last"), folder.path().join("five")).unwrap();
        let rest = format!("{model} -f text -c 64 --chunk 5 --chunks 3 --no-ppl");
        let (_, found) = imatrix(&folder, &format!("{rest} --in-file five"));
        same(&found, &whole, 2e-2);
        assert_eq!(found.datasets, ["text", "text"]);
        let (_, _) = imatrix(&folder, &rest);
        fs::rename(folder.path().join("last"), folder.path().join("three")).unwrap();
        let (_, found) = imatrix(&folder, "--in-file five --in-file three");
        same(&found, &whole, 2e-2);

        // The older form gives the same means.
        let (_, old) = imatrix(&folder, &format!("{model} -f text -c 64 --chunks 8 --no-ppl --output-format dat"));
        assert_eq!((old.chunk_size, &old.datasets), (0, &whole.datasets));
        for (name, entry) in whole.entries() {
            let (a, b) = (entry.means(), old.importance(name).unwrap());
            assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-6 * a), "{name}");
        }
    }
}

#[test]
fn copies_are_kept_and_statistics_printed() {
    let folder = folder();
    imatrix(&folder, "m -f text -c 64 --chunks 7 -ub 64 --no-ppl --save-frequency 3");
    for (name, chunks) in [("out.at_3", 3), ("out.at_6", 6)] {
        assert_eq!(Imatrix::open(&folder.path().join(name)).unwrap().chunk_count, chunks);
    }
    let table = answer(&folder, "imatrix --in-file last --show-statistics");
    let mut lines = table.lines();
    assert!(lines.next().unwrap().starts_with("layer"), "{table}");
    let row = table.lines().find(|line| line.contains("\tattn_q ")).unwrap();
    let cells: Vec<&str> = row.split('\t').map(str::trim).collect();
    assert_eq!((cells[1], cells[8]), ("attn_q", "64"), "{table}");
    // The sum of the mean squares behind a norm.
    assert!((cells[2].parse::<f32>().unwrap() - 64.0).abs() < 0.7, "{table}");
    assert_eq!(table.lines().filter(|line| line.contains("ffn_down")).count(), 2, "{table}");
}

#[test]
fn what_it_refuses() {
    let folder = folder();
    imatrix(&folder, "m -f text -c 64 --chunks 2 --no-ppl");
    let rows = [
        ("m -f text -c 1024", "text: found 1442 tokens, expected at least 2048, two chunks of 1024"),
        (
            "m -f text -c 64 --chunk 30",
            "text: found 1442 tokens, expected at least 2048, two chunks of 64 after 30 more",
        ),
        ("m -f text -c 64 --chunks 0", "--chunks: found 0"),
        ("m -f text -c 64 --in-file text", "text: the number of entries: found"),
        ("moe -f text -c 64 --in-file none", "none: cannot open the file: no such file"),
        ("--in-file last --in-file m", "m: key imatrix.datasets: found nothing"),
        ("--in-file last --in-file last --show-statistics", "--show-statistics: found 2 files"),
        ("m -f text -c 64 -o no/out", "no/out: cannot create the file"),
    ];
    for (line, expected) in rows {
        let done = Done::from(ostro(folder.path(), words(&format!("imatrix {line}"))).output().unwrap());
        let told = done.err.contains(&format!("error: {expected}"));
        assert!(done.code == Some(1) && done.out.is_empty() && told, "{line}: {done:?}");
    }
    // A matrix of another model is found out before anything is computed.
    let mut other = Imatrix::new(64);
    other.add("blk.0.attn_q.weight", (0, 1), &[1.0; 8], 64);
    other.write(&folder.path().join("other")).unwrap();
    let done = Done::from(ostro(folder.path(), words("imatrix m -f text -c 64 --in-file other")).output().unwrap());
    let expected =
        "error: other: entry blk.0.attn_q.weight: found 8 sums of 1 matrices, expected 64 sums of 1 matrices";
    assert!(done.code == Some(1) && done.err.starts_with(expected), "{done:?}");
}

fn answer_of(folder: &TempDir, line: &str) -> String {
    let done = Done::from(ostro(folder.path(), words(line)).output().unwrap());
    assert_eq!(done.code, Some(0), "{line}: {done:?}");
    done.out
}
