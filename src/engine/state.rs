//! A session's tokens and cache as bytes, to go on another day.
//!
//! Little-endian numbers:
//!
//! ```text
//! u32 layers, then of each: u32 n_kv_heads, u32 bytes of a key, u32 bytes of a value
//! u8 type of the keys, u8 type of the values (0 f32, 1 f16, 2 q8_0)
//! u32 n, n tokens of u32
//! for each layer and head: n keys; then for each head: n values, as they lie in the cache
//! ```
//!
//! Only the positions that are held are written, so a cache of another length can take them.

use super::ops::Half;
use super::{Engine, Error, SeqId, Session};
use ostro_kernels::KvType;
use std::io::{self, Read, Write};

/// Shape of a layer's cache: heads, bytes of a key, bytes of a value.
type Shape = (usize, usize, usize);

impl Engine<'_> {
    fn shapes(&self) -> impl Iterator<Item = Shape> {
        let types = self.kv;
        self.model.spec.layers.iter().map(move |layer| {
            let cached = layer.mixer.cached();
            let (key, value) = types.rows_of(cached);
            (cached.heads, key, value)
        })
    }
}

impl Session<'_, '_> {
    /// Writes the tokens and their part of the cache.
    ///
    /// # Errors
    /// What `out` cannot take.
    pub fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        let engine = self.engine();
        let types = engine.kv;
        put(out, engine.model.spec.layers.len())?;
        for (heads, key, value) in engine.shapes() {
            [heads, key, value].into_iter().try_for_each(|n| put(out, n))?;
        }
        out.write_all(&[code(types.k), code(types.v)])?;
        let n = self.tokens().len();
        put(out, n)?;
        self.tokens().iter().try_for_each(|t| out.write_all(&t.to_le_bytes()))?;
        for layer in 0..engine.model.spec.layers.len() {
            for half in [Half::Keys, Half::Values] {
                out.write_all(&engine.devices.cache(layer, self.seq(), half, n).map_err(io::Error::other)?)?;
            }
        }
        Ok(())
    }

    /// Takes the place of what the session holds with what [`Session::save`] wrote.
    ///
    /// # Errors
    /// [`Error::StateDiffers`] where it is of another shape or type of cache or longer than the context: the session is
    /// as before. [`Error::State`] where it cannot be read: the session is empty.
    pub fn restore(&mut self, input: &mut dyn Read) -> Result<(), Error> {
        let differs = |what: &str, found: String, expected: String| {
            Err(Error::StateDiffers(format!("the saved cache has {what} {found}, expected {expected}")))
        };
        let engine = self.engine();
        let (n_ctx, n_vocab) = (engine.n_ctx(), engine.model.spec.n_vocab);
        let shapes: Vec<Shape> = engine.shapes().collect();
        let types = engine.kv;
        let layers = take(input)?;
        if layers != shapes.len() {
            return differs("layers", layers.to_string(), shapes.len().to_string());
        }
        let mut saved = Vec::with_capacity(layers);
        for _ in 0..layers {
            saved.push((take(input)?, take(input)?, take(input)?));
        }
        let mut codes = [0; 2];
        input.read_exact(&mut codes)?;
        if codes != [code(types.k), code(types.v)] {
            let name = |code: &u8| KINDS.get(usize::from(*code)).map_or("unknown", |(_, name)| name);
            let (k, v) = (name(&code(types.k)), name(&code(types.v)));
            return differs("types", format!("{} and {}", name(&codes[0]), name(&codes[1])), format!("{k} and {v}"));
        }
        if saved != shapes {
            return differs("another shape of", "heads".to_owned(), "the model's".to_owned());
        }
        let n = take(input)?;
        if n > n_ctx {
            return differs("tokens:", n.to_string(), format!("at most the context's {n_ctx}"));
        }
        self.truncate(0);
        let mut tokens = Vec::with_capacity(n);
        for _ in 0..n {
            let token = take(input)? as u32;
            if token as usize >= n_vocab {
                return Err(Error::Token { token, n_vocab });
            }
            tokens.push(token);
        }
        let seq = self.seq();
        for (layer, (heads, key, value)) in shapes.into_iter().enumerate() {
            for (half, row) in [(Half::Keys, key), (Half::Values, value)] {
                let mut bytes = vec![0; heads * n * row];
                input.read_exact(&mut bytes)?;
                self.engine_mut().devices.set_cache(layer, seq, half, n, &bytes)?;
            }
        }
        self.hold(tokens);
        Ok(())
    }

    /// Says that the cache holds these tokens now.
    fn hold(&mut self, tokens: Vec<u32>) {
        let seq: SeqId = self.seq();
        self.engine_mut().lens[seq.0] = tokens.len();
        self.set_tokens(tokens);
    }
}

const KINDS: [(KvType, &str); 3] = [(KvType::F32, "f32"), (KvType::F16, "f16"), (KvType::Q8_0, "q8_0")];

fn code(kind: KvType) -> u8 {
    KINDS.iter().zip(0..).find(|((k, _), _)| *k == kind).map_or(u8::MAX, |(_, code)| code)
}

fn put(out: &mut dyn Write, n: usize) -> io::Result<()> {
    let n = u32::try_from(n).map_err(io::Error::other)?;
    out.write_all(&n.to_le_bytes())
}

fn take(input: &mut dyn Read) -> io::Result<usize> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes) as usize)
}
