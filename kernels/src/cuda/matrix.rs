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

    /// Bytes of one of them.
    pub(super) fn matrix_bytes(&self) -> usize {
        self.dtype.row_bytes(self.cols).expect("whole blocks") * self.rows
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
        let bytes = self.buffer(mats.iter().map(|m| m.data().len()).sum())?;
        let to = self.shaped(mats, bytes)?;
        self.copy_matrices(mats, &to)?;
        // The copies are on a stream of their own.
        self.copy.synchronize()?;
        Ok(to)
    }

    /// Room for matrices like these, in `bytes`.
    fn shaped(&self, like: &[Mat<'_>], bytes: Buffer<u8>) -> Result<GpuMat, CudaError> {
        let first = like.first().expect("a matrix");
        assert!(like.iter().all(|m| (m.dtype(), m.rows(), m.cols()) == (first.dtype(), first.rows(), first.cols())));
        self.load_format(first.dtype())?;
        let mat = GpuMat { dtype: first.dtype(), rows: first.rows(), cols: first.cols(), count: like.len(), bytes };
        assert!(mat.matrix_bytes() * mat.count <= mat.bytes.len(), "matrices of {} bytes", mat.bytes.len());
        Ok(mat)
    }

    /// Queues copies of matrices into their room, beside what is being computed.
    fn copy_matrices(&self, mats: &[Mat<'_>], to: &GpuMat) -> Result<(), CudaError> {
        self.context.bind()?;
        for (i, mat) in mats.iter().enumerate() {
            let at = to.bytes.at + (i * to.matrix_bytes()) as u64;
            // SAFETY: `shaped` has checked that there is room for all of them.
            unsafe { self.staging.borrow_mut().send(&self.copy, mat.data(), at)? };
        }
        Ok(())
    }
}

/// Room on the card that tables of weights take in turn: while one slot is computed with, another is filled.
pub struct Slots(Vec<Slot>);

struct Slot {
    mat: Option<GpuMat>,
    room: Option<Buffer<u8>>,
    copied: Event,
    used: Event,
}

impl Slots {
    /// `n` slots of so many bytes.
    ///
    /// # Errors
    /// No room, or a driver that is lost.
    pub fn new(gpu: &Gpu, bytes: usize, n: usize) -> Result<Slots, CudaError> {
        let slot = || -> Result<_, CudaError> {
            Ok(Slot { mat: None, room: Some(gpu.buffer(bytes)?), copied: Event::new()?, used: Event::new()? })
        };
        Ok(Slots((0..n).map(|_| slot()).collect::<Result<_, _>>()?))
    }

    /// Queues a copy of matrices into a slot, beside what is being computed, once the slot's last user is done.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When there is not so much room, or as [`Gpu::upload`].
    pub fn fill(&mut self, gpu: &Gpu, slot: usize, mats: &[Mat<'_>]) -> Result<(), CudaError> {
        let slot = &mut self.0[slot];
        let room = slot.mat.take().map(|mat| mat.bytes).or_else(|| slot.room.take()).expect("one of them has it");
        let mat = gpu.shaped(mats, room)?;
        gpu.copy.wait(&slot.used)?;
        let copied = gpu.copy_matrices(mats, &mat).and_then(|()| slot.copied.record(&gpu.copy));
        slot.mat = Some(mat);
        copied
    }

    /// The matrices of a slot: what is queued from here on waits for their copy.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When the slot was never filled.
    pub fn ready(&self, gpu: &Gpu, slot: usize) -> Result<&GpuMat, CudaError> {
        let slot = &self.0[slot];
        gpu.compute.wait(&slot.copied)?;
        Ok(slot.mat.as_ref().expect("a slot that was filled"))
    }

    /// Says that all users of a slot's matrices are queued: it may be filled again once they are done.
    ///
    /// # Errors
    /// A driver that is lost.
    pub fn release(&self, gpu: &Gpu, slot: usize) -> Result<(), CudaError> {
        self.0[slot].used.record(&gpu.compute)
    }
}

/// The formats that look weights up in a grid, and the grids one after the other: where one starts is [`grid_at`].
const GRIDS: [DType; 7] =
    [DType::IQ1_S, DType::IQ1_M, DType::IQ2_XXS, DType::IQ2_XS, DType::IQ2_S, DType::IQ3_XXS, DType::IQ3_S];

/// A format's grid as `formats.cuh` reads it, whole pieces of 16 bytes.
fn grid(dtype: DType) -> Vec<u8> {
    let magnitudes = |points: &[i8]| points.iter().map(|&m| m as u8).collect();
    match dtype {
        // Eight trits and one, two bits each.
        DType::IQ1_S | DType::IQ1_M => IQ1_GRID
            .iter()
            .flat_map(|point| point.iter().rev().fold(0_u16, |word, &trit| word << 2 | (trit + 1) as u16).to_le_bytes())
            .collect(),
        DType::IQ2_XXS => magnitudes(IQ2_XXS_GRID.as_flattened()),
        DType::IQ2_XS => magnitudes(IQ2_XS_GRID.as_flattened()),
        DType::IQ2_S => magnitudes(IQ2_S_GRID.as_flattened()),
        DType::IQ3_XXS => magnitudes(IQ3_XXS_GRID.as_flattened()),
        DType::IQ3_S => magnitudes(IQ3_S_GRID.as_flattened()),
        _ => Vec::new(),
    }
}

/// All grids.
pub(super) fn grids() -> Vec<u8> {
    GRIDS.iter().flat_map(|&dtype| grid(dtype)).collect()
}

/// Where a format's grid starts; 0 for formats without one.
pub(super) fn grid_at(dtype: DType) -> u64 {
    if !GRIDS.contains(&dtype) {
        return 0;
    }
    GRIDS.iter().take_while(|&&other| other != dtype).map(|&other| grid(other).len() as u64).sum()
}
