//! Attention of a run of query tokens of one sequence over its cache.
//!
//! Every query row (a token's head) sees the positions `lo..hi` of its key and value head. Rows that share a key head
//! are taken together, token by token: row `r` is head `r % group` of token `r / group`. Two ways lead through them:
//!
//! - `tile`, many rows (prefill): a task is 64 rows. It walks the cache in tiles of 64 positions, unpacked to f32
//!   once for all rows; scores and values are two small f32 matrix products, joined by an online softmax. Bound by
//!   the fma.
//! - `stream`, few rows (decode): a task is some chunks of 256 positions for all rows of a key head; the chunks' parts
//!   are joined in their order by a second loop. Bound by the memory.
//!
//! What a tile and a chunk are does not depend on the number of threads, so neither do the results. There is no buffer
//! that grows with the square of anything.

mod ahead;
mod scalar;
mod scratch;
mod stream;
mod tile;

#[cfg(test)]
mod tests;

use crate::Cpu;
use crate::float::KvType;
use crate::pool::Team;

pub use scratch::AttendScratch;

/// Queries, the cache they look at, and where the result goes.
#[derive(Debug)]
pub struct Attend<'a> {
    /// `[n, n_heads, head_dim]`, after rope.
    pub q: &'a [f32],
    /// `[n_kv_heads, capacity, row_bytes(head_dim)]` of type `k_type`.
    pub k: &'a [u8],
    /// `[n_kv_heads, capacity, row_bytes(v_dim)]` of type `v_type`; `None`: a value is the front of its key.
    pub v: Option<&'a [u8]>,
    /// How the keys are stored.
    pub k_type: KvType,
    /// How the values are stored.
    pub v_type: KvType,
    /// The positions that the cache has room for.
    pub capacity: usize,
    /// The number of query tokens.
    pub n: usize,
    /// The position of the first; token `i` sees no position after `first_pos + i`.
    pub first_pos: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads, each for `n_heads / n_kv_heads` query heads in a row.
    pub n_kv_heads: usize,
    /// Length of a query and of a key.
    pub head_dim: usize,
    /// Length of a value.
    pub v_dim: usize,
    /// A token at `p` sees only positions greater than `p - window`.
    pub window: Option<usize>,
    /// Factor of the scores.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// `[n, n_heads, v_dim]`.
    pub out: &'a mut [f32],
}

/// Computes the attention with the instructions of `cpu` on all threads of `team`.
///
/// `scratch` is allocated when a shape is larger than all before; the length of the context plays no part in that,
/// only the capacity of the cache.
///
/// # Panics
/// When a slice has not the length that its shape gives, or the queries lie outside the cache.
pub fn attend(cpu: Cpu, team: &Team, scratch: &mut AttendScratch, args: Attend<'_>) {
    let job = Job::new(args);
    if job.rows == 0 {
        return;
    }
    // A row alone fills no tile: 16 rows are where the two ways take the same time.
    if job.args.n == 1 || job.rows <= stream::ROWS {
        stream::attend(cpu, team, scratch, &job);
    } else {
        tile::attend(cpu, team, scratch, &job);
    }
}

/// Checked arguments, and the numbers that follow from them.
struct Job<'a> {
    args: Args<'a>,
    /// Where tasks write, each its own rows.
    out: Out,
    /// Query heads that share a key head.
    group: usize,
    /// Rows of a key head: `n * group`.
    rows: usize,
    k_row: usize,
    v_row: usize,
}

/// [`Attend`] without the result.
struct Args<'a> {
    q: &'a [f32],
    k: &'a [u8],
    v: &'a [u8],
    k_type: KvType,
    v_type: KvType,
    capacity: usize,
    n: usize,
    first_pos: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    v_dim: usize,
    window: usize,
    scale: f32,
    softcap: Option<f32>,
}

/// The result, shared by the tasks.
struct Out {
    start: *mut f32,
    len: usize,
}

// SAFETY: the pointer comes from an exclusive borrow that outlives the job; tasks take disjoint rows of it.
unsafe impl Sync for Out {}

impl<'a> Job<'a> {
    fn new(a: Attend<'a>) -> Job<'a> {
        let product = |what: &str, factors: [usize; 3]| {
            let product = factors[0].checked_mul(factors[1]).and_then(|p| p.checked_mul(factors[2]));
            product.unwrap_or_else(|| panic!("{what}: {factors:?} overflows"))
        };
        assert!(a.n_kv_heads > 0 && a.n_heads.is_multiple_of(a.n_kv_heads), "{} / {} heads", a.n_heads, a.n_kv_heads);
        assert!(a.head_dim > 0 && a.v_dim > 0, "head of {} and {}", a.head_dim, a.v_dim);
        let k_row = a.k_type.row_bytes(a.head_dim);
        let (v, v_type, v_row) = match a.v {
            Some(v) => (v, a.v_type, a.v_type.row_bytes(a.v_dim)),
            None => (a.k, a.k_type, k_row),
        };
        assert!(a.v.is_some() || a.v_dim <= a.head_dim, "values of {} in keys of {}", a.v_dim, a.head_dim);
        assert_eq!(a.q.len(), product("q", [a.n, a.n_heads, a.head_dim]), "floats in q");
        assert_eq!(a.out.len(), product("out", [a.n, a.n_heads, a.v_dim]), "floats in out");
        assert_eq!(a.k.len(), product("k", [a.n_kv_heads, a.capacity, k_row]), "bytes in k");
        assert_eq!(v.len(), product("v", [a.n_kv_heads, a.capacity, v_row]), "bytes in v");
        let end = a.first_pos.checked_add(a.n).expect("first_pos overflows");
        assert!(end <= a.capacity, "positions up to {end} in a cache of {}", a.capacity);
        let window = a.window.unwrap_or(usize::MAX);
        assert!(window > 0, "a window of 0 positions");
        let group = a.n_heads / a.n_kv_heads;
        Job {
            out: Out { start: a.out.as_mut_ptr(), len: a.out.len() },
            group,
            rows: a.n * group,
            k_row,
            v_row,
            args: Args {
                q: a.q,
                k: a.k,
                v,
                k_type: a.k_type,
                v_type,
                capacity: a.capacity,
                n: a.n,
                first_pos: a.first_pos,
                n_heads: a.n_heads,
                n_kv_heads: a.n_kv_heads,
                head_dim: a.head_dim,
                v_dim: a.v_dim,
                window,
                scale: a.scale,
                softcap: a.softcap,
            },
        }
    }

    /// The query of a row.
    fn query(&self, kv_head: usize, row: usize) -> &[f32] {
        let at = self.token_head(kv_head, row) * self.args.head_dim;
        &self.args.q[at..at + self.args.head_dim]
    }

    /// The result of a row.
    ///
    /// # Safety
    /// No two tasks that run at the same time take the same row, and none takes it twice at a time.
    #[allow(clippy::mut_from_ref, reason = "see `Out`")]
    unsafe fn result(&self, kv_head: usize, row: usize) -> &mut [f32] {
        let at = self.token_head(kv_head, row) * self.args.v_dim;
        assert!(at + self.args.v_dim <= self.out.len);
        // SAFETY: in bounds, and exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.out.start.add(at), self.args.v_dim) }
    }

    fn token_head(&self, kv_head: usize, row: usize) -> usize {
        assert!(kv_head < self.args.n_kv_heads && row < self.rows);
        row / self.group * self.args.n_heads + kv_head * self.group + row % self.group
    }

    /// The positions that a row sees: never empty. Both ends grow with the row.
    fn seen(&self, row: usize) -> (usize, usize) {
        let pos = self.args.first_pos + row / self.group;
        ((pos + 1).saturating_sub(self.args.window), pos + 1)
    }

    /// The rows that see a position, the inverse of [`Job::seen`]; the end may lie past the last row.
    fn seeing(&self, pos: usize) -> (usize, usize) {
        let Args { first_pos, window, .. } = self.args;
        let rows = |token: usize| token.saturating_mul(self.group);
        (rows(pos.saturating_sub(first_pos)), rows(pos.saturating_add(window).saturating_sub(first_pos)))
    }

    /// The stored keys of a head from a position on.
    fn keys(&self, kv_head: usize, pos: usize) -> &[u8] {
        &self.args.k[(kv_head * self.args.capacity + pos) * self.k_row..]
    }

    /// The stored values of a head from a position on.
    fn values(&self, kv_head: usize, pos: usize) -> &[u8] {
        &self.args.v[(kv_head * self.args.capacity + pos) * self.v_row..]
    }
}

/// What the softmax's maximum starts from: finite, so that a difference of two is never NaN, and so low that e to the
/// power of the difference to any score is zero.
const LOWEST: f32 = f32::MIN / 2.0;
