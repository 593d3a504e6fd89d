//! The list of a model's tensors: name, shape and role of each.
//!
//! One list serves the loader, the check for leftovers, the planner, the quantization policy and the account of
//! bytes per token. It follows from the spec alone, except that experts may lie merged or one by one.

use super::{Error, Ffn, Mixer, ModelSpec, Residual, RopeFactors, Shapes};
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
    RopeLong,
    RopeShort,
    AttnNorm,
    Q,
    K,
    V,
    QBias,
    KBias,
    VBias,
    QNorm,
    KNorm,
    QA,
    QANorm,
    QB,
    KvA,
    KvANorm,
    KB,
    VB,
    AttnOut,
    AttnOutBias,
    AttnPostNorm,
    FfnNorm,
    Gate,
    Up,
    Down,
    FfnPostNorm,
    Router,
    RouterBias,
    GateExps,
    UpExps,
    DownExps,
    SharedRouter,
    GateShared,
    UpShared,
    DownShared,
}

impl Part {
    /// How many parts there are.
    pub const COUNT: usize = Part::DownShared as usize + 1;

    /// Whether it has its place with the half of a layer that mixes positions, and not with the feed-forward half. So does the
    /// network that every token goes through beside the experts.
    pub fn is_mixer(self) -> bool {
        use Part::*;
        matches!(
            self,
            AttnNorm
                | Q
                | K
                | V
                | QBias
                | KBias
                | VBias
                | QNorm
                | KNorm
                | QA
                | QANorm
                | QB
                | KvA
                | KvANorm
                | KB
                | VB
                | AttnOut
                | AttnOutBias
                | AttnPostNorm
                | SharedRouter
                | GateShared
                | UpShared
                | DownShared
        )
    }

    /// The GGUF name within a layer or the file, and what the tensor is for.
    fn name_and_role(self) -> (&'static str, Role) {
        match self {
            Part::Embed => ("token_embd.weight", Role::Embed),
            Part::OutNorm => ("output_norm.weight", Role::Norm),
            Part::Head => ("output.weight", Role::Head),
            Part::RopeFactors => ("rope_freqs.weight", Role::Table),
            Part::RopeLong => ("rope_factors_long.weight", Role::Table),
            Part::RopeShort => ("rope_factors_short.weight", Role::Table),
            Part::AttnNorm => ("attn_norm.weight", Role::Norm),
            Part::Q => ("attn_q.weight", Role::Attention),
            Part::K => ("attn_k.weight", Role::Attention),
            Part::V => ("attn_v.weight", Role::Attention),
            Part::QBias => ("attn_q.bias", Role::Attention),
            Part::KBias => ("attn_k.bias", Role::Attention),
            Part::VBias => ("attn_v.bias", Role::Attention),
            Part::QNorm => ("attn_q_norm.weight", Role::Norm),
            Part::KNorm => ("attn_k_norm.weight", Role::Norm),
            Part::QA => ("attn_q_a.weight", Role::Attention),
            Part::QANorm => ("attn_q_a_norm.weight", Role::Norm),
            Part::QB => ("attn_q_b.weight", Role::Attention),
            Part::KvA => ("attn_kv_a_mqa.weight", Role::Attention),
            Part::KvANorm => ("attn_kv_a_norm.weight", Role::Norm),
            Part::KB => ("attn_k_b.weight", Role::Attention),
            Part::VB => ("attn_v_b.weight", Role::Attention),
            Part::AttnOut => ("attn_output.weight", Role::Attention),
            Part::AttnOutBias => ("attn_output.bias", Role::Attention),
            Part::AttnPostNorm => ("post_attention_norm.weight", Role::Norm),
            Part::FfnNorm => ("ffn_norm.weight", Role::Norm),
            Part::Gate => ("ffn_gate.weight", Role::Ffn),
            Part::Up => ("ffn_up.weight", Role::Ffn),
            Part::Down => ("ffn_down.weight", Role::Ffn),
            Part::FfnPostNorm => ("post_ffw_norm.weight", Role::Norm),
            Part::Router => ("ffn_gate_inp.weight", Role::Router),
            Part::RouterBias => ("exp_probs_b.bias", Role::Router),
            Part::SharedRouter => ("ffn_gate_inp_shexp.weight", Role::Router),
            Part::GateShared => ("ffn_gate_shexp.weight", Role::Shared),
            Part::UpShared => ("ffn_up_shexp.weight", Role::Shared),
            Part::DownShared => ("ffn_down_shexp.weight", Role::Shared),
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
    Shared,
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
    /// Some rows of a tensor that holds several weights, or of each of its matrices.
    Rows {
        /// The tensor.
        name: String,
        /// Its shape, fastest dimension first.
        shape: Vec<u64>,
        /// Rows of each of its matrices, of which this weight has as many as its shape says.
        of: usize,
        /// The first of these.
        first: usize,
        /// They are this weight's columns.
        turned: bool,
    },
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

    /// The shape of its tensor, or of each of its tensors.
    pub fn file_dims(&self) -> &[u64] {
        match &self.source {
            Source::Tensor(_) => &self.dims,
            Source::PerExpert(_) => &self.dims[..self.dims.len() - 1],
            Source::Rows { shape, .. } => shape,
        }
    }

    /// Whether a tensor has this shape; writers may leave out ones at its end.
    pub fn fits(&self, dims: &[u64]) -> bool {
        without_ones(dims) == without_ones(self.file_dims())
    }

    /// The bytes that this weight has of its tensors.
    pub fn bytes(&self, tensors: &[&Tensor]) -> u64 {
        let all: u64 = tensors.iter().map(|t| t.bytes).sum();
        let of_file: u64 = self.file_dims().iter().product::<u64>() * tensors.len() as u64;
        let own: u64 = self.dims.iter().product();
        (u128::from(all) * u128::from(own) / u128::from(of_file.max(1))) as u64
    }

    /// The names of its tensors.
    pub fn names(&self) -> &[String] {
        match &self.source {
            Source::Tensor(name) | Source::Rows { name, .. } => std::slice::from_ref(name),
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
    /// The weights that `spec` needs; `shapes` tells whether experts lie merged or one by one.
    pub fn new(spec: &ModelSpec, shapes: &dyn Shapes) -> Manifest {
        let mut list = List { shapes, bindings: Vec::new() };
        let (dim, vocab) = (spec.dim, spec.n_vocab);
        list.add(None, Part::Embed, &[dim, vocab]);
        for rope in &spec.ropes {
            let tables: &[Part] = match rope.factors {
                RopeFactors::None => &[],
                RopeFactors::Fixed => &[Part::RopeFactors],
                RopeFactors::ByContext { .. } => &[Part::RopeLong, Part::RopeShort],
            };
            for &table in tables {
                if !list.bindings.iter().any(|b| b.slot.part == table) {
                    list.add(None, table, &[rope.dim / 2]);
                }
            }
        }
        for (i, layer) in spec.layers.iter().enumerate() {
            let at = Some(i);
            list.add(at, Part::AttnNorm, &[dim]);
            match &layer.mixer {
                Mixer::Gqa(a) => {
                    let (q, k, v) = (a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim, a.n_kv_heads * a.v_dim);
                    let rows = [(Part::Q, q), (Part::K, k), (Part::V, v)];
                    let biases = [(Part::QBias, q), (Part::KBias, k), (Part::VBias, v)];
                    if a.fused {
                        list.add_rows(at, "attn_qkv.weight", &[dim], &rows, &[]);
                    } else {
                        rows.iter().for_each(|&(part, rows)| list.add(at, part, &[dim, rows]));
                    }
                    match (a.qkv_bias, a.fused) {
                        (false, _) => {}
                        (true, true) => list.add_rows(at, "attn_qkv.bias", &[], &biases, &[]),
                        (true, false) => biases.iter().for_each(|&(part, rows)| list.add(at, part, &[rows])),
                    }
                    if a.qk_norm.is_some() {
                        let dims = |heads| if a.norm_by_head { vec![a.head_dim, heads] } else { vec![a.head_dim] };
                        list.add(at, Part::QNorm, &dims(a.n_heads));
                        list.add(at, Part::KNorm, &dims(a.n_kv_heads));
                    }
                    list.add(at, Part::AttnOut, &[a.n_heads * a.v_dim, dim]);
                    if a.out_bias {
                        list.add(at, Part::AttnOutBias, &[dim]);
                    }
                }
                Mixer::Mla(a) => {
                    let q = a.n_heads * (a.nope_dim + a.rope_dim);
                    match a.q_rank {
                        Some(rank) => {
                            list.add(at, Part::QA, &[dim, rank]);
                            list.add(at, Part::QANorm, &[rank]);
                            list.add(at, Part::QB, &[rank, q]);
                        }
                        None => list.add(at, Part::Q, &[dim, q]),
                    }
                    list.add(at, Part::KvA, &[dim, a.latent()]);
                    list.add(at, Part::KvANorm, &[a.kv_rank]);
                    let (keys, values) = ([a.nope_dim, a.kv_rank, a.n_heads], [a.kv_rank, a.v_dim, a.n_heads]);
                    if a.joined {
                        let of = a.nope_dim + a.v_dim;
                        let name = Slot { layer: at, part: Part::KB }.name().replace("attn_k_b", "attn_kv_b");
                        for (part, dims, first, turned) in
                            [(Part::KB, keys, 0, true), (Part::VB, values, a.nope_dim, false)]
                        {
                            let shape = vec![a.kv_rank as u64, (a.n_heads * of) as u64];
                            list.push(at, part, &dims, Source::Rows { name: name.clone(), shape, of, first, turned });
                        }
                    } else {
                        list.add(at, Part::KB, &keys);
                        list.add(at, Part::VB, &values);
                    }
                    list.add(at, Part::AttnOut, &[a.n_heads * a.v_dim, dim]);
                }
            }
            if layer.post_norm.is_some() {
                list.add(at, Part::AttnPostNorm, &[dim]);
            }
            if layer.residual == Residual::Sequential {
                list.add(at, Part::FfnNorm, &[dim]);
            }
            match &layer.ffn {
                Ffn::Gated(f) => {
                    let rows = [(Part::Gate, f.hidden), (Part::Up, f.hidden)];
                    if f.fused {
                        list.add_rows(at, "ffn_up.weight", &[dim], &rows, &[]);
                    } else {
                        rows.iter().for_each(|&(part, rows)| list.add(at, part, &[dim, rows]));
                    }
                    list.add(at, Part::Down, &[f.hidden, dim]);
                }
                Ffn::Moe(m) => {
                    list.add(at, Part::Router, &[dim, m.n_experts]);
                    if m.bias {
                        list.add(at, Part::RouterBias, &[m.n_experts]);
                    }
                    let rows = [(Part::GateExps, m.hidden), (Part::UpExps, m.hidden)];
                    if m.fused {
                        list.add_rows(at, "ffn_gate_up_exps.weight", &[dim], &rows, &[m.n_experts]);
                    } else {
                        rows.iter().for_each(|&(part, rows)| list.add(at, part, &[dim, rows, m.n_experts]));
                    }
                    list.add(at, Part::DownExps, &[m.hidden, dim, m.n_experts]);
                    if let Some(shared) = m.shared {
                        if shared.gated {
                            list.add(at, Part::SharedRouter, &[dim]);
                        }
                        list.add(at, Part::GateShared, &[dim, shared.hidden]);
                        list.add(at, Part::UpShared, &[dim, shared.hidden]);
                        list.add(at, Part::DownShared, &[shared.hidden, dim]);
                    }
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

    /// The name of the tensor that has a weight: of experts that lie one by one, that of the table of all; `None` where the file has
    /// it the other way round.
    pub fn tensor(&self, slot: Slot) -> Option<String> {
        let binding = self.bindings.iter().find(|b| b.slot == slot)?;
        match &binding.source {
            Source::Rows { turned: true, .. } => None,
            Source::Rows { name, .. } => Some(name.clone()),
            Source::Tensor(_) | Source::PerExpert(_) => Some(slot.name()),
        }
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
            let dims = binding.file_dims();
            let mut tensors = Vec::with_capacity(binding.names().len());
            for name in binding.names() {
                let tensor = gguf.tensor(name).ok_or_else(|| Error::MissingTensor {
                    file: file(),
                    name: name.clone(),
                    expected: format!("{dims:?}"),
                })?;
                if !binding.fits(&tensor.dims) {
                    return Err(Error::Shape {
                        file: file(),
                        name: name.clone(),
                        found: format!("{:?}", tensor.dims),
                        expected: format!("{dims:?}"),
                    });
                }
                let (ok, expected) = if dims.len() == 1 || binding.role == Role::Norm {
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
        let unused = |name: &str| is_derived(name) || is_beyond(name, spec);
        let mut left = gguf.tensors().iter().filter(|t| !claimed.contains(t.name.as_str()) && !unused(&t.name));
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

/// Tensors of layers that predict further tokens, after the last that is computed.
fn is_beyond(name: &str, spec: &ModelSpec) -> bool {
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    layer.is_some_and(|layer| (spec.layers.len()..spec.layers.len() + spec.spare_layers).contains(&layer))
}

/// A shape without trailing ones, which writers may leave out.
pub fn without_ones(dims: &[u64]) -> &[u64] {
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
        self.push(layer, part, dims, source);
    }

    /// Weights that lie one after the other in the rows of one tensor: `before` and `after` are its dimensions around these.
    fn add_rows(
        &mut self,
        layer: Option<usize>,
        tensor: &str,
        before: &[usize],
        parts: &[(Part, usize)],
        after: &[usize],
    ) {
        let of = parts.iter().map(|(_, rows)| rows).sum();
        let dims = |rows: usize| [before, &[rows], after].concat();
        let mut first = 0;
        for &(part, rows) in parts {
            let name = layer.map_or_else(|| tensor.to_owned(), |layer| format!("blk.{layer}.{tensor}"));
            let shape = dims(of).iter().map(|&d| d as u64).collect();
            self.push(layer, part, &dims(rows), Source::Rows { name, shape, of, first, turned: false });
            first += rows;
        }
    }

    fn push(&mut self, layer: Option<usize>, part: Part, dims: &[usize], source: Source) {
        let (_, role) = part.name_and_role();
        let dims = dims.iter().map(|&d| d as u64).collect();
        self.bindings.push(Binding { slot: Slot { layer, part }, source, dims, role });
    }
}
