//! What this machine can do at most: the two limits that products of matrices run into.
//!
//! Decoding reads every weight once and does little with it: its limit is reading memory. A prompt uses every weight
//! many times: its limit is multiplying bytes. Both are measured by loops that do nothing else, on the same threads, so
//! that a share of them means the same on any machine. What the machine can do changes with what else runs on it, so a
//! limit is measured beside what is compared with it.

use std::time::{Duration, Instant};

use crate::Exec;
use crate::cpu::streams::ask;
use crate::float::simd::{Kernel, Simd, run};

/// Larger than the caches of any desktop, and quick to fill.
const BYTES: usize = 256 << 20;
/// What a task reads.
const TASK: usize = 2 << 20;
/// Places that a thread reads from in turn: a single stream does not fill the memory's queues.
const STREAMS: usize = 4;
/// How far ahead each of them is asked for, in bytes.
const AHEAD: usize = 3 << 10;
/// Passes of which the fastest counts, where they do not take long: without vectors they do.
const PASSES: usize = 12;
const LONG: Duration = Duration::from_millis(300);

/// Products that a task of the arithmetic probe makes: about a millisecond's.
const PRODUCTS: usize = 1 << 28;

/// Measures how fast the threads of an [`Exec`] read memory. It owns the memory that is read, so that a limit can be
/// measured again and again without touching new pages.
pub struct ReadProbe {
    memory: Vec<f32>,
}

impl Default for ReadProbe {
    fn default() -> ReadProbe {
        ReadProbe::new()
    }
}

impl ReadProbe {
    /// Allocates and fills 256 MB.
    pub fn new() -> ReadProbe {
        // Zeros would all be one page.
        ReadProbe { memory: vec![1.0; BYTES / 4] }
    }

    /// Bytes a second, the best of some passes over the memory, every other of which asks for it ahead: what is faster
    /// differs between processors. About 100 milliseconds of work.
    pub fn measure(&self, exec: &Exec) -> f64 {
        let cpu = exec.cpu();
        let mut ahead = 0;
        let best = fastest(|| {
            ahead = AHEAD - ahead;
            exec.team().run(BYTES / TASK, &|task, _| {
                let part = &self.memory[task * (TASK / 4)..][..TASK / 4];
                std::hint::black_box(run(cpu, Sum { x: part, ahead }));
            });
        });
        BYTES as f64 / best
    }
}

/// Seconds of the fastest pass.
fn fastest(mut pass: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    for i in 0..PASSES {
        if i > 0 && start.elapsed() > LONG {
            break;
        }
        let one = Instant::now();
        pass();
        best = best.min(one.elapsed().as_secs_f64());
    }
    best
}

/// Adds up floats, from several places in turn; so many bytes ahead they are asked for, or not at all.
struct Sum<'a> {
    x: &'a [f32],
    ahead: usize,
}

impl Kernel for Sum<'_> {
    type Out = f32;

    fn scalar(self) -> f32 {
        let (mut sums, part) = ([0.0; STREAMS], self.x.len() / STREAMS);
        for i in 0..part {
            (0..STREAMS).for_each(|stream| sums[stream] += self.x[stream * part + i]);
        }
        sums.iter().sum()
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) -> f32 {
        let part = self.x.len() / STREAMS;
        let step = 2 * S::LANES;
        let mut sums = [[s.splat(0.0); 2]; STREAMS];
        for i in (0..part / step * step).step_by(step) {
            for (stream, [a, b]) in sums.iter_mut().enumerate() {
                // SAFETY: `i + step <= part`, and there are STREAMS parts.
                unsafe {
                    let at = self.x.as_ptr().add(stream * part + i);
                    if self.ahead > 0 {
                        ask(at.cast::<u8>().wrapping_add(self.ahead), 4 * step);
                    }
                    *a = s.add(*a, s.load(at));
                    *b = s.add(*b, s.load(at.add(S::LANES)));
                }
            }
        }
        let sum = sums.into_iter().map(|[a, b]| s.add(a, b)).fold(s.splat(0.0), |a, b| s.add(a, b));
        s.sum(sum)
    }
}

/// The loop of an instruction set that multiplies bytes in registers and adds up the products.
#[derive(Clone, Copy)]
pub(crate) struct Int8Peak {
    /// Products that a round makes.
    pub products: usize,
    /// Makes so many rounds; what it returns keeps them from being left out.
    pub rounds: unsafe fn(usize) -> i32,
}

impl Exec {
    /// Multiplications and additions of bytes a second that the instruction set can do on all threads, with operands in
    /// registers: as [`Exec::matmul`] counts them, two for each weight and column. Takes about 100 milliseconds.
    pub fn probe_int8(&self) -> f64 {
        let Int8Peak { products, rounds } = self.cpu().kernels().int8_peak;
        let n = self.team().threads() * 4;
        let best = fastest(|| {
            self.team().run(n, &|_, _| {
                // SAFETY: `cpu` proves the instructions.
                std::hint::black_box(unsafe { rounds(PRODUCTS / products) });
            });
        });
        2.0 * (n * (PRODUCTS / products) * products) as f64 / best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cpu;

    #[test]
    fn sums_see_every_float() {
        for cpu in Cpu::all() {
            let x: Vec<f32> = (0..STREAMS * 2 * 16 * 5).map(|i| (i % 7) as f32).collect();
            for ahead in [0, AHEAD] {
                assert_eq!(run(cpu, Sum { x: &x, ahead }), x.iter().sum::<f32>(), "{} {ahead}", cpu.name());
            }
        }
    }
}
