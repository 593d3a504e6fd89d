//! Metadata: every value type survives a file, and the getters convert or say why not.

use std::path::Path;

use ostro::gguf::{Array, Error, Layout, Metadata, Value, Writer, parse};

fn sample() -> Metadata {
    let mut m = Metadata::new(Path::new("m.gguf"));
    let values = [
        ("u8", Value::U8(200)),
        ("i8", Value::I8(-3)),
        ("u16", Value::U16(60_000)),
        ("i16", Value::I16(-30_000)),
        ("u32", Value::U32(4_000_000_000)),
        ("i32", Value::I32(-5)),
        ("u64", Value::U64(u64::MAX)),
        ("i64", Value::I64(7)),
        ("f32", Value::F32(0.5)),
        ("f64", Value::F64(1e300)),
        ("bool", Value::Bool(true)),
        ("string", Value::String("tab\t \u{2581}x".into())),
        ("empty", Value::String(String::new())),
        ("bytes", Value::Bytes(vec![0xff, b'a'])),
        ("u8s", Value::Array(Array::U8(vec![1, 2]))),
        ("i8s", Value::Array(Array::I8(vec![-1]))),
        ("u16s", Value::Array(Array::U16(vec![1, 65535]))),
        ("i16s", Value::Array(Array::I16(vec![-1, 2]))),
        ("u32s", Value::Array(Array::U32(vec![1, u32::MAX]))),
        ("i32s", Value::Array(Array::I32(vec![1, 2, 3]))),
        ("u64s", Value::Array(Array::U64(vec![1 << 40]))),
        ("i64s", Value::Array(Array::I64(vec![4, 5]))),
        ("f32s", Value::Array(Array::F32(vec![1.0, -2.0]))),
        ("f64s", Value::Array(Array::F64(vec![1.5]))),
        ("bools", Value::Array(Array::Bool(vec![true, false]))),
        ("strings", Value::Array(Array::String(vec!["a".into(), String::new()]))),
        ("odd", Value::Array(Array::Bytes(vec![b"a".to_vec(), vec![0xc3], b"b".to_vec()]))),
        ("nested", Value::Array(Array::Nested(vec![Array::U8(vec![1]), Array::String(vec!["x".into()])]))),
        ("none", Value::Array(Array::U32(vec![]))),
    ];
    for (key, value) in values {
        assert_eq!(m.set(key, value), None);
    }
    m
}

#[test]
fn every_type_survives() {
    let m = sample();
    let bytes = Writer::new(Vec::new(), Path::new("m.gguf"), Layout::new(Path::new("m.gguf"), &m, &[]).unwrap())
        .unwrap()
        .finish()
        .unwrap();
    let header = parse(&bytes).unwrap();
    assert!(header.metadata.iter().eq(m.iter()), "{:?}", header.metadata);
}

#[test]
fn getters() {
    fn check<T: std::fmt::Debug>(failed: &mut Vec<String>, found: Result<T, Error>, expected: &str) {
        let found = match found {
            Ok(v) => format!("{v:?}"),
            Err(e) => e.to_string(),
        };
        // What to do is the same for each.
        let next = "; convert the model again with a current converter";
        if found.strip_suffix(next).unwrap_or(&found) != expected {
            failed.push(format!("expected: {expected}\n   found: {found}"));
        }
    }
    let m = sample();
    let mut failed = Vec::new();
    let f = &mut failed;
    check(f, m.u32("absent"), "None");
    check(f, m.u32("u8"), "Some(200)");
    check(f, m.u32("i64"), "Some(7)");
    check(f, m.u32("i8"), "m.gguf: key i8: found i8 -3, expected an integer from 0 to 4294967295");
    check(f, m.u32("u64"), "m.gguf: key u64: found u64 18446744073709551615, expected an integer from 0 to 4294967295");
    check(
        f,
        m.u32("string"),
        "m.gguf: key string: found string \"tab\\t \u{2581}x\", expected an integer from 0 to 4294967295",
    );
    check(f, m.u64("u64"), "Some(18446744073709551615)");
    check(f, m.f32("f32"), "Some(0.5)");
    check(f, m.f32("i32"), "Some(-5.0)");
    check(f, m.f32("f64"), &format!("m.gguf: key f64: found f64 {}, expected a number", 1e300));
    check(f, m.bool("bool"), "Some(true)");
    check(f, m.bool("u8"), "m.gguf: key u8: found u8 200, expected a bool");
    check(f, m.str("empty"), "Some(\"\")");
    check(f, m.str("bytes"), "m.gguf: key bytes: found string \"\u{fffd}a\" (not UTF-8), expected a string");
    check(f, m.strings("strings"), "Some([\"a\", \"\"])");
    check(
        f,
        m.strings("odd"),
        "m.gguf: key odd: found bytes that are not UTF-8 in string 1, expected an array of UTF-8 strings",
    );
    check(f, m.strings("u32s"), "m.gguf: key u32s: found array of 2 u32, expected an array of strings");
    check(f, m.byte_strings("odd"), "Some([[97], [195], [98]])");
    check(f, m.byte_strings("strings"), "Some([[97], []])");
    check(f, m.u32s("u32s"), "Some([1, 4294967295])");
    check(f, m.u32s("i64s"), "Some([4, 5])");
    check(f, m.u32s("none"), "Some([])");
    check(
        f,
        m.u32s("i16s"),
        "m.gguf: key i16s: found array of 2 i16, expected an array of integers from 0 to 4294967295",
    );
    check(f, m.i32s("i16s"), "Some([-1, 2])");
    check(f, m.f32s("f64s"), "Some([1.5])");
    check(f, m.f32s("f32s"), "Some([1.0, -2.0])");
    check(f, m.bools("bools"), "Some([true, false])");
    check(f, m.u32_each("u8", 3), "Some([200, 200, 200])");
    check(f, m.u32_each("i32s", 3), "Some([1, 2, 3])");
    check(f, m.u32_each("i32s", 2), "m.gguf: key i32s: found an array of 3, expected an array of 2, or one integer");
    check(f, m.require_u32("absent"), "m.gguf: key absent: found nothing, expected an integer from 0 to 4294967295");
    check(f, m.require_str("string").map(str::len), "9");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
