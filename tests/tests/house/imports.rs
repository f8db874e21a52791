//! Which file of a crate uses which, read from their texts.
//!
//! A file uses what its paths name, in `use` and elsewhere, that begin with `crate`, `self`, `super` or a module of its own. A name
//! that it only hands on (`pub use`) it does not use.
//!
//! Modules within modules are Rust's usual form: the outer one has the types that they share, and calls them. Two rules tell that
//! from a circle:
//!
//! - What an inner module uses of those around it is no arrow. It is a part of them, to which even their private items are open. What
//!   the outer one uses of the inner one is an arrow, as any other.
//! - An inner module with an `impl` of the outer one's type is the same piece: who has the type has all that its functions use.

use std::collections::{BTreeMap, BTreeSet};

use super::{code, sources};

type Path = Vec<String>;

/// A file, without comments and tests.
struct Source {
    /// From the root of the tree.
    name: String,
    /// Without what `use` says.
    code: String,
    /// All paths that it names.
    paths: Vec<Path>,
    /// Those of `pub use`.
    handed: Vec<Path>,
}

/// The files of a crate, or pieces of several, and which use which.
pub(super) struct Files {
    uses: BTreeMap<String, BTreeSet<String>>,
}

impl Files {
    pub(super) fn of(dir: &str) -> Files {
        let is_test =
            |name: &str| name[dir.len()..].contains("tests") || name[dir.len()..].contains("testing");
        let texts = sources(dir).into_iter().filter(|(name, _)| !is_test(name));
        Files::read(texts.map(|(name, text)| (module(&name[dir.len() + 1..]), Source::read(name, &text))))
    }

    fn read(files: impl Iterator<Item = (Path, Source)>) -> Files {
        let sources: BTreeMap<Path, Source> = files.collect();
        let name = |module: &[String]| sources[module].name.clone();
        let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (at, source) in &sources {
            let this = piece(&sources, at);
            let named = source
                .paths
                .iter()
                .filter_map(|path| resolve(&sources, at, path, 0));
            let pieces = named.map(|used| piece(&sources, used));
            let outside = pieces.filter(|used| !this.starts_with(used));
            uses.entry(name(this)).or_default().extend(outside.map(name));
        }
        Files { uses }
    }

    /// Sets of files that all reach each other.
    pub(super) fn circles(&self) -> BTreeSet<Vec<String>> {
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

impl Source {
    fn read(name: String, text: &str) -> Source {
        let text = without_tests(text);
        let (uses, code) = taken_apart(&text);
        let inner: Vec<&str> = code.lines().filter_map(inner_module).collect();
        let (mut paths, mut handed) = (Vec::new(), Vec::new());
        for (public, tree) in uses {
            let begins = tree.split("::").next().unwrap_or("").trim();
            let is_own = inner.contains(&begins);
            if !is_own && !["crate", "self", "super"].contains(&begins) && !public {
                continue;
            }
            let before = if ["crate", "self", "super"].contains(&begins) {
                ""
            } else {
                "self::"
            };
            let mut found = Vec::new();
            expand(before, &tree, &mut found);
            let found = found
                .iter()
                .map(|path| path.split("::").map(str::to_owned).collect());
            for path in found.collect::<Vec<Path>>() {
                if public {
                    handed.push(path.clone());
                }
                if !public
                    || path
                        .last()
                        .is_some_and(|item| words(&code).any(|word| word == item))
                {
                    paths.push(path);
                }
            }
        }
        paths.extend(inline(&code, &inner));
        Source {
            name,
            code,
            paths,
            handed,
        }
    }

    fn defines(&self, name: &str) -> bool {
        let mut words = words(&self.code);
        let mut before = "";
        words.any(|word| {
            let defines = word == name && ["struct", "enum", "union", "trait"].contains(&before);
            before = word;
            defines
        })
    }

    /// The types that it has an `impl` of.
    fn implements(&self) -> impl Iterator<Item = &str> {
        self.code.lines().filter_map(|line| {
            let mut rest = line.strip_prefix("impl")?;
            if rest.starts_with('<') {
                let mut depth = 0;
                let end = rest.char_indices().find(|(_, sign)| {
                    depth += i32::from(*sign == '<') - i32::from(*sign == '>');
                    depth == 0
                })?;
                rest = &rest[end.0 + 1..];
            }
            words(rest.rsplit(" for ").next()?).next()
        })
    }
}

/// The paths that a file names outside its tests, groups taken apart: those within its crate.
pub(super) fn paths(source: &str) -> Vec<Vec<String>> {
    Source::read(String::new(), source).paths
}

pub(super) fn without_tests(text: &str) -> String {
    let lines: Vec<&str> = code(text).collect();
    let tests = lines.windows(2).position(|pair| {
        let is_test = pair[0].starts_with("#[cfg(") && pair[0].contains("test");
        is_test && pair[1].starts_with("mod ") && pair[1].ends_with('{')
    });
    lines[..tests.unwrap_or(lines.len())].join("\n")
}

/// The trees of all `use`, true: `pub`; and the rest.
fn taken_apart(text: &str) -> (Vec<(bool, String)>, String) {
    let (mut uses, mut rest) = (Vec::new(), String::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let (public, after) = match line.trim_start().strip_prefix("pub") {
            Some(after) => (
                true,
                after
                    .split_once(") ")
                    .map_or(after, |(_, after)| after)
                    .trim_start(),
            ),
            None => (false, line.trim_start()),
        };
        let Some(begin) = after.strip_prefix("use ") else {
            rest.push_str(line);
            rest.push('\n');
            continue;
        };
        let mut tree = begin.to_owned();
        while !tree.contains(';')
            && let Some(line) = lines.next()
        {
            tree.push('\n');
            tree.push_str(line);
        }
        uses.push((public, tree.split(';').next().unwrap_or("").to_owned()));
    }
    (uses, rest)
}

/// The name of a module of its own, if the line declares one.
fn inner_module(line: &str) -> Option<&str> {
    let (before, name) = line.strip_suffix(';')?.split_once("mod ")?;
    (before.is_empty() || before.starts_with("pub")).then_some(name)
}

pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|sign: char| !sign.is_alphanumeric() && sign != '_')
        .filter(|word| !word.is_empty())
}

/// The paths outside `use`.
fn inline(code: &str, inner: &[&str]) -> Vec<Path> {
    let of_path = |sign: char| sign.is_alphanumeric() || sign == '_' || sign == ':';
    let mut found = Vec::new();
    for text in code
        .split(|sign| !of_path(sign))
        .filter(|text| text.contains("::"))
    {
        let text = text.trim_matches(':');
        let Some((begins, _)) = text.split_once("::") else {
            continue;
        };
        let mut path: Path = text.split("::").map(str::to_owned).collect();
        if inner.contains(&begins) {
            path.insert(0, "self".into());
        } else if !["crate", "self", "super"].contains(&begins) {
            continue;
        }
        found.push(path);
    }
    found
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

fn module(file: &str) -> Path {
    let path = file.trim_end_matches(".rs");
    let mut parts: Path = path.split('/').map(str::to_owned).collect();
    if ["mod", "lib", "main"].contains(&parts[parts.len() - 1].as_str()) {
        parts.pop();
    }
    parts
}

/// What a module belongs to: itself, or the one around it whose type it implements.
fn piece<'a>(sources: &BTreeMap<Path, Source>, module: &'a [String]) -> &'a [String] {
    let source = &sources[module];
    let around = module
        .split_last()
        .and_then(|(_, around)| Some((around, sources.get(around)?)));
    match around {
        Some((around, outer))
            if source
                .implements()
                .any(|name| outer.defines(name) && !source.defines(name)) =>
        {
            piece(sources, around)
        }
        _ => module,
    }
}

/// The module in which what a path names is defined, through the re-exports of the files on the way.
fn resolve<'a>(
    sources: &'a BTreeMap<Path, Source>,
    from: &[String],
    path: &[String],
    depth: usize,
) -> Option<&'a [String]> {
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
    let (found, source) = sources.get_key_value(&at)?;
    let Some(item) = rest.first().filter(|_| depth < 4) else {
        return Some(found.as_slice());
    };
    // `pub use x::Item` hands it on.
    let handed = source
        .handed
        .iter()
        .find(|path| path.last() == Some(item) && path.len() > 2);
    match handed {
        // None: from another package.
        Some(path) => resolve(sources, &at, path, depth + 1).filter(|other| *other != found.as_slice()),
        None => Some(found.as_slice()),
    }
}

fn circles(texts: &[(&str, &str)]) -> BTreeSet<Vec<String>> {
    let files = texts
        .iter()
        .map(|(name, text)| (module(name), Source::read((*name).to_owned(), text)));
    Files::read(files).circles()
}

#[test]
fn a_circle_is_seen_by_use_by_path_and_through_an_inner_module() {
    let circle = |names: &[&str]| BTreeSet::from([names.iter().map(ToString::to_string).collect::<Vec<_>>()]);
    let others = [("lib.rs", "mod a;\nmod b;"), ("a.rs", "use crate::b::{self, Y};")];
    let by_path = [
        others[0],
        others[1],
        ("b.rs", "pub struct Y;\nfn f() { super::a::g(); }"),
    ];
    assert_eq!(circles(&by_path), circle(&["a.rs", "b.rs"]));
    let inner = [
        others[0],
        others[1],
        ("b.rs", "mod c;\nuse c::f;\npub struct Y;"),
        ("b/c.rs", "use crate::a::X;"),
    ];
    assert_eq!(circles(&inner), circle(&["a.rs", "b.rs", "b/c.rs"]));
    let part = [
        others[0],
        others[1],
        ("b.rs", "mod c;\npub struct Y;"),
        ("b/c.rs", "use super::Y;\nuse crate::a::X;\nimpl Y {\n}"),
    ];
    assert_eq!(circles(&part), circle(&["a.rs", "b.rs"]));
}

#[test]
fn shared_types_around_inner_modules_and_names_handed_on_are_no_circle() {
    let shared = [
        ("lib.rs", "mod a;\nmod b;\npub use a::X;"),
        ("a.rs", "use crate::b::Y;\npub struct X;"),
        (
            "b.rs",
            "mod c;\nmod d;\nuse self::c::f;\npub use d::Z;\npub struct Y;",
        ),
        ("b/c.rs", "use super::Y;"),
        (
            "b/d.rs",
            "use crate::X as _;\n#[cfg(test)]\nmod tests {\n    use super::super::c::f;\n}",
        ),
    ];
    // d uses X by way of lib.rs, which only hands it on: d -> a -> b, and b does not use d.
    assert_eq!(circles(&shared), BTreeSet::new());
}
