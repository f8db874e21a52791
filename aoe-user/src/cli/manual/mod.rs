//! The hidden subcommands that packagers use: man pages and shell completions.

mod config;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use clap_mangen::Man;

use super::args::Cli;
use super::output;

pub(super) fn completions(shell: Shell) -> anyhow::Result<()> {
    // Into memory first: the generator panics when its output goes away, as in `xblade completions bash | head`.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "xblade", &mut text);
    output::bytes(&text)
}

pub(super) fn man(dir: Option<&Path>) -> anyhow::Result<()> {
    let Some(dir) = dir else {
        let mut text = Vec::new();
        page(Cli::command()).render(&mut text)?;
        return output::bytes(&text);
    };
    match fs::create_dir(dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        made => made,
    }
    .with_context(|| format!("cannot make the directory {}", dir.display()))?;
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    pages(command, dir)
        .and_then(|()| fs::write(dir.join("xblade.toml.5"), config::page()))
        .with_context(|| format!("cannot write man pages into {}", dir.display()))
}

/// A page for the command and each of its subcommands.
fn pages(command: Command, dir: &Path) -> std::io::Result<()> {
    for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        pages(command.clone(), dir)?;
    }
    page(command).generate_to(dir).map(drop)
}

/// Section 8: what it does takes an administrator.
fn page(command: Command) -> Man {
    Man::new(command).section("8").manual("System Administration")
}
