//! `xblade import`: a config file made of another target's. Nothing of that is executed, and nobody is let in who was shut
//! out: an export whose access list cannot be taken over is left to the operator, as a comment.

mod export;
mod ggaoed;
mod qaoed;
mod vblade;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};

use super::args::{ImportArgs, ImportFormat};
use super::live::DEGRADED;
use super::output;
use crate::config::validate::{SettingNames, contradictions};
use crate::config::{file, source};
use export::text;

/// Where names of Ethernet addresses are looked up, as ggaoed does.
const ETHERS: &str = "/etc/ethers";

pub(super) fn run(args: &ImportArgs) -> Result<ExitCode> {
    let read = |path: &Path| Ok::<_, anyhow::Error>((path.display().to_string(), text_of(path)?));
    let import = match args.format {
        ImportFormat::Vblade => {
            let texts: Result<Vec<_>> = fragments(&args.path)?.iter().map(|path| read(path)).collect();
            vblade::import(&texts?)
        }
        ImportFormat::Ggaoed => {
            let ethers = text_of(Path::new(ETHERS)).unwrap_or_default();
            ggaoed::import(&read(&args.path)?.1, &ethers)
        }
        ImportFormat::Qaoed => qaoed::import(&read(&args.path)?.1)
            .with_context(|| format!("{} is no file of qaoed", args.path.display()))?,
    };
    let (text, refused) = text(import, &args.path.display().to_string());
    output::print(&text)?;
    let problems = match file::parse(Path::new("the output"), text) {
        Ok(whole) => contradictions(&whole.config, SettingNames::File).problems(None),
        // There is no export in it.
        Err(problems) => problems,
    };
    for problem in &problems.0 {
        tracing::warn!("the output needs a change: {}", problem.message);
    }
    if refused > 0 {
        tracing::warn!("exports that could not be taken over: {refused}; the output says why");
    }
    if refused > 0 || !problems.0.is_empty() {
        return Ok(ExitCode::from(DEGRADED));
    }
    Ok(ExitCode::SUCCESS)
}

/// What a configuration file of another target says: text, and not without end.
fn text_of(path: &Path) -> Result<String> {
    let bytes = source::read(path).map_err(|reason| anyhow!("cannot read {}: {reason}", path.display()))?;
    let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
    text.with_context(|| format!("{} is no text: is it a disk image?", path.display()))
}

/// The file, or those of a directory that vblade's scripts take.
fn fragments(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "conf") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}
