//! The exports of a group, as they open.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Instant;

use super::{Plan, Role};
use crate::config::ExportConfig;
use crate::control::plan::ExportId;
use crate::control::plan::exports::ExportLife;
use crate::control::plan::refusal::{Obstacle, OpenRefusal};

/// The storage of an export, whatever its address: a path, and Ceph's configuration file.
pub(super) type Image = (PathBuf, Option<PathBuf>);

/// That of one export.
pub(super) fn image_of(config: &ExportConfig) -> Image {
    (config.path.clone(), config.ceph.conf.clone())
}

impl Plan {
    /// An export of a group is open.
    pub(in super::super) fn note_opened(&mut self, id: ExportId) {
        let entry = &self.exports[&id];
        let image = image_of(&entry.config);
        if let Some(name) = entry.config.failover.as_ref().map(|group| &group.name)
            && let Some(group) = self.groups.get_mut(name)
        {
            group.opened.insert(image);
        }
    }

    /// Open exports of a group such that there is one in each VLAN of each interface that the group is served on.
    pub(super) fn one_on_each_network(&self, name: &str) -> Vec<ExportId> {
        let mut networks = HashSet::new();
        let mut chosen = self.members(name);
        chosen.retain(|id| {
            let entry = &self.exports[id];
            let interfaces = match entry.is_open() {
                true => self.usable_interfaces(*id),
                false => Vec::new(),
            };
            let known = networks.len();
            networks.extend(
                interfaces
                    .into_iter()
                    .map(|interface| (interface, entry.config.vlan)),
            );
            networks.len() > known
        });
        chosen
    }

    /// A member could not be opened because of whoever has its storage, or had it.
    pub(in super::super) fn note_obstacle(&mut self, id: ExportId, refusal: &OpenRefusal, now: Instant) {
        let group = self
            .exports
            .get(&id)
            .and_then(|entry| entry.config.failover.as_ref());
        let group = group.map(|group| group.name.clone());
        let Some((name, obstacle)) = group.zip(refusal.obstacle) else {
            return;
        };
        let serves_others = self.members(&name).iter().any(|other| {
            let life = &self.exports[other].life;
            *other != id && !matches!(life, ExportLife::Failed(_))
        });
        let us = self.us(now);
        let Some(group) = self.groups.get_mut(&name) else {
            return;
        };
        match (group.machine.state(), obstacle) {
            (Role::Taking, _) => group.in_use = Some(refusal.reason.clone()),
            // It was to be opened anew, and somebody was faster. Where it was the only export, the group is theirs.
            (Role::Quiet | Role::Active, Obstacle::InUse) if !serves_others => {
                group.machine.fenced(refusal.reason.clone(), us);
            }
            // Where an image was served otherwise before, nobody has it: its export waits for the operator, and the group stays.
            _ => {}
        }
    }
}
