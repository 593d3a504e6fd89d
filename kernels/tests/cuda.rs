//! The kernels for cards, on whatever driver the machine has: a card's own, or the emulated one of `kernels/emulator`.
#![cfg(feature = "cuda")]

use ostro_kernels::DType;
use ostro_kernels::cuda::selftest::{Extent, selftest};
use ostro_kernels::cuda::{Gpu, NoGpu};

fn gpu() -> Option<Gpu> {
    match Gpu::open() {
        Ok(gpu) => Some(gpu),
        Err(why @ NoGpu::NoDriver) if std::env::var_os("OSTRO_REQUIRE_GPU").is_none() => {
            eprintln!(
                "SKIPPED: {why}: the kernels for cards were not run; kernels/emulator has a driver without a card"
            );
            None
        }
        Err(why) => panic!("{why}"),
    }
}

#[test]
fn every_kernel_gives_what_plain_code_gives() {
    let Some(gpu) = gpu() else { return };
    let (mut checks, mut wrong) = (0, Vec::new());
    selftest(&gpu, Extent::Thorough, DType::ALL, &mut |check| {
        checks += 1;
        if !check.passed() {
            wrong.push(format!("{}: {:.2e}, at most {:.0e}", check.name, check.error, check.limit));
        }
    })
    .unwrap();
    assert!(checks > 300, "{checks} checks");
    assert!(wrong.is_empty(), "{} of {checks}:\n{}", wrong.len(), wrong.join("\n"));
}
