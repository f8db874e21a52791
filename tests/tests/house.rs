//! The house's rules (`docs/architecture.md`): who may use whom, no circles between files, short files and functions.
//!
//! Read from the manifests and sources as text, so the rules hold for what is not built here, too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use toml::Table;

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
    ("filter", &["config"]),
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

const LONGEST_FILE: usize = 500;
const LONGEST_FUNCTION: usize = 70;

/// Longer than they should be, each with the reason: it waits for the change that cuts it up, or its parts would be harder to
/// read. Tests count as code.
const LONG_FILES: [(&str, &str); 0] = [];
const LONG_FUNCTIONS: [(&str, &str); 4] = [
    ("aoe-user/src/cli/doctor/mod.rs: report", "to be cut up"),
    (
        "aoe-user/src/config/file_tests.rs: the_example_of_the_readme_reads_as_meant",
        "a file and what it means",
    ),
    (
        "aoe-user/src/config/file_tests.rs: wrong_values_are_shown_with_their_range_and_place",
        "a table of cases",
    ),
    ("xtask/src/bench/bars.rs: judge", "to be cut up"),
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
    for (at, line) in lines.iter().enumerate() {
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

/// The paths that `use` names, groups taken apart; tests inside a file left out.
fn paths(source: &str) -> impl Iterator<Item = Vec<String>> {
    let body = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or(source);
    let lines: Vec<&str> = code(body).collect();
    let mut found = Vec::new();
    for statement in lines.join("\n").split("use ").skip(1) {
        let statement = statement.split(';').next().unwrap_or("");
        let is_path = statement.starts_with("crate::") || statement.starts_with("super::");
        if is_path {
            expand("", statement, &mut found);
        }
    }
    found
        .into_iter()
        .map(|path: String| path.split("::").map(str::to_owned).collect())
}

/// `a::{b, c::{d, e}}` to its paths.
fn expand(before: &str, tree: &str, found: &mut Vec<String>) {
    let mut depth = 0;
    let mut start = 0;
    let mut parts = Vec::new();
    for (at, sign) in tree.char_indices() {
        match sign {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[start..]);
    for part in parts.into_iter().map(str::trim).filter(|part| !part.is_empty()) {
        match part.split_once('{') {
            Some((head, rest)) => {
                let rest = rest.trim_end().strip_suffix('}').unwrap_or(rest);
                expand(&format!("{before}{head}"), rest, found);
            }
            None => found.push(format!("{before}{}", part.split(" as ").next().unwrap_or(part))),
        }
    }
}

/// The files of a crate by their module paths, and which use which.
struct Files {
    uses: BTreeMap<String, BTreeSet<String>>,
}

impl Files {
    fn of(dir: &str) -> Files {
        let sources: BTreeMap<Vec<String>, (String, String)> = sources(dir)
            .into_iter()
            .filter(|(name, _)| !name.contains("tests") && !name.contains("testing"))
            .map(|(name, source)| (module(&name[dir.len() + 1..]), (name, source)))
            .collect();
        let mut uses = BTreeMap::new();
        for (module, (name, source)) in &sources {
            let found = paths(source).filter_map(|path| resolve(&sources, module, &path, 0));
            uses.insert(name.clone(), found.filter(|used| used != name).collect());
        }
        Files { uses }
    }

    /// Sets of files that all reach each other.
    fn circles(&self) -> BTreeSet<Vec<String>> {
        let reach: BTreeMap<&String, BTreeSet<&String>> =
            self.uses.keys().map(|file| (file, self.reached(file))).collect();
        let together = |file: &String| -> Vec<String> {
            let mutual = reach[file].iter().filter(|other| reach[*other].contains(file));
            mutual.map(ToString::to_string).collect()
        };
        self.uses
            .keys()
            .map(together)
            .filter(|circle| circle.len() > 1)
            .collect()
    }

    fn reached(&self, from: &String) -> BTreeSet<&String> {
        let mut reached = BTreeSet::new();
        let mut next: Vec<&String> = self.uses[from].iter().collect();
        while let Some(file) = next.pop() {
            if reached.insert(file) {
                next.extend(&self.uses[file]);
            }
        }
        reached
    }
}

fn module(file: &str) -> Vec<String> {
    let path = file.trim_end_matches(".rs");
    let mut parts: Vec<String> = path.split('/').map(str::to_owned).collect();
    if ["mod", "lib", "main"].contains(&parts[parts.len() - 1].as_str()) {
        parts.pop();
    }
    parts
}

/// The file in which what a path names is defined, through the re-exports of the files on the way.
fn resolve(
    sources: &BTreeMap<Vec<String>, (String, String)>,
    from: &[String],
    path: &[String],
    depth: usize,
) -> Option<String> {
    let mut at = match path.first()?.as_str() {
        "crate" => Vec::new(),
        _ => from.to_vec(),
    };
    let mut rest = path;
    while let Some((first, after)) = rest.split_first() {
        match first.as_str() {
            "crate" | "self" => {}
            "super" => _ = at.pop(),
            _ => break,
        }
        rest = after;
    }
    while let Some((first, after)) = rest.split_first() {
        let mut deeper = at.clone();
        deeper.push(first.clone());
        if !sources.contains_key(&deeper) {
            break;
        }
        (at, rest) = (deeper, after);
    }
    let (name, source) = sources.get(&at)?;
    let Some(item) = rest.first().filter(|_| depth < 4) else {
        return Some(name.clone());
    };
    // `pub use x::Item` hands it on.
    let mut handed = Vec::new();
    for statement in source
        .split("pub use ")
        .chain(source.split("pub(crate) use "))
        .skip(1)
    {
        expand("self::", statement.split(';').next().unwrap_or(""), &mut handed);
    }
    for statement in source.split("pub(super) use ").skip(1) {
        expand("self::", statement.split(';').next().unwrap_or(""), &mut handed);
    }
    for path in handed
        .iter()
        .map(|path| path.split("::").map(str::to_owned).collect::<Vec<_>>())
    {
        if path.last() == Some(item) && path.len() > 2 {
            if let Some(found) = resolve(sources, &at, &path, depth + 1).filter(|found| found != name) {
                return Some(found);
            }
            // From another package.
            return None;
        }
    }
    Some(name.clone())
}
