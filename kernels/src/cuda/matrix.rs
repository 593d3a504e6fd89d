//! Weights on the card, in the blocks of the file.

use super::Gpu;
use super::error::CudaError;
use super::memory::{Buffer, Event};
use crate::quantize::{IQ1_GRID, IQ2_S_GRID, IQ2_XS_GRID, IQ2_XXS_GRID, IQ3_S_GRID, IQ3_XXS_GRID};
use crate::{DType, Mat};

/// One matrix on the card, or a table of experts of the same shape and type.
pub struct GpuMat {
    pub(super) dtype: DType,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) count: usize,
    pub(super) bytes: Buffer<u8>,
}

impl GpuMat {
    /// The type of the weights.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Rows of one matrix, which is outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns, which is inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How many matrices there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of one of them.
    pub(super) fn matrix_bytes(&self) -> usize {
        self.bytes.len() / self.count
    }
}

impl Gpu {
    /// Whether there are kernels for weights of this type.
    pub fn computes(&self, dtype: DType) -> bool {
        (self.code.format)(dtype).is_some()
    }

    /// Copies a matrix, or the matrices of all experts, to the card.
    ///
    /// # Errors
    /// No room, or a driver that is lost.
    ///
    /// # Panics
    /// When there are none, they differ in shape or type, or there are no kernels for the type.
    pub fn upload(&self, mats: &[Mat<'_>]) -> Result<GpuMat, CudaError> {
        let slots = Slots::new(self, mats, 1)?;
        let Slots { mut mats, .. } = slots.filled(self, mats)?;
        Ok(mats.pop().expect("one slot"))
    }
}

/// Room on the card for the experts of several layers in turn: while one slot is computed with, the next is filled.
pub struct Slots {
    mats: Vec<GpuMat>,
    /// Passed when a slot's copy is done, and when its last user is.
    events: Vec<(Event, Event)>,
}

impl Slots {
    /// `n` slots, each with room for matrices like these.
    ///
    /// # Errors
    /// No room, or a driver that is lost.
    ///
    /// # Panics
    /// As [`Gpu::upload`].
    pub fn new(gpu: &Gpu, like: &[Mat<'_>], n: usize) -> Result<Slots, CudaError> {
        let first = like.first().expect("a matrix");
        assert!(like.iter().all(|m| (m.dtype(), m.rows(), m.cols()) == (first.dtype(), first.rows(), first.cols())));
        gpu.load_format(first.dtype())?;
        let (mut mats, mut events) = (Vec::new(), Vec::new());
        for _ in 0..n {
            let bytes = gpu.buffer(first.data().len() * like.len())?;
            let (dtype, rows, cols) = (first.dtype(), first.rows(), first.cols());
            mats.push(GpuMat { dtype, rows, cols, count: like.len(), bytes });
            events.push((Event::new()?, Event::new()?));
        }
        Ok(Slots { mats, events })
    }

    fn filled(self, gpu: &Gpu, mats: &[Mat<'_>]) -> Result<Slots, CudaError> {
        self.fill(gpu, 0, mats)?;
        self.ready(gpu, 0)?;
        Ok(self)
    }

    /// Queues a copy of matrices into a slot, beside what is being computed, once the slot's last user is done.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When they are not like those that the slots were made for.
    pub fn fill(&self, gpu: &Gpu, slot: usize, mats: &[Mat<'_>]) -> Result<(), CudaError> {
        let to = &self.mats[slot];
        assert_eq!(to.count, mats.len(), "matrices of a slot");
        let (copied, used) = &self.events[slot];
        gpu.copy.wait(used)?;
        for (i, mat) in mats.iter().enumerate() {
            assert!((mat.dtype(), mat.rows(), mat.cols()) == (to.dtype, to.rows, to.cols), "a matrix of another shape");
            let at = to.bytes.at + (i * to.matrix_bytes()) as u64;
            // SAFETY: the slot has room for `count` matrices of this size.
            unsafe { gpu.staging.borrow_mut().send(&gpu.copy, mat.data(), at)? };
        }
        copied.record(&gpu.copy)
    }

    /// The matrices of a slot: what is queued from here on waits for its copy.
    ///
    /// # Errors
    /// A driver that is lost.
    pub fn ready(&self, gpu: &Gpu, slot: usize) -> Result<&GpuMat, CudaError> {
        gpu.compute.wait(&self.events[slot].0)?;
        Ok(&self.mats[slot])
    }

    /// Says that all users of a slot's matrices are queued: it may be filled again once they are done.
    ///
    /// # Errors
    /// A driver that is lost.
    pub fn release(&self, gpu: &Gpu, slot: usize) -> Result<(), CudaError> {
        self.events[slot].1.record(&gpu.compute)
    }
}

/// The grids of the IQ formats in the order of `formats.cuh`.
pub(super) fn grids() -> Vec<i8> {
    let mut table = Vec::new();
    table.extend(IQ1_GRID.as_flattened());
    table.extend(IQ2_XXS_GRID.as_flattened());
    table.extend(IQ2_XS_GRID.as_flattened());
    table.extend(IQ2_S_GRID.as_flattened());
    table.extend(IQ3_XXS_GRID.as_flattened());
    table.extend(IQ3_S_GRID.as_flattened());
    table
}
