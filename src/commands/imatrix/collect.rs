//! Sums of squares of what goes into the weight matrices, as llama-imatrix takes them.

use crate::convert::Imatrix;
use crate::engine::{Inputs, Model, Observer};
use crate::model::{Part, Role, Slot};

/// Collects while a text goes through the model.
pub(super) struct Collector {
    /// What was collected.
    pub imatrix: Imatrix,
    /// A tensor whose inputs were not finite.
    pub not_finite: Option<String>,
    head: bool,
    sums: Vec<f32>,
}

impl Collector {
    /// From chunks of `chunk_size` tokens; `head` is whether `output.weight` is collected too.
    pub fn new(chunk_size: u32, head: bool) -> Collector {
        Collector { imatrix: Imatrix::new(chunk_size), not_finite: None, head, sums: Vec::new() }
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

/// Whether llama-imatrix collects this weight: the matrices of the layers, and the head when that is asked for. A head
/// that is the embedding is not `output.weight`.
fn collected(slot: Slot, head: bool) -> bool {
    slot.layer.is_some() || (head && slot.part == Part::Head)
}

impl Observer for Collector {
    fn inputs(&mut self, inputs: &Inputs<'_>) {
        let slots = inputs.parts.iter().map(|&part| Slot { layer: inputs.layer, part });
        let names: Vec<_> = slots.filter(|&slot| collected(slot, self.head)).map(Slot::name).collect();
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
    for binding in &model.manifest.bindings {
        let (cols, matrices) = match (binding.role, binding.dims.as_slice()) {
            (Role::Embed, _) => continue,
            (_, &[cols, _]) => (cols, 1),
            (_, &[cols, _, matrices]) => (cols, matrices),
            _ => continue,
        };
        if collected(binding.slot, head) {
            imatrix.add(&binding.slot.name(), (0, matrices as usize), &vec![0.0; cols as usize], 0);
        }
    }
    imatrix
}
