//! What stands between the products: norms, rotation, gates, the router, the best logits.

use super::args::{
    CombineArgs, EachArgs, GateRowsArgs, MoveHeadsArgs, NormArgs, PickArgs, RopeArgs, RouteArgs, TopArgs,
};
use super::error::CudaError;
use super::memory::Buffer;
use super::ptx::{Function, Module};
use super::{Gpu, GpuGroups, int, need};
use crate::{Activation, Pairs};

macro_rules! functions {
    ($($name:ident)*) => {
        /// The kernels that know no format of weights.
        pub(super) struct Functions { $(pub $name: Function,)* }

        impl Functions {
            pub fn load(module: &Module) -> Result<Functions, CudaError> {
                Ok(Functions { $($name: module.function(stringify!($name))?,)* })
            }
        }
    };
}

functions! {
    norm quantize32 quantize256 add bias silu_gate gelu_gate scale_cap gate_rows move_heads pick rope store shift
    attend_128 attend_256 attend_512 attend_join
    choose group combine top
}

/// A rotation of heads.
pub struct GpuRope<'a> {
    /// Cosines, `[n, pairs]`.
    pub cos: &'a Buffer<f32>,
    /// Sines, `[n, pairs]`.
    pub sin: &'a Buffer<f32>,
    /// Pairs of a head that are turned.
    pub pairs: usize,
    /// Which elements form a pair.
    pub pairing: Pairs,
}

/// Which statistic of a row a norm divides by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GpuNorm {
    /// The root of the mean square.
    Rms,
    /// The standard deviation, after the mean is taken off.
    Layer,
}

/// Where the heads of a token lie in some rows, in floats.
#[derive(Clone, Copy)]
pub struct GpuHeads {
    /// The first value.
    pub start: usize,
    /// From one token to the next.
    pub token: usize,
    /// From one head to the next.
    pub head: usize,
}

/// How a router chooses.
#[derive(Clone, Copy)]
pub struct GpuRoute {
    /// Experts in all.
    pub n_experts: usize,
    /// Experts that a token is sent to.
    pub n_active: usize,
    /// Scores are the sigmoid of each logit, not the softmax of all.
    pub sigmoid: bool,
    /// Groups of experts, groups that are chosen from, and by how many of its best experts, one or two, a group is chosen.
    pub groups: Option<(usize, usize, usize)>,
    /// The chosen weights are divided by their sum.
    pub renormalize: bool,
    /// The weights are multiplied by this.
    pub scale: f32,
}

/// What a router chose, on the card.
pub struct GpuRouting {
    chosen: Buffer<i32>,  // [n, n_active]
    weight: Buffer<f32>,  // [n, n_active]
    offsets: Buffer<i32>, // [n_experts + 1]
    token: Buffer<i32>,   // [pairs]
    pair: Buffer<i32>,    // [n, n_active]
}

/// Experts that the router's kernel can choose from.
const MOST_EXPERTS: usize = 512;
const MOST_GROUPS: usize = 32;
/// Values that a block looks at for the best of them, and how many it gives at most.
const TOP_VALUES: usize = 4096;
const TOP_MOST: usize = 64;

impl GpuRouting {
    /// The pairs, each of which reads the activation of its token.
    pub fn by_token(&self, n: usize, route: &GpuRoute) -> GpuGroups<'_> {
        GpuGroups { offsets: &self.offsets, pick: Some(&self.token), pairs: n * route.n_active, most: n }
    }

    /// The pairs, each of which reads a row of its own.
    pub fn by_pair(&self, n: usize, route: &GpuRoute) -> GpuGroups<'_> {
        GpuGroups { pick: None, ..self.by_token(n, route) }
    }
}

impl Gpu {
    /// Normalizes rows of `weight.len()` floats and multiplies them by the weights.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn norm(
        &self,
        norm: GpuNorm,
        x: &Buffer<f32>,
        weight: &Buffer<f32>,
        eps: f32,
        rows: usize,
        out: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        let dim = weight.len();
        need("rows", x, rows * dim);
        need("output", out, rows * dim);
        self.normalize(norm, x.at, weight, eps, rows, out.at, (dim, dim, 1))
    }

    /// Normalizes in place the first `dim` floats of rows that are `stride` apart; row `r` takes the weights `r % period` of
    /// `[period, dim]`.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn norm_in_place(
        &self,
        norm: GpuNorm,
        x: &mut Buffer<f32>,
        stride: usize,
        (weight, period): (&Buffer<f32>, usize),
        eps: f32,
        rows: usize,
    ) -> Result<(), CudaError> {
        let dim = weight.len() / period;
        assert!(dim * period == weight.len() && dim <= stride, "{} weights of {period} rows of {stride}", weight.len());
        need("rows", x, rows * stride);
        self.normalize(norm, x.at, weight, eps, rows, x.at, (dim, stride, period))
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one struct of arguments")]
    fn normalize(
        &self,
        norm: GpuNorm,
        x: u64,
        weight: &Buffer<f32>,
        eps: f32,
        rows: usize,
        out: u64,
        (dim, stride, period): (usize, usize, usize),
    ) -> Result<(), CudaError> {
        let (centred, weight) = (i32::from(norm == GpuNorm::Layer), weight.at);
        let args = NormArgs { x, weight, out, dim: int(dim), eps, centred, stride: int(stride), period: int(period) };
        // SAFETY: the lengths were checked by the callers; rows are read before they are written.
        unsafe { self.launch(self.functions.norm, (rows, 1, 1), 256, 0, &args) }
    }

    /// Multiplies each of `rows` rows of `x` by the sigmoid of the product of its row of `h` with `weight`.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn gate_rows(
        &self,
        x: &mut Buffer<f32>,
        h: &Buffer<f32>,
        weight: &Buffer<f32>,
        rows: usize,
    ) -> Result<(), CudaError> {
        let dim = weight.len();
        need("gated rows", x, rows * dim);
        need("rows", h, rows * dim);
        let args = GateRowsArgs { x: x.at, h: h.at, weight: weight.at, dim: int(dim) };
        // SAFETY: the lengths were checked.
        unsafe { self.launch(self.functions.gate_rows, (rows, 1, 1), 256, 0, &args) }
    }

    /// Copies `width` floats of each of `heads` heads of `n` tokens from one layout to another.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn move_heads(
        &self,
        (from, from_at): (&Buffer<f32>, GpuHeads),
        (to, to_at): (&mut Buffer<f32>, GpuHeads),
        (n, heads, width): (usize, usize, usize),
    ) -> Result<(), CudaError> {
        if n * heads * width == 0 {
            return Ok(());
        }
        let last = |at: GpuHeads| at.start + (n - 1) * at.token + (heads - 1) * at.head + width;
        need("heads", from, last(from_at));
        need("heads", to, last(to_at));
        let at = |buffer: u64, heads: GpuHeads| buffer + (heads.start * size_of::<f32>()) as u64;
        let args = MoveHeadsArgs {
            from: at(from.at, from_at),
            to: at(to.at, to_at),
            n: int(n),
            heads: int(heads),
            width: int(width),
            from_token: int(from_at.token),
            from_head: int(from_at.head),
            to_token: int(to_at.token),
            to_head: int(to_at.head),
        };
        // SAFETY: the lengths were checked.
        unsafe { self.launch(self.functions.move_heads, ((n * heads * width).div_ceil(256), 1, 1), 256, 0, &args) }
    }

    /// `x += y`, the first `len` values.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn add(&self, x: &mut Buffer<f32>, y: &Buffer<f32>, len: usize) -> Result<(), CudaError> {
        need("addend", y, len);
        self.each(self.functions.add, x, y.at, 1, len, 1.0, None)
    }

    /// Each of the first `rows` rows of `x` += `bias`.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn add_bias(&self, x: &mut Buffer<f32>, bias: &Buffer<f32>, rows: usize) -> Result<(), CudaError> {
        self.each(self.functions.bias, x, bias.at, rows, bias.len(), 1.0, None)
    }

    /// `gate = act(gate) * up`, the first `len` values.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn gate(&self, act: Activation, gate: &mut Buffer<f32>, up: &Buffer<f32>, len: usize) -> Result<(), CudaError> {
        need("up", up, len);
        let function = match act {
            Activation::Silu => self.functions.silu_gate,
            Activation::GeluTanh => self.functions.gelu_gate,
        };
        self.each(function, gate, up.at, 1, len, 1.0, None)
    }

    /// `x = x * scale`, then `cap * tanh(x / cap)` where there is a cap; the first `len` values.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn scale_and_cap(
        &self,
        x: &mut Buffer<f32>,
        len: usize,
        scale: f32,
        cap: Option<f32>,
    ) -> Result<(), CudaError> {
        self.each(self.functions.scale_cap, x, 0, 1, len, scale, cap)
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one struct of arguments")]
    fn each(
        &self,
        function: Function,
        x: &mut Buffer<f32>,
        y: u64,
        rows: usize,
        width: usize,
        scale: f32,
        cap: Option<f32>,
    ) -> Result<(), CudaError> {
        need("values", x, rows * width);
        let args = EachArgs { x: x.at, y, rows: int(rows), width: int(width), scale, cap: cap.unwrap_or(0.0) };
        // SAFETY: the lengths were checked here and by the callers.
        unsafe { self.launch(function, ((rows * width).div_ceil(256), 1, 1), 256, 0, &args) }
    }

    /// Row `i` of `to` becomes row `rows[i]` of `from`, `width` floats each.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn pick_rows(
        &self,
        from: &Buffer<f32>,
        rows: &Buffer<i32>,
        count: usize,
        width: usize,
        to: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        need("rows", rows, count);
        need("picked rows", to, count * width);
        let args = PickArgs { from: from.at, rows: rows.at, to: to.at, count: int(count), width: int(width) };
        // SAFETY: the lengths were checked; the engine's rows are those of its batch.
        unsafe { self.launch(self.functions.pick, ((count * width).div_ceil(256), 1, 1), 256, 0, &args) }
    }

    /// Turns the heads of `n` tokens, `[n, heads, head_dim]`, each from its value `skip` on.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn rope(
        &self,
        x: &mut Buffer<f32>,
        rope: &GpuRope<'_>,
        n: usize,
        heads: usize,
        head_dim: usize,
        skip: usize,
    ) -> Result<(), CudaError> {
        need("heads", x, n * heads * head_dim);
        need("cosines", rope.cos, n * rope.pairs);
        need("sines", rope.sin, n * rope.pairs);
        assert!(skip + 2 * rope.pairs <= head_dim, "{} pairs of a head of {head_dim}", rope.pairs);
        let args = RopeArgs {
            x: x.at + (skip * size_of::<f32>()) as u64,
            cos: rope.cos.at,
            sin: rope.sin.at,
            n: int(n),
            heads: int(heads),
            head_dim: int(head_dim),
            pairs: int(rope.pairs),
            adjacent: i32::from(rope.pairing == Pairs::Adjacent),
        };
        // SAFETY: the lengths were checked.
        unsafe { self.launch(self.functions.rope, ((n * heads * rope.pairs).div_ceil(256), 1, 1), 256, 0, &args) }
    }

    /// Whether the router's kernel can choose so.
    pub fn routes(route: &GpuRoute) -> bool {
        let groups = route.groups.is_none_or(|(n, active, best)| {
            (1..=MOST_GROUPS).contains(&n)
                && active <= n
                && (1..=2).contains(&best)
                && route.n_experts.is_multiple_of(n)
        });
        groups && route.n_experts <= MOST_EXPERTS && (1..=route.n_experts).contains(&route.n_active)
    }

    /// Room for what a router chooses for `n` tokens.
    ///
    /// # Errors
    /// No room, or a driver that is lost.
    pub fn routing(&self, n: usize, n_experts: usize, n_active: usize) -> Result<GpuRouting, CudaError> {
        let pairs = n * n_active;
        Ok(GpuRouting {
            chosen: self.buffer(pairs)?,
            weight: self.buffer(pairs)?,
            offsets: self.buffer(n_experts + 1)?,
            token: self.buffer(pairs)?,
            pair: self.buffer(pairs)?,
        })
    }

    /// Chooses experts by the router's logits, `[n, n_experts]`, with `bias` added to their scores for the choice, and sorts the
    /// tokens by expert.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When a shape does not fit, or [`Gpu::routes`] says no.
    pub fn route(
        &self,
        logits: &Buffer<f32>,
        bias: Option<&Buffer<f32>>,
        n: usize,
        route: &GpuRoute,
        routing: &mut GpuRouting,
    ) -> Result<(), CudaError> {
        assert!(Gpu::routes(route), "{} of {} experts", route.n_active, route.n_experts);
        need("router logits", logits, n * route.n_experts);
        need("routing", &routing.token, n * route.n_active);
        need("offsets", &routing.offsets, route.n_experts + 1);
        if let Some(bias) = bias {
            need("bias", bias, route.n_experts);
        }
        let (groups, groups_active, group_best) = route.groups.unwrap_or((0, 0, 0));
        let args = RouteArgs {
            logits: logits.at,
            bias: bias.map_or(0, |bias| bias.at),
            chosen: routing.chosen.at,
            weight: routing.weight.at,
            offsets: routing.offsets.at,
            token: routing.token.at,
            pair: routing.pair.at,
            n: int(n),
            experts: int(route.n_experts),
            active: int(route.n_active),
            sigmoid: i32::from(route.sigmoid),
            groups: int(groups),
            groups_active: int(groups_active),
            group_best: int(group_best),
            renormalize: i32::from(route.renormalize),
            scale: route.scale,
        };
        // SAFETY: the lengths were checked.
        unsafe {
            self.launch(self.functions.choose, (n.div_ceil(8), 1, 1), 256, 0, &args)?;
            self.launch(self.functions.group, (1, 1, 1), MOST_EXPERTS, 0, &args)
        }
    }

    /// What a router chose: the offsets of the experts, and the token of each pair.
    ///
    /// # Errors
    /// A driver that is lost.
    pub fn read_routing(
        &self,
        routing: &GpuRouting,
        n: usize,
        route: &GpuRoute,
    ) -> Result<(Vec<i32>, Vec<i32>), CudaError> {
        let (mut offsets, mut token) = (vec![0; route.n_experts + 1], vec![0; n * route.n_active]);
        self.read(&routing.offsets, 0, &mut offsets)?;
        self.read(&routing.token, 0, &mut token)?;
        Ok((offsets, token))
    }

    /// Sums what the experts of each token gave, `[pairs, dim]`, under their weights: `out` is `[n, dim]`.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn combine(
        &self,
        experts: &Buffer<f32>,
        routing: &GpuRouting,
        n: usize,
        n_active: usize,
        dim: usize,
        out: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        need("experts' rows", experts, n * n_active * dim);
        need("routing", &routing.pair, n * n_active);
        need("output", out, n * dim);
        let args = CombineArgs {
            experts: experts.at,
            weight: routing.weight.at,
            pair: routing.pair.at,
            out: out.at,
            n: int(n),
            active: int(n_active),
            dim: int(dim),
        };
        // SAFETY: the lengths were checked; the pairs are those of the same tokens.
        unsafe { self.launch(self.functions.combine, ((n * dim).div_ceil(256), 1, 1), 256, 0, &args) }
    }

    /// The `k` largest of the first `n` values, largest first, with their indices; of equal ones the lowest index.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When there are not so many values, or `k` is above 64.
    pub fn top(&self, values: &Buffer<f32>, n: usize, k: usize) -> Result<Vec<(u32, f32)>, CudaError> {
        need("values", values, n);
        assert!(k <= TOP_MOST, "the {k} best, at most {TOP_MOST}");
        let (mut from, mut from_ids, mut left) = (values.at, 0, n);
        let mut kept = Vec::new();
        loop {
            let blocks = left.div_ceil(TOP_VALUES);
            let best: Buffer<f32> = self.buffer(blocks * k)?;
            let best_ids: Buffer<i32> = self.buffer(blocks * k)?;
            let args =
                TopArgs { values: from, ids: from_ids, best: best.at, best_ids: best_ids.at, n: int(left), k: int(k) };
            // SAFETY: the lengths were checked; both buffers are kept until the end.
            unsafe { self.launch(self.functions.top, (blocks, 1, 1), 1024, 0, &args)? };
            (from, from_ids, left) = (best.at, best_ids.at, blocks * k);
            kept.push((best, best_ids));
            if blocks <= 1 {
                break;
            }
        }
        let (best, best_ids) = kept.last().expect("one round at least");
        let (mut floats, mut ids) = (vec![0.0; best.len()], vec![0; best.len()]);
        self.read(best, 0, &mut floats)?;
        self.read(best_ids, 0, &mut ids)?;
        Ok(ids.iter().zip(floats).filter(|(id, _)| **id >= 0).map(|(&id, x)| (id as u32, x)).collect())
    }
}
