//! A card of NVIDIA's as a second device: the same operations as on the CPU, over memory of the card.
//!
//! [`Gpu::open`] finds a card or says in a sentence why there is none; nothing else here can be reached without one. The
//! kernels are in `kernels/cuda`, as PTX that the driver compiles for the card. Operations are queued and return at once: errors
//! of the card show in a later call, and results are there after [`Gpu::synchronize`] or a download. Shapes are checked
//! before anything is queued.
//!
//! Activations are quantized with the CPU's rounding, so that both devices give the same logits up to the order of sums.

mod args;
mod attend;
mod error;
mod layer;
mod matrix;
mod memory;
mod product;
mod ptx;
pub mod selftest;

pub use attend::{GpuAttend, GpuKv};
pub use error::{CudaError, NoGpu};
pub use layer::{GpuHeads, GpuNorm, GpuRope, GpuRoute, GpuRouting};
pub use matrix::{GpuMat, Slots};
pub use memory::Buffer;
pub use product::{GpuActs, GpuGroups};

use args::Args;
use cudarc::driver::{result, sys};
use memory::{Context, Event, Pinned, Plain, Staging, Stream, as_bytes, as_bytes_mut, failed};
use ptx::{Code, Function, Module};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::Arc;

/// What is known of a card.
#[derive(Clone, Debug)]
pub struct GpuInfo {
    /// Its name.
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// The version of CUDA that the driver has, as 12040 for 12.4.
    pub driver: i32,
    /// Bytes of memory.
    pub total: u64,
}

/// A card, its code and its queues.
pub struct Gpu {
    info: GpuInfo,
    code: &'static Code,
    functions: layer::Functions,
    formats: RefCell<HashMap<crate::DType, product::Functions>>,
    grids: Buffer<u8>,
    staging: RefCell<Staging>,
    landing: RefCell<Option<Pinned>>,
    compute: Stream,
    copy: Stream,
    context: Arc<Context>,
}

/// Bytes of each half of the staging memory: several milliseconds of the bus, so that its latency does not show.
const STAGING: usize = 8 << 20;

impl Gpu {
    /// The first card.
    ///
    /// # Errors
    /// Why there is none that can be used.
    pub fn open() -> Result<Gpu, NoGpu> {
        // SAFETY: opens the driver's library, if there is one; its initialization is the driver's own.
        if !unsafe { sys::is_culib_present() } {
            return Err(NoGpu::NoDriver);
        }
        // A library that lacks a function makes cudarc panic; it must not end a program that can do without.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let opened = std::panic::catch_unwind(Gpu::open_driver);
        std::panic::set_hook(hook);
        opened.unwrap_or_else(|panic| {
            let what = panic.downcast_ref::<String>().map_or("it lacks a function", String::as_str);
            Err(NoGpu::Broken(what.to_owned()))
        })
    }

    fn open_driver() -> Result<Gpu, NoGpu> {
        let mut driver = 0;
        // SAFETY: writes one number.
        let asked = unsafe { sys::cuDriverGetVersion(&mut driver) }.result();
        asked.map_err(failed("asking the driver's version"))?;
        if driver < 12000 {
            return Err(NoGpu::OldDriver { version: driver });
        }
        match result::init() {
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NO_DEVICE => return Err(NoGpu::NoDevice),
            done => done.map_err(failed("starting the driver"))?,
        }
        if result::device::get_count().map_err(failed("counting the cards"))? == 0 {
            return Err(NoGpu::NoDevice);
        }
        let device = result::device::get(0).map_err(failed("finding the card"))?;
        let name = result::device::get_name(device).map_err(failed("asking the card's name"))?;
        let ask = |attribute| {
            // SAFETY: the device exists.
            unsafe { result::device::get_attribute(device, attribute) }.map_err(failed("asking about the card"))
        };
        use sys::CUdevice_attribute::*;
        let capability =
            (ask(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?, ask(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?);
        let Some(code) = Code::of(capability) else { return Err(NoGpu::OldDevice { name, capability }) };
        // SAFETY: the device exists.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(failed("opening the card"))?;
        let context = Arc::new(Context { device, context });
        context.bind()?;
        let (_, total) = result::mem_get_info().map_err(failed("asking for the card's memory"))?;
        let functions = layer::Functions::load(&Module::load("the layers", code.layer)?)?;
        let table = matrix::grids();
        let gpu = Gpu {
            info: GpuInfo { name, capability, driver, total: total as u64 },
            code,
            functions,
            formats: RefCell::default(),
            grids: Buffer::new(&context, table.len())?,
            staging: RefCell::new(Staging::new(&context, STAGING)?),
            landing: RefCell::default(),
            compute: Stream::new()?,
            copy: Stream::new()?,
            context,
        };
        gpu.write(&gpu.grids, 0, &table)?;
        gpu.synchronize()?;
        Ok(gpu)
    }

    /// What is known of the card.
    pub fn info(&self) -> &GpuInfo {
        &self.info
    }

    /// Bytes of the card that nobody uses, as the driver tells it now.
    ///
    /// # Errors
    /// A driver that is lost.
    pub fn free_memory(&self) -> Result<u64, CudaError> {
        self.context.bind()?;
        result::mem_get_info().map(|(free, _)| free as u64).map_err(failed("asking for the card's memory"))
    }

    /// Room for `len` values, of which nobody knows what they are.
    ///
    /// # Errors
    /// No room, or a driver that is lost.
    #[allow(private_bounds, reason = "a list of numbers, not an interface")]
    pub fn buffer<T: Plain>(&self, len: usize) -> Result<Buffer<T>, CudaError> {
        Buffer::new(&self.context, len)
    }

    /// Queues a copy of `values` into a buffer from value `at` on. The values may change as soon as this returns.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When they do not fit.
    #[allow(private_bounds, reason = "a list of numbers, not an interface")]
    pub fn write<T: Plain>(&self, to: &Buffer<T>, at: usize, values: &[T]) -> Result<(), CudaError> {
        assert!(at <= to.len() && values.len() <= to.len() - at, "{} values at {at} of {}", values.len(), to.len());
        self.context.bind()?;
        let address = to.at + (at * size_of::<T>()) as u64;
        // SAFETY: they fit, and freeing the buffer waits for the stream.
        unsafe { self.staging.borrow_mut().send(&self.compute, as_bytes(values), address) }
    }

    /// Waits for all that was queued and copies values of a buffer out, from value `at` on.
    ///
    /// # Errors
    /// What went wrong on the card since the last wait.
    ///
    /// # Panics
    /// When there are not so many.
    #[allow(private_bounds, reason = "a list of numbers, not an interface")]
    pub fn read<T: Plain>(&self, from: &Buffer<T>, at: usize, values: &mut [T]) -> Result<(), CudaError> {
        assert!(
            at <= from.len() && values.len() <= from.len() - at,
            "{} values at {at} of {}",
            values.len(),
            from.len()
        );
        self.context.bind()?;
        let bytes = as_bytes_mut(values);
        let mut landing = self.landing.borrow_mut();
        if landing.as_ref().is_none_or(|pinned| pinned.bytes().len() < bytes.len()) {
            *landing = None;
            *landing = Some(Pinned::new(&self.context, bytes.len().next_power_of_two())?);
        }
        let pinned = landing.as_mut().expect("made above");
        let address = from.at + (at * size_of::<T>()) as u64;
        // SAFETY: so many bytes are there; the pinned memory is not touched before the stream is done.
        unsafe { result::memcpy_dtoh_async(&mut pinned.bytes_mut()[..bytes.len()], address, self.compute.0) }
            .map_err(failed("copying from the card"))?;
        self.synchronize()?;
        bytes.copy_from_slice(&pinned.bytes()[..bytes.len()]);
        Ok(())
    }

    /// Queues a copy of the first `len` values of one buffer to another.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When there are not so many, or no room.
    #[allow(private_bounds, reason = "a list of numbers, not an interface")]
    pub fn copy<T: Plain>(&self, from: &Buffer<T>, to: &mut Buffer<T>, len: usize) -> Result<(), CudaError> {
        need("values to copy", from, len);
        need("room for a copy", to, len);
        self.context.bind()?;
        // SAFETY: both have so many values; freeing either waits for the stream.
        unsafe { result::memcpy_dtod_async(to.at, from.at, len * size_of::<T>(), self.compute.0) }
            .map_err(failed("copying on the card"))
    }

    /// Waits until all that was queued is done.
    ///
    /// # Errors
    /// What went wrong on the card since the last wait.
    pub fn synchronize(&self) -> Result<(), CudaError> {
        self.context.bind()?;
        self.compute.synchronize()
    }

    /// Times what `queue` queues, in seconds, as the card's clock tells it.
    ///
    /// # Errors
    /// What `queue` or the card says.
    pub fn time(&self, queue: impl FnOnce() -> Result<(), CudaError>) -> Result<f64, CudaError> {
        self.context.bind()?;
        let (start, end) = (Event::new()?, Event::new()?);
        start.record(&self.compute)?;
        queue()?;
        end.record(&self.compute)?;
        end.synchronize()?;
        Ok(f64::from(end.since(&start)?) * 1e-3)
    }

    /// Queues a kernel.
    ///
    /// # Safety
    /// The kernel takes `A`, and with these arguments stays within the memory that their addresses mean.
    unsafe fn launch<A: Args>(
        &self,
        function: Function,
        grid: (usize, usize, usize),
        threads: usize,
        shared: usize,
        args: &A,
    ) -> Result<(), CudaError> {
        if grid.0 == 0 || grid.1 == 0 || grid.2 == 0 {
            return Ok(());
        }
        self.context.bind()?;
        let side = |n: usize| u32::try_from(n).expect("a grid of fewer than 2^32 blocks");
        let mut parameters = [std::ptr::from_ref(args).cast_mut().cast::<c_void>()];
        // SAFETY: promised by the caller; the driver copies the arguments before it returns.
        unsafe {
            result::launch_kernel(
                function.0,
                (side(grid.0), side(grid.1), side(grid.2)),
                (side(threads), 1, 1),
                side(shared),
                self.compute.0,
                &mut parameters,
            )
        }
        .map_err(failed("starting a kernel"))
    }
}

/// A length as the kernels take it.
fn int(n: usize) -> i32 {
    i32::try_from(n).expect("a length below 2^31")
}

/// Checks that a buffer has room for so many values.
fn need<T: Plain>(what: &str, buffer: &Buffer<T>, len: usize) {
    assert!(buffer.len() >= len, "{what}: {} values, {len} needed", buffer.len());
}
