//! `ostro cuda-selftest`: every kernel on the card that is present, against the CPU.

use super::print;
use anyhow::bail;
use clap::Args;
use ostro_kernels::DType;
use ostro_kernels::cuda::Gpu;
use ostro_kernels::cuda::selftest::{Extent, selftest};

/// Flags of `ostro cuda-selftest`.
#[derive(Args, Debug)]
pub struct SelftestArgs {
    /// Awkward shapes too, which say nothing of speed
    #[arg(long)]
    thorough: bool,

    /// The quick check alone that is made whenever a card is used
    #[arg(long, conflicts_with = "thorough")]
    quick: bool,
}

/// Prints a table of all kernels: how far off, how long, how many bytes a second.
///
/// # Errors
/// No card, one that fails, or a kernel that is wrong.
pub fn run(args: &SelftestArgs) -> anyhow::Result<()> {
    let gpu = match Gpu::open() {
        Ok(gpu) => gpu,
        Err(why) => bail!("{why}; nothing was tested"),
    };
    let info = gpu.info();
    let (major, minor) = info.capability;
    print(format!(
        "{}, compute capability {major}.{minor}, driver for CUDA {}.{}, {:.1} GiB, {:.1} GiB free\n",
        info.name,
        info.driver / 1000,
        info.driver % 1000 / 10,
        info.total as f64 / (1u64 << 30) as f64,
        gpu.free_memory()? as f64 / (1u64 << 30) as f64
    ))?;
    print(format!("{:<64} {:>9} {:>9} {:>10} {:>8}\n", "kernel", "off by", "limit", "us", "GB/s"))?;
    let (mut checks, mut wrong, mut unwritten) = (0, 0, Ok(()));
    let extents = match (args.quick, args.thorough) {
        (true, _) => &[Extent::Quick][..],
        (_, true) => &[Extent::Thorough, Extent::Large],
        _ => &[Extent::Quick, Extent::Large],
    };
    for &extent in extents {
        selftest(&gpu, extent, DType::ALL, &mut |check| {
            checks += 1;
            wrong += usize::from(!check.passed());
            let line = format!(
                "{:<64} {:>9.1e} {:>9.0e} {:>10.1} {:>8.1}{}\n",
                check.name,
                check.error,
                check.limit,
                check.seconds * 1e6,
                check.bytes as f64 / check.seconds.max(1e-9) / 1e9,
                if check.passed() { "" } else { "  WRONG" }
            );
            if unwritten.is_ok() {
                unwritten = print(line);
            }
        })?;
        std::mem::replace(&mut unwritten, Ok(()))?;
    }
    if wrong > 0 {
        bail!("{wrong} of {checks} checks are wrong: please report this table; -ngl 0 runs on the CPU alone");
    }
    print(format!("all {checks} checks passed\n"))
}
