//! Messages to the tokens of a prompt.
//!
//! Three kinds of [`Form`]: the chat template that a file carries, rendered as Hugging Face transformers renders it
//! ([`jinja`]); Mistral's forms v1 to v3, which no text can say exactly, piece by piece as mistral-common encodes them
//! ([`mistral`]); and named forms for files without a template ([`named`]).
//!
//! Control tokens inside what somebody says stay text, in every form.

mod form;
mod jinja;
mod known;
mod message;
mod mistral;
mod named;
mod python;

pub use form::Form;
pub use jinja::ChatTemplate;
pub use known::Known;
pub use message::{Message, Request};

/// Why there is no prompt.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The template is not valid Jinja, or uses what is not known here.
    #[error("chat template: line {line}: {message}; --chat-template names another, `run --raw` does without")]
    Template {
        /// Line of the template.
        line: usize,
        /// What the engine says.
        message: String,
    },
    /// The template refused the messages, in its own words.
    #[error("chat template: refuses the messages: {0}")]
    Refused(String),
    /// Messages that are not in the OpenAI form.
    #[error("messages: {0}")]
    Messages(String),
    /// Messages that one of Mistral's forms has no place for.
    #[error("messages: {0}")]
    Mistral(String),
    /// A form that does not exist.
    #[error("--chat-template: found {found:?}, expected a file, a template with {{{{ or {{% in it, or one of {known}")]
    Unknown {
        /// What was asked for.
        found: String,
        /// What there is.
        known: String,
    },
    /// A form that the vocabulary has no tokens for.
    #[error(
        "--chat-template: {form} needs the control token {token}, and the model's vocabulary has none; name another"
    )]
    NoToken {
        /// The form.
        form: String,
        /// The token.
        token: String,
    },
    /// A template that the file has in a form that cannot be read.
    #[error(transparent)]
    File(#[from] crate::gguf::Error),
}
