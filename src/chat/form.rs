//! Which form a conversation has, and its prompts.

use super::jinja::ChatTemplate;
use super::mistral::Version;
use super::named::NAMED;
use super::{Error, Known, Request};
use crate::gguf::Metadata;
use crate::tokenizer::Tokenizer;
use minijinja::Value;
use minijinja::value::Serde;

/// The form of a conversation.
pub struct Form {
    name: String,
    kind: Kind,
}

enum Kind {
    /// Text with marks in it.
    Text(Box<ChatTemplate>),
    /// Pieces.
    Mistral(Version),
}

const TEMPLATE: &str = "tokenizer.chat_template";
/// The template that is taken where tools are offered, as transformers takes it.
const TOOL_USE: &str = "tokenizer.chat_template.tool_use";
const MISTRAL: [Version; 3] = [Version::V1, Version::V2, Version::V3];

impl Form {
    /// The form that `wanted` names (a name, or a template's text), else that of the file, else the one that its
    /// vocabulary shows; what a user should know comes with it. No form where nothing fits. Some files have
    /// a template of its own for conversations with `tools`.
    ///
    /// # Errors
    /// A name that is none, a template that cannot be parsed.
    pub fn choose(
        md: &Metadata,
        tokenizer: &Tokenizer,
        wanted: Option<&str>,
        tools: bool,
    ) -> Result<(Option<Form>, Option<String>), Error> {
        let text = |id: Option<u32>| {
            let piece = id.and_then(|id| tokenizer.piece(id)).unwrap_or_default();
            String::from_utf8_lossy(&piece).into_owned()
        };
        let (bos, eos) = (text(tokenizer.bos()), text(tokenizer.eos()));
        if let Some(wanted) = wanted {
            return Ok((Some(Form::wanted(wanted, &bos, &eos)?), None));
        }
        let own = match md.str(TOOL_USE)?.filter(|_| tools) {
            Some(source) => Some(source),
            None => md.str(TEMPLATE)?,
        };
        let mistral = Version::of(tokenizer);
        if let Some(source) = own {
            // A template's text cannot say what these forms are to the token.
            let form = match mistral.filter(|_| source.contains("[INST]") && !source.contains("<<SYS>>")) {
                Some(version) => Form { name: version.name().to_owned(), kind: Kind::Mistral(version) },
                None => Form::template("the file's template", source, &bos, &eos)?,
            };
            return Ok((Some(form), None));
        }
        let note =
            |name: &str| Some(format!("the file has no chat template; {name} is taken, as its vocabulary shows"));
        if let Some(version) = mistral.filter(|v| *v != Version::V1) {
            let form = Form { name: version.name().to_owned(), kind: Kind::Mistral(version) };
            return Ok((Some(form), note(version.name())));
        }
        let shown = NAMED.iter().find(|n| n.mark.is_some_and(|mark| tokenizer.id_of(mark).is_some()));
        match shown {
            Some(named) => Ok((Some(Form::template(named.name, named.source, &bos, &eos)?), note(named.name))),
            None => Ok((None, None)),
        }
    }

    /// The form of a name, or of a template's text.
    ///
    /// # Errors
    /// A name that is none, a template that cannot be parsed.
    pub fn wanted(wanted: &str, bos: &str, eos: &str) -> Result<Form, Error> {
        if wanted.contains("{{") || wanted.contains("{%") {
            return Form::template("the given template", wanted, bos, eos);
        }
        if let Some(version) = MISTRAL.into_iter().find(|v| v.name() == wanted) {
            return Ok(Form { name: wanted.to_owned(), kind: Kind::Mistral(version) });
        }
        match NAMED.iter().find(|n| n.name == wanted) {
            Some(named) => Form::template(named.name, named.source, bos, eos),
            None => Err(Error::Unknown { found: wanted.to_owned(), known: Form::names().join(", ") }),
        }
    }

    /// The names of all forms.
    pub fn names() -> Vec<&'static str> {
        MISTRAL.iter().map(|v| v.name()).chain(NAMED.iter().map(|n| n.name)).collect()
    }

    fn template(name: &str, source: &str, bos: &str, eos: &str) -> Result<Form, Error> {
        Ok(Form { name: name.to_owned(), kind: Kind::Text(Box::new(ChatTemplate::new(source, bos, eos)?)) })
    }

    /// Its name, for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its template, for people.
    pub fn source(&self) -> &str {
        match &self.kind {
            Kind::Text(template) => template.source(),
            Kind::Mistral(_) => "Mistral's own form, encoded piece by piece: no template",
        }
    }

    /// The prompt as text.
    ///
    /// # Errors
    /// Messages that the form refuses, in its own words.
    pub fn render(&self, request: &Request) -> Result<String, Error> {
        match &self.kind {
            Kind::Text(template) => template.render(request),
            Kind::Mistral(version) => version.render(request),
        }
    }

    /// The prompt as tokens, with BOS once; `known` texts have the ids that they had.
    ///
    /// # Errors
    /// As [`Form::render`], and a vocabulary without the form's tokens.
    pub fn encode(&self, request: &Request, tokenizer: &Tokenizer, known: &Known) -> Result<Vec<u32>, Error> {
        match &self.kind {
            Kind::Text(template) => {
                let messages = request.messages.iter().map(|m| guarded(m.fields(), tokenizer));
                let messages = Value::from(messages.collect::<Vec<_>>());
                let tools = guarded(request.tools, tokenizer);
                let text = template.render_values(messages, tools, request)?;
                let bos = template.bos();
                let has_bos = !bos.is_empty() && text.starts_with(bos);
                Ok(tokenizer.encode_rendered(&text, !has_bos, |part| known.get(part)))
            }
            Kind::Mistral(version) => version.encode(request, tokenizer, known),
        }
    }
}

/// A value whose texts hold no control token that the tokenizer would find.
fn guarded(value: impl serde::Serialize, tokenizer: &Tokenizer) -> Value {
    fn walk(value: &mut serde_json::Value, tokenizer: &Tokenizer) {
        match value {
            serde_json::Value::String(text) => {
                if let Some(guarded) = tokenizer.guarded(text) {
                    *text = guarded;
                }
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(|item| walk(item, tokenizer)),
            serde_json::Value::Object(map) => map.values_mut().for_each(|item| walk(item, tokenizer)),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(value).unwrap_or_default();
    walk(&mut value, tokenizer);
    Value::from(Serde(value))
}
