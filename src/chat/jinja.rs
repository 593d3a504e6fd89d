//! Chat templates, rendered as transformers renders them.
//!
//! That is Jinja2 with blocks trimmed, loop controls, `raise_exception`, `strftime_now`, `{% generation %}`, and a `tojson`
//! that is Python's `json.dumps`. Values are written as Python writes them, and strings have Python's methods. Lists
//! cannot be changed (transformers' environment is a sandbox that refuses it).

use super::python::{Layout, dumps, str};
use super::{Error, Request};
use chrono::format::{Item, StrftimeItems};
use chrono::{Local, NaiveDateTime};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, ValueKind, from_args};
use minijinja::{Environment, ErrorKind, State, Value, context};
use regex::Regex;

/// A chat template.
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
}

const NAME: &str = "chat";
const RAISED: &str = "raised by the template: ";

type Answer<T> = Result<T, minijinja::Error>;

impl ChatTemplate {
    /// Parses a template; `bos` and `eos` are the texts of those tokens.
    ///
    /// # Errors
    /// [`Error::Template`] with the line.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<ChatTemplate, Error> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.expect("only whitespace is configured"));
        env.set_unknown_method_callback(method);
        env.set_formatter(|out, _, value| Ok(out.write_str(&str(value))?));
        env.add_filter("tojson", to_json);
        env.add_filter("indent", indent);
        env.add_filter("string", |value: &Value| str(value));
        env.add_function("raise_exception", |message: String| -> Answer<Value> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
        });
        env.add_template_owned(NAME, without_generation(source)).map_err(|e| failed(&e))?;
        Ok(ChatTemplate { env, source: source.to_owned(), bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// The template itself.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of BOS.
    pub(super) fn bos(&self) -> &str {
        &self.bos
    }

    /// The prompt.
    ///
    /// # Errors
    /// [`Error::Refused`] with the template's own message, or [`Error::Template`].
    pub fn render(&self, request: &Request) -> Result<String, Error> {
        let messages: Vec<Value> = request.messages.iter().map(|m| Value::from(Serde(m.fields()))).collect();
        self.render_values(Value::from(messages), Value::from(Serde(request.tools)), request)
    }

    /// [`ChatTemplate::render`], with messages and tools that the caller has changed.
    pub(super) fn render_values(&self, messages: Value, tools: Value, request: &Request) -> Result<String, Error> {
        let now = request.now.unwrap_or_else(|| Local::now().naive_local());
        let tools = if request.tools.is_empty() { Value::from(()) } else { tools };
        let variables = Value::from(Serde(request.variables));
        let template = self.env.get_template(NAME).map_err(|e| failed(&e))?;
        let context = context! {
            messages,
            tools,
            documents => Value::from(()),
            add_generation_prompt => request.answer,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            strftime_now => Value::from_function(move |format: String| strftime(now, &format)),
            ..variables,
        };
        template.render(context).map_err(|e| failed(&e))
    }
}

/// `{% generation %}` only marks what a model has written, for training.
fn without_generation(source: &str) -> String {
    let tag = |name: &str| Regex::new(&format!(r"\{{%([-+]?)\s*{name}\s*([-+]?)%\}}")).expect("a constant");
    let opened = tag("generation").replace_all(source, "{%${1} if true ${2}%}");
    tag("endgeneration").replace_all(&opened, "{%${1} endif ${2}%}").into_owned()
}

/// What Python's `strftime` writes; letters that it does not know stay.
fn strftime(now: NaiveDateTime, format: &str) -> String {
    let mut out = String::new();
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        // The percent sign, a flag that glibc knows, and the letter.
        let flag = usize::from(rest[1..].starts_with(['-', '_', '0', '^', '#']));
        let letter = rest[1 + flag..].chars().next();
        let len = 1 + flag + letter.map_or(0, char::len_utf8);
        let (directive, after) = rest.split_at(len);
        let items: Vec<Item> = StrftimeItems::new(directive).collect();
        match items.iter().any(|i| matches!(i, Item::Error)) {
            true => out.push_str(directive),
            false => out.push_str(&now.format_with_items(items.iter()).to_string()),
        }
        rest = after;
    }
    out + rest
}

/// transformers' filter: `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn to_json(
    value: &Value,
    ascii: Option<bool>,
    indent: Option<Value>,
    separators: Option<Value>,
    kwargs: Kwargs,
) -> Answer<Value> {
    let named = |given: Option<Value>, name: &str| -> Answer<Option<Value>> {
        Ok(given.or(kwargs.get(name)?).filter(|v| !v.is_none()))
    };
    let indent = named(indent, "indent")?.map(usize::try_from).transpose()?;
    let separators: Option<Vec<String>> = match named(separators, "separators")? {
        Some(both) => Some(both.try_iter()?.map(|v| str(&v)).collect()),
        None => None,
    };
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        _ => (", ".to_owned(), ": ".to_owned()),
    };
    let truth = |given: Option<bool>, name: &str| -> Answer<bool> {
        Ok(named(given.map(Value::from), name)?.is_some_and(|v| v.is_true()))
    };
    let layout = Layout { ascii: truth(ascii, "ensure_ascii")?, indent, item, key, sorted: truth(None, "sort_keys")? };
    kwargs.assert_all_used()?;
    let json = dumps(value, &layout).ok_or_else(|| {
        let what = format!("tojson: found {}, which is no JSON value", value.kind());
        minijinja::Error::new(ErrorKind::InvalidOperation, what)
    })?;
    Ok(Value::from_safe_string(json))
}

/// Jinja2's `indent(width=4, first=False, blank=False)`: a line's end at the end of the text stays.
fn indent(
    text: &str,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Answer<String> {
    let truth = |given: Option<bool>, name: &str| -> Answer<bool> { Ok(given.or(kwargs.get(name)?).unwrap_or(false)) };
    let (first, blank) = (truth(first, "first")?, truth(blank, "blank")?);
    let width = match width.or(kwargs.get("width")?) {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(width)?.min(1 << 12)),
        },
    };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    for (i, line) in text.split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&width);
        }
        out.push_str(line.strip_suffix('\r').unwrap_or(line));
    }
    Ok(out)
}

/// Python's methods: those of minijinja-contrib, and the ones that it has not.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Answer<Value> {
    if let (ValueKind::String, Some(text)) = (value.kind(), value.as_str())
        && let Some(found) = string_method(text, name, args)?
    {
        return Ok(found);
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Answer<Option<Value>> {
    let one = || -> Answer<&str> { Ok(from_args::<(&str,)>(args)?.0) };
    let parts = |(a, b, c): (&str, &str, &str)| Value::from([a, b, c].map(Value::from).to_vec());
    Ok(Some(match name {
        "removeprefix" => Value::from(text.strip_prefix(one()?).unwrap_or(text)),
        "removesuffix" => Value::from(text.strip_suffix(one()?).unwrap_or(text)),
        "partition" => {
            let at = one()?;
            parts(text.split_once(at).map_or((text, "", ""), |(a, b)| (a, at, b)))
        }
        "rpartition" => {
            let at = one()?;
            parts(text.rsplit_once(at).map_or(("", "", text), |(a, b)| (a, at, b)))
        }
        "isspace" => Value::from(!text.is_empty() && text.chars().all(char::is_whitespace)),
        "casefold" => Value::from(text.to_lowercase()),
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            let zeros = width.saturating_sub(text.chars().count()).min(1 << 16);
            Value::from(format!("{sign}{}{digits}", "0".repeat(zeros)))
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<&str>) = from_args(args)?;
            let missing = width.saturating_sub(text.chars().count()).min(1 << 16);
            let left = match name {
                "ljust" => 0,
                "rjust" => missing,
                _ => missing / 2 + (missing & width & 1),
            };
            let fill = fill.unwrap_or(" ");
            Value::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left)))
        }
        "rsplit" => {
            let (at, most): (Option<&str>, Option<i64>) = from_args(args)?;
            let most = most.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX - 1);
            let mut found: Vec<&str> = match at {
                Some(at) => text.rsplitn(most.saturating_add(1), at).collect(),
                None => {
                    let mut rest = text.trim_end();
                    let mut found = Vec::new();
                    while found.len() < most
                        && let Some((before, last)) = rest.rsplit_once(char::is_whitespace)
                    {
                        found.push(last);
                        rest = before.trim_end();
                    }
                    if !rest.trim_start().is_empty() {
                        found.push(rest.trim_start());
                    }
                    found
                }
            };
            found.reverse();
            Value::from(found.into_iter().map(Value::from).collect::<Vec<_>>())
        }
        _ => return Ok(None),
    }))
}

fn failed(error: &minijinja::Error) -> Error {
    let message = error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned);
    match message.strip_prefix(RAISED) {
        Some(raised) => Error::Refused(raised.to_owned()),
        None => Error::Template { line: error.line().unwrap_or(0), message },
    }
}
