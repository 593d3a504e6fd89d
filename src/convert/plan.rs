//! What will be written: the files of the set, their metadata, and the type of each tensor; all before any work.

use super::mix::{self, Shape, Traits, Wishes};
use super::{Error, FileType, Imatrix, Source, SourceTensor};
use crate::gguf::{Layout, Metadata, NewTensor, Value, split_path};
use crate::model::without_ones;
use ostro_kernels::DType;
use std::path::{Path, PathBuf};

/// What a user asks for.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The type of the file; `None` copies the tensors as they are.
    pub file_type: Option<FileType>,
    /// Exceptions from its mix.
    pub wishes: Wishes,
    /// Keys to be set in the new file.
    pub override_kv: Vec<(String, Value)>,
    /// How the tensors are spread over files.
    pub split: Split,
    /// Tensors that are quantized may be quantized again.
    pub allow_requantize: bool,
    /// The name of the importance matrix's file, for the metadata.
    pub imatrix_file: String,
}

/// How tensors are spread over files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// One file.
    #[default]
    None,
    /// As in the source.
    Keep,
    /// A new file before a tensor would make the tensors of one exceed so many bytes.
    MaxSize(u64),
}

/// A tensor of the new file.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Which of [`Source::tensors`].
    pub source: usize,
    /// Its new type.
    pub dtype: DType,
    /// The type it should have had, when its rows do not divide into blocks of that.
    pub instead_of: Option<DType>,
    /// Bytes it will have.
    pub bytes: u64,
}

/// A file to be written.
#[derive(Clone, Debug)]
pub struct PlannedFile {
    /// Its name.
    pub path: PathBuf,
    /// Its header and the places of its tensors.
    pub layout: Layout,
    /// Its tensors, a range of [`Plan::tensors`].
    pub tensors: std::ops::Range<usize>,
}

/// All that will be written.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The files in their order.
    pub files: Vec<PlannedFile>,
    /// The tensors in their order.
    pub tensors: Vec<Planned>,
}

impl Plan {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.layout.file_bytes()).sum()
    }
}

/// Plans the files that `source` becomes under the name `out`.
///
/// # Errors
/// A tensor of which there is no way to the type it should get, or that would be garbage without an importance matrix;
/// an importance matrix of other shapes; metadata that does not make sense.
pub fn plan(source: &Source, imatrix: Option<&Imatrix>, request: &Request, out: &Path) -> Result<Plan, Error> {
    let traits = traits(&source.metadata)?;
    let mut order: Vec<usize> = (0..source.tensors.len()).collect();
    // A copy, and what llama.cpp's converter would write itself, keeps the order; llama-quantize sorts.
    let converted = source.is_checkpoint && request.file_type.is_none_or(FileType::is_float);
    match request.split {
        Split::Keep => order.sort_by_key(|&i| {
            let piece = source.tensors[i].pieces.first();
            piece.map(|p| (p.file, p.offset))
        }),
        _ if converted => {}
        _ => order.sort_by(|&a, &b| mix::by_layer(&source.tensors[a].name, &source.tensors[b].name)),
    }
    let choices = choices(source, imatrix, request, &traits, &order);
    let mut tensors = Vec::with_capacity(order.len());
    for (&i, choice) in order.iter().zip(&choices) {
        let t = &source.tensors[i];
        let bad = |found: String, expected: &str, next: &str| {
            Error::bad(source.metadata.file(), format!("tensor {}", t.name), found, expected, next)
        };
        if choice.dtype != t.dtype {
            if !ostro_kernels::quantize::can_encode(choice.dtype) {
                return Err(bad(
                    format!("the wish for {}", choice.dtype),
                    "a type that Ostro can write",
                    "`ostro quantize --help` lists them",
                ));
            }
            if t.dtype.block_elems() > 1 && !request.allow_requantize {
                return Err(bad(
                    format!("{}, quantized already", t.dtype),
                    "F32, F16 or BF16",
                    "quantize the original, or accept the loss with --allow-requantize",
                ));
            }
            if !matches!(t.dtype, DType::F32 | DType::F16 | DType::BF16) && t.dtype.block_elems() == 1 {
                return Err(bad(t.dtype.to_string(), "F32, F16 or BF16", "use COPY"));
            }
            if choice.needs_importance && imatrix.is_none_or(|m| m.importance(&t.name).is_none()) {
                return Err(bad(
                    format!("no importance for {}", choice.dtype),
                    "an importance matrix that has this tensor",
                    "make one with `ostro imatrix`, and give it with --imatrix",
                ));
            }
            if let Some(importance) = imatrix.and_then(|m| m.importance(&t.name))
                && t.name != "token_embd.weight"
            {
                let wanted = t.cols() * t.dims.get(2).copied().unwrap_or(1);
                if importance.len() as u64 != wanted {
                    return Err(bad(
                        format!("an importance matrix of {} values", importance.len()),
                        &format!("{wanted}"),
                        "the matrix is of another model, or of a time before experts were merged",
                    ));
                }
            }
        }
        let new = new_tensor(t, choice.dtype, converted);
        let bytes = Layout::new(out, &Metadata::new(out), std::slice::from_ref(&new))?.tensor_bytes(0);
        tensors.push(Planned { source: i, dtype: choice.dtype, instead_of: choice.instead_of, bytes });
    }
    let files = files(source, imatrix, request, &tensors, converted, out)?;
    Ok(Plan { files, tensors })
}

/// A tensor of the new file. llama-quantize leaves out dimensions of 1 at the end; a converter has them as they are.
fn new_tensor(t: &SourceTensor, dtype: DType, converted: bool) -> NewTensor {
    let dims = if converted { &t.dims } else { without_ones(&t.dims) };
    NewTensor { name: t.name.clone(), dtype, dims: dims.to_vec() }
}

/// The types of the tensors in `order`.
fn choices(
    source: &Source,
    imatrix: Option<&Imatrix>,
    request: &Request,
    traits: &Traits,
    order: &[usize],
) -> Vec<mix::Choice> {
    let Some(file_type) = request.file_type else {
        let as_it_is = |&i: &usize| {
            let dtype = source.tensors[i].dtype;
            mix::Choice { dtype, instead_of: None, needs_importance: false }
        };
        return order.iter().map(as_it_is).collect();
    };
    // A checkpoint counts as the file of F32 that a converter would make of it.
    let dtype = |t: &SourceTensor| if source.is_checkpoint { DType::F32 } else { t.dtype };
    let shape = |i: usize| {
        let t = &source.tensors[i];
        Shape { name: &t.name, dims: &t.dims, dtype: dtype(t) }
    };
    // The rules count in this order, whatever the file's is.
    let mut ranked: Vec<usize> = order.to_vec();
    ranked.sort_by(|&a, &b| mix::by_layer(&source.tensors[a].name, &source.tensors[b].name));
    let shapes: Vec<Shape<'_>> = ranked.iter().map(|&i| shape(i)).collect();
    let chosen = mix::choose(file_type, traits, imatrix.is_some(), &request.wishes, &shapes);
    let mut of_source = vec![None; source.tensors.len()];
    ranked.iter().zip(chosen).for_each(|(&i, choice)| of_source[i] = Some(choice));
    order.iter().filter_map(|&i| of_source[i]).collect()
}

fn traits(metadata: &Metadata) -> Result<Traits, Error> {
    let arch = metadata.str("general.architecture")?.unwrap_or_default().to_owned();
    let first = |key: &str| -> Result<usize, Error> {
        let key = format!("{arch}.{key}");
        let value = match metadata.get(&key) {
            Some(Value::Array(_)) => metadata.u32s(&key)?.and_then(|list| list.first().copied()),
            _ => metadata.u32(&key)?,
        };
        Ok(value.unwrap_or(0) as usize)
    };
    let n_heads = first("attention.head_count")?;
    let n_kv_heads = match metadata.get(&format!("{arch}.attention.head_count_kv")) {
        Some(_) => first("attention.head_count_kv")?,
        None => n_heads,
    };
    let (n_layers, n_experts) = (first("block_count")?, first("expert_count")?);
    Ok(Traits { n_layers, n_heads, n_kv_heads, n_experts, arch })
}

/// The metadata of the new file.
fn metadata(source: &Source, imatrix: Option<&Imatrix>, request: &Request, converted: bool) -> Metadata {
    let mut m = source.metadata.clone();
    // llama-quantize's keys go to the end; a converter has them where they are.
    let mut put = |key: &str, value: Value| {
        if !converted {
            m.remove(key);
        }
        m.set(key, value);
    };
    if !converted {
        put("general.quantization_version", Value::U32(2));
    }
    let of_source = source.metadata.get("general.file_type").cloned();
    if let Some(file_type) = request.file_type.map(|t| Value::U32(t.id())).or(of_source) {
        put("general.file_type", file_type);
    }
    for (key, value) in &request.override_kv {
        put(key, value.clone());
    }
    if let Some(imatrix) = imatrix {
        // 127 bytes are all that llama.cpp keeps of either.
        let short = |text: &str| {
            let end = (0..=text.len().min(127)).rev().find(|&i| text.is_char_boundary(i)).unwrap_or(0);
            Value::String(text[..end].to_owned())
        };
        put("quantize.imatrix.file", short(&request.imatrix_file));
        if let Some(dataset) = imatrix.datasets.first() {
            put("quantize.imatrix.dataset", short(dataset));
        }
        put("quantize.imatrix.entries_count", Value::U32(imatrix.len() as u32));
        if imatrix.chunk_count > 0 {
            put("quantize.imatrix.chunks_count", Value::U32(imatrix.chunk_count));
        }
    }
    m
}

/// Spreads the tensors over files.
fn files(
    source: &Source,
    imatrix: Option<&Imatrix>,
    request: &Request,
    tensors: &[Planned],
    converted: bool,
    out: &Path,
) -> Result<Vec<PlannedFile>, Error> {
    let all = metadata(source, imatrix, request, converted);
    let new = |t: &Planned| new_tensor(&source.tensors[t.source], t.dtype, converted);
    let list: Vec<NewTensor> = tensors.iter().map(new).collect();
    let parts = parts(source, request.split, tensors);
    if parts.len() == 1 && request.split == Split::None {
        let layout = Layout::new(out, &all, &list)?;
        return Ok(vec![PlannedFile { path: out.to_path_buf(), layout, tensors: 0..tensors.len() }]);
    }
    let n = u16::try_from(parts.len()).map_err(|_| {
        Error::bad(out, "--split-max-size", format!("{} parts", parts.len()), "at most 65535", "give a larger size")
    })?;
    // `name.gguf` is `name-00001-of-0000n.gguf`.
    let stem = if out.extension().is_some_and(|e| e == "gguf") { out.with_extension("") } else { out.to_path_buf() };
    let mut files = Vec::with_capacity(parts.len());
    for (i, range) in parts.into_iter().enumerate() {
        let path = split_path(&stem, i as u32, n.into());
        let mut metadata = if i == 0 { all.clone() } else { Metadata::new(&path) };
        // As llama-quantize: a set of one that was no set before does not say it is one.
        if n > 1 || request.split != Split::Keep {
            metadata.set("split.no", Value::U16(i as u16));
            metadata.set("split.count", Value::U16(n));
            metadata.set("split.tensors.count", Value::I32(tensors.len() as i32));
        }
        let layout = Layout::new(&path, &metadata, &list[range.clone()])?;
        files.push(PlannedFile { path, layout, tensors: range });
    }
    Ok(files)
}

/// Which tensors each file has.
fn parts(source: &Source, split: Split, tensors: &[Planned]) -> Vec<std::ops::Range<usize>> {
    const PADDING: u64 = crate::gguf::DEFAULT_ALIGNMENT;
    let file = |t: &Planned| source.tensors[t.source].pieces.first().map_or(0, |piece| piece.file);
    let mut starts = vec![0];
    let mut bytes = 0;
    for (i, t) in tensors.iter().enumerate() {
        let more = t.bytes.next_multiple_of(PADDING);
        let another = match split {
            Split::None => false,
            Split::Keep => i > 0 && file(t) != file(&tensors[i - 1]),
            Split::MaxSize(most) => bytes + more > most && bytes > 0,
        };
        if another {
            starts.push(i);
            bytes = 0;
        }
        bytes += more;
    }
    let ends = starts.iter().skip(1).copied().chain([tensors.len()]);
    starts.iter().copied().zip(ends).map(|(start, end)| start..end).collect()
}
