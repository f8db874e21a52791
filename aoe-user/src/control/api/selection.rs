//! Exports as operators name them.

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::config::ExportConfig;
use crate::target::Address;

/// Exports by their names.
#[derive(Debug)]
pub(crate) struct Selection(Option<GlobSet>, Vec<String>);

impl Selection {
    /// Those that one of the globs matches, as in `e1.*`; all without a glob. The `e` may be left out.
    ///
    /// # Errors
    /// When one is no glob.
    pub(crate) fn new(globs: &[String]) -> Result<Selection, String> {
        if globs.is_empty() {
            return Ok(Selection(None, Vec::new()));
        }
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            set.add(Glob::new(glob.trim_start_matches('e')).map_err(|error| error.to_string())?);
        }
        let set = set.build().map_err(|error| error.to_string())?;
        Ok(Selection(Some(set), globs.to_vec()))
    }

    /// All of them.
    pub(crate) const fn all() -> Selection {
        Selection(None, Vec::new())
    }

    /// Whether the export is one of them.
    pub(crate) fn has(&self, config: &ExportConfig) -> bool {
        let (shelf, slot) = (config.shelf, config.slot);
        self.has_address(Address { shelf, slot })
    }

    /// The same by its address.
    pub(crate) fn has_address(&self, address: Address) -> bool {
        let set = self.0.as_ref();
        set.is_none_or(|set| set.is_match(format!("{}.{}", address.shelf, address.slot)))
    }

    /// The first of the globs that matches none of these.
    pub(crate) fn unmatched(&self, known: impl IntoIterator<Item = Address>) -> Option<&str> {
        let set = self.0.as_ref()?;
        let mut found = vec![false; self.1.len()];
        for address in known {
            for at in set.matches(format!("{}.{}", address.shelf, address.slot)) {
                found[at] = true;
            }
        }
        let at = found.iter().position(|found| !found)?;
        Some(&self.1[at])
    }
}
