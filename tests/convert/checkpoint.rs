//! A checkpoint in memory, made from a reference model, changed, and written to a folder of its own.

use ostro::convert::{Change, Source, SourceTensor};
use ostro_kernels::quantize::decode_row;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

/// A tensor: type, shape, bytes.
#[derive(Clone)]
pub struct Stored {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

/// The parts of a checkpoint.
pub struct Checkpoint {
    pub config: Map<String, Value>,
    pub tensors: BTreeMap<String, Stored>,
    /// The other files, by name.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Checkpoint {
    /// All of a reference model.
    pub fn read(dir: &Path) -> Checkpoint {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                files.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap());
            }
        }
        let weights = files.remove("model.safetensors").unwrap();
        let tensors = SafeTensors::deserialize(&weights).unwrap().tensors();
        let stored = |t: &TensorView| Stored { dtype: t.dtype(), shape: t.shape().to_vec(), bytes: t.data().to_vec() };
        Checkpoint {
            config: serde_json::from_slice(&files.remove("config.json").unwrap()).unwrap(),
            tensors: tensors.iter().map(|(name, t)| (name.clone(), stored(t))).collect(),
            files,
        }
    }

    /// Writes it as a folder with these names for the configuration and the weights.
    pub fn write_as(&self, config: &str, weights: &str) -> TempDir {
        let dir = folder();
        for (name, bytes) in &self.files {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        std::fs::write(dir.path().join(config), serde_json::to_vec(&self.config).unwrap()).unwrap();
        let view =
            |t: &Stored| TensorView::new(t.dtype, t.shape.clone(), Box::leak(t.bytes.clone().into_boxed_slice()));
        let views: Vec<_> = self.tensors.iter().map(|(name, t)| (name, view(t).unwrap())).collect();
        std::fs::write(dir.path().join(weights), safetensors::serialize(views, None).unwrap()).unwrap();
        dir
    }

    /// Writes it as transformers does.
    pub fn write(&self) -> TempDir {
        self.write_as("config.json", "model.safetensors")
    }

    /// Changes a JSON file.
    pub fn edit(&mut self, file: &str, change: impl FnOnce(&mut Value)) {
        let mut json: Value = serde_json::from_slice(&self.files[file]).unwrap();
        change(&mut json);
        self.files.insert(file.to_owned(), serde_json::to_vec(&json).unwrap());
    }
}

/// A folder whose name says nothing of the model.
pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("model").tempdir().unwrap()
}

/// The elements of a tensor as the F32 file has them, read in slabs of some rows.
pub fn elements(source: &Source, tensor: &SourceTensor, slab: u64) -> Vec<f32> {
    let (cols, row_bytes) = (tensor.cols() as usize, tensor.row_bytes() as usize);
    let mut out = vec![f32::NAN; tensor.elements() as usize];
    let mut first = 0;
    while first < tensor.rows() {
        let rows = slab.min(tensor.rows() - first);
        let mut bytes = vec![0; rows as usize * row_bytes];
        source.read_rows(tensor, first..first + rows, &mut bytes).unwrap();
        let at = first as usize * cols;
        decode_row(tensor.dtype, &bytes, &mut out[at..at + rows as usize * cols]);
        first += rows;
    }
    if tensor.change == Change::AddOne {
        out.iter_mut().for_each(|x| *x += 1.0);
    }
    out
}
