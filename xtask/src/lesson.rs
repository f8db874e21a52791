//! `cargo xtask lab`: two namespaces with two links between them, and a shell to type the lesson in (`docs/lesson.md`).

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::shell::Commands;
use lab::{Lab, Options};

use crate::{cargo, run, setup, sh};

/// Two links: for multipath.
const LINKS: u32 = 2;

/// Options of `cargo xtask lab`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A binary to use instead of building one.
    #[arg(long, hide = true)]
    binary: Option<PathBuf>,
    /// Run this in the lab instead of a shell.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Makes the lab, runs the shell, takes the lab down.
pub(crate) fn run(args: &Args) -> Result<()> {
    let sudo = match nix::unistd::geteuid().is_root() {
        true => None,
        false => Some(
            sh::find("sudo").context("namespaces need root, and there is no sudo here: run this as root")?,
        ),
    };
    let binary = match &args.binary {
        Some(binary) => binary.clone(),
        None => cargo::demo_with_top()?,
    };
    if let Some(sudo) = sudo {
        let mut more = vec!["--".to_owned()];
        more.extend(args.command.iter().cloned());
        return run::again_as_root(&sudo, "lab", &binary, &more);
    }
    setup::ensure(&["iproute2"])?;
    let lab = Lab::new(Options {
        links: LINKS,
        ..Options::default()
    })?;
    let commands = Commands::new(&lab, &binary)?;
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "sh".to_owned());
    let words = match args.command.is_empty() {
        true => std::slice::from_ref(&shell),
        false => &args.command,
    };
    eprintln!(
        "A target's side and an initiator's, with the links eth0 and eth1 between them.\n  \
         target COMMAND…      runs a command on the target's side\n  \
         initiator COMMAND…   runs it on the initiator's side\n\
         The lesson is docs/lesson.md. The end of this shell ends the lab, and all that runs in it."
    );
    // Ctrl-C is for what runs in the shell.
    ctrlc::set_handler(|| {}).context("catching Ctrl-C")?;
    let status = Command::new(&words[0])
        .args(&words[1..])
        .envs(commands.environment())
        .current_dir(commands.work())
        .status()
        .with_context(|| format!("starting {}", words[0]))?;
    // A shell ends as its last command did.
    ensure!(
        args.command.is_empty() || status.success(),
        "{} ended with {status}",
        words[0]
    );
    Ok(())
}
