//! `docs/conformance.md` names tests: they exist, and the vectors do, too.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

const WHERE: [&str; 4] = ["aoe-user/src", "crates", "tests/tests", "fuzz/tests"];

/// All Rust files below a directory.
fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a source directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// What a file's tests are named by: its name, or for a `mod.rs` the two folders that it is in.
fn module(file: &Path) -> String {
    let name = |path: &Path| path.file_stem().expect("a name").to_string_lossy().into_owned();
    match (
        name(file).as_str(),
        file.parent().and_then(|dir| Some((dir, dir.parent()?))),
    ) {
        ("mod", Some((dir, above))) => format!("{}::{}", name(above), name(dir)),
        (stem, _) => stem.to_owned(),
    }
}

/// Pieces of text between backquotes.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let mut files = Vec::new();
    for dir in WHERE {
        sources(&root.join(dir), &mut files);
    }
    let mut known = HashSet::new();
    for file in files {
        let stem = module(&file);
        let text = std::fs::read_to_string(&file).expect("readable source");
        let functions = text.split("fn ").skip(1);
        known.extend(functions.map(|rest| {
            let end = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            format!("{stem}::{}", &rest[..end])
        }));
    }
    let page = std::fs::read_to_string(root.join("docs/conformance.md")).expect("the page");
    let named: Vec<&str> = quoted(&page)
        .filter(|text| text.contains("::") && *text != "file::test")
        .collect();
    assert!(named.len() > 50, "only {} tests are named", named.len());
    let missing: Vec<_> = named.iter().filter(|name| !known.contains(**name)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:?}");
}

#[test]
fn every_vector_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let vectors = std::fs::read_to_string(root.join("tests/data/vectors.txt")).expect("the vectors");
    let page = std::fs::read_to_string(root.join("docs/conformance.md")).expect("the page");
    let is_vector =
        |word: &&str| matches!(word.as_bytes(), [b'T', a, b] if a.is_ascii_digit() && b.is_ascii_digit());
    let named: HashSet<&str> = page
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(is_vector)
        .collect();
    assert!(named.len() > 30, "only {} vectors are named", named.len());
    for name in named {
        assert!(
            vectors.lines().any(|line| line.starts_with(name)),
            "no vector {name}"
        );
    }
}
