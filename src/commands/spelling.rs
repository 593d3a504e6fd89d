//! llama.cpp's spellings that are not GNU style: `-ub 64`, `-ctk q8_0`, `--n_predict 5`.

use std::ffi::OsString;

/// Flags of one dash and several letters, and what they are called here. Longer spellings are aliases in clap.
const LONG_SHORTS: &[(&str, &str)] = &[
    ("-ub", "--ubatch-size"),
    ("-ctk", "--cache-type-k"),
    ("-ctv", "--cache-type-v"),
    ("-ofreq", "--output-frequency"),
    ("-pg", "--prompt-gen"),
    ("-sys", "--system-prompt"),
    ("-sysf", "--system-prompt-file"),
    ("-st", "--single-turn"),
    ("-co", "--color"),
    ("-md", "--model-draft"),
    ("-jf", "--json-schema-file"),
    ("-fitt", "--fit-target"),
    ("-ot", "--override-tensor"),
    ("-nkvo", "--no-kv-offload"),
    ("-ngl", "--gpu-layers"),
    ("-ncmoe", "--n-cpu-moe"),
    ("-cmoe", "--cpu-moe"),
];

/// Flags of llama.cpp that are not here, whose first letter is a flag of ours: `-fa` is no file `a`. They become
/// their long form, which clap refuses by its name.
const NOT_HERE: &[(&str, &str)] = &[
    ("-bf", "--binary-file"),
    ("-cnv", "--conversation"),
    ("-dev", "--device"),
    ("-dio", "--direct-io"),
    ("-fa", "--flash-attn"),
    ("-fit", "--fit"),
    ("-hf", "--hf-repo"),
    ("-hff", "--hf-file"),
    ("-hfr", "--hf-repo"),
    ("-hft", "--hf-token"),
    ("-mg", "--main-gpu"),
    ("-mli", "--multiline-input"),
    ("-mmp", "--mmap"),
    ("-mu", "--model-url"),
    ("-no-cnv", "--no-conversation"),
    ("-nopo", "--no-op-offload"),
    ("-np", "--parallel"),
    ("-nr", "--no-repack"),
    ("-oe", "--output-err"),
    ("-sm", "--split-mode"),
    ("-sp", "--special"),
    ("-tb", "--threads-batch"),
    ("-ts", "--tensor-split"),
];

/// Flags whose value is free text, which may look like a flag.
const TEXT: &[&str] = &[
    "-p",
    "--prompt",
    "-r",
    "--reverse-prompt",
    "-sys",
    "--system-prompt",
    "--chat-template",
    "--dry-sequence-breaker",
];

/// The command line with those flags in their long form, and with `-` for `_` in long flags.
pub(super) fn today(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut is_text = false;
    args.map(|arg| {
        if std::mem::take(&mut is_text) {
            return arg;
        }
        is_text = TEXT.iter().any(|t| arg == *t);
        match arg.to_str().and_then(long) {
            Some(long) => long.into(),
            None => arg,
        }
    })
    .collect()
}

/// The long form of a flag with or without `=value`, in dashes; `None` for what is no flag.
fn long(arg: &str) -> Option<String> {
    let (flag, value) = arg.split_at(arg.find('=').unwrap_or(arg.len()));
    let flag = match LONG_SHORTS.iter().chain(NOT_HERE).find(|(short, _)| *short == flag) {
        Some((_, long)) => (*long).to_owned(),
        None if flag.starts_with("--") => flag.replace('_', "-"),
        None => return None,
    };
    Some(flag + value)
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_flags_are_rewritten() {
        let rows = [
            ("ostro run -ub 64 -ctk q8_0", "ostro run --ubatch-size 64 --cache-type-k q8_0"),
            ("ostro run -ub=64", "ostro run --ubatch-size=64"),
            ("ostro run -p -ub -ctv f16", "ostro run -p -ub --cache-type-v f16"),
            ("ostro run -u -t 2", "ostro run -u -t 2"),
            ("ostro run --n_predict 5 --top_k=3 a_b", "ostro run --n-predict 5 --top-k=3 a_b"),
            ("ostro run --prompt --a_b --temp=a_b", "ostro run --prompt --a_b --temp=a_b"),
            ("ostro bench -pg 8,4 -p 0 -mmp 0 -oe md", "ostro bench --prompt-gen 8,4 -p 0 --mmap 0 --output-err md"),
            ("ostro run -fa on -ngl 99", "ostro run --flash-attn on --gpu-layers 99"),
            ("ostro run -fa_b -n5", "ostro run -fa_b -n5"),
        ];
        for (given, want) in rows {
            let found = super::today(given.split(' ').map(Into::into));
            assert_eq!(found, want.split(' ').collect::<Vec<_>>(), "{given}");
        }
    }
}
