//! What the emulated driver finds: each kernel has a fault, and the same one without it passes.

mod common;

use common::{Card, kernel, kernel_with, strict};
use ostro_cuda_emulator::driver::{Driver, Source, Work, code};
use ostro_cuda_emulator::exec::{ILLEGAL_ADDRESS, LAUNCH_FAILED, MISALIGNED};
use ostro_cuda_emulator::settings::Settings;

/// Name, the line that is wrong, the line that is right, threads, blocks, and the error.
type Row = (&'static str, &'static str, &'static str, u32, u32, u32);

/// Loads and stores of shared memory, of which `{}` is the middle.
const THROUGH_SHARED: &str =
    "mov.u32 %r2, mem;\nshl.b32 %r3, %r1, 2;\nadd.s32 %r4, %r2, %r3;\nst.shared.u32 [%r4], %r1;";

#[test]
fn faults_are_found() {
    let own = "add.s64 %rd6, %rd1, %rd3;\n";
    let rows: Vec<Row> = vec![
        (
            "beyond an allocation",
            "st.global.u32 [%rd6+256], %r1;",
            "st.global.u32 [%rd6], %r1;",
            64,
            1,
            ILLEGAL_ADDRESS,
        ),
        ("before an allocation", "st.global.u32 [%rd6+-4], %r1;", "st.global.u32 [%rd6], %r1;", 64, 1, ILLEGAL_ADDRESS),
        ("not aligned", "ld.global.u32 %r2, [%rd2+2];", "ld.global.u16 %rs2, [%rd2+2];", 1, 1, MISALIGNED),
        (
            "a vector not aligned",
            "ld.global.v4.u32 {%r2,%r3,%r4,%r5}, [%rd2+4];",
            "ld.global.v4.u32 {%r2,%r3,%r4,%r5}, [%rd2+16];",
            1,
            1,
            MISALIGNED,
        ),
        ("never written", "ld.global.u32 %r2, [%rd6];", "ld.global.u32 %r2, [%rd2];", 1, 1, ILLEGAL_ADDRESS),
        (
            "shared, never written",
            "ld.shared.u32 %r2, [mem];",
            "st.shared.u32 [mem], %r1;\nld.shared.u32 %r2, [mem];",
            1,
            1,
            ILLEGAL_ADDRESS,
        ),
        (
            "beyond shared memory",
            "st.shared.u32 [mem+256], %r1;",
            "st.shared.u32 [mem+252], %r1;",
            1,
            1,
            ILLEGAL_ADDRESS,
        ),
        ("two blocks write", "st.global.u32 [%rd1], %r1;", "st.global.u32 [%rd6], %r1;", 1, 1, LAUNCH_FAILED),
        ("two warps write", "st.global.u32 [%rd1], %r1;", "st.global.u32 [%rd6], %r1;", 64, 1, LAUNCH_FAILED),
        ("two lanes write", "st.global.u32 [%rd1], %r1;", "st.global.u32 [%rd6], %r1;", 2, 1, LAUNCH_FAILED),
        (
            "a shuffle with lanes that left",
            "setp.gt.u32 %p1, %r1, 15;\n@%p1 bra L1;\nshfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;\nL1:",
            "shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;",
            32,
            1,
            LAUNCH_FAILED,
        ),
        (
            "a barrier that half a warp reaches",
            "setp.gt.u32 %p1, %r1, 15;\n@%p1 bra L1;\nbar.sync 0;\nL1:",
            "bar.sync 0;",
            32,
            1,
            LAUNCH_FAILED,
        ),
    ];
    let mut wrong = Vec::new();
    for (name, bad, good, threads, blocks, error) in rows {
        let blocks_of = |bad: bool| if bad && name == "two blocks write" { 2 } else { blocks };
        for (line, want, bad) in [(bad, Err(error), true), (good, Ok(()), false)] {
            let got = Card::new(strict(), &[7; 64])
                .run(&kernel(&format!("{own}{line}")), blocks_of(bad), threads)
                .map(|_| ());
            // Nothing of the output need be written, so reading it is no part of this.
            if got != want {
                wrong.push(format!("{name}: {line}: {got:?}, expected {want:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// A value that another warp wrote to shared memory, with and without a barrier between; of the own warp, with and without one of it.
#[test]
fn a_missing_barrier_is_a_race() {
    let read = "xor.b32 %r5, %r3, {};\nadd.s32 %r6, %r2, %r5;\nld.shared.u32 %r7, [%r6];\nadd.s64 %rd6, %rd1, %rd3;\nst.global.u32 [%rd6], %r7;";
    for (other, barrier, threads, want) in [
        ("128", "bar.sync 0;", 64, true),
        ("128", "bar.warp.sync -1;", 64, false),
        ("128", "", 64, false),
        ("4", "bar.warp.sync -1;", 32, true),
        ("4", "", 32, false),
    ] {
        let body = format!("{THROUGH_SHARED}\n{barrier}\n{}", read.replace("{}", other));
        let mut card = Card::new(strict(), &vec![0; threads]);
        let got = card.run(&kernel(&body), 1, threads as u32);
        assert_eq!(got.is_ok(), want, "{barrier:?} of {threads} threads: {got:?}");
        if let Ok(values) = got {
            let want: Vec<u32> = (0..threads as u32).map(|t| t ^ (other.parse::<u32>().unwrap() / 4)).collect();
            assert_eq!(values, want);
        }
    }
}

#[test]
fn launches_that_no_card_takes() {
    let ptx = kernel("");
    let run = |blocks, threads| Card::new(strict(), &[0]).run(&ptx, blocks, threads).map(|_| ());
    assert_eq!(run(1, 129), Err(code::LAUNCH_OUT_OF_RESOURCES), "more threads than the kernel was made for");
    assert_eq!(run(0, 32), Err(code::INVALID_VALUE));
    assert_eq!(run(1, 1025), Err(code::INVALID_VALUE));
    let large = kernel_with(".shared .align 4 .b8 mem[49156];", "");
    assert_eq!(Card::new(strict(), &[0]).run(&large, 1, 32).map(|_| ()), Err(code::LAUNCH_OUT_OF_RESOURCES));
}

#[test]
fn an_error_stays() {
    let mut card = Card::new(strict(), &[0; 64]);
    let bad = kernel("st.global.u32 [%rd1+4096], %r1;");
    assert_eq!(card.run(&bad, 1, 1), Err(ILLEGAL_ADDRESS));
    assert_eq!(card.driver.check(), Err(ILLEGAL_ADDRESS));
    assert_eq!(card.driver.synchronize(0), Err(ILLEGAL_ADDRESS));
}

#[test]
fn memory_is_as_much_as_the_card_has() {
    let mut driver = Driver::new(Settings { memory: 1 << 30, ..Settings::default() });
    let blocks: Vec<u64> = std::iter::from_fn(|| driver.allocate(100 << 20).ok()).collect();
    assert_eq!(blocks.len(), 10);
    assert_eq!(driver.allocate(100 << 20), Err(code::OUT_OF_MEMORY));
    driver.free(blocks[3]).unwrap();
    assert!(driver.allocate(100 << 20).is_ok());
    assert_eq!(driver.free(blocks[3]), Err(code::INVALID_VALUE), "freed twice");
}

#[test]
fn ptx_that_a_driver_or_a_card_does_not_take() {
    let load = |driver, capability, version: &str| {
        let ptx = kernel("").replace(".version 8.0", version);
        Driver::new(Settings { driver, capability, ..Settings::default() }).load(&ptx).map(|_| ())
    };
    assert_eq!(load(12_000, 75, ".version 8.0"), Ok(()));
    assert_eq!(load(12_000, 75, ".version 8.4"), Err(code::UNSUPPORTED_PTX_VERSION));
    assert_eq!(load(12_040, 75, ".version 8.4"), Ok(()));
    assert_eq!(load(11_080, 75, ".version 8.0"), Err(code::UNSUPPORTED_PTX_VERSION));
    assert_eq!(load(12_000, 61, ".version 8.0"), Err(code::NO_BINARY_FOR_GPU));
}

/// Pinned memory that is written again before the copy has run: the card sees the later value, as it may on a real one.
#[test]
fn a_missing_wait_shows() {
    let mut driver = Driver::new(strict());
    let at = driver.allocate(4).unwrap();
    for wait in [false, true] {
        let pinned: &'static mut [u8] = vec![1u8; 4].leak();
        let place = pinned.as_ptr() as usize;
        driver.pin(place, 4);
        driver.queue(0, Work::ToCard(Source::Pinned(place, 4), at)).unwrap();
        if wait {
            driver.synchronize(0).unwrap();
        }
        pinned.fill(2);
        let mut back = [0u8; 4];
        driver.queue(0, Work::ToHost(at, back.as_mut_ptr() as usize, 4)).unwrap();
        driver.synchronize(0).unwrap();
        assert_eq!(back, [if wait { 1 } else { 2 }; 4]);
    }
}

/// A stream waits for the mark of another, and for no more than that.
#[test]
fn events_order_streams() {
    let mut driver = Driver::new(strict());
    let at = driver.allocate(8).unwrap();
    let (a, b) = (driver.stream(), driver.stream());
    let mark = driver.event();
    driver.queue(a, Work::Fill(at, 1, 4)).unwrap();
    driver.record(mark, a).unwrap();
    driver.queue(a, Work::Fill(at, 9, 8)).unwrap();
    driver.wait(b, mark).unwrap();
    driver.queue(b, Work::Within(at, at + 4, 4)).unwrap();
    driver.synchronize(b).unwrap();
    let mut back = [0u8; 8];
    driver.queue(b, Work::ToHost(at, back.as_mut_ptr() as usize, 8)).unwrap();
    driver.synchronize(b).unwrap();
    assert_eq!(back, [1; 8], "what was queued after the mark has not run");
}

#[test]
fn a_driver_that_is_lost_stays_lost() {
    let mut card = Card::new(Settings { lose_after: Some(1), ..strict() }, &[0; 64]);
    let ptx = kernel("add.s64 %rd6, %rd1, %rd3;\nst.global.u32 [%rd6], %r1;");
    assert!(card.run(&ptx, 1, 64).is_ok());
    assert_eq!(card.run(&ptx, 1, 64), Err(code::UNKNOWN));
    assert_eq!(card.driver.check(), Err(code::UNKNOWN));
}
