//! What can go wrong with a card, and why there may be none.

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;
use std::fmt;

/// A call of the driver that failed.
#[derive(Clone, Debug)]
pub struct CudaError {
    /// What was being done.
    pub(super) what: String,
    /// What the driver answered.
    pub(super) code: u32,
    /// Its name for that.
    pub(super) name: String,
}

impl CudaError {
    pub(super) fn new(what: impl Into<String>, error: DriverError) -> CudaError {
        let name = error.error_name().map(|name| name.to_string_lossy().into_owned());
        CudaError { what: what.into(), code: error.0 as u32, name: name.unwrap_or_else(|_| "unknown error".to_owned()) }
    }

    /// Whether the card had no room.
    pub fn is_out_of_memory(&self) -> bool {
        self.code == CUresult::CUDA_ERROR_OUT_OF_MEMORY as u32
    }
}

impl fmt::Display for CudaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CUDA: {}: {} ({})", self.what, self.name, self.code)
    }
}

impl std::error::Error for CudaError {}

/// Why no card can be used.
#[derive(Clone, Debug)]
pub enum NoGpu {
    /// There is no driver's library.
    NoDriver,
    /// The driver is older than the code for the card.
    OldDriver {
        /// The version of CUDA that it has, as 12040 for 12.4.
        version: i32,
    },
    /// There is a driver, and no card.
    NoDevice,
    /// The card is older than the code for it.
    OldDevice {
        /// Its name.
        name: String,
        /// Its compute capability.
        capability: (i32, i32),
    },
    /// A call failed.
    Failed(CudaError),
    /// The driver's library lacks a function or is broken.
    Broken(String),
}

impl fmt::Display for NoGpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoGpu::NoDriver => write!(f, "no NVIDIA driver was found (libcuda.so.1)"),
            NoGpu::OldDriver { version } => write!(
                f,
                "the NVIDIA driver is for CUDA {}.{}, expected 12.0 or newer (driver 525)",
                version / 1000,
                version % 1000 / 10
            ),
            NoGpu::NoDevice => write!(f, "the NVIDIA driver finds no card"),
            NoGpu::OldDevice { name, capability: (major, minor) } => {
                write!(f, "{name} has compute capability {major}.{minor}, expected 7.5 or newer")
            }
            NoGpu::Failed(error) => error.fmt(f),
            NoGpu::Broken(what) => write!(f, "the NVIDIA driver cannot be used: {what}"),
        }
    }
}

impl From<CudaError> for NoGpu {
    fn from(error: CudaError) -> NoGpu {
        NoGpu::Failed(error)
    }
}
