//! What the name of a model says about it: `Mixtral-8x7B-Instruct-v0.1` is a basename, a size, a finetune and a version.
//!
//! The rules are those of `Metadata.get_model_id_components` in llama.cpp's gguf-py, which go by what is usual.

use regex::Regex;

/// What a name says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Parts {
    pub name: Option<String>,
    pub organization: Option<String>,
    pub basename: Option<String>,
    pub finetune: Option<String>,
    pub version: Option<String>,
    pub size_label: Option<String>,
}

#[derive(Clone, Copy, Default)]
struct Kind {
    basename: bool,
    size: bool,
    finetune: bool,
    version: bool,
    other: bool,
}

impl Kind {
    fn count(self) -> usize {
        [self.basename, self.size, self.finetune, self.version, self.other].iter().filter(|&&k| k).count()
    }
}

/// Takes `organization/name` apart. `parameters` tell whether a number with a letter can be the model's size.
pub(super) fn parts(id: &str, parameters: u64) -> Parts {
    if id.contains(' ') {
        return Parts { name: Some(id.to_owned()), ..Parts::default() };
    }
    let (organization, name) = match id.split_once('/') {
        Some((organization, name)) => (Some(organization).filter(|o| !o.starts_with('.')), name),
        None => (None, id),
    };
    let whole = |expression: &str| Regex::new(&format!("^(?i:{expression})$")).expect("it is a regular expression");
    let version = whole(r"(v|iter)?\d+([.]\d+)*");
    let file_type = whole(r"i?q\d(_\w)*|b?fp?(16|32)");
    let size = whole(r"(([A]|\d+[x])?\d+([._]\d+)?[KMBT][\d]?|small|mini|medium|large|x?xl)");
    let finetune = whole("chat|instruct|vision|lora");

    let mut words: Vec<(String, Kind)> =
        name.split('-').filter(|w| !w.is_empty()).map(|w| (w.to_owned(), Kind::default())).collect();
    for (i, (word, kind)) in words.iter_mut().enumerate() {
        if version.is_match(word) {
            kind.version = true;
        } else if file_type.is_match(word) {
            kind.other = true;
            *word = word.to_uppercase();
        } else if i > 0 && size.is_match(word) {
            *word = size_word(word);
            if fits(word, parameters) {
                kind.size = true;
            } else {
                // Rather the length of a context.
                kind.finetune = true;
                let letter = word.pop().unwrap_or_default().to_ascii_lowercase();
                word.push(letter);
            }
        } else if i > 0 && finetune.is_match(word) {
            kind.finetune = true;
        }
    }
    // Sizes in words count only where there is none in numbers.
    if words.iter().any(|(w, k)| k.size && w.contains(|c: char| c.is_ascii_digit())) {
        for (word, kind) in &mut words {
            kind.size &= !word.chars().all(char::is_alphabetic);
        }
    }
    let mut at_start = true;
    for (word, kind) in &mut words {
        if at_start && (kind.count() == 0 && word.starts_with(char::is_alphabetic) || kind.version) {
            kind.basename = true;
        } else {
            at_start = false;
            kind.finetune |= kind.count() == 0;
        }
    }
    for (_, kind) in words.iter_mut().rev() {
        if !kind.basename || kind.count() == 1 {
            break;
        }
        kind.basename = false;
    }
    let joined = |want: &dyn Fn(Kind) -> bool| {
        let list: Vec<&str> = words.iter().filter(|(_, k)| want(*k)).map(|(w, _)| w.as_str()).collect();
        (!list.is_empty()).then(|| list.join("-"))
    };
    let mut sizes: Vec<&str> = Vec::new();
    for (word, _) in words.iter().filter(|(_, k)| k.size) {
        if !sizes.contains(&word.as_str()) {
            sizes.push(word);
        }
    }
    let size_label = (!sizes.is_empty()).then(|| sizes.join("-"));
    let finetune = joined(&|k| k.finetune);
    let version = joined(&|k| k.version && !k.basename);
    // A name of one part could be anything.
    let basename = joined(&|k| k.basename).filter(|_| size_label.is_some() || finetune.is_some() || version.is_some());
    Parts {
        name: Some(name.to_owned()),
        organization: organization.map(str::to_owned),
        basename,
        finetune,
        version,
        size_label,
    }
}

/// A size as others write it: `7b1` of Bloom is `7.1B`.
fn size_word(word: &str) -> String {
    let mut chars: Vec<char> = word.replace('_', ".").chars().collect();
    if let [.., letter, digit] = chars[..]
        && digit.is_ascii_digit()
    {
        chars.truncate(chars.len() - 2);
        chars.extend(['.', digit, letter]);
    }
    if let [.., before, last] = &mut chars[..]
        && before.is_ascii_digit()
        && "kmbt".contains(*last)
    {
        *last = last.to_ascii_uppercase();
    }
    chars.into_iter().collect()
}

/// Whether a size can be that of a model with so many parameters; where it is no number, or nothing is known, it can.
fn fits(word: &str, parameters: u64) -> bool {
    let (number, letter) = word.split_at(word.len() - 1);
    let Some(power) = " KMBT".find(letter) else { return true };
    let Ok(number) = number.parse::<f64>() else { return true };
    if parameters == 0 {
        return true;
    }
    let label = number * 1000f64.powi(power as i32);
    (label - parameters as f64).abs() <= (7 * parameters / 8) as f64
}

/// A name as a title: words that are written small get a capital, but for versions.
pub(super) fn title(name: &str) -> String {
    let version = Regex::new(r"^(v\d+(?:\.\d+)*|\d.*)$").expect("it is a regular expression");
    let cased = |c: char| c.is_lowercase() || c.is_uppercase();
    let small = |w: &str| w.contains(cased) && !w.contains(char::is_uppercase);
    let capital = |w: &str| {
        let mut after = false;
        let mut out = String::new();
        for c in w.chars() {
            if after {
                out.extend(c.to_lowercase())
            } else {
                out.extend(c.to_uppercase())
            }
            after = cased(c);
        }
        out
    };
    let name = name.trim().replace('-', " ");
    let words = name.split_whitespace();
    let words = words.map(|w| if small(w) && !version.is_match(w) { capital(w) } else { w.to_owned() });
    words.collect::<Vec<_>>().join(" ")
}

/// The size of a model in two digits: `8x7.2B`, `988K`. `shared` and `of_expert` count parameters.
pub(super) fn size_label(total: u64, shared: u64, of_expert: u64, experts: u64) -> String {
    if experts > 0 { format!("{experts}x{}", rounded(shared + of_expert)) } else { rounded(total) }
}

fn rounded(n: u64) -> String {
    let n = n as f64;
    let (scaled, letter) = match n {
        _ if n > 1e12 => (n * 1e-12, 'T'),
        _ if n > 1e9 => (n * 1e-9, 'B'),
        _ if n > 1e6 => (n * 1e-6, 'M'),
        _ => (n * 1e-3, 'K'),
    };
    let whole = format!("{:.0}", scaled.round_ties_even());
    let digits = whole.trim_start_matches('0').len();
    format!("{scaled:.*}{letter}", 2usize.saturating_sub(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        // Name, parameters, and what gguf-py says: organization, basename, finetune, version, size.
        let cases = [
            ("Mixtral-8x7B-Instruct-v0.1", 0, ["", "Mixtral", "Instruct", "v0.1", "8x7B"]),
            ("mistralai/Mixtral-8x22B-v0.1", 141_000_000_000, ["mistralai", "Mixtral", "", "v0.1", "8x22B"]),
            ("meta-llama/Llama-3.1-8B-Instruct", 8_030_000_000, ["meta-llama", "Llama-3.1", "Instruct", "", "8B"]),
            ("gemma-3-270m-it", 268_000_000, ["", "gemma-3", "it", "", "270M"]),
            ("SmolLM2-135M", 135_000_000, ["", "SmolLM2", "", "", "135M"]),
            ("Yi-34B-200K", 34_000_000_000, ["", "Yi", "200k", "", "34B"]),
            ("bloom-7b1-petals", 7_069_000_000, ["", "bloom", "petals", "", "7.1B"]),
            ("llama31", 1_400_000, ["", "", "", "", ""]),
            ("./model", 0, ["", "", "", "", ""]),
        ];
        for (id, parameters, expected) in cases {
            let p = parts(id, parameters);
            let got = [p.organization, p.basename, p.finetune, p.version, p.size_label].map(Option::unwrap_or_default);
            assert_eq!(got, expected, "{id}");
        }
    }

    #[test]
    fn titles_and_sizes() {
        for (name, expected) in [
            ("Mixtral-8x7B-Instruct-v0.1", "Mixtral 8x7B Instruct v0.1"),
            ("meta-llama", "Meta Llama"),
            ("gemma-3-270m-it", "Gemma 3 270m It"),
            ("llama31b", "Llama31B"),
        ] {
            assert_eq!(title(name), expected);
        }
        for (sizes, expected) in [
            ((444_000, 0, 0, 0), "444K"),
            ((1_400_001, 0, 0, 0), "1.4M"),
            ((46_702_792_704, 1_605_640_192, 5_637_144_064, 8), "8x7.2B"),
            ((9_960_000_000, 0, 0, 0), "10B"),
            ((999_999, 0, 0, 0), "1000K"),
            ((400, 0, 0, 0), "0.40K"),
        ] {
            let (total, shared, expert, n) = sizes;
            assert_eq!(size_label(total, shared, expert, n), expected);
        }
    }
}
