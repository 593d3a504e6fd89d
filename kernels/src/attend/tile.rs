//! Attention of many rows: tiles of rows against tiles of positions.
//!
//! ```text
//!   queries, transposed   [head_dim, 64 rows]     once a task
//!   keys                  [64 positions, head_dim]   f32, unpacked once a tile
//!   scores                [64 positions, 64 rows]    = keys x queries: a key's float is broadcast, rows are lanes
//!   values                [64 positions, v_dim]
//!   sums                  [64 rows, v_dim]        += scores^T x values: a weight is broadcast, v_dim is lanes
//! ```
//!
//! With rows as lanes the softmax of a row stays in its lane: no sums across a vector, no transposition but the
//! queries'. Both products keep 16 sums (8 broadcasts x 2 vectors) in registers, 8 with 16 registers.

use super::ahead::Ahead;
use super::scratch::{AttendScratch, Buffers, row_stride, whole_lines};
use super::{Job, LOWEST, scalar};
use crate::Cpu;
use crate::float::simd::{Kernel, Simd, run};
use crate::float::{load_row, math};
use crate::pool::Team;

/// Rows of a task: lanes of two to eight pairs of vectors.
const ROWS: usize = 64;
/// Positions of a tile.
const TILE: usize = 64;

pub(super) fn attend(cpu: Cpu, team: &Team, scratch: &mut AttendScratch, job: &Job) {
    let sizes = Sizes::new(job);
    let buffers = scratch.reserve(team.threads(), sizes.total(), 0);
    let blocks = job.rows.div_ceil(ROWS);
    team.run(blocks * job.args.n_kv_heads, &|task, thread| {
        // The last rows see most: they come first, so that no long task is left for the end.
        let (block, kv_head) = (blocks - 1 - task / job.args.n_kv_heads, task % job.args.n_kv_heads);
        run(cpu, Block { job, sizes, buffers: &buffers, thread, kv_head, first: block * ROWS });
    });
}

/// How a thread's buffer is divided, in floats.
#[derive(Clone, Copy)]
struct Sizes {
    queries: usize,
    k_stride: usize,
    v_stride: usize,
    /// Keys and values of a tile take turns.
    cache: usize,
    scores: usize,
    sums: usize,
}

impl Sizes {
    fn new(job: &Job) -> Sizes {
        let (k_stride, v_stride) = (row_stride(job.args.head_dim), row_stride(job.args.v_dim));
        Sizes {
            queries: job.args.head_dim * ROWS,
            k_stride,
            v_stride,
            cache: TILE * k_stride.max(v_stride),
            scores: TILE * ROWS,
            sums: ROWS * v_stride,
        }
    }

    fn total(self) -> usize {
        whole_lines(self.queries) + self.cache + self.scores + self.sums
    }
}

/// A task: up to 64 rows of a key head, from `first` on.
struct Block<'a> {
    job: &'a Job<'a>,
    sizes: Sizes,
    buffers: &'a Buffers<'a>,
    thread: usize,
    kv_head: usize,
    first: usize,
}

/// A number for each row.
#[repr(align(64))]
struct PerRow<T>([T; ROWS]);

impl Kernel for Block<'_> {
    type Out = ();

    fn scalar(self) {
        // SAFETY: a task uses its own thread's buffer.
        let buffer = unsafe { self.buffers.thread(self.thread) };
        for row in self.first..self.job.rows.min(self.first + ROWS) {
            // SAFETY: blocks have different rows.
            let out = unsafe { self.job.result(self.kv_head, row) };
            let (_, weights) = scalar::row(self.job, (self.kv_head, row), self.job.seen(row), out, buffer);
            out.iter_mut().for_each(|x| *x /= weights);
        }
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        let Block { job, sizes, kv_head, first, .. } = self;
        let a = &job.args;
        let rows = ROWS.min(job.rows - first);
        let pair = 2 * S::LANES;
        let lanes = rows.next_multiple_of(pair); // <= ROWS, for a pair divides it
        // SAFETY: a task uses its own thread's buffer.
        let buffer = unsafe { self.buffers.thread(self.thread) };
        let (queries, rest) = buffer.split_at_mut(whole_lines(sizes.queries));
        let (cache, rest) = rest.split_at_mut(sizes.cache);
        let (scores, rest) = rest.split_at_mut(sizes.scores);
        let sums = &mut rest[..sizes.sums];

        for queries in queries.chunks_exact_mut(ROWS).take(a.head_dim) {
            queries[rows..].fill(0.0);
        }
        for row in 0..rows {
            let query = job.query(kv_head, first + row);
            for (q, to) in query.iter().zip(queries[row..].iter_mut().step_by(ROWS)) {
                *to = q * a.scale;
            }
        }
        sums.fill(0.0);
        let mut state = State { tops: PerRow([LOWEST; ROWS]), weights: PerRow([0.0; ROWS]), fade: PerRow([0.0; ROWS]) };
        // Positions that some row sees, and those that every row sees: both ends of `seen` grow with the row.
        let (from, all_to) = job.seen(first);
        let (all_from, to) = job.seen(first + rows - 1);

        for tile in (from..to).step_by(TILE) {
            let count = TILE.min(to - tile);
            let keys = &job.keys(kv_head, tile)[..count * job.k_row];
            // SAFETY: `count` rows in `keys`; `cache` has TILE rows of `k_stride`, which has room for whole vectors.
            unsafe {
                for i in 0..count {
                    let to = cache.as_mut_ptr().add(i * sizes.k_stride);
                    load_row(s, a.k_type, keys.as_ptr().add(i * job.k_row), a.head_dim, to);
                }
            }
            let pieces = lanes / pair * count.div_ceil(8);
            let mut ahead = Ahead::new(job.values(kv_head, tile), count * job.v_row, pieces);
            // SAFETY: TILE rows of keys, of which the last are old when `count` is less, but nobody reads their
            // scores; ROWS lanes of head_dim queries; TILE x ROWS scores.
            unsafe {
                for lane in (0..lanes).step_by(pair) {
                    let q = queries.as_ptr().add(lane);
                    for pos in (0..count).step_by(8) {
                        let k = cache.as_ptr().add(pos * sizes.k_stride);
                        let to = scores.as_mut_ptr().add(pos * ROWS + lane);
                        ahead.fetch(s);
                        if S::WIDE {
                            score::<S, 8>(s, k, sizes.k_stride, q, a.head_dim, to);
                        } else {
                            score::<S, 4>(s, k, sizes.k_stride, q, a.head_dim, to);
                            let (k, to) = (k.add(4 * sizes.k_stride), to.add(4 * ROWS));
                            score::<S, 4>(s, k, sizes.k_stride, q, a.head_dim, to);
                        }
                    }
                }
            }
            let scores = &mut scores[..count * ROWS];
            if let Some(cap) = a.softcap {
                let cap = s.splat(cap);
                for x in scores.chunks_exact_mut(S::LANES) {
                    let y = s.mul(cap, math::tanh(s, s.div(s.load_part(x, 0.0), cap)));
                    s.store_part(x, y);
                }
            }
            if tile < all_from || tile + count > all_to {
                for (i, scores) in scores.chunks_exact_mut(ROWS).enumerate() {
                    let (from, to) = job.seeing(tile + i);
                    scores[..from.saturating_sub(first).min(rows)].fill(f32::NEG_INFINITY);
                    scores[to.saturating_sub(first).min(rows)..rows].fill(f32::NEG_INFINITY);
                }
            }
            state.weigh(s, scores, lanes);

            let values = &job.values(kv_head, tile)[..count * job.v_row];
            // SAFETY: `count` rows in `values`; `cache` has TILE rows of `v_stride`, which has room for whole vectors.
            unsafe {
                for i in 0..count {
                    let to = cache.as_mut_ptr().add(i * sizes.v_stride);
                    load_row(s, a.v_type, values.as_ptr().add(i * job.v_row), a.v_dim, to);
                }
            }
            let (pieces, next) = (a.v_dim.div_ceil(pair) * rows.div_ceil(8), tile + TILE);
            let mut ahead = match next < to {
                true => Ahead::new(job.keys(kv_head, next), TILE.min(to - next) * job.k_row, pieces),
                false => Ahead::none(),
            };
            // SAFETY: `count` rows of values with room for pairs of vectors (what stands past v_dim goes to sums past
            // v_dim, which nobody reads); ROWS sums of the same stride; `count` x ROWS weights; rows in steps of 8.
            unsafe {
                for at in (0..a.v_dim).step_by(pair) {
                    let v = cache.as_ptr().add(at);
                    for row in (0..rows).step_by(8) {
                        let (w, fade) = (scores.as_ptr().add(row), state.fade.0.as_ptr().add(row));
                        let to = sums.as_mut_ptr().add(row * sizes.v_stride + at);
                        ahead.fetch(s);
                        if S::WIDE {
                            add_values::<S, 8>(s, w, v, sizes.v_stride, count, fade, to);
                        } else {
                            add_values::<S, 4>(s, w, v, sizes.v_stride, count, fade, to);
                            let (w, fade, to) = (w.add(4), fade.add(4), to.add(4 * sizes.v_stride));
                            add_values::<S, 4>(s, w, v, sizes.v_stride, count, fade, to);
                        }
                    }
                }
            }
        }
        for row in 0..rows {
            let factor = 1.0 / state.weights.0[row];
            // SAFETY: blocks have different rows.
            let out = unsafe { job.result(kv_head, first + row) };
            for (out, sum) in out.iter_mut().zip(&sums[row * sizes.v_stride..]) {
                *out = sum * factor;
            }
        }
    }
}

/// The online softmax of the rows.
struct State {
    /// The greatest score so far.
    tops: PerRow<f32>,
    /// The sum of e^(score - top) so far.
    weights: PerRow<f32>,
    /// What the sums so far must be multiplied with, because the top has grown.
    fade: PerRow<f32>,
}

impl State {
    /// Replaces the scores of a tile, `[positions, ROWS]`, by their weights.
    #[inline(always)]
    fn weigh<S: Simd>(&mut self, s: S, scores: &mut [f32], lanes: usize) {
        for lane in (0..lanes).step_by(S::LANES) {
            let old = s.load_part(&self.tops.0[lane..], 0.0);
            let mut top = old;
            for row in scores.chunks_exact(ROWS) {
                top = s.max(top, s.load_part(&row[lane..], 0.0));
            }
            let fade = math::exp(s, s.sub(old, top));
            let mut sum = s.splat(0.0);
            for row in scores.chunks_exact_mut(ROWS) {
                let weight = math::exp(s, s.sub(s.load_part(&row[lane..], 0.0), top));
                sum = s.add(sum, weight);
                s.store_part(&mut row[lane..], weight);
            }
            let weights = s.fma(s.load_part(&self.weights.0[lane..], 0.0), fade, sum);
            s.store_part(&mut self.tops.0[lane..], top);
            s.store_part(&mut self.fade.0[lane..], fade);
            s.store_part(&mut self.weights.0[lane..], weights);
        }
    }
}

/// Scores of `N` positions and two vectors of rows.
///
/// # Safety
/// `k`: `N` rows of `dim` floats, `stride` apart; `q`: `dim` rows of two vectors, [`ROWS`] apart; `to`: room for `N`
/// such rows.
#[inline(always)]
unsafe fn score<S: Simd, const N: usize>(s: S, k: *const f32, stride: usize, q: *const f32, dim: usize, to: *mut f32) {
    let mut sums = [[s.splat(0.0); 2]; N];
    // SAFETY: the caller's promise.
    unsafe {
        for i in 0..dim {
            let (a, b) = (s.load(q.add(i * ROWS)), s.load(q.add(i * ROWS + S::LANES)));
            for (j, [x, y]) in sums.iter_mut().enumerate() {
                let k = s.splat(*k.add(j * stride + i));
                *x = s.fma(k, a, *x);
                *y = s.fma(k, b, *y);
            }
        }
        for (j, [x, y]) in sums.into_iter().enumerate() {
            s.store(to.add(j * ROWS), x);
            s.store(to.add(j * ROWS + S::LANES), y);
        }
    }
}

/// Adds `count` weighted values to the faded sums of `N` rows, two vectors of each.
///
/// # Safety
/// `w`: `count` rows of `N` weights, [`ROWS`] apart; `v`: `count` rows of two vectors, `stride` apart; `fade`: `N`
/// floats; `to`: `N` rows of two vectors, `stride` apart.
#[inline(always)]
unsafe fn add_values<S: Simd, const N: usize>(
    s: S,
    w: *const f32,
    v: *const f32,
    stride: usize,
    count: usize,
    fade: *const f32,
    to: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[s.splat(0.0); 2]; N];
        for (j, [x, y]) in sums.iter_mut().enumerate() {
            let fade = s.splat(*fade.add(j));
            *x = s.mul(fade, s.load(to.add(j * stride)));
            *y = s.mul(fade, s.load(to.add(j * stride + S::LANES)));
        }
        for i in 0..count {
            let (a, b) = (s.load(v.add(i * stride)), s.load(v.add(i * stride + S::LANES)));
            for (j, [x, y]) in sums.iter_mut().enumerate() {
                let w = s.splat(*w.add(i * ROWS + j));
                *x = s.fma(w, a, *x);
                *y = s.fma(w, b, *y);
            }
        }
        for (j, [x, y]) in sums.into_iter().enumerate() {
            s.store(to.add(j * stride), x);
            s.store(to.add(j * stride + S::LANES), y);
        }
    }
}
