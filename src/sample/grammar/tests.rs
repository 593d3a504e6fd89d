//! Grammars against a recogniser that follows their definition character by character.

use super::gbnf::{self, Node, Rules};
use super::*;
use std::collections::BTreeSet;

/// Single bytes, and tokens of several that cross every boundary, between two that are no text and end one.
fn words() -> Vec<Vec<u8>> {
    let several =
        ["aa", "ab", "ba", "abc", "aab", "bb", "\"a", "a\"", "{\"", "\":", "12", "é", "éa", "true", ", ", "  ", "\n"];
    let bytes = (0..=255u8).map(|b| vec![b]);
    let several = several.iter().map(|w| w.as_bytes().to_vec());
    [Vec::new()].into_iter().chain(bytes).chain(several).chain([Vec::new()]).collect()
}

fn vocabulary() -> Vocabulary {
    let words = words();
    let ends = vec![0, words.len() as u32 - 1];
    Vocabulary::new(words.into_iter().map(|w| (!w.is_empty()).then_some(w)).collect(), ends).unwrap()
}

/// Where the texts of a node may end that begin at `at`: the definition, by brute force. `depth` bounds left recursion.
fn ends(rules: &Rules, node: &Node, text: &[char], at: usize, depth: usize) -> BTreeSet<usize> {
    if depth == 0 {
        return BTreeSet::new();
    }
    match node {
        Node::Class { ranges, negated } => {
            let inside = |c: &char| ranges.iter().any(|(a, b)| (a..=b).contains(&c)) != *negated;
            text.get(at).filter(|c| inside(c)).map(|_| at + 1).into_iter().collect()
        }
        Node::Rule(name) => ends(rules, &rules[name], text, at, depth - 1),
        Node::Any(nodes) => nodes.iter().flat_map(|n| ends(rules, n, text, at, depth)).collect(),
        Node::All(nodes) => nodes.iter().fold(BTreeSet::from([at]), |from, n| {
            from.into_iter().flat_map(|at| ends(rules, n, text, at, depth)).collect()
        }),
        Node::Repeat(node, min, max) => {
            let mut found = BTreeSet::new();
            let mut from = BTreeSet::from([at]);
            let mut seen = BTreeSet::new();
            for n in 0..=max.unwrap_or(u32::MAX) {
                if n >= *min {
                    found.extend(&from);
                }
                let next: BTreeSet<usize> = from.iter().flat_map(|&at| ends(rules, node, text, at, depth)).collect();
                if next.is_empty() || n >= *min && !seen.insert(next.clone()) {
                    break;
                }
                from = next;
            }
            found
        }
    }
}

fn obeys(rules: &Rules, text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    ends(rules, &rules["root"], &text, 0, 60).contains(&text.len())
}

/// Whether the grammar takes the text, token by token, and may end there. Tokens are chosen by `choose` among those that
/// continue the text.
fn takes(grammar: &mut Grammar, words: &[Vec<u8>], text: &str, mut choose: impl FnMut(usize) -> usize) -> bool {
    grammar.reset();
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let fitting: Vec<u32> = (0..words.len() as u32)
            .filter(|&id| !words[id as usize].is_empty() && rest.starts_with(&words[id as usize]))
            .collect();
        let token = fitting[choose(fitting.len())];
        if !grammar.mask().unwrap().allows(token) {
            return false;
        }
        grammar.accept(token).unwrap();
        rest = &rest[words[token as usize].len()..];
    }
    let mask = grammar.mask().unwrap();
    assert_eq!(mask.allows(0), mask.allows(words.len() as u32 - 1), "all ends are allowed alike");
    mask.allows(0)
}

/// Grammars that a lexer of words would get wrong, and others.
const GRAMMARS: &[&str] = &[
    r#"root ::= "a" "a"* "b" | "aa" "c""#,
    r#"root ::= [a-b]* [b-c] [a-c]{2}"#,
    r#"root ::= ("ab" | "a") ("b" | "bc")"#,
    r#"root ::= ws "a" ws "b" ws
ws ::= [ ]*"#,
    r#"root ::= "a"? ("b" |) "c"{0,2}"#,
    r#"root ::= "(" root ")" | "a""#,
    r#"root ::= item ("," item)*
item ::= [a-c]+ | "[" root "]" # a list
"#,
    r#"root ::= expr
expr ::= term | expr "+" term
term ::= "a" | "b" | "(" expr ")""#,
    r#"root ::= "a" root "b" | "ab" | """#,
    r#"root ::= [^a] . "é"?"#,
    r#"root ::= ([a-z] [0-9]){1,2} | "a" root"#,
    r#"root ::= s
s ::= "a" s "a" | "b" s "b" | "c""#,
    r#"root ::= (
  "a" |
  "b" "c"
)+
"#,
    r#"root ::= x y
x ::= "a" | "aa"
y ::= "a"* root?"#,
];

#[test]
fn grammars_take_what_their_definition_says() {
    let vocabulary = vocabulary();
    let words = words();
    let mut x = 3u64;
    let mut random = move |n: usize| {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (x >> 33) as usize % n
    };
    let mut failures = Vec::new();
    for source in GRAMMARS {
        let rules = gbnf::parse(source).unwrap_or_else(|e| panic!("{source}: {e}"));
        let mut grammar = vocabulary.grammar(&Source::Gbnf(source)).unwrap_or_else(|e| panic!("{source}: {e}"));
        let alphabet: Vec<char> = "aaabbc()[],+ é09".chars().filter(|c| source.contains(*c) || *c == 'a').collect();
        let mut taken = 0;
        for round in 0..300 {
            let text: String = (0..random(9)).map(|_| alphabet[random(alphabet.len())]).collect();
            let want = obeys(&rules, &text);
            taken += usize::from(want);
            let found = takes(&mut grammar, &words, &text, |n| if round % 2 == 0 { 0 } else { random(n) });
            if found != want {
                failures.push(format!("{source}\n{text:?}: {found}, expected {want}"));
            }
        }
        if taken == 0 {
            failures.push(format!("{source}: no text was right, which tests nothing"));
        }
    }
    assert!(failures.is_empty(), "{} wrong:\n{}", failures.len(), failures[..failures.len().min(5)].join("\n"));
}

#[test]
fn bad_grammars_say_what_is_wrong_and_where() {
    let rows = [
        ("", "line 1: found no rule \"root\", expected one"),
        ("rule ::= \"a\"", "line 1: found no rule \"root\", expected one"),
        ("root ::= \"a\" other", "line 1: found no rule \"other\", which is named here"),
        ("root ::= \"a\"\n\nroot ::= \"b\"", "line 3: found a second rule \"root\", expected one"),
        ("root = \"a\"", "line 1: found \"= \\\"a\\\"\", expected ::="),
        ("root ::= (\"a\"", "line 1: found the end, expected )"),
        ("root ::= \"a", "line 1: found the end, expected \" after the text"),
        ("root ::= [a-", "line 1: found the end, expected the end of the range"),
        ("root ::= [z-a]", "line 1: found the range 'z' to 'a', expected the smaller character first"),
        ("root ::= \"\\q\"", "line 1: found \"\\\\q\\\"\", expected a character, or one of"),
        ("root ::= *", "line 1: found \"*\", expected something before it to be repeated"),
        ("root ::= \"a\"{3,2}", "line 1: found {3,2}, expected the smaller number first"),
        ("root ::= \"a\"{x}", "line 1: found \"x}\", expected a number up to 10000"),
        ("root ::= \"a\" )", "line 1: found \")\", expected the end of the rule"),
        ("root ::= <think>", "line 1: found a token by its name, which is not known here"),
        ("::= \"a\"", "line 1: found \"::= \\\"a\\\"\", expected the name of a rule"),
    ];
    for (text, want) in rows {
        let error = gbnf::to_lark(text).unwrap_err().to_string();
        assert!(error.starts_with(want), "{text:?}: {error}");
    }
    let vocabulary = vocabulary();
    let error = vocabulary.grammar(&Source::Gbnf("root ::= root \"a\"")).err().map(|e| e.to_string());
    assert!(error.is_some(), "nothing obeys it");
}

#[test]
fn schemas_are_obeyed() {
    let vocabulary = vocabulary();
    let schema = json!({
        "type": "object",
        "properties": { "a": { "type": "integer" }, "b": { "enum": ["x", "y"] } },
        "required": ["a", "b"],
        "additionalProperties": false,
    });
    let mut grammar = vocabulary.grammar(&Source::Schema(&schema)).unwrap();
    let rows = [
        (r#"{"a": 1, "b": "x"}"#, true),
        ("{\"a\":12,\"b\":\"y\"}", true),
        ("{\n  \"a\": -3,\n  \"b\": \"y\"\n}", true),
        (r#"{"a": 1.5, "b": "x"}"#, false),
        (r#"{"a": 1, "b": "z"}"#, false),
        (r#"{"b": "x"}"#, false),
        ("{    \"a\": 1, \"b\": \"x\"}", false),
        (r#"{"a": 1, "b": "x"} more"#, false),
    ];
    for (text, want) in rows {
        grammar.reset();
        let mut right = true;
        for byte in text.bytes() {
            let token = u32::from(byte) + 1;
            if !grammar.mask().unwrap().allows(token) {
                right = false;
                break;
            }
            grammar.accept(token).unwrap();
        }
        assert_eq!(right && grammar.mask().unwrap().allows(0), want, "{text}");
    }
    let any = vocabulary.grammar(&Source::Schema(&json!({})));
    assert!(any.is_ok());
    let bad = vocabulary.grammar(&Source::Schema(&json!({ "type": "nonsense" })));
    assert!(matches!(bad, Err(Error::Refused(_))));
    assert!(Vocabulary::new(vec![Some(b"a".to_vec())], vec![7]).is_err());
}
