//! The writer: what it writes reads back; what cannot be written is refused; a file is there only when complete.

use std::path::Path;

use ostro::gguf::{Gguf, Layout, Metadata, NewTensor, OpenOptions, Value, Writer};
use ostro_kernels::DType;

use super::raw::Folder;

fn new(name: &str, dtype: DType, dims: &[u64]) -> NewTensor {
    NewTensor { name: name.into(), dtype, dims: dims.into() }
}

#[test]
fn reads_back() {
    let folder = Folder::new("writer");
    for alignment in [1u32, 32, 256, 4096] {
        let path = folder.join(format!("{alignment}.gguf"));
        let mut metadata = Metadata::new(&path);
        metadata.set("general.alignment", Value::U32(alignment));
        metadata.set("general.architecture", Value::String("llama".into()));
        let tensors =
            [new("a", DType::F32, &[3]), new("b", DType::Q8_0, &[64, 3]), new("c", DType::Q4_K, &[256, 2, 2])];
        let data: Vec<Vec<u8>> = [12, 204, 576].iter().map(|&n| (0..n).map(|i| (i % 251) as u8).collect()).collect();
        let mut writer = Writer::create(&path, &metadata, &tensors).unwrap();
        for bytes in &data {
            // In two pieces, as a quantizer writes slabs.
            let (head, tail) = bytes.split_at(7);
            writer.append(head).unwrap();
            writer.append(tail).unwrap();
        }
        assert!(!path.exists(), "the file must not be there before it is complete");
        writer.commit().unwrap();

        for mmap in [true, false] {
            let gguf = Gguf::open_with(&path, &OpenOptions { mmap, mlock: true }).unwrap();
            assert_eq!((gguf.version(), gguf.alignment()), (3, alignment.into()));
            assert!(gguf.metadata().iter().eq(metadata.iter()));
            for ((t, new), bytes) in gguf.tensors().iter().zip(&tensors).zip(&data) {
                assert_eq!((&t.name, t.dtype, &t.dims), (&new.name, new.dtype, &new.dims));
                assert_eq!(gguf.data(t), bytes);
            }
            assert_eq!(gguf.tensors().len(), 3);
        }
    }
}

/// Where the system does not allow locking, the file opens all the same and says so.
#[test]
fn locks_or_warns() {
    let folder = Folder::new("lock");
    let path = folder.join("x.gguf");
    let mut writer = Writer::create(&path, &Metadata::new(&path), &[new("a", DType::F32, &[1 << 18])]).unwrap();
    writer.append(&vec![1; 1 << 20]).unwrap();
    writer.commit().unwrap();
    for mmap in [true, false] {
        let gguf = Gguf::open_with(&path, &OpenOptions { mmap, mlock: true }).unwrap();
        for warning in gguf.warnings() {
            eprintln!("{warning}");
            assert!(warning.contains("x.gguf: cannot lock 1048640 bytes in memory"), "{warning}");
        }
        assert!(gguf.data(&gguf.tensors()[0]).iter().all(|&b| b == 1));
    }
}

#[test]
fn an_unfinished_file_is_removed() {
    let folder = Folder::new("unfinished");
    let path = folder.join("x.gguf");
    let writer = Writer::create(&path, &Metadata::new(&path), &[new("a", DType::F32, &[3])]).unwrap();
    assert_eq!(folder.read_dir().unwrap().count(), 1);
    let error = writer.commit().unwrap_err().to_string();
    assert!(error.ends_with("x.gguf: tensor a: found 0 bytes written, expected 12"), "{error}");
    assert_eq!(folder.read_dir().unwrap().count(), 0);
}

#[test]
fn refuses() {
    let path = Path::new("x.gguf");
    let start = |tensors: &[NewTensor]| {
        Layout::new(path, &Metadata::new(path), tensors).and_then(|layout| Writer::new(Vec::new(), path, layout))
    };
    let mut failed = Vec::new();
    let rows: [(&[NewTensor], &str); 4] = [
        (
            &[new("a", DType::Q4_K, &[100])],
            "x.gguf: tensor a: found rows of 100, expected rows of a multiple of 256 (Q4_K)",
        ),
        (&[new("a", DType::F32, &[])], "x.gguf: tensor a: found 0 dimensions, expected 1 to 4"),
        (&[new("a", DType::F32, &[1, 0])], "x.gguf: tensor a: found shape [1, 0], expected no dimension of 0"),
        (
            &[new("a", DType::F32, &[1]), new("a", DType::F32, &[1])],
            "x.gguf: tensor a: found the name a second time, expected each name once",
        ),
    ];
    for (tensors, expected) in rows {
        let found = start(tensors).map(|_| "no error".to_owned()).unwrap_or_else(|e| e.to_string());
        if found != expected {
            failed.push(format!("expected: {expected}\n   found: {found}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));

    let mut writer = start(&[new("a", DType::F32, &[1])]).unwrap();
    assert_eq!(
        writer.append(&[0; 5]).unwrap_err().to_string(),
        "x.gguf: tensor a: found 5 more bytes, expected at most 4"
    );
    writer.append(&[0; 4]).unwrap();
    let error = writer.append(&[0]).unwrap_err().to_string();
    assert_eq!(error, "x.gguf: data: found 1 bytes after the last tensor, expected none");
}
