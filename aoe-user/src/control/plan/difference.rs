//! What another configuration would change.

use super::reload::{KeptExport, Old};
use super::{Plan, address_of};
use crate::config::Config;
use crate::control::api::reloaded::{Changed, Reloaded};

impl Plan {
    /// Compares the configuration in force with another one. Changes nothing.
    pub(crate) fn difference(&self, config: &Config) -> Reloaded {
        let mut reloaded = Reloaded::default();
        if self.wanted.cpus != config.cpus {
            let change = ("cpus".to_owned(), cpus(&self.wanted.cpus), cpus(&config.cpus));
            reloaded.settings.push(change);
        }
        let mut old = Old::new(self, self.order.clone());
        let kept = old.pair(self, &config.exports);
        for (export, kept) in config.exports.iter().zip(kept) {
            match kept {
                Some(KeptExport::Unchanged(_)) => reloaded.unchanged += 1,
                Some(KeptExport::Changed(id) | KeptExport::Renewed(id)) => reloaded.changed.push(Changed {
                    export: address_of(export).to_string(),
                    keys: self.exports[&id].config.differences(export),
                }),
                None => reloaded.added.push(address_of(export).to_string()),
            }
        }
        let rest = old.rest().filter_map(|id| self.exports.get(&id));
        reloaded.removed = rest.map(|entry| address_of(&entry.config).to_string()).collect();
        reloaded
    }

    /// A configuration has been taken over and its consequences are under way.
    pub(crate) fn is_reloading(&self) -> bool {
        self.reload.is_some()
    }
}

/// CPUs as `cpus` in a config file names them.
fn cpus(cpus: &[usize]) -> String {
    match cpus {
        [] => "all".to_owned(),
        cpus => cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    }
}
