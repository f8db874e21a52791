//! The lesson in the book, typed as it is written, in the lab that `cargo xtask lab` makes: what its boxes promise has to appear.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::needs::Need;
use lab::shell::Commands;
use lab::{Lab, Options, Process, needs, target};

const LESSON: &str = include_str!("../../docs/lesson.md");
/// How long a step may take.
const STEP: Duration = Duration::from_secs(60);

/// A box of commands, and what the box after it says is seen.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    /// The line of the page that it begins in.
    line: usize,
    commands: Vec<String>,
    seen: Vec<String>,
}

/// The steps of a page: its boxes `sh`, each with the box `text` that follows it with nothing between.
fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut language = None;
    let mut follows = false;
    for (n, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), language) {
            (Some(opened), None) => {
                if opened == "sh" {
                    let line = n + 1;
                    steps.push(Step {
                        line,
                        ..Step::default()
                    });
                }
                language = Some(opened);
            }
            (Some(_), Some(closed)) => {
                follows = closed == "sh";
                language = None;
            }
            (None, Some("sh")) => {
                if let Some(step) = steps.last_mut() {
                    step.commands.push(line.to_owned());
                }
            }
            (None, Some("text")) if follows => {
                if let Some(step) = steps.last_mut() {
                    step.seen.push(line.to_owned());
                }
            }
            (None, None) if !line.trim().is_empty() => follows = false,
            _ => {}
        }
    }
    steps
}

/// True when a line is as the page says it is: `…` stands for anything, and columns may have other widths.
pub(crate) fn is_seen(written: &str, line: &str) -> bool {
    let one_space = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line = one_space(line);
    let parts: Vec<String> = written.split('…').map(one_space).collect();
    let (first, last) = (&parts[0], &parts[parts.len() - 1]);
    if parts.len() == 1 {
        return line == *first;
    }
    let mut rest = line.as_str();
    for (n, part) in parts.iter().enumerate() {
        let Some(at) = rest.find(part.as_str()).filter(|at| n > 0 || *at == 0) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    line.ends_with(last.as_str())
}

/// Types a step and waits for its end and for all that is to be seen.
fn take(shell: &mut Process, work: &Path, step: &Step) -> Result<()> {
    let mark = shell.mark();
    // From a file: a command that reads its standard input must not get the next ones.
    let file = work.join(".step");
    std::fs::write(&file, step.commands.join("\n") + "\n")?;
    shell.type_line(". ./.step && echo @@end")?;
    shell.wait_for_after(mark, |line| line == "@@end", STEP)?;
    for written in step.seen.iter().filter(|line| line.trim() != "…") {
        // What runs in the background may say it later, and in another order.
        shell
            .wait_for_after(mark, |line| is_seen(written, line), STEP)
            .with_context(|| format!("waiting for {written:?}"))?;
    }
    Ok(())
}

#[test]
fn every_step_goes_as_it_is_written() -> Result<()> {
    needs!(Need::Root);
    let lab = Lab::new(Options {
        links: 2,
        ..Options::default()
    })?;
    let commands = Commands::new(&lab, Path::new(&target::binary()?))?;
    let work = commands.work();
    let variables = commands.environment();
    let variables: Vec<(&str, &str)> = variables
        .iter()
        .map(|(name, value)| Ok((*name, value.to_str().context("odd path")?)))
        .collect::<Result<_>>()?;
    let mut shell = Process::spawn_with(&lab.initiator, "sh", &["-e"], &variables)?;
    shell.type_line(&format!("cd {}", work.display()))?;
    let steps = steps(LESSON);
    let (end, steps) = steps.split_last().context("no steps")?;
    ensure!(steps.len() > 10, "{} steps", steps.len());
    for step in steps {
        println!("line {}: {}", step.line, step.commands.join("; "));
        take(&mut shell, &work, step).with_context(|| format!("docs/lesson.md, line {}", step.line))?;
    }
    ensure!(end.commands == ["exit"], "{end:?}");
    shell.type_line("exit")?;
    ensure!(shell.wait(STEP)?.success());
    Ok(())
}

#[test]
fn boxes_are_told_from_what_only_looks_like_them() {
    let page = "a\n```console\nx\n```\n\n```sh\none\ntwo\n```\n\n```text\nsaid …\n```\n\n```text\nnot said\n```\n```sh\nthree\n```\nb\n```text\nno\n```\n";
    let text = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
    let expected = [
        Step {
            line: 6,
            commands: text(&["one", "two"]),
            seen: text(&["said …"]),
        },
        Step {
            line: 18,
            commands: text(&["three"]),
            seen: Vec::new(),
        },
    ];
    assert_eq!(steps(page), expected);
}

#[test]
fn a_line_is_seen_with_other_widths_and_whatever_the_dots_stand_for() {
    for (written, line) in [
        ("e1.1  2 MiB", "e1.1    2 MiB "),
        ("… ready on eth0 …", "2026 INFO e1.1 ready on eth0 (02:…)"),
        ("a … b", "a x y b"),
        ("errors 0…", "errors 0, and"),
    ] {
        assert!(is_seen(written, line), "{written:?} {line:?}");
    }
    for (written, line) in [
        ("a … b", "a b c"),
        ("a b", "a b c"),
        ("a …", "b a"),
        ("… a", "a b"),
    ] {
        assert!(!is_seen(written, line), "{written:?} {line:?}");
    }
}
