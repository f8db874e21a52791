//! The hidden subcommands that packagers use: man pages and shell completions.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

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
        clap_mangen::Man::new(Cli::command()).render(&mut text)?;
        return output::bytes(&text);
    };
    fs::create_dir_all(dir).with_context(|| format!("cannot make the directory {}", dir.display()))?;
    clap_mangen::generate_to(Cli::command(), dir)
        .with_context(|| format!("cannot write man pages into {}", dir.display()))
}
