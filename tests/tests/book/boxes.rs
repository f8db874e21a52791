//! The boxes of commands on the pages.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// A box of commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommandBox {
    /// Its page, from the project's root.
    pub page: String,
    /// The line of the page that it begins in.
    pub line: usize,
    /// Its lines, indented as in the first; of a box with a prompt what is typed.
    pub lines: Vec<String>,
    /// Of a box with a prompt: what is seen.
    pub seen: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The boxes of README and book, in the order of pages and lines.
pub(crate) fn all() -> Result<Vec<CommandBox>> {
    let mut pages = vec!["README.md".to_owned(), "packaging/README.md".to_owned()];
    for entry in std::fs::read_dir(root().join("docs"))? {
        let name = entry?.file_name().into_string().ok().context("an odd name")?;
        pages.extend(name.ends_with(".md").then(|| format!("docs/{name}")));
    }
    pages.sort();
    let mut boxes = Vec::new();
    for page in pages {
        let text = text(&page)?;
        boxes.extend(of(&page, &text));
    }
    ensure!(boxes.len() > 60, "only {} boxes are found", boxes.len());
    Ok(boxes)
}

/// A page.
pub(crate) fn text(page: &str) -> Result<String> {
    std::fs::read_to_string(root().join(page)).with_context(|| format!("no {page}"))
}

/// All boxes of a page in this language, as they are.
pub(crate) fn in_language(text: &str, wanted: &str) -> Vec<(usize, Vec<String>)> {
    let mut boxes: Vec<(usize, Vec<String>)> = Vec::new();
    let mut language: Option<&str> = None;
    // Of a box within a list.
    let mut margin = 0;
    for (n, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        match (line.trim_start().strip_prefix("```"), language) {
            (Some(opened), None) => {
                (language, margin) = (Some(opened.trim()), indent);
                if language == Some(wanted) {
                    boxes.push((n + 1, Vec::new()));
                }
            }
            (Some(_), Some(_)) => language = None,
            (None, Some(opened)) if opened == wanted => {
                if let Some((_, lines)) = boxes.last_mut() {
                    lines.push(line[indent.min(margin)..].to_owned());
                }
            }
            _ => {}
        }
    }
    boxes
}

/// The boxes `sh`, and those of any language in which a line begins with a prompt.
fn of(page: &str, text: &str) -> Vec<CommandBox> {
    let mut boxes = Vec::new();
    let make = |line, lines, seen| CommandBox {
        page: page.to_owned(),
        line,
        lines,
        seen,
    };
    for (line, lines) in in_language(text, "sh") {
        boxes.push(make(line, lines, Vec::new()));
    }
    for language in ["console", "text", ""] {
        for (line, lines) in in_language(text, language) {
            let typed = |line: &String| line.strip_prefix("$ ").map(str::to_owned);
            let mut typed: Vec<String> = lines.iter().filter_map(typed).collect();
            let mut seen: Vec<String> = lines.into_iter().filter(|line| !line.starts_with("$ ")).collect();
            if language == "console" && typed.is_empty() {
                std::mem::swap(&mut typed, &mut seen);
            }
            if !typed.is_empty() {
                boxes.push(make(line, typed, seen));
            }
        }
    }
    boxes.sort_by_key(|found| found.line);
    boxes
}

#[test]
fn boxes_are_told_from_other_text() {
    let page = "a `b`\n```text\n$ one\nsaid\n```\n```toml\n$ no\n```\n   ```sh\n   two\n     three\n   ```\n```text\nno\n```\n";
    let made: Vec<(usize, Vec<String>, Vec<String>)> = of("p", page)
        .into_iter()
        .map(|found| (found.line, found.lines, found.seen))
        .collect();
    let text = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        made,
        [
            (2, text(&["one"]), text(&["said"])),
            (9, text(&["two", "  three"]), Vec::new()),
        ]
    );
}
