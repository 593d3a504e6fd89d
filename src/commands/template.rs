//! `ostro template`: what a conversation looks like to a model, as text or as token ids.

use super::template_args::TemplateArgs;
use super::{input, print, resolve, tell_notes};
use crate::chat::{Form, Known, Message, Request};
use crate::gguf::Gguf;
use crate::tokenizer::Tokenizer;
use anyhow::{Context, bail};
use clap::Args;
use serde_json::Value;
use std::io::IsTerminal;
use std::path::PathBuf;

/// Flags of `ostro template`.
#[derive(Args, Debug)]
pub struct TemplateCommandArgs {
    /// A GGUF file, the first part of a split set, or an alias of the catalogue; not needed with --chat-template
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    positional: Option<String>,

    /// The same, in llama.cpp's way
    #[arg(short = 'm', long, value_name = "MODEL")]
    model: Option<String>,

    /// The messages in the OpenAI form, a JSON list or an object with "messages" and "tools"; - is standard input
    #[arg(long, value_name = "FILE.json")]
    messages: PathBuf,

    /// The tools in the OpenAI form, a JSON list
    #[arg(long, value_name = "FILE.json")]
    tools: Option<PathBuf>,

    /// End after the last message, and not where the model's answer begins
    #[arg(long)]
    no_generation_prompt: bool,

    /// Print the token ids, as a JSON list
    #[arg(long)]
    ids: bool,

    /// Without a model: the text of BOS
    #[arg(long, value_name = "TEXT")]
    bos: Option<String>,

    /// Without a model: the text of EOS
    #[arg(long, value_name = "TEXT")]
    eos: Option<String>,

    #[command(flatten)]
    template: TemplateArgs,
}

/// Prints the prompt of a conversation.
///
/// # Errors
/// Messages that are none or that the template refuses, a model or a template that cannot be read.
pub fn run(args: &TemplateCommandArgs) -> anyhow::Result<()> {
    let text = input::file(&args.messages)?;
    let named = || args.messages.display().to_string();
    let messages = Message::list(&text).with_context(named)?;
    let tools = args.tools(&text)?;
    let variables = args.template.variables()?;
    let request = Request {
        messages: &messages,
        tools: &tools,
        answer: !args.no_generation_prompt,
        variables: &variables,
        now: args.template.now()?,
    };
    let model = args.positional.as_deref().or(args.model.as_deref());
    let wanted = args.template.wanted()?;
    let (form, tokenizer) = match (model, &wanted) {
        (None, Some(wanted)) => {
            let text = |text: &Option<String>| text.clone().unwrap_or_default();
            (Form::wanted(wanted, &text(&args.bos), &text(&args.eos))?, None)
        }
        (model, _) => {
            if args.bos.is_some() || args.eos.is_some() {
                bail!("--bos, --eos: found a model too, whose own tokens count; leave these out, or name no model");
            }
            let gguf = Gguf::open(&resolve::model_path(model)?)?;
            let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;
            tell_notes(tokenizer.notes().iter());
            let form = args.template.form(gguf.metadata(), &tokenizer, !tools.is_empty())?;
            let none =
                || format!("{}: found no chat template, and none fits; give --chat-template", gguf.path().display());
            (form.with_context(none)?, Some(tokenizer))
        }
    };
    if !args.ids {
        let text = form.render(&request)?;
        print(&text)?;
        // A file or another program gets the text and nothing else.
        return if std::io::stdout().is_terminal() { print("\n") } else { Ok(()) };
    }
    let Some(tokenizer) = tokenizer else {
        bail!("--ids: found no model, expected one: ids are of its vocabulary");
    };
    let ids = form.encode(&request, &tokenizer, &Known::default())?;
    print(serde_json::to_string(&ids)? + "\n")
}

impl TemplateCommandArgs {
    /// The tools of the file, else those beside the messages.
    fn tools(&self, messages: &str) -> anyhow::Result<Vec<Value>> {
        let (text, file) = match &self.tools {
            Some(file) => (input::file(file)?, file),
            None => (messages.to_owned(), &self.messages),
        };
        let value: Value = serde_json::from_str(&text).with_context(|| format!("{}: found no JSON", file.display()))?;
        match value {
            Value::Array(tools) if self.tools.is_some() => Ok(tools),
            Value::Array(_) => Ok(Vec::new()),
            Value::Object(mut map) => match map.remove("tools") {
                None | Some(Value::Null) => Ok(Vec::new()),
                Some(Value::Array(tools)) => Ok(tools),
                Some(other) => bail!("{}: found {other} as \"tools\", expected a list", file.display()),
            },
            other => bail!("{}: found {other}, expected a list of tools", file.display()),
        }
    }
}
