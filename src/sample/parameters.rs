//! The parameters of a sampler: the one table from which flags, `/set` and `/show` are made.
//!
//! Names are llama.cpp's; ollama's names are aliases. A new parameter is a field of [`SampleOptions`] and a row here.

use super::chain;
use super::{Error, SampleOptions};

/// A parameter: what it is called, what it does, and how its value is read and written.
pub struct Parameter {
    /// llama.cpp's flag, without its dashes.
    pub name: &'static str,
    /// Other names of it.
    pub aliases: &'static [&'static str],
    /// A flag of one letter.
    pub short: Option<char>,
    /// What its value is called.
    pub value: &'static str,
    /// What it does, for people.
    pub help: &'static str,
    /// Whether it may be given more than once.
    pub many: bool,
    /// Reads a value; the error says what is expected.
    set: fn(&mut SampleOptions, &str) -> Result<(), String>,
    /// Writes the value.
    get: fn(&SampleOptions) -> String,
}

/// A row whose value is one field, read from `v` and shown as it is.
macro_rules! plain {
    ($field:ident, |$v:ident| $read:expr, $name:literal, $value:literal, $help:literal) => {
        Parameter {
            set: |o, $v| {
                o.$field = $read?;
                Ok(())
            },
            get: |o| o.$field.to_string(),
            ..row($name, $value, $help)
        }
    };
}

/// All parameters, in the order in which they are shown.
pub const PARAMETERS: &[Parameter] = &[
    Parameter {
        short: Some('s'),
        set: |o, v| {
            o.seed = match number::<i64>(v, "a whole number; -1 takes a random one")? {
                -1 => None,
                seed => Some(seed as u64),
            };
            Ok(())
        },
        get: |o| o.seed.map_or("-1".to_owned(), |seed| (seed as i64).to_string()),
        ..row("seed", "N", "Seed of the draws; -1 takes a random one")
    },
    Parameter {
        aliases: &["temperature"],
        ..plain!(temp, |v| finite(v), "temp", "T", "Temperature; 0 takes the best token")
    },
    Parameter {
        set: |o, v| {
            o.top_k = whole(v)?.unwrap_or(0);
            Ok(())
        },
        get: |o| o.top_k.to_string(),
        ..row("top-k", "N", "Keep so many best tokens; 0 keeps all")
    },
    plain!(top_p, |v| share(v), "top-p", "P", "Keep the best tokens of this probability in all; 1 keeps all"),
    plain!(
        min_p,
        |v| share(v),
        "min-p",
        "P",
        "Keep tokens of at least this share of the best one's probability; 0 keeps all"
    ),
    Parameter {
        set: |o, v| {
            o.samplers = chain::by_names(v)?;
            Ok(())
        },
        get: |o| chain::names(&o.samplers),
        ..row("samplers", "A;B;C", "The samplers in their order, by their names")
    },
    Parameter {
        set: |o, v| {
            o.samplers = chain::by_letters(v)?;
            Ok(())
        },
        get: |o| chain::letters(&o.samplers),
        aliases: &["sampler-seq"],
        ..row("sampling-seq", "ABC", "The same by their letters")
    },
    Parameter {
        set: |o, v| {
            o.repeat_last_n = look_back(v)?;
            Ok(())
        },
        get: |o| last_n(o.repeat_last_n),
        ..row("repeat-last-n", "N", "Tokens that the penalties look back on; 0 none, -1 all")
    },
    plain!(repeat_penalty, |v| above_0(v), "repeat-penalty", "X", "Divide the logits of repeated tokens; 1 is off"),
    plain!(presence_penalty, |v| finite(v), "presence-penalty", "X", "Subtract from the logits of repeated tokens"),
    plain!(
        frequency_penalty,
        |v| finite(v),
        "frequency-penalty",
        "X",
        "Subtract from the logits of repeated tokens, for each time"
    ),
    plain!(
        dry_multiplier,
        |v| finite(v),
        "dry-multiplier",
        "X",
        "Penalty on going on with a repetition (DRY); 0 is off"
    ),
    plain!(
        dry_base,
        |v| within(v, 1.0, f32::MAX, "a number of 1 or more"),
        "dry-base",
        "X",
        "DRY: the penalty grows with this to the power of the length"
    ),
    plain!(
        dry_allowed_length,
        |v| number(v, "a whole number of 0 or more"),
        "dry-allowed-length",
        "N",
        "DRY: repetitions up to this length are free"
    ),
    Parameter {
        set: |o, v| {
            o.dry_penalty_last_n = look_back(v)?;
            Ok(())
        },
        get: |o| last_n(o.dry_penalty_last_n),
        ..row("dry-penalty-last-n", "N", "DRY: tokens that it looks back on; 0 none, -1 all")
    },
    Parameter {
        set: |o, v| {
            match unescaped(v) {
                none if none == "none" => o.dry_breakers.clear(),
                empty if empty.is_empty() => return Err("a text, or none".to_owned()),
                text if o.dry_breakers.contains(&text) => {}
                text => o.dry_breakers.push(text),
            }
            Ok(())
        },
        get: |o| {
            let texts: Vec<String> = o.dry_breakers.iter().map(|text| escaped(text)).collect();
            if texts.is_empty() { "none".to_owned() } else { texts.join(" ") }
        },
        many: true,
        ..row("dry-sequence-breaker", "TEXT", "DRY: no repetition goes across this text; none for none at all")
    },
    Parameter {
        aliases: &["top-n-sigma"],
        ..plain!(
            top_n_sigma,
            |v| finite(v),
            "top-nsigma",
            "N",
            "Keep tokens within so many deviations of the best logit; -1 keeps all"
        )
    },
    Parameter {
        aliases: &["typical-p", "typ-p"],
        ..plain!(
            typical,
            |v| share(v),
            "typical",
            "P",
            "Keep the most typical tokens of this probability in all; 1 keeps all"
        )
    },
    plain!(
        xtc_probability,
        |v| share(v),
        "xtc-probability",
        "P",
        "How often likely tokens but the last of them are excluded; 0 is never"
    ),
    plain!(
        xtc_threshold,
        |v| share(v),
        "xtc-threshold",
        "P",
        "XTC: from which probability on a token is likely; above 0.5 is off"
    ),
    plain!(
        dynatemp_range,
        |v| within(v, 0.0, f32::MAX, "a number of 0 or more"),
        "dynatemp-range",
        "T",
        "The temperature moves so far with the entropy; 0 is off"
    ),
    plain!(dynatemp_exp, |v| finite(v), "dynatemp-exp", "X", "The power of the entropy that it follows"),
    plain!(
        mirostat,
        |v| number::<u32>(v, "0, 1 or 2").ok().filter(|&n| n <= 2).ok_or("0, 1 or 2"),
        "mirostat",
        "N",
        "Control the surprise, instead of the other samplers: 1 or 2; 0 is off"
    ),
    Parameter {
        aliases: &["mirostat-eta"],
        ..plain!(mirostat_lr, |v| finite(v), "mirostat-lr", "X", "Mirostat: learning rate, eta")
    },
    Parameter {
        aliases: &["mirostat-tau"],
        ..plain!(mirostat_ent, |v| finite(v), "mirostat-ent", "X", "Mirostat: target surprise in bits, tau")
    },
    plain!(
        adaptive_target,
        |v| within(v, f32::MIN, 1.0, "a number from 0 to 1, or below 0 for off"),
        "adaptive-target",
        "P",
        "adaptive_p: prefer tokens near this probability; -1 is off"
    ),
    plain!(
        adaptive_decay,
        |v| within(v, 0.0, 0.99, "a number from 0 to 0.99"),
        "adaptive-decay",
        "X",
        "adaptive_p: how long it remembers, 0 to 0.99"
    ),
    Parameter {
        short: Some('l'),
        set: |o, v| {
            if v == "none" {
                o.logit_bias.clear();
                return Ok(());
            }
            let wrong = "a token's id and what is added to its logit, such as 15043+1, 15043-1.5 or 15043-inf";
            let at = v.find(['+', '-']).ok_or(wrong)?;
            let bias: f32 = v[at..].parse().map_err(|_| wrong)?;
            if bias.is_nan() || bias == f32::INFINITY {
                return Err(wrong.to_owned());
            }
            o.logit_bias.push((v[..at].trim().parse().map_err(|_| wrong)?, bias));
            Ok(())
        },
        get: |o| {
            let one = |&(token, bias): &(u32, f32)| format!("{token}{bias:+}");
            o.logit_bias.iter().map(one).collect::<Vec<_>>().join(" ")
        },
        many: true,
        ..row("logit-bias", "ID+X", "Add to the logit of a token: 15043+1, 15043-inf")
    },
];

const fn row(name: &'static str, value: &'static str, help: &'static str) -> Parameter {
    Parameter { name, aliases: &[], short: None, value, help, many: false, set: |_, _| Ok(()), get: |_| String::new() }
}

impl Parameter {
    /// The parameter of that name, in any case and with `_` for `-`.
    pub fn named(name: &str) -> Option<&'static Parameter> {
        let name = name.trim_start_matches('-').to_ascii_lowercase().replace('_', "-");
        PARAMETERS.iter().find(|p| p.name == name || p.aliases.contains(&name.as_str()))
    }

    /// Sets it in `options`.
    ///
    /// # Errors
    /// A value that it cannot have, with what is expected.
    pub fn set(&self, options: &mut SampleOptions, value: &str) -> Result<(), Error> {
        (self.set)(options, value).map_err(|expected| Error::Parameter {
            name: self.name,
            found: value.to_owned(),
            expected,
        })
    }

    /// Its value.
    pub fn get(&self, options: &SampleOptions) -> String {
        (self.get)(options)
    }
}

impl SampleOptions {
    /// Sets a parameter by its name.
    ///
    /// # Errors
    /// A name that is none, with those there are; a value that it cannot have.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), Error> {
        match Parameter::named(name) {
            Some(parameter) => parameter.set(self, value),
            None => Err(Error::NoParameter {
                found: name.to_owned(),
                known: PARAMETERS.iter().map(|p| p.name).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// All parameters with their values.
    pub fn list(&self) -> Vec<(&'static str, String)> {
        PARAMETERS.iter().map(|p| (p.name, p.get(self))).collect()
    }
}

fn number<T: std::str::FromStr>(text: &str, expected: &str) -> Result<T, String> {
    text.parse().map_err(|_| expected.to_owned())
}

fn finite(text: &str) -> Result<f32, String> {
    number(text, "a number").and_then(|v: f32| if v.is_finite() { Ok(v) } else { Err("a number".to_owned()) })
}

fn within(text: &str, least: f32, most: f32, expected: &str) -> Result<f32, String> {
    finite(text).ok().filter(|v| (least..=most).contains(v)).ok_or_else(|| expected.to_owned())
}

fn share(text: &str) -> Result<f32, String> {
    within(text, 0.0, 1.0, "a number from 0 to 1")
}

/// How many last tokens; `None` is all.
fn look_back(text: &str) -> Result<Option<usize>, String> {
    let expected = "a whole number of 0 or more, or -1 for the whole context";
    match number(text, expected)? {
        -1i64 => Ok(None),
        n => usize::try_from(n).map(Some).map_err(|_| expected.to_owned()),
    }
}

/// How characters are written that cannot well be typed.
const ESCAPES: [(&str, &str); 4] = [("\\\\", "\\"), ("\\n", "\n"), ("\\r", "\r"), ("\\t", "\t")];

fn unescaped(mut text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    while let Some(c) = text.chars().next() {
        match ESCAPES.iter().find(|(written, _)| text.starts_with(written)) {
            Some((written, plain)) => {
                out.push_str(plain);
                text = &text[written.len()..];
            }
            None => {
                out.push(c);
                text = &text[c.len_utf8()..];
            }
        }
    }
    out
}

fn escaped(text: &str) -> String {
    // The backslash is first, so that those of the others stay single.
    ESCAPES.iter().fold(text.to_owned(), |text, (written, plain)| text.replace(plain, written))
}

/// A count; a negative one is no limit.
fn whole(text: &str) -> Result<Option<usize>, String> {
    number::<i64>(text, "a whole number").map(|n| usize::try_from(n).ok())
}

fn last_n(n: Option<usize>) -> String {
    n.map_or("-1".to_owned(), |n| n.to_string())
}

fn above_0(text: &str) -> Result<f32, String> {
    let wrong = || "a number above 0".to_owned();
    finite(text).ok().filter(|&v| v > 0.0 && (1.0 / v).is_finite()).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_set_again() {
        let mut o = SampleOptions::default();
        for p in PARAMETERS.iter().filter(|p| !p.many) {
            let value = p.get(&o);
            p.set(&mut o, &value).unwrap();
        }
        assert_eq!(o, SampleOptions::default());
    }

    #[test]
    fn names_of_both_programs_mean_the_same() {
        let mut o = SampleOptions::default();
        for (name, value) in [("temperature", "0.5"), ("TOP_K", "7"), ("--mirostat_tau", "3"), ("typical_p", "0.9")] {
            o.set(name, value).unwrap();
        }
        assert_eq!((o.temp, o.top_k, o.mirostat_ent, o.typical), (0.5, 7, 3.0, 0.9));
    }

    #[test]
    fn values_are_checked() {
        let bad = [
            ("temp", "warm", "temp: found \"warm\", expected a number"),
            ("temp", "nan", "temp: found \"nan\", expected a number"),
            ("repeat-penalty", "0", "repeat-penalty: found \"0\", expected a number above 0"),
            ("mirostat", "3", "mirostat: found \"3\", expected 0, 1 or 2"),
            ("top-k", "1.5", "top-k: found \"1.5\", expected a whole number"),
            ("logit-bias", "7", "logit-bias: found \"7\", expected a token's id"),
            ("logit-bias", "7+inf", "logit-bias: found \"7+inf\", expected a token's id"),
            ("top-p", "95", "top-p: found \"95\", expected a number from 0 to 1"),
            ("repeat-last-n", "-2", "repeat-last-n: found \"-2\", expected a whole number of 0 or more, or -1"),
            ("adaptive-decay", "1", "adaptive-decay: found \"1\", expected a number from 0 to 0.99"),
            ("dry-base", "0.5", "dry-base: found \"0.5\", expected a number of 1 or more"),
            ("dry-sequence-breaker", "", "dry-sequence-breaker: found \"\", expected a text, or none"),
            ("samplers", "top_k;nonsense", "samplers: found \"top_k;nonsense\", expected names of samplers"),
            ("nonsense", "1", "found no parameter \"nonsense\", expected one of seed, temp, "),
        ];
        for (name, value, want) in bad {
            let error = SampleOptions::default().set(name, value).unwrap_err().to_string();
            assert!(error.starts_with(want), "{name} {value}: {error}");
        }
        let mut o = SampleOptions::default();
        for bias in ["5+1.5", "6-inf", "7-2"] {
            o.set("logit-bias", bias).unwrap();
        }
        assert_eq!(o.logit_bias, [(5, 1.5), (6, f32::NEG_INFINITY), (7, -2.0)]);
    }

    #[test]
    fn breakers_are_written_with_escapes() {
        let mut o = SampleOptions::default();
        let shown = |o: &SampleOptions| Parameter::named("dry-sequence-breaker").unwrap().get(o);
        assert_eq!(shown(&o), "\\n : \" *");
        o.set("dry_sequence_breaker", "none").unwrap();
        assert_eq!(shown(&o), "none");
        for (given, want) in [("\\n", "\n"), (" ", " "), ("a\\tb\\\\n", "a\tb\\n"), ("\n", "\n"), ("\\x", "\\x")] {
            o.set("dry-sequence-breaker", "none").unwrap();
            o.set("dry-sequence-breaker", given).unwrap();
            o.set("dry-sequence-breaker", given).unwrap();
            assert_eq!(o.dry_breakers, [want], "{given:?}");
            let again = shown(&o);
            o.set("dry-sequence-breaker", &again).unwrap();
            assert_eq!(o.dry_breakers, [want], "{again:?}");
        }
    }
}
