//! Made-up bytes: whatever they are, the parser gives a header or an error.

use ostro::gguf::parse;
use proptest::prelude::*;

use super::raw::{file, key, string, tensor};

fn valid() -> Vec<u8> {
    let nested =
        [&9u32.to_le_bytes()[..], &1u64.to_le_bytes(), &0u32.to_le_bytes(), &1u64.to_le_bytes(), &[7]].concat();
    let strings = [&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), &string("a"), &string("bc")].concat();
    let numbers = [&6u32.to_le_bytes()[..], &2u64.to_le_bytes(), &[0; 8]].concat();
    let bools = [&7u32.to_le_bytes()[..], &2u64.to_le_bytes(), &[0, 1]].concat();
    let keys = [
        key("general.alignment", 4, 64u32.to_le_bytes()),
        key("s", 8, string("text")),
        key("n", 9, nested),
        key("strings", 9, strings),
        key("numbers", 9, numbers),
        key("bools", 9, bools),
        key("f64", 12, 1f64.to_le_bytes()),
    ];
    let tensors = [tensor("a", &[4], 0, 0), tensor("blk.0.b", &[32, 2, 1, 1], 8, 64), tensor("c", &[256], 12, 192)];
    file(&keys, &tensors, 64 + 192 + 144)
}

/// What a header that parses promises about itself.
fn sound(bytes: &[u8]) {
    let Ok(header) = parse(bytes) else { return };
    for t in &header.tensors {
        let end = t.offset.checked_add(t.bytes).unwrap();
        assert!(t.offset >= header.data_start && end <= bytes.len() as u64, "{t:?}");
        assert!(t.offset % header.alignment == 0 && t.elements() > 0, "{t:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated(edits in prop::collection::vec((0usize..900, prop_oneof![any::<u8>(), Just(0), Just(1), Just(9), Just(0xff)]), 1..6), cut in 0usize..2000) {
        let mut bytes = valid();
        for (at, value) in edits {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(cut.max(1));
        sound(&bytes);
    }

    #[test]
    fn large_numbers(at in 4usize..600, value in prop_oneof![any::<u64>(), Just(u64::MAX), Just(1 << 63), Just(1 << 62), Just(1 << 40), 0u64..1000]) {
        let mut bytes = valid();
        let at = at.min(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        sound(&bytes);
    }

    #[test]
    fn anything_behind_the_magic(rest in prop::collection::vec(any::<u8>(), 0..200)) {
        sound(&[b"GGUF\x03\0\0\0", &rest[..]].concat());
    }
}

#[test]
fn the_valid_one_is_valid() {
    let header = parse(&valid()).unwrap();
    assert_eq!((header.tensors.len(), header.metadata.len(), header.alignment), (3, 7, 64));
}
