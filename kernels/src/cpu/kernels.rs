//! What an instruction set brings: the seam between the loops over panels and threads (`exec/task.rs`) and the
//! arithmetic.
//!
//! Two regimes, two shapes of kernel. Few columns: [`Gemv`] streams native blocks. Many columns: [`Gemm`] unpacks a
//! panel of rows once and multiplies it with every column. A type without a kernel here is decoded to f32.
//!
//! The function pointers are unsafe because they use instructions that only a [`Cpu`](crate::Cpu) proves present.

use crate::DType;
use crate::acts::{Acts, Col32, Col32Mut, Col256, Col256Mut};
use crate::buf::Buf;
use crate::probe::Int8Peak;

/// The kernels of one instruction set.
pub(crate) struct Kernels {
    pub quantize32: unsafe fn(&[f32], Col32Mut<'_>),
    pub quantize256: unsafe fn(&[f32], Col256Mut<'_>),
    /// Decodes a row, as [`crate::quantize::decode_row`].
    pub decode: unsafe fn(DType, &[u8], &mut [f32]),
    /// Dot product of floats: of a decoded row and an activation.
    pub dot: unsafe fn(&[f32], &[f32]) -> f32,
    pub gemv: fn(DType) -> Option<Gemv>,
    pub gemm: fn(DType) -> Option<Gemm>,
    /// What the products of this set can reach at most.
    pub int8_peak: Int8Peak,
}

/// Rows of a panel at most, on any instruction set.
pub(crate) const PANEL_ROWS: usize = 32;

/// Rows of a task at most: panels that are multiplied with the same activations while these are in L2. The stride of the
/// sums that a tile adds to.
pub(crate) const TASK_ROWS: usize = 4 * PANEL_ROWS;

/// Consecutive rows of weights, as bytes.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    data: &'a [u8],
    row_bytes: usize,
}

impl<'a> Rows<'a> {
    pub(crate) fn new(data: &'a [u8], row_bytes: usize) -> Rows<'a> {
        debug_assert!(row_bytes > 0 && data.len().is_multiple_of(row_bytes));
        Rows { data, row_bytes }
    }

    pub(crate) fn len(&self) -> usize {
        self.data.len() / self.row_bytes
    }

    pub(crate) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    pub(crate) fn row(&self, i: usize) -> &'a [u8] {
        &self.data[i * self.row_bytes..][..self.row_bytes]
    }

    /// All of them.
    pub(crate) fn data(&self) -> &'a [u8] {
        self.data
    }

    pub(crate) fn slice(&self, from: usize, n: usize) -> Rows<'a> {
        Rows { data: &self.data[from * self.row_bytes..][..n * self.row_bytes], ..*self }
    }
}

/// Dot products of rows with one column: `out[i] = rows[i] . col`. A row's result does not depend on the other rows.
///
/// Beside it, where an instruction set has one, the same for [`FEW`] columns at once, with the same bits; elsewhere
/// one column follows the other.
#[derive(Clone, Copy)]
#[allow(clippy::enum_variant_names, reason = "named after the activations they take")]
pub(crate) enum Gemv {
    F32(unsafe fn(Rows<'_>, &[f32], &mut [f32])),
    Q8x32(unsafe fn(Rows<'_>, Col32<'_>, &mut [f32]), Option<Few32>),
    Q8x256(unsafe fn(Rows<'_>, Col256<'_>, &mut [f32]), Option<Few256>),
}

/// Columns that are multiplied at once: what stands for a weight is unpacked once for all of them.
pub(crate) const FEW: usize = 4;

/// `out[j][i] = rows[i] . col[j]`
pub(crate) type Few32 = unsafe fn(Rows<'_>, &[Col32<'_>; FEW], [&mut [f32]; FEW]);
/// The same.
pub(crate) type Few256 = unsafe fn(Rows<'_>, &[Col256<'_>; FEW], [&mut [f32]; FEW]);

/// Products of a panel of rows with many columns.
#[derive(Clone, Copy)]
pub(crate) struct Gemm {
    /// Rows of a panel at most.
    pub rows: usize,
    /// Weights of each row that are unpacked at a time; a multiple of the block, except at the end of a row.
    pub chunk: usize,
    /// Unpacks weights `k..k + len` of the rows.
    pub pack: unsafe fn(Rows<'_>, Span, &mut Panel),
    /// Adds the products of a packed panel with the columns to `sums`, `[columns, TASK_ROWS]`; sets them where
    /// `k == 0`. May write whatever it likes to rows that the panel has not, up to its own multiple.
    /// A sum does not depend on the other rows and columns.
    pub tile: Tile,
}

/// The function behind [`Gemm::tile`].
pub(crate) type Tile = unsafe fn(&Panel, Span, &Acts, Columns<'_>, &mut [f32]);

/// Weights `k..k + len` of the `rows` rows of a panel.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub rows: usize,
    pub k: usize,
    pub len: usize,
}

/// Which activations are the columns of a product.
#[derive(Clone, Copy)]
pub(crate) enum Columns<'a> {
    /// These, one after the other.
    Range { from: usize, n: usize },
    /// The ones with these numbers.
    Picked(&'a [u32]),
}

impl<'a> Columns<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Columns::Range { n, .. } => *n,
            Columns::Picked(pick) => pick.len(),
        }
    }

    /// The number of the activation that is column `j`.
    #[inline(always)]
    pub(crate) fn at(&self, j: usize) -> usize {
        match self {
            Columns::Range { from, .. } => from + j,
            Columns::Picked(pick) => pick[j] as usize,
        }
    }

    pub(crate) fn slice(&self, at: usize, len: usize) -> Columns<'a> {
        match self {
            Columns::Range { from, n } => {
                assert!(at + len <= *n);
                Columns::Range { from: from + at, n: len }
            }
            Columns::Picked(pick) => Columns::Picked(&pick[at..at + len]),
        }
    }
}

/// A panel of unpacked rows: the buffers, whose layout is a matter between `pack` and `tile` of one instruction set.
pub(crate) struct Panel {
    /// Weights as bytes in dot-product order.
    pub q: Buf<u8>,
    /// Weights as floats.
    pub x: Buf<f32>,
    /// Scale of each sub-block and row; in blocks of 256 an integer, to be multiplied by `d`.
    pub scale: Buf<f32>,
    /// Scale of each block of 256 and row.
    pub d: Buf<f32>,
    /// Float minimum, or scale of the integer minimums.
    pub min: Buf<f32>,
    /// Integer minimums.
    pub mins: Buf<i32>,
}

impl Panel {
    pub(crate) const fn new() -> Panel {
        Panel { q: Buf::new(), x: Buf::new(), scale: Buf::new(), d: Buf::new(), min: Buf::new(), mins: Buf::new() }
    }

    /// Room for so many weights of any type.
    pub(crate) fn reserve(&mut self, weights: usize) {
        self.q.at_least(weights);
        self.x.at_least(weights);
        self.scale.at_least(weights / 16);
        self.min.at_least(weights / 32);
        self.d.at_least(weights / 32);
        self.mins.at_least(weights / 32);
    }
}
