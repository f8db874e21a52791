//! `pub` means used from another crate. rustc sees what no path leads to (`unreachable_pub`); here it is that each name a library
//! hands out at its root is named elsewhere.

use std::collections::BTreeSet;

use super::imports::words;
use super::{code, sources};

/// Libraries of this workspace only. `aoe-common` and `xsk` are for others, too.
const LIBRARIES: [&str; 4] = [
    "crates/engine",
    "crates/failover",
    "crates/initiator",
    "crates/store",
];

/// Where they are used.
const USERS: [&str; 6] = ["aoe-common", "aoe-user", "crates", "fuzz", "tests", "xtask"];

/// Handed out for what they are part of, though nobody has to name them.
const UNNAMED: [(&str, &str); 7] = [
    (
        "crates/engine: EventCount",
        "what `Counters` and meters are made of",
    ),
    ("crates/engine: ReplaceError", "an error of `Export::replace`"),
    ("crates/engine: StateError", "an error of `Persistent`"),
    ("crates/engine: StoreResult", "what `Event::Finished` has"),
    ("crates/store: MergeError", "an error of a merge"),
    ("crates/store: NbdExport", "what `inspect_nbd` tells"),
    ("crates/store: OverlayError", "an error of an overlay"),
];

/// The names that the root of a crate hands out by `pub use`.
fn handed_out(root: &str) -> BTreeSet<String> {
    let text = code(root).collect::<Vec<_>>().join(" ");
    let uses = text.split(';').filter_map(|item| item.split_once("pub use "));
    let trees = uses.map(|(_, tree)| match tree.split_once('{') {
        Some((_, names)) => names.trim_end().trim_end_matches('}').to_owned(),
        None => tree.to_owned(),
    });
    let names: Vec<String> = trees
        .flat_map(|tree| tree.split(',').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let last = |name: &String| words(name).last().map(str::to_owned);
    names.iter().filter_map(last).collect()
}

#[test]
fn what_a_library_hands_out_is_used_elsewhere() {
    let mut unused = BTreeSet::new();
    for library in LIBRARIES {
        let root = sources(&format!("{library}/src"));
        let (_, root) = root
            .iter()
            .find(|(name, _)| name.ends_with("src/lib.rs"))
            .expect("a root");
        let names = handed_out(root);
        assert!(!names.is_empty(), "{library}");
        let within = format!("{library}/src/");
        let mut used = BTreeSet::new();
        for (name, source) in USERS.into_iter().flat_map(sources) {
            if !name.starts_with(&within) && !name.starts_with("tests/tests/house/") {
                let source = code(&source).collect::<Vec<_>>().join("\n");
                used.extend(words(&source).map(str::to_owned));
            }
        }
        let unused_here = names.difference(&used).map(|name| format!("{library}: {name}"));
        unused.extend(unused_here);
    }
    let known = UNNAMED.map(|(name, _)| name.to_owned());
    assert_eq!(unused, BTreeSet::from(known));
}

#[test]
fn names_of_trees_are_read() {
    let root = "mod a;\npub use a::B;\npub use c::{D, e as f,\n    G};\npub mod h;";
    let expected = ["B", "D", "G", "f"].map(str::to_owned);
    assert_eq!(handed_out(root), BTreeSet::from(expected));
}
