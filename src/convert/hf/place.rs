//! Tensors of a checkpoint in their places: named, merged and in the order of llama.cpp's converter.

use super::super::{Change, Error, Piece, SourceTensor};
use super::files::{Files, Stored};
use crate::model::checkpoint::{Checkpoint, Config, How, Place};
use ostro_kernels::DType;
use std::collections::{BTreeMap, HashMap};

/// The tensors under their GGUF names, and where each comes from.
#[derive(Debug, Default)]
pub(super) struct Placed {
    pub tensors: Vec<SourceTensor>,
    /// Of each tensor the first of the checkpoint that it is made of, as an index.
    pub origins: HashMap<String, usize>,
    pub notes: Vec<String>,
}

/// Buffers that old code saved beside the weights they do not belong to.
const BUFFERS: &[&str] = &[".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias"];

/// Finds a place for every tensor.
///
/// # Errors
/// A tensor that has no place, a type or shape that cannot be, and experts that are missing.
pub(super) fn place(files: &Files, checkpoint: &Checkpoint, config: &Config) -> Result<Placed, Error> {
    let mut work = Work { files, checkpoint, config, experts: BTreeMap::new(), placed: Placed::default() };
    let tied = config.bool("tie_word_embeddings")?.unwrap_or(false);
    let (mut buffers, mut others, mut beyond) = (0, 0, 0);
    let layers = config.u32(&["num_hidden_layers"])?.filter(|_| checkpoint.cut_layers);
    for (i, t) in files.tensors.iter().enumerate() {
        if BUFFERS.iter().any(|b| t.name.ends_with(b)) {
            buffers += 1;
        } else if checkpoint.others.iter().any(|o| t.name.starts_with(o)) {
            others += 1;
        } else if layers.is_some_and(|n| layer_of(&t.name).is_some_and(|layer| layer >= n)) {
            beyond += 1;
        } else {
            let place = checkpoint.place(&t.name).ok_or_else(|| work.stranger(t))?;
            if tied && place.to == "output.weight" {
                work.placed.notes.push(format!("{} is left out: tie_word_embeddings is set", t.name));
            } else {
                work.add(i, place)?;
            }
        }
    }
    work.all_experts()?;
    let mut placed = work.placed;
    for (n, what) in [
        (buffers, "buffers that are no weights"),
        (others, "tensors of other media than text"),
        (beyond, "tensors of layers that predict further tokens"),
    ] {
        if n > 0 {
            placed.notes.push(format!("{n} {what} are left out"));
        }
    }
    if !tied && !placed.origins.contains_key("output.weight") {
        let name = checkpoint.origin("output.weight").unwrap_or_default();
        let next = "set tie_word_embeddings in the configuration if the model has none, or download it again";
        return Err(Error::bad(config.file(), format!("tensor {name}"), "nothing", "the weights of the output", next));
    }
    Ok(placed)
}

/// The layer that a tensor's name has.
fn layer_of(name: &str) -> Option<u32> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

struct Work<'a> {
    files: &'a Files,
    checkpoint: &'a Checkpoint,
    config: &'a Config,
    /// By layer: the experts found so far, and their number.
    experts: BTreeMap<Option<u32>, Experts>,
    placed: Placed,
}

/// The experts of a layer: of each merged tensor the index of each expert's own. The key is the place of the name in the
/// table, which is the order in which the merged tensors are written.
#[derive(Default)]
struct Experts {
    found: usize,
    merged: BTreeMap<usize, (String, Vec<Option<usize>>)>,
}

impl Work<'_> {
    fn add(&mut self, i: usize, place: Place) -> Result<(), Error> {
        let t = &self.files.tensors[i];
        let dtype = self.files.dtype(t)?;
        let dims = self.files.dims(t, dtype)?;
        let whole = |rows| vec![Piece { file: t.file, offset: t.offset, rows }];
        let rows = dims[1..].iter().product();
        match place.how {
            How::Expert => self.expert(i, place),
            How::Same | How::Named | How::AddOne | How::InterleaveQueries | How::InterleaveKeys => {
                let change = self.change(t, place.how, &dims)?;
                self.push(i, SourceTensor { name: place.to, dtype, dims, pieces: whole(rows), change })
            }
            How::Experts | How::GateAndUp(_) if dims.len() != 3 => {
                Err(self.files.bad(t, format!("shape {:?}", t.shape), "three dimensions, experts first", ""))
            }
            How::Experts => {
                let change = Change::None;
                self.push(i, SourceTensor { name: place.to, dtype, dims, pieces: whole(rows), change })
            }
            How::KeysAndValues(values) => {
                let values = values.replace("{l}", &place.layer.unwrap_or(0).to_string()) + ".weight";
                let [heads, key, value] = ["num_attention_heads", "qk_nope_head_dim", "v_head_dim"]
                    .map(|name| self.config.require_u32(&[name]).map(u64::from));
                let (heads, key, value) = (heads?, key?, value?);
                let both = key + value;
                let rows = heads.checked_mul(both);
                if dims.len() != 2 || heads == 0 || key == 0 || value == 0 || Some(dims[1]) != rows {
                    let expected = format!("{heads} times {key} and {value} rows");
                    return Err(self.files.bad(t, format!("shape {:?}", t.shape), expected, ""));
                }
                let (rank, row_bytes) = (dims[0], dims[0] * dtype.block_bytes() as u64);
                for (name, first, rows, dims, change) in [
                    (place.to, 0, key, vec![key, rank, heads], Change::Turn),
                    (values, key, value, vec![rank, value, heads], Change::None),
                ] {
                    let offset = |h: u64| t.offset + (h * both + first) * row_bytes;
                    let pieces = (0..heads).map(|h| Piece { file: t.file, offset: offset(h), rows }).collect();
                    self.push(i, SourceTensor { name, dtype, dims, pieces, change })?;
                }
                Ok(())
            }
            How::GateAndUp(up) => {
                let up = up.replace("{l}", &place.layer.unwrap_or(0).to_string()) + ".weight";
                let [cols, both, experts] = dims[..] else { unreachable!("three dimensions were asked for") };
                if both % 2 != 0 {
                    return Err(self.files.bad(t, format!("shape {:?}", t.shape), "as many rows of each half", ""));
                }
                let (rows, row_bytes) = (both / 2, cols * dtype.block_bytes() as u64);
                for (half, name) in [(0, place.to), (1, up)] {
                    let offset = |e: u64| t.offset + (e * both + half * rows) * row_bytes;
                    let pieces = (0..experts).map(|e| Piece { file: t.file, offset: offset(e), rows }).collect();
                    let dims = vec![cols, rows, experts];
                    self.push(i, SourceTensor { name, dtype, dims, pieces, change: Change::None })?;
                }
                Ok(())
            }
        }
    }

    fn push(&mut self, i: usize, tensor: SourceTensor) -> Result<(), Error> {
        if let Some(first) = self.placed.origins.insert(tensor.name.clone(), i) {
            return Err(self.twice(&self.files.tensors[i], first));
        }
        self.placed.tensors.push(tensor);
        Ok(())
    }

    fn change(&self, t: &Stored, how: How, dims: &[u64]) -> Result<Change, Error> {
        let heads = match how {
            How::AddOne => return Ok(Change::AddOne),
            How::InterleaveQueries => self.config.require_u32(&["num_attention_heads", "n_heads"])?,
            How::InterleaveKeys => {
                self.config.require_u32(&["num_key_value_heads", "n_kv_heads", "num_attention_heads", "n_heads"])?
            }
            _ => return Ok(Change::None),
        };
        let rows = if dims.len() == 1 { dims[0] } else { dims[1..].iter().product() };
        if heads == 0 || rows % (2 * u64::from(heads)) != 0 {
            let expected = format!("an even number of rows for each of {heads} heads");
            return Err(self.files.bad(t, format!("shape {:?}", t.shape), expected, ""));
        }
        Ok(Change::Interleave { heads: heads.into() })
    }

    fn expert(&mut self, i: usize, place: Place) -> Result<(), Error> {
        let t = &self.files.tensors[i];
        let n = self.config.require_u32(&["num_local_experts", "num_experts", "n_routed_experts"])?;
        let e = place.expert.unwrap_or(u32::MAX);
        // The list of places is no longer than the tensors that could fill it.
        if e >= n || n as usize > self.files.tensors.len() {
            return Err(self.files.bad(
                t,
                format!("expert {e}"),
                format!("one of the {n} that config.json tells of"),
                "",
            ));
        }
        if let Some(&first) = self.placed.origins.get(&place.to) {
            return Err(self.twice(t, first));
        }
        let order = self.checkpoint.names.iter().position(|name| name.how == How::Expert && is(name.to, &place));
        let layer = self.experts.entry(place.layer).or_default();
        let (_, list) = layer
            .merged
            .entry(order.unwrap_or(usize::MAX))
            .or_insert_with(|| (place.to.clone(), vec![None; n as usize]));
        if let Some(first) = list[e as usize].replace(i) {
            return Err(self.twice(t, first));
        }
        layer.found += 1;
        if layer.found == 3 * n as usize && layer.merged.len() == 3 {
            let merged = std::mem::take(&mut layer.merged);
            for (name, list) in merged.into_values() {
                let list: Vec<usize> = list.into_iter().flatten().collect();
                self.merge(name, &list)?;
            }
        }
        Ok(())
    }

    /// Puts the experts' tensors one after the other.
    fn merge(&mut self, name: String, list: &[usize]) -> Result<(), Error> {
        let first = &self.files.tensors[list[0]];
        let (dtype, mut dims) = (self.files.dtype(first)?, self.files.dims(first, self.files.dtype(first)?)?);
        let rows = dims[1..].iter().product();
        let mut pieces = Vec::with_capacity(list.len());
        for t in list.iter().map(|&i| &self.files.tensors[i]) {
            if (&t.dtype, &t.shape) != (&first.dtype, &first.shape) || dims.len() != 2 {
                let found = format!("shape {:?} in {}", t.shape, t.dtype);
                let expected = format!("a matrix like {}: {:?} in {}", first.name, first.shape, first.dtype);
                return Err(self.files.bad(t, found, expected, ""));
            }
            pieces.push(Piece { file: t.file, offset: t.offset, rows });
        }
        dims.push(list.len() as u64);
        self.push(list[0], SourceTensor { name, dtype, dims, pieces, change: Change::None })
    }

    /// An error where experts are missing.
    fn all_experts(&self) -> Result<(), Error> {
        for (layer, experts) in &self.experts {
            let holes =
                experts.merged.values().find_map(|(to, list)| Some((to, list.iter().position(Option::is_none)?)));
            if let Some((to, e)) = holes {
                let name = self.checkpoint.origin(to).unwrap_or_else(|| to.clone());
                let name = name.replace("experts.0.", &format!("experts.{e}."));
                let dir = self.config.file();
                let next = "the checkpoint is incomplete: download it again";
                return Err(Error::bad(dir, format!("tensor {name}"), "nothing", "all experts of the layer", next));
            }
            if !experts.merged.is_empty() {
                let found = format!("{} of the 3 matrices of the experts", experts.merged.len());
                let thing = format!("layer {}", layer.unwrap_or(0));
                return Err(Error::bad(self.config.file(), thing, found, "all of them", super::json::AGAIN));
            }
        }
        Ok(())
    }

    /// An error about two tensors for one place.
    fn twice(&self, t: &Stored, first: usize) -> Error {
        let found = format!("it beside {}", self.files.tensors[first].name);
        self.files.bad(t, found, "one of the two", "remove the file that does not belong here")
    }

    fn stranger(&self, t: &Stored) -> Error {
        let class = self.checkpoint.classes[0];
        self.files.bad(t, "it", format!("only tensors that {class} has"), "it may need a newer ostro")
    }
}

/// Whether a name of the table leads to this place.
fn is(to: &str, place: &Place) -> bool {
    let layer = place.layer.map(|l| l.to_string()).unwrap_or_default();
    place.to.strip_suffix(".weight") == Some(&to.replace("{l}", &layer))
}

/// A tensor that is computed, and therefore lies in memory.
pub(super) fn computed(name: &str, elements: &[f32], file: usize) -> SourceTensor {
    SourceTensor {
        name: name.to_owned(),
        dtype: DType::F32,
        dims: vec![elements.len() as u64],
        pieces: vec![Piece { file, offset: 0, rows: 1 }],
        change: Change::None,
    }
}
