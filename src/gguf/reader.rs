//! A position in the bytes of a header. Nothing is read past the end, and each error says what was being read.

use super::Fault;

/// Headers of real files are below 50 MB. The limit keeps a made-up file of many gigabytes from filling the memory.
const MAX_HEADER_BYTES: u64 = 1 << 30;

/// Reads little-endian values one after another.
pub(super) struct Reader<'a> {
    file: &'a [u8],
    pos: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a [u8]) -> Reader<'a> {
        Reader { file, pos: 0 }
    }

    /// The position, from the start of the file.
    pub(super) fn at(&self) -> u64 {
        self.pos as u64
    }

    fn left(&self) -> u64 {
        (self.file.len() - self.pos) as u64
    }

    /// The next `n` bytes.
    pub(super) fn take(&mut self, n: u64, thing: impl Fn() -> String) -> Result<&'a [u8], Fault> {
        if n > self.left() {
            return Err(Fault::Short { thing: thing(), at: self.at(), needs: n, has: self.file.len() as u64 });
        }
        if n > MAX_HEADER_BYTES.saturating_sub(self.at()) {
            let found = format!("{n} bytes");
            let expected = format!("a header of less than {MAX_HEADER_BYTES} bytes");
            return Err(Fault::Bad { thing: thing(), at: self.at(), found, expected });
        }
        let bytes = &self.file[self.pos..self.pos + n as usize];
        self.pos += n as usize;
        Ok(bytes)
    }

    /// The next `N` bytes.
    pub(super) fn fixed<const N: usize>(&mut self, thing: impl Fn() -> String) -> Result<[u8; N], Fault> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, thing)?);
        Ok(out)
    }

    pub(super) fn u8(&mut self, thing: impl Fn() -> String) -> Result<u8, Fault> {
        Ok(u8::from_le_bytes(self.fixed(thing)?))
    }

    pub(super) fn u32(&mut self, thing: impl Fn() -> String) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.fixed(thing)?))
    }

    pub(super) fn u64(&mut self, thing: impl Fn() -> String) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.fixed(thing)?))
    }

    /// A count of things of at least `min_bytes` each, which must fit into what is left after `between` more bytes.
    /// So the vector for them can be allocated at once.
    pub(super) fn count(&mut self, min_bytes: u64, between: u64, thing: impl Fn() -> String) -> Result<usize, Fault> {
        let at = self.at();
        let count = self.u64(&thing)?;
        let room = self.left().min(MAX_HEADER_BYTES.saturating_sub(self.at()));
        let max = room.saturating_sub(between) / min_bytes;
        if count > max {
            return Err(Fault::Count { thing: thing(), at, count, max, has: self.file.len() as u64 });
        }
        Ok(count as usize)
    }

    /// A string as its bytes.
    pub(super) fn string(&mut self, thing: impl Fn() -> String) -> Result<&'a [u8], Fault> {
        let n = self.u64(&thing)?;
        self.take(n, thing)
    }

    /// A string that must be UTF-8: a key or a name.
    pub(super) fn text(&mut self, thing: impl Fn() -> String) -> Result<&'a str, Fault> {
        let at = self.at();
        let bytes = self.string(&thing)?;
        std::str::from_utf8(bytes).map_err(|_| Fault::Bad {
            thing: thing(),
            at,
            found: "a name that is not UTF-8".into(),
            expected: "UTF-8".into(),
        })
    }
}
