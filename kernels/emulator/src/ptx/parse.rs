//! Text to kernels: directives, declarations, labels, and statements for `decode`.

use super::decode::{Decoder, Statement};
use super::{Kernel, Module};
use std::collections::HashMap;

/// Parses a file.
///
/// # Errors
/// The line, and what about it is not understood: nothing is passed over in silence.
pub fn parse(text: &str) -> Result<Module, String> {
    let text = without_comments(text);
    let mut module = Module { version: 0, target: 0, kernels: Vec::new() };
    let mut lines = text.lines().enumerate().peekable();
    while let Some((n, line)) = lines.next() {
        let line = line.trim();
        let number =
            |text: &str| text.trim().parse::<f64>().map_err(|_| format!("line {}: a number is missing", n + 1));
        if let Some(version) = line.strip_prefix(".version") {
            module.version = (number(version)? * 10.0).round() as u32;
        } else if let Some(target) = line.strip_prefix(".target") {
            let digits: String =
                target.trim().trim_start_matches("sm_").chars().take_while(char::is_ascii_digit).collect();
            module.target = number(&digits)? as u32;
        } else if line.contains(".entry") {
            let (mut head, mut start) = (line.to_owned(), n);
            while !head.contains('{') {
                let (at, next) = lines.next().ok_or("a kernel without a body")?;
                start = at;
                head.push(' ');
                head.push_str(next.trim());
            }
            let mut body = Vec::new();
            let mut depth = 1;
            for (at, line) in lines.by_ref() {
                depth += line.matches('{').count() as i32 - line.matches('}').count() as i32;
                if depth == 0 {
                    break;
                }
                body.push((at + 1, line));
            }
            module.kernels.push(kernel(&head, &body).map_err(|e| format!("kernel at line {}: {e}", start + 1))?);
        } else if line.contains(".func") {
            return Err(format!("line {}: functions are not executed here: inline them", n + 1));
        }
    }
    Ok(module)
}

fn without_comments(text: &str) -> String {
    let line = |line: &str| line.split("//").next().unwrap_or("").to_owned();
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

/// The number after a directive of the head.
fn directive(head: &str, name: &str) -> Option<usize> {
    let rest = &head[head.find(name)? + name.len()..];
    let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn kernel(head: &str, body: &[(usize, &str)]) -> Result<Kernel, String> {
    let after = &head[head.find(".entry").ok_or("no .entry")? + 6..];
    let open = after.find('(').ok_or("no parameters")?;
    let name = after[..open].trim().to_owned();
    let close = after.find(')').ok_or("no end of the parameters")?;
    let mut decoder = Decoder::default();
    let (mut parameters, mut arguments) = (0usize, Vec::new());
    for part in after[open + 1..close].split(',').filter(|p| !p.trim().is_empty()) {
        let (name, bytes, align) = declared(part.trim().trim_start_matches(".param").trim())?;
        parameters = parameters.next_multiple_of(align);
        decoder.symbols.insert(name, parameters as u64);
        arguments.push((bytes, parameters));
        parameters += bytes;
    }
    let most_threads = directive(&head[head.find(')').unwrap_or(0)..], ".maxntid").unwrap_or(1024);

    let (mut shared, mut local) = (0usize, 0usize);
    let mut labels = HashMap::new();
    let mut pending = String::new();
    for &(line, text) in body {
        pending.push_str(text);
        pending.push(' ');
        while let Some(end) = pending.find([';', ':']) {
            // A colon ends a label, except within a name of C++.
            let is_label = pending.as_bytes()[end] == b':';
            let statement: String = pending.drain(..=end).collect();
            let statement = statement[..statement.len() - 1].trim().trim_start_matches(['{', '}', ' ', '\t']).trim();
            if is_label {
                labels.insert(statement.to_owned(), decoder.code.len());
                continue;
            }
            let declaration = |space: &str| statement.strip_prefix(space).map(str::trim);
            if statement.is_empty() || statement.starts_with(".reg") || statement.starts_with(".pragma") {
                continue;
            }
            let place = match (declaration(".shared"), declaration(".local")) {
                (Some(text), _) => Some((text, &mut shared)),
                (_, Some(text)) => Some((text, &mut local)),
                _ => None,
            };
            if let Some((text, used)) = place {
                let (name, bytes, align) = declared(text)?;
                *used = used.next_multiple_of(align);
                decoder.symbols.insert(name, *used as u64);
                *used += bytes;
                continue;
            }
            if statement.starts_with('.') {
                return Err(format!("line {line}: {statement:?} is not understood"));
            }
            decoder.statement(&Statement { text: statement, line })?;
        }
    }
    // What the launch adds lies behind the rest; its name is declared outside.
    let dynamic = shared.next_multiple_of(16);
    let (code, registers, presets) = decoder.finish(&labels, dynamic as u64)?;
    Ok(Kernel { name, code, registers, presets, parameters, arguments, shared: dynamic, local, most_threads })
}

/// `.align 4 .b8 name[16]`: name, bytes, alignment.
fn declared(text: &str) -> Result<(String, usize, usize), String> {
    let (mut align, mut bytes, mut name) = (None, 1, "");
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            ".align" => align = words.next().and_then(|w| w.parse().ok()),
            ".ptr" | ".global" => {}
            _ if word.starts_with('.') => {
                let digits: String = word.chars().filter(char::is_ascii_digit).collect();
                bytes = digits.parse::<usize>().map_err(|_| format!("{text:?}: no size"))? / 8;
            }
            _ => name = word,
        }
    }
    let element = bytes;
    if let Some((base, count)) = name.split_once('[') {
        let count = count.trim_end_matches(']').parse::<usize>().map_err(|_| format!("{text:?}: no length"))?;
        return Ok((base.to_owned(), element * count, align.unwrap_or(element)));
    }
    Ok((name.to_owned(), element, align.unwrap_or(element)))
}
