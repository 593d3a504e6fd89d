//! How a checkpoint, as its makers publish it, becomes a file of an architecture: names, keys and changes of rows.
//!
//! Tables and key maps only; `convert` reads the files. Which checkpoints there are is said by `arch/*_hf.rs`. Keys and
//! values are those that llama.cpp's converter writes (`conversion/*.py`), which takes what config.json leaves out from
//! transformers' defaults, so each entry has them too.

mod config;
mod keys;
mod rope;

pub use config::Config;
pub use keys::{Keys, architecture_keys};
pub use rope::Rotary;

use super::Error;

/// What Mistral's own layout has in place of config.json; stands among [`Checkpoint::classes`].
pub const PARAMS: &str = "params.json";

/// A kind of checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    /// The names that `architectures` of config.json gives it.
    pub classes: &'static [&'static str],
    /// `general.architecture` of the file it becomes.
    pub arch: &'static str,
    /// Sets what the configuration leaves out to what the model's code assumes.
    pub complete: fn(&mut Config) -> Result<(), Error>,
    /// The tensors, under their names there.
    pub names: &'static [Name],
    /// Beginnings of the names of tensors that have no part in writing text (towers for images).
    pub others: &'static [&'static str],
    /// Whether rows of the embedding past the vocabulary are cut off.
    pub cut_embedding: bool,
    /// Whether tensors of layers past the last, which predict further tokens, are left out.
    pub cut_layers: bool,
    /// Writes the keys that stand before all but the architecture's name.
    pub first_keys: WriteKeys,
    /// Writes the keys of the architecture up to the type of the file: [`architecture_keys`], or those that it has instead.
    pub architecture: WriteKeys,
    /// Writes the keys that not every architecture has.
    pub keys: WriteKeys,
    /// Tensors that are computed from the configuration.
    pub computed: fn(&Config, &Rotary) -> Result<Vec<Computed>, Error>,
    /// The tokenizer files that it may have, best first.
    pub tokenizers: &'static [Vocabulary],
    /// Names of pre-tokenizers that its makers use, where several names stand for the same.
    pub pre: &'static [&'static str],
    /// Writes what stands before the tokenizer's keys; the second is tokenizer_config.json.
    pub before_tokens: fn(&Config, &Config, &mut Keys) -> Result<(), Error>,
    /// Writes what stands after them.
    pub after_tokens: fn(&Config, Vocabulary, &mut Keys) -> Result<(), Error>,
}

/// Writes keys that follow from a configuration.
pub type WriteKeys = fn(&Config, &Rotary, &mut Keys) -> Result<(), Error>;

/// A tensor that is computed: its name in the file, and its elements.
pub type Computed = (&'static str, Vec<f32>);

/// How a vocabulary lies in its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vocabulary {
    /// `tokenizer.model` of SentencePiece, with a score for each piece.
    Pieces,
    /// The same, with tokens that were added later as the other files have them, whatever they look like.
    PlainPieces,
    /// tokenizer.json of such a model: merges in place of scores, and bytes for what has no piece.
    Fallback,
    /// tokenizer.json of byte-level BPE.
    Bytes,
    /// `tokenizer.model.v3` and its like in Mistral's own layout.
    Native,
}

/// A tensor's name in the checkpoint, in the file, and what is done to its rows.
#[derive(Debug)]
pub struct Name {
    /// The name without `.weight` or `.bias`, which it keeps; `{l}` stands for a layer, `{e}` for an expert.
    pub from: &'static str,
    /// The name in the file, with `{l}` where there is one.
    pub to: &'static str,
    /// What is done.
    pub how: How,
}

/// What is done to a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It is as the file wants it.
    Same,
    /// Rows of the query heads go from halves to adjacent pairs of the rotary embedding.
    InterleaveQueries,
    /// The same for rows of the key heads.
    InterleaveKeys,
    /// 1 is added: norms that are stored as their distance from 1.
    AddOne,
    /// It is one of the experts, which the file has in one tensor.
    Expert,
    /// All experts in one tensor without `.weight`.
    Experts,
    /// All experts in one tensor without `.weight`; the rows of each are the gate's and then those of this one.
    GateAndUp(&'static str),
    /// Of each head the rows that make its key, which become columns, and then those that make its value, which go to this one.
    KeysAndValues(&'static str),
    /// It is as the file wants it, under a name without `.weight` or `.bias` that gets one.
    Named,
}

/// A row of a table of names.
pub const fn name(from: &'static str, to: &'static str, how: How) -> Name {
    Name { from, to, how }
}

/// What a tensor of a checkpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name in the file.
    pub to: String,
    /// What is done to it.
    pub how: How,
    /// Which layer it belongs to.
    pub layer: Option<u32>,
    /// Which expert it is.
    pub expert: Option<u32>,
}

impl Checkpoint {
    /// What most kinds have; a kind says the rest.
    pub const PLAIN: Checkpoint = Checkpoint {
        classes: &[],
        arch: "",
        complete: |_| Ok(()),
        names: &[],
        others: &[],
        cut_embedding: false,
        cut_layers: false,
        first_keys: |_, _, _| Ok(()),
        architecture: architecture_keys,
        keys: |_, _, _| Ok(()),
        computed: |_, _| Ok(Vec::new()),
        tokenizers: &[],
        pre: &[],
        before_tokens: |_, _, _| Ok(()),
        after_tokens: |_, _, _| Ok(()),
    };

    /// The kind that a class of transformers has, or [`PARAMS`].
    pub fn of(class: &str) -> Option<&'static Checkpoint> {
        super::arch::CHECKPOINTS.iter().copied().find(|c| c.classes.contains(&class))
    }

    /// All classes, for an error.
    pub fn known() -> String {
        let classes = super::arch::CHECKPOINTS.iter().flat_map(|c| c.classes).copied();
        classes.filter(|&c| c != PARAMS).collect::<Vec<_>>().join(", ")
    }

    /// Finds a tensor in the table of names.
    pub fn place(&self, tensor: &str) -> Option<Place> {
        // Multimodal checkpoints put the text model below this.
        let tensor = tensor.replace("language_model.", "");
        let (stem, suffix) = [".weight", ".bias"]
            .iter()
            .find_map(|&suffix| Some((tensor.strip_suffix(suffix)?, suffix)))
            .unwrap_or((&tensor, ""));
        self.names.iter().find_map(|name| {
            let whole = matches!(name.how, How::Experts | How::GateAndUp(_) | How::Named);
            if whole != suffix.is_empty() {
                return None;
            }
            let (layer, expert) = holes(name.from, stem)?;
            let suffix = match name.how {
                How::Named => "",
                _ if whole => ".weight",
                _ => suffix,
            };
            Some(Place { to: fill(name.to, layer) + suffix, how: name.how, layer, expert })
        })
    }

    /// The name in the checkpoint of a tensor of the file, for an error about it.
    pub fn origin(&self, tensor: &str) -> Option<String> {
        let (stem, suffix) = tensor.rsplit_once('.')?;
        self.names.iter().find_map(|name| {
            let (layer, _) = holes(name.to, if name.how == How::Named { tensor } else { stem })?;
            let from = fill(name.from, layer).replace("{e}", "0");
            Some(if name.how == How::Named { from } else { format!("{from}.{suffix}") })
        })
    }
}

/// The numbers that stand in `text` where the pattern has `{l}` and `{e}`.
fn holes(pattern: &str, text: &str) -> Option<(Option<u32>, Option<u32>)> {
    let (mut layer, mut expert) = (None, None);
    let mut words = text.split('.');
    for part in pattern.split('.') {
        let word = words.next()?;
        let hole = match part {
            "{l}" => &mut layer,
            "{e}" => &mut expert,
            _ if part == word => continue,
            _ => return None,
        };
        // The number as it is written, so that `01` is not a second `1`.
        *hole = Some(word.parse().ok().filter(|n: &u32| n.to_string() == word)?);
    }
    words.next().is_none().then_some((layer, expert))
}

fn fill(pattern: &str, layer: Option<u32>) -> String {
    layer.map_or_else(|| pattern.to_owned(), |layer| pattern.replace("{l}", &layer.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_their_places() {
        let mixtral = Checkpoint::of("MixtralForCausalLM").unwrap();
        let cases = [
            ("lm_head.weight", Some(("output.weight", None))),
            ("model.layers.3.self_attn.q_proj.bias", Some(("blk.3.attn_q.bias", None))),
            ("model.language_model.layers.3.self_attn.v_proj.weight", Some(("blk.3.attn_v.weight", None))),
            ("language_model.model.norm.weight", Some(("output_norm.weight", None))),
            ("model.layers.3.block_sparse_moe.experts.7.w2.weight", Some(("blk.3.ffn_down_exps.weight", Some(7)))),
            ("model.layers.3.mlp.experts.gate_up_proj", Some(("blk.3.ffn_gate_exps.weight", None))),
            ("model.layers.3.mlp.experts.down_proj", Some(("blk.3.ffn_down_exps.weight", None))),
            ("model.layers.3.self_attn.q_proj", None),
            ("model.layers.03.self_attn.q_proj.weight", None),
            ("model.layers.3.self_attn.q_proj.weight.weight", None),
            ("model.layers.x.self_attn.q_proj.weight", None),
            ("layers.3.attention.wq.weight", None),
        ];
        for (tensor, expected) in cases {
            let place = mixtral.place(tensor);
            assert_eq!(place.as_ref().map(|p| (p.to.as_str(), p.expert)), expected, "{tensor}");
        }
        assert_eq!(
            mixtral.origin("blk.1.ffn_up_exps.weight").as_deref(),
            Some("model.layers.1.block_sparse_moe.experts.0.w3.weight")
        );
    }
}
