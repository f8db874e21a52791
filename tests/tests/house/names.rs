//! One name, one type: what more than one file can name means the same wherever it is read. And no word in a name that only this
//! project would use so.

use std::collections::{BTreeMap, BTreeSet};

use super::imports::without_tests;
use super::sources;

/// What runs in production. Tests read frames, plans and replies by types of their own, on purpose.
const CRATES: [&str; 8] = [
    "aoe-common/src",
    "aoe-ebpf/src",
    "aoe-user/src",
    "crates/engine/src",
    "crates/failover/src",
    "crates/initiator/src",
    "crates/store/src",
    "crates/xsk/src",
];

/// Names that stand for two types, each with the reason.
const DOUBLE: [(&str, &str); 6] = [
    ("Export", "the engine's, with the daemon's completion queue"),
    ("Exports", "the engine's, with the daemon's completion queue"),
    ("Frame", "the kernel half is built for a machine of its own"),
    ("Pieces", "the same type: xsk knows nothing of the engine"),
    ("PiecesMut", "the same type: xsk knows nothing of the engine"),
    ("Session", "the engine's, with the daemon's completion queue"),
];

/// Words of earlier days, in place of which the field has its own: metrics, queue, completion, pending, problem, access list …
const PRIVATE: [&str; 17] = [
    "adverts",
    "asker",
    "census",
    "estate",
    "figures",
    "flight",
    "flights",
    "lane",
    "letter",
    "likeness",
    "mailbox",
    "modesty",
    "neighbours",
    "sought",
    "trouble",
    "voice",
    "voices",
];

/// What an item's line begins with that other files can name.
const SHARED: [&str; 3] = ["pub ", "pub(crate) ", "pub(in "];

/// What declares a name, of a type and of anything.
const TYPES: [&str; 5] = ["enum ", "struct ", "trait ", "type ", "union "];
const ITEMS: [&str; 9] = [
    "const ", "enum ", "fn ", "mod ", "static ", "struct ", "trait ", "type ", "union ",
];

/// The name that a line declares, where it is one of these.
fn declared<'a>(line: &'a str, keywords: &[&str]) -> Option<&'a str> {
    let line = line.trim_start();
    let after_visibility = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ")?.1,
        Some(rest) => rest.trim_start(),
        None => line,
    };
    let item = ["async ", "const ", "unsafe "]
        .iter()
        .filter_map(|word| after_visibility.strip_prefix(word))
        .find(|rest| rest.starts_with("fn ") || rest.starts_with("unsafe ") || rest.starts_with("trait "))
        .unwrap_or(after_visibility);
    let name = keywords.iter().find_map(|keyword| item.strip_prefix(keyword))?;
    let end = name.find(|sign: char| !sign.is_alphanumeric() && sign != '_');
    Some(&name[..end.unwrap_or(name.len())]).filter(|name| !name.is_empty())
}

/// Whether a word is in a name.
fn has_word(name: &str, word: &str) -> bool {
    let mut spaced = String::new();
    for sign in name.chars() {
        if sign.is_uppercase() {
            spaced.push('_');
        }
        spaced.extend(sign.to_lowercase());
    }
    // The field's own.
    let spaced = spaced.replace("in_flight", "");
    spaced.split('_').any(|part| part == word)
}

fn code_of_production() -> impl Iterator<Item = (String, String)> {
    code_in(&CRATES)
}

/// Without tests.
fn code_in(directories: &[&str]) -> impl Iterator<Item = (String, String)> {
    let is_test = |name: &str| name.contains("tests") || name.contains("/testing/");
    let all = directories.iter().flat_map(|directory| sources(directory));
    all.filter(move |(name, _)| !is_test(name))
        .map(|(name, source)| (name, without_tests(&source)))
}

#[test]
fn a_name_stands_for_one_type() {
    let mut declared_in: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, source) in code_of_production() {
        let shared = |line: &&str| SHARED.iter().any(|begin| line.starts_with(begin));
        let names = source
            .lines()
            .filter(shared)
            .filter_map(|line| declared(line, &TYPES));
        for name in names {
            declared_in
                .entry(name.to_owned())
                .or_default()
                .insert(file.clone());
        }
    }
    assert!(declared_in.len() > 300, "types are found: {}", declared_in.len());
    declared_in.retain(|_, files| files.len() > 1);
    let double: BTreeSet<&str> = declared_in.keys().map(String::as_str).collect();
    let known = BTreeSet::from(DOUBLE.map(|(name, _)| name));
    assert_eq!(
        double, known,
        "two words for two meanings, or say here why not: {declared_in:?}"
    );
}

#[test]
fn no_item_has_a_private_word_in_its_name() {
    let mut found = BTreeSet::new();
    for (file, source) in code_of_production().chain(code_in(&["xtask/src"])) {
        for name in source.lines().filter_map(|line| declared(line, &ITEMS)) {
            if PRIVATE.iter().any(|word| has_word(name, word)) {
                found.insert(format!("{file}: {name}"));
            }
        }
    }
    assert_eq!(found, BTreeSet::new(), "use the field's word");
}

#[test]
fn declared_names_are_read() {
    assert_eq!(declared("pub(crate) struct Core {", &TYPES), Some("Core"));
    assert_eq!(declared("pub(in crate::a) enum B<T> {", &TYPES), Some("B"));
    assert_eq!(declared("pub unsafe trait Zeroes {", &TYPES), Some("Zeroes"));
    assert_eq!(declared("type Who = (Waiter, Task);", &TYPES), Some("Who"));
    assert_eq!(
        declared("    pub const fn lane(self) -> u8 {", &ITEMS),
        Some("lane")
    );
    assert_eq!(declared("pub use a::Core;", &TYPES), None);
    assert!(has_word("find_trouble", "trouble") && has_word("OverlayFigures", "figures"));
    assert!(!has_word("planes", "lane") && !has_word("InFlightTable", "flight"));
}
