//! Which type each tensor of a file gets: llama.cpp's mixes, tensor for tensor.
//!
//! A file of type Q4_K_M is not all Q4_K: what harms most when it is coarse (values, the way out of the feed-forward
//! part in the first and last layers, the head) gets more bits. The rules grew over years and are part of what the
//! names mean, so they are kept rule by rule. Source: `src/llama-quant.cpp` of llama.cpp.
//!
//! Rules that depend on how many tensors of a kind came before need the tensors in llama.cpp's order ([`by_layer`]).

use super::FileType;
use ostro_kernels::DType;
use regex::Regex;
use std::cmp::Ordering;

/// What the rules need to know of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// `general.architecture`.
    pub arch: String,
    /// Layers.
    pub n_layers: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Experts a layer; 0 in a dense model.
    pub n_experts: usize,
}

/// What a user can ask for beside the type of the file.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// All tensors of the one type.
    pub pure: bool,
    /// The head stays as it is.
    pub leave_output: bool,
    /// The type of `output.weight`.
    pub output: Option<DType>,
    /// The type of `token_embd.weight`.
    pub embedding: Option<DType>,
    /// Types of the tensors whose names match; the first match counts.
    pub tensors: Vec<(Regex, DType)>,
}

/// A tensor, as far as its type depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    /// The GGUF name.
    pub name: &'a str,
    /// Dimensions, the length of a row first.
    pub dims: &'a [u64],
    /// The type it has.
    pub dtype: DType,
}

/// What a tensor becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Its type in the new file.
    pub dtype: DType,
    /// The type it should have had, when its rows do not divide into blocks of that.
    pub instead_of: Option<DType>,
    /// Without an importance matrix it would be garbage.
    pub needs_importance: bool,
}

/// The order in which llama.cpp walks tensors, and writes them: by layer, what is in none first, then by name.
pub fn by_layer(a: &str, b: &str) -> Ordering {
    (layer(a), a).cmp(&(layer(b), b))
}

/// The layer that a name begins with; `None`, which sorts first, for the others.
fn layer(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split_once('.')?.0.parse().ok()
}

/// The types of all tensors, which are in the order of [`by_layer`], in a file of type `file`. `importance`: whether
/// there is an importance matrix, which some rules ask.
pub fn choose(file: FileType, model: &Traits, importance: bool, wishes: &Wishes, tensors: &[Shape<'_>]) -> Vec<Choice> {
    let kinds: Vec<Kind> = tensors.iter().map(|t| Kind::of(t.name)).collect();
    let count = |of: fn(Kind) -> bool| kinds.iter().filter(|&&k| of(k)).count();
    let mut rules = Rules {
        file,
        model,
        importance,
        wishes,
        n_values: count(Kind::is_values),
        tied: count(|k| k == Kind::Output) == 0,
        values: 0,
        downs: 0,
    };
    tensors.iter().zip(kinds).map(|(t, kind)| rules.choice(t, kind)).collect()
}

/// Broad kinds of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Embedding,
    Q,
    K,
    V,
    Qkv,
    KvB,
    AttnOut,
    Down,
    Output,
    Other,
}

impl Kind {
    fn of(name: &str) -> Kind {
        const PARTS: &[(&str, Kind)] = &[
            ("attn_qkv.weight", Kind::Qkv),
            ("attn_kv_b.weight", Kind::KvB),
            ("attn_v.weight", Kind::V),
            ("attn_k.weight", Kind::K),
            ("attn_q.weight", Kind::Q),
            ("attn_output.weight", Kind::AttnOut),
            ("ffn_down", Kind::Down),
        ];
        match name {
            "output.weight" => Kind::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Kind::Embedding,
            _ => PARTS.iter().find(|(part, _)| name.contains(part)).map_or(Kind::Other, |(_, kind)| *kind),
        }
    }

    /// Those that hold the values of attention.
    fn is_values(self) -> bool {
        matches!(self, Kind::V | Kind::Qkv | Kind::KvB)
    }
}

/// Parts of names of matrices that are never quantized: small, or harmed too much.
const NEVER: &[&str] = &[
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "position_embd.weight",
    "token_types.weight",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// Whether a tensor may get another type at all.
fn may_change(t: &Shape<'_>, wishes: &Wishes) -> bool {
    // Trailing dimensions of 1 do not count.
    let matrix = t.dims.iter().skip(1).any(|&d| d > 1);
    matrix
        && t.name.ends_with("weight")
        && !(wishes.leave_output && t.name == "output.weight")
        && !NEVER.iter().any(|part| t.name.contains(part))
}

/// Where the rules are: how many tensors of a kind there are, and how many came before.
struct Rules<'a> {
    file: FileType,
    model: &'a Traits,
    importance: bool,
    wishes: &'a Wishes,
    n_values: usize,
    /// The embedding is the head too.
    tied: bool,
    values: usize,
    downs: usize,
}

impl Rules<'_> {
    fn choice(&mut self, t: &Shape<'_>, kind: Kind) -> Choice {
        let asked = |dtype| Choice { dtype, instead_of: None, needs_importance: false };
        if !may_change(t, self.wishes) {
            return asked(t.dtype);
        }
        let named = self.wishes.tensors.iter().find(|(name, _)| name.is_match(t.name)).map(|(_, dtype)| *dtype);
        match (kind, self.wishes.embedding, self.wishes.output) {
            (Kind::Embedding, Some(dtype), _) if t.name == "token_embd.weight" || named.is_none() => {
                return asked(dtype);
            }
            (Kind::Output, _, Some(dtype)) => return asked(dtype),
            _ => {}
        }
        if self.file.is_float() {
            return asked(self.file.dtype());
        }
        let wanted = match named {
            Some(dtype) => dtype,
            None if self.wishes.pure => self.file.dtype(),
            None => self.mixed(t, kind),
        };
        let dtype = fitting(wanted, t.dims[0]);
        // Without one Q2_K is too coarse where all is Q2_K.
        let needs_importance =
            dtype == DType::Q2_K && self.file == FileType::Q2_K_S && !matches!(kind, Kind::Embedding | Kind::Output);
        Choice { dtype, instead_of: (dtype != wanted).then_some(wanted), needs_importance }
    }

    /// The type of the mix.
    fn mixed(&mut self, t: &Shape<'_>, kind: Kind) -> DType {
        let (file, base, eight) = (self.file, self.file.dtype(), self.model.n_experts == 8);
        if kind == Kind::Output || self.tied && kind == Kind::Embedding {
            return match self.wishes.output {
                Some(dtype) => dtype,
                None if file == FileType::MXFP4_MOE || base == DType::Q8_0 || self.is_falcon() => DType::Q8_0,
                None if !t.dims[0].is_multiple_of(base.block_elems() as u64) => DType::Q8_0,
                None => DType::Q6_K,
            };
        }
        if file == FileType::MXFP4_MOE {
            return if t.dims.get(2).is_some_and(|&n| n > 1) { DType::MXFP4 } else { DType::Q8_0 };
        }
        match kind {
            kind if kind.is_values() => self.of_values(),
            Kind::K if eight => DType::Q8_0,
            Kind::Down => self.of_down(t),
            Kind::AttnOut if self.is_falcon() => match file {
                FileType::Q3_K_L => DType::Q4_K,
                _ => base,
            },
            Kind::AttnOut if eight => match file {
                FileType::Q2_K
                | FileType::Q3_K_S
                | FileType::Q3_K_M
                | FileType::Q4_K_S
                | FileType::Q4_K_M
                | FileType::IQ4_NL
                | FileType::IQ4_XS => DType::Q5_K,
                _ => base,
            },
            Kind::AttnOut => match file {
                FileType::Q2_K => DType::Q3_K,
                FileType::Q3_K_M => DType::Q4_K,
                FileType::Q3_K_L => DType::Q5_K,
                _ => base,
            },
            _ => base,
        }
    }

    /// The values (or queries, keys and values in one).
    fn of_values(&mut self) -> DType {
        let i = self.values;
        self.values += 1;
        let grouped = self.model.n_heads / self.model.n_kv_heads.max(1) >= 4;
        let mut dtype = match self.file {
            FileType::Q2_K if grouped => DType::Q4_K,
            FileType::Q2_K => DType::Q3_K,
            FileType::Q2_K_S if grouped => DType::Q4_K,
            FileType::Q3_K_M if i < 2 => DType::Q5_K,
            FileType::Q3_K_M => DType::Q4_K,
            FileType::Q3_K_L => DType::Q5_K,
            FileType::IQ4_NL | FileType::IQ4_XS if grouped => DType::Q5_K,
            FileType::Q4_K_M | FileType::Q5_K_M if more_bits(i, self.n_values) => DType::Q6_K,
            FileType::Q4_K_S if i < 4 => DType::Q5_K,
            file => file.dtype(),
        };
        // Values are an eighth of the queries there, so more bits are nearly free.
        if self.is_70b() && matches!(dtype, DType::Q3_K | DType::Q4_K) {
            dtype = DType::Q5_K;
        }
        if self.model.n_experts == 8 { DType::Q8_0 } else { dtype }
    }

    /// The way out of the feed-forward part.
    fn of_down(&mut self, t: &Shape<'_>) -> DType {
        let (n, base) = (self.model.n_layers, self.file.dtype());
        // Experts do not come in the order of the layers in every file.
        let i = if self.model.n_experts > 1 { layer(t.name).unwrap_or(self.downs) } else { self.downs };
        self.downs += 1;
        let falcon = self.is_falcon();
        match self.file {
            FileType::Q2_K => DType::Q3_K,
            FileType::Q2_K_S if i < n / 8 => DType::Q4_K,
            FileType::Q3_K_M if i < n / 16 => DType::Q5_K,
            FileType::Q3_K_M if !falcon || more_bits(i, n) => DType::Q4_K,
            FileType::Q3_K_L if falcon => DType::Q4_K,
            FileType::Q3_K_L => DType::Q5_K,
            FileType::Q4_K_M if falcon && i < n / 16 => DType::Q6_K,
            FileType::Q4_K_M if falcon && more_bits(i, n) => DType::Q5_K,
            FileType::Q4_K_M if !falcon && more_bits(i, n) => DType::Q6_K,
            FileType::IQ4_NL | FileType::IQ4_XS if i < n / 8 && !self.importance => DType::Q5_K,
            FileType::Q5_K_M if more_bits(i, n) => DType::Q6_K,
            FileType::Q4_K_S if !falcon && i < n / 8 => DType::Q5_K,
            // An importance matrix can make these two worse in the first layers.
            FileType::Q4_0 if self.importance && i < n / 8 => DType::Q4_1,
            FileType::Q5_0 if self.importance && i < n / 8 => DType::Q5_1,
            _ => base,
        }
    }

    fn is_falcon(&self) -> bool {
        self.model.arch == "falcon"
    }

    /// What llama.cpp calls 70B: eighty layers with grouped heads.
    fn is_70b(&self) -> bool {
        match self.model.arch.as_str() {
            "llama" => self.model.n_layers == 80 && self.model.n_heads != self.model.n_kv_heads,
            "qwen2" | "deci" | "olmo" => self.model.n_layers == 80,
            "jais2" => self.model.n_layers == 68,
            _ => false,
        }
    }
}

/// The first and the last eighth, and every third between.
fn more_bits(i: usize, n: usize) -> bool {
    i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2
}

/// The type, or one of smaller blocks where rows of `cols` do not divide into its blocks.
fn fitting(dtype: DType, cols: u64) -> DType {
    let fits = |dtype: DType| cols.is_multiple_of(dtype.block_elems() as u64);
    if fits(dtype) {
        return dtype;
    }
    let smaller = match dtype {
        DType::Q2_K | DType::Q3_K | DType::TQ1_0 | DType::TQ2_0 | DType::Q2_0 => DType::Q4_0,
        DType::Q4_K => DType::Q5_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q6_K => DType::Q8_0,
        DType::IQ1_S
        | DType::IQ1_M
        | DType::IQ2_XXS
        | DType::IQ2_XS
        | DType::IQ2_S
        | DType::IQ3_XXS
        | DType::IQ3_S
        | DType::IQ4_XS => DType::IQ4_NL,
        other => other,
    };
    if fits(smaller) { smaller } else { DType::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tensors of Mixtral 8x22B Instruct in F32, in the order of the rules.
    fn mixtral() -> Vec<(String, Vec<u64>)> {
        let mut all: Vec<(String, Vec<u64>)> = vec![
            ("token_embd.weight".into(), vec![6144, 32768]),
            ("output_norm.weight".into(), vec![6144]),
            ("output.weight".into(), vec![6144, 32768]),
        ];
        let layer: [(&str, &[u64]); 10] = [
            ("attn_norm", &[6144]),
            ("attn_q", &[6144, 6144]),
            ("attn_k", &[6144, 1024]),
            ("attn_v", &[6144, 1024]),
            ("attn_output", &[6144, 6144]),
            ("ffn_norm", &[6144]),
            ("ffn_gate_inp", &[6144, 8]),
            ("ffn_gate_exps", &[6144, 16384, 8]),
            ("ffn_up_exps", &[6144, 16384, 8]),
            ("ffn_down_exps", &[16384, 6144, 8]),
        ];
        all.extend((0..56).flat_map(|i| layer.map(|(name, dims)| (format!("blk.{i}.{name}.weight"), dims.to_vec()))));
        all.sort_by(|a, b| by_layer(&a.0, &b.0));
        all
    }

    /// Sizes that `llama-quantize --dry-run` tells for that shape, in MiB.
    #[test]
    fn sizes_of_mixtral_are_llama_quantizes() {
        let tensors = mixtral();
        let shapes: Vec<Shape<'_>> =
            tensors.iter().map(|(name, dims)| Shape { name, dims, dtype: DType::F32 }).collect();
        let model = Traits { arch: "llama".into(), n_layers: 56, n_heads: 48, n_kv_heads: 8, n_experts: 8 };
        let rows = [
            (FileType::BF16, "268237.15"),
            (FileType::Q8_0, "142507.15"),
            (FileType::Q6_K, "110189.65"),
            (FileType::Q5_K_M, "95348.65"),
            (FileType::Q4_K_M, "81632.65"),
            (FileType::Q4_K_S, "76760.65"),
            (FileType::Q4_0, "75836.65"),
            (FileType::IQ4_XS, "72827.65"),
            (FileType::Q3_K_M, "64659.40"),
            (FileType::Q2_K, "49699.15"),
        ];
        for (file, want) in rows {
            let chosen = choose(file, &model, false, &Wishes::default(), &shapes);
            let bytes = |(t, c): (&Shape<'_>, &Choice)| {
                let elements: u64 = t.dims.iter().product();
                elements / c.dtype.block_elems() as u64 * c.dtype.block_bytes() as u64
            };
            let all: u64 = shapes.iter().zip(&chosen).map(bytes).sum();
            assert_eq!(format!("{:.2}", all as f64 / f64::from(1 << 20)), want, "{}", file.name());
        }
    }

    #[test]
    fn wishes_come_before_rules() {
        let tensors = mixtral();
        let shapes: Vec<Shape<'_>> =
            tensors.iter().map(|(name, dims)| Shape { name, dims, dtype: DType::BF16 }).collect();
        let model = Traits { arch: "llama".into(), n_layers: 56, n_heads: 48, n_kv_heads: 8, n_experts: 8 };
        let of = |wishes: &Wishes, name: &str| {
            let chosen = choose(FileType::Q4_K_M, &model, false, wishes, &shapes);
            chosen[shapes.iter().position(|t| t.name == name).unwrap()].dtype
        };
        let none = Wishes::default();
        let pure = Wishes { pure: true, ..none.clone() };
        let left = Wishes { leave_output: true, ..none.clone() };
        let both = Wishes { output: Some(DType::F16), embedding: Some(DType::Q8_0), ..none.clone() };
        let named = |name: &str| (Regex::new(name).unwrap(), DType::Q5_0);
        let list = Wishes { tensors: vec![named("attn_[kv]"), named("norm")], ..none.clone() };
        let rows = [
            (&none, "blk.3.attn_v.weight", DType::Q8_0),
            (&none, "blk.3.attn_norm.weight", DType::BF16),
            (&none, "blk.3.ffn_gate_inp.weight", DType::BF16),
            (&none, "output.weight", DType::Q6_K),
            (&pure, "blk.3.attn_v.weight", DType::Q4_K),
            (&pure, "output.weight", DType::Q4_K),
            (&left, "output.weight", DType::BF16),
            (&both, "output.weight", DType::F16),
            (&both, "token_embd.weight", DType::Q8_0),
            (&list, "blk.3.attn_v.weight", DType::Q5_0),
            (&list, "blk.3.attn_norm.weight", DType::BF16),
            (&list, "blk.3.attn_q.weight", DType::Q4_K),
        ];
        for (wishes, name, want) in rows {
            assert_eq!(of(wishes, name), want, "{name} with {wishes:?}");
        }
    }

    #[test]
    fn rows_that_do_not_divide_get_smaller_blocks() {
        let rows = [
            (DType::Q4_K, 512, DType::Q4_K),
            (DType::Q4_K, 96, DType::Q5_0),
            (DType::Q5_K, 96, DType::Q5_1),
            (DType::Q6_K, 96, DType::Q8_0),
            (DType::Q2_K, 96, DType::Q4_0),
            (DType::IQ4_XS, 96, DType::IQ4_NL),
            (DType::Q4_K, 100, DType::F16),
            (DType::Q8_0, 100, DType::F16),
            (DType::F32, 100, DType::F32),
        ];
        for (dtype, cols, want) in rows {
            assert_eq!(fitting(dtype, cols), want, "{dtype} {cols}");
        }
    }
}
