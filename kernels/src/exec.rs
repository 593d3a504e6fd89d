//! Products of matrices: an instruction set, a team of threads, and the loops over row panels.
//!
//! A call is cut into tasks, each some rows of one matrix times all columns (or a block of many), which the threads
//! take by a counter. A row's product is computed by one thread in one order, so the results are the same bits for any
//! number of threads. Shapes are checked at entry, once; scratch is kept per thread, so that a call that is not larger
//! than one before it allocates nothing.

mod task;

use std::cell::{Cell, UnsafeCell};

use crate::acts::{ActKind, ActKinds, Acts};
use crate::cpu::kernels::Columns;
use crate::pool::Team;
use crate::{Activation, Cpu, Mat};
use task::{Call, Part, Scratch};

/// What runs a forward pass: an instruction set and the threads.
pub struct Exec {
    cpu: Cpu,
    team: Team,
    scratch: Vec<UnsafeCell<Scratch>>, // one a thread
    exact: Cell<bool>,
}

/// A product `out = x w^T`.
pub struct Product<'a> {
    /// `[rows, k]`.
    pub w: Mat<'a>,
    /// `[n, rows]`.
    pub out: &'a mut [f32],
}

/// Which pairs of activation and expert there are, in the order of the experts.
#[derive(Clone, Copy)]
pub struct Groups<'a> {
    /// Expert `e` has the pairs `offsets[e]..offsets[e + 1]`; ascending.
    pub offsets: &'a [usize],
    /// The activation that each pair reads.
    pub pick: &'a [u32],
}

impl Exec {
    /// A team of `threads` threads on an instruction set.
    pub fn new(cpu: Cpu, threads: usize) -> Exec {
        let team = Team::new(threads);
        let scratch = (0..team.threads()).map(|_| UnsafeCell::new(Scratch::new())).collect();
        Exec { cpu, team, scratch, exact: Cell::new(false) }
    }

    /// The instruction set.
    pub fn cpu(&self) -> Cpu {
        self.cpu
    }

    /// From here on a product of several columns has the bits of products of each column alone, or is as fast as it can be.
    ///
    /// One column is streamed and several are unpacked, which add in another order. Exactly means: streamed, one column
    /// after the other, while the rows are in the cache.
    pub fn exactly(&self, yes: bool) {
        self.exact.set(yes);
    }

    /// Whether [`Exec::exactly`] was said.
    pub fn is_exact(&self) -> bool {
        self.exact.get()
    }

    /// The threads.
    pub fn team(&self) -> &Team {
        &self.team
    }

    /// Fills `acts` with `x`, `[n, k]`, in the wanted representations.
    ///
    /// # Panics
    /// When `x` is not `[n, k]`, or `k` is not a multiple of the block of a wanted representation.
    pub fn quantize(&self, acts: &mut Acts, x: &[f32], n: usize, k: usize, kinds: ActKinds) {
        assert_eq!(Some(x.len()), n.checked_mul(k), "activations of [{n}, {k}]");
        assert!(k > 0 || n == 0, "{n} activations of no length");
        acts.reserve(n, k, kinds);
        if x.is_empty() {
            return;
        }
        let kernels = self.cpu.kernels();
        let writer = acts.writer();
        let per_task = (4096 / k).max(1);
        let task = |task: usize, _| {
            for i in task * per_task..n.min((task + 1) * per_task) {
                let x = &x[i * k..][..k];
                // SAFETY: reserved above, `acts` is borrowed mutably, and each column is in one task; `cpu` proves
                // the instructions.
                unsafe {
                    if kinds.has(ActKind::F32) {
                        writer.col_f32(i).copy_from_slice(x);
                    }
                    if kinds.has(ActKind::Q8x32) {
                        (kernels.quantize32)(x, writer.col32(i));
                    }
                    if kinds.has(ActKind::Q8x256) {
                        (kernels.quantize256)(x, writer.col256(i));
                    }
                }
            }
        };
        self.team.run(n.div_ceil(per_task), &task);
    }

    /// Several products with the same activations, in one pass over the threads.
    ///
    /// # Panics
    /// When a shape does not fit, or `x` lacks the representation that the type of a matrix needs.
    pub fn matmul(&self, x: &Acts, jobs: &mut [Product<'_>]) {
        for job in jobs.iter() {
            check(x, &job.w);
            check_out(job.out, x.n(), job.w.rows());
        }
        let n = jobs.len();
        let jobs = Jobs(jobs.as_mut_ptr());
        // SAFETY: `i < n` in both, as `run` promises, and the jobs are borrowed mutably.
        let size = |i: usize| (unsafe { jobs.get(i) }.0.rows(), x.n());
        let part = |i: usize| {
            // SAFETY: as above.
            let (w, out) = unsafe { jobs.get(i) };
            Part { w, up: None, columns: x.columns(), out }
        };
        self.run(x, n, &size, &part);
    }

    /// `out = act(x gate^T) * (x up^T)`, `[n, hidden]`.
    ///
    /// # Panics
    /// As [`Exec::matmul`]; the two matrices have the same shape.
    pub fn gated(&self, x: &Acts, gate: Mat<'_>, up: Mat<'_>, act: Activation, out: &mut [f32]) {
        check(x, &gate);
        check(x, &up);
        assert_eq!(gate.rows(), up.rows(), "rows of gate and up");
        check_out(out, x.n(), gate.rows());
        let out = Out(out.as_mut_ptr());
        let part = |_| Part { w: gate, up: Some((up, act)), columns: x.columns(), out: out.at(0) };
        self.run(x, 1, &|_| (gate.rows(), x.n()), &part);
    }

    /// The product of every pair with the matrix of its expert, one of `w` each: `out` is `[pairs, rows]`.
    ///
    /// # Panics
    /// When a shape does not fit, a pair picks an activation that is not there, or the experts differ in shape.
    pub fn matmul_experts(&self, x: &Acts, w: &[Mat<'_>], groups: Groups<'_>, out: &mut [f32]) {
        self.experts(x, w, None, groups, out);
    }

    /// [`Exec::gated`] of every pair with the two matrices of its expert: `out` is `[pairs, hidden]`.
    ///
    /// # Panics
    /// As [`Exec::matmul_experts`].
    pub fn gated_experts(
        &self,
        x: &Acts,
        gate: &[Mat<'_>],
        up: &[Mat<'_>],
        groups: Groups<'_>,
        act: Activation,
        out: &mut [f32],
    ) {
        assert_eq!(gate.len(), up.len(), "experts of gate and up");
        self.experts(x, gate, Some((up, act)), groups, out);
    }

    fn experts(
        &self,
        x: &Acts,
        w: &[Mat<'_>],
        up: Option<(&[Mat<'_>], Activation)>,
        Groups { offsets, pick }: Groups<'_>,
        out: &mut [f32],
    ) {
        assert_eq!(offsets.len(), w.len() + 1, "offsets of {} experts", w.len());
        assert!(offsets[0] == 0 && offsets[w.len()] == pick.len() && offsets.is_sorted(), "offsets of the experts");
        assert!(pick.iter().all(|&i| (i as usize) < x.n()), "a pair picks an activation beyond {}", x.n());
        let Some(rows) = w.first().map(Mat::rows) else { return assert!(out.is_empty(), "pairs without an expert") };
        check_out(out, pick.len(), rows);
        for w in w.iter().chain(up.iter().flat_map(|(up, _)| *up)) {
            check(x, w);
            assert_eq!(w.rows(), rows, "rows of the experts");
        }
        let out = Out(out.as_mut_ptr());
        let part = |e: usize| {
            let columns = Columns::Picked(&pick[offsets[e]..offsets[e + 1]]);
            Part { w: w[e], up: up.map(|(up, act)| (up[e], act)), columns, out: out.at(offsets[e] * rows) }
        };
        self.run(x, w.len(), &|e| (rows, offsets[e + 1] - offsets[e]), &part);
    }

    /// Runs all tasks of `parts` parts, of which `size` gives rows and columns.
    fn run<'a>(
        &self,
        x: &'a Acts,
        parts: usize,
        size: &(dyn Fn(usize) -> (usize, usize) + Sync),
        part: &(dyn Fn(usize) -> Part<'a> + Sync),
    ) {
        let (kernels, threads, exact) = (self.cpu.kernels(), self.team.threads(), self.exact.get());
        let call = Call { cpu: self.cpu, kernels, threads, exact, x, parts, size, part };
        let (tasks, sums) = call.tasks();
        for scratch in &self.scratch {
            // SAFETY: no loop is running: `Exec` is not `Sync`, and tasks have no `Exec`.
            unsafe { &mut *scratch.get() }.reserve(sums, x.k());
        }
        let scratch = ScratchOfAll(&self.scratch);
        self.team.run(tasks, &|task, thread| {
            // SAFETY: no two tasks run at the same time under one thread number, and the team runs one loop at a time.
            let scratch = unsafe { &mut *scratch.of(thread) };
            // SAFETY: the parts were checked by the callers; `cpu` proves the instructions; each task runs once.
            unsafe { call.run(task, scratch) };
        });
    }
}

fn check_out(out: &[f32], n: usize, rows: usize) {
    assert_eq!(Some(out.len()), n.checked_mul(rows), "output of [{n}, {rows}]");
}

fn check(x: &Acts, w: &Mat<'_>) {
    assert_eq!(w.cols(), x.k(), "columns of a {} matrix against the length of the activations", w.dtype());
    assert!(x.kinds().has(ActKind::of(w.dtype())), "activations were not quantized for {}", w.dtype());
}

/// The address of an output, of which each task writes its own part.
#[derive(Clone, Copy)]
struct Out(*mut f32);
// SAFETY: only the address is shared; `Call::run` says who writes where.
unsafe impl Sync for Out {}

impl Out {
    fn at(&self, i: usize) -> *mut f32 {
        self.0.wrapping_add(i)
    }
}

struct Jobs<'a>(*mut Product<'a>);
// SAFETY: as `Out`.
unsafe impl Sync for Jobs<'_> {}

impl<'a> Jobs<'a> {
    /// # Safety
    /// `i` is in bounds and the jobs are borrowed mutably.
    unsafe fn get(&self, i: usize) -> (Mat<'a>, *mut f32) {
        // SAFETY: promised by the caller; of the output only the address is taken.
        unsafe {
            let job = self.0.add(i);
            ((*job).w, (&raw mut *(*job).out).cast())
        }
    }
}

struct ScratchOfAll<'a>(&'a [UnsafeCell<Scratch>]);
// SAFETY: each thread takes the scratch of its own number.
unsafe impl Sync for ScratchOfAll<'_> {}

impl ScratchOfAll<'_> {
    fn of(&self, thread: usize) -> *mut Scratch {
        self.0[thread].get()
    }
}
