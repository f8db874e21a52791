//! What a reload changed, in the words of JSON.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::types::{Condition, ExportInfo};

/// The result of [`ControlRequest::Reload`], [`ControlRequest::Add`] and [`ControlRequest::Remove`].
///
/// [`ControlRequest::Reload`]: super::types::ControlRequest::Reload
/// [`ControlRequest::Add`]: super::types::ControlRequest::Add
/// [`ControlRequest::Remove`]: super::types::ControlRequest::Remove
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reloaded {
    /// Nothing was changed.
    pub(crate) dry_run: bool,
    /// New ones.
    pub(crate) added: Vec<String>,
    /// Those whose settings differ.
    pub(crate) changed: Vec<Changed>,
    /// Those whose file was replaced by another one of its name, which is opened in its place.
    #[serde(default)]
    pub(crate) renewed: Vec<Replaced>,
    /// Each key that is not an export's, with its old and new value.
    #[serde(default)]
    pub(crate) settings: Vec<(String, String, String)>,
    /// Those that are gone.
    pub(crate) removed: Vec<String>,
    /// How many went on as they were.
    pub(crate) unchanged: usize,
    /// Of the new, changed and renewed ones, those that cannot be served.
    pub(crate) failed: Vec<FailedExport>,
    /// Of the new, changed and renewed ones, those that are not open yet.
    pub(crate) opening: Vec<String>,
}

/// An export whose settings differ.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Changed {
    /// The export.
    pub(crate) export: String,
    /// Each key of the config file with its old and new value.
    pub(crate) keys: Vec<(String, String, String)>,
}

/// An export whose path leads to another file than before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Replaced {
    /// The export.
    pub(crate) export: String,
    /// Its path.
    pub(crate) path: PathBuf,
}

/// An export that cannot be served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FailedExport {
    /// The export.
    pub(crate) export: String,
    /// Why.
    pub(crate) reason: String,
}

impl Reloaded {
    /// Notes what has become of the exports, now that the configuration has had its consequences: whose files were replaced, and which
    /// of the new, changed and renewed ones are not served.
    pub(super) fn settle(&mut self, renewed: &[Replaced], exports: &[ExportInfo]) {
        for replaced in renewed {
            if !self.touches(&replaced.export) {
                self.unchanged = self.unchanged.saturating_sub(1);
            }
            self.renewed.push(replaced.clone());
        }
        for export in exports
            .iter()
            .filter(|export| self.touches(&export.export))
            .collect::<Vec<_>>()
        {
            let off = export.kept_off.first().map(|off| off.reason.clone());
            let reason = export.reason.clone().or(off);
            let is_failed = match export.state {
                Condition::Failed | Condition::FailedDegraded => true,
                Condition::Ready => reason.is_some(),
                Condition::Waiting | Condition::Paused | Condition::Standby => false,
            };
            if is_failed {
                self.failed.push(FailedExport {
                    export: export.export.clone(),
                    reason: reason.unwrap_or_default(),
                });
            } else if export.state == Condition::Waiting {
                self.opening.push(export.export.clone());
            }
        }
    }

    /// It is one of the new, changed or renewed ones.
    fn touches(&self, name: &str) -> bool {
        self.added.iter().any(|added| added == name)
            || self.changed.iter().any(|changed| changed.export == name)
            || self.renewed.iter().any(|renewed| renewed.export == name)
    }
}
