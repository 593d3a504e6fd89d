//! The list of a model's tensors: name, shape and role of each.
//!
//! One list serves the loader, the check for leftovers, the planner, the quantization policy and the account of
//! bytes per token. It follows from the spec alone, except that experts may lie merged or one by one.

use super::{Error, Ffn, Mixer, ModelSpec, Shapes};
use crate::gguf::{Gguf, Tensor};
use ostro_kernels::DType;
use std::collections::HashSet;

/// Which weight of a model or of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the field's own")]
pub enum Part {
    Embed,
    OutNorm,
    Head,
    RopeFactors,
    AttnNorm,
    Q,
    K,
    V,
    QBias,
    KBias,
    VBias,
    QNorm,
    KNorm,
    AttnOut,
    AttnOutBias,
    AttnPostNorm,
    FfnNorm,
    Gate,
    Up,
    Down,
    FfnPostNorm,
    Router,
    GateExps,
    UpExps,
    DownExps,
}

impl Part {
    /// How many parts there are.
    pub const COUNT: usize = Part::DownExps as usize + 1;

    /// Whether it belongs to the half of a layer that mixes positions, and not to the feed-forward half.
    pub fn is_mixer(self) -> bool {
        use Part::*;
        matches!(
            self,
            AttnNorm | Q | K | V | QBias | KBias | VBias | QNorm | KNorm | AttnOut | AttnOutBias | AttnPostNorm
        )
    }

    /// The GGUF name within a layer or the file, and what the tensor is for.
    fn name_and_role(self) -> (&'static str, Role) {
        match self {
            Part::Embed => ("token_embd.weight", Role::Embed),
            Part::OutNorm => ("output_norm.weight", Role::Norm),
            Part::Head => ("output.weight", Role::Head),
            Part::RopeFactors => ("rope_freqs.weight", Role::Table),
            Part::AttnNorm => ("attn_norm.weight", Role::Norm),
            Part::Q => ("attn_q.weight", Role::Attention),
            Part::K => ("attn_k.weight", Role::Attention),
            Part::V => ("attn_v.weight", Role::Attention),
            Part::QBias => ("attn_q.bias", Role::Attention),
            Part::KBias => ("attn_k.bias", Role::Attention),
            Part::VBias => ("attn_v.bias", Role::Attention),
            Part::QNorm => ("attn_q_norm.weight", Role::Norm),
            Part::KNorm => ("attn_k_norm.weight", Role::Norm),
            Part::AttnOut => ("attn_output.weight", Role::Attention),
            Part::AttnOutBias => ("attn_output.bias", Role::Attention),
            Part::AttnPostNorm => ("post_attention_norm.weight", Role::Norm),
            Part::FfnNorm => ("ffn_norm.weight", Role::Norm),
            Part::Gate => ("ffn_gate.weight", Role::Ffn),
            Part::Up => ("ffn_up.weight", Role::Ffn),
            Part::Down => ("ffn_down.weight", Role::Ffn),
            Part::FfnPostNorm => ("post_ffw_norm.weight", Role::Norm),
            Part::Router => ("ffn_gate_inp.weight", Role::Router),
            Part::GateExps => ("ffn_gate_exps.weight", Role::Experts),
            Part::UpExps => ("ffn_up_exps.weight", Role::Experts),
            Part::DownExps => ("ffn_down_exps.weight", Role::Experts),
        }
    }
}

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are the field's own")]
pub enum Role {
    Embed,
    Norm,
    Attention,
    Ffn,
    Router,
    Experts,
    Head,
    Table,
}

/// A part at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// `None` for the model's own parts.
    pub layer: Option<usize>,
    /// Which weight.
    pub part: Part,
}

impl Slot {
    /// The name of its tensor; of experts, that of the table of all.
    pub fn name(self) -> String {
        let (name, _) = self.part.name_and_role();
        match self.layer {
            None => name.to_owned(),
            Some(layer) => format!("blk.{layer}.{name}"),
        }
    }
}

/// Where a weight lies in the file.
#[derive(Clone, Debug)]
pub enum Source {
    /// One tensor.
    Tensor(String),
    /// One tensor for each expert, as in files of before April 2024.
    PerExpert(Vec<String>),
}

/// One weight of the model.
#[derive(Clone, Debug)]
pub struct Binding {
    /// Its place.
    pub slot: Slot,
    /// Its tensor or tensors.
    pub source: Source,
    /// Shape, fastest dimension first; experts come last.
    pub dims: Vec<u64>,
    /// What it is for.
    pub role: Role,
}

impl Binding {
    fn parameters(&self) -> u64 {
        if self.role == Role::Table { 0 } else { self.dims.iter().product() }
    }

    /// The part of an `amount` of this weight that one token meets.
    pub fn active(&self, spec: &ModelSpec, amount: u64) -> u64 {
        match self.slot.layer.map(|layer| &spec.layers[layer].ffn) {
            Some(Ffn::Moe(m)) if self.role == Role::Experts => amount / m.n_experts as u64 * m.n_active as u64,
            _ => amount,
        }
    }

    /// The names of its tensors.
    pub fn names(&self) -> &[String] {
        match &self.source {
            Source::Tensor(name) => std::slice::from_ref(name),
            Source::PerExpert(names) => names,
        }
    }
}

/// All weights of a model.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// In the order of the forward pass.
    pub bindings: Vec<Binding>,
}

impl Manifest {
    /// The weights that `spec` needs; `shapes` tells in which layout the experts lie.
    pub fn new(spec: &ModelSpec, shapes: &dyn Shapes) -> Manifest {
        let mut list = List { shapes, bindings: Vec::new() };
        let (dim, vocab) = (spec.dim, spec.n_vocab);
        list.add(None, Part::Embed, &[dim, vocab]);
        if let Some(rope) = spec.ropes.iter().find(|r| r.factors) {
            list.add(None, Part::RopeFactors, &[rope.dim / 2]);
        }
        for (i, layer) in spec.layers.iter().enumerate() {
            let at = Some(i);
            list.add(at, Part::AttnNorm, &[dim]);
            match &layer.mixer {
                Mixer::Gqa(a) => {
                    let (q, k, v) = (a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim, a.n_kv_heads * a.v_dim);
                    list.add(at, Part::Q, &[dim, q]);
                    list.add(at, Part::K, &[dim, k]);
                    list.add(at, Part::V, &[dim, v]);
                    if a.qkv_bias {
                        list.add(at, Part::QBias, &[q]);
                        list.add(at, Part::KBias, &[k]);
                        list.add(at, Part::VBias, &[v]);
                    }
                    if a.qk_norm.is_some() {
                        list.add(at, Part::QNorm, &[a.head_dim]);
                        list.add(at, Part::KNorm, &[a.head_dim]);
                    }
                    list.add(at, Part::AttnOut, &[a.n_heads * a.v_dim, dim]);
                    if a.out_bias {
                        list.add(at, Part::AttnOutBias, &[dim]);
                    }
                }
            }
            if layer.post_norm.is_some() {
                list.add(at, Part::AttnPostNorm, &[dim]);
            }
            list.add(at, Part::FfnNorm, &[dim]);
            match &layer.ffn {
                Ffn::Gated(f) => {
                    list.add(at, Part::Gate, &[dim, f.hidden]);
                    list.add(at, Part::Up, &[dim, f.hidden]);
                    list.add(at, Part::Down, &[f.hidden, dim]);
                }
                Ffn::Moe(m) => {
                    list.add(at, Part::Router, &[dim, m.n_experts]);
                    list.add(at, Part::GateExps, &[dim, m.hidden, m.n_experts]);
                    list.add(at, Part::UpExps, &[dim, m.hidden, m.n_experts]);
                    list.add(at, Part::DownExps, &[m.hidden, dim, m.n_experts]);
                }
            }
            if layer.post_norm.is_some() {
                list.add(at, Part::FfnPostNorm, &[dim]);
            }
        }
        list.add(None, Part::OutNorm, &[dim]);
        if !spec.tied_head {
            list.add(None, Part::Head, &[dim, vocab]);
        }
        Manifest { bindings: list.bindings }
    }

    /// Finds every weight in the file, and every tensor of the file among the weights.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape, a type that cannot be computed with, or that nothing claims.
    pub fn resolve<'g>(&self, spec: &ModelSpec, gguf: &'g Gguf) -> Result<Vec<Vec<&'g Tensor>>, Error> {
        let file = || gguf.path().display().to_string();
        let mut claimed: HashSet<&str> = HashSet::new();
        let mut found = Vec::with_capacity(self.bindings.len());
        for binding in &self.bindings {
            let dims = match &binding.source {
                Source::Tensor(_) => &binding.dims[..],
                Source::PerExpert(_) => &binding.dims[..binding.dims.len() - 1],
            };
            let mut tensors = Vec::with_capacity(binding.names().len());
            for name in binding.names() {
                let tensor = gguf.tensor(name).ok_or_else(|| Error::MissingTensor {
                    file: file(),
                    name: name.clone(),
                    expected: format!("{dims:?}"),
                })?;
                if without_ones(&tensor.dims) != without_ones(dims) {
                    return Err(Error::Shape {
                        file: file(),
                        name: name.clone(),
                        found: format!("{:?}", tensor.dims),
                        expected: format!("{dims:?}"),
                    });
                }
                let (ok, expected) = if dims.len() == 1 {
                    (matches!(tensor.dtype, DType::F32 | DType::F16 | DType::BF16), "F32, F16 or BF16")
                } else {
                    (computable(tensor.dtype), "a weight of floats or blocks")
                };
                if !ok {
                    return Err(Error::Type {
                        file: file(),
                        name: name.clone(),
                        found: tensor.dtype.to_string(),
                        expected,
                    });
                }
                claimed.insert(name);
                tensors.push(tensor);
            }
            found.push(tensors);
        }
        let mut left = gguf.tensors().iter().filter(|t| !claimed.contains(t.name.as_str()) && !is_derived(&t.name));
        if let Some(first) = left.next() {
            return Err(Error::Unclaimed {
                file: file(),
                name: first.name.clone(),
                arch: spec.arch.clone(),
                count: 1 + left.count(),
            });
        }
        Ok(found)
    }

    /// Parameters of the model: elements of all its weights.
    pub fn parameters(&self) -> u64 {
        self.bindings.iter().map(Binding::parameters).sum()
    }

    /// Parameters that one token meets: of the experts those it is sent to, of the rest all.
    pub fn active_parameters(&self, spec: &ModelSpec) -> u64 {
        self.bindings.iter().map(|b| b.active(spec, b.parameters())).sum()
    }
}

/// Types that a weight matrix may have: all floats and blocks, but neither integers nor activation formats.
pub fn computable(dtype: DType) -> bool {
    use DType::*;
    !matches!(dtype, I8 | I16 | I32 | I64 | F64 | Q8_1 | Q8_K)
}

/// Tables that converters of 2023 wrote beside the weights they were computed from.
fn is_derived(name: &str) -> bool {
    name == "rope_freqs.weight" || name.ends_with(".attn_rot_embd.weight") || name.ends_with(".attn_rot_embd")
}

/// A shape without trailing ones, which writers may leave out.
fn without_ones(dims: &[u64]) -> &[u64] {
    let n = dims.iter().rposition(|&d| d != 1).map_or(1, |last| last + 1);
    &dims[..n.min(dims.len())]
}

struct List<'a> {
    shapes: &'a dyn Shapes,
    bindings: Vec<Binding>,
}

impl List<'_> {
    fn add(&mut self, layer: Option<usize>, part: Part, dims: &[usize]) {
        let slot = Slot { layer, part };
        let name = slot.name();
        let (_, role) = part.name_and_role();
        let source = match (role, dims) {
            (Role::Experts, &[_, _, n]) if self.shapes.dims(&name).is_none() => {
                let single = |e: usize| name.replace("_exps.weight", &format!(".{e}.weight"));
                if self.shapes.dims(&single(0)).is_some() {
                    // Where the file has not even so many tensors, one of these is missing, and that is what is told.
                    Source::PerExpert((0..n.min(self.shapes.count() + 1)).map(single).collect())
                } else {
                    Source::Tensor(name)
                }
            }
            _ => Source::Tensor(name),
        };
        self.bindings.push(Binding { slot, source, dims: dims.iter().map(|&d| d as u64).collect(), role });
    }
}
