//! Every kernel against plain double-precision code, on the card that is present.
//!
//! One table serves three readers: the owner of a card (`ostro cuda-selftest`), the quick check at start, and our own tests
//! on an emulated driver, which take the awkward shapes.

mod attention;
mod layers;
mod products;

use super::memory::Plain;
use super::{Buffer, CudaError, Gpu};
use crate::synthetic::Random;

/// How much to look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extent {
    /// Milliseconds: one shape a kernel, and the types of weights that are asked for.
    Quick,
    /// Shapes that hit main loops, tails, zero and one.
    Thorough,
    /// Shapes of real models, to see how fast the card is.
    Large,
}

/// What one kernel gave.
#[derive(Clone, Debug)]
pub struct Check {
    /// The kernel, and the shape that was computed.
    pub name: String,
    /// The largest difference, relative to the largest value that was expected.
    pub error: f64,
    /// What the difference may be.
    pub limit: f64,
    /// Seconds by the card's clock.
    pub seconds: f64,
    /// Bytes that the kernel has to read and write at least.
    pub bytes: usize,
}

impl Check {
    /// Whether the kernel is right.
    pub fn passed(&self) -> bool {
        // A NaN is not.
        self.error <= self.limit
    }
}

/// Compares all kernels; `report` sees each as it comes. `formats` are the types of weights to look at.
///
/// # Errors
/// What the driver says: then the card or the driver is at fault, and not a result.
pub fn selftest(
    gpu: &Gpu,
    extent: Extent,
    formats: &[crate::DType],
    report: &mut dyn FnMut(Check),
) -> Result<(), CudaError> {
    let mut bench = Bench { gpu, extent, random: Random::new(7), report };
    products::check(&mut bench, formats)?;
    layers::check(&mut bench)?;
    attention::check(&mut bench)
}

/// What the checks share.
struct Bench<'a> {
    gpu: &'a Gpu,
    extent: Extent,
    random: Random,
    report: &'a mut dyn FnMut(Check),
}

impl Bench<'_> {
    /// The shapes of one of the extents.
    fn shapes<T: Copy>(&self, quick: &[T], thorough: &[T], large: &[T]) -> Vec<T> {
        match self.extent {
            Extent::Quick => quick.to_vec(),
            Extent::Thorough => thorough.to_vec(),
            Extent::Large => large.to_vec(),
        }
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| 4.0 * self.random.signed()).collect()
    }

    /// A buffer with these values.
    fn put<T: Plain>(&self, values: &[T]) -> Result<Buffer<T>, CudaError> {
        let buffer = self.gpu.buffer(values.len())?;
        self.gpu.write(&buffer, 0, values)?;
        Ok(buffer)
    }

    /// A buffer that nothing has been written to yet: all NaN, so that what a kernel leaves out shows.
    fn blank(&self, n: usize) -> Result<Buffer<f32>, CudaError> {
        self.put(&vec![f32::NAN; n])
    }

    fn get<T: Plain + Default>(&self, buffer: &Buffer<T>) -> Result<Vec<T>, CudaError> {
        let mut values = vec![T::default(); buffer.len()];
        self.gpu.read(buffer, 0, &mut values)?;
        Ok(values)
    }

    /// Times `queue`, then compares what `result` gives.
    fn compare(
        &mut self,
        name: String,
        limit: f64,
        bytes: usize,
        want: &[f64],
        out: &mut Buffer<f32>,
        queue: impl FnOnce(&Gpu, &mut Buffer<f32>) -> Result<(), CudaError>,
    ) -> Result<(), CudaError> {
        let seconds = self.gpu.time(|| queue(self.gpu, out))?;
        let got = self.get(out)?;
        (self.report)(Check { name, error: difference(&got, want), limit, seconds, bytes });
        Ok(())
    }
}

/// The largest difference, relative to the largest wanted value; NaN where something is not a number, or is missing.
fn difference(got: &[f32], want: &[f64]) -> f64 {
    if got.len() < want.len() {
        return f64::NAN;
    }
    let most = want.iter().fold(1e-30, |most: f64, w| most.max(w.abs()));
    let worst = got.iter().zip(want).map(|(&g, w)| (f64::from(g) - w).abs());
    worst.fold(0.0, |worst: f64, d| if d.is_nan() || worst.is_nan() { f64::NAN } else { worst.max(d) }) / most
}
