//! `ostro quantize`: a Hugging Face folder or a GGUF file to GGUF of another type, in one pass and in bounded memory.

use super::model_args::{cpu, physical_cores};
use super::progress::Bars;
use super::{catch_interrupts, interrupted, print, tell, tell_notes};
use crate::convert::{
    Event, FileType, Imatrix, Job, Outcome, Plan, Request, Source, Split, Wishes, from_gguf, hf, part, plan,
};
use crate::gguf::Value;
use crate::registry::human_bytes;
use anyhow::{Context, bail};
use clap::Args;
use ostro_kernels::DType;
use regex::{Regex, RegexBuilder};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Flags of `ostro quantize`.
#[derive(Args, Debug)]
#[command(
    override_usage = "ostro quantize [OPTIONS] IN [OUT.gguf] TYPE [THREADS]",
    after_help = "TYPE is F32, F16, BF16, Q8_0, Q6_K, Q5_K_M, Q5_K_S, Q5_1, Q5_0, Q4_K_M, Q4_K_S, Q4_1, Q4_0, IQ4_NL, IQ4_XS, Q3_K_L, \
                  Q3_K_M, Q3_K_S, Q2_K, Q2_K_S, MXFP4 (experts; the rest Q8_0), by name in any case or by llama.cpp's number, \
                  or COPY. Without OUT.gguf it is ggml-model-TYPE.gguf beside IN."
)]
pub struct QuantizeArgs {
    /// A Hugging Face folder, or a GGUF file (the first part of a split set); the new file; the type
    #[arg(required = true, num_args = 2..=4, value_names = ["IN", "OUT.gguf", "TYPE", "THREADS"])]
    what: Vec<String>,

    /// Weigh columns by how much they matter: a file of `ostro imatrix` or llama-imatrix (GGUF or .dat)
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,

    /// Use the matrix for tensors with this in their name only
    #[arg(long, value_name = "NAME", conflicts_with = "exclude_weights", requires = "imatrix")]
    include_weights: Vec<String>,

    /// Do not use the matrix for tensors with this in their name
    #[arg(long, value_name = "NAME", requires = "imatrix")]
    exclude_weights: Vec<String>,

    /// All tensors of one type, no mix
    #[arg(long)]
    pure: bool,

    /// Leave output.weight as it is
    #[arg(long)]
    leave_output_tensor: bool,

    /// The type of output.weight
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    output_tensor_type: Option<DType>,

    /// The type of token_embd.weight
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    token_embedding_type: Option<DType>,

    /// The type of tensors whose names match; may be given again, the first match counts
    #[arg(long, value_name = "REGEX=TYPE", value_parser = tensor_type)]
    tensor_type: Vec<(String, DType)>,

    /// The same, a list in a file
    #[arg(long, value_name = "FILE")]
    tensor_type_file: Option<PathBuf>,

    /// Quantize again what is quantized already
    #[arg(long)]
    allow_requantize: bool,

    /// As many files as IN has, with the same tensors
    #[arg(long)]
    keep_split: bool,

    /// Several files, of at most so many bytes of tensors each: 2G, 500M
    #[arg(long, value_name = "N(M|G)", value_parser = split_size, conflicts_with = "keep_split")]
    split_max_size: Option<u64>,

    /// The name of the model (general.name) instead of the one that a checkpoint has
    #[arg(long, value_name = "NAME")]
    model_name: Option<String>,

    /// Set a key of the new file: int, float, bool or str; may be given again
    #[arg(long, value_name = "KEY=TYPE:VALUE", value_parser = override_kv)]
    override_kv: Vec<(String, Value)>,

    /// Print what would be written, in bytes, and write nothing
    #[arg(long)]
    dry_run: bool,

    /// Go on where an interrupted run of the same command ended
    #[arg(long)]
    resume: bool,

    /// Write weights that are NaN or infinite as they come
    #[arg(long)]
    allow_nonfinite: bool,

    /// Threads; the physical cores when not given
    #[arg(short = 't', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// A line for each tensor
    #[arg(short = 'v', long)]
    verbose: bool,
}

fn dtype(text: &str) -> Result<DType, String> {
    let found = DType::ALL.iter().find(|t| t.name().eq_ignore_ascii_case(text));
    found.copied().ok_or_else(|| "expected a type of tensors, such as q8_0 or q6_k".into())
}

fn tensor_type(text: &str) -> Result<(String, DType), String> {
    match text.split_once('=') {
        Some((name, of)) if !name.is_empty() => Ok((name.to_owned(), dtype(of)?)),
        _ => Err("expected REGEX=TYPE, such as attn_v=q8_0".into()),
    }
}

fn split_size(text: &str) -> Result<u64, String> {
    let unit = match text.chars().last() {
        Some('M' | 'm') => 1_000_000,
        Some('G' | 'g') => 1_000_000_000,
        _ => 0,
    };
    let n: u64 = text.get(..text.len().saturating_sub(1)).and_then(|n| n.parse().ok()).unwrap_or(0);
    n.checked_mul(unit).filter(|&n| n > 0).ok_or_else(|| "expected a number and M or G, such as 2G".into())
}

fn override_kv(text: &str) -> Result<(String, Value), String> {
    let expected = || "expected KEY=int:1, KEY=float:0.5, KEY=bool:true or KEY=str:TEXT".to_owned();
    let (key, value) = text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(expected)?;
    let (of, value) = value.split_once(':').ok_or_else(expected)?;
    let value = match of {
        // Integers become u32, as llama-quantize writes them.
        "int" => Value::U32(value.parse().map_err(|_| expected())?),
        "float" => Value::F32(value.parse().map_err(|_| expected())?),
        "bool" => Value::Bool(value.parse().map_err(|_| expected())?),
        "str" => Value::String(value.to_owned()),
        _ => return Err(expected()),
    };
    Ok((key.to_owned(), value))
}

/// What the words of the command line say.
struct What {
    input: PathBuf,
    output: PathBuf,
    /// `None` copies.
    file_type: Option<FileType>,
    threads: Option<usize>,
}

impl What {
    /// `IN [OUT] TYPE [THREADS]`, as llama-quantize takes them.
    fn parse(words: &[String]) -> anyhow::Result<What> {
        let of = |word: &str| match word.eq_ignore_ascii_case("copy") {
            true => Some(None),
            false => FileType::parse(word).map(Some),
        };
        let input = PathBuf::from(&words[0]);
        let (output, file_type, rest) = match (of(&words[1]), words.get(2)) {
            (Some(file_type), None) => (None, file_type, &words[2..]),
            (Some(file_type), Some(n)) if words.len() == 3 && n.parse::<usize>().is_ok() => {
                (None, file_type, &words[2..])
            }
            (_, Some(word)) => {
                let file_type = of(word).with_context(|| unknown(word))?;
                (Some(PathBuf::from(&words[1])), file_type, &words[3..])
            }
            (None, None) => bail!(unknown(&words[1])),
        };
        let threads = match rest.first().map(|n| (n, n.parse())) {
            None => None,
            Some((_, Ok(n))) if (1..=1024).contains(&n) => Some(n),
            Some((n, _)) => bail!("THREADS: found {n:?}, expected 1 to 1024"),
        };
        let beside = || {
            let folder = if input.is_dir() { input.as_path() } else { input.parent().unwrap_or(Path::new("")) };
            folder.join(format!("ggml-model-{}.gguf", file_type.map_or("COPY", FileType::name)))
        };
        Ok(What { output: output.unwrap_or_else(beside), input, file_type, threads })
    }
}

fn unknown(word: &str) -> String {
    let names: Vec<_> = FileType::all().map(FileType::name).collect();
    format!("TYPE: found {word:?}, expected one of {}, COPY", names.join(", "))
}

/// Writes the new file.
///
/// # Errors
/// What cannot be read, converted or written.
pub fn run(args: &QuantizeArgs) -> anyhow::Result<()> {
    let what = What::parse(&args.what)?;
    let mut source = if what.input.is_dir() { hf::open(&what.input)? } else { from_gguf::open(&what.input)? };
    if let Some(name) = &args.model_name {
        source.metadata.set("general.name", Value::String(name.clone()));
    }
    tell_notes(source.notes.iter());
    let imatrix = importance(args)?;
    let request = Request {
        // A checkpoint is copied as what it is, with the small tensors in F32 as every reader wants them.
        file_type: what.file_type.or_else(|| source.own_type()),
        wishes: wishes(args)?,
        override_kv: args.override_kv.clone(),
        split: match (args.keep_split, args.split_max_size) {
            (true, _) => Split::Keep,
            (false, Some(bytes)) => Split::MaxSize(bytes),
            (false, None) => Split::None,
        },
        allow_requantize: args.allow_requantize,
        imatrix_file: args.imatrix.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
    };
    let plan = plan(&source, imatrix.as_ref(), &request, &what.output)?;
    let fallbacks: Vec<_> = plan.tensors.iter().filter(|t| t.instead_of.is_some()).collect();
    if let Some(first) = fallbacks.first() {
        let (name, wanted) = (&source.tensors[first.source].name, first.instead_of.unwrap_or(first.dtype));
        tell(format_args!(
            "note: rows of {} of {} tensors do not divide into blocks of the mix, and get a type with smaller ones ({name}: {} instead of {wanted})",
            fallbacks.len(),
            plan.tensors.len(),
            first.dtype,
        ));
    }
    if args.dry_run {
        return print(listing(&source, &plan));
    }
    check_places(&source, &plan, args.resume)?;
    let threads = args.threads.map(usize::from).or(what.threads).unwrap_or_else(physical_cores);
    let job = Job {
        source: &source,
        plan: &plan,
        imatrix: imatrix.as_ref(),
        cpu: cpu()?,
        threads,
        resume: args.resume,
        allow_nonfinite: args.allow_nonfinite,
    };
    write(&job, &what, args.verbose)
}

fn importance(args: &QuantizeArgs) -> anyhow::Result<Option<Imatrix>> {
    let Some(path) = &args.imatrix else { return Ok(None) };
    let mut imatrix = Imatrix::open(path)?;
    let (include, exclude) = (&args.include_weights, &args.exclude_weights);
    imatrix.retain(|name| {
        (include.is_empty() || include.iter().any(|part| name.contains(part)))
            && !exclude.iter().any(|part| name.contains(part))
    });
    tell(format_args!(
        "{}: importance of {} tensors, from {} chunks",
        path.display(),
        imatrix.len(),
        imatrix.chunk_count
    ));
    Ok((!imatrix.is_empty()).then_some(imatrix))
}

fn wishes(args: &QuantizeArgs) -> anyhow::Result<Wishes> {
    let mut list = args.tensor_type.clone();
    if let Some(path) = &args.tensor_type_file {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        for word in text.split_whitespace() {
            let one = tensor_type(word).map_err(|e| anyhow::anyhow!("{}: found {word:?}, {e}", path.display()))?;
            list.push(one);
        }
    }
    let regex = |(name, dtype): (String, DType)| -> anyhow::Result<(Regex, DType)> {
        let regex = RegexBuilder::new(&name).case_insensitive(true).build();
        Ok((regex.with_context(|| format!("--tensor-type {name}: expected a regular expression"))?, dtype))
    };
    Ok(Wishes {
        pure: args.pure,
        leave_output: args.leave_output_tensor,
        output: args.output_tensor_type,
        embedding: args.token_embedding_type,
        tensors: list.into_iter().map(regex).collect::<Result<_, _>>()?,
    })
}

/// The source is not overwritten, the folder is there, and so is the space.
fn check_places(source: &Source, plan: &Plan, resume: bool) -> anyhow::Result<()> {
    let there = |path: &Path| std::fs::canonicalize(path).ok();
    let mut here = 0;
    for file in &plan.files {
        let path = &file.path;
        if there(path).is_some_and(|new| source.files.iter().any(|f| there(&f.path).as_ref() == Some(&new))) {
            bail!("{}: found the name of the source, expected a new one; give another OUT", path.display());
        }
        if path.is_dir() {
            bail!("{}: found a folder, expected the name of a file", path.display());
        }
        here += std::fs::metadata(part(path)).map_or(0, |m| m.len());
    }
    let first = &plan.files[0].path;
    let folder = first.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        bail!("{}: found no folder {}, expected one; create it first", first.display(), folder.display());
    }
    if !resume && part(first).exists() {
        tell(format_args!(
            "note: {} of an interrupted run is replaced; --resume would go on with it",
            part(first).display()
        ));
    }
    let need = plan.bytes().saturating_sub(here);
    // A disk that does not tell its space is no reason to refuse.
    match fs4::available_space(folder) {
        Ok(free) if free < need => bail!(
            "{}: found {} free on its disk, expected {}; free some space, or give another OUT",
            first.display(),
            human_bytes(free),
            human_bytes(need)
        ),
        _ => Ok(()),
    }
}

/// Does the job, and shows how it goes.
fn write(job: &Job<'_>, what: &What, verbose: bool) -> anyhow::Result<()> {
    catch_interrupts()?;
    let (source, plan) = (job.source, job.plan);
    let name = what.output.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let label = what.file_type.map_or("COPY", FileType::name);
    let total: u64 = plan.tensors.iter().map(|t| source.tensors[t.source].bytes()).sum();
    let bars = Bars::new(&name);
    let (start, mut resumed) = (Instant::now(), 0);
    let mut begun = false;
    let outcome = job.run(&mut |event| {
        match event {
            Event::Checking { done } => {
                bars.begin("checking what is there".into(), Some(plan.bytes()), 0);
                bars.at(done);
            }
            Event::Resumed { tensors, bytes, again } => {
                resumed = bytes;
                bars.line(&format!(
                    "{tensors} of {} tensors are there{}",
                    plan.tensors.len(),
                    match again {
                        Some(why) => format!(", the next one is made again: {why}"),
                        None => String::new(),
                    }
                ));
            }
            Event::Bytes { done } => {
                if !std::mem::replace(&mut begun, true) {
                    bars.begin(label.to_owned(), Some(total), resumed);
                }
                bars.at(done);
            }
            Event::Tensor(i) if verbose => bars.beside(&line(source, plan, i)),
            Event::Tensor(_) => {}
        }
        !interrupted()
    });
    drop(bars);
    let first = part(&plan.files[0].path);
    match outcome {
        Ok(Outcome::Done) => {}
        Ok(Outcome::Stopped) => {
            bail!("interrupted; {} has what is done, and the same command with --resume goes on", first.display())
        }
        Err(e) if first.exists() => {
            tell(format_args!(
                "note: {} has what is done; when the cause is mended, the same command with --resume goes on",
                first.display()
            ));
            return Err(e.into());
        }
        Err(e) => return Err(e.into()),
    }
    let (elements, seconds) = (elements(source, plan), start.elapsed().as_secs_f64());
    let files = match plan.files.len() {
        1 => String::new(),
        n => format!(" in {n} files"),
    };
    tell(format_args!(
        "{}: {}{files}, {:.2} bits a weight, {seconds:.1} s, {:.2} GB/s of {} read",
        plan.files[0].path.display(),
        human_bytes(plan.bytes()),
        plan.tensors.iter().map(|t| t.bytes).sum::<u64>() as f64 * 8.0 / elements.max(1) as f64,
        (total - resumed) as f64 / 1e9 / seconds,
        human_bytes(total - resumed),
    ));
    Ok(())
}

fn elements(source: &Source, plan: &Plan) -> u64 {
    plan.tensors.iter().map(|t| source.tensors[t.source].elements()).sum()
}

/// What becomes of a tensor.
fn line(source: &Source, plan: &Plan, i: usize) -> String {
    let planned = &plan.tensors[i];
    let of = &source.tensors[planned.source];
    let dims: Vec<String> = of.dims.iter().map(u64::to_string).collect();
    let mut line =
        format!("[{:>4}/{}] {:<36} {:>20} {:>6}", i + 1, plan.tensors.len(), of.name, dims.join(" x "), of.dtype);
    match planned.dtype == of.dtype {
        true => _ = write!(line, " {:>9} {:>15} bytes", "", planned.bytes),
        false => _ = write!(line, " -> {:<6} {:>15} bytes", planned.dtype.name(), planned.bytes),
    }
    if let Some(wanted) = planned.instead_of {
        _ = write!(line, ", instead of {wanted}");
    }
    line
}

/// All tensors and files with their bytes, for --dry-run.
fn listing(source: &Source, plan: &Plan) -> String {
    let mut text = String::new();
    for i in 0..plan.tensors.len() {
        _ = writeln!(text, "{}", line(source, plan, i));
    }
    for file in &plan.files {
        _ = writeln!(
            text,
            "{}: {} bytes, {} tensors",
            file.path.display(),
            file.layout.file_bytes(),
            file.tensors.len()
        );
    }
    let tensors: u64 = plan.tensors.iter().map(|t| t.bytes).sum();
    _ = writeln!(
        text,
        "in all {} bytes, of tensors {tensors} bytes, {:.2} bits a weight",
        plan.bytes(),
        tensors as f64 * 8.0 / elements(source, plan).max(1) as f64
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_taken_as_llama_quantize_takes_them() {
        let rows = [
            ("a/m.gguf q4_k_m", Some(("a/ggml-model-Q4_K_M.gguf", Some(FileType::Q4_K_M), None))),
            ("a/m.gguf 15 3", Some(("a/ggml-model-Q4_K_M.gguf", Some(FileType::Q4_K_M), Some(3)))),
            ("m.gguf copy", Some(("ggml-model-COPY.gguf", None, None))),
            ("m.gguf o.gguf Q8_0", Some(("o.gguf", Some(FileType::Q8_0), None))),
            ("m.gguf o.gguf COPY 2", Some(("o.gguf", None, Some(2)))),
            ("m.gguf f16 q8_0", Some(("f16", Some(FileType::Q8_0), None))),
            ("m.gguf o.gguf", None),
            ("m.gguf o.gguf Q9", None),
            ("m.gguf o.gguf Q8_0 many", None),
        ];
        for (words, want) in rows {
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            let found = What::parse(&words).ok();
            let found = found.as_ref().map(|w| (w.output.to_str().unwrap(), w.file_type, w.threads));
            assert_eq!(found, want, "{words:?}");
        }
    }

    #[test]
    fn values_of_flags() {
        assert_eq!(split_size("2G"), Ok(2_000_000_000));
        assert_eq!(split_size("500m"), Ok(500_000_000));
        for bad in ["", "G", "2", "0M", "2K", "-1G", "99999999999999999999G"] {
            assert!(split_size(bad).is_err(), "{bad}");
        }
        assert_eq!(override_kv("a.b=int:7"), Ok(("a.b".into(), Value::U32(7))));
        assert_eq!(override_kv("a=str:x:y=z"), Ok(("a".into(), Value::String("x:y=z".into()))));
        for bad in ["a", "a=7", "=int:7", "a=int:x", "a=bool:yes", "a=u8:1"] {
            assert!(override_kv(bad).is_err(), "{bad}");
        }
        assert_eq!(tensor_type("blk\\.1=Q6_k"), Ok(("blk\\.1".into(), DType::Q6_K)));
        assert!(tensor_type("a=b").is_err() && tensor_type("=q8_0").is_err() && tensor_type("a").is_err());
    }
}
