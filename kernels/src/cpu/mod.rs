//! The instruction sets: which of them this machine has, and the kernels of each.
//!
//! An instruction set is a folder or file here, a member of `Isa` and a line in `Cpu::kernels`.
//!
//! [`Cpu`] is a value that proves its instructions exist: whoever holds one may call the kernels of that set.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod kernels;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod lanes;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod pack;
mod scalar;
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
pub(crate) mod streams;

use kernels::Kernels;

/// An instruction set that this machine has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpu(Isa);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code, reason = "each machine type can make some of them only")]
pub(crate) enum Isa {
    Scalar,
    Avx2,
    /// AVX2 and AVX-VNNI: of the products of bytes that AVX-512 has, those of 256 bits.
    Avx2Vnni,
    Avx512,
    Neon,
}

impl Isa {
    const ALL: [Isa; 5] = [Isa::Scalar, Isa::Avx2, Isa::Avx2Vnni, Isa::Avx512, Isa::Neon];

    fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2-plain",
            Isa::Avx2Vnni => "avx2-vnni",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
        }
    }

    fn present(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        match self {
            Isa::Scalar => true,
            Isa::Avx2 => has_avx2(),
            Isa::Avx2Vnni => has_avx2() && is_x86_feature_detected!("avxvnni"),
            Isa::Avx512 => {
                has_avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vnni")
            }
            Isa::Neon => false,
        }
        #[cfg(target_arch = "aarch64")]
        match self {
            Isa::Scalar => true,
            Isa::Neon => {
                std::arch::is_aarch64_feature_detected!("neon") && std::arch::is_aarch64_feature_detected!("dotprod")
            }
            Isa::Avx2 | Isa::Avx2Vnni | Isa::Avx512 => false,
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        matches!(self, Isa::Scalar)
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

impl Cpu {
    /// The best instruction set of this machine.
    pub fn detect() -> Cpu {
        *Cpu::all().last().expect("scalar is always present")
    }

    /// Every instruction set of this machine: scalar first, best last.
    pub fn all() -> Vec<Cpu> {
        Isa::ALL.into_iter().filter(|isa| isa.present()).map(Cpu).collect()
    }

    /// The instruction set with this name (`scalar`, `avx2-plain`, `avx2-vnni`, `avx512`, `neon`), if this machine has
    /// it; `avx2` is the better of the two that it has.
    pub fn by_name(name: &str) -> Option<Cpu> {
        let called = |cpu: &Cpu| cpu.name() == name || name == "avx2" && matches!(cpu.0, Isa::Avx2 | Isa::Avx2Vnni);
        Cpu::all().into_iter().rfind(called)
    }

    /// Its name, as [`Cpu::by_name`] takes it.
    pub fn name(self) -> &'static str {
        self.0.name()
    }

    /// The instruction set that it proves.
    pub(crate) fn isa(self) -> Isa {
        self.0
    }

    pub(crate) fn kernels(self) -> &'static Kernels {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => &avx2::PLAIN,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2Vnni => &avx2::VNNI,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &avx512::KERNELS,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => &neon::KERNELS,
            _ => &scalar::KERNELS,
        }
    }
}
