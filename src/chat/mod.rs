//! Messages to the text of a prompt, through the chat template that a file carries.
//!
//! Templates are Jinja as Hugging Face transformers renders them: blocks trimmed, Python's string methods,
//! `raise_exception` and `tojson`.

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};

/// Why a template gave no prompt.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The template is not valid Jinja, or uses what is not known here.
    #[error("tokenizer.chat_template: line {line}: {message}; use --raw to prompt without it")]
    Template {
        /// Line of the template.
        line: usize,
        /// What the engine says.
        message: String,
    },
    /// The template refused the messages.
    #[error("tokenizer.chat_template: refuses the messages: {0}; use --raw to prompt without it")]
    Refused(String),
}

/// One message of a conversation.
#[derive(Clone, Debug)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: &str, content: &str) -> Message {
        Message { role: role.to_owned(), content: content.to_owned() }
    }
}

/// A chat template.
pub struct ChatTemplate {
    env: Environment<'static>,
    bos: String,
    eos: String,
}

const NAME: &str = "chat";
const RAISED: &str = "raised by the template: ";

impl ChatTemplate {
    /// Parses a template; `bos` and `eos` are the texts of those tokens.
    ///
    /// # Errors
    /// [`Error::Template`] with the line.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<ChatTemplate, Error> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.expect("only whitespace is configured"));
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
        });
        env.add_template_owned(NAME, source.to_owned()).map_err(|e| failed(&e))?;
        Ok(ChatTemplate { env, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// The prompt for `messages`; with `answer` it ends where the model's answer begins.
    ///
    /// # Errors
    /// [`Error::Refused`] with the template's own message, or [`Error::Template`].
    pub fn render(&self, messages: &[Message], answer: bool) -> Result<String, Error> {
        let template = self.env.get_template(NAME).map_err(|e| failed(&e))?;
        template
            .render(context! {
                messages => Value::from(messages.iter().map(message).collect::<Vec<_>>()),
                add_generation_prompt => answer,
                bos_token => self.bos.as_str(),
                eos_token => self.eos.as_str(),
            })
            .map_err(|e| failed(&e))
    }
}

fn message(m: &Message) -> Value {
    context! { role => m.role.as_str(), content => m.content.as_str() }
}

fn failed(error: &minijinja::Error) -> Error {
    let message = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    match message.strip_prefix(RAISED) {
        Some(raised) => Error::Refused(raised.to_owned()),
        None => Error::Template { line: error.line().unwrap_or(0), message },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{{ bos_token }}{% for m in messages %}\n  {% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}\n{{ '<|im_start|>' + m['role'] + '\n' + m['content'].strip() + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    #[test]
    fn a_template_renders_as_transformers_does() {
        let template = ChatTemplate::new(CHATML, "<s>", "</s>").unwrap();
        let messages = [Message::new("system", "Be brief."), Message::new("user", " Hi ")];
        let want = "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n";
        assert_eq!(template.render(&messages, false).unwrap(), want);
        assert_eq!(template.render(&messages, true).unwrap(), format!("{want}<|im_start|>assistant\n"));
    }

    #[test]
    fn what_a_template_raises_is_shown() {
        let template = ChatTemplate::new(CHATML, "", "").unwrap();
        let error = template.render(&[Message::new("tool", "x")], true).unwrap_err();
        assert_eq!(
            error.to_string(),
            "tokenizer.chat_template: refuses the messages: no tools; use --raw to prompt without it"
        );
    }

    #[test]
    fn a_broken_template_names_its_line() {
        let error = ChatTemplate::new("a\n{% if %}", "", "").err().unwrap();
        assert!(error.to_string().starts_with("tokenizer.chat_template: line 2: "), "{error}");
    }
}
