//! What Python writes where it writes values: `json.dumps`, `str` and `repr`, which templates rely on to the byte.

use minijinja::Value;
use minijinja::value::ValueKind;

/// How `json.dumps` lays out.
pub(super) struct Layout {
    /// Only ASCII: everything else is escaped.
    pub ascii: bool,
    /// Spaces of a level; `None` keeps all on one line.
    pub indent: Option<usize>,
    /// Between items.
    pub item: String,
    /// Between a key and its value.
    pub key: String,
    /// Keys in the order of their names.
    pub sorted: bool,
}

impl Layout {
    /// `json.dumps(value, ensure_ascii=False)`.
    pub fn plain() -> Layout {
        Layout { ascii: false, indent: None, item: ", ".to_owned(), key: ": ".to_owned(), sorted: false }
    }
}

/// `json.dumps`; `None` for what Python cannot write as JSON.
pub(super) fn dumps(value: &Value, layout: &Layout) -> Option<String> {
    let mut out = String::new();
    dump(value, layout, 0, &mut out)?;
    Some(out)
}

fn dump(value: &Value, layout: &Layout, level: usize, out: &mut String) -> Option<()> {
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => quote(value.as_str()?, layout.ascii, out),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter().ok()?.collect();
            block(layout, level, ['[', ']'], &items, out, |item, out| dump(item, layout, level + 1, out))?;
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter().ok()?.collect();
            if layout.sorted {
                keys.sort();
            }
            block(layout, level, ['{', '}'], &keys, out, |key, out| {
                match key.as_str() {
                    Some(name) => quote(name, layout.ascii, out),
                    None => quote(&dumps(key, layout)?, layout.ascii, out),
                }
                out.push_str(&layout.key);
                dump(&value.get_item(key).ok()?, layout, level + 1, out)
            })?;
        }
        _ => return None,
    }
    Some(())
}

fn block<T>(
    layout: &Layout,
    level: usize,
    [open, close]: [char; 2],
    items: &[T],
    out: &mut String,
    mut each: impl FnMut(&T, &mut String) -> Option<()>,
) -> Option<()> {
    let line = |level: usize, out: &mut String| {
        if let Some(indent) = layout.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * level));
        }
    };
    out.push(open);
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(&layout.item);
        }
        line(level + 1, out);
        each(item, out)?;
    }
    if !items.is_empty() {
        line(level, out);
    }
    out.push(close);
    Some(())
}

fn quote(text: &str, ascii: bool, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || ascii && !c.is_ascii() || ascii && c == '\u{7f}' => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// A number as `repr` writes it: 1, 1.0, 1e+16.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
}

/// The shortest digits that mean this float, with an exponent below 1e-4 and from 1e16 on.
fn float(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() {
            "NaN"
        } else if x > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned();
    }
    let size = x.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{x:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        return format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    format!("{x:?}")
}

/// `str(value)`: what `{{ value }}` writes.
pub(super) fn str(value: &Value) -> String {
    match (value.kind(), value.as_str()) {
        (_, Some(text)) => text.to_owned(),
        (ValueKind::Undefined, _) => String::new(),
        _ => repr(value),
    }
}

/// `repr(value)`: what stands inside of lists and dicts.
fn repr(value: &Value) -> String {
    match value.kind() {
        ValueKind::None => "None".to_owned(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.to_owned(),
        ValueKind::Number => match number(value).as_str() {
            "NaN" => "nan".to_owned(),
            "Infinity" => "inf".to_owned(),
            "-Infinity" => "-inf".to_owned(),
            number => number.to_owned(),
        },
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq => {
            let items: Vec<String> =
                value.try_iter().map(|items| items.map(|v| repr(&v)).collect()).unwrap_or_default();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Map => {
            let keys: Vec<Value> = value.try_iter().map(Iterator::collect).unwrap_or_default();
            let entry = |key: &Value| format!("{}: {}", repr(key), repr(&value.get_item(key).unwrap_or_default()));
            format!("{{{}}}", keys.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

/// A text in quotes: single ones, unless it has those and no double ones.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() && (c as u32) < 0x100 => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::value::Serde;

    fn value(json: &str) -> Value {
        Value::from(Serde(serde_json::from_str::<serde_json::Value>(json).unwrap()))
    }

    /// As Python 3.11 prints them.
    #[test]
    fn values_are_written_as_python_writes_them() {
        let rows = [
            ("[1, 1.0, -0.5, 1e16, 1.5e300, 1e-5, 0.0001]", "[1, 1.0, -0.5, 1e+16, 1.5e+300, 1e-05, 0.0001]"),
            (r#"{"a": [true, null], "b": "it's"}"#, r#"{'a': [True, None], 'b': "it's"}"#),
            (r#"["'\"\n\\é"]"#, r#"['\'"\n\\é']"#),
            ("true", "True"),
            (r#""text""#, "text"),
        ];
        for (json, want) in rows {
            assert_eq!(str(&value(json)), want, "{json}");
        }
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let json = r#"{"b":[1,2.5,"é\"\n\u0001"],"a":{},"c":[]}"#;
        let dump = |layout: &Layout| dumps(&value(json), layout).unwrap();
        let plain = Layout::plain();
        assert_eq!(dump(&plain), r#"{"b": [1, 2.5, "é\"\n\u0001"], "a": {}, "c": []}"#);
        let sorted = Layout { sorted: true, ascii: true, ..Layout::plain() };
        assert_eq!(dump(&sorted), r#"{"a": {}, "b": [1, 2.5, "\u00e9\"\n\u0001"], "c": []}"#);
        let indented = Layout { indent: Some(2), item: ",".to_owned(), ..plain };
        assert_eq!(
            dump(&indented),
            "{\n  \"b\": [\n    1,\n    2.5,\n    \"é\\\"\\n\\u0001\"\n  ],\n  \"a\": {},\n  \"c\": []\n}"
        );
        assert_eq!(dumps(&Value::UNDEFINED, &Layout::plain()), None);
    }
}
