//! A weight matrix as it lies in the file.

use crate::DType;

/// A row-major matrix of `rows` x `cols` weights of one type, borrowed from the file map: no alignment, no padding.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    dtype: DType,
    rows: usize,
    cols: usize,
    data: &'a [u8],
}

impl<'a> Mat<'a> {
    /// A view of `data`; `None` when its length is not that of `rows` rows of `cols` elements.
    pub fn new(dtype: DType, rows: usize, cols: usize, data: &'a [u8]) -> Option<Mat<'a>> {
        let bytes = dtype.row_bytes(cols)?.checked_mul(rows)?;
        (bytes == data.len()).then_some(Mat { dtype, rows, cols, data })
    }

    /// The type of the weights.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Rows, which is outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns, which is inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All bytes.
    pub fn data(&self) -> &'a [u8] {
        self.data
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.data.len().checked_div(self.rows).unwrap_or(0)
    }

    /// The bytes of row `i`.
    pub fn row(&self, i: usize) -> &'a [u8] {
        &self.data[i * self.row_bytes()..(i + 1) * self.row_bytes()]
    }

    /// The rows `first..first + rows`, without a copy.
    pub fn part(&self, first: usize, rows: usize) -> Mat<'a> {
        let bytes = self.row_bytes();
        Mat { rows, data: &self.data[first * bytes..(first + rows) * bytes], ..*self }
    }

    /// Slice `i` of `n` stacked matrices of the same shape (experts lie so), without a copy.
    pub fn stacked(&self, i: usize, n: usize) -> Mat<'a> {
        let rows = self.rows / n;
        self.part(i * rows, rows)
    }
}
