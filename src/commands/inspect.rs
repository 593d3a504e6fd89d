//! `ostro inspect`: what a GGUF file holds, read from its header alone.
//!
//! The text shortens long values; the JSON has all of them. Shapes are in ggml's order, the length of a row first.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::json;

use super::inspect_model::ModelSummary;
use super::{STDOUT, tell};
use crate::gguf::{Array, Gguf, Metadata, Tensor, Value, shown};

/// Show metadata, tensors and sizes of a GGUF file
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    /// The file, or the first part of a split set
    pub file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints what the header says.
pub fn run(args: &InspectArgs) -> Result<()> {
    let gguf = Gguf::open(&args.file)?;
    gguf.warnings().iter().for_each(|w| tell(format_args!("warning: {w}")));
    let mut out = BufWriter::new(io::stdout().lock());
    if args.json { write_json(&gguf, &mut out) } else { write_text(&gguf, &mut out) }
        .and_then(|()| out.flush())
        .context(STDOUT)
}

/// Writes one part of the text.
type Section = fn(&Gguf, &mut dyn Write) -> io::Result<()>;

/// The parts of the text, with an empty line between.
const SECTIONS: &[Section] = &[files, metadata, tensors, types, model];

/// Writes the text.
pub fn write_text(gguf: &Gguf, out: &mut dyn Write) -> io::Result<()> {
    for (i, section) in SECTIONS.iter().enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        section(gguf, out)?;
    }
    Ok(())
}

fn files(gguf: &Gguf, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "GGUF version {}, alignment {}", gguf.version(), gguf.alignment())?;
    gguf.files().try_for_each(|(path, bytes)| writeln!(out, "{}  {} bytes", path.display(), grouped(bytes)))
}

fn metadata(gguf: &Gguf, out: &mut dyn Write) -> io::Result<()> {
    let rows = gguf.metadata().iter().map(|(key, value)| [shown(key), type_of(value), short(value)]);
    let heading = [format!("KEY ({})", gguf.metadata().len()), "TYPE".into(), "VALUE".into()];
    table(out, heading, rows.collect(), [Left; 3])
}

fn tensors(gguf: &Gguf, out: &mut dyn Write) -> io::Result<()> {
    let row = |t: &Tensor| [shown(&t.name), t.dtype.to_string(), shape(t), grouped(t.bytes)];
    let heading = [format!("TENSOR ({})", gguf.tensors().len()), "TYPE".into(), "SHAPE".into(), "BYTES".into()];
    table(out, heading, gguf.tensors().iter().map(row).collect(), [Left, Left, Left, Right])
}

fn types(gguf: &Gguf, out: &mut dyn Write) -> io::Result<()> {
    let row = |name: &str, s: &Sum| {
        [name.to_owned(), grouped(s.tensors), grouped(s.elements), grouped(s.bytes), format!("{:.2}", s.bits())]
    };
    let by_type = sums(gguf.tensors());
    let mut rows: Vec<_> = by_type.iter().map(|(name, sum)| row(name, sum)).collect();
    rows.push(row("all", &Sum::of(gguf.tensors())));
    let heading = ["TYPE", "TENSORS", "PARAMETERS", "BYTES", "BITS"].map(str::to_owned);
    table(out, heading, rows, [Left, Right, Right, Right, Right])
}

fn model(gguf: &Gguf, out: &mut dyn Write) -> io::Result<()> {
    let summary = match ModelSummary::read(gguf) {
        Ok(summary) => summary,
        Err(e) => return writeln!(out, "This file cannot be run: {e}"),
    };
    let rows = summary.rows().into_iter().map(|(name, n, unit)| [name, grouped(n), unit.to_owned()]);
    table(out, ["MODEL", "", ""].map(str::to_owned), rows.collect(), [Left, Right, Left])
}

/// Writes the JSON: one object, on one line for each of its members.
pub fn write_json(gguf: &Gguf, out: &mut dyn Write) -> io::Result<()> {
    let types = sums(gguf.tensors()).into_iter().map(|(name, s)| (name.to_owned(), s.json())).collect();
    let all = Sum::of(gguf.tensors());
    let model = ModelSummary::read(gguf).map_or_else(|e| json!({"error": e.to_string()}), |m| m.json());
    let files: Vec<_> = gguf.files().map(|(p, n)| json!({"path": p.to_string_lossy(), "bytes": n})).collect();
    let members: &[(&str, &dyn ErasedJson)] = &[
        ("version", &gguf.version()),
        ("alignment", &gguf.alignment()),
        ("files", &files),
        ("parameters", &all.elements),
        ("bytes", &all.bytes),
        ("types", &serde_json::Value::Object(types)),
        ("model", &model),
        ("metadata", &JsonMetadata(gguf.metadata())),
        ("tensors", &JsonTensors(gguf.tensors())),
    ];
    for (i, (name, value)) in members.iter().enumerate() {
        write!(out, "{}\"{name}\": ", if i == 0 { "{\n" } else { ",\n" })?;
        value.write(out)?;
    }
    writeln!(out, "\n}}")
}

/// Anything that can be a member, so that the members can be a list.
trait ErasedJson {
    fn write(&self, out: &mut dyn Write) -> io::Result<()>;
}

impl<T: Serialize> ErasedJson for T {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        Ok(serde_json::to_writer(out, self)?)
    }
}

struct JsonMetadata<'a>(&'a Metadata);

impl Serialize for JsonMetadata<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.0.iter().map(|(key, value)| (key, JsonEntry(value))))
    }
}

struct JsonEntry<'a>(&'a Value);

impl Serialize for JsonEntry<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        map.serialize_entry("type", self.0.type_name())?;
        if let Value::Array(a) = self.0 {
            map.serialize_entry("of", a.type_name())?;
        }
        map.serialize_entry("value", &JsonValue(self.0))?;
        map.end()
    }
}

/// A value; a string that is not UTF-8 is a list of its bytes, a float that is not finite is null.
struct JsonValue<'a>(&'a Value);

impl Serialize for JsonValue<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::F32(v) => v.serialize(s),
            Value::F64(v) => v.serialize(s),
            Value::Bool(v) => v.serialize(s),
            Value::String(v) => v.serialize(s),
            Value::Bytes(v) => v.serialize(s),
            Value::Array(v) => JsonArray(v).serialize(s),
            Value::U64(v) => v.serialize(s),
            other => (other.integer().unwrap_or_default() as i64).serialize(s),
        }
    }
}

struct JsonArray<'a>(&'a Array);

impl Serialize for JsonArray<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Array::U8(v) => v.serialize(s),
            Array::I8(v) => v.serialize(s),
            Array::U16(v) => v.serialize(s),
            Array::I16(v) => v.serialize(s),
            Array::U32(v) => v.serialize(s),
            Array::I32(v) => v.serialize(s),
            Array::U64(v) => v.serialize(s),
            Array::I64(v) => v.serialize(s),
            Array::F32(v) => v.serialize(s),
            Array::F64(v) => v.serialize(s),
            Array::Bool(v) => v.serialize(s),
            Array::String(v) => v.serialize(s),
            Array::Bytes(v) => v.serialize(s),
            Array::Nested(v) => s.collect_seq(v.iter().map(JsonArray)),
        }
    }
}

struct JsonTensors<'a>(&'a [Tensor]);

impl Serialize for JsonTensors<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut list = s.serialize_seq(Some(self.0.len()))?;
        for t in self.0 {
            list.serialize_element(&json!({
                "name": t.name, "type": t.dtype.name(), "shape": t.dims, "bytes": t.bytes, "file": t.file, "offset": t.offset,
            }))?;
        }
        list.end()
    }
}

/// Tensors counted together.
#[derive(Default)]
struct Sum {
    tensors: u64,
    elements: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, t: &Tensor) {
        self.tensors += 1;
        self.elements += t.elements();
        self.bytes += t.bytes;
    }

    fn of(tensors: &[Tensor]) -> Sum {
        let mut sum = Sum::default();
        tensors.iter().for_each(|t| sum.add(t));
        sum
    }

    /// Bits for one parameter.
    fn bits(&self) -> f64 {
        self.bytes as f64 * 8.0 / (self.elements.max(1)) as f64
    }

    fn json(&self) -> serde_json::Value {
        json!({"tensors": self.tensors, "parameters": self.elements, "bytes": self.bytes})
    }
}

/// The sum for each type that occurs, the largest first.
fn sums(tensors: &[Tensor]) -> Vec<(&'static str, Sum)> {
    let mut sums = BTreeMap::<_, Sum>::new();
    tensors.iter().for_each(|t| sums.entry(t.dtype).or_default().add(t));
    let mut sums: Vec<_> = sums.into_iter().map(|(dtype, sum)| (dtype.name(), sum)).collect();
    sums.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.bytes));
    sums
}

/// The type in one word, arrays with their length: `string[32768]`.
fn type_of(value: &Value) -> String {
    match value {
        Value::Array(a) => format!("{}[{}]", a.type_name(), a.len()),
        v => v.type_name().to_owned(),
    }
}

/// The value on one line: a few elements of an array, the start of a long string.
fn short(value: &Value) -> String {
    match value {
        Value::F32(v) => v.to_string(),
        Value::F64(v) => v.to_string(),
        Value::Bool(v) => v.to_string(),
        Value::String(v) => shown(v),
        Value::Bytes(v) => v.escape_ascii().to_string(),
        Value::Array(a) => {
            const ELEMENTS: usize = 6;
            let mut items: Vec<String> = (0..ELEMENTS).map_while(|i| a.value(i)).map(|v| quoted(&v)).collect();
            if a.len() > ELEMENTS {
                items.push("...".into());
            }
            format!("[{}]", items.join(", "))
        }
        v => v.integer().unwrap_or_default().to_string(),
    }
}

fn quoted(value: &Value) -> String {
    match value {
        Value::String(_) | Value::Bytes(_) => format!("\"{}\"", short(value)),
        v => short(v),
    }
}

fn shape(t: &Tensor) -> String {
    t.dims.iter().map(u64::to_string).collect::<Vec<_>>().join(" x ")
}

/// 1234567 as `1,234,567`.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

#[derive(Clone, Copy)]
enum Align {
    Left,
    Right,
}
use Align::{Left, Right};

/// Writes rows in columns, two spaces apart, without spaces at the ends of lines.
fn table<const N: usize>(
    out: &mut dyn Write,
    heading: [String; N],
    rows: Vec<[String; N]>,
    align: [Align; N],
) -> io::Result<()> {
    let rows = || std::iter::once(&heading).chain(&rows);
    let widths: [usize; N] = std::array::from_fn(|c| rows().map(|r| r[c].chars().count()).max().unwrap_or(0));
    for row in rows() {
        let cells: [String; N] = std::array::from_fn(|c| match align[c] {
            Left => format!("{:<w$}", row[c], w = widths[c]),
            Right => format!("{:>w$}", row[c], w = widths[c]),
        });
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}
