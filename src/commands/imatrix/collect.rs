//! Sums of squares of what goes into the weight matrices, as llama-imatrix takes them.

use crate::convert::Imatrix;
use crate::engine::{Inputs, Model, Observer};
use crate::model::{Binding, Part, Role, Slot};
use std::collections::HashMap;

/// Collects while a text goes through the model.
pub(super) struct Collector {
    /// What was collected.
    pub imatrix: Imatrix,
    /// A tensor whose inputs were not finite.
    pub not_finite: Option<String>,
    /// The tensors of the weights that are collected.
    names: HashMap<Slot, String>,
    sums: Vec<f32>,
}

impl Collector {
    /// From chunks of `chunk_size` tokens; `head` is whether `output.weight` is collected too.
    pub fn new(model: &Model, chunk_size: u32, head: bool) -> Collector {
        let names = collected(model, head).map(|(binding, name)| (binding.slot, name)).collect();
        Collector { imatrix: Imatrix::new(chunk_size), not_finite: None, names, sums: Vec::new() }
    }

    fn add(&mut self, names: &[String], matrix: (usize, usize), count: usize) {
        for name in names {
            if self.not_finite.is_none() && !self.sums.iter().all(|x| x.is_finite()) {
                self.not_finite = Some(name.clone());
            }
            self.imatrix.add(name, matrix, &self.sums, count as u64);
        }
    }
}

/// The weights that are collected, and their tensors: the matrices of the layers, and the head when that is asked for, as
/// llama-imatrix does. A head that is the embedding is not `output.weight`. What makes keys and values of latents is not seen.
fn collected<'a>(model: &'a Model<'_>, head: bool) -> impl Iterator<Item = (&'a Binding, String)> {
    let wanted = move |binding: &&Binding| {
        let Slot { layer, part } = binding.slot;
        let is_matrix = binding.dims.len() > 1 && binding.role != Role::Norm;
        is_matrix && !matches!(part, Part::KB | Part::VB) && (layer.is_some() || (head && part == Part::Head))
    };
    let named = |binding: &'a Binding| Some((binding, model.manifest.tensor(binding.slot)?));
    model.manifest.bindings.iter().filter(wanted).filter_map(named)
}

impl Observer for Collector {
    fn inputs(&mut self, inputs: &Inputs<'_>) {
        let slots = inputs.parts.iter().map(|&part| Slot { layer: inputs.layer, part });
        let mut names: Vec<String> = slots.filter_map(|slot| self.names.get(&slot).cloned()).collect();
        // Weights of one tensor read the same rows, and count once.
        names.dedup();
        if names.is_empty() {
            return;
        }
        let row = |i: usize| &inputs.x[i * inputs.cols..(i + 1) * inputs.cols];
        match inputs.experts {
            None => {
                let n = inputs.x.len() / inputs.cols;
                sum_squares(&mut self.sums, inputs.cols, (0..n).map(row));
                self.add(&names, (0, 1), n);
            }
            Some(groups) => {
                let n_experts = groups.offsets.len() - 1;
                for e in 0..n_experts {
                    let picked = &groups.pick[groups.offsets[e]..groups.offsets[e + 1]];
                    sum_squares(&mut self.sums, inputs.cols, picked.iter().map(|&i| row(i as usize)));
                    self.add(&names, (e, n_experts), picked.len());
                }
            }
        }
    }
}

fn sum_squares<'a>(sums: &mut Vec<f32>, cols: usize, rows: impl Iterator<Item = &'a [f32]>) {
    sums.clear();
    sums.resize(cols, 0.0);
    for row in rows {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x);
    }
}

/// An importance matrix in which nothing has been counted, but that has the shapes of a model: what does not fit it is
/// found before anything is computed.
pub(super) fn shapes(model: &Model, chunk_size: u32, head: bool) -> Imatrix {
    let mut imatrix = Imatrix::new(chunk_size);
    for (binding, name) in collected(model, head) {
        let matrices = binding.dims.get(2).map_or(1, |&n| n as usize);
        imatrix.add(&name, (0, matrices), &vec![0.0; binding.dims[0] as usize], 0);
    }
    imatrix
}
