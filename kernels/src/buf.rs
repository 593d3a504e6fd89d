//! A growing buffer of plain numbers on cache-line boundaries: SIMD loads of it do not straddle lines.

use std::marker::PhantomData;

/// Numbers for which every bit pattern, zero included, is a value.
pub(crate) trait Plain: Copy + 'static {}
impl Plain for u8 {}
impl Plain for i8 {}
impl Plain for i16 {}
impl Plain for i32 {}
impl Plain for f32 {}

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A buffer that is reused: it grows to the largest size asked for and then allocates no more.
pub(crate) struct Buf<T> {
    lines: Vec<Line>,
    len: usize,
    of: PhantomData<T>,
}

impl<T: Plain> Buf<T> {
    pub(crate) const fn new() -> Buf<T> {
        Buf { lines: Vec::new(), len: 0, of: PhantomData }
    }

    /// Makes it `len` long; what it holds is unspecified numbers.
    pub(crate) fn resize(&mut self, len: usize) {
        let lines = len.checked_mul(size_of::<T>()).expect("the size of a buffer overflows").div_ceil(64);
        if lines > self.lines.len() {
            self.lines.resize(lines, Line([0; 64]));
        }
        self.len = len;
    }

    pub(crate) fn at_least(&mut self, len: usize) -> &mut [T] {
        if len > self.len {
            self.resize(len);
        }
        &mut self[..len]
    }
}

impl<T: Plain> std::ops::Deref for Buf<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the lines hold at least `len` numbers of type T, initialized, and any bit pattern is one.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> std::ops::DerefMut for Buf<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}
