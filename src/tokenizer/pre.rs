//! The pre-tokenizers that `tokenizer.ggml.pre` names: how text is cut into words before byte pairs are merged.
//!
//! The expressions are those of the models' own tokenizer.json (Hugging Face), the names those that llama.cpp's
//! converter writes (`convert_hf_to_gguf.py`, `llama-vocab.cpp`). Each expression cuts every stretch that the ones
//! before it left; what it does not match stays a stretch of its own.
//!
//! Nearly all end in `\s+(?!\S)|\s+`: a run of spaces leaves its last one to the word after it. That lookahead is the
//! only thing in them that is not regular, so [`Cut`] does it by hand and the rest runs in linear time, without
//! a limit on the length of a run. Left out are those that need other lookaheads or code of their own (afmoe, jais-2,
//! superbpe, tiny_aya) and those of embedding models.

use regex::Regex;

/// What a name stands for.
pub(super) struct Pre {
    /// The names in files.
    names: &'static [&'static str],
    /// Expressions, in the order in which they cut.
    cuts: &'static [&'static str],
    /// A word that is a piece becomes it, whatever the merges would make of it.
    pub(super) ignore_merges: bool,
    /// Whether prompts begin with BOS when the file does not say.
    pub(super) add_bos: bool,
    /// How text is written in the pieces.
    pub(super) alphabet: Alphabet,
}

/// How text is written in the pieces of a vocabulary.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Alphabet {
    /// GPT-2's: each byte as a printable character, `Ġ` for a space.
    Bytes,
    /// As it is, with `▁` for a space, and bytes as `<0x0A>` where there is no piece.
    Spaces,
}

const BASE: Pre = Pre { names: &[], cuts: &[], ignore_merges: false, add_bos: false, alphabet: Alphabet::Bytes };

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const YOUTU: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const KIMI: &str = r"\p{Han}+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const SPARK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"##;
const BLOOM: &str = " ?[^(\\s|.,!?…。，、।۔،)]+";
const CJK: &str = "[一-龥\u{3040}-ゟ゠-ヿ]+";

/// Every name that is known; a new one is one entry here.
#[rustfmt::skip]
const TABLE: &[Pre] = &[
    // What files without a name were converted for: llama.cpp's own mix, kept because they depend on it.
    Pre { names: &["default"],
        cuts: &[r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"], ..BASE },
    Pre { names: &["gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "gigachat",
            "a.x-4.0", "mellum", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "modern-bert"],
        cuts: &[GPT2], ..BASE },
    Pre { names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
            "jina-v5-nano"],
        cuts: &[LLAMA3], ignore_merges: true, add_bos: true, ..BASE },
    Pre { names: &["dbrx", "smaug-bpe", "chatglm-bpe"], cuts: &[LLAMA3], ..BASE },
    Pre { names: &["glm4", "glm5"], cuts: &[LLAMA3], ignore_merges: true, ..BASE },
    Pre { names: &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "stablelm2", "hunyuan", "megrez", "solar-open",
            "grok-2"],
        cuts: &[QWEN2], ..BASE },
    Pre { names: &["qwen35"], cuts: &[QWEN35], ..BASE },
    Pre { names: &["deepseek-llm"], ..DEEPSEEK_LLM },
    Pre { names: &["deepseek-coder"],
        cuts: &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\u{d7ff}]+", r"\p{N}"], ..BASE },
    Pre { names: &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        cuts: &[r"\p{N}{1,3}", CJK, DEEPSEEK3], ..BASE },
    Pre { names: &["spark2_5"], cuts: &[r"\p{N}{1,3}", CJK, SPARK, r"\p{N}"], ..BASE },
    Pre { names: &["command-r", "smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"],
        cuts: &[r"\p{N}", GPT2], ..BASE },
    Pre { names: &["falcon"], cuts: &[r"[\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"], ..BASE },
    Pre { names: &["poro-chat", "bloom", "gpt3-finnish"], cuts: &[BLOOM], ..BASE },
    Pre { names: &["viking"], cuts: &[BLOOM, r"\p{N}"], ..BASE },
    Pre { names: &["tekken"], cuts: &[TEKKEN], ignore_merges: true, add_bos: true, ..BASE },
    Pre { names: &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], cuts: &[GPT4O], ..BASE },
    Pre { names: &["kimi-k2"], cuts: &[KIMI], ..BASE },
    Pre { names: &["youtu"],
        cuts: &["[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥\u{3040}-ゟ゠-ヿ]+", YOUTU], ignore_merges: true, ..BASE },
    Pre { names: &["chameleon"],
        cuts: &["<sentinel:[0-9]+>", "IMGIMG[A-I]{1,4}Z", "[\t\n]|    |  ", r"\p{N}", r"[\p{P}!-/:-@\[-`{-~]", GPT2],
        add_bos: true, ..BASE },
    Pre { names: &["bailingmoe", "bailingmoe2", "llada-moe"],
        cuts: &[r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"],
        ..BASE },
    Pre { names: &["seed-coder"],
        cuts: &[r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"],
        ..BASE },
    Pre { names: &["exaone-moe"],
        cuts: &[r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"],
        ..BASE },
    Pre { names: &["minicpm5"],
        cuts: &[r"\p{N}{1,3}", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
        ignore_merges: true, ..BASE },
    Pre { names: &["ufakzeka"],
        cuts: &[r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"], ..BASE },
    Pre { names: &["laguna"], cuts: &[r"[^\n]+|[\n]+", QWEN2], ..BASE },
    Pre { names: &["gemma4"], cuts: &[r"[^\n]+|[\n]+"], add_bos: true, alphabet: Alphabet::Spaces, ..BASE },
    Pre { names: &["sarvam-moe"], cuts: &[r"[^\n]+|[\n]+"], alphabet: Alphabet::Spaces, ..BASE },
];

/// The letters are those of the cased scripts, as DeepSeek's tokenizer.json lists them.
const DEEPSEEK_LLM: Pre = Pre {
    cuts: &[
        "[\r\n]",
        "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+",
        "\\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+",
        r"\s+$",
        "[一-龥ࠀ-一가-\u{d7ff}]+",
        r"\p{N}+",
    ],
    ..BASE
};

/// What a tokenizer.json does to a text before it merges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Cuts it by an expression.
    Expression(&'a str),
    /// Cuts digits off, each for itself or in runs.
    Digits {
        /// Each for itself.
        single: bool,
    },
    /// Cuts it as GPT-2 does.
    ByteLevel,
}

impl Step<'_> {
    /// Whether `cut` of the table does this. Runs of digits count as single ones: DeepSeek's entry has them so.
    fn is(&self, cut: &str) -> bool {
        match self {
            Step::Expression(expression) => in_one_line(expression) == in_one_line(cut),
            Step::Digits { single } => cut == r"\p{N}+" || *single && cut == r"\p{N}",
            Step::ByteLevel => cut == GPT2,
        }
    }
}

/// An expression may hold a line end or a name for it.
fn in_one_line(expression: &str) -> String {
    expression.replace('\n', r"\n").replace('\r', r"\r").replace('\t', r"\t")
}

/// The name for what a tokenizer.json does, of several for the same the first of `preferred`, else the best known one.
/// `ignore_merges` says whether a word that is a piece becomes it whatever the merges would make of it; old files do not
/// tell.
pub fn pre_name(steps: &[Step], ignore_merges: Option<bool>, preferred: &[&str]) -> Option<&'static str> {
    let same = |p: &&Pre| p.cuts.len() == steps.len() && steps.iter().zip(p.cuts).all(|(step, cut)| step.is(cut));
    let all = || TABLE.iter().filter(|p| p.alphabet == Alphabet::Bytes).filter(same);
    let told = |p: &&Pre| ignore_merges.is_none_or(|told| p.ignore_merges == told);
    let pick = |list: &[&Pre]| {
        let names = || list.iter().flat_map(|p| p.names).copied();
        preferred.iter().find_map(|want| names().find(|name| name == want)).or_else(|| names().next())
    };
    // It makes a difference for few words only: rather that than no name.
    pick(&all().filter(told).collect::<Vec<_>>()).or_else(|| pick(&all().collect::<Vec<_>>()))
}

impl Pre {
    /// The entry of a name.
    pub(super) fn named(name: &str) -> Option<&'static Pre> {
        TABLE.iter().find(|p| p.names.contains(&name))
    }

    /// All names, for an error.
    pub(super) fn known() -> String {
        let mut names: Vec<&str> = TABLE.iter().flat_map(|p| p.names).copied().collect();
        names.sort_unstable();
        names.join(", ")
    }

    /// The expressions, compiled.
    pub(super) fn cuts(&self) -> Vec<Cut> {
        self.cuts.iter().map(|c| Cut::new(c)).collect()
    }
}

/// One expression, compiled.
pub(super) struct Cut {
    regex: Regex,
    spaces: Spaces,
}

/// What becomes of a run of spaces before a word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spaces {
    /// Nothing in particular.
    AsMatched,
    /// It leaves its last space to the word.
    LeaveOne,
    /// As [`Spaces::LeaveOne`], but a run that ends with a line is whole.
    LeaveOneInLine,
}

impl Cut {
    fn new(expression: &str) -> Cut {
        let (regular, spaces) = match expression.strip_suffix(r"|\s+(?!\S)|\s+") {
            None => (expression.to_owned(), Spaces::AsMatched),
            // An alternative for line ends comes before those for spaces, so it took every run that has one.
            Some(rest) if rest.contains(r"|\s*[\r\n]") => (format!(r"{rest}|\s+"), Spaces::LeaveOneInLine),
            Some(rest) => (format!(r"{rest}|\s+"), Spaces::LeaveOne),
        };
        Cut { regex: Regex::new(&regular).expect("the table holds regular expressions"), spaces }
    }

    /// Calls `word` with each stretch of `text`: matches, and what lies between them.
    pub(super) fn each<'t>(&self, text: &'t str, mut word: impl FnMut(&'t str)) {
        let mut at = 0;
        while at < text.len() {
            let Some(found) = self.regex.find_at(text, at) else { break };
            let end = self.end(text, found.start(), found.end());
            if found.start() > at {
                word(&text[at..found.start()]);
            }
            word(&text[found.start()..end]);
            at = end;
        }
        if at < text.len() {
            word(&text[at..]);
        }
    }

    /// Where a match ends when `\s+(?!\S)` is honoured: a run of spaces that a word follows ends one earlier.
    fn end(&self, text: &str, start: usize, end: usize) -> usize {
        if self.spaces == Spaces::AsMatched || end == text.len() {
            return end;
        }
        let found = &text[start..end];
        let Some(last) = found.chars().next_back() else { return end };
        if last.len_utf8() == found.len() || !last.is_whitespace() || !found.chars().all(char::is_whitespace) {
            return end;
        }
        if self.spaces == Spaces::LeaveOneInLine && matches!(last, '\r' | '\n') {
            return end;
        }
        end - last.len_utf8()
    }
}

/// Cuts `text` by all of `cuts` and calls `word` with each word.
pub(super) fn words<'t>(cuts: &[Cut], text: &'t str, word: &mut dyn FnMut(&'t str)) {
    match cuts {
        [] => word(text),
        [last] => last.each(text, word),
        [first, rest @ ..] => first.each(text, |part| words(rest, part, word)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_expression_compiles_and_every_name_is_there_once() {
        let mut names: Vec<&str> = TABLE.iter().flat_map(|p| p.names).copied().collect();
        for pre in TABLE {
            assert!(!pre.cuts().is_empty());
            // A match of nothing would not move on.
            assert!(pre.cuts().iter().all(|c| !c.regex.is_match("")), "{:?}", pre.names);
        }
        names.sort_unstable();
        let n = names.len();
        names.dedup();
        assert_eq!(n, names.len());
    }

    #[test]
    fn expressions_find_their_names() {
        let (llama, qwen) = ([Step::Expression(LLAMA3)], [Step::Expression(QWEN2)]);
        let digits = [Step::Digits { single: true }, Step::ByteLevel];
        let (yes, no) = (Some(true), Some(false));
        type Case<'a> = (&'a [Step<'a>], Option<bool>, &'a [&'a str], Option<&'a str>);
        let cases: [Case; 10] = [
            (&[Step::ByteLevel], no, &[], Some("gpt-2")),
            (&llama, yes, &["smaug-bpe", "llama-bpe"], Some("llama-bpe")),
            (&llama, yes, &[], Some("llama-bpe")),
            (&llama, no, &["llama-bpe", "smaug-bpe"], Some("smaug-bpe")),
            (&llama, None, &["llama-bpe"], Some("llama-bpe")),
            (&qwen, yes, &["llama-bpe", "smollm"], Some("qwen2")),
            (&digits, no, &["smollm"], Some("smollm")),
            (&digits, no, &[], Some("command-r")),
            (&[Step::Expression("[\r\n]"), Step::Expression(r"\s?\p{L}+")], no, &[], None),
            (&[Step::Expression(".")], no, &[], None),
        ];
        for (steps, ignore_merges, preferred, expected) in cases {
            assert_eq!(pre_name(steps, ignore_merges, preferred), expected, "{steps:?} {preferred:?}");
        }
    }

    #[test]
    fn words_of_a_text() {
        // Words are divided by '|'; from the definition of the expressions.
        let cases = [
            ("gpt-2", "", ""),
            ("gpt-2", "Hello world", "Hello| world"),
            ("gpt-2", "a   b", "a|  | b"),
            ("gpt-2", "a   ", "a|   "),
            ("gpt-2", "a\n\nb", "a|\n|\n|b"),
            ("gpt-2", "I'll 123", "I|'ll| 123"),
            ("llama-bpe", "a\n\nb", "a|\n\n|b"),
            ("llama-bpe", "a \n  \n  b", "a| \n  \n| | b"),
            ("llama-bpe", "I'LL 12345", "I|'LL| |123|45"),
            ("llama-bpe", "a\u{a0}\u{3000}b", "a|\u{a0}|\u{3000}b"),
            ("qwen2", "x=12;\n\n y", "x|=|1|2|;\n\n| y"),
            ("smollm", "a 12", "a| |1|2"),
            ("deepseek-v3", "1234 foo_bar", "123|4| foo|_bar"),
            ("tekken", "HelloWorld ABC", "Hello|World| ABC"),
            ("gemma4", "a b\n\n\nc", "a b|\n\n\n|c"),
        ];
        let mut failures = Vec::new();
        for (name, text, expected) in cases {
            let cuts = Pre::named(name).expect(name).cuts();
            let mut got = Vec::new();
            if !text.is_empty() {
                words(&cuts, text, &mut |w| got.push(w));
            }
            if got.join("|") != expected {
                failures.push(format!("{name} {text:?}: {:?}, expected {expected:?}", got.join("|")));
            }
        }
        assert!(failures.is_empty(), "{failures:#?}");
    }
}
