//! One task: some rows of one matrix times some columns, by the kernel that serves them.

use std::ops::Range;

use crate::acts::{ActKind, Acts};
use crate::buf::Buf;
use crate::cpu::kernels::{Columns, FEW, Gemm, Gemv, Kernels, PANEL_ROWS, Panel, Rows, Span, TASK_ROWS};
use crate::cpu::streams::ask;
use crate::{Activation, Cpu, DType, Mat, float};

/// From this many columns on, unpacking a panel pays.
const GEMM_COLUMNS: usize = 2;
/// Columns of a task at most: bounds the scratch, and keeps the sums of a panel in L2.
const BLOCK_COLUMNS: usize = 512;
/// Weights of a row that any instruction set unpacks at a time.
const MAX_CHUNK: usize = 512;
/// Weights of a task of one column at most: two megabytes at four bits.
const STREAM_WEIGHTS: usize = 1 << 22;
/// Weights of a short task of one column at least, unless the long ones have less.
const LEAST_WEIGHTS: usize = 1 << 18;
/// Weights of a task of several columns that are computed as each alone: a hundred kilobytes or two at four to eight bits.
const CACHED_WEIGHTS: usize = 1 << 18;
/// Columns that are multiplied between two requests for memory: a multiple of the width of every tile.
const ASK_COLUMNS: usize = 24;

/// A product of one matrix, or a gated one of two, with some columns.
pub(super) struct Part<'a> {
    pub w: Mat<'a>,
    pub up: Option<(Mat<'a>, Activation)>,
    pub columns: Columns<'a>,
    /// `[columns, rows]`.
    pub out: *mut f32,
}

/// Scratch of one thread.
pub(super) struct Scratch {
    panel: Panel,
    sums: Buf<f32>,    // [columns, rows], or panel rows
    up: Buf<f32>,      // the same
    decoded: Buf<f32>, // a row, or a chunk of a panel
    column: Buf<f32>,  // an activation as floats
}

impl Scratch {
    pub(super) const fn new() -> Scratch {
        Scratch { panel: Panel::new(), sums: Buf::new(), up: Buf::new(), decoded: Buf::new(), column: Buf::new() }
    }

    /// Room for any task of so many sums of columns of length `k`: before the threads begin, since which of them gets a large
    /// task is chance, and a later step would allocate.
    pub(super) fn reserve(&mut self, sums: usize, k: usize) {
        self.sums.at_least(sums);
        self.up.at_least(sums);
        self.decoded.at_least(k.max(PANEL_ROWS * MAX_CHUNK));
        self.column.at_least(k);
        self.panel.reserve(PANEL_ROWS * MAX_CHUNK);
    }
}

/// All products of one call.
pub(super) struct Call<'c, 'a> {
    pub cpu: Cpu,
    pub kernels: &'static Kernels,
    pub threads: usize,
    /// Whether several columns are computed as each alone.
    pub exact: bool,
    pub x: &'a Acts,
    pub parts: usize,
    /// Rows and columns of a part: what counting tasks needs, without looking at the matrix.
    pub size: &'c (dyn Fn(usize) -> (usize, usize) + Sync),
    pub part: &'c (dyn Fn(usize) -> Part<'a> + Sync),
}

/// How a part is cut into tasks: long ones first, then short ones, of rows; and all of these again for each block of columns.
#[derive(Clone, Copy, Debug)]
struct Cut {
    rows: usize,
    columns: usize,
    /// Rows of a long task.
    row_step: usize,
    /// How many long tasks there are: none where all are alike.
    n_long: usize,
    /// Rows of a short task.
    short_step: usize,
    column_step: usize,
}

impl Cut {
    fn new(rows: usize, columns: usize, k: usize, threads: usize, exact: bool) -> Cut {
        if columns == 0 {
            // Most experts of a step: nothing to divide.
            return Cut { rows: 0, columns: 0, row_step: 1, n_long: 0, short_step: 1, column_step: 1 };
        }
        let even =
            |row_step, column_step| Cut { rows, columns, row_step, n_long: 0, short_step: row_step, column_step };
        if exact && columns > 1 {
            // Few enough rows to stay in the cache for all columns.
            let row_step = (CACHED_WEIGHTS / k.max(1)).min(rows / (threads * 4)).next_multiple_of(8).max(8);
            return even(row_step, columns);
        }
        if columns < GEMM_COLUMNS {
            // Several tasks a thread, so that one that was held up does not keep the others waiting; few and long
            // ones, as a task waits for what it reads first, and asks in vain at its end (tasks an eighth as long: a
            // tenth slower on two Zen 5 cores). Only the last ones are short, since the others wait for the very last
            // (Mistral 7B's shapes on two noisy Zen 3 cores: medians of 7 and 8 % faster, and nothing lost by small ones).
            let row_step = (rows / (threads * 4)).min(STREAM_WEIGHTS / k.max(1)).next_multiple_of(8).max(8);
            let short_step = (row_step / 4).max(LEAST_WEIGHTS / k.max(1)).next_multiple_of(8).min(row_step);
            let n_long = (rows / row_step).saturating_sub(threads);
            return Cut { rows, columns, row_step, n_long, short_step, column_step: columns };
        }
        let panels = rows.div_ceil(PANEL_ROWS);
        let mut column_step = columns.min(BLOCK_COLUMNS);
        while panels * columns.div_ceil(column_step) < threads * 4 && column_step >= 128 {
            column_step = column_step.div_ceil(2);
        }
        let tasks = panels * columns.div_ceil(column_step);
        even(PANEL_ROWS * (tasks / (threads * 4)).clamp(1, TASK_ROWS / PANEL_ROWS), column_step)
    }

    fn row_tasks(&self) -> usize {
        self.n_long + (self.rows - self.n_long * self.row_step).div_ceil(self.short_step)
    }

    fn tasks(&self) -> usize {
        self.row_tasks() * self.columns.div_ceil(self.column_step)
    }

    /// Rows and columns of a task.
    fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let (row, column) = (task % self.row_tasks(), task / self.row_tasks() * self.column_step);
        let short = row.saturating_sub(self.n_long);
        let first = (row - short) * self.row_step + short * self.short_step;
        let step = if row < self.n_long { self.row_step } else { self.short_step };
        (first..self.rows.min(first + step), column..self.columns.min(column + self.column_step))
    }
}

impl<'a> Call<'_, 'a> {
    fn cut(&self, part: usize) -> Cut {
        let (rows, columns) = (self.size)(part);
        Cut::new(rows, columns, self.x.k(), self.threads, self.exact)
    }

    /// How many tasks there are, and the sums of the largest.
    pub(super) fn tasks(&self) -> (usize, usize) {
        let cuts = (0..self.parts).map(|part| self.cut(part));
        cuts.fold((0, 0), |(tasks, most), cut| {
            (tasks + cut.tasks(), most.max(cut.column_step * cut.row_step.max(TASK_ROWS)))
        })
    }

    /// # Safety
    /// The parts have the sizes that `size` says and fit the activations, which have the representations that the
    /// matrices need; their outputs may be written; no other thread runs the same task; the machine has the
    /// instructions of the kernels.
    pub(super) unsafe fn run(&self, mut task: usize, scratch: &mut Scratch) {
        let mut part = 0;
        let cut = loop {
            let cut = self.cut(part);
            match task.checked_sub(cut.tasks()) {
                Some(rest) => task = rest,
                None => break cut,
            }
            part += 1;
        };
        let part = (self.part)(part);
        let (rows, columns) = cut.task(task);
        let (row, column) = (rows.start, columns.start);
        let (rows, columns) = (rows.len(), part.columns.slice(column, columns.len()));
        let Scratch { sums, up, .. } = scratch;
        let (mut sums, mut ups) = (std::mem::replace(sums, Buf::new()), std::mem::replace(up, Buf::new()));
        // Chosen by the part, not by the task, so that the number of threads does not decide which kernel runs.
        let one = self.exact || cut.columns < GEMM_COLUMNS;
        let stride = self.product(one, part.w, row, rows, columns, &mut sums, scratch);
        if let Some((up, act)) = part.up {
            let up_stride = self.product(one, up, row, rows, columns, &mut ups, scratch);
            for j in 0..columns.len() {
                let (gate, up) = (&mut sums[j * stride..][..rows], &ups[j * up_stride..][..rows]);
                float::gate(self.cpu, act, gate, up);
            }
        }
        for j in 0..columns.len() {
            // SAFETY: rows `row..row + rows` of column `column + j` of an output of `[columns, rows]`; nobody else
            // has this task, so nobody else writes or reads them.
            unsafe {
                let out = part.out.add((column + j) * cut.rows + row);
                out.copy_from_nonoverlapping(sums[j * stride..][..rows].as_ptr(), rows);
            }
        }
        (scratch.sums, scratch.up) = (sums, ups);
    }

    /// Products of some rows with the columns: `sums[j * stride + i]` is row `i` times column `j`. Returns the stride.
    #[allow(clippy::too_many_arguments, reason = "what to compute, and where to")]
    fn product(
        &self,
        one: bool,
        w: Mat<'a>,
        row: usize,
        rows: usize,
        columns: Columns<'_>,
        sums: &mut Buf<f32>,
        scratch: &mut Scratch,
    ) -> usize {
        let (dtype, k) = (w.dtype(), w.cols());
        if k == 0 {
            sums.at_least(columns.len() * rows).fill(0.0);
            return rows;
        }
        let gemv = (self.kernels.gemv)(dtype).filter(|_| one);
        let gemm = (self.kernels.gemm)(dtype);
        let floats = (self.kernels.gemm)(DType::F32).filter(|_| !one && ActKind::of(dtype) == ActKind::F32);
        let w = Rows::new(w.data(), w.row_bytes()).slice(row, rows);
        match (gemv, gemm, floats) {
            (Some(gemv), _, _) => self.streamed(gemv, w, columns, sums),
            (None, Some(gemm), _) => self.many(gemm, w, k, columns, sums, &mut scratch.panel),
            (None, None, Some(floats)) => self.many_decoded(floats, dtype, w, k, columns, sums, scratch),
            (None, None, None) => self.decoded(dtype, w, k, columns, sums, scratch),
        }
    }

    fn streamed(&self, gemv: Gemv, w: Rows<'_>, columns: Columns<'_>, sums: &mut Buf<f32>) -> usize {
        let rows = w.len();
        let sums = &mut sums.at_least(columns.len() * rows)[..columns.len() * rows];
        let mut done = 0;
        for out in sums.chunks_exact_mut(FEW * rows) {
            let mut parts = out.chunks_exact_mut(rows);
            let out: [&mut [f32]; FEW] = std::array::from_fn(|_| parts.next().expect("so many parts"));
            // SAFETY: the instructions exist; rows and columns have the same length.
            unsafe {
                match gemv {
                    Gemv::Q8x32(_, Some(f)) => {
                        f(w, &std::array::from_fn(|c| self.x.col32(columns.at(done + c))), out);
                    }
                    Gemv::Q8x256(_, Some(f)) => {
                        f(w, &std::array::from_fn(|c| self.x.col256(columns.at(done + c))), out);
                    }
                    _ => break,
                }
            }
            done += FEW;
        }
        for (j, out) in sums.chunks_exact_mut(rows).enumerate().skip(done) {
            let column = columns.at(j);
            // SAFETY: as above.
            unsafe {
                match gemv {
                    Gemv::F32(f) => f(w, self.x.col_f32(column), out),
                    Gemv::Q8x32(f, _) => f(w, self.x.col32(column), out),
                    Gemv::Q8x256(f, _) => f(w, self.x.col256(column), out),
                }
            }
        }
        rows
    }

    fn many(
        &self,
        gemm: Gemm,
        w: Rows<'_>,
        k: usize,
        columns: Columns<'_>,
        sums: &mut Buf<f32>,
        panel: &mut Panel,
    ) -> usize {
        let sums = sums.at_least(columns.len() * TASK_ROWS);
        for at in (0..k).step_by(gemm.chunk) {
            for row in (0..w.len()).step_by(gemm.rows) {
                let panel_at = |row: usize| w.slice(row, gemm.rows.min(w.len() - row));
                let rows = panel_at(row);
                let span = Span { rows: rows.len(), k: at, len: gemm.chunk.min(k - at) };
                // SAFETY: the instructions exist; the span lies within the rows, and rows and columns are of one
                // length.
                unsafe { (gemm.pack)(rows, span, panel) };
                // The chunks of the next panel's rows are small and far apart, which no processor foresees: they are
                // asked for while this one is multiplied, some with each few columns.
                let (next, from) = match row + gemm.rows < w.len() {
                    true => (panel_at(row + gemm.rows), at),
                    false => (panel_at(0), at + span.len),
                };
                let bytes = |at: usize| w.row_bytes() * at.min(k) / k;
                let (from, to) = (bytes(from), bytes(from + gemm.chunk));
                let pieces = columns.len().div_ceil(ASK_COLUMNS);
                for piece in 0..pieces {
                    for i in piece * next.len() / pieces..(piece + 1) * next.len() / pieces {
                        ask(next.row(i).as_ptr().wrapping_add(from), to - from);
                    }
                    let first = piece * ASK_COLUMNS;
                    let columns = columns.slice(first, ASK_COLUMNS.min(columns.len() - first));
                    // SAFETY: as above.
                    unsafe { (gemm.tile)(panel, span, self.x, columns, &mut sums[first * TASK_ROWS + row..]) };
                }
            }
        }
        TASK_ROWS
    }

    /// Unpacks a panel through the decoder of the type.
    #[allow(clippy::too_many_arguments, reason = "the parts of one product")]
    fn many_decoded(
        &self,
        gemm: Gemm,
        dtype: DType,
        w: Rows<'_>,
        k: usize,
        columns: Columns<'_>,
        sums: &mut Buf<f32>,
        scratch: &mut Scratch,
    ) -> usize {
        let sums = sums.at_least(columns.len() * TASK_ROWS);
        let chunk = gemm.chunk.next_multiple_of(dtype.block_elems());
        let bytes = |k: usize| k / dtype.block_elems() * dtype.block_bytes();
        for row in (0..w.len()).step_by(gemm.rows) {
            let rows = gemm.rows.min(w.len() - row);
            for at in (0..k).step_by(chunk) {
                let len = chunk.min(k - at);
                let decoded = scratch.decoded.at_least(rows * len);
                for (i, out) in decoded.chunks_exact_mut(len).enumerate() {
                    // SAFETY: the instructions exist.
                    unsafe { (self.kernels.decode)(dtype, &w.row(row + i)[bytes(at)..bytes(at + len)], out) };
                }
                // SAFETY: floats are bytes.
                let data = unsafe { std::slice::from_raw_parts(decoded.as_ptr().cast::<u8>(), rows * len * 4) };
                let floats = Rows::new(data, len * 4);
                // SAFETY: the instructions exist; the panel is packed from a row of its own, used at `at`.
                unsafe {
                    (gemm.pack)(floats, Span { rows, k: 0, len }, &mut scratch.panel);
                    (gemm.tile)(&scratch.panel, Span { rows, k: at, len }, self.x, columns, &mut sums[row..]);
                }
            }
        }
        TASK_ROWS
    }

    /// Decodes each row once, and multiplies it in floats.
    fn decoded(
        &self,
        dtype: DType,
        w: Rows<'_>,
        k: usize,
        columns: Columns<'_>,
        sums: &mut Buf<f32>,
        scratch: &mut Scratch,
    ) -> usize {
        let rows = w.len();
        let sums = sums.at_least(columns.len() * rows);
        let (row, column) = (scratch.decoded.at_least(k), scratch.column.at_least(k));
        for i in 0..rows {
            // SAFETY: the instructions exist.
            unsafe { (self.kernels.decode)(dtype, w.row(i), row) };
            for j in 0..columns.len() {
                let x = if ActKind::of(dtype) == ActKind::F32 {
                    self.x.col_f32(columns.at(j))
                } else {
                    self.x.dequantized(dtype, columns.at(j), column);
                    &*column
                };
                // SAFETY: the instructions exist.
                sums[j * rows + i] = unsafe { (self.kernels.dot)(row, x) };
            }
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever is cut: each row of each column is in one task, and no task is larger than the scratch that is reserved for it.
    #[test]
    fn the_tasks_of_a_part_are_all_of_it_once() {
        let mut short = 0;
        for (rows, k) in [(0, 64), (1, 64), (7, 32), (77, 512), (576, 576), (1024, 4096), (4096, 14336), (9001, 4096)] {
            for (columns, exact) in [(0, false), (1, false), (1, true), (2, true), (2, false), (600, false)] {
                for threads in [1, 2, 3, 16] {
                    let cut = Cut::new(rows, columns, k, threads, exact);
                    let mut seen = vec![0; rows * columns];
                    for task in 0..cut.tasks() {
                        let (rows, columns) = cut.task(task);
                        assert!(rows.len() <= cut.row_step && columns.len() <= cut.column_step, "{cut:?}: {task}");
                        for column in columns {
                            seen[column * cut.rows..][rows.clone()].iter_mut().for_each(|n| *n += 1);
                        }
                    }
                    assert!(seen.iter().all(|&n| n == 1), "{cut:?}");
                    short += usize::from(cut.short_step < cut.row_step);
                }
            }
        }
        assert!(short > 0, "no part was large enough to end in short tasks");
    }
}
