//! The flags of the sampling chain: one for each row of [`PARAMETERS`].

use crate::registry::Sampling;
use crate::sample::{PARAMETERS, Parameter, SampleOptions};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// How tokens are drawn.
#[derive(Debug)]
pub struct SampleArgs {
    /// What was given, in the order of the table.
    given: Vec<(&'static str, Vec<String>)>,
    /// Go on when the model says that it is done.
    pub ignore_eos: bool,
}

const IGNORE_EOS: &str = "ignore_eos";

fn flag(parameter: &'static Parameter) -> Arg {
    let default = SampleOptions::default();
    let value = parameter.get(&default);
    let default = if value.is_empty() { String::new() } else { format!(" [default: {value}]") };
    let arg = Arg::new(parameter.name)
        .long(parameter.name)
        .value_name(parameter.value)
        .help(format!("{}{default}", parameter.help))
        .help_heading("Sampling")
        .visible_aliases(parameter.aliases)
        .allow_hyphen_values(true)
        .action(if parameter.many { ArgAction::Append } else { ArgAction::Set })
        .value_parser(move |text: &str| {
            let checked = parameter.set(&mut SampleOptions::default(), text);
            checked.map(|()| text.to_owned()).map_err(|e| e.to_string())
        });
    // Two ways to say the same: the last one counts.
    let arg = match parameter.name {
        "samplers" => arg.overrides_with("sampling-seq"),
        "sampling-seq" => arg.overrides_with("samplers"),
        _ => arg,
    };
    match parameter.short {
        Some(letter) => arg.short(letter),
        None => arg,
    }
}

impl Args for SampleArgs {
    fn augment_args(command: Command) -> Command {
        let command = PARAMETERS.iter().fold(command, |command, parameter| command.arg(flag(parameter)));
        let ignore = Arg::new(IGNORE_EOS).long("ignore-eos").action(ArgAction::SetTrue);
        command.arg(ignore.help("Go on when the model says that it is done").help_heading("Sampling"))
    }

    fn augment_args_for_update(command: Command) -> Command {
        SampleArgs::augment_args(command)
    }
}

impl FromArgMatches for SampleArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SampleArgs, clap::Error> {
        let values = |p: &'static Parameter| {
            let values = matches.get_many::<String>(p.name)?;
            Some((p.name, values.cloned().collect()))
        };
        Ok(SampleArgs {
            given: PARAMETERS.iter().filter_map(values).collect(),
            ignore_eos: matches.get_flag(IGNORE_EOS),
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = SampleArgs::from_arg_matches(matches)?;
        Ok(())
    }
}

impl SampleArgs {
    /// The options of a sampler: flags first, then what the catalogue recommends for the model, then the defaults.
    ///
    /// # Errors
    /// None: the values were checked when they were parsed.
    pub fn options(&self, recommended: &Sampling, banned: Vec<u32>) -> anyhow::Result<SampleOptions> {
        let mut options = SampleOptions { banned, ..SampleOptions::default() };
        let r = recommended;
        options.temp = r.temp.unwrap_or(options.temp);
        options.top_k = r.top_k.map_or(options.top_k, |k| k as usize);
        options.top_p = r.top_p.unwrap_or(options.top_p);
        options.min_p = r.min_p.unwrap_or(options.min_p);
        options.repeat_penalty = r.repeat_penalty.unwrap_or(options.repeat_penalty);
        for (name, values) in &self.given {
            // What may be given more than once takes the place of the default the first time.
            if Parameter::named(name).is_some_and(|p| p.many) {
                options.set(name, "none")?;
            }
            values.iter().try_for_each(|value| options.set(name, value))?;
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Test {
        #[command(flatten)]
        sampling: SampleArgs,
    }

    fn options(flags: &[&str]) -> SampleOptions {
        let args = Test::try_parse_from(std::iter::once(&"test").chain(flags)).unwrap_or_else(|e| panic!("{e}"));
        args.sampling.options(&Sampling::default(), Vec::new()).unwrap()
    }

    #[test]
    fn flags_are_those_of_the_table() {
        let text = Test::command_for_help();
        for parameter in PARAMETERS {
            assert!(text.contains(&format!("--{} ", parameter.name)), "{}", parameter.name);
        }
        assert!(text.contains("[default: edskypmxt]") && text.contains("[default: 0.95]"), "{text}");
    }

    impl Test {
        fn command_for_help() -> String {
            use clap::CommandFactory;
            Test::command().render_long_help().to_string()
        }
    }

    #[test]
    fn what_is_given_last_counts() {
        let rows: [(&[&str], &str); 4] = [
            (&["--samplers", "top_k;temp"], "kt"),
            (&["--samplers", "top_k;temp", "--sampling-seq", "tk"], "tk"),
            (&["--sampler-seq", "tk", "--samplers", "top_k"], "k"),
            (&["--samplers", ""], ""),
        ];
        for (flags, want) in rows {
            let mut expected = SampleOptions::default();
            expected.set("sampling-seq", want).unwrap();
            assert_eq!(options(flags), expected, "{flags:?}");
        }
    }

    #[test]
    fn values_may_begin_with_a_dash_and_come_again() {
        let o =
            options(&["--top-n-sigma", "-1", "-l", "5+1", "-l", "6-inf", "--dry-sequence-breaker", "-", "--temp", "0"]);
        assert_eq!(o.logit_bias, [(5, 1.0), (6, f32::NEG_INFINITY)]);
        assert_eq!(o.dry_breakers, ["-"]);
        assert_eq!((o.top_n_sigma, o.temp), (-1.0, 0.0));
    }
}
