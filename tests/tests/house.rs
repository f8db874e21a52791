//! The house's rules (`docs/architecture.md`): who may use whom, no circles between files, short files and functions.
//!
//! Read from the manifests and sources as text, so the rules hold for what is not built here, too.

mod imports;
mod names;
mod published;
mod statics;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::Table;

use imports::{Files, paths};

/// A package's directory and the packages of this workspace that it may be built with (tests of its own aside).
const PACKAGES: [(&str, &[&str]); 13] = [
    ("aoe-common", &[]),
    ("aoe-ebpf", &["aoe-common"]),
    ("crates/engine", &["aoe-common"]),
    ("crates/store", &["engine"]),
    ("crates/xsk", &[]),
    ("crates/failover", &[]),
    ("crates/initiator", &["aoe-common"]),
    (
        "aoe-user",
        &["aoe-common", "engine", "failover", "initiator", "store", "xsk"],
    ),
    ("tests/testbed", &["aoe-common"]),
    ("tests/checker", &["aoe-common", "xblade-testbed"]),
    (
        "tests/sim",
        &["aoe-common", "engine", "failover", "store", "xblade-checker"],
    ),
    ("xtask", &["xblade-testbed"]),
    ("fuzz", &["aoe-common", "engine", "xblade"]),
];

/// What the engine is built with from elsewhere: nothing that knows sockets, files, threads, time or chance.
const OF_ENGINE: [&str; 6] = [
    "arrayvec",
    "crossbeam-utils",
    "parking_lot",
    "slab",
    "thiserror",
    "xxhash-rust",
];

/// What the engine must not name.
const NOT_IN_ENGINE: [&str; 9] = [
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time",
    "Instant",
    "SystemTime",
    "RandomState",
];

/// The rooms of the user half, and the rooms and packages that each may use.
const ROOMS: [(&str, &[&str]); 9] = [
    ("target", &["store"]),
    ("host", &["initiator"]),
    ("config", &["host", "store"]),
    ("filter", &["host"]),
    ("metrics", &["filter", "target"]),
    ("dump", &["host"]),
    (
        "port",
        &[
            "config", "dump", "filter", "host", "metrics", "store", "target", "xsk",
        ],
    ),
    (
        "control",
        &[
            "config",
            "dump",
            "filter",
            "host",
            "initiator",
            "metrics",
            "port",
            "store",
            "target",
        ],
    ),
    (
        "cli",
        &[
            "config",
            "control",
            "filter",
            "host",
            "initiator",
            "metrics",
            "port",
            "store",
            "target",
            "xsk",
        ],
    ),
];

/// What tells of this machine: only `host` asks for it, or the store where it is about a disk.
const OF_THE_MACHINE: [&str; 6] = [
    "system::uname",
    "KernelVersion",
    "\"/proc/net",
    "\"/proc/sys",
    "\"/sys/class",
    "\"/sys/dev",
];

const LONGEST_FILE: usize = 500;
const LONGEST_FUNCTION: usize = 70;

/// Longer than they should be, each with the reason: its parts would be harder to read. Tests count as code.
const LONG_FILES: [(&str, &str); 0] = [];
const LONG_FUNCTIONS: [(&str, &str); 2] = [
    (
        "aoe-user/src/config/file_tests.rs: the_example_of_the_readme_reads_as_meant",
        "a file and what it means",
    ),
    (
        "aoe-user/src/config/file_mistakes_tests.rs: wrong_values_are_shown_with_their_range_and_place",
        "a table of cases",
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All Rust files below a directory, by their path from the root.
fn sources(dir: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut dirs = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).expect("a source directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("below the root");
                found.push((name.to_string_lossy().into_owned(), text(&path)));
            }
        }
    }
    found.sort();
    found
}

fn dependencies(dir: &str) -> BTreeSet<String> {
    let manifest: Table = text(&root().join(dir).join("Cargo.toml"))
        .parse()
        .expect("a manifest");
    let table = manifest.get("dependencies").and_then(|found| found.as_table());
    table
        .into_iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .collect()
}

fn name_of(dir: &str) -> String {
    let manifest: Table = text(&root().join(dir).join("Cargo.toml"))
        .parse()
        .expect("a manifest");
    manifest["package"]["name"].as_str().expect("a name").to_owned()
}

#[test]
fn packages_use_only_whom_they_may() {
    let ours: BTreeSet<String> = PACKAGES.iter().map(|(dir, _)| name_of(dir)).collect();
    for (dir, allowed) in PACKAGES {
        for used in dependencies(dir).intersection(&ours) {
            assert!(allowed.contains(&used.as_str()), "{dir} must not use {used}");
        }
    }
}

#[test]
fn the_engine_knows_no_machine() {
    for used in dependencies("crates/engine") {
        let known = OF_ENGINE.contains(&used.as_str()) || used == "aoe-common";
        assert!(known, "the engine must not use {used}");
    }
    for (name, source) in sources("crates/engine/src") {
        if name.contains("/tests/") || name.contains("/testing/") {
            continue;
        }
        for word in NOT_IN_ENGINE {
            let line = code(&source).position(|line| line.contains(word));
            assert!(line.is_none(), "{name}:{}: {word}", line.unwrap_or(0) + 1);
        }
    }
}

#[test]
fn rooms_use_only_whom_they_may() {
    let packages = ["initiator", "store", "xsk", "engine"];
    for (name, source) in sources("aoe-user/src") {
        let room = name
            .trim_start_matches("aoe-user/src/")
            .split(['/', '.'])
            .next()
            .unwrap_or("");
        let Some((_, allowed)) = ROOMS.iter().find(|(known, _)| *known == room) else {
            continue;
        };
        for used in paths(&source)
            .iter()
            .filter(|path| path[0] == "crate")
            .filter_map(|path| path.get(1).cloned())
        {
            let is_room = ROOMS.iter().any(|(known, _)| *known == used) || packages.contains(&used.as_str());
            let fine = !is_room || used == room || allowed.contains(&used.as_str());
            assert!(fine, "{name}: {room} must not use {used}");
        }
        if room != "filter" {
            assert!(
                !code(&source).any(|line| line.contains("aya::")),
                "{name}: only filter knows aya"
            );
        }
    }
}

#[test]
fn the_machine_is_asked_in_one_place() {
    for (name, source) in sources("aoe-user/src") {
        if name.starts_with("aoe-user/src/host/") {
            continue;
        }
        for (number, line) in code(&source).enumerate() {
            let asked = OF_THE_MACHINE.iter().find(|word| line.contains(*word));
            assert_eq!(asked, None, "{name}:{}: that is asked by host", number + 1);
        }
    }
}

#[test]
fn no_file_uses_itself_through_others() {
    let mut circles = BTreeSet::new();
    for dir in [
        "aoe-common",
        "aoe-user",
        "crates/engine",
        "crates/store",
        "crates/xsk",
        "crates/failover",
        "crates/initiator",
        "tests/testbed",
        "tests/checker",
        "tests/sim",
        "xtask",
    ] {
        let files = Files::of(&format!("{dir}/src"));
        circles.extend(files.circles());
    }
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn files_and_functions_are_short() {
    let mut long_files = BTreeSet::new();
    let mut long_functions = BTreeSet::new();
    for dir in [
        "aoe-common",
        "aoe-ebpf",
        "aoe-user",
        "crates",
        "tests",
        "xtask",
        "fuzz",
    ] {
        for (name, source) in sources(dir) {
            if source.lines().count() > LONGEST_FILE {
                long_files.insert(name.clone());
            }
            for (function, lines) in functions(&source) {
                if lines > LONGEST_FUNCTION {
                    long_functions.insert(format!("{name}: {function}"));
                }
            }
        }
    }
    let names = |known: &[(&str, &str)]| known.iter().map(|(name, _)| (*name).to_owned()).collect();
    let (files, functions): (BTreeSet<_>, BTreeSet<_>) = (names(&LONG_FILES), names(&LONG_FUNCTIONS));
    assert_eq!(long_files, files, "over {LONGEST_FILE} lines");
    assert_eq!(long_functions, functions, "over {LONGEST_FUNCTION} lines");
}

#[test]
fn what_the_chapter_names_is_there() {
    let chapter = text(&root().join("docs/architecture.md"));
    let all: Vec<String> = ["aoe-common", "aoe-ebpf", "aoe-user", "crates", "tests", "xtask"]
        .into_iter()
        .flat_map(sources)
        .map(|(name, _)| format!("/{name}"))
        .collect();
    let named: Vec<&str> = chapter
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.ends_with(".rs") && !name.contains('{'))
        .collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        let is_there = all.iter().any(|file| file.ends_with(&format!("/{name}")));
        assert!(is_there, "docs/architecture.md names {name}, which is not there");
    }
}

/// Lines without comments, as far as a line tells.
fn code(source: &str) -> impl Iterator<Item = &str> {
    source.lines().map(|line| match line.find("//") {
        Some(at) => &line[..at],
        None => line,
    })
}

/// Functions and their lengths, from the line with `fn` to the brace that closes it, told by rustfmt's indentation.
fn functions(source: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = source.lines().collect();
    let mut found = Vec::new();
    let code = |line: &&str| !line.trim_start().starts_with("//");
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| code(line)) {
        let indent = line.len() - line.trim_start().len();
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(place) = words
            .iter()
            .position(|word| *word == "fn")
            .filter(|place| *place < 4)
        else {
            continue;
        };
        let Some(name) = words.get(place + 1) else {
            continue;
        };
        let name = name.split(['(', '<']).next().unwrap_or(name);
        let end = format!("{}}}", " ".repeat(indent));
        let one_line = line.trim_end().ends_with(['}', ';']);
        if let Some(length) = lines[at..]
            .iter()
            .position(|line| *line == end)
            .filter(|_| !one_line)
        {
            found.push((name.to_owned(), length + 1));
        }
    }
    found
}
