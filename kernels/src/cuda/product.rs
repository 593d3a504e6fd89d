//! Products with weights on the card.

use super::args::{EmbedArgs, ProductArgs};
use super::error::CudaError;
use super::matrix::grid_at;
use super::memory::Buffer;
use super::ptx::{Function, Module};
use super::{Gpu, GpuMat, int, need};
use crate::acts::ActKind;
use crate::{ActKinds, DType};

/// The kernels of a type of weights.
#[derive(Clone, Copy)]
pub(super) struct Functions {
    matvec_1: Function,
    matvec_8: Function,
    matmul: Function,
    embed: Function,
    /// Where the format's grid starts in the table of all.
    grid: u64,
}

/// Up to so many columns are streamed, which reads the weights once for eight of them.
const FEW: usize = 8;
/// Warps of a block that streams rows.
const WARPS: usize = 8;
/// Rows that a warp streams with one column: as many as have 21 bits a weight together, four to twelve. So says `Stream` in
/// `matmul.cuh` too.
fn rows_of_warp(dtype: DType) -> usize {
    (21 * dtype.block_elems() / (8 * dtype.block_bytes())).clamp(4, 12)
}

/// Rows and columns of a tile.
const TILE: usize = 64;
/// Blocks of a grid in its second and third direction at most.
const GRID: usize = 65_535;

/// Activations on the card, in the representations that the weights want.
pub struct GpuActs {
    n: usize,
    k: usize,
    kinds: ActKinds,
    q32: Quantized,
    q256: Quantized,
}

struct Quantized {
    q: Buffer<i8>,  // [n, k]
    d: Buffer<f32>, // [n, k / 32]
    s: Buffer<f32>, // [n, k / 32]: scale x sum
}

/// Which representation a type of weights is multiplied with; none for plain floats, which take the activations as they are.
fn kind_of(dtype: DType) -> Option<ActKind> {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => None,
        _ if ActKind::of(dtype) == ActKind::Q8x256 => Some(ActKind::Q8x256),
        _ => Some(ActKind::Q8x32),
    }
}

/// Which pairs of activation and expert there are, on the card.
#[derive(Clone, Copy)]
pub struct GpuGroups<'a> {
    /// Expert `e` has the pairs `offsets[e]..offsets[e + 1]`, `[experts + 1]`.
    pub offsets: &'a Buffer<i32>,
    /// The activation that each pair reads, or its own.
    pub pick: Option<&'a Buffer<i32>>,
    /// Pairs in all.
    pub pairs: usize,
    /// Pairs that one expert may have.
    pub most: usize,
}

impl Gpu {
    /// Compiles the kernels of a type, once.
    pub(super) fn load_format(&self, dtype: DType) -> Result<Functions, CudaError> {
        if let Some(functions) = self.formats.borrow().get(&dtype) {
            return Ok(*functions);
        }
        let ptx = (self.code.format)(dtype).unwrap_or_else(|| panic!("no kernels for {dtype}"));
        self.context.bind()?;
        let module = Module::load(dtype.name(), ptx)?;
        let functions = Functions {
            matvec_1: module.function("matvec_1")?,
            matvec_8: module.function("matvec_8")?,
            matmul: module.function("matmul_n")?,
            embed: module.function("embed_rows")?,
            grid: grid_at(dtype),
        };
        self.formats.borrow_mut().insert(dtype, functions);
        Ok(functions)
    }

    /// Room for quantized activations of `values` floats in all.
    ///
    /// # Errors
    /// No room, or a driver that is lost.
    pub fn acts(&self, values: usize) -> Result<GpuActs, CudaError> {
        let quantized = || -> Result<_, CudaError> {
            let scales = values.div_ceil(32);
            Ok(Quantized { q: self.buffer(values)?, d: self.buffer(scales)?, s: self.buffer(scales)? })
        };
        Ok(GpuActs { n: 0, k: 0, kinds: ActKinds::NONE, q32: quantized()?, q256: quantized()? })
    }

    /// Quantizes `x`, `[n, k]`, for weights of the types `dtypes`.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn quantize(
        &self,
        acts: &mut GpuActs,
        x: &Buffer<f32>,
        n: usize,
        k: usize,
        dtypes: &[DType],
    ) -> Result<(), CudaError> {
        need("activations", x, n * k);
        (acts.n, acts.k, acts.kinds) = (n, k, ActKinds::NONE);
        for (kind, block, to) in [(ActKind::Q8x32, 32, &acts.q32), (ActKind::Q8x256, 256, &acts.q256)] {
            if !dtypes.iter().any(|&dtype| kind_of(dtype) == Some(kind)) {
                continue;
            }
            assert!(k.is_multiple_of(block), "activations of length {k} in blocks of {block}");
            need("quantized activations", &to.q, n * k);
            let function = if block == 32 { self.functions.quantize32 } else { self.functions.quantize256 };
            let blocks = n * k / block;
            let args = super::args::QuantizeArgs { x: x.at, q: to.q.at, d: to.d.at, s: to.s.at, blocks: int(blocks) };
            // SAFETY: the lengths were checked.
            unsafe { self.launch(function, (blocks.div_ceil(8), 1, 1), 256, 0, &args)? };
            acts.kinds |= ActKinds::one(kind);
        }
        Ok(())
    }

    /// `out = x w^T`, `[n, rows]`, with activations that were quantized for the type of the weights. `exact`: the bits of
    /// products of each column alone.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn matmul(
        &self,
        acts: &GpuActs,
        x: &Buffer<f32>,
        w: &GpuMat,
        out: &mut Buffer<f32>,
        exact: bool,
    ) -> Result<(), CudaError> {
        assert_eq!(w.count, 1, "one matrix");
        need("output", out, acts.n * w.rows);
        self.product(acts, x, w, None, out, exact)
    }

    /// The product of every pair with the matrix of its expert: `out` is `[pairs, rows]`.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When a shape does not fit. The groups themselves lie on the card: [`Gpu::route`] makes them.
    pub fn matmul_experts(
        &self,
        acts: &GpuActs,
        x: &Buffer<f32>,
        w: &GpuMat,
        groups: GpuGroups<'_>,
        out: &mut Buffer<f32>,
        exact: bool,
    ) -> Result<(), CudaError> {
        need("offsets", groups.offsets, w.count + 1);
        need("output", out, groups.pairs * w.rows);
        match groups.pick {
            Some(pick) => need("pick", pick, groups.pairs),
            None => assert!(acts.n >= groups.pairs, "{} activations of {} pairs", acts.n, groups.pairs),
        }
        self.product(acts, x, w, Some(groups), out, exact)
    }

    fn product(
        &self,
        acts: &GpuActs,
        x: &Buffer<f32>,
        w: &GpuMat,
        groups: Option<GpuGroups<'_>>,
        out: &Buffer<f32>,
        exact: bool,
    ) -> Result<(), CudaError> {
        assert_eq!(w.cols, acts.k, "columns of a {} matrix against the length of the activations", w.dtype);
        let functions = self.load_format(w.dtype)?;
        let kind = kind_of(w.dtype);
        let quantized = match kind {
            Some(ActKind::Q8x256) => &acts.q256,
            _ => &acts.q32,
        };
        match kind {
            Some(kind) => assert!(acts.kinds.has(kind), "activations were not quantized for {}", w.dtype),
            None => need("activations", x, acts.n * acts.k),
        }
        let (columns, most) = groups.map_or((acts.n, acts.n), |g| (g.pairs, g.most));
        let args = ProductArgs {
            w: w.bytes.at,
            q: quantized.q.at,
            d: quantized.d.at,
            s: quantized.s.at,
            x: x.at,
            out: out.at,
            offsets: groups.map_or(0, |g| g.offsets.at),
            pick: groups.and_then(|g| g.pick).map_or(0, |pick| pick.at),
            grid: self.grids.at + functions.grid,
            matrix_bytes: w.matrix_bytes() as u64,
            rows: int(w.rows),
            k: int(w.cols),
            n: int(columns),
            groups: int(w.count),
        };
        if columns == 0 {
            return Ok(());
        }
        assert!(w.count <= GRID, "{} matrices", w.count);
        let (function, grid) = match most {
            1 => (functions.matvec_1, (w.rows.div_ceil(WARPS * rows_of_warp(w.dtype)), 1, w.count)),
            _ if exact || most <= FEW => (functions.matvec_8, (w.rows.div_ceil(WARPS * 2), 1, w.count)),
            _ => (functions.matmul, (w.rows.div_ceil(TILE), most.div_ceil(TILE), w.count)),
        };
        assert!(grid.1 <= GRID, "{most} columns");
        // SAFETY: lengths were checked here and by the callers; the groups are the router's, which are in range.
        unsafe { self.launch(function, grid, 256, 0, &args) }
    }

    /// The rows of a matrix that `tokens` name, times `scale`: `out` is `[n, cols]`.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn embed(
        &self,
        w: &GpuMat,
        tokens: &Buffer<i32>,
        n: usize,
        scale: f32,
        out: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        need("tokens", tokens, n);
        need("output", out, n * w.cols);
        let functions = self.load_format(w.dtype)?;
        let (cols, grid) = (w.cols, self.grids.at + functions.grid);
        let args = EmbedArgs { w: w.bytes.at, tokens: tokens.at, out: out.at, grid, n: int(n), dim: int(cols), scale };
        let each = if kind_of(w.dtype).is_some() { 32 } else { 1 };
        // SAFETY: lengths were checked; the caller's tokens are rows of the matrix, as the engine checks a batch.
        unsafe { self.launch(functions.embed, ((n * cols / each).div_ceil(256), 1, 1), 256, 0, &args) }
    }
}
