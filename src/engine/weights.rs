//! The weights of a model, by layer and part: the one place through which the forward pass reaches them.

use super::Error;
use super::ops::At;
use crate::gguf::{Gguf, Tensor};
use crate::model::{Account, Manifest, ModelSpec, Part, Role, RopeFactors, RopeSpec, Source, rope::Rope};
use ostro_kernels::{Cpu, DType, Mat, quantize};

/// One weight.
enum Weight<'f> {
    /// A matrix in the map.
    Matrix(Mat<'f>),
    /// One matrix an expert or head, whichever way the file lays them out.
    Experts(Vec<Mat<'f>>),
    /// Norms, a bias or a table: a few kilobytes, copied out as floats.
    Vector(Vec<f32>),
}

/// The parts of one layer, or those of the model itself.
pub(super) struct Parts<'f> {
    /// By the part's number.
    weights: Vec<Option<Weight<'f>>>,
    /// Those that there are.
    present: Vec<Part>,
}

impl<'f> Parts<'f> {
    fn empty() -> Parts<'f> {
        Parts { weights: (0..Part::COUNT).map(|_| None).collect(), present: Vec::new() }
    }

    fn get(&self, part: Part) -> &Weight<'f> {
        self.weights[part as usize].as_ref().unwrap_or_else(|| panic!("{part:?} is not in the manifest"))
    }

    /// A matrix that the manifest lists.
    pub fn mat(&self, part: Part) -> Mat<'f> {
        match self.get(part) {
            Weight::Matrix(mat) => *mat,
            _ => panic!("{part:?} is not a matrix"),
        }
    }

    /// The matrices of all experts.
    pub fn experts(&self, part: Part) -> &[Mat<'f>] {
        match self.get(part) {
            Weight::Experts(mats) => mats,
            _ => panic!("{part:?} is not a table of experts"),
        }
    }

    /// The parts that there are.
    pub fn present(&self) -> impl Iterator<Item = Part> + '_ {
        self.present.iter().copied()
    }

    /// A matrix, or those of all experts; none where the part is a vector.
    pub fn matrices(&self, part: Part) -> Option<Vec<Mat<'f>>> {
        match self.get(part) {
            Weight::Matrix(mat) => Some(vec![*mat]),
            Weight::Experts(mats) => Some(mats.clone()),
            Weight::Vector(_) => None,
        }
    }

    /// The type of a matrix, or of those of all experts; vectors are floats.
    #[cfg(feature = "cuda")]
    pub fn dtype_of(&self, part: Part, expert: usize) -> DType {
        match self.get(part) {
            Weight::Matrix(mat) => mat.dtype(),
            Weight::Experts(mats) => mats[expert].dtype(),
            Weight::Vector(_) => DType::F32,
        }
    }

    /// Columns of a matrix, or of those of all experts.
    pub fn cols(&self, part: Part) -> usize {
        match self.get(part) {
            Weight::Matrix(mat) => mat.cols(),
            Weight::Experts(mats) => mats.first().map_or(0, Mat::cols),
            Weight::Vector(v) => v.len(),
        }
    }

    /// A vector that the manifest lists.
    pub fn vector(&self, part: Part) -> &[f32] {
        match self.get(part) {
            Weight::Vector(v) => v,
            _ => panic!("{part:?} is not a vector"),
        }
    }
}

/// A model: its spec, and its weights in the file's map.
pub struct Model<'f> {
    /// What the forward pass does.
    pub spec: ModelSpec,
    /// Its tensors.
    pub manifest: Manifest,
    /// Its bytes.
    pub account: Account,
    /// What a user should know, one line each.
    pub warnings: Vec<String>,
    globals: Parts<'f>,
    layers: Vec<Parts<'f>>,
}

impl<'f> Model<'f> {
    /// Reads the spec of a file and finds its tensors. Only the header and the norms are read.
    ///
    /// # Errors
    /// What [`ModelSpec::from_gguf`] and [`Manifest::resolve`] refuse.
    pub fn load(gguf: &'f Gguf) -> Result<Model<'f>, Error> {
        let (spec, unknown) = ModelSpec::from_gguf(gguf)?;
        let manifest = Manifest::new(&spec, gguf);
        let tensors = manifest.resolve(&spec, gguf)?;
        let warnings = unknown
            .iter()
            .map(|key| format!("{}: {key}: not understood by this version; results may differ", gguf.path().display()))
            .collect();

        let account = Account::new(&spec, &manifest, &tensors);
        let mut globals = Parts::empty();
        let mut layers: Vec<_> = spec.layers.iter().map(|_| Parts::empty()).collect();
        for (binding, tensors) in manifest.bindings.iter().zip(&tensors) {
            let size = |i: usize| binding.dims.get(i).map_or(1, |&d| d as usize);
            let cols = binding.file_dims()[0] as usize;
            let view = |tensor: &Tensor| {
                let rows = tensor.dims[1..].iter().product::<u64>() as usize;
                Mat::new(tensor.dtype, rows, cols, gguf.data(tensor)).expect("the shape was checked by resolve")
            };
            let is_vector = binding.dims.len() == 1 || binding.role == Role::Norm;
            let weight = match &binding.source {
                Source::PerExpert(_) => Weight::Experts(tensors.iter().map(|t| view(t)).collect()),
                Source::Tensor(_) if is_vector => Weight::Vector(floats(gguf, tensors[0])),
                Source::Tensor(_) if binding.dims.len() == 2 => Weight::Matrix(view(tensors[0])),
                Source::Tensor(_) => {
                    let all = view(tensors[0]);
                    Weight::Experts((0..size(2)).map(|e| all.stacked(e, size(2))).collect())
                }
                Source::Rows { first, .. } if is_vector => {
                    Weight::Vector(floats(gguf, tensors[0])[*first..*first + size(0)].to_vec())
                }
                Source::Rows { of, first, turned, .. } => {
                    let (all, rows) = (view(tensors[0]), if *turned { size(0) } else { size(1) });
                    let part = |i: usize| all.part(i * of + first, rows);
                    match (turned, binding.dims.len()) {
                        (true, _) => Weight::Experts((0..size(2)).map(|i| turned_round(gguf, part(i))).collect()),
                        (false, 2) => Weight::Matrix(part(0)),
                        (false, _) => Weight::Experts((0..size(2)).map(part).collect()),
                    }
                }
            };
            let parts = match binding.slot.layer {
                None => &mut globals,
                Some(layer) => &mut layers[layer],
            };
            parts.present.push(binding.slot.part);
            parts.weights[binding.slot.part as usize] = Some(weight);
        }
        Ok(Model { spec, manifest, account, warnings, globals, layers })
    }

    /// The rotary embeddings for a context of `n_ctx` positions.
    pub(super) fn ropes(&self, n_ctx: usize) -> Vec<Rope> {
        let rope = |rope: &RopeSpec| {
            let table = match rope.factors {
                RopeFactors::None => None,
                RopeFactors::Fixed => Some(Part::RopeFactors),
                RopeFactors::ByContext { original } if n_ctx > original => Some(Part::RopeLong),
                RopeFactors::ByContext { .. } => Some(Part::RopeShort),
            };
            Rope::new(rope, table.map(|table| self.globals.vector(table)))
        };
        self.spec.ropes.iter().map(rope).collect()
    }

    /// The types of the matrices.
    pub fn dtypes(&self) -> Vec<DType> {
        let all = self.layers.iter().chain([&self.globals]);
        let mats = all.flat_map(|parts| parts.present().filter_map(|part| parts.matrices(part)));
        let types: std::collections::BTreeSet<DType> = mats.flatten().map(|m| m.dtype()).collect();
        types.into_iter().collect()
    }

    /// The parts of a layer, or the model's own.
    pub(super) fn parts(&self, at: At) -> &Parts<'f> {
        at.map_or(&self.globals, |layer| &self.layers[layer])
    }

    /// The embedding, `[n_vocab, dim]`.
    pub(super) fn embedding(&self) -> Mat<'f> {
        self.globals.mat(Part::Embed)
    }

    /// Which matrix the head is.
    pub(super) fn head_part(&self) -> Part {
        if self.spec.tied_head { Part::Embed } else { Part::Head }
    }
}

/// A tensor as floats.
fn floats(gguf: &Gguf, tensor: &Tensor) -> Vec<f32> {
    let mut floats = vec![0.0; tensor.dims.iter().product::<u64>() as usize];
    quantize::decode_row(tensor.dtype, gguf.data(tensor), &mut floats);
    floats
}

/// A matrix whose rows are the columns of another: of the same type where that is floats, else of eight bits, which is more
/// than the weights had.
fn turned_round<'f>(gguf: &'f Gguf, mat: Mat<'_>) -> Mat<'f> {
    let (rows, cols) = (mat.cols(), mat.rows());
    let mut floats = vec![0.0; rows * cols];
    quantize::decode_row(mat.dtype(), mat.data(), &mut floats);
    let turned: Vec<f32> = (0..rows * cols).map(|i| floats[i % cols * rows + i / cols]).collect();
    let dtype = match mat.dtype() {
        float @ (DType::F32 | DType::F16 | DType::BF16) => float,
        _ if cols.is_multiple_of(DType::Q8_0.block_elems()) => DType::Q8_0,
        _ => DType::F16,
    };
    let mut bytes = vec![0; dtype.row_bytes(cols).expect("whole blocks") * rows];
    quantize::encode(Cpu::detect(), dtype, &turned, cols, None, &mut bytes);
    Mat::new(dtype, rows, cols, gguf.keep(bytes)).expect("of these rows")
}
