//! Attention of few rows over many positions: the cache is read once, in chunks, of which a task takes some in a row.
//!
//! A chunk is 256 positions at a fixed place, whatever the number of threads. It gives a part for each row: the sum of
//! its weighted values, its greatest score, the sum of its weights. A second loop joins a row's parts in their order.
//! Within a chunk vectors lie along a key or value; 4 rows x 4 positions share their loads.

use super::scratch::{AttendScratch, Buffers, row_stride, whole_lines};
use super::{Job, LOWEST, scalar};
use crate::Cpu;
use crate::float::simd::{Kernel, Simd, run};
use crate::float::{F16, F32, KvType, Q8_0, Stored, load_row, math};
use crate::pool::Team;

/// Rows that a task takes together.
pub(super) const ROWS: usize = 16;
/// Positions of a chunk: large against the cost of a part (one value and a few exponentials for each row).
const CHUNK: usize = 256;
/// Positions that are unpacked at a time, to stay in the first cache.
const TILE: usize = 64;
/// Chunks of a task at most: only the first tile of a task is not asked for ahead.
const TASK_CHUNKS: usize = 4;

pub(super) fn attend(cpu: Cpu, team: &Team, scratch: &mut AttendScratch, job: &Job) {
    let a = &job.args;
    let (first, last) = (job.seen(0).0 / CHUNK, (job.seen(job.rows - 1).1 - 1) / CHUNK);
    let chunks = last + 1 - first;
    let blocks = job.rows.div_ceil(ROWS);
    let sizes = Sizes::new(job);
    // Room for as many chunks as a row of this cache can ever see, so that a growing context allocates nothing.
    let most = (a.capacity.min(a.window.saturating_add(a.n)) / CHUNK + 2).max(chunks);
    let buffers = scratch.reserve(team.threads(), sizes.total(), a.n_kv_heads * job.rows * most * sizes.part);
    let heads = a.n_kv_heads * blocks;
    let step = (heads * chunks / (4 * team.threads())).clamp(1, TASK_CHUNKS);
    let steps = chunks.div_ceil(step);
    team.run(heads * steps, &|task, thread| {
        let (kv_head, block, chunk) = (task / steps / blocks, task / steps % blocks, task % steps * step);
        let rows = ROWS.min(job.rows - block * ROWS);
        let end = chunks.min(chunk + step);
        for chunk in chunk..end {
            let (start, more, row) = ((first + chunk) * CHUNK, chunk + 1 < end, block * ROWS);
            run(cpu, Chunk { job, sizes, buffers: &buffers, thread, kv_head, row, rows, start, chunk, chunks, more });
        }
    });
    team.run(a.n_kv_heads * job.rows, &|task, _| {
        run(cpu, Join { job, sizes, buffers: &buffers, kv_head: task / job.rows, row: task % job.rows, chunks });
    });
}

/// How a thread's buffer is divided, in floats, and the length of a part.
#[derive(Clone, Copy)]
struct Sizes {
    k_stride: usize,
    v_stride: usize,
    /// Keys and values of a tile take turns.
    cache: usize,
    /// The sums, the top, the weights.
    part: usize,
}

impl Sizes {
    fn new(job: &Job) -> Sizes {
        let (k_stride, v_stride) = (row_stride(job.args.head_dim), row_stride(job.args.v_dim));
        let cache = TILE * k_stride.max(v_stride);
        Sizes { k_stride, v_stride, cache, part: whole_lines(job.args.v_dim + 2) }
    }

    fn total(self) -> usize {
        ROWS * self.k_stride + self.cache + ROWS * CHUNK + ROWS * self.v_stride
    }

    /// Where the part of a row and chunk lies.
    fn part_at(self, job: &Job, kv_head: usize, row: usize, chunk: usize, chunks: usize) -> usize {
        ((kv_head * job.rows + row) * chunks + chunk) * self.part
    }
}

/// The rows `row..row + rows` of a key head over the 256 positions from `start` on.
struct Chunk<'a> {
    job: &'a Job<'a>,
    sizes: Sizes,
    buffers: &'a Buffers<'a>,
    thread: usize,
    kv_head: usize,
    row: usize,
    rows: usize,
    start: usize,
    chunk: usize,
    chunks: usize,
    /// The next chunk is this task's too.
    more: bool,
}

impl Chunk<'_> {
    /// The positions that a row sees of this chunk; may be empty.
    fn seen(&self, row: usize) -> (usize, usize) {
        let (from, to) = self.job.seen(self.row + row);
        let from = from.max(self.start);
        (from, to.min(self.start + CHUNK).max(from))
    }

    /// The part of a row: sums, and its last two floats for the top and the weights.
    #[allow(clippy::mut_from_ref, reason = "exclusive, see below")]
    fn part(&self, row: usize) -> &mut [f32] {
        let at = self.sizes.part_at(self.job, self.kv_head, self.row + row, self.chunk, self.chunks);
        // SAFETY: no other task has this head, row and chunk, and the joining comes after all of them.
        unsafe { self.buffers.part_mut(at, self.sizes.part) }
    }
}

impl Kernel for Chunk<'_> {
    type Out = ();

    fn scalar(self) {
        // SAFETY: a task uses its own thread's buffer.
        let buffer = unsafe { self.buffers.thread(self.thread) };
        for row in 0..self.rows {
            let part = self.part(row);
            let (sums, end) = part.split_at_mut(self.sizes.part - 2);
            let sums = &mut sums[..self.job.args.v_dim];
            let (top, weights) = scalar::row(self.job, (self.kv_head, self.row + row), self.seen(row), sums, buffer);
            end.copy_from_slice(&[top, weights]);
        }
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        let Chunk { job, sizes, kv_head, rows, .. } = self;
        let a = &job.args;
        // SAFETY: a task uses its own thread's buffer.
        let buffer = unsafe { self.buffers.thread(self.thread) };
        let (queries, rest) = buffer.split_at_mut(ROWS * sizes.k_stride);
        let (cache, rest) = rest.split_at_mut(sizes.cache);
        let (scores, rest) = rest.split_at_mut(ROWS * CHUNK);
        let sums = &mut rest[..ROWS * sizes.v_stride];

        for (row, to) in queries.chunks_exact_mut(sizes.k_stride).take(rows).enumerate() {
            let query = job.query(kv_head, self.row + row);
            to.iter_mut().zip(query).for_each(|(to, q)| *to = q * a.scale);
            to[a.head_dim..].fill(0.0);
        }
        // What any of the rows sees: both ends of `seen` grow with the row.
        let (from, to) = (self.seen(0).0, self.seen(rows - 1).1);
        let count = to.saturating_sub(from);
        for tile in (0..count).step_by(TILE) {
            let n = TILE.min(count - tile);
            let keys = &job.keys(kv_head, from + tile)[..n * job.k_row];
            let next = Some(match tile + TILE < count {
                true => Next::new(job.keys(kv_head, from + tile + TILE), job.k_row),
                false => Next::new(job.values(kv_head, from), job.v_row),
            });
            let at = Positions { rows, n, tile };
            // SAFETY: `n` rows in `keys`; ROWS queries, padded with zeros to whole vectors; ROWS x CHUNK scores.
            // Unpacked rows have room for whole vectors, TILE of them.
            unsafe {
                let (q, to) = (queries.as_ptr(), scores.as_mut_ptr());
                let (q, k) = ((q, sizes.k_stride), (keys.as_ptr(), job.k_row));
                match a.k_type {
                    _ if !a.head_dim.is_multiple_of(S::LANES) => {
                        for i in 0..n {
                            next.iter().for_each(|next| next.ask_row(s, i));
                            load_row(
                                s,
                                a.k_type,
                                k.0.add(i * k.1),
                                a.head_dim,
                                cache.as_mut_ptr().add(i * sizes.k_stride),
                            );
                        }
                        let k = (cache.as_ptr().cast(), 4 * sizes.k_stride);
                        score_tile::<S, F32>(s, at, q, k, a.head_dim, to, None);
                    }
                    KvType::F32 => score_tile::<S, F32>(s, at, q, k, a.head_dim, to, next),
                    KvType::F16 => score_tile::<S, F16>(s, at, q, k, a.head_dim, to, next),
                    KvType::Q8_0 => score_tile::<S, Q8_0>(s, at, q, k, a.head_dim, to, next),
                }
            }
        }
        for (row, scores) in scores.chunks_exact_mut(CHUNK).take(rows).enumerate() {
            let (row_from, row_to) = self.seen(row);
            let scores = &mut scores[..count];
            let (mut top, mut weights) = (LOWEST, 0.0);
            if row_from < row_to {
                let (seen_from, seen_to) = (row_from - from, row_to - from);
                scores[..seen_from].fill(0.0);
                scores[seen_to..].fill(0.0);
                (top, weights) = weigh(s, &mut scores[seen_from..seen_to], a.softcap);
            } else {
                scores.fill(0.0);
            }
            self.part(row)[sizes.part - 2..].copy_from_slice(&[top, weights]);
        }
        sums.fill(0.0);
        for tile in (0..count).step_by(TILE) {
            let n = TILE.min(count - tile);
            let values = &job.values(kv_head, from + tile)[..n * job.v_row];
            let next = match tile + TILE < count {
                true => Some(Next::new(job.values(kv_head, from + tile + TILE), job.v_row)),
                false => self.more.then(|| Next::new(job.keys(kv_head, self.start + CHUNK), job.k_row)),
            };
            let at = Positions { rows, n, tile };
            // SAFETY: `n` rows in `values`; ROWS x CHUNK weights; ROWS sums. Unpacked rows and sums have room for pairs
            // of vectors; what stands past v_dim goes to sums past v_dim, which nobody reads.
            unsafe {
                let (w, to) = (scores.as_ptr(), (sums.as_mut_ptr(), sizes.v_stride));
                let v = (values.as_ptr(), job.v_row);
                match a.v_type {
                    _ if !a.v_dim.is_multiple_of(2 * S::LANES) => {
                        for i in 0..n {
                            next.iter().for_each(|next| next.ask_row(s, i));
                            load_row(
                                s,
                                a.v_type,
                                v.0.add(i * v.1),
                                a.v_dim,
                                cache.as_mut_ptr().add(i * sizes.v_stride),
                            );
                        }
                        let v = (cache.as_ptr().cast(), 4 * sizes.v_stride);
                        add_tile::<S, F32>(s, at, w, v, a.v_dim, to, None);
                    }
                    KvType::F32 => add_tile::<S, F32>(s, at, w, v, a.v_dim, to, next),
                    KvType::F16 => add_tile::<S, F16>(s, at, w, v, a.v_dim, to, next),
                    KvType::Q8_0 => add_tile::<S, Q8_0>(s, at, w, v, a.v_dim, to, next),
                }
            }
        }
        for (row, sums) in sums.chunks_exact(sizes.v_stride).take(rows).enumerate() {
            self.part(row)[..a.v_dim].copy_from_slice(&sums[..a.v_dim]);
        }
    }
}

/// What a tile computes: this many rows, `n` positions from number `tile` of the chunk on.
#[derive(Clone, Copy)]
struct Positions {
    rows: usize,
    n: usize,
    tile: usize,
}

/// The rows of the tile that comes next, which are asked for while this one is computed, each line when the one in its
/// place is used: evenly, and in the order in which they will be used. The processor's own prefetching stops at the end
/// of a page and does not see which way the values are walked.
#[derive(Clone, Copy)]
struct Next {
    at: *const u8,
    stride: usize,
}

impl Next {
    fn new(rows: &[u8], stride: usize) -> Next {
        Next { at: rows.as_ptr(), stride }
    }

    /// Asks for row `i`, which need not exist.
    #[inline(always)]
    fn ask_row<S: Simd>(self, s: S, i: usize) {
        (0..self.stride).step_by(64).for_each(|at| s.prefetch(self.at.wrapping_add(i * self.stride + at)));
    }

    /// Asks for the lines that hold the values `from..to` of row `i`, which need not exist.
    #[inline(always)]
    fn ask<S: Simd, K: Stored>(self, s: S, i: usize, from: usize, to: usize) {
        if from.is_multiple_of(K::IN_LINE) {
            for at in (from..to).step_by(K::IN_LINE) {
                s.prefetch(self.at.wrapping_add(i * self.stride + K::row_bytes(at)));
            }
        }
    }
}

/// Scores of a tile: `to[row][tile + i]` of query row `row` and key `i`.
///
/// # Safety
/// `q` (floats apart) and `k` (bytes apart): rows of `dim` values with room for whole vectors, zeros there in `q`; as
/// many of them as `at` says; `to`: rows [`CHUNK`] apart.
#[inline(always)]
unsafe fn score_tile<S: Simd, K: Stored>(
    s: S,
    at: Positions,
    (q, q_stride): (*const f32, usize),
    (k, k_stride): (*const u8, usize),
    dim: usize,
    to: *mut f32,
    next: Option<Next>,
) {
    for pos in (0..at.n).step_by(4) {
        // SAFETY: the caller's promise. Past the last position it is read again; its score is written where the next
        // tile writes, or nobody reads.
        unsafe {
            let k = [0, 1, 2, 3].map(|i| k.add((pos + i).min(at.n - 1) * k_stride));
            for row in (0..at.rows).step_by(4) {
                let (q, to) = (q.add(row * q_stride), to.add(row * CHUNK + at.tile + pos));
                let next = next.filter(|_| row == 0);
                match at.rows - row {
                    1 => score::<S, K, 1>(s, (q, q_stride), k, dim, to, (next, pos)),
                    2 => score::<S, K, 2>(s, (q, q_stride), k, dim, to, (next, pos)),
                    3 => score::<S, K, 3>(s, (q, q_stride), k, dim, to, (next, pos)),
                    _ => score::<S, K, 4>(s, (q, q_stride), k, dim, to, (next, pos)),
                }
            }
        }
    }
}

/// Adds the weighted values of a tile to the sums of the rows.
///
/// # Safety
/// `w`: rows of weights, [`CHUNK`] apart; `v` (bytes apart) and `to` (floats apart): rows of `dim` values with room for
/// pairs of vectors; as many of them as `at` says.
#[inline(always)]
unsafe fn add_tile<S: Simd, K: Stored>(
    s: S,
    at: Positions,
    w: *const f32,
    v: (*const u8, usize),
    dim: usize,
    (to, stride): (*mut f32, usize),
    next: Option<Next>,
) {
    for i in (0..dim).step_by(2 * S::LANES) {
        for row in (0..at.rows).step_by(4) {
            // SAFETY: the caller's promise.
            unsafe {
                let (w, to) = (w.add(row * CHUNK + at.tile), to.add(row * stride + i));
                let next = next.filter(|_| row == 0);
                match at.rows - row {
                    1 => add_values::<S, K, 1>(s, w, v, i, at.n, (to, stride), next),
                    2 => add_values::<S, K, 2>(s, w, v, i, at.n, (to, stride), next),
                    3 => add_values::<S, K, 3>(s, w, v, i, at.n, (to, stride), next),
                    _ => add_values::<S, K, 4>(s, w, v, i, at.n, (to, stride), next),
                }
            }
        }
    }
}

/// Replaces the scores of a row by their weights e^(score - top); returns the top and the sum of the weights.
#[inline(always)]
fn weigh<S: Simd>(s: S, scores: &mut [f32], softcap: Option<f32>) -> (f32, f32) {
    if let Some(cap) = softcap {
        let cap = s.splat(cap);
        for x in scores.chunks_mut(S::LANES) {
            let y = s.mul(cap, math::tanh(s, s.div(s.load_part(x, 0.0), cap)));
            s.store_part(x, y);
        }
    }
    let mut top = s.splat(LOWEST);
    for x in scores.chunks(S::LANES) {
        top = s.max(top, s.load_part(x, LOWEST));
    }
    let top = s.top(top);
    let mut sum = s.splat(0.0);
    for x in scores.chunks_mut(S::LANES) {
        let weight = math::exp(s, s.sub(s.load_part(x, f32::NEG_INFINITY), s.splat(top)));
        sum = s.add(sum, weight);
        s.store_part(x, weight);
    }
    (top, s.sum(sum))
}

/// Scores of `N` rows and 4 positions, of which the first is number `pos` of its tile.
///
/// # Safety
/// `q`: `N` rows, `stride` apart, `k`: 4 rows, each with room for whole vectors of `dim` values, zeros there in `q`;
/// `to`: `N` rows of 4 floats, [`CHUNK`] apart.
#[inline(always)]
unsafe fn score<S: Simd, K: Stored, const N: usize>(
    s: S,
    (q, stride): (*const f32, usize),
    k: [*const u8; 4],
    dim: usize,
    to: *mut f32,
    (next, pos): (Option<Next>, usize),
) {
    let mut sums = [[s.splat(0.0); 4]; N];
    // SAFETY: the caller's promise.
    unsafe {
        for i in (0..dim).step_by(S::LANES) {
            if let Some(next) = next {
                (0..4).for_each(|j| next.ask::<S, K>(s, pos + j, i, i + S::LANES));
            }
            let k = [K::vector(s, k[0], i), K::vector(s, k[1], i), K::vector(s, k[2], i), K::vector(s, k[3], i)];
            for (j, sums) in sums.iter_mut().enumerate() {
                let q = s.load(q.add(j * stride + i));
                for (sum, k) in sums.iter_mut().zip(k) {
                    *sum = s.fma(q, k, *sum);
                }
            }
        }
        for (j, sums) in sums.into_iter().enumerate() {
            to.add(j * CHUNK).cast::<[f32; 4]>().write_unaligned(s.sums(sums));
        }
    }
}

/// Adds the two vectors from value `at` on of `count` weighted rows to the sums of `N` rows.
///
/// # Safety
/// `w`: `N` rows of `count` weights, [`CHUNK`] apart; `v`: `count` rows with these two vectors, bytes apart; `to`: `N`
/// rows of two vectors, `stride` apart.
#[inline(always)]
unsafe fn add_values<S: Simd, K: Stored, const N: usize>(
    s: S,
    w: *const f32,
    (v, v_stride): (*const u8, usize),
    at: usize,
    count: usize,
    (to, stride): (*mut f32, usize),
    next: Option<Next>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[s.splat(0.0); 2]; N];
        for (j, [x, y]) in sums.iter_mut().enumerate() {
            *x = s.load(to.add(j * stride));
            *y = s.load(to.add(j * stride + S::LANES));
        }
        for i in 0..count {
            if let Some(next) = next {
                next.ask::<S, K>(s, i, at, at + 2 * S::LANES);
            }
            let v = v.add(i * v_stride);
            let (a, b) = (K::vector(s, v, at), K::vector(s, v, at + S::LANES));
            for (j, [x, y]) in sums.iter_mut().enumerate() {
                let w = s.splat(*w.add(j * CHUNK + i));
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

/// A task of the second loop: the parts of a row become its result.
struct Join<'a> {
    job: &'a Job<'a>,
    sizes: Sizes,
    buffers: &'a Buffers<'a>,
    kv_head: usize,
    row: usize,
    chunks: usize,
}

impl Join<'_> {
    #[inline(always)]
    fn go(self) {
        // SAFETY: the first loop has ended, nobody writes parts any more; tasks have different rows.
        let (parts, out) = unsafe {
            let at = self.sizes.part_at(self.job, self.kv_head, self.row, 0, self.chunks);
            (self.buffers.part(at, self.chunks * self.sizes.part), self.job.result(self.kv_head, self.row))
        };
        let end = self.sizes.part - 2;
        let top = parts.chunks_exact(self.sizes.part).fold(LOWEST, |top, part| top.max(part[end]));
        let mut weights = 0.0;
        out.fill(0.0);
        for part in parts.chunks_exact(self.sizes.part) {
            let factor = (part[end] - top).exp();
            weights += factor * part[end + 1];
            out.iter_mut().zip(part).for_each(|(out, sum)| *out += factor * sum);
        }
        out.iter_mut().for_each(|x| *x /= weights);
    }
}

impl Kernel for Join<'_> {
    type Out = ();

    fn scalar(self) {
        self.go();
    }

    #[inline(always)]
    fn simd<S: Simd>(self, _: S) {
        self.go(); // the compiler makes vectors of it
    }
}
