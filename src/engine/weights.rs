//! The weights of a model, by layer and part: the one place through which the forward pass reaches them.

use super::Error;
use super::ops::At;
use crate::gguf::Gguf;
use crate::model::{Account, Manifest, ModelSpec, Part, Source, rope::Rope};
use ostro_kernels::{DType, Mat, quantize};

/// One weight.
enum Weight<'f> {
    /// A matrix in the map.
    Matrix(Mat<'f>),
    /// One matrix an expert, in the map, whichever way the file lays them out.
    Experts(Vec<Mat<'f>>),
    /// A norm or a bias: a few kilobytes, copied out as floats.
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
    pub(super) ropes: Vec<Rope>,
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
            let view = |tensor: &crate::gguf::Tensor, rows| {
                Mat::new(tensor.dtype, rows, size(0), gguf.data(tensor)).expect("the shape was checked by resolve")
            };
            let weight = match (&binding.source, binding.dims.len()) {
                (Source::PerExpert(_), _) => Weight::Experts(tensors.iter().map(|t| view(t, size(1))).collect()),
                (Source::Tensor(_), 3) => {
                    let all = view(tensors[0], size(1) * size(2));
                    Weight::Experts((0..size(2)).map(|e| all.stacked(e, size(2))).collect())
                }
                (Source::Tensor(_), 2) => Weight::Matrix(view(tensors[0], size(1))),
                (Source::Tensor(_), _) => {
                    let mut floats = vec![0.0; size(0)];
                    quantize::decode_row(tensors[0].dtype, gguf.data(tensors[0]), &mut floats);
                    Weight::Vector(floats)
                }
            };
            let parts = match binding.slot.layer {
                None => &mut globals,
                Some(layer) => &mut layers[layer],
            };
            parts.present.push(binding.slot.part);
            parts.weights[binding.slot.part as usize] = Some(weight);
        }
        let ropes = spec
            .ropes
            .iter()
            .map(|rope| Rope::new(rope, rope.factors.then(|| globals.vector(Part::RopeFactors))))
            .collect();
        Ok(Model { spec, manifest, account, warnings, ropes, globals, layers })
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
