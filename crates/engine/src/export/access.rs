//! Static access lists.

use std::sync::Arc;

use aoe_common::{Access, Mac};

/// Who may use an export, and how. Cloning shares the list: thousands of exports may have one of thousands of members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessList(Arc<[(Mac, Access)]>);

impl AccessList {
    /// A list of these members. Of two entries for one address the first counts.
    pub fn new(members: impl IntoIterator<Item = (Mac, Access)>) -> AccessList {
        let mut members: Vec<_> = members.into_iter().collect();
        members.sort_by_key(|(mac, _)| *mac);
        members.dedup_by_key(|(mac, _)| *mac);
        AccessList(members.into())
    }

    /// True when it names nobody, which admits everyone.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Members, by address.
    pub fn macs(&self) -> impl Iterator<Item = Mac> {
        self.0.iter().map(|(mac, _)| *mac)
    }

    /// What a member may do; `None` for anybody else.
    pub fn of(&self, source: Mac) -> Option<Access> {
        let at = self.0.binary_search_by_key(&source, |(mac, _)| *mac).ok()?;
        self.0.get(at).map(|(_, access)| *access)
    }
}

impl<const N: usize> From<[(Mac, Access); N]> for AccessList {
    fn from(members: [(Mac, Access); N]) -> AccessList {
        AccessList::new(members)
    }
}
