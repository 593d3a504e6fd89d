//! ggml itself, behind the feature `ggml`: the C reference that results and times are compared with.
//!
//! It is ggml as of llama.cpp b2757 (April 2024), compiled for the machine that builds it ([`instructions`]). It has
//! the block formats of that day, so every function here returns `None` for a younger type (BF16, TQ*, MXFP4, NVFP4, Q1_0,
//! Q2_0) and for types that ggml cannot use so (the integers, F64, and Q8_1 and Q8_K, which are for activations only).
//!
//! Nothing in Ostro computes with it.

use std::ffi::c_int;
use std::ptr::null;
use std::sync::Once;

use ggml_sys_bleedingedge as sys;

use crate::buf::Buf;
use crate::{DType, Mat};

/// More would only fill the stack, on which ggml keeps a record of each.
const MAX_THREADS: usize = 256;

/// The instructions that the C code was compiled for and uses, of those that matter to it: what its times are worth.
pub fn instructions() -> Vec<&'static str> {
    // SAFETY: these return constants.
    let has = unsafe {
        [
            ("avx2", sys::ggml_cpu_has_avx2()),
            ("fma", sys::ggml_cpu_has_fma()),
            ("f16c", sys::ggml_cpu_has_f16c()),
            ("avx512f", sys::ggml_cpu_has_avx512()),
            ("avx512vnni", sys::ggml_cpu_has_avx512_vnni()),
            ("neon", sys::ggml_cpu_has_neon()),
            ("i8mm", sys::ggml_cpu_has_matmul_int8()),
        ]
    };
    has.into_iter().filter(|(_, has)| *has != 0).map(|(name, _)| name).collect()
}

/// Encodes rows of `k` floats, without an importance matrix (where ggml demands one, with one of all ones).
///
/// # Panics
/// When `x` is not whole rows of whole blocks, or holds what is not a number or above 1e15: ggml looks up tables by
/// what it computes of them.
pub fn quantize(dtype: DType, x: &[f32], k: usize) -> Option<Vec<u8>> {
    if matches!(dtype, DType::Q8_1 | DType::Q8_K) {
        return None;
    }
    traits(dtype)?.vec_dot?; // the integers and F64 have none
    assert!(k > 0 && x.len().is_multiple_of(k), "{} floats in rows of {k}", x.len());
    assert!(x.iter().all(|x| x.abs() < 1e15), "floats to encode");
    let rows = x.len() / k;
    let mut bytes = Buf::<u8>::new();
    bytes.resize(dtype.row_bytes(k).expect("whole blocks") * rows);
    let ones = vec![1.0; k];
    // SAFETY: an id that ggml encodes.
    let importance = if unsafe { sys::ggml_quantize_requires_imatrix(dtype.id()) } { ones.as_ptr() } else { null() };
    // SAFETY: `rows` rows of `k` floats and of as many whole blocks, whose size `traits` has compared; a buffer on cache
    // lines is aligned for any block; the importance of `k` columns.
    unsafe {
        let to = bytes.as_mut_ptr().cast();
        sys::ggml_quantize_chunk(dtype.id(), x.as_ptr(), to, 0, rows as i64, k as i64, importance);
    }
    Some(bytes.to_vec())
}

/// Decodes whole blocks.
///
/// # Panics
/// When `bytes` is not exactly the blocks of `out`.
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Option<()> {
    let of_type = traits(dtype)?;
    assert_eq!(dtype.row_bytes(out.len()), Some(bytes.len()), "bytes of {} elements of {dtype}", out.len());
    if dtype == DType::F32 {
        let (floats, _) = bytes.as_chunks();
        out.iter_mut().zip(floats).for_each(|(out, bytes)| *out = f32::from_le_bytes(*bytes));
        return Some(());
    }
    let (decode, bytes) = (of_type.to_float?, aligned(bytes));
    // SAFETY: `out` has the elements of the bytes' blocks, whose size `traits` has compared.
    unsafe { decode(bytes.as_ptr().cast(), out.as_mut_ptr(), out.len() as i64) };
    Some(())
}

/// The activations as ggml rounds them for a product with weights of `dtype`: of another type, and its blocks.
///
/// # Panics
/// When `x` is not whole blocks of `dtype`.
pub fn activations(dtype: DType, x: &[f32]) -> Option<(DType, Vec<u8>)> {
    let (companion, bytes) = companion(dtype, x)?;
    Some((companion, bytes.to_vec()))
}

/// The product of a row of weights and the activations, which are rounded first ([`activations`]). `None` also for an odd
/// number of blocks of 32: some of ggml's loops take two at once, without asking.
///
/// # Panics
/// When `row` is not as many whole blocks as `x` has elements.
pub fn dot(dtype: DType, row: &[u8], x: &[f32]) -> Option<f32> {
    let product = traits(dtype)?.vec_dot?;
    assert_eq!(dtype.row_bytes(x.len()), Some(row.len()), "bytes of {} elements of {dtype}", x.len());
    if !pairs(dtype, x.len()) {
        return None;
    }
    let (row, (_, x_bytes)) = (aligned(row), companion(dtype, x)?);
    let mut out = f32::NAN;
    let k = c_int::try_from(x.len()).ok()?;
    // SAFETY: both are `k` elements in the types that this product is for, in whole blocks, an even number of them;
    // with one row and one column the strides are not used.
    unsafe { product(k, &mut out, 0, row.as_ptr().cast(), 0, x_bytes.as_ptr().cast(), 0, 1) };
    Some(out)
}

/// A product of matrices as a graph of ggml with this one node, ready to run again and again.
///
/// What [`MatMul::compute`] takes is ggml's own time, with two things to know: it rounds the activations each time, as
/// [`Exec::quantize`](crate::Exec::quantize) does here, on one thread; and it starts and joins its threads each time, as
/// ggml did then for each graph, which is tens of microseconds and should be little beside the product.
pub struct MatMul<'w> {
    _context: Context, // owns what the pointers point to
    weights: *mut sys::ggml_tensor,
    activations: *mut sys::ggml_tensor,
    product: *mut sys::ggml_tensor,
    graph: *mut sys::ggml_cgraph,
    plan: sys::ggml_cplan,
    w: Bytes<'w>,
    x: Buf<f32>,   // [n, k]
    out: Buf<f32>, // [n, rows]
    work: Buf<u8>,
}

impl<'w> MatMul<'w> {
    /// The product of `w`, `[rows, k]`, and `x`, `[n, k]`, on so many threads. The weights are used where they lie when
    /// that is on a boundary of 4 bytes, and copied when not; `x` is copied.
    ///
    /// `None` where [`dot`] is, for a matrix of nothing, and with more than 60 of these at one time.
    ///
    /// # Panics
    /// When `x` is not `[n, k]`.
    pub fn new(w: Mat<'w>, x: &[f32], n: usize, threads: usize) -> Option<MatMul<'w>> {
        let (dtype, rows, k) = (w.dtype(), w.rows(), w.cols());
        assert_eq!(Some(x.len()), n.checked_mul(k), "activations of [{n}, {k}]");
        traits(dtype)?.vec_dot?;
        if rows == 0 || n == 0 || k == 0 || c_int::try_from(k.max(rows).max(n)).is_err() || !pairs(dtype, k) {
            return None;
        }
        let context = Context::new()?;
        // SAFETY: the context has room for three tensors and a graph, and allocates no data for them; shapes fit.
        let (weights, activations, product, graph, plan) = unsafe {
            let weights = sys::ggml_new_tensor_2d(context.0, dtype.id(), k as i64, rows as i64);
            let activations = sys::ggml_new_tensor_2d(context.0, DType::F32.id(), k as i64, n as i64);
            let product = sys::ggml_mul_mat(context.0, weights, activations);
            let graph = sys::ggml_new_graph_custom(context.0, Context::NODES, false);
            sys::ggml_build_forward_expand(graph, product);
            let plan = sys::ggml_graph_plan(graph, threads.clamp(1, MAX_THREADS) as c_int);
            (weights, activations, product, graph, plan)
        };
        let (mut own_x, mut out, mut work) = (Buf::new(), Buf::new(), Buf::new());
        own_x.resize(x.len());
        own_x.copy_from_slice(x);
        out.resize(n * rows);
        work.resize(plan.work_size);
        let w = if w.data().as_ptr().addr().is_multiple_of(4) {
            Bytes::Theirs(w.data())
        } else {
            Bytes::Ours(aligned(w.data()))
        };
        Some(MatMul { _context: context, weights, activations, product, graph, plan, w, x: own_x, out, work })
    }

    /// Computes it with ggml's kernels and threads: `[n, rows]`.
    pub fn compute(&mut self) -> &[f32] {
        // SAFETY: tensors and graph live as long as the context, which is ours. Each tensor gets the buffer of its shape
        // and type, `w` is only read, and the plan the work buffer of the size that it asked for; no other reference to
        // these is in use, and ggml is done with them when it returns.
        let status = unsafe {
            (*self.weights).data = self.w.as_ptr().cast_mut().cast();
            (*self.activations).data = self.x.as_mut_ptr().cast();
            (*self.product).data = self.out.as_mut_ptr().cast();
            self.plan.work_data = self.work.as_mut_ptr();
            sys::ggml_graph_compute(self.graph, &mut self.plan)
        };
        assert_eq!(status, sys::ggml_status_GGML_STATUS_SUCCESS, "ggml's status");
        &self.out
    }
}

/// Owns tensors and graphs, but no data of theirs.
struct Context(*mut sys::ggml_context);

impl Context {
    /// Of a graph with one node and two leaves.
    const NODES: usize = 8;

    fn new() -> Option<Context> {
        // SAFETY: returns sizes.
        let size = unsafe { 4 * sys::ggml_tensor_overhead() + sys::ggml_graph_overhead_custom(Context::NODES, false) };
        let params = sys::ggml_init_params { mem_size: size, mem_buffer: std::ptr::null_mut(), no_alloc: true };
        // SAFETY: it takes a lock, so may be called from any thread; without a buffer it allocates one.
        let context = unsafe { sys::ggml_init(params) };
        (!context.is_null()).then_some(Context(context))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by `ggml_init`, and freed here only.
        unsafe { sys::ggml_free(self.0) };
    }
}

/// Weights, borrowed where they are aligned.
enum Bytes<'a> {
    Theirs(&'a [u8]),
    Ours(Buf<u8>),
}

impl Bytes<'_> {
    fn as_ptr(&self) -> *const u8 {
        match self {
            Bytes::Theirs(bytes) => bytes.as_ptr(),
            Bytes::Ours(bytes) => bytes.as_ptr(),
        }
    }
}

/// A copy that C may read blocks from.
fn aligned(bytes: &[u8]) -> Buf<u8> {
    let mut copy = Buf::new();
    copy.resize(bytes.len());
    copy.copy_from_slice(bytes);
    copy
}

/// Whether the blocks of 32 come in pairs.
fn pairs(dtype: DType, k: usize) -> bool {
    dtype.block_elems() != 32 || k.is_multiple_of(64)
}

/// What ggml knows of a type. Makes ggml's global tables first.
fn traits(dtype: DType) -> Option<sys::ggml_type_traits_t> {
    static TABLES: Once = Once::new();
    TABLES.call_once(|| drop(Context::new()));
    if dtype.id() >= sys::ggml_type_GGML_TYPE_COUNT {
        return None;
    }
    // SAFETY: the id is in the table.
    let traits = unsafe { sys::ggml_internal_get_type_traits(dtype.id()) };
    let block = (traits.blck_size as usize, traits.type_size);
    assert!(block == (dtype.block_elems(), dtype.block_bytes()), "ggml's blocks of {dtype}");
    Some(traits)
}

/// The other side of a product with `dtype`, of `x`.
fn companion(dtype: DType, x: &[f32]) -> Option<(DType, Buf<u8>)> {
    let of_type = traits(dtype)?;
    of_type.vec_dot?;
    assert!(x.len().is_multiple_of(dtype.block_elems()), "{} elements in blocks of {dtype}", x.len());
    let companion = DType::from_id(of_type.vec_dot_type)?;
    let mut bytes = Buf::new();
    bytes.resize(companion.row_bytes(x.len())?);
    if companion == DType::F32 {
        bytes.as_chunks_mut().0.iter_mut().zip(x).for_each(|(bytes, x)| *bytes = x.to_le_bytes());
    } else {
        let encode = traits(companion)?.from_float?;
        // SAFETY: as many whole blocks as `x` has, whose size `traits` has compared, aligned for any block.
        unsafe { encode(x.as_ptr(), bytes.as_mut_ptr().cast(), x.len() as i64) };
    }
    Some((companion, bytes))
}
