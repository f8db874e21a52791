//! Access lists as the two halves want them, made once for all exports that share one in the configuration.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::AccessEntry;
use crate::filter::AllowList;
use crate::target::AccessList;

/// One list in both forms.
#[derive(Debug, Clone, Default)]
pub(super) struct ListForms {
    /// Rights, for the engine.
    pub(crate) access: AccessList,
    /// Rates, for the filter; `None`: everyone.
    pub(crate) allow: Option<AllowList>,
}

/// The lists made so far.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// By where the list lies; holding it keeps the place from being used again.
    by_place: HashMap<usize, (Arc<[AccessEntry]>, ListForms)>,
}

impl Made {
    /// The list of a configuration.
    pub(super) fn of(&mut self, entries: &Arc<[AccessEntry]>) -> ListForms {
        if entries.is_empty() {
            return ListForms::default();
        }
        let (_, lists) = self.by_place.entry(entries.as_ptr().addr()).or_insert_with(|| {
            let access = AccessList::new(entries.iter().map(|entry| (entry.mac, entry.access)));
            let allow = entries
                .iter()
                .map(|entry| (entry.mac, entry.rate_limit))
                .collect();
            (
                Arc::clone(entries),
                ListForms {
                    access,
                    allow: Some(allow),
                },
            )
        });
        lists.clone()
    }
}
