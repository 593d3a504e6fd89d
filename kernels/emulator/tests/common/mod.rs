//! A driver in this process, and kernels of a few lines.

#![allow(dead_code, reason = "each test file uses a part of it")]

use ostro_cuda_emulator::driver::{Driver, Source, Work};
use ostro_cuda_emulator::settings::Settings;

/// A kernel `k` of two pointers, in %rd1 and %rd2, with its thread in %r1 and four times that in %rd3.
pub fn kernel(body: &str) -> String {
    kernel_with(".shared .align 16 .b8 mem[256];", body)
}

pub fn kernel_with(declarations: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_75\n.address_size 64\n
.visible .entry k(\n\t.param .u64 k_param_0,\n\t.param .u64 k_param_1\n)\n.maxntid 128, 1, 1\n{{
\t.reg .b32 %r<40>;\n\t{declarations}
\tld.param.u64 %rd4, [k_param_0];
\tld.param.u64 %rd5, [k_param_1];
\tcvta.to.global.u64 %rd1, %rd4;
\tcvta.to.global.u64 %rd2, %rd5;
\tmov.u32 %r1, %tid.x;
\tmul.wide.u32 %rd3, %r1, 4;
{body}
\tret;\n}}\n"
    )
}

/// Memory of a test: what goes in, 32-bit words, and room for as many that come out.
pub struct Card {
    pub driver: Driver,
    pub input: u64,
    pub output: u64,
    pub len: usize,
}

impl Card {
    pub fn new(settings: Settings, input: &[u32]) -> Card {
        let mut driver = Driver::new(settings);
        let bytes: Vec<u8> = input.iter().flat_map(|word| word.to_le_bytes()).collect();
        let (at, out) = (driver.allocate(bytes.len()).unwrap(), driver.allocate(bytes.len()).unwrap());
        driver.queue(0, Work::ToCard(Source::Copied(bytes), at)).unwrap();
        Card { driver, input: at, output: out, len: input.len() }
    }

    /// Runs `k` of some PTX: what came out, or the driver's error.
    pub fn run(&mut self, ptx: &str, blocks: u32, threads: u32) -> Result<Vec<u32>, u32> {
        let module = self.driver.load(ptx)?;
        let function = self.driver.function(module, "k")?;
        let parameters = [self.output.to_le_bytes(), self.input.to_le_bytes()].concat();
        self.driver.launch(function, [blocks, 1, 1], threads, 0, 0, parameters)?;
        self.read()
    }

    /// What is in the output.
    pub fn read(&mut self) -> Result<Vec<u32>, u32> {
        let mut bytes = vec![0u8; 4 * self.len];
        self.driver.queue(0, Work::ToHost(self.output, bytes.as_mut_ptr() as usize, bytes.len()))?;
        self.driver.synchronize(0)?;
        Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }
}

/// All checks on.
pub fn strict() -> Settings {
    Settings { check_init: true, check_race: true, ..Settings::default() }
}
