//! What failover groups need of the world: who answers for them, who has them as well, who has the locks of their images, and the programs that guard
//! other storage. What is done about it, the plan decides.

mod detector;
mod program;
mod telling;
mod told;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use aoe_common::Mac;

use super::open;
use super::plan::{ExportId, LockOrder, LockRun};
use super::supervisor::{Event, Supervisor};
use crate::config::{ExportConfig, FailoverGroup};
use crate::store::{RbdImage, StoreError, inspect_rbd};
use detector::Asking;
pub(super) use detector::{Detectors, Heard};
pub(super) use told::Told;

impl Supervisor {
    /// Has the groups that others serve asked for, on all interfaces of theirs that are up, and the others whether they serve those of this gateway.
    pub(super) fn ask_for_groups(&mut self) {
        let mut wanted = BTreeMap::new();
        let own: HashSet<Mac> = self.links.values().filter_map(|link| link.mac).collect();
        for (group, members, is_ours) in self.plan.asked_groups() {
            let mut interfaces: BTreeMap<String, Vec<_>> = BTreeMap::new();
            for id in members {
                let Some((config, _)) = self.plan.config(id) else {
                    continue;
                };
                let probed = open::probed(&config);
                for name in self.plan.usable_interfaces(id) {
                    interfaces.entry(name).or_default().push(probed);
                }
            }
            let asking = Asking {
                mac: group.mac,
                rivals: is_ours.then(|| {
                    let others = group.peers.iter().filter(|peer| !own.contains(peer));
                    others.copied().collect()
                }),
                peers: Arc::clone(&group.peers),
                interfaces,
            };
            if asking.rivals.as_ref().is_some_and(Vec::is_empty) {
                continue;
            }
            wanted.insert(group.name.clone(), asking);
        }
        self.detectors.follow(wanted);
    }

    /// Finds out who has the locks of a group's images.
    pub(super) fn look_for_owners(&mut self, group: &str) {
        let images = self.plan.images(group);
        let (name, failed) = (group.to_owned(), group.to_owned());
        self.jobs.start(
            move || {
                let inspect = |config: &ExportConfig| inspect_rbd(&config.path, &config.ceph);
                Event::Looked(name, owners(&images, inspect))
            },
            |panic| Event::Looked(failed, Err(panic)),
        );
    }

    /// Runs the program of a group.
    pub(super) fn run_lock(&mut self, run: LockRun, config: &Arc<FailoverGroup>) {
        let config = Arc::clone(config);
        self.jobs.start(
            move || Event::Locked(run, program::run(&config, run.order)),
            move |panic| Event::Locked(run, Err(panic)),
        );
    }
}

/// For the end of the process: has the programs of groups give back what they took. Blocks.
pub(super) fn release(groups: &[Arc<FailoverGroup>]) {
    for group in groups {
        if let Err(reason) = program::run(group, LockOrder::Release) {
            tracing::error!("failover group {}: {reason}", group.name);
        }
    }
}

/// The owners of the locks of images. One that cannot be looked at has none, unless that is so of all. An image is not
/// taken from an owner that is no gateway, and none of them where one was served otherwise: that is found out before anybody is shut out.
fn owners(
    images: &[(ExportId, Arc<ExportConfig>)],
    inspect: impl Fn(&ExportConfig) -> Result<RbdImage, StoreError>,
) -> Result<HashMap<ExportId, Option<String>>, String> {
    let mut owners = HashMap::new();
    let mut failure = None;
    for (id, config) in images {
        match inspect(config) {
            Ok(RbdImage {
                owner: Some(owner),
                is_foreign: true,
                ..
            }) => {
                let path = config.path.display();
                let group = config.failover.as_ref().map_or("NAME", |group| &group.name);
                return Err(format!(
                    "{path} is in use by {owner}, which is no gateway of a failover group; `xblade failover take {group}` shuts it out"
                ));
            }
            Ok(image) => {
                if !config.read_only {
                    let range = (config.offset, config.length);
                    image
                        .check_range(&config.path, range)
                        .map_err(|error| error.to_string())?;
                }
                owners.insert(*id, image.owner);
            }
            Err(error) => failure = Some(error.to_string()),
        }
    }
    match (owners.is_empty(), failure) {
        (true, Some(reason)) => Err(reason),
        _ => Ok(owners),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All members are opened side by side: the others would have shut out the gateway before when one finds that it must not be taken.
    #[test]
    fn a_group_of_which_one_image_was_served_otherwise_is_not_taken_from_anybody() {
        let image = |slot: u8, offset: u64, read_only: bool| {
            let path = format!("rbd:p/{slot}").into();
            let config = ExportConfig::new(1, slot, path);
            let config = ExportConfig {
                offset,
                read_only,
                ..config
            };
            (ExportId(slot.into()), Arc::new(config))
        };
        let inspect = |config: &ExportConfig| {
            Ok(RbdImage {
                bytes: 1 << 20,
                owner: (config.slot != 4).then(|| "10.0.0.1:0/7".to_owned()),
                is_foreign: false,
                range: (config.slot != 1).then(|| "offset 8, length 0".to_owned()),
            })
        };
        let alike = [image(1, 0, false), image(2, 8, false), image(4, 8, false)];
        let found = owners(&alike, inspect).unwrap();
        assert_eq!((found.len(), found[&ExportId(4)].as_ref()), (3, None));
        // Also one that nobody has now.
        for other in [image(2, 16, false), image(4, 0, false)] {
            let said = owners(&[image(1, 0, false), other], inspect).unwrap_err();
            assert!(said.contains("the gateway before served offset 8"), "{said}");
        }
        // What is only read here tells nobody which part that is.
        assert!(owners(&[image(2, 16, true)], inspect).is_ok());
    }
}
