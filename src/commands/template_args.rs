//! The flags that say which form a conversation has.

use super::{input, tell};
use crate::chat::Form;
use crate::gguf::Metadata;
use crate::tokenizer::Tokenizer;
use anyhow::{Context, bail};
use chrono::NaiveDateTime;
use clap::Args;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Which form a conversation has.
#[derive(Args, Debug)]
#[command(next_help_heading = "Chat template")]
pub struct TemplateArgs {
    /// The form of the conversation: a name such as chatml, llama3 or mistral-v3, a file, or a Jinja template
    #[arg(long, value_name = "NAME|FILE|TEXT", allow_hyphen_values = true, conflicts_with = "chat_template_file")]
    pub chat_template: Option<String>,

    /// A file with a Jinja template
    #[arg(long, value_name = "FILE")]
    pub chat_template_file: Option<PathBuf>,

    /// Further variables of the template, as a JSON object: '{"enable_thinking": false}'
    #[arg(long, value_name = "JSON")]
    chat_template_kwargs: Option<String>,

    /// The time that a template may ask for, as 2024-07-26T12:34:56, instead of the clock's
    #[arg(long, value_name = "TIME")]
    now: Option<String>,

    /// Templates are always Jinja here: taken, as llama.cpp has it
    #[arg(long, hide = true)]
    jinja: bool,
}

impl TemplateArgs {
    /// The template or name that was given.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn wanted(&self) -> anyhow::Result<Option<String>> {
        let file = self.chat_template_file.as_deref();
        let file = file.or(self.chat_template.as_deref().map(Path::new).filter(|p| p.is_file()));
        match (file, &self.chat_template) {
            (Some(file), _) => {
                let text = input::file(file)?;
                if !text.contains("{{") && !text.contains("{%") {
                    bail!("{}: found no {{{{ or {{% in it, expected a Jinja template", file.display());
                }
                Ok(Some(text))
            }
            (None, given) => Ok(given.clone()),
        }
    }

    /// The form: the one that was given, the file's, or the one that its vocabulary shows, which is told.
    ///
    /// # Errors
    /// A form that does not exist, or is broken.
    pub fn form(&self, md: &Metadata, tokenizer: &Tokenizer, tools: bool) -> anyhow::Result<Option<Form>> {
        let file = || md.file().display().to_string();
        let wanted = self.wanted()?;
        let (form, note) = Form::choose(md, tokenizer, wanted.as_deref(), tools).with_context(file)?;
        if let Some(note) = note {
            tell(format_args!("note: {note}; --chat-template names another"));
        }
        Ok(form)
    }

    /// Further variables of the template.
    ///
    /// # Errors
    /// What is no JSON object.
    pub fn variables(&self) -> anyhow::Result<Map<String, Value>> {
        let Some(text) = &self.chat_template_kwargs else { return Ok(Map::new()) };
        match serde_json::from_str(text) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(other) => bail!("--chat-template-kwargs: found {other}, expected a JSON object"),
            Err(e) => bail!(
                "--chat-template-kwargs: found no JSON ({e}), expected an object such as {{\"enable_thinking\": false}}"
            ),
        }
    }

    /// The time that was given.
    ///
    /// # Errors
    /// What is no time.
    pub fn now(&self) -> anyhow::Result<Option<NaiveDateTime>> {
        let Some(text) = &self.now else { return Ok(None) };
        let time = text
            .parse()
            .ok()
            .with_context(|| format!("--now: found {text:?}, expected a time such as 2024-07-26T12:34:56"))?;
        Ok(Some(time))
    }
}
