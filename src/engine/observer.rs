//! Seeing what goes into the weight matrices: how importance matrices are collected.

use crate::model::Part;
use ostro_kernels::Groups;

/// The rows that some matrices are about to be multiplied with.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The layer; `None` for the model's own matrices.
    pub layer: Option<usize>,
    /// The matrices that read these rows.
    pub parts: &'a [Part],
    /// `[n, cols]`, as floats, before they are quantized.
    pub x: &'a [f32],
    /// Elements of a row.
    pub cols: usize,
    /// Which rows go to which expert, where the parts are tables of experts.
    pub experts: Option<Groups<'a>>,
}

/// Is told the inputs of every weight matrix, but of the embedding, which is looked up and not multiplied.
pub trait Observer {
    /// These rows are about to be used.
    fn inputs(&mut self, inputs: &Inputs<'_>);
}
