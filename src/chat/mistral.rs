//! Mistral's forms v1, v2 and v3, as mistral-common encodes them (its `tokens/tokenizers/instruct.py`, and the rules of
//! `protocol/instruct/` on which messages there may be).
//!
//! ```text
//! v1   <s>| [INST] system\n\nfirst [/INST]| answer</s>| [INST] next [/INST]|          marks are text, | divides pieces
//! v2   <s>[INST]| user|[/INST]| answer|</s>[AVAILABLE_TOOLS]| tools|[/AVAILABLE_TOOLS][INST]| system\n\nlast|[/INST]
//!         [TOOL_CALLS]| calls|</s>[TOOL_RESULTS]| [result]|[/TOOL_RESULTS]             none before the last question
//! v3   the same, with ids in calls and results, all of them kept
//! ```
//!
//! Each piece of text is encoded on its own, with the space that the vocabulary puts before it. That is why no text can say
//! these forms: a text with `[INST]` in it becomes the control token, or a space too many.

use super::python::{Layout, dumps};
use super::{Error, Known, Message, Request};
use crate::tokenizer::{Encode, Tokenizer};
use serde_json::{Map, Value, json};

/// A version of the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
    V3,
}

/// A part of a prompt.
enum Piece {
    Control(&'static str),
    Text(String),
}

use Piece::{Control, Text};

/// The vocabulary's first ids of v2 and v3.
const CONTROLS: [&str; 7] = [
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
];

impl Version {
    pub fn name(self) -> &'static str {
        match self {
            Version::V1 => "mistral-v1",
            Version::V2 => "mistral-v2",
            Version::V3 => "mistral-v3",
        }
    }

    /// The version that a vocabulary belongs to, if it is Mistral's: v2 and v3 have the control tokens 3 to 9, and v3 has
    /// `[IMG]` behind them, where v2 has `[PREFIX]`.
    pub fn of(tokenizer: &Tokenizer) -> Option<Version> {
        let is =
            |id: u32, name: &str| tokenizer.is_control(id) && tokenizer.piece(id).as_deref() == Some(name.as_bytes());
        // Later vocabularies have a place of its own for the system prompt, or put no space before text.
        if !tokenizer.spaces_text() || tokenizer.id_of("[SYSTEM_PROMPT]").is_some_and(|id| tokenizer.is_control(id)) {
            return None;
        }
        if CONTROLS.iter().zip(3..).all(|(name, id)| is(id, name)) {
            return Some(if is(10, "[PREFIX]") { Version::V2 } else { Version::V3 });
        }
        (tokenizer.n_vocab() == 32000 && tokenizer.id_of("[INST]").is_none()).then_some(Version::V1)
    }

    /// The text of a prompt, with the spaces that the vocabulary puts before text.
    pub fn render(self, request: &Request) -> Result<String, Error> {
        let pieces = self.pieces(request)?;
        let mut out = String::from("<s>");
        for piece in pieces {
            match piece {
                Control(name) => out.push_str(name),
                Text(text) => {
                    out.push(' ');
                    out.push_str(&text);
                }
            }
        }
        Ok(out)
    }

    /// The tokens of a prompt.
    pub fn encode(self, request: &Request, tokenizer: &Tokenizer, known: &Known) -> Result<Vec<u32>, Error> {
        let no_token = |name: &str| Error::NoToken { form: self.name().to_owned(), token: name.to_owned() };
        let mut ids = vec![tokenizer.bos().ok_or_else(|| no_token("<s>"))?];
        for piece in self.pieces(request)? {
            match piece {
                Control("</s>") => ids.push(tokenizer.eos().ok_or_else(|| no_token("</s>"))?),
                Control(name) => ids.push(tokenizer.id_of(name).ok_or_else(|| no_token(name))?),
                Text(text) => match known.get(&text) {
                    Some(known) => ids.extend_from_slice(known),
                    None => ids.extend(tokenizer.encode(&text, Encode { bos: false, special: false })),
                },
            }
        }
        Ok(ids)
    }

    fn pieces(self, request: &Request) -> Result<Vec<Piece>, Error> {
        self.check(request)?;
        let system: Vec<&str> = request
            .messages
            .iter()
            .filter(|m| m.role() == "system" && !m.text().is_empty())
            .map(Message::text)
            .collect();
        let system = system.join("\n\n");
        let turns = turns(request.messages);
        let users: Vec<usize> = (0..turns.len()).filter(|&i| matches!(turns[i], Turn::User(_))).collect();
        let (first, last) = (users.first().copied(), users.last().copied());
        if self == Version::V2 {
            let asked = &turns[last.unwrap_or(0)..];
            let both = |two: &[Turn]| two.iter().all(|turn| matches!(turn, Turn::Result { .. }));
            if asked.windows(2).any(both) {
                return Err(Error::Mistral(
                    "found several results of one answer's calls, mistral-v2 has one".to_owned(),
                ));
            }
        }
        let bears = |i: usize| Some(i) == if self == Version::V1 { first } else { last };
        let mut out = Vec::new();
        for (i, turn) in turns.iter().enumerate() {
            let past = Some(i) < last;
            match turn {
                Turn::User(text) => {
                    let text = match bears(i) && !system.is_empty() {
                        true => format!("{system}\n\n{text}"),
                        false => text.clone(),
                    };
                    self.user(text, if Some(i) == last { request.tools } else { &[] }, &mut out);
                }
                Turn::Answer { text, prefix } => {
                    let text = if self == Version::V1 { text } else { text.trim_end_matches(' ') };
                    out.push(Text(text.to_owned()));
                    if !prefix {
                        out.push(Control("</s>"));
                    }
                }
                Turn::Calls(_) | Turn::Result { .. } if self == Version::V2 && past => {}
                Turn::Calls(calls) => {
                    out.extend([
                        Control("[TOOL_CALLS]"),
                        Text(python(&Value::Array(self.calls(calls)))),
                        Control("</s>"),
                    ]);
                }
                Turn::Result { name, id, content } => {
                    let result = match self {
                        Version::V3 => json!({ "content": content, "call_id": id }),
                        _ => json!([{ "name": name, "content": content }]),
                    };
                    out.extend([Control("[TOOL_RESULTS]"), Text(python(&result)), Control("[/TOOL_RESULTS]")]);
                }
            }
        }
        Ok(out)
    }

    fn user(self, text: String, tools: &[Value], out: &mut Vec<Piece>) {
        if self == Version::V1 {
            out.push(Text(format!("[INST] {text} [/INST]")));
            return;
        }
        if !tools.is_empty() {
            let tools = tools.iter().map(tool).collect();
            out.extend([
                Control("[AVAILABLE_TOOLS]"),
                Text(python(&Value::Array(tools))),
                Control("[/AVAILABLE_TOOLS]"),
            ]);
        }
        out.push(Control("[INST]"));
        if !text.is_empty() {
            out.push(Text(text));
        }
        out.push(Control("[/INST]"));
    }

    fn calls(self, calls: &[Value]) -> Vec<Value> {
        let call = |call: &Value| {
            let mut out = Map::new();
            out.insert("name".to_owned(), call["function"]["name"].clone());
            out.insert("arguments".to_owned(), parsed(&call["function"]["arguments"]));
            if let Some(id) = call["id"].as_str().filter(|id| self == Version::V3 && !id.is_empty() && *id != "null") {
                out.insert("id".to_owned(), Value::from(id));
            }
            Value::Object(out)
        };
        calls.iter().map(call).collect()
    }

    /// The rules on which messages there may be.
    fn check(self, request: &Request) -> Result<(), Error> {
        let wrong = |what: String| Err(Error::Mistral(what));
        let messages = request.messages;
        let Some(end) = messages.last() else { return wrong("found none, expected one at least".to_owned()) };
        let mut before: Option<&str> = None;
        let mut owed = 0i64;
        for (i, m) in messages.iter().enumerate() {
            let follows: &[&str] = match before {
                None => &["system", "user", "assistant"],
                Some("system") => &["user", "assistant", "system"],
                Some("user") => &["assistant", "system", "user"],
                Some("assistant") => &["assistant", "user", "tool"],
                Some(_) => &["assistant", "tool", "user"],
            };
            if !follows.contains(&m.role()) {
                let place = before.map_or("at the beginning".to_owned(), |b| format!("after {b:?}"));
                return wrong(format!("found role {:?} {place}, expected one of {}", m.role(), follows.join(", ")));
            }
            let calls = calls_of(m);
            match m.role() {
                "assistant" => {
                    if owed != 0 {
                        return wrong(format!(
                            "found an answer as number {i} after another number of results than calls"
                        ));
                    }
                    if m.text().is_empty() == calls.is_empty() {
                        return wrong(format!(
                            "found message {i} with both text and tool calls or neither, expected one"
                        ));
                    }
                    if is_prefix(m) && i + 1 < messages.len() {
                        return wrong(format!("found a prefix as number {i}, expected it at the end"));
                    }
                    owed = if i == 0 { 0 } else { calls.len() as i64 };
                }
                "tool" => owed -= i64::from(i > 0),
                _ => {}
            }
            if self == Version::V1 && (!calls.is_empty() || m.role() == "tool") {
                return wrong("found tools, which the form mistral-v1 has not".to_owned());
            }
            self.check_ids(m, calls)?;
            before = Some(m.role());
        }
        if request.answer && end.role() == "assistant" && !is_prefix(end) {
            return wrong("found an answer at the end, expected a question or a tool's result".to_owned());
        }
        Ok(())
    }

    fn check_ids(self, message: &Message, calls: &[Value]) -> Result<(), Error> {
        let nine = |id: &str| id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric());
        let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        let name = |name: &str| (1..=64).contains(&name.len()) && name.bytes().all(letter);
        let id = message.fields().get("tool_call_id").filter(|_| message.role() == "tool");
        let ids = calls.iter().map(|call| &call["id"]).chain(id);
        let missing = self == Version::V3 && message.role() == "tool" && id.is_none();
        if missing {
            return Err(Error::Mistral("found a tool's result without \"tool_call_id\"".to_owned()));
        }
        for id in ids.filter(|_| self == Version::V3) {
            if !id.as_str().is_some_and(nine) {
                return Err(Error::Mistral(format!(
                    "found {id} as id of a tool call, expected nine letters and digits"
                )));
            }
        }
        for call in calls {
            let called = &call["function"]["name"];
            if !called.as_str().is_some_and(name) {
                return Err(Error::Mistral(format!(
                    "found {called} as name of a function, expected up to 64 letters, digits, _ and -"
                )));
            }
        }
        Ok(())
    }
}

/// A turn, with neighbours of one role put together.
enum Turn {
    User(String),
    Answer { text: String, prefix: bool },
    Calls(Vec<Value>),
    Result { name: Value, id: Value, content: Value },
}

fn turns(messages: &[Message]) -> Vec<Turn> {
    let mut turns = Vec::new();
    for group in messages.chunk_by(|a, b| a.role() == b.role()) {
        let texts: Vec<&str> = group.iter().map(Message::text).filter(|t| !t.is_empty()).collect();
        match group[0].role() {
            "user" => turns.push(Turn::User(texts.join("\n\n"))),
            "assistant" => {
                let calls: Vec<Value> = group.iter().flat_map(calls_of).cloned().collect();
                turns.push(match calls.is_empty() {
                    true => Turn::Answer { text: texts.join("\n\n"), prefix: group.iter().any(is_prefix) },
                    false => Turn::Calls(calls),
                });
            }
            "tool" => turns.extend(group.iter().map(|m| {
                let field = |name: &str| m.fields().get(name).cloned().unwrap_or_default();
                Turn::Result { name: field("name"), id: field("tool_call_id"), content: parsed(&Value::from(m.text())) }
            })),
            _ => {}
        }
    }
    if !matches!(turns.first(), Some(Turn::User(_))) {
        turns.insert(0, Turn::User(String::new()));
    }
    turns
}

fn calls_of(message: &Message) -> &[Value] {
    message.fields().get("tool_calls").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn is_prefix(message: &Message) -> bool {
    message.fields().get("prefix").is_some_and(|p| p.as_bool() == Some(true))
}

/// What a text of JSON means; another text is itself, none is an empty object.
fn parsed(value: &Value) -> Value {
    match value {
        Value::Null => json!({}),
        Value::String(text) if text.is_empty() => json!({}),
        Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| value.clone()),
        other => other.clone(),
    }
}

/// A tool with the fields and in the order that Mistral writes.
fn tool(tool: &Value) -> Value {
    let function = &tool["function"];
    let or = |value: &Value, default: Value| if value.is_null() { default } else { value.clone() };
    json!({
        "type": or(&tool["type"], json!("function")),
        "function": {
            "name": function["name"],
            "description": or(&function["description"], json!("")),
            "parameters": or(&function["parameters"], json!({})),
        },
    })
}

/// `json.dumps(value, ensure_ascii=False)`.
fn python(value: &Value) -> String {
    dumps(&minijinja::Value::from(minijinja::value::Serde(value)), &Layout::plain()).unwrap_or_default()
}
