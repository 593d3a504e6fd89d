//! A GGUF file or split set as a source.
//!
//! Files of 2023 have one tensor an expert, which llama.cpp reads no more; they become the merged tensors of today,
//! which hold the same bytes one expert behind the other.

use super::{Change, Error, Piece, Source, SourceFile, SourceTensor};
use crate::gguf::{Gguf, Tensor};
use std::collections::HashMap;
use std::path::Path;

/// Keys of a split set, which each set has anew.
const SPLIT: [&str; 3] = ["split.no", "split.count", "split.tensors.count"];

/// Opens a file, or a split set by its first part.
///
/// # Errors
/// What is no GGUF file; experts that differ.
pub fn open(path: &Path) -> Result<Source, Error> {
    let gguf = Gguf::open(path)?;
    let files = gguf.files().map(|(path, _)| SourceFile::open(path)).collect::<Result<_, _>>()?;
    let mut metadata = gguf.metadata().clone();
    for key in SPLIT {
        metadata.remove(key);
    }
    let mut notes = Vec::new();
    let tensors = merged(path, gguf.tensors(), &mut notes)?;
    Ok(Source { metadata, tensors, files, is_checkpoint: false, notes })
}

/// All tensors; those of single experts as one, in the place of the first.
fn merged(path: &Path, tensors: &[Tensor], notes: &mut Vec<String>) -> Result<Vec<SourceTensor>, Error> {
    let mut all: Vec<SourceTensor> = Vec::with_capacity(tensors.len());
    let mut tables: HashMap<String, usize> = HashMap::new();
    for t in tensors {
        let piece = Piece { file: t.file, offset: t.offset, rows: t.dims[1..].iter().product() };
        let one = SourceTensor {
            name: t.name.clone(),
            dtype: t.dtype,
            dims: t.dims.clone(),
            pieces: vec![piece],
            change: Change::None,
        };
        let Some((table, expert)) = expert(&t.name) else {
            all.push(one);
            continue;
        };
        let bad = |found: String, expected: String| {
            Error::bad(path, format!("tensor {}", t.name), found, expected, "the file is damaged: download it again")
        };
        match tables.get(&table) {
            None if expert == 0 => {
                tables.insert(table.clone(), all.len());
                let dims = [t.dims[0], t.dims[1..].iter().product(), 1].to_vec();
                all.push(SourceTensor { name: table, dims, ..one });
            }
            Some(&at) if all[at].pieces.len() == expert => {
                let merged = &mut all[at];
                if (one.dtype, one.cols(), piece.rows) != (merged.dtype, merged.dims[0], merged.dims[1]) {
                    let expected = format!("{} {:?} as of the first expert", merged.dtype, &merged.dims[..2]);
                    return Err(bad(format!("{} {:?}", one.dtype, one.dims), expected));
                }
                merged.pieces.push(piece);
                merged.dims[2] += 1;
            }
            at => {
                let next = at.map_or(0, |&at| all[at].pieces.len());
                return Err(bad(format!("expert {expert}"), format!("expert {next} of {table} first")));
            }
        }
    }
    if !tables.is_empty() {
        notes.push(format!("one tensor an expert, as in files of 2023: merged into {} tensors", tables.len()));
    }
    Ok(all)
}

/// `blk.N.ffn_gate.E.weight` as the name of the merged tensor and the expert.
fn expert(name: &str) -> Option<(String, usize)> {
    let [blk, layer, part, expert, weight] = name.split('.').collect::<Vec<_>>().try_into().ok()?;
    let known = blk == "blk" && weight == "weight" && matches!(part, "ffn_gate" | "ffn_up" | "ffn_down");
    known.then_some(())?;
    Some((format!("blk.{layer}.{part}_exps.weight"), expert.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostro_kernels::DType;

    fn tensor(name: &str, dims: &[u64], offset: u64) -> Tensor {
        Tensor { name: name.into(), dtype: DType::F32, dims: dims.into(), file: 0, offset, bytes: 0 }
    }

    #[test]
    fn experts_are_merged_in_their_order_or_refused() {
        let merge = |list: &[(&str, &[u64])]| {
            let tensors: Vec<_> = list.iter().zip(0..).map(|((name, dims), i)| tensor(name, dims, i * 100)).collect();
            merged(Path::new("m.gguf"), &tensors, &mut Vec::new())
        };
        let all = merge(&[
            ("blk.0.ffn_gate.0.weight", &[4, 3]),
            ("blk.0.ffn_gate_inp.weight", &[4, 2]),
            ("blk.0.ffn_gate.1.weight", &[4, 3]),
        ])
        .unwrap();
        let names: Vec<_> = all.iter().map(|t| (t.name.as_str(), t.dims.as_slice(), t.pieces.len())).collect();
        let want: [(&str, &[u64], usize); 2] =
            [("blk.0.ffn_gate_exps.weight", &[4, 3, 2], 2), ("blk.0.ffn_gate_inp.weight", &[4, 2], 1)];
        assert_eq!(names, want);
        assert_eq!(all[0].pieces[1].offset, 200);
        for bad in [
            [("blk.0.ffn_up.0.weight", &[4, 3]), ("blk.0.ffn_up.2.weight", &[4, 3])],
            [("blk.0.ffn_up.0.weight", &[4, 3]), ("blk.0.ffn_up.1.weight", &[4, 2])],
            [("blk.0.ffn_up.1.weight", &[4, 3]), ("blk.0.ffn_up.0.weight", &[4, 3])],
        ] {
            let list: Vec<(&str, &[u64])> = bad.iter().map(|(n, d)| (*n, d.as_slice())).collect();
            assert!(merge(&list).is_err(), "{bad:?}");
        }
    }
}
