//! `/set`: parameters in the middle of a conversation, in llama.cpp's words and in ollama's.

use super::words::unquoted;
use super::{Chat, Next};
use crate::commands::grammar_args;
use crate::commands::model_args::fits_in_memory;
use crate::commands::talk::{Talk, equip};
use crate::commands::tell;
use anyhow::{Context, bail};
use serde_json::Value;

impl Chat<'_> {
    /// Sets what `rest` names.
    pub(super) fn set(&mut self, rest: &str, talk: &mut Talk) -> anyhow::Result<Next> {
        // ollama says "parameter" before the name.
        let rest = rest.strip_prefix("parameter ").map_or(rest, str::trim_start);
        let (key, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let (key, value) = (key.trim_start_matches('-').to_ascii_lowercase().replace('_', "-"), value.trim());
        match key.as_str() {
            "" => bail!(
                "/set: found no key, expected one such as temp, top-k, ctx-size, system; /show parameters lists them"
            ),
            "system" => self.system(value),
            "verbose" => self.verbose = true,
            "quiet" => self.verbose = false,
            "think" | "nothink" => {
                let think = key == "think" && value != "false";
                self.conversation.variables.insert("enable_thinking".to_owned(), Value::Bool(think));
                tell(format_args!("enable_thinking is {think}, for templates that ask for it"));
            }
            "history" | "nohistory" => self.remember(key == "history"),
            "format" | "noformat" => self.format(if key == "format" { value } else { "none" }, talk)?,
            "stop" | "reverse-prompt" => self.stops.push(unquoted(value).to_owned()),
            "n-predict" | "predict" | "num-predict" | "n" => {
                let n: i64 = value
                    .parse()
                    .ok()
                    .filter(|&n| n >= -2)
                    .with_context(|| wrong(&key, value, "a number of tokens, or -1"))?;
                self.limit = usize::try_from(n).unwrap_or(usize::MAX);
            }
            "ctx-size" | "num-ctx" | "c" | "context" => return self.context(&key, value, talk),
            _ => {
                let mut options = talk.generator.sampler.options().clone();
                options.set(&key, unquoted(value)).context("/set")?;
                talk.generator.sampler.set_options(options);
                equip(&mut talk.generator.sampler, &self.models.tokenizer);
            }
        }
        Ok(Next::Read)
    }

    /// A context of another size: its cache is made anew, so the conversation is computed again with the next answer.
    fn context(&self, key: &str, value: &str, talk: &Talk) -> anyhow::Result<Next> {
        let trained = self.models.model.spec.context;
        let n: usize = value.parse().ok().with_context(|| wrong(key, value, "a number of tokens"))?;
        let n = if n == 0 { trained } else { n };
        let per_token = talk.session.engine().kv_types().bytes_per_token(&self.models.model.spec);
        if !fits_in_memory(per_token, n) {
            bail!("/set {key}: found {n}, expected a cache that fits in memory, at {per_token} bytes a token");
        }
        if n > trained {
            tell(format_args!(
                "warning: the model was trained for {trained} tokens; beyond them it may lose the thread"
            ));
        }
        tell(format_args!("the context is {n} tokens; what was said is computed again with the next answer"));
        Ok(Next::Context(n))
    }

    fn remember(&mut self, yes: bool) {
        if let super::Input::Terminal(terminal) = &mut self.input {
            terminal.remembers = yes;
        }
    }

    /// `json`, a JSON schema, or `none`.
    fn format(&self, format: &str, talk: &mut Talk) -> anyhow::Result<()> {
        let grammar = match format {
            "" => bail!("/set format: found nothing, expected json, a JSON schema or none"),
            "none" => None,
            "json" => Some("{}"),
            schema => Some(schema),
        };
        let grammar = grammar
            .map(|schema| grammar_args::json(&self.models.tokenizer, schema))
            .transpose()
            .context("/set format")?;
        talk.generator.sampler.set_grammar(grammar);
        Ok(())
    }
}

fn wrong(key: &str, value: &str, expected: &str) -> String {
    format!("/set {key}: found {value:?}, expected {expected}")
}
