//! Messages in the OpenAI form, with all their fields: templates read what they please.

use super::Error;
use chrono::NaiveDateTime;
use serde_json::{Map, Value};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    fields: Map<String, Value>,
    /// Its text, put together from its parts.
    text: String,
}

/// What a prompt is made of.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What was said.
    pub messages: &'a [Message],
    /// Tools that the model may call, in the OpenAI form.
    pub tools: &'a [Value],
    /// Whether the prompt ends where the model's answer begins.
    pub answer: bool,
    /// Further variables of the template, such as `enable_thinking`.
    pub variables: &'a Map<String, Value>,
    /// The time that a template may ask for; `None` is the clock's.
    pub now: Option<NaiveDateTime>,
}

impl Message {
    /// A message of text.
    pub fn new(role: &str, text: &str) -> Message {
        let fields = [("role", role), ("content", text)];
        Message {
            fields: fields.into_iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect(),
            text: text.to_owned(),
        }
    }

    /// A message from its fields.
    ///
    /// # Errors
    /// Without a role, or with a content that is no text.
    pub fn from_fields(fields: Map<String, Value>) -> Result<Message, Error> {
        if !fields.get("role").is_some_and(Value::is_string) {
            return Err(Error::Messages(format!("found a message without a \"role\": {}", shown(&fields))));
        }
        let part = |part: &Value| match (part.as_str(), part.get("text").and_then(Value::as_str)) {
            (Some(text), _) | (None, Some(text)) => Some(text.to_owned()),
            // Images and sounds are the template's affair.
            (None, None) => part.is_object().then(String::new),
        };
        let text = match fields.get("content") {
            None | Some(Value::Null) => Some(String::new()),
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Array(parts)) => parts.iter().map(part).collect::<Option<Vec<_>>>().map(|p| p.join("\n\n")),
            Some(_) => None,
        };
        let wrong =
            || Error::Messages(format!("found a \"content\" that is neither text nor parts: {}", shown(&fields)));
        let text = text.ok_or_else(wrong)?;
        Ok(Message { text, fields })
    }

    /// The messages of a JSON text: a list, or an object with the list as `messages`.
    ///
    /// # Errors
    /// What is no such list, with the place.
    pub fn list(text: &str) -> Result<Vec<Message>, Error> {
        let value: Value = serde_json::from_str(text).map_err(|e| Error::Messages(format!("found no JSON: {e}")))?;
        let list = match value {
            Value::Array(list) => list,
            Value::Object(mut map) => match map.remove("messages") {
                Some(Value::Array(list)) => list,
                _ => return Err(Error::Messages("found an object without a list \"messages\"".to_owned())),
            },
            other => return Err(Error::Messages(format!("found {other}, expected a list of messages"))),
        };
        let message = |(i, value)| match value {
            Value::Object(fields) => Message::from_fields(fields),
            other => {
                Err(Error::Messages(format!("found {other} as number {i}, expected an object with role and content")))
            }
        };
        list.into_iter().enumerate().map(message).collect()
    }

    /// `system`, `user`, `assistant` or `tool`.
    pub fn role(&self) -> &str {
        self.fields["role"].as_str().unwrap_or_default()
    }

    /// The text; parts of it are joined by an empty line.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All fields.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }
}

fn shown(fields: &Map<String, Value>) -> String {
    let text = serde_json::to_string(fields).unwrap_or_default();
    text.chars().take(80).collect()
}
