//! Every line of the book that calls xblade is one that xblade understands.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use clap::error::ErrorKind;

use super::args::Cli;

/// The pages that show commands.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let markdown = |folder: &str| {
        let entries = fs::read_dir(root.join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "md"))
    };
    let mut pages: Vec<PathBuf> = markdown("docs").chain(markdown("packaging")).collect();
    pages.push(root.join("README.md"));
    pages
}

/// The words of the calls in a line of the shell, redirections and comments left out.
fn calls(line: &str) -> Vec<Vec<&str>> {
    let line = line.split(" #").next().unwrap_or_default();
    let commands = line.split([';', '|', '&']).map(|command| {
        let command = command.split(['>', '<']).next().unwrap_or_default();
        let mut words = command.split_whitespace().skip_while(|word| *word == "sudo");
        let program = words.next().unwrap_or_default();
        (program.rsplit('/').next() == Some("xblade"))
            .then(|| std::iter::once("xblade").chain(words).collect())
    });
    commands.flatten().collect()
}

/// The lines of the blocks of shell commands.
fn shell_lines(page: &str) -> impl Iterator<Item = &str> {
    let mut is_shell = false;
    page.lines().filter(move |line| {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            is_shell = matches!(language, "sh" | "console");
            return false;
        }
        is_shell
    })
}

/// What stands between single backquotes. Parts of calls among it, such as `xblade serve`, may lack arguments.
fn spans(page: &str) -> impl Iterator<Item = &str> {
    page.lines().flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// A word that stands for others.
fn is_placeholder(word: &str) -> bool {
    word.contains(['…', '→', '[', '{']) || word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase())
}

#[test]
fn every_call_in_the_book_is_understood() {
    let mut seen = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        let whole = shell_lines(&page).flat_map(calls).map(|words| (words, true));
        let parts = spans(&page).flat_map(calls).map(|words| (words, false));
        for (words, is_whole) in whole.chain(parts) {
            if words.iter().any(|word| is_placeholder(word)) {
                continue;
            }
            seen += 1;
            let Err(error) = Cli::try_parse_from(&words) else {
                continue;
            };
            let is_fine = match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
                ErrorKind::MissingRequiredArgument | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                    !is_whole
                }
                _ => false,
            };
            assert!(is_fine, "{}: {}:\n{error}", path.display(), words.join(" "));
        }
    }
    assert!(
        seen > 60,
        "only {seen} calls were found: this test does not see them"
    );
}

#[test]
fn calls_are_found_wherever_they_stand() {
    assert_eq!(
        calls("uname -r; sudo target/release/xblade check -c f > out  # xblade no"),
        [["xblade", "check", "-c", "f"]]
    );
    assert!(calls("cargo build -p xblade").is_empty());
}
