//! Runs that are kept: plans that once failed, or that show a known fault or a planted defect.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::known::Known;
use crate::plan::Plan;

/// A kept run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kept {
    /// Why it is kept.
    pub why: String,
    /// The known fault that it shows; none: it has to run clean.
    #[serde(default)]
    pub shows: Option<Known>,
    /// What to run.
    pub plan: Plan,
}

/// Where they are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds")
}

/// All of them, by name.
///
/// # Errors
/// When a file cannot be read or understood.
pub fn all() -> anyhow::Result<Vec<(String, Kept)>> {
    let folder = folder();
    let mut kept = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ext| ext == "json") {
            let name = path
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            kept.push((name, load(&path)?));
        }
    }
    kept.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(kept)
}

/// One of them.
///
/// # Errors
/// When it cannot be read or understood.
pub fn load(path: &Path) -> anyhow::Result<Kept> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("understanding {}", path.display()))
}

/// Keeps a run.
///
/// # Errors
/// When it cannot be written.
pub fn save(path: &Path, kept: &Kept) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(kept)?;
    std::fs::write(path, text + "\n").with_context(|| format!("writing {}", path.display()))
}
