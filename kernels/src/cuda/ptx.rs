//! The code for the card, as text that the driver compiles: a module for what knows no format, and one a format.
//!
//! `kernels/cuda/ptx.py` makes the files. The driver compiles the modules that a model needs, and keeps what it made.

use super::error::CudaError;
use super::memory::failed;
use crate::DType;
use cudarc::driver::{result, sys};
use std::ffi::CString;

macro_rules! modules {
    ($arch:literal: $($dtype:ident $file:literal,)*) => {
        Code {
            arch: $arch,
            layer: concat!(include_str!(concat!("../../cuda/ptx/compute_", $arch, "/layer.ptx")), "\0"),
            format: |dtype| match dtype {
                $(DType::$dtype =>
                    Some(concat!(include_str!(concat!("../../cuda/ptx/compute_", $arch, "/", $file, ".ptx")), "\0")),)*
                _ => None,
            },
        }
    };
}

macro_rules! codes {
    ($($arch:literal)*) => {
        /// Oldest first.
        const CODES: &[Code] = &[$(modules! { $arch:
            F32 "f32", F16 "f16", BF16 "bf16",
            Q4_0 "q4_0", Q4_1 "q4_1", Q5_0 "q5_0", Q5_1 "q5_1", Q8_0 "q8_0", IQ4_NL "iq4_nl",
            MXFP4 "mxfp4", NVFP4 "nvfp4", Q1_0 "q1_0", Q2_0 "q2_0", TQ1_0 "tq1_0", TQ2_0 "tq2_0",
            Q2_K "q2_k", Q3_K "q3_k", Q4_K "q4_k", Q5_K "q5_k", Q6_K "q6_k", IQ4_XS "iq4_xs",
            IQ2_XXS "iq2_xxs", IQ2_XS "iq2_xs", IQ2_S "iq2_s", IQ3_XXS "iq3_xxs", IQ3_S "iq3_s",
            IQ1_S "iq1_s", IQ1_M "iq1_m",
        },)*];
    };
}

codes! { "75" "80" }

/// The modules for cards from one compute capability on.
pub(super) struct Code {
    /// The capability, as in `compute_75`.
    pub arch: &'static str,
    /// What knows no format; ends with a zero.
    pub layer: &'static str,
    /// What a type of weights needs; ends with a zero.
    pub format: fn(DType) -> Option<&'static str>,
}

impl Code {
    /// The newest that a card can run.
    pub fn of(capability: (i32, i32)) -> Option<&'static Code> {
        let (major, minor) = capability;
        CODES.iter().rev().find(|code| code.arch.parse::<i32>().is_ok_and(|arch| arch <= 10 * major + minor))
    }
}

/// A module that the driver has compiled. It lives as long as the context.
pub(super) struct Module(sys::CUmodule);

impl Module {
    /// Compiles `ptx`, which ends with a zero.
    pub fn load(name: &str, ptx: &'static str) -> Result<Module, CudaError> {
        assert!(ptx.ends_with('\0'), "PTX without its end");
        // SAFETY: a string that ends with a zero.
        let module = unsafe { result::module::load_data(ptx.as_ptr().cast()) };
        module.map(Module).map_err(|e| CudaError::new(format!("compiling the kernels of {name}"), e))
    }

    /// A kernel.
    pub fn function(&self, name: &str) -> Result<Function, CudaError> {
        let c_name = CString::new(name).expect("names of kernels have no zero");
        // SAFETY: the module is never unloaded.
        let function = unsafe { result::module::get_function(self.0, c_name) };
        function.map(Function).map_err(failed("finding a kernel"))
    }
}

/// A kernel of a module.
#[derive(Clone, Copy)]
pub(super) struct Function(pub sys::CUfunction);
