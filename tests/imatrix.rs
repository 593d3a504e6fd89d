//! Importance matrices in both of llama.cpp's forms: what is read, written, combined and refused; and one of llama.cpp's.

mod common;

use ostro::convert::Imatrix;
use ostro::gguf::{Array, Gguf, Metadata, NewTensor, Value, Writer};
use ostro_kernels::DType;
use std::path::{Path, PathBuf};

/// A file of the older form, entries of (name, calls, values).
fn legacy(entries: &[(&str, i32, &[f32])], tail: Option<(i32, &str)>) -> Vec<u8> {
    let mut out = (entries.len() as i32).to_le_bytes().to_vec();
    for (name, calls, values) in entries {
        out.extend((name.len() as i32).to_le_bytes());
        out.extend(name.as_bytes());
        out.extend(calls.to_le_bytes());
        out.extend((values.len() as i32).to_le_bytes());
        values.iter().for_each(|v| out.extend(v.to_le_bytes()));
    }
    if let Some((chunks, dataset)) = tail {
        out.extend(chunks.to_le_bytes());
        out.extend((dataset.len() as i32).to_le_bytes());
        out.extend(dataset.as_bytes());
    }
    out
}

/// A tensor: name, dimensions, floats.
type NewValues<'a> = (&'a str, &'a [u64], &'a [f32]);

/// A GGUF file of these tensors with the keys of an importance matrix, `without` one.
fn gguf(path: &Path, tensors: &[NewValues], without: &str) {
    let mut metadata = Metadata::new(path);
    let keys = [
        ("general.type", Value::String("imatrix".into())),
        ("imatrix.datasets", Value::Array(Array::String(vec!["a.txt".into()]))),
        ("imatrix.chunk_count", Value::U32(3)),
        ("imatrix.chunk_size", Value::U32(512)),
    ];
    keys.into_iter().filter(|(key, _)| *key != without).for_each(|(key, value)| _ = metadata.set(key, value));
    let new = |(name, dims, _): &NewValues| NewTensor { name: (*name).into(), dtype: DType::F32, dims: dims.to_vec() };
    let mut writer = Writer::create(path, &metadata, &tensors.iter().map(new).collect::<Vec<_>>()).unwrap();
    for (_, _, values) in tensors {
        writer.append(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    }
    writer.commit().unwrap();
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("i.matrix");
    (folder, path)
}

#[test]
fn importance_is_what_llama_quantize_takes() {
    let (_folder, path) = folder();
    // Counts are rounded; an expert that was never chosen counts evenly.
    let sums: [f32; 6] = [1.0, 2.0, 5.0, 7.0, 8.0, 9.0];
    gguf(
        &path,
        &[
            ("blk.0.ffn_up_exps.weight.in_sum2", &[2, 3], &sums),
            ("blk.0.ffn_up_exps.weight.counts", &[1, 3], &[3.0, 0.0, 7.4]),
            ("blk.0.attn_q.weight.counts", &[1], &[2.0]),
            ("blk.0.attn_q.weight.in_sum2", &[2], &[3.0, 5.0]),
            ("other", &[1], &[1.0]),
        ],
        "",
    );
    let imatrix = Imatrix::open(&path).unwrap();
    assert_eq!((imatrix.len(), imatrix.chunk_count, imatrix.chunk_size), (2, 3, 512));
    assert_eq!(imatrix.datasets, ["a.txt"]);
    let expected = [1.0 / 3.0, 2.0 / 3.0, 1.0, 1.0, 8.0 / 7.0, 9.0 / 7.0];
    assert_eq!(imatrix.importance("blk.0.ffn_up_exps.weight").unwrap(), expected);
    assert_eq!(imatrix.importance("blk.0.attn_q.weight").unwrap(), [1.5, 2.5]);
    assert_eq!(imatrix.importance("blk.0.attn_k.weight"), None);

    // The older form: values over calls; without calls the values.
    let bytes = legacy(&[("x", 4, &[2.0, 6.0]), ("y", 0, &[5.0]), ("z", -1, &[7.0])], Some((9, "b.txt")));
    std::fs::write(&path, &bytes).unwrap();
    let imatrix = Imatrix::open(&path).unwrap();
    assert_eq!((imatrix.len(), imatrix.chunk_count, imatrix.chunk_size), (3, 9, 0));
    assert_eq!(imatrix.datasets, ["b.txt"]);
    for (name, values) in [("x", &[0.5, 1.5][..]), ("y", &[5.0]), ("z", &[7.0])] {
        assert_eq!(imatrix.importance(name).unwrap(), values, "{name}");
    }
    // The tail came later into the format.
    std::fs::write(&path, legacy(&[("x", 4, &[2.0])], None)).unwrap();
    let imatrix = Imatrix::open(&path).unwrap();
    assert_eq!((imatrix.chunk_count, imatrix.datasets.len()), (0, 0));
}

fn collected() -> Imatrix {
    let mut imatrix = Imatrix::new(512);
    imatrix.datasets = vec!["first.txt".into(), "ünï.txt".into()];
    imatrix.add("blk.0.ffn_down_exps.weight", (1, 3), &[1.0, 3.0], 512);
    imatrix.add("blk.0.ffn_down_exps.weight", (2, 3), &[4.0, 5.0], 10);
    imatrix.add("blk.0.ffn_down_exps.weight", (2, 3), &[1.0, 1.0], 5);
    imatrix.add("blk.0.attn_q.weight", (0, 1), &[2.0, 4.0, 8.0], 1030);
    imatrix
}

#[test]
fn what_is_written_is_read_again() {
    let (_folder, path) = folder();
    let imatrix = collected();
    assert_eq!(imatrix.chunk_count, 2);
    imatrix.write(&path).unwrap();
    assert_eq!(Imatrix::open(&path).unwrap(), imatrix);
    // As llama-imatrix writes them: sorted, sums before counts, no dimension of one at the end.
    let gguf = Gguf::open(&path).unwrap();
    let keys: Vec<_> = gguf.metadata().iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["general.type", "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"]);
    let tensors: Vec<_> = gguf.tensors().iter().map(|t| (t.name.as_str(), t.dims.as_slice())).collect();
    let expected: [(&str, &[u64]); 4] = [
        ("blk.0.attn_q.weight.in_sum2", &[3]),
        ("blk.0.attn_q.weight.counts", &[1]),
        ("blk.0.ffn_down_exps.weight.in_sum2", &[2, 3]),
        ("blk.0.ffn_down_exps.weight.counts", &[1, 3]),
    ];
    assert_eq!(tensors, expected);

    let mut bytes = Vec::new();
    let mut unseen = imatrix.clone();
    unseen.add("blk.1.attn_q.weight", (0, 1), &[0.0], 0);
    unseen.write_legacy(&mut bytes).unwrap();
    let expected = legacy(
        &[
            ("blk.0.attn_q.weight", 3, &[2.0 / 1030.0 * 3.0, 4.0 / 1030.0 * 3.0, 8.0 / 1030.0 * 3.0]),
            ("blk.0.ffn_down_exps.weight", 1, &[1.0, 1.0, 1.0 / 512.0, 3.0 / 512.0, 5.0 / 15.0, 6.0 / 15.0]),
        ],
        Some((2, "ünï.txt")),
    );
    assert_eq!(bytes, expected);
}

#[test]
fn files_are_combined() {
    let (_folder, path) = folder();
    let mut sum = collected();
    sum.merge(&path, collected()).unwrap();
    assert_eq!(sum.importance("blk.0.attn_q.weight"), collected().importance("blk.0.attn_q.weight"));
    assert_eq!((sum.chunk_count, sum.datasets.len()), (4, 4));
    let entry = |imatrix: &Imatrix, name: &str| imatrix.entries().find(|(n, _)| *n == name).unwrap().1.clone();
    assert_eq!(entry(&sum, "blk.0.ffn_down_exps.weight").counts, [0, 1024, 30]);

    // A call of the older form is a chunk, of each expert.
    let old = [("blk.0.ffn_down_exps.weight", 2, &[1.0; 6][..]), ("new", 1, &[3.0])];
    std::fs::write(&path, legacy(&old, None)).unwrap();
    let mut sum = collected();
    sum.merge(&path, Imatrix::open(&path).unwrap()).unwrap();
    let down = entry(&sum, "blk.0.ffn_down_exps.weight");
    assert_eq!((down.counts, down.sums), (vec![1024, 1536, 1039], vec![512.0, 512.0, 513.0, 515.0, 517.0, 518.0]));
    assert_eq!((entry(&sum, "new").counts, entry(&sum, "new").sums), (vec![512], vec![1536.0]));

    let mut other = Imatrix::new(512);
    other.add("blk.0.attn_q.weight", (0, 1), &[1.0; 4], 1);
    let error = sum.merge(&path, other).unwrap_err().to_string();
    assert!(error.contains("entry blk.0.attn_q.weight: found 4 sums of 1 matrices, expected 3 sums"), "{error}");
}

#[test]
fn what_is_wrong_is_told() {
    let (_folder, path) = folder();
    let whole = legacy(&[("name", 1, &[1.0, 2.0])], Some((1, "text")));
    let with = |at: usize, value: i32| {
        let mut bytes = whole.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    let mut rows: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "the number of entries: found the end of the file after 0 bytes"),
        (
            b"Some text, which is no matrix".to_vec(),
            "the number of entries: found 1701670739 at byte 0, expected 1 to 1",
        ),
        (with(0, 0), "the number of entries: found 0"),
        (with(0, -1), "the number of entries: found -1"),
        (with(4, i32::MAX), "the length of the name of entry 1: found 2147483647"),
        (with(4, -5), "the length of the name of entry 1: found -5"),
        (with(16, i32::MAX), "the number of values of entry 1: found 2147483647"),
        (with(16, 0), "the number of values of entry 1: found 0"),
        (with(32, 100), "the length of the name of the text: found 100"),
        (legacy(&[("x", 1, &[f32::NAN])], None), "entry x: found a value that is not finite"),
    ];
    let cut = (1..whole.len()).filter(|&n| n != 28 && n != 32).map(|n| (whole[..n].to_vec(), "expected"));
    rows.extend(cut);
    for (bytes, expected) in rows {
        std::fs::write(&path, &bytes).unwrap();
        match Imatrix::open(&path) {
            Ok(_) => panic!("{bytes:?} is read, {expected} expected"),
            Err(e) => {
                let text = e.to_string();
                assert!(text.contains(expected) && text.contains("i.matrix"), "{text}: expected {expected}");
            }
        }
    }

    let (sums, counts) = ("x.in_sum2", "x.counts");
    let rows: [(&[NewValues], &str, &str); 8] = [
        (&[(sums, &[2], &[1.0, 2.0])], "", "entry x: found no tensor of its .counts"),
        (&[(counts, &[1], &[1.0])], "", "entry x: found no tensor of its .in_sum2"),
        (&[(sums, &[3], &[1.0; 3]), (counts, &[1, 2], &[1.0; 2])], "", "entry x: found 3 sums and 2 counts"),
        (&[(sums, &[1], &[f32::INFINITY]), (counts, &[1], &[1.0])], "", "entry x: found a value that is not finite"),
        (&[(sums, &[1], &[1.0]), (counts, &[1], &[-1.0])], "", "tensor x.counts: found -1, expected a count"),
        (&[(sums, &[1], &[1.0]), (counts, &[1], &[f32::NAN])], "", "tensor x.counts: found NaN"),
        (&[("other", &[1], &[1.0])], "", "entries: found none"),
        (
            &[(sums, &[1], &[1.0]), (counts, &[1], &[1.0])],
            "imatrix.chunk_size",
            "key imatrix.chunk_size: found nothing",
        ),
    ];
    for (tensors, without, expected) in rows {
        gguf(&path, tensors, without);
        let text = Imatrix::open(&path).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}: expected {expected}");
    }
    let text = Imatrix::open(&path.with_extension("none")).unwrap_err().to_string();
    assert!(text.contains("no such file"), "{text}");
    let text = Imatrix::open(path.parent().unwrap()).unwrap_err().to_string();
    assert!(text.contains("a directory"), "{text}");
}

/// llama-imatrix's own file: `llama-imatrix -m mixtral-F32.gguf -f LICENSE --chunks 4 --process-output`.
#[test]
fn what_is_collected_is_what_llama_imatrix_collects() {
    let Some(model) = common::reference("models/mixtral/gguf/mixtral-F32.gguf") else { return };
    let (_folder, path) = folder();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_ostro"));
    run.arg("imatrix").arg(model).args(["-f", "LICENSE", "--chunks", "4", "--process-output", "-o"]).arg(&path);
    let done = run.current_dir(root).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let found = Imatrix::open(&path).unwrap();
    let wanted = Imatrix::open(&root.join("tests/data/mixtral.imatrix")).unwrap();
    assert_eq!((found.chunk_count, found.chunk_size, &found.datasets), (4, 512, &wanted.datasets));
    assert_eq!((found.len(), wanted.len()), (17, 17));
    for ((name, a), (other, b)) in found.entries().zip(wanted.entries()) {
        assert_eq!((name, &a.counts, a.sums.len()), (other, &b.counts, b.sums.len()));
        let far = a.sums.iter().zip(&b.sums).map(|(a, b)| (a - b).abs() / b).fold(0.0, f32::max);
        // 5e-5 was measured; keys and values are rounded to 16 bits in both.
        assert!(far < 1e-3, "{name}: {far}");
    }
    // The same keys, tensors and shapes, in the same order.
    let header = |path: &Path| {
        let gguf = Gguf::open(path).unwrap();
        let keys: Vec<_> = gguf.metadata().iter().map(|(key, value)| (key.to_owned(), value.clone())).collect();
        let tensors: Vec<_> = gguf.tensors().iter().map(|t| (t.name.clone(), t.dims.clone(), t.offset)).collect();
        (keys, tensors)
    };
    assert_eq!(header(&path), header(&root.join("tests/data/mixtral.imatrix")));
}
