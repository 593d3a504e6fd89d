//! Latent attention on the CPU, in two forms that give the same: over the latents as they are, with the matrices that make keys
//! and values taken to the queries and to the results; or with keys and values of every head made from the latents first, which
//! costs less where many queries look at them.

use super::batch::Run;
use crate::model::{Mixer, Mla, ModelSpec};
use crate::placement::{latent_heads, latent_rows};
use ostro_kernels::{ActKinds, Acts, Attend, AttendScratch, DType, Exec, Groups, KvType, Mat, Product, quantize};

/// A matrix a head each.
#[derive(Clone, Copy)]
pub(super) struct LatentWeights<'a> {
    /// `[kv_rank, nope_dim]`: a query to what it is against latents.
    pub keys: &'a [Mat<'a>],
    /// `[v_dim, kv_rank]`.
    pub values: &'a [Mat<'a>],
}

/// The latents of a sequence in a layer.
#[derive(Clone, Copy)]
pub(super) struct LatentCache<'a> {
    /// `[n_ctx, row_bytes(latent)]`
    pub rows: &'a [u8],
    pub kind: KvType,
    pub n_ctx: usize,
}

/// Floats of keys and values that are made at a time at most, for heads together.
const MADE: usize = 16 << 20;
/// Positions whose keys and values are made together, and queries from which on it may pay to make them.
const POSITIONS: usize = 256;
const MANY: usize = 16;

/// The buffers of latent attention.
#[derive(Default)]
pub(super) struct Latent {
    /// The parts of queries that are not rotated, `[n, heads, nope_dim]`; then what heads give as latents, `[n, heads, kv_rank]`.
    rows: Vec<f32>,
    /// By head: queries against latents, `[heads, n, kv_rank]`, or results, `[heads, n, v_dim]`.
    pairs: Vec<f32>,
    /// Queries, `[n, heads, latent or key]`.
    queries: Vec<f32>,
    acts: Acts,
    offsets: Vec<usize>,
    pick: Vec<u32>,
    /// Cached latents as floats, `[held, kv_rank]`, and rotated keys, `[held, rope_dim]`.
    latents: Vec<f32>,
    rotated: Vec<f32>,
    /// A head's matrix of keys, the other way round, `[heads, nope_dim, kv_rank]`.
    turned: Vec<u8>,
    /// Keys, `[held, nope_dim]`, and values, `[held, v_dim]`, of each head.
    made: Vec<f32>,
    keys: Vec<u8>,
    values: Vec<u8>,
    out: Vec<f32>,
    /// Whether there is room for activations of the types of the weights, which the first step knows.
    reserved: bool,
}

impl Latent {
    /// Room for batches of `n` tokens in contexts of `n_ctx`: memory that becomes real as it is used.
    pub fn new(spec: &ModelSpec, n: usize, n_ctx: usize) -> Latent {
        let mut latent = Latent::default();
        for layer in &spec.layers {
            if let Mixer::Mla(a) = &layer.mixer {
                latent.fit(a, n, n_ctx);
            }
        }
        latent
    }

    fn fit(&mut self, a: &Mla, n: usize, n_ctx: usize) {
        let latent = self;
        let (rows, key) = (latent_rows(n, a.n_heads), a.nope_dim + a.rope_dim);
        let heads = (MADE / (n_ctx * (key + a.v_dim)).max(1)).clamp(1, a.n_heads);
        // Fewer positions have more heads at once, of as many floats together.
        let made = (heads * n_ctx * (key + a.v_dim)).max(MADE).min(a.n_heads * n_ctx * (key + a.v_dim));
        grow(&mut latent.rows, rows * a.nope_dim.max(a.kv_rank));
        grow(&mut latent.pairs, rows * a.kv_rank.max(a.v_dim));
        grow(&mut latent.queries, (rows * a.latent()).max(n * a.n_heads * key));
        grow(&mut latent.latents, n_ctx * a.kv_rank);
        grow(&mut latent.rotated, n_ctx * a.rope_dim);
        grow(&mut latent.turned, a.n_heads * a.nope_dim * a.kv_rank * 4);
        grow(&mut latent.made, made);
        grow(&mut latent.keys, made * 4);
        grow(&mut latent.values, made * 4);
        grow(&mut latent.out, n * a.n_heads * a.v_dim);
        latent.offsets.reserve(a.n_heads + 1);
        latent.pick.reserve(rows);
    }

    /// Attention of a run's queries `q`, `[batch, n_heads, key]`, to `att`, `[batch, n_heads, v_dim]`.
    #[allow(clippy::too_many_arguments, reason = "each is another thing")]
    pub fn attend(
        &mut self,
        exec: &Exec,
        scratch: &mut AttendScratch,
        a: &Mla,
        weights: LatentWeights<'_>,
        cache: LatentCache<'_>,
        run: Run,
        q: &[f32],
        att: &mut [f32],
    ) {
        let (key, out) = (a.n_heads * (a.nope_dim + a.rope_dim), a.n_heads * a.v_dim);
        let (q, att) = (&q[run.first * key..][..run.n * key], &mut att[run.first * out..][..run.n * out]);
        let job = Job { exec, a, weights, cache, pos: run.pos, n: run.n };
        if !self.reserved {
            let rows = self.pick.capacity().max(POSITIONS);
            self.acts.reserve(rows, a.nope_dim, kinds(weights.keys));
            self.acts.reserve(rows, a.kv_rank, kinds(weights.values) | ActKinds::of(DType::F32));
            self.reserved = true;
        }
        if !exec.is_exact() && job.making_is_cheaper() {
            self.made(&job, scratch, q, att);
        } else {
            self.absorbed(&job, scratch, q, att);
        }
    }

    /// Over the latents: a head's query is `[keys q_nope, q_rope]`, its result goes through its matrix of values.
    fn absorbed(&mut self, job: &Job<'_>, scratch: &mut AttendScratch, q: &[f32], att: &mut [f32]) {
        let Job { exec, a, weights, cache, pos, n } = *job;
        let (key, latent) = (a.nope_dim + a.rope_dim, a.latent());
        let step = latent_heads(n, a.n_heads);
        for first in (0..a.n_heads).step_by(step) {
            let heads = step.min(a.n_heads - first);
            let head_of = |i: usize| &q[(i / heads * a.n_heads + first + i % heads) * key..][..key];
            // Pair `h n + t` is head h of token t, whose row is `t heads + h`.
            self.offsets.clear();
            self.offsets.extend((0..=heads).map(|h| h * n));
            self.pick.clear();
            self.pick.extend((0..heads).flat_map(|h| (0..n).map(move |t| (t * heads + h) as u32)));
            let groups = Groups { offsets: &self.offsets, pick: &self.pick };
            let rows = n * heads;

            let nope = &mut self.rows[..rows * a.nope_dim];
            exec.rows(nope, a.nope_dim, |i, row| row.copy_from_slice(&head_of(i)[..a.nope_dim]));
            let mats = &weights.keys[first..first + heads];
            exec.quantize(&mut self.acts, nope, rows, a.nope_dim, kinds(mats));
            let absorbed = &mut self.pairs[..rows * a.kv_rank];
            exec.matmul_experts(&self.acts, mats, groups, absorbed);
            let queries = &mut self.queries[..rows * latent];
            exec.rows(queries, latent, |i, row| {
                let pair = i % heads * n + i / heads;
                row[..a.kv_rank].copy_from_slice(&absorbed[pair * a.kv_rank..][..a.kv_rank]);
                row[a.kv_rank..].copy_from_slice(&head_of(i)[a.nope_dim..]);
            });

            let sums = &mut self.rows[..rows * a.kv_rank];
            // Several queries together are computed in another way than one.
            let together = if exec.is_exact() { 1 } else { n };
            for t in (0..n).step_by(together) {
                let attend = Attend {
                    q: &queries[t * heads * latent..][..together * heads * latent],
                    k: cache.rows,
                    v: None,
                    k_type: cache.kind,
                    v_type: cache.kind,
                    capacity: cache.n_ctx,
                    n: together,
                    first_pos: pos + t,
                    n_heads: heads,
                    n_kv_heads: 1,
                    head_dim: latent,
                    v_dim: a.kv_rank,
                    window: None,
                    scale: a.scale,
                    softcap: None,
                    out: &mut sums[t * heads * a.kv_rank..][..together * heads * a.kv_rank],
                };
                ostro_kernels::attend(exec.cpu(), exec.team(), scratch, attend);
            }

            let mats = &weights.values[first..first + heads];
            exec.quantize(&mut self.acts, sums, rows, a.kv_rank, kinds(mats));
            let values = &mut self.pairs[..rows * a.v_dim];
            exec.matmul_experts(&self.acts, mats, groups, values);
            exec.rows(att, a.n_heads * a.v_dim, |t, row| {
                for (h, out) in row[first * a.v_dim..].chunks_exact_mut(a.v_dim).take(heads).enumerate() {
                    out.copy_from_slice(&values[(h * n + t) * a.v_dim..][..a.v_dim]);
                }
            });
        }
    }

    /// Keys and values of some heads are made from all latents, then attended to as ever.
    fn made(&mut self, job: &Job<'_>, scratch: &mut AttendScratch, q: &[f32], att: &mut [f32]) {
        let Job { exec, a, weights, cache, pos, n } = *job;
        let (cpu, held, key) = (exec.cpu(), pos + n, a.nope_dim + a.rope_dim);
        let bytes = cache.kind.row_bytes(a.latent());
        let latents = &mut self.latents[..held * a.kv_rank];
        let rotated = &mut self.rotated[..held * a.rope_dim];
        let row = &mut self.rows[..a.latent()];
        for (i, cached) in cache.rows.chunks_exact(bytes).take(held).enumerate() {
            cache.kind.load(cpu, cached, row);
            latents[i * a.kv_rank..][..a.kv_rank].copy_from_slice(&row[..a.kv_rank]);
            rotated[i * a.rope_dim..][..a.rope_dim].copy_from_slice(&row[a.kv_rank..]);
        }
        let all = ActKinds::of(DType::F32) | kinds(weights.values);
        let (matrix, width) = (a.nope_dim * a.kv_rank, a.nope_dim + a.v_dim);
        let step = (MADE / (held * (key + a.v_dim))).clamp(1, a.n_heads);
        for first in (0..a.n_heads).step_by(step) {
            let heads = step.min(a.n_heads - first);
            let turned = &mut self.turned[..heads * matrix * 4];
            exec.rows(turned, matrix * 4, |h, out| turn(weights.keys[first + h], out));
            let made = &mut self.made[..heads * held * width];
            for from in (0..held).step_by(POSITIONS) {
                let some = POSITIONS.min(held - from);
                exec.quantize(&mut self.acts, &latents[from * a.kv_rank..][..some * a.kv_rank], some, a.kv_rank, all);
                for (h, made) in made.chunks_exact_mut(held * width).enumerate() {
                    let (keys, values) = made.split_at_mut(held * a.nope_dim);
                    let w = Mat::new(DType::F32, a.nope_dim, a.kv_rank, &turned[h * matrix * 4..][..matrix * 4]);
                    let keys = &mut keys[from * a.nope_dim..][..some * a.nope_dim];
                    let values = &mut values[from * a.v_dim..][..some * a.v_dim];
                    let keys = Product { w: w.expect("whole rows"), out: keys };
                    exec.matmul(&self.acts, &mut [keys, Product { w: weights.values[first + h], out: values }]);
                }
            }

            let keys = &mut self.keys[..heads * held * key * 4];
            exec.rows(keys, key * 4, |i, out| {
                let (h, t) = (i / held, i % held);
                let (nope, rope) = out.split_at_mut(a.nope_dim * 4);
                KvType::F32.store(cpu, &made[h * held * width + t * a.nope_dim..][..a.nope_dim], nope);
                KvType::F32.store(cpu, &rotated[t * a.rope_dim..][..a.rope_dim], rope);
            });
            let values = &mut self.values[..heads * held * a.v_dim * 4];
            exec.rows(values, a.v_dim * 4, |i, out| {
                let at = i / held * held * width + held * a.nope_dim + i % held * a.v_dim;
                KvType::F32.store(cpu, &made[at..][..a.v_dim], out);
            });
            let queries = &mut self.queries[..n * heads * key];
            exec.rows(queries, heads * key, |t, row| {
                row.copy_from_slice(&q[(t * a.n_heads + first) * key..][..heads * key]);
            });
            let out = &mut self.out[..n * heads * a.v_dim];
            let attend = Attend {
                q: queries,
                k: keys,
                v: Some(values),
                k_type: KvType::F32,
                v_type: KvType::F32,
                capacity: held,
                n,
                first_pos: pos,
                n_heads: heads,
                n_kv_heads: heads,
                head_dim: key,
                v_dim: a.v_dim,
                window: None,
                scale: a.scale,
                softcap: None,
                out,
            };
            ostro_kernels::attend(cpu, exec.team(), scratch, attend);
            exec.rows(att, a.n_heads * a.v_dim, |t, row| {
                row[first * a.v_dim..][..heads * a.v_dim]
                    .copy_from_slice(&out[t * heads * a.v_dim..][..heads * a.v_dim]);
            });
        }
    }
}

/// The queries of a run, and what they look at.
#[derive(Clone, Copy)]
struct Job<'a> {
    exec: &'a Exec,
    a: &'a Mla,
    weights: LatentWeights<'a>,
    cache: LatentCache<'a>,
    pos: usize,
    n: usize,
}

impl Job<'_> {
    /// Counts multiplications of floats; those of bytes are a quarter of one.
    fn making_is_cheaper(&self) -> bool {
        let Job { a, pos, n, .. } = *self;
        let (rank, nope, rope, v, held, seen) =
            (a.kv_rank, a.nope_dim, a.rope_dim, a.v_dim, pos + n, n * (pos + n / 2));
        let absorbed = n * rank * (nope + v) / 4 + seen * (2 * rank + rope);
        let made = held * rank * (nope + v / 4) + seen * (nope + rope + v);
        n > MANY && made < absorbed
    }
}

/// The representations that some matrices want.
fn kinds(mats: &[Mat<'_>]) -> ActKinds {
    mats.iter().fold(ActKinds::NONE, |kinds, mat| kinds | ActKinds::of(mat.dtype()))
}

/// A matrix as floats in bytes, its columns as rows.
fn turn(mat: Mat<'_>, out: &mut [u8]) {
    let mut row = vec![0.0; mat.cols()];
    for i in 0..mat.rows() {
        quantize::decode_row(mat.dtype(), mat.row(i), &mut row);
        for (j, x) in row.iter().enumerate() {
            out[(j * mat.rows() + i) * 4..][..4].copy_from_slice(&x.to_le_bytes());
        }
    }
}

/// Makes a buffer at least so long.
fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        // Not `resize`: fresh zeros come from the system untouched.
        *buffer = vec![T::default(); len];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::SeqId;
    use crate::model::{Norm, NormKind};
    use ostro_kernels::Cpu;
    use ostro_kernels::synthetic::{Random, weights};

    /// Both forms, for float and quantized matrices and every cache, with and without positions before.
    #[test]
    fn both_forms_give_the_same() {
        let norm = Norm { kind: NormKind::Rms, eps: 1e-6 };
        let (n_heads, kv_rank, nope_dim, rope_dim, v_dim) = (6, 64, 32, 16, 32);
        let a =
            Mla { n_heads, q_rank: None, kv_rank, nope_dim, rope_dim, v_dim, rope: 0, scale: 0.3, norm, joined: false };
        let mut random = Random::new(5);
        for (dtype, limit) in [(DType::F32, 1e-10), (DType::Q8_0, 1e-3)] {
            let mut table = |rows, cols| weights(dtype, rows, cols, &mut random);
            let (keys, values) = (table(n_heads * kv_rank, nope_dim), table(n_heads * v_dim, kv_rank));
            let stacked = |bytes, rows, cols| -> Vec<Mat<'_>> {
                let all = Mat::new(dtype, n_heads * rows, cols, bytes).unwrap();
                (0..n_heads).map(|h| all.stacked(h, n_heads)).collect()
            };
            let (keys, values) = (stacked(&keys, kv_rank, nope_dim), stacked(&values, v_dim, kv_rank));
            let weights = LatentWeights { keys: &keys, values: &values };
            for (kind, pos, n) in [(KvType::F32, 0, 40), (KvType::F16, 21, 9), (KvType::Q8_0, 30, 1)] {
                let exec = Exec::new(Cpu::detect(), 2);
                let n_ctx = pos + n + 3;
                let mut rows = vec![0; n_ctx * kind.row_bytes(a.latent())];
                for row in rows.chunks_exact_mut(kind.row_bytes(a.latent())).take(pos + n) {
                    let latent: Vec<f32> = (0..a.latent()).map(|_| random.signed()).collect();
                    kind.store(exec.cpu(), &latent, row);
                }
                let cache = LatentCache { rows: &rows, kind, n_ctx };
                let q: Vec<f32> = (0..n * n_heads * (nope_dim + rope_dim)).map(|_| random.signed()).collect();
                let run = Run { seq: SeqId(0), first: 0, n, pos };
                let job = Job { exec: &exec, a: &a, weights, cache, pos: run.pos, n };
                let (mut latent, mut scratch) = (Latent::default(), AttendScratch::new());
                latent.fit(&a, n, n_ctx);
                let mut out = [vec![f32::NAN; n * n_heads * v_dim], vec![f32::NAN; n * n_heads * v_dim]];
                latent.absorbed(&job, &mut scratch, &q, &mut out[0]);
                latent.made(&job, &mut scratch, &q, &mut out[1]);
                let square = |x: f32| f64::from(x).powi(2);
                let error: f64 = out[0].iter().zip(&out[1]).map(|(x, y)| square(x - y)).sum();
                let power: f64 = out[0].iter().map(|&x| square(x)).sum();
                assert!(error <= limit * power, "{dtype} {kind:?}: {n} at {pos}: NMSE {:.1e}", error / power);
            }
        }
    }

    /// A first prompt has its keys made, a single token does not.
    #[test]
    fn the_form_follows_the_work() {
        let norm = Norm { kind: NormKind::Rms, eps: 1e-6 };
        let (n_heads, kv_rank, nope_dim, rope_dim, v_dim) = (128, 512, 128, 64, 128);
        let a = &Mla {
            n_heads,
            q_rank: None,
            kv_rank,
            nope_dim,
            rope_dim,
            v_dim,
            rope: 0,
            scale: 1.0,
            norm,
            joined: false,
        };
        let exec = Exec::new(Cpu::detect(), 1);
        let weights = LatentWeights { keys: &[], values: &[] };
        let cache = LatentCache { rows: &[], kind: KvType::F16, n_ctx: 0 };
        for (pos, n, made) in [(0, 1, false), (0, 512, true), (3584, 512, true), (4000, 1, false), (4000, 8, false)] {
            let job = Job { exec: &exec, a, weights, cache, pos, n };
            assert_eq!(job.making_is_cheaper(), made, "{n} tokens at {pos}");
        }
    }
}
