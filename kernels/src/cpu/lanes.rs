//! A register of 32-bit lanes, one lane a row of a panel: what unpacking asks of an instruction set.
//!
//! Written once over this, a format's unpacking serves every instruction set (`pack.rs`).

use super::kernels::Rows;

/// The operations. All are `#[inline(always)]`, so that they compile with the instructions of their caller.
///
/// # Safety
/// (Of every function) the machine has the instructions.
#[allow(clippy::missing_safety_doc, reason = "said above, once")]
pub(crate) trait Lanes: 'static {
    /// 32-bit integers.
    type V: Copy;
    /// Floats.
    type F: Copy;
    /// Lanes, which is rows of a panel.
    const N: usize;
    /// Bytes that a weight takes in a panel.
    const WEIGHT_BYTES: usize = 1;
    /// Whether the tiles take the integer scales of sub-blocks as integers, and offsets through them.
    const INTEGER_SCALES: bool = false;

    /// Bytes `at..at + 16` of every row: four bytes of each row in each of the four registers.
    unsafe fn gather16(rows: &RowPtrs, at: usize) -> [Self::V; 4];
    /// Bytes `at..at + 4` of every row.
    unsafe fn gather4(rows: &RowPtrs, at: usize) -> Self::V;
    unsafe fn store(to: *mut u8, v: Self::V);
    /// Stores four weights of each row, which take [`Lanes::WEIGHT_BYTES`] times the room of a register.
    #[inline(always)]
    unsafe fn store_weights(to: *mut u8, v: Self::V) {
        // SAFETY: promised by the caller.
        unsafe { Self::store(to, v) }
    }
    unsafe fn store_floats(to: *mut f32, f: Self::F);
    unsafe fn splat(x: u32) -> Self::V;
    unsafe fn and(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn or(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn xor(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn shr(a: Self::V, by: u32) -> Self::V;
    unsafe fn shl(a: Self::V, by: u32) -> Self::V;
    /// Shift right that copies the sign.
    unsafe fn sar(a: Self::V, by: u32) -> Self::V;
    /// Product of the lanes as integers.
    unsafe fn mul_int(a: Self::V, b: Self::V) -> Self::V;
    /// Difference of the lanes as integers.
    unsafe fn sub_int(a: Self::V, b: Self::V) -> Self::V;
    /// Bytes, each replaced by the entry of the table; they are below 16.
    unsafe fn lookup(table: &[u8; 16], index: Self::V) -> Self::V;
    /// The low halves of the lanes as f16.
    unsafe fn f16(v: Self::V) -> Self::F;
    /// Integers to floats.
    unsafe fn to_float(v: Self::V) -> Self::F;
    /// The low 16 bits of the lanes of `a`, and above them those of `b`.
    #[inline(always)]
    unsafe fn pair(a: Self::V, b: Self::V) -> Self::V {
        // SAFETY: promised by the caller.
        unsafe { Self::or(Self::and(a, Self::splat(0xffff)), Self::shl(b, 16)) }
    }
    /// The integer scales of a sub-block, as the tiles of this set read them: floats, or the same 16 bits twice.
    #[inline(always)]
    unsafe fn scale(v: Self::V) -> Self::F {
        // SAFETY: promised by the caller.
        unsafe { Self::to_float(v) }
    }
    /// The bits as floats.
    unsafe fn as_float(v: Self::V) -> Self::F;
    /// Bytes `q` that stand for `q - offset`, in the form that the dot products of this set take.
    unsafe fn centre(q: Self::V, offset: u8) -> Self::V;
}

/// Where up to `N` rows begin. A panel that is not full repeats its last row: what comes of it is not read.
pub(crate) struct RowPtrs {
    pub base: *const u8,
    pub offsets: [i64; 16],
}

impl RowPtrs {
    pub(crate) fn new(rows: Rows<'_>) -> RowPtrs {
        let last = rows.len() - 1;
        let offsets = std::array::from_fn(|i| (i.min(last) * rows.row_bytes()) as i64);
        RowPtrs { base: rows.data().as_ptr(), offsets }
    }

    /// # Safety
    /// `at` lies in the rows.
    #[inline(always)]
    pub(crate) unsafe fn at(&self, row: usize, at: usize) -> *const u8 {
        // SAFETY: promised by the caller.
        unsafe { self.base.add(self.offsets[row] as usize + at) }
    }
}
