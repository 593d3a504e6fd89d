//! A llama of two layers with random weights and a small SentencePiece vocabulary, written by the test itself.
//!
//! Only rows of the head that belong to letters are filled, so what it says can be read.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};

use ostro::gguf::{Array, Metadata, NewTensor, Value, Writer};
use ostro_kernels::DType;

const DIM: u64 = 64;
const N_HEADS: u32 = 4;
const N_KV_HEADS: u32 = 2;
const HIDDEN: u64 = 96;
const LAYERS: u64 = 2;
pub const CONTEXT: u32 = 4096;
pub const EOS: usize = 2;
/// `<unk>`, `<s>`, `</s>`, 256 bytes, then the texts.
pub const FIRST_TEXT: usize = 259;

/// Texts of the vocabulary; the score falls with the place.
const TEXTS: &[&str] = &["▁t", "he", "▁the", "in", "▁a", "er", "▁s", "st"];

/// A model that can be changed before it is written.
#[derive(Clone)]
pub struct Tiny {
    pub metadata: Metadata,
    /// Name, type, dimensions, bytes.
    pub tensors: Vec<(String, DType, Vec<u64>, Vec<u8>)>,
}

/// How the feed-forward part is made and laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Experts {
    None,
    /// Four, two of them active.
    Merged,
}

impl Tiny {
    pub fn new(experts: Experts) -> Tiny {
        let vocab = vocabulary();
        let mut m = Metadata::default();
        let u = Value::U32;
        m.set("general.architecture", Value::String("llama".into()));
        m.set("llama.context_length", u(CONTEXT));
        m.set("llama.embedding_length", u(DIM as u32));
        m.set("llama.block_count", u(LAYERS as u32));
        m.set("llama.feed_forward_length", u(HIDDEN as u32));
        m.set("llama.attention.head_count", u(N_HEADS));
        m.set("llama.attention.head_count_kv", u(N_KV_HEADS));
        m.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        if experts != Experts::None {
            m.set("llama.expert_count", u(4));
            m.set("llama.expert_used_count", u(2));
        }
        m.set("tokenizer.ggml.model", Value::String("llama".into()));
        let scores = (0..vocab.len()).map(|i| if i < FIRST_TEXT { 0.0 } else { -(i as f32) });
        let kinds = (0..vocab.len()).map(|i| match i {
            0 => 2,
            1 | 2 => 3,
            _ if i < FIRST_TEXT => 6,
            _ => 1,
        });
        m.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores.collect())));
        m.set("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds.collect())));
        let n_vocab = vocab.len() as u64;
        m.set("tokenizer.ggml.tokens", Value::Array(Array::String(vocab)));

        let mut t = Tiny { metadata: m, tensors: Vec::new() };
        let mut random = Random(7);
        // A constant stands at place 0 of the residual stream, so that a row of the head can be raised as a whole.
        let constant = |i: u64| i.is_multiple_of(DIM).then_some(1.0);
        t.push("token_embd.weight", &[DIM, n_vocab], |i| constant(i).unwrap_or_else(|| random.next()));
        let kv = DIM / u64::from(N_HEADS) * u64::from(N_KV_HEADS);
        for layer in 0..LAYERS {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            // Nothing is added to the constant: row 0 of what comes back is zero.
            let mut kept = |i: u64, width: u64| if i / width == 0 { 0.0 } else { random.next() * 0.3 };
            t.push(&name("attn_norm"), &[DIM], |_| 1.0);
            t.push(&name("attn_output"), &[DIM, DIM], |i| kept(i, DIM));
            match experts {
                Experts::None => t.push(&name("ffn_down"), &[HIDDEN, DIM], |i| kept(i, HIDDEN)),
                Experts::Merged => {
                    t.push(&name("ffn_down_exps"), &[HIDDEN, DIM, 4], |i| kept(i % (HIDDEN * DIM), HIDDEN));
                }
            }
            let mut any = |_| random.next() * 0.3;
            t.push(&name("attn_q"), &[DIM, DIM], &mut any);
            t.push(&name("attn_k"), &[DIM, kv], &mut any);
            t.push(&name("attn_v"), &[DIM, kv], &mut any);
            t.push(&name("ffn_norm"), &[DIM], |_| 1.0);
            match experts {
                Experts::None => {
                    t.push(&name("ffn_gate"), &[DIM, HIDDEN], &mut any);
                    t.push(&name("ffn_up"), &[DIM, HIDDEN], &mut any);
                }
                Experts::Merged => {
                    t.push(&name("ffn_gate_inp"), &[DIM, 4], &mut any);
                    t.push(&name("ffn_gate_exps"), &[DIM, HIDDEN, 4], &mut any);
                    t.push(&name("ffn_up_exps"), &[DIM, HIDDEN, 4], &mut any);
                }
            }
        }
        t.push("output_norm.weight", &[DIM], |_| 1.0);
        let text = |i: u64| i / DIM >= FIRST_TEXT as u64;
        t.push("output.weight", &[DIM, n_vocab], |i| if text(i) { random.next() * 2.0 } else { 0.0 });
        t
    }

    /// The same model as files of 2023 have it: a tensor for each expert.
    pub fn legacy(mut self) -> Tiny {
        let mut tensors = Vec::new();
        for (name, dtype, dims, bytes) in self.tensors {
            match name.strip_suffix("_exps.weight") {
                Some(stem) => {
                    let one = bytes.len() / dims[2] as usize;
                    tensors.extend(
                        bytes
                            .chunks(one)
                            .zip(0..)
                            .map(|(part, e)| (format!("{stem}.{e}.weight"), dtype, dims[..2].to_vec(), part.to_vec())),
                    );
                }
                None => tensors.push((name, dtype, dims, bytes)),
            }
        }
        self.tensors = tensors;
        self
    }

    /// The same model, which says `token` at once, whatever it is asked.
    pub fn always(mut self, token: usize) -> Tiny {
        let head = self.tensors.iter_mut().find(|t| t.0 == "output.weight").unwrap();
        head.3[token * DIM as usize * 4..][..4].copy_from_slice(&1000f32.to_le_bytes());
        self
    }

    pub fn set(mut self, key: &str, value: Value) -> Tiny {
        self.metadata.set(key, value);
        self
    }

    pub fn without_key(mut self, key: &str) -> Tiny {
        let mut metadata = Metadata::default();
        for (k, v) in self.metadata.iter().filter(|(k, _)| *k != key) {
            metadata.set(k, v.clone());
        }
        self.metadata = metadata;
        self
    }

    pub fn without_tensor(mut self, name: &str) -> Tiny {
        self.tensors.retain(|t| t.0 != name);
        self
    }

    /// Replaces a tensor, or adds one, filled with zeros.
    pub fn tensor(mut self, name: &str, dtype: DType, dims: &[u64]) -> Tiny {
        let bytes = vec![0; dtype.row_bytes(dims.iter().product::<u64>() as usize).unwrap()];
        let new = (name.to_owned(), dtype, dims.to_vec(), bytes);
        match self.tensors.iter_mut().find(|t| t.0 == name) {
            Some(old) => *old = new,
            None => self.tensors.push(new),
        }
        self
    }

    pub fn push(&mut self, name: &str, dims: &[u64], value: impl FnMut(u64) -> f32) {
        let bytes = (0..dims.iter().product()).map(value).flat_map(f32::to_le_bytes).collect();
        self.tensors.push((name.to_owned(), DType::F32, dims.to_vec(), bytes));
    }

    pub fn write(&self, path: &Path) -> PathBuf {
        let new = |(name, dtype, dims, _): &(String, DType, Vec<u64>, Vec<u8>)| NewTensor {
            name: name.clone(),
            dtype: *dtype,
            dims: dims.clone(),
        };
        let list: Vec<_> = self.tensors.iter().map(new).collect();
        let mut writer = Writer::create(path, &self.metadata, &list).unwrap();
        self.tensors.iter().for_each(|t| writer.append(&t.3).unwrap());
        writer.commit().unwrap();
        path.to_owned()
    }
}

fn vocabulary() -> Vec<String> {
    let mut vocab: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    vocab.extend((0..256).map(|b| format!("<0x{b:02X}>")));
    assert_eq!(vocab.len(), FIRST_TEXT);
    vocab.extend(TEXTS.iter().map(|&t| t.to_owned()));
    vocab.push("▁".into());
    vocab.extend(('a'..='z').map(String::from));
    vocab
}

/// Numbers from -1 to 1, the same on every machine (the constants are Knuth's MMIX).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
