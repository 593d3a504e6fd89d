//! What is measured: a model with the name that llama-bench would give it.

use crate::engine::Model;
use crate::gguf::{Gguf, shown};

/// A model under test.
pub(super) struct Subject<'f> {
    /// Its file.
    pub file: String,
    /// Architecture, size and file type: `llama 7.2B Q4_K - Medium`.
    pub kind: String,
    /// Itself.
    pub model: Model<'f>,
    /// Bytes of all weights.
    pub bytes: u64,
    /// How many weights there are.
    pub parameters: u64,
}

impl<'f> Subject<'f> {
    /// Names a model.
    pub fn new(gguf: &'f Gguf, model: Model<'f>) -> Subject<'f> {
        let (bytes, parameters) = (model.account.total(), model.manifest.parameters());
        // These keys are for people, and a file without them or with nonsense in them runs as well.
        let label = gguf.metadata().str("general.size_label").ok().flatten();
        let size = label.map_or_else(|| short(parameters), shown);
        let file_type = gguf.metadata().u32("general.file_type").ok().flatten();
        let file_type = file_type.and_then(file_type_name).unwrap_or_else(|| largest(gguf));
        let kind = format!("{} {size} {file_type}", shown(&model.spec.arch));
        Subject { file: gguf.path().display().to_string(), kind, model, bytes, parameters }
    }
}

/// 7248023552 as `7.2B`.
fn short(parameters: u64) -> String {
    match parameters as f64 {
        n if n >= 10e9 => format!("{:.0}B", n / 1e9),
        n if n >= 1e9 => format!("{:.1}B", n / 1e9),
        n if n >= 1e6 => format!("{:.0}M", n / 1e6),
        n => format!("{:.2}M", n / 1e6),
    }
}

/// The type that takes the most bytes.
fn largest(gguf: &Gguf) -> &'static str {
    let mut sums = std::collections::BTreeMap::<_, u64>::new();
    gguf.tensors().iter().for_each(|t| *sums.entry(t.dtype).or_default() += t.bytes);
    sums.into_iter().max_by_key(|&(_, bytes)| bytes).map_or("", |(dtype, _)| dtype.name())
}

/// llama.cpp's names of `general.file_type`.
fn file_type_name(id: u32) -> Option<&'static str> {
    Some(match id {
        0 => "all F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K - Medium",
        11 => "Q3_K - Small",
        12 => "Q3_K - Medium",
        13 => "Q3_K - Large",
        14 => "Q4_K - Small",
        15 => "Q4_K - Medium",
        16 => "Q5_K - Small",
        17 => "Q5_K - Medium",
        18 => "Q6_K",
        19 => "IQ2_XXS - 2.0625 bpw",
        20 => "IQ2_XS - 2.3125 bpw",
        21 => "Q2_K - Small",
        22 => "IQ3_XS - 3.3 bpw",
        23 => "IQ3_XXS - 3.0625 bpw",
        24 => "IQ1_S - 1.5625 bpw",
        25 => "IQ4_NL - 4.5 bpw",
        26 => "IQ3_S - 3.4375 bpw",
        27 => "IQ3_S mix - 3.66 bpw",
        28 => "IQ2_S - 2.5 bpw",
        29 => "IQ2_M - 2.7 bpw",
        30 => "IQ4_XS - 4.25 bpw",
        31 => "IQ1_M - 1.75 bpw",
        32 => "BF16",
        36 => "TQ1_0 - 1.69 bpw ternary",
        37 => "TQ2_0 - 2.06 bpw ternary",
        38 => "MXFP4 MoE",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_short() {
        let rows = [(140_630_071_296, "141B"), (7_248_023_552, "7.2B"), (134_515_008, "135M"), (92_000, "0.09M")];
        for (n, want) in rows {
            assert_eq!(super::short(n), want);
        }
    }
}
