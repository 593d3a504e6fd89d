//! The samplers by name: which there are and in which order.

/// A sampler of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Repetition, presence and frequency.
    Penalties,
    /// Don't repeat yourself.
    Dry,
    /// Within some standard deviations of the best.
    TopNSigma,
    /// The best so many.
    TopK,
    /// The most typical.
    Typical,
    /// The best of some probability.
    TopP,
    /// Not much less likely than the best.
    MinP,
    /// Exclude top choices.
    Xtc,
    /// Temperature, which may be dynamic.
    Temperature,
    /// Near a target probability.
    AdaptiveP,
}

use Kind::*;

/// Names and letters, as llama.cpp has them.
const KINDS: &[(Kind, &str, char)] = &[
    (Penalties, "penalties", 'e'),
    (Dry, "dry", 'd'),
    (TopNSigma, "top_n_sigma", 's'),
    (TopK, "top_k", 'k'),
    (Typical, "typ_p", 'y'),
    (TopP, "top_p", 'p'),
    (MinP, "min_p", 'm'),
    (Xtc, "xtc", 'x'),
    (Temperature, "temperature", 't'),
    (AdaptiveP, "adaptive_p", 'a'),
];

/// Other names, without the `_` and `-` that may be left out.
const ALIASES: &[(&str, Kind)] =
    &[("nucleus", TopP), ("typical", Typical), ("typicalp", Typical), ("typ", Typical), ("temp", Temperature)];

/// The order when nothing else is said.
pub(super) const DEFAULT: [Kind; 9] = [Penalties, Dry, TopNSigma, TopK, Typical, TopP, MinP, Xtc, Temperature];

/// `a;b;c`
pub(super) fn by_names(text: &str) -> Result<Vec<Kind>, String> {
    let plain = |name: &str| name.to_ascii_lowercase().replace(['_', '-'], "");
    let one = |name: &str| {
        let mut known = KINDS.iter().map(|(kind, known, _)| (*known, *kind)).chain(ALIASES.iter().copied());
        known.find(|(known, _)| plain(known) == plain(name)).map(|(_, kind)| kind)
    };
    let names = || KINDS.iter().map(|(_, name, _)| *name).collect::<Vec<_>>().join(", ");
    let kinds = text.split(';').map(str::trim).filter(|name| !name.is_empty()).map(one);
    kinds.collect::<Option<_>>().ok_or_else(|| format!("names of samplers with ; between them, of {}", names()))
}

/// `abc`
pub(super) fn by_letters(text: &str) -> Result<Vec<Kind>, String> {
    let one = |c: char| KINDS.iter().find(|(_, _, letter)| *letter == c).map(|(kind, ..)| *kind);
    let letters = || KINDS.iter().map(|(_, name, c)| format!("{c} ({name})")).collect::<Vec<_>>().join(", ");
    text.chars().map(one).collect::<Option<_>>().ok_or_else(|| format!("letters of samplers, of {}", letters()))
}

pub(super) fn names(kinds: &[Kind]) -> String {
    each(kinds, |(_, name, _)| (*name).to_owned()).join(";")
}

pub(super) fn letters(kinds: &[Kind]) -> String {
    each(kinds, |(_, _, letter)| letter.to_string()).concat()
}

fn each(kinds: &[Kind], show: impl Fn(&(Kind, &str, char)) -> String) -> Vec<String> {
    kinds.iter().filter_map(|kind| KINDS.iter().find(|(k, ..)| k == kind)).map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_order_is_llama_cpps() {
        assert_eq!(names(&DEFAULT), "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature");
        assert_eq!(letters(&DEFAULT), "edskypmxt");
        assert_eq!(by_names(&names(&DEFAULT)), Ok(DEFAULT.to_vec()));
        assert_eq!(by_letters("edskypmxt"), Ok(DEFAULT.to_vec()));
        let rows = [
            ("temp; top-p", vec![Temperature, TopP]),
            ("TopK;min_p;nucleus;top-k", vec![TopK, MinP, TopP, TopK]),
            ("typ;typical-p;typical;typ_p", vec![Typical; 4]),
            ("topnsigma;adaptive-p;", vec![TopNSigma, AdaptiveP]),
        ];
        for (given, want) in rows {
            assert_eq!(by_names(given), Ok(want), "{given}");
        }
        for wrong in ["top_k;top_q", "top_k,top_p", "infill"] {
            assert!(by_names(wrong).unwrap_err().contains("top_n_sigma"), "{wrong}");
        }
        assert_eq!(by_names(""), Ok(Vec::new()));
        assert!(by_letters("kz").unwrap_err().contains("k (top_k)"));
    }
}
