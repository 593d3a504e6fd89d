//! Split sets: found from the first part, complete or told what is missing.

use std::path::PathBuf;

use ostro::gguf::Gguf;

use super::raw::{Folder, file, key, tensor};

/// Name and bytes.
type File = (&'static str, Vec<u8>);

/// The bytes of one part, with one tensor of four floats.
fn part(no: u16, count: u16, total: i32, name: &str) -> Vec<u8> {
    let keys = [
        key("split.no", 2, no.to_le_bytes()),
        key("split.count", 2, count.to_le_bytes()),
        key("split.tensors.count", 5, total.to_le_bytes()),
    ];
    let mut bytes = file(&keys, &[tensor(name, &[4], 0, 0)], 0);
    bytes.extend([no as u8; 16]);
    bytes
}

#[test]
fn sets() {
    const NEXT: &str = "the parts are of different sets: download them again";
    const SET: [&str; 3] = ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"];
    let good = || vec![(SET[0], part(0, 3, 3, "a")), (SET[1], part(1, 3, 3, "b")), (SET[2], part(2, 3, 3, "c"))];
    let without =
        |i: &[usize]| good().into_iter().enumerate().filter(|(n, _)| !i.contains(n)).map(|(_, f)| f).collect();
    let with = |i: usize, bytes| {
        let mut files = good();
        files[i].1 = bytes;
        files
    };
    #[rustfmt::skip]
    let rows: Vec<(Vec<File>, &str, String)> = vec![
        (good(), SET[0], "ok".into()),
        (good(), SET[1], format!("DIR/{}: key split.no: found part 2 of 3, expected the first part of the set; give DIR/{}", SET[1], SET[0])),
        (without(&[1]), SET[0], format!("DIR/{}: split set: found no {}, expected 3 parts in one folder; download the missing parts to the folder of the first", SET[0], SET[1])),
        (without(&[1, 2]), SET[0], format!("DIR/{}: split set: found no {} and 1 more, expected 3 parts in one folder; download the missing parts to the folder of the first", SET[0], SET[1])),
        (with(2, part(1, 3, 3, "c")), SET[0], format!("DIR/{}: key split.no: found 1, expected 2; {NEXT}", SET[2])),
        (with(1, part(1, 4, 3, "b")), SET[0], format!("DIR/{}: key split.count: found 4, expected 3; {NEXT}", SET[1])),
        (with(1, part(1, 3, 9, "b")), SET[0], format!("DIR/{}: key split.tensors.count: found 9, expected 3; {NEXT}", SET[1])),
        (with(0, part(0, 3, 4, "a")), SET[0], format!("DIR/{}: key split.tensors.count: found 3, expected 4; {NEXT}", SET[1])),
        (with(2, part(2, 3, 3, "a")), SET[0], format!("DIR/{}: tensor a: found it also in part 1, expected each name once; {NEXT}", SET[2])),
        (with(1, file(&[], &[tensor("b", &[4], 0, 0)], 16)), SET[0], format!("DIR/{}: key split.no: found nothing, expected 1; {NEXT}", SET[1])),
        (with(1, b"GGUF".to_vec()), SET[0], format!("DIR/{}: version: found the end of the file after 4 bytes, expected 4 more bytes at byte 4; the file is truncated or damaged: download it again", SET[1])),
        (vec![("m.gguf", part(0, 3, 3, "a"))], "m.gguf", "DIR/m.gguf: file name: found m.gguf, expected a name that ends in -00001-of-00003.gguf, as this is part 1 of 3; give the parts their names back, or merge them".into()),
        (vec![("m.gguf", part(1, 3, 3, "a"))], "m.gguf", "DIR/m.gguf: key split.no: found part 2 of 3, expected the first part of the set; give the file whose name ends in -00001-of-00003.gguf".into()),
        (vec![("m.gguf", part(7, 3, 3, "a"))], "m.gguf", "DIR/m.gguf: keys split.no, split.count: found 7 of 3, expected a part within the set; the file is damaged: download or split it again".into()),
        (vec![("m.gguf", part(0, 1, 1, "a"))], "m.gguf", "ok".into()),
        ((0..3).map(|i| (SET[i], part(i as u16, 3, 5, ["a", "b", "c"][i]))).collect(), SET[0], format!("DIR/{}: split set: found 3 tensors in 3 parts, expected 5 (split.tensors.count); {NEXT}", SET[0])),
    ];
    let mut failed = Vec::new();
    for (i, (files, open, expected)) in rows.into_iter().enumerate() {
        let folder = Folder::new(&format!("split{i}"));
        for (name, bytes) in &files {
            folder.write(name, bytes);
        }
        let found = match Gguf::open(&folder.join(open)) {
            Ok(gguf) if gguf.tensors().iter().all(|t| gguf.data(t) == [t.file as u8; 16]) => "ok".into(),
            Ok(_) => "wrong data".into(),
            Err(e) => e.to_string().replace(&folder.to_string_lossy().into_owned(), "DIR"),
        };
        if found != expected {
            failed.push(format!("row {i}: expected: {expected}\n          found: {found}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn files_are_listed_in_order() {
    let folder = Folder::new("files");
    let paths: Vec<PathBuf> = (0..2u16)
        .map(|i| folder.write(&format!("x-{:05}-of-00002.gguf", i + 1), &part(i, 2, 2, ["a", "b"][i as usize])))
        .collect();
    let gguf = Gguf::open(&paths[0]).unwrap();
    let size = std::fs::metadata(&paths[0]).unwrap().len();
    assert_eq!(gguf.files().collect::<Vec<_>>(), [(paths[0].as_path(), size), (paths[1].as_path(), size)]);
    assert_eq!(gguf.path(), paths[0]);
    assert_eq!(gguf.tensor("b").map(|t| t.file), Some(1));
    assert_eq!(gguf.tensor("c"), None);
}
