//! A loop over the rows of a buffer, on all threads.

use crate::Exec;

/// Elements below which a second thread costs more than it gains.
const ALONE: usize = 16 * 1024;

impl Exec {
    /// Calls `each(i, row)` once for every row of `out`, `[n, width]`, on all threads.
    ///
    /// # Panics
    /// When `out` is not a whole number of rows.
    pub fn rows<T: Send>(&self, out: &mut [T], width: usize, each: impl Fn(usize, &mut [T]) + Sync) {
        assert_eq!(out.len() % width.max(1), 0, "{} elements are not rows of {width}", out.len());
        if out.len() <= ALONE || self.team().threads() == 1 {
            out.chunks_exact_mut(width.max(1)).enumerate().for_each(|(i, row)| each(i, row));
            return;
        }
        let n = out.len() / width;
        let base = Rows(out.as_mut_ptr());
        self.team().run(n, &|i, _| {
            // SAFETY: `run` calls each `i` in `0..n` once, so no two of these rows overlap, and `out` outlives the call.
            let row = unsafe { std::slice::from_raw_parts_mut(base.row(i, width), width) };
            each(i, row);
        });
    }
}

/// The rows' address, shared among threads that each take other rows.
struct Rows<T>(*mut T);

// SAFETY: only disjoint rows are reached through it, and `T` may be sent.
unsafe impl<T: Send> Sync for Rows<T> {}

impl<T> Rows<T> {
    fn row(&self, i: usize, width: usize) -> *mut T {
        self.0.wrapping_add(i * width)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Cpu, Exec};

    #[test]
    fn every_row_is_visited_once() {
        for (n, width, threads) in [(0, 4, 2), (1, 1, 2), (3, 5, 2), (1000, 64, 1), (1000, 64, 3), (17, 4096, 2)] {
            let exec = Exec::new(Cpu::detect(), threads);
            let mut out = vec![0usize; n * width];
            exec.rows(&mut out, width, |i, row| row.iter_mut().for_each(|x| *x += i + 1));
            let wrong = out.iter().enumerate().find(|(at, x)| **x != at / width + 1);
            assert_eq!(wrong, None, "{n} rows of {width} on {threads} threads");
        }
    }
}
