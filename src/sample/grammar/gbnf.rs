//! GBNF, llama.cpp's grammar language (its `grammars/README.md`), in the form that llguidance reads (Lark).
//!
//! GBNF says which characters follow each other and knows no words, while llguidance cuts the text into lexemes, the longest
//! first. Two ways give the same language all the same: a grammar without recursion is one regular expression, so one
//! lexeme; otherwise every character is a lexeme of its own, and no lexeme is the beginning of another.

use super::Error;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// A part of a rule.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    /// A character in one of these ranges, or in none of them.
    Class { ranges: Vec<(char, char)>, negated: bool },
    /// Another rule.
    Rule(String),
    /// One after the other.
    All(Vec<Node>),
    /// One of them.
    Any(Vec<Node>),
    /// So many times at least, and at most.
    Repeat(Box<Node>, u32, Option<u32>),
}

/// A grammar: its rules by name; the text obeys `root`.
pub(super) type Rules = BTreeMap<String, Node>;

/// A grammar for llguidance.
pub(super) fn to_lark(text: &str) -> Result<String, Error> {
    let rules = parse(text)?;
    let used = reachable(&rules);
    let one = !is_recursive(&rules);
    let mut lark = Lark { names: BTreeMap::new(), classes: BTreeMap::new() };
    // Names of words are in capitals, and so are those of characters.
    for (i, name) in used.iter().enumerate() {
        lark.names.insert(name, if one { format!("R{i}") } else { format!("r{i}") });
    }
    let mut out = format!("start: {}\n", lark.names["root"]);
    for name in &used {
        let body = lark.write(&rules[*name]);
        let _ = writeln!(out, "{}: {body}", lark.names[name]);
    }
    for (class, name) in &lark.classes {
        let _ = writeln!(out, "{name}: /{class}/");
    }
    Ok(out)
}

struct Lark<'r> {
    names: BTreeMap<&'r str, String>,
    /// Expressions of characters, and their names.
    classes: BTreeMap<String, String>,
}

impl Lark<'_> {
    fn write(&mut self, node: &Node) -> String {
        match node {
            Node::Class { ranges, negated } => {
                let class = class(ranges, *negated);
                let n = self.classes.len();
                self.classes.entry(class).or_insert_with(|| format!("C{n}")).clone()
            }
            Node::Rule(name) => self.names[name.as_str()].clone(),
            Node::All(nodes) if nodes.is_empty() => "\"\"".to_owned(),
            Node::All(nodes) => nodes.iter().map(|n| self.write(n)).collect::<Vec<_>>().join(" "),
            Node::Any(nodes) => format!("({})", nodes.iter().map(|n| self.write(n)).collect::<Vec<_>>().join(" | ")),
            Node::Repeat(node, min, max) => {
                let inner = self.write(node);
                match (min, max) {
                    (0, None) => format!("({inner})*"),
                    (1, None) => format!("({inner})+"),
                    (0, Some(1)) => format!("({inner})?"),
                    (0, Some(0)) => "\"\"".to_owned(),
                    (min, Some(max)) => format!("({inner}){{{min},{max}}}"),
                    (min, None) => format!("({inner}){{{min},}}"),
                }
            }
        }
    }
}

/// A class as a regular expression.
fn class(ranges: &[(char, char)], negated: bool) -> String {
    let code = |c: char| format!("\\x{{{:X}}}", c as u32);
    let range = |&(a, b): &(char, char)| if a == b { code(a) } else { format!("{}-{}", code(a), code(b)) };
    match (ranges, negated) {
        ([], true) => "(?s:.)".to_owned(),
        // Nothing is in it.
        ([], false) => "[^\\x{0}-\\x{10FFFF}]".to_owned(),
        ([(a, b)], false) if a == b => code(*a),
        (ranges, negated) => {
            format!("[{}{}]", if negated { "^" } else { "" }, ranges.iter().map(range).collect::<String>())
        }
    }
}

/// Rules that `root` needs, itself first.
fn reachable(rules: &Rules) -> Vec<&str> {
    let mut found = vec!["root"];
    let mut at = 0;
    while let Some(name) = found.get(at).copied() {
        named(&rules[name], &mut |name| {
            if !found.contains(&name) {
                found.push(name);
            }
        });
        at += 1;
    }
    found
}

/// Calls `each` with the rules that a node names.
fn named<'n>(node: &'n Node, each: &mut impl FnMut(&'n str)) {
    match node {
        Node::Class { .. } => {}
        Node::Rule(name) => each(name),
        Node::All(nodes) | Node::Any(nodes) => nodes.iter().for_each(|n| named(n, each)),
        Node::Repeat(node, ..) => named(node, each),
    }
}

/// Whether a rule of those that `root` needs comes back to itself.
fn is_recursive(rules: &Rules) -> bool {
    // Rules whose own rules are all done are taken away, until none is left or none can be.
    let mut left: BTreeSet<&str> = reachable(rules).into_iter().collect();
    loop {
        let done = left.iter().copied().find(|name| {
            let mut ready = true;
            named(&rules[*name], &mut |other| ready &= !left.contains(other));
            ready
        });
        match done {
            Some(name) => _ = left.remove(name),
            None => return !left.is_empty(),
        }
    }
}

/// Reads a grammar.
pub(super) fn parse(text: &str) -> Result<Rules, Error> {
    let mut p = Parser { text, at: 0 };
    let mut rules = Rules::new();
    let mut wanted: Vec<(String, usize)> = Vec::new();
    p.space(true);
    while !p.rest().is_empty() {
        let name = p.name()?;
        p.space(false);
        if !p.take("::=") {
            return Err(p.wrong("::="));
        }
        p.space(true);
        let node = p.any(false, &mut wanted)?;
        if rules.insert(name.clone(), node).is_some() {
            return Err(p.error(format!("found a second rule {name:?}, expected one")));
        }
        if !p.rest().is_empty() && !p.rest().starts_with(['\n', '\r']) {
            return Err(p.wrong("the end of the rule or another part of it"));
        }
        p.space(true);
    }
    if !rules.contains_key("root") {
        return Err(p.error("found no rule \"root\", expected one".to_owned()));
    }
    for (name, at) in wanted {
        if !rules.contains_key(&name) {
            p.at = at;
            return Err(p.error(format!("found no rule {name:?}, which is named here")));
        }
    }
    Ok(rules)
}

/// More times than this are not written out.
const MOST_TIMES: u32 = 10_000;

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn error(&self, what: String) -> Error {
        Error::Gbnf { line: 1 + self.text[..self.at].matches('\n').count(), what }
    }

    fn wrong(&self, expected: &str) -> Error {
        let found = match self.rest().chars().next() {
            Some(_) => format!("{:?}", self.rest().chars().take_while(|c| *c != '\n').take(20).collect::<String>()),
            None => "the end".to_owned(),
        };
        self.error(format!("found {found}, expected {expected}"))
    }

    fn take(&mut self, what: &str) -> bool {
        let found = self.rest().starts_with(what);
        if found {
            self.at += what.len();
        }
        found
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest().chars().next()?;
        self.at += c.len_utf8();
        Some(c)
    }

    /// Skips white space and comments.
    fn space(&mut self, lines: bool) {
        loop {
            let rest = self.rest();
            if rest.starts_with('#') {
                self.at += rest.find(['\n', '\r']).unwrap_or(rest.len());
            } else if rest.starts_with([' ', '\t']) || lines && rest.starts_with(['\n', '\r']) {
                self.at += 1;
            } else {
                return;
            }
        }
    }

    fn name(&mut self) -> Result<String, Error> {
        let end = self.rest().find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
        let name = &self.rest()[..end.unwrap_or(self.rest().len())];
        if name.is_empty() {
            return Err(self.wrong("the name of a rule"));
        }
        self.at += name.len();
        Ok(name.to_owned())
    }

    /// Alternatives; inside of parentheses they go on over the ends of lines.
    fn any(&mut self, nested: bool, wanted: &mut Vec<(String, usize)>) -> Result<Node, Error> {
        let mut nodes = vec![self.all(nested, wanted)?];
        loop {
            let before = self.at;
            // A line may begin with the next alternative.
            self.space(true);
            if !self.take("|") {
                self.at = before;
                break;
            }
            self.space(true);
            nodes.push(self.all(nested, wanted)?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Any(nodes) })
    }

    fn all(&mut self, nested: bool, wanted: &mut Vec<(String, usize)>) -> Result<Node, Error> {
        let mut nodes: Vec<Node> = Vec::new();
        // Where the part begins that a sign of repetition is for: the last character of a text is not it alone.
        let mut last = 0;
        loop {
            let rest = self.rest();
            match rest.chars().next() {
                Some('"') => {
                    self.at += 1;
                    last = nodes.len();
                    let mut text = Vec::new();
                    while !self.take("\"") {
                        let c = self.character("\" after the text")?;
                        text.push(Node::Class { ranges: vec![(c, c)], negated: false });
                    }
                    nodes.push(Node::All(text));
                }
                Some('[') => {
                    self.at += 1;
                    last = nodes.len();
                    nodes.push(self.class()?);
                }
                Some('.') => {
                    self.at += 1;
                    last = nodes.len();
                    nodes.push(Node::Class { ranges: Vec::new(), negated: true });
                }
                Some('(') => {
                    self.at += 1;
                    self.space(true);
                    last = nodes.len();
                    let inner = self.any(true, wanted)?;
                    self.space(true);
                    if !self.take(")") {
                        return Err(self.wrong(")"));
                    }
                    nodes.push(inner);
                }
                Some('*' | '+' | '?' | '{') => {
                    if last >= nodes.len() {
                        return Err(self.wrong("something before it to be repeated"));
                    }
                    let (min, max) = self.times()?;
                    let repeated = nodes.remove(last);
                    nodes.push(Node::Repeat(Box::new(repeated), min, max));
                }
                Some('<' | '!') => {
                    return Err(self.error("found a token by its name, which is not known here".to_owned()));
                }
                Some(c) if c.is_ascii_alphanumeric() || c == '-' || c == '_' => {
                    let at = self.at;
                    let name = self.name()?;
                    wanted.push((name.clone(), at));
                    last = nodes.len();
                    nodes.push(Node::Rule(name));
                }
                _ => break,
            }
            self.space(nested);
        }
        Ok(Node::All(nodes))
    }

    /// A sign of repetition.
    fn times(&mut self) -> Result<(u32, Option<u32>), Error> {
        match self.next() {
            Some('*') => return Ok((0, None)),
            Some('+') => return Ok((1, None)),
            Some('?') => return Ok((0, Some(1))),
            _ => {}
        }
        self.space(false);
        let min = self.number()?;
        self.space(false);
        let max = match self.take(",") {
            false => Some(min),
            true => {
                self.space(false);
                if self.rest().starts_with('}') { None } else { Some(self.number()?) }
            }
        };
        self.space(false);
        if !self.take("}") {
            return Err(self.wrong("}"));
        }
        match max {
            Some(max) if max < min => {
                Err(self.error(format!("found {{{min},{max}}}, expected the smaller number first")))
            }
            max => Ok((min, max)),
        }
    }

    fn number(&mut self) -> Result<u32, Error> {
        let end = self.rest().find(|c: char| !c.is_ascii_digit()).unwrap_or(self.rest().len());
        let number = self.rest()[..end].parse().ok().filter(|&n| n <= MOST_TIMES);
        let number = number.ok_or_else(|| self.wrong(&format!("a number up to {MOST_TIMES}")))?;
        self.at += end;
        Ok(number)
    }

    fn class(&mut self) -> Result<Node, Error> {
        let negated = self.take("^");
        let mut ranges = Vec::new();
        while !self.take("]") {
            let first = self.character("] after the class")?;
            let mut last = first;
            if self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                self.at += 1;
                last = self.character("the end of the range")?;
            }
            if last < first {
                return Err(
                    self.error(format!("found the range {first:?} to {last:?}, expected the smaller character first"))
                );
            }
            ranges.push((first, last));
        }
        Ok(Node::Class { ranges, negated })
    }

    /// A character, which may be escaped.
    fn character(&mut self, expected: &str) -> Result<char, Error> {
        let at = self.at;
        match self.next() {
            None => Err(self.wrong(expected)),
            Some('\\') => {
                let code = |p: &mut Self, digits: usize| {
                    let hex = p.rest().get(..digits).filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
                    let c = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok()).and_then(char::from_u32);
                    p.at += if c.is_some() { digits } else { 0 };
                    c
                };
                let c = match self.next() {
                    Some('x') => code(self, 2),
                    Some('u') => code(self, 4),
                    Some('U') => code(self, 8),
                    Some('t') => Some('\t'),
                    Some('r') => Some('\r'),
                    Some('n') => Some('\n'),
                    Some(c @ ('\\' | '"' | '[' | ']' | '-' | '^')) => Some(c),
                    _ => None,
                };
                c.ok_or_else(|| {
                    self.at = at;
                    self.wrong("a character, or one of \\\\ \\\" \\[ \\] \\n \\r \\t \\xHH \\uHHHH \\UHHHHHHHH")
                })
            }
            Some(c) => Ok(c),
        }
    }
}
