//! The list of persistent copies, which is kept apart from them: whoever is on it and has no copy has lost it, and does not begin anew
//! by itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;

use super::naming::DiskName;
use crate::control::state::{StateDir, StateKey};

/// The list of one export.
#[derive(Debug)]
pub(in crate::control) struct ListedCopies {
    /// Where it is kept; `None`: nowhere, it ends with the process.
    kept: Option<(Arc<StateDir>, StateKey)>,
    /// Or why it is not known.
    machines: Mutex<Result<BTreeSet<String>, String>>,
}

impl ListedCopies {
    /// As it was kept.
    pub(in crate::control) fn read(kept: Option<(Arc<StateDir>, StateKey)>) -> ListedCopies {
        let machines = kept
            .as_ref()
            .map_or_else(|| Ok(BTreeSet::new()), |(state, key)| state.copies(key));
        if let Err(reason) = &machines {
            tracing::error!("{reason}; no machine gets a new persistent copy until then");
        }
        ListedCopies {
            kept,
            machines: Mutex::new(machines),
        }
    }

    /// Everybody on it.
    pub(super) fn names(&self) -> Vec<DiskName> {
        let machines = self.machines.lock();
        let names = machines.iter().flatten();
        names.filter_map(|name| name.parse().ok()).collect()
    }

    /// The same.
    ///
    /// # Errors
    /// When the list is not known.
    pub(super) fn all(&self) -> Result<Vec<DiskName>> {
        if let Err(reason) = &*self.machines.lock() {
            bail!("{reason}");
        }
        Ok(self.names())
    }

    pub(super) fn has(&self, name: &DiskName) -> bool {
        let machines = self.machines.lock();
        machines
            .as_ref()
            .is_ok_and(|machines| machines.contains(&name.to_string()))
    }

    /// Whether a machine without a copy may get one.
    ///
    /// # Errors
    /// Where it had a persistent one, or is to get one and may have had one.
    pub(super) fn may_begin(&self, name: &DiskName, persistent: bool) -> Result<()> {
        match &*self.machines.lock() {
            Ok(machines) if machines.contains(&name.to_string()) => bail!(
                "its persistent copy is gone, with all that it held: bring its files back, or have it begin anew (`xblade overlay reset`)"
            ),
            Err(reason) if persistent => bail!("{reason}"),
            _ => Ok(()),
        }
    }

    /// A persistent copy is there.
    pub(super) fn add(&self, name: &DiskName) -> Result<()> {
        self.change(|machines| machines.insert(name.to_string()))
    }

    /// A copy goes.
    pub(super) fn remove(&self, name: &DiskName) -> Result<()> {
        self.change(|machines| machines.remove(&name.to_string()))
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<String>) -> bool) -> Result<()> {
        let mut machines = self.machines.lock();
        // What cannot be read is not written over.
        let Ok(before) = &*machines else { return Ok(()) };
        let mut after = before.clone();
        if !change(&mut after) {
            return Ok(());
        }
        if let Some((state, key)) = &self.kept {
            state
                .keep_copies(key, &after)
                .context("the list of persistent copies cannot be kept")?;
        }
        *machines = Ok(after);
        Ok(())
    }
}
