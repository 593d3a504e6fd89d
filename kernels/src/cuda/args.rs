//! What the kernels take: twins of the structs in `kernels/cuda`, one a kernel or a family of them.
//!
//! Addresses are of the card's memory; zero is null.

use cudarc::driver::sys::CUdeviceptr;

/// A struct that a kernel takes.
///
/// # Safety
/// `#[repr(C)]`, the twin of the struct of the same name in the CUDA sources.
pub(super) unsafe trait Args {}

macro_rules! args {
    ($($(#[$doc:meta])* $name:ident, $bytes:literal { $($field:ident: $ty:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy)]
        #[repr(C)]
        pub(super) struct $name { $(pub $field: $ty,)* }
        const _: () = assert!(size_of::<$name>() == $bytes);
        // SAFETY: `#[repr(C)]`; the twin has the same fields in the same order.
        unsafe impl Args for $name {}
    )*};
}

args! {
    /// `matmul.cuh`: products with weights.
    ProductArgs, 96 {
        w: CUdeviceptr, q: CUdeviceptr, d: CUdeviceptr, s: CUdeviceptr, x: CUdeviceptr, out: CUdeviceptr,
        offsets: CUdeviceptr, pick: CUdeviceptr, grid: CUdeviceptr, matrix_bytes: u64,
        rows: i32, k: i32, n: i32, groups: i32,
    }
    /// `layer.cuh`
    NormArgs, 48 {
        x: CUdeviceptr, weight: CUdeviceptr, out: CUdeviceptr,
        dim: i32, eps: f32, centred: i32, stride: i32, period: i32,
    }
    QuantizeArgs, 40 { x: CUdeviceptr, q: CUdeviceptr, d: CUdeviceptr, s: CUdeviceptr, blocks: i32, }
    EachArgs, 32 { x: CUdeviceptr, y: CUdeviceptr, rows: i32, width: i32, scale: f32, cap: f32, }
    GateRowsArgs, 32 { x: CUdeviceptr, h: CUdeviceptr, weight: CUdeviceptr, dim: i32, }
    MoveHeadsArgs, 48 {
        from: CUdeviceptr, to: CUdeviceptr, n: i32, heads: i32, width: i32,
        from_token: i32, from_head: i32, to_token: i32, to_head: i32,
    }
    PickArgs, 32 { from: CUdeviceptr, rows: CUdeviceptr, to: CUdeviceptr, count: i32, width: i32, }
    EmbedArgs, 48 {
        w: CUdeviceptr, tokens: CUdeviceptr, out: CUdeviceptr, grid: CUdeviceptr, n: i32, dim: i32, scale: f32,
    }
    RopeArgs, 48 {
        x: CUdeviceptr, cos: CUdeviceptr, sin: CUdeviceptr,
        n: i32, heads: i32, head_dim: i32, pairs: i32, adjacent: i32,
    }
    StoreArgs, 40 {
        x: CUdeviceptr, cache: CUdeviceptr, kind: i32, n: i32, heads: i32, width: i32, capacity: i32, pos: i32,
    }
    ShiftArgs, 64 {
        cache: CUdeviceptr, cos: CUdeviceptr, sin: CUdeviceptr, kind: i32, width: i32, capacity: i32,
        start: i32, end: i32, held: i32, pairs: i32, adjacent: i32, skip: i32,
    }
    RouteArgs, 96 {
        logits: CUdeviceptr, bias: CUdeviceptr, chosen: CUdeviceptr, weight: CUdeviceptr, offsets: CUdeviceptr, token: CUdeviceptr,
        pair: CUdeviceptr, n: i32, experts: i32, active: i32,
        sigmoid: i32, groups: i32, groups_active: i32, group_best: i32, renormalize: i32, scale: f32,
    }
    CombineArgs, 48 {
        experts: CUdeviceptr, weight: CUdeviceptr, pair: CUdeviceptr, out: CUdeviceptr, n: i32, active: i32, dim: i32,
    }
    TopArgs, 40 {
        values: CUdeviceptr, ids: CUdeviceptr, best: CUdeviceptr, best_ids: CUdeviceptr, n: i32, k: i32,
    }
    /// `attend.cuh`
    AttendArgs, 104 {
        q: CUdeviceptr, k: CUdeviceptr, v: CUdeviceptr, out: CUdeviceptr, parts: CUdeviceptr,
        k_type: i32, v_type: i32, k_row: i32, v_row: i32, n: i32, first_pos: i32, heads: i32, kv_heads: i32, head_dim: i32, v_dim: i32,
        capacity: i32, window: i32, chunk: i32, chunks: i32, scale: f32, cap: f32,
    }
}
