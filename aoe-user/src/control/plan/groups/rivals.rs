//! Who is asked about a group, and what is done about another gateway that has it as well.

use std::sync::Arc;
use std::time::Instant;

use aoe_common::Mac;
use failover::Standing;

use super::super::{ExportId, Plan, PlanAction, address_of};
use crate::config::FailoverGroup;
use crate::target::Address;

/// Another gateway that has the group as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control) struct Rival {
    /// Its address, and the one that it was asked from.
    pub(crate) mac: Mac,
    pub(crate) own: Mac,
    /// The export that it was asked for.
    pub(crate) export: Address,
    /// Since when, and with what.
    pub(crate) since_ms: u64,
    pub(crate) serves: String,
}

impl Plan {
    /// The groups that are to be asked for, with the exports to ask for, and whether this gateway has the group and asks who else does.
    pub(crate) fn asked_groups(&self) -> Vec<(Arc<FailoverGroup>, Vec<ExportId>, bool)> {
        let asking = self
            .groups
            .iter()
            .filter(|(_, group)| group.machine.is_asking() || group.machine.asks_rivals());
        asking
            .map(|(name, group)| {
                let config = Arc::clone(&group.config);
                (config, self.members(name), group.machine.asks_rivals())
            })
            .collect()
    }

    /// When this gateway last began to take a group.
    pub(crate) fn group_taken(&self, name: &str) -> Option<Instant> {
        self.groups.get(name)?.taken
    }

    /// Another gateway says that it has a group, which is active here: one of the two leaves, silent at once. Not where the storage is not heard here:
    /// it may say that the other one has taken the group; nor where nothing is open here, and the other one rightly does what this one does not.
    pub(crate) fn group_rival(
        &mut self,
        name: &str,
        own: Standing,
        rival: &Rival,
        hears_storage: bool,
        now: Instant,
    ) {
        let us = self.us(now);
        let members = self.members(name);
        let asked = members.iter().map(|id| &self.exports[id].config);
        let serves = asked
            .filter(|config| address_of(config) == rival.export)
            .map(|config| config.path.display().to_string())
            .next();
        let other = Standing {
            since_ms: rival.since_ms,
            mac: rival.mac.0,
        };
        let serves_any = members.iter().any(|id| self.exports[id].is_open());
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        if !hears_storage || !serves_any {
            return group.machine.forget_rivals();
        }
        let words = |leaves| words(name, rival, serves.as_deref().unwrap_or("nothing"), leaves);
        if group.machine.heard_rival(own, other, us, words) {
            let open = members.into_iter().filter(|id| self.exports[id].is_open());
            self.actions.extend(open.map(PlanAction::SilenceExport));
        }
    }
}

fn words(name: &str, rival: &Rival, serves: &str, leaves: bool) -> String {
    let what = format!(
        "two gateways active at one address: the one at {} serves {} as {}, this one {serves}. Each has a lock of its own, so these are different images, or in \
         different clusters: compare `path` and `ceph.conf` on both, and whether an image was renamed",
        rival.mac, rival.serves, rival.export
    );
    match leaves {
        true => format!(
            "{what}. The other one has had the group for longer and keeps it; what was acknowledged here since then is in this one's image alone. This \
             gateway stays out of it until `xblade failover take {name}`, a reload or a restart"
        ),
        false => format!(
            "{what}. This one has had the group for longer, keeps it, and waits for the other one to leave it"
        ),
    }
}
