//! The settings of a sampler, and the one table from which flags, `/set` and `/show` are made.
//!
//! Names and defaults are llama.cpp's; ollama's names are aliases. A new parameter is a field and a row.

use super::Error;
use super::chain::{self, Kind};

/// The settings of a [`Sampler`](super::Sampler).
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOptions {
    /// The seed of the draws; `None` takes a random one.
    pub seed: Option<u64>,
    /// Which samplers there are, in which order.
    pub samplers: Vec<Kind>,
    /// Logits are divided by this; 0 or less takes the best token.
    pub temp: f32,
    /// The temperature moves so far up and down with the entropy; 0 is off.
    pub dynatemp_range: f32,
    /// The power of the entropy that it follows.
    pub dynatemp_exp: f32,
    /// So many best tokens are kept; 0 keeps all.
    pub top_k: usize,
    /// The best tokens whose probabilities reach this sum are kept; 1 keeps all.
    pub top_p: f32,
    /// Tokens of at least this share of the best one's probability are kept; 0 keeps all.
    pub min_p: f32,
    /// The tokens nearest to the expected surprise whose probabilities exceed this sum are kept; 1 keeps all.
    pub typical: f32,
    /// Tokens within so many standard deviations of the best logit are kept; 0 or less keeps all.
    pub top_n_sigma: f32,
    /// How often all but the last of the likely tokens are excluded; 0 is never.
    pub xtc_probability: f32,
    /// From which probability on a token is likely; above 0.5 is off.
    pub xtc_threshold: f32,
    /// How many last tokens the penalties look at; 0 none, `None` all.
    pub repeat_last_n: Option<usize>,
    /// Logits of seen tokens are divided by this if positive, else multiplied; 1 changes nothing.
    pub repeat_penalty: f32,
    /// Subtracted from the logits of seen tokens.
    pub presence_penalty: f32,
    /// Subtracted from the logits of seen tokens, for each time they were seen.
    pub frequency_penalty: f32,
    /// The weight of the penalty on going on with a repetition; 0 is off.
    pub dry_multiplier: f32,
    /// The penalty grows with this to the power of the repetition's length.
    pub dry_base: f32,
    /// Repetitions up to this length are free.
    pub dry_allowed_length: usize,
    /// How many last tokens are looked at; 0 none, `None` all.
    pub dry_penalty_last_n: Option<usize>,
    /// Texts that no repetition goes across.
    pub dry_breakers: Vec<String>,
    /// 1 or 2 controls the surprise and replaces the other samplers; 0 is off.
    pub mirostat: u32,
    /// Its learning rate, eta.
    pub mirostat_lr: f32,
    /// Its target surprise in bits, tau.
    pub mirostat_ent: f32,
    /// Tokens near this probability are preferred; below 0 is off.
    pub adaptive_target: f32,
    /// How long that remembers what it drew, 0 to 0.99.
    pub adaptive_decay: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Tokens that are never drawn.
    pub banned: Vec<u32>,
}

impl Default for SampleOptions {
    fn default() -> SampleOptions {
        SampleOptions {
            seed: None,
            samplers: chain::DEFAULT.to_vec(),
            temp: 0.8,
            dynatemp_range: 0.0,
            dynatemp_exp: 1.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical: 1.0,
            top_n_sigma: -1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repeat_last_n: Some(64),
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: Some(64),
            dry_breakers: ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
            mirostat: 0,
            mirostat_lr: 0.1,
            mirostat_ent: 5.0,
            adaptive_target: -1.0,
            adaptive_decay: 0.9,
            logit_bias: Vec::new(),
            banned: Vec::new(),
        }
    }
}

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
        set: |o, v| {
            o.temp = finite(v)?;
            Ok(())
        },
        get: |o| o.temp.to_string(),
        aliases: &["temperature"],
        ..row("temp", "T", "Temperature; 0 takes the best token")
    },
    Parameter {
        set: |o, v| {
            o.top_k = whole(v)?.unwrap_or(0);
            Ok(())
        },
        get: |o| o.top_k.to_string(),
        ..row("top-k", "N", "Keep so many best tokens; 0 keeps all")
    },
    Parameter {
        set: |o, v| {
            o.top_p = share(v)?;
            Ok(())
        },
        get: |o| o.top_p.to_string(),
        ..row("top-p", "P", "Keep the best tokens of this probability in all; 1 keeps all")
    },
    Parameter {
        set: |o, v| {
            o.min_p = share(v)?;
            Ok(())
        },
        get: |o| o.min_p.to_string(),
        ..row("min-p", "P", "Keep tokens of at least this share of the best one's probability; 0 keeps all")
    },
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
    Parameter {
        set: |o, v| {
            o.repeat_penalty = above_0(v)?;
            Ok(())
        },
        get: |o| o.repeat_penalty.to_string(),
        ..row("repeat-penalty", "X", "Divide the logits of repeated tokens; 1 is off")
    },
    Parameter {
        set: |o, v| {
            o.presence_penalty = finite(v)?;
            Ok(())
        },
        get: |o| o.presence_penalty.to_string(),
        ..row("presence-penalty", "X", "Subtract from the logits of repeated tokens")
    },
    Parameter {
        set: |o, v| {
            o.frequency_penalty = finite(v)?;
            Ok(())
        },
        get: |o| o.frequency_penalty.to_string(),
        ..row("frequency-penalty", "X", "Subtract from the logits of repeated tokens, for each time")
    },
    Parameter {
        set: |o, v| {
            o.dry_multiplier = finite(v)?;
            Ok(())
        },
        get: |o| o.dry_multiplier.to_string(),
        ..row("dry-multiplier", "X", "Penalty on going on with a repetition (DRY); 0 is off")
    },
    Parameter {
        set: |o, v| {
            o.dry_base = within(v, 1.0, f32::MAX, "a number of 1 or more")?;
            Ok(())
        },
        get: |o| o.dry_base.to_string(),
        ..row("dry-base", "X", "DRY: the penalty grows with this to the power of the length")
    },
    Parameter {
        set: |o, v| {
            o.dry_allowed_length = number(v, "a whole number of 0 or more")?;
            Ok(())
        },
        get: |o| o.dry_allowed_length.to_string(),
        ..row("dry-allowed-length", "N", "DRY: repetitions up to this length are free")
    },
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
        set: |o, v| {
            o.top_n_sigma = finite(v)?;
            Ok(())
        },
        get: |o| o.top_n_sigma.to_string(),
        aliases: &["top-n-sigma"],
        ..row("top-nsigma", "N", "Keep tokens within so many deviations of the best logit; -1 keeps all")
    },
    Parameter {
        set: |o, v| {
            o.typical = share(v)?;
            Ok(())
        },
        get: |o| o.typical.to_string(),
        aliases: &["typical-p", "typ-p"],
        ..row("typical", "P", "Keep the most typical tokens of this probability in all; 1 keeps all")
    },
    Parameter {
        set: |o, v| {
            o.xtc_probability = share(v)?;
            Ok(())
        },
        get: |o| o.xtc_probability.to_string(),
        ..row("xtc-probability", "P", "How often likely tokens but the last of them are excluded; 0 is never")
    },
    Parameter {
        set: |o, v| {
            o.xtc_threshold = share(v)?;
            Ok(())
        },
        get: |o| o.xtc_threshold.to_string(),
        ..row("xtc-threshold", "P", "XTC: from which probability on a token is likely; above 0.5 is off")
    },
    Parameter {
        set: |o, v| {
            o.dynatemp_range = within(v, 0.0, f32::MAX, "a number of 0 or more")?;
            Ok(())
        },
        get: |o| o.dynatemp_range.to_string(),
        ..row("dynatemp-range", "T", "The temperature moves so far with the entropy; 0 is off")
    },
    Parameter {
        set: |o, v| {
            o.dynatemp_exp = finite(v)?;
            Ok(())
        },
        get: |o| o.dynatemp_exp.to_string(),
        ..row("dynatemp-exp", "X", "The power of the entropy that it follows")
    },
    Parameter {
        set: |o, v| {
            o.mirostat = number::<u32>(v, "0, 1 or 2").ok().filter(|&n| n <= 2).ok_or("0, 1 or 2")?;
            Ok(())
        },
        get: |o| o.mirostat.to_string(),
        ..row("mirostat", "N", "Control the surprise, instead of the other samplers: 1 or 2; 0 is off")
    },
    Parameter {
        set: |o, v| {
            o.mirostat_lr = finite(v)?;
            Ok(())
        },
        get: |o| o.mirostat_lr.to_string(),
        aliases: &["mirostat-eta"],
        ..row("mirostat-lr", "X", "Mirostat: learning rate, eta")
    },
    Parameter {
        set: |o, v| {
            o.mirostat_ent = finite(v)?;
            Ok(())
        },
        get: |o| o.mirostat_ent.to_string(),
        aliases: &["mirostat-tau"],
        ..row("mirostat-ent", "X", "Mirostat: target surprise in bits, tau")
    },
    Parameter {
        set: |o, v| {
            o.adaptive_target = within(v, f32::MIN, 1.0, "a number from 0 to 1, or below 0 for off")?;
            Ok(())
        },
        get: |o| o.adaptive_target.to_string(),
        ..row("adaptive-target", "P", "adaptive_p: prefer tokens near this probability; -1 is off")
    },
    Parameter {
        set: |o, v| {
            o.adaptive_decay = within(v, 0.0, 0.99, "a number from 0 to 0.99")?;
            Ok(())
        },
        get: |o| o.adaptive_decay.to_string(),
        ..row("adaptive-decay", "X", "adaptive_p: how long it remembers, 0 to 0.99")
    },
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
