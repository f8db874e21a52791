//! The failover groups' part of the plan: whether this gateway serves the exports of each, or stands by.
//!
//! What decides is [`failover::Group`]; here its steps become actions on exports and ports. An export of a group is open while
//! its lock may be held, and on the ports' views while the group is active.

mod members;
mod operator;
mod program;
mod rivals;
mod status;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use failover::{Group, GroupSettings, GroupState as Role, GroupStep, Holder};

use super::exports::{ExportEntry, ExportLife};
use super::reload_report::ReloadReport;
use super::{ExportId, Plan, PlanAction, StateLife, address_of};
use crate::config::{Config, FailoverGroup, StoreKind};
use crate::store::{LockOf, Takeover};
pub(super) use program::Retired;
pub(in crate::control) use program::{LockOrder, LockRun};
pub(in crate::control) use rivals::Rival;
pub(in crate::control) use status::GroupStatus;

/// A lock is broken so soon after the decision, or not at all.
const TAKE_WITHIN: Duration = Duration::from_secs(5);
/// And for each image more: several are opened side by side.
const EACH_TAKES: Duration = Duration::from_millis(100);
/// A group of the configuration.
#[derive(Debug)]
pub(super) struct Membership {
    config: Arc<FailoverGroup>,
    machine: Group,
    /// Who had the locks of the images when they were looked at.
    owners: HashMap<ExportId, Option<String>>,
    /// Whose locks may be broken by the take-over under way.
    from: Option<Holder>,
    /// When it was last begun to take it.
    taken: Option<Instant>,
    /// The storage has been taken by the program, or needs none.
    has_storage: bool,
    /// It is to be taken, when whoever had it under another configuration has given it back.
    is_due: bool,
    /// The program is running: nothing else begins before that has ended.
    running: Option<LockRun>,
    /// The program is to be asked again then; `None`: it is running.
    check: Option<Instant>,
    /// Said last.
    told: Option<String>,
    /// Openings whose end is waited for.
    leaving: Vec<ExportId>,
    /// An export that somebody else has, found while taking it.
    in_use: Option<String>,
    /// Images that were open here since the group was taken: which part of them is shown is this gateway's to change.
    opened: HashSet<members::Image>,
}

/// Until a gateway whose storage a program has taken away has noticed: a check that began just before may say that it is well, the next one begins a
/// second later, and each may take 5 s, with another one for what it says.
const LATE_CHECK: Duration = Duration::from_secs(13);

fn settings(config: &FailoverGroup) -> GroupSettings {
    let us = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let mut settings = GroupSettings::with_detect_us(us(config.detect));
    if config.command.is_some() {
        settings.late_us = settings.late_us.max(us(LATE_CHECK));
    }
    settings
}

impl Plan {
    /// Takes over the groups of a configuration.
    pub(super) fn want_groups(&mut self, config: &Config, now: Instant) {
        let mut members: HashMap<String, Vec<ExportId>> = self
            .groups
            .keys()
            .map(|name| (name.clone(), self.members(name)))
            .collect();
        let mut before = std::mem::take(&mut self.groups);
        let start_us = self.us(now);
        for config in config
            .exports
            .iter()
            .filter_map(|export| export.failover.as_ref())
        {
            if self.groups.contains_key(&config.name) {
                continue;
            }
            let is_same = |before: &Membership| before.config.command == config.command;
            // Another program is another storage: it begins anew, and the one of before goes.
            let goes_on = before.get(&config.name).is_some_and(is_same);
            let membership = match goes_on.then(|| before.remove(&config.name)).flatten() {
                Some(mut membership) => {
                    membership.machine.set_settings(settings(config));
                    membership.config = Arc::clone(config);
                    membership
                }
                None => Membership {
                    config: Arc::clone(config),
                    machine: Group::new(settings(config), start_us),
                    owners: HashMap::new(),
                    from: None,
                    taken: None,
                    has_storage: false,
                    is_due: false,
                    running: None,
                    check: None,
                    told: None,
                    leaving: Vec::new(),
                    in_use: None,
                    opened: HashSet::new(),
                },
            };
            self.groups.insert(config.name.clone(), membership);
        }
        for (name, membership) in before {
            if membership.has_storage || membership.running.is_some() {
                // Those that are closing already lie on it as well.
                let mut openings = members.remove(&name).unwrap_or_default();
                openings.extend(membership.leaving);
                self.retired.push(Retired {
                    config: membership.config,
                    openings,
                    has_storage: membership.has_storage,
                    running: membership.running,
                });
            }
        }
    }

    /// Microseconds since the plan was made.
    fn us(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start);
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    fn at(&self, us: u64) -> Instant {
        self.start + Duration::from_micros(us)
    }

    /// Whether the export may be open: it is in no group, or its group may hold the locks.
    pub(super) fn may_open(&self, entry: &ExportEntry) -> bool {
        self.group_of(entry)
            .is_none_or(|group| group.machine.may_hold_locks() && group.has_storage)
    }

    /// Whether requests for the export are answered here, as far as its group goes.
    pub(super) fn answers(&self, entry: &ExportEntry) -> bool {
        self.group_of(entry)
            .is_none_or(|group| *group.machine.state() == Role::Active)
    }

    /// Whether another gateway is left to serve it.
    pub(super) fn stands_by(&self, entry: &ExportEntry) -> bool {
        !self.may_open(entry)
    }

    fn group_of(&self, entry: &ExportEntry) -> Option<&Membership> {
        self.groups.get(&entry.config.failover.as_ref()?.name)
    }

    pub(super) fn members(&self, name: &str) -> Vec<ExportId> {
        let is_member = |id: &&ExportId| {
            let entry = self.exports.get(id);
            let group = entry.and_then(|entry| entry.config.failover.as_ref());
            group.is_some_and(|group| group.name == name)
        };
        self.order.iter().filter(is_member).copied().collect()
    }

    /// How the store of an export takes its image.
    pub(crate) fn takeover(&self, id: ExportId) -> Option<Takeover> {
        let entry = self.exports.get(&id)?;
        let group = self.group_of(entry)?;
        let members = u32::try_from(self.members(&group.config.name).len()).unwrap_or(u32::MAX);
        let from = match (group.machine.state(), &group.from) {
            (Role::Taking, None) => LockOf::Anybody,
            (Role::Taking, Some(_)) => group
                .owners
                .get(&id)
                .cloned()
                .flatten()
                .map_or(LockOf::Nobody, LockOf::Client),
            // What is opened later is taken from nobody.
            _ => LockOf::Nobody,
        };
        Some(Takeover {
            from,
            // What is opened anew by a reload may have another; and the operator may say what is right.
            same_range: group.from.is_some() && !group.opened.contains(&members::image_of(&entry.config)),
            by: self.at(group.machine.since_us()) + TAKE_WITHIN + EACH_TAKES * members,
            // Together with the time to detect it and the quiet time: under four seconds.
            lease: group.config.detect * 2 / 3,
        })
    }

    /// The interfaces of an export that are up.
    pub(crate) fn usable_interfaces(&self, id: ExportId) -> Vec<String> {
        let Some(entry) = self.exports.get(&id) else {
            return Vec::new();
        };
        let usable = self
            .links
            .values()
            .filter(|link| link.is_usable() && link.mac.is_some());
        let chosen = usable.filter(|link| entry.patterns.choose(link));
        chosen.map(|link| link.name.clone()).collect()
    }

    /// The images whose owners a group wants to know.
    pub(crate) fn images(&self, name: &str) -> Vec<(ExportId, Arc<crate::config::ExportConfig>)> {
        let image = |id: ExportId| Some((id, Arc::clone(&self.exports.get(&id)?.config)));
        let images = self.members(name).into_iter().filter_map(image);
        images
            .filter(|(_, config)| config.store == StoreKind::Rbd)
            .collect()
    }

    /// The gateway that answers for a group is asked for.
    pub(crate) fn group_asked(&mut self, name: &str, now: Instant) {
        let us = self.us(now);
        if let Some(group) = self.groups.get_mut(name) {
            group.machine.asked(us);
        }
    }

    /// It was heard.
    pub(crate) fn group_heard(&mut self, name: &str, now: Instant) {
        let us = self.us(now);
        if let Some(group) = self.groups.get_mut(name) {
            group.machine.heard(us);
        }
    }

    /// The gateway that has it was heard, and says that it does not hear its storage.
    pub(crate) fn group_heard_unavailable(&mut self, name: &str, now: Instant) {
        let us = self.us(now);
        if let Some(group) = self.groups.get_mut(name) {
            group.machine.heard_unavailable(us);
        }
    }

    /// Who has the locks of a group's images.
    pub(crate) fn group_looked(
        &mut self,
        name: &str,
        found: Result<HashMap<ExportId, Option<String>>, String>,
        now: Instant,
    ) {
        let us = self.us(now);
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        let holder = found.map(|owners| {
            let held: BTreeMap<&ExportId, &String> = owners
                .iter()
                .filter_map(|(id, owner)| Some((id, owner.as_ref()?)))
                .collect();
            let holder = match (held.is_empty(), group.config.command.is_some()) {
                // What the program guards has no name here, and somebody may have it.
                (true, false) => Holder::Nobody,
                _ => Holder::Known(held.values().map(|owner| format!("{owner} ")).collect()),
            };
            group.owners = owners;
            holder
        });
        group.machine.looked(holder, us);
    }

    /// A lock of a group is lost, of an export that is open or being closed. False where it is in none.
    pub(super) fn group_fenced(&mut self, id: ExportId, reason: &str, now: Instant) -> bool {
        let us = self.us(now);
        let open = self.exports.get(&id).filter(|entry| entry.is_open());
        let open = open.map(|entry| {
            let group = entry.config.failover.as_ref();
            (address_of(&entry.config), group.map(|group| &group.name))
        });
        let closing = self.leaving.get(&id);
        let closing = closing.map(|leaving| (leaving.address, leaving.group.as_ref()));
        let Some((address, Some(name))) = open.or(closing) else {
            return false;
        };
        let Some(group) = self.groups.get_mut(name) else {
            return false;
        };
        group.machine.fenced(format!("{address}: {reason}"), us);
        true
    }

    pub(super) fn step_groups(&mut self, now: Instant) {
        self.release_retired();
        let names: Vec<String> = self.groups.keys().cloned().collect();
        for name in names {
            self.take_storage(&name, now);
            loop {
                self.settle_taking(&name, now);
                self.settle_leaving(&name, now);
                let Some(step) = self.poll_group(&name, now) else {
                    break;
                };
                self.carry_out_step(&name, step, now);
            }
            self.check_storage(&name, now);
            self.tell_role(&name);
        }
    }

    fn poll_group(&mut self, name: &str, now: Instant) -> Option<GroupStep> {
        let us = self.us(now);
        self.groups.get_mut(name)?.machine.poll(us)
    }

    fn carry_out_step(&mut self, name: &str, step: GroupStep, now: Instant) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        match step {
            GroupStep::Look => self.actions.push(PlanAction::Look(name.to_owned())),
            GroupStep::Take { from } => {
                group.from = from;
                group.taken = Some(now);
                group.in_use = None;
                group.opened.clear();
                group.has_storage = false;
                group.is_due = true;
                self.take_storage(name, now);
            }
            GroupStep::Serve => self.ports_dirty = true,
            GroupStep::Announce => {
                let announced = self.one_on_each_network(name);
                self.actions
                    .extend(announced.into_iter().map(PlanAction::AnnounceExport));
            }
            GroupStep::Leave => {
                self.ports_dirty = true;
                self.close_members(name, now);
            }
        }
    }

    fn open_members(&mut self, name: &str, now: Instant) {
        for id in self.members(name) {
            if let Some(entry) = self.exports.get_mut(&id)
                && matches!(entry.life, ExportLife::Failed(_) | ExportLife::Waiting(_))
            {
                entry.life = ExportLife::Waiting(now);
            }
        }
    }

    fn close_members(&mut self, name: &str, now: Instant) {
        let mut leaving = Vec::new();
        let has_program = self
            .groups
            .get(name)
            .is_some_and(|group| group.config.command.is_some());
        for id in self.members(name) {
            let opened = self
                .exports
                .get(&id)
                .is_some_and(|entry| matches!(entry.life, ExportLife::Open | ExportLife::Opening(..)));
            if opened && has_program {
                // Whatever it has in flight may end when somebody else has the storage; a store of Ceph's knows that by itself.
                self.actions.push(PlanAction::SilenceExport(id));
            }
            if opened && let Some(new) = self.renew(id, &mut ReloadReport::new(now, false), now) {
                self.pass_on_claims(id, new);
                leaving.push(id);
            }
        }
        if let Some(group) = self.groups.get_mut(name) {
            group.leaving.extend(leaving);
        }
    }

    /// The take-over has succeeded when every export is open or has failed for a reason of its own, and has not when another
    /// client has one of them.
    fn settle_taking(&mut self, name: &str, now: Instant) {
        let us = self.us(now);
        let group = &self.groups[name];
        if *group.machine.state() != Role::Taking || !group.has_storage {
            return;
        }
        let lives: Vec<&ExportLife> = self
            .members(name)
            .iter()
            .filter_map(|id| Some(&self.exports.get(id)?.life))
            .collect();
        // What waits for a state directory that cannot be used has failed as well: else the group would be taken for ever.
        let no_state = match &self.state {
            StateLife::Failed(backoff) => Some(&backoff.reason),
            _ => None,
        };
        let has_ended = |life: &&ExportLife| match life {
            ExportLife::Open | ExportLife::Failed(_) => true,
            ExportLife::Waiting(_) => no_state.is_some(),
            ExportLife::Opening(..) => false,
        };
        if !lives.iter().all(has_ended) {
            return;
        }
        let failed = || {
            lives.iter().filter_map(|life| match life {
                ExportLife::Failed(backoff) => Some(backoff.reason.clone()),
                ExportLife::Waiting(_) => no_state.cloned(),
                _ => None,
            })
        };
        let in_use = group.in_use.clone();
        let refused = match lives.iter().any(|life| matches!(life, ExportLife::Open)) {
            true => in_use,
            false => in_use
                .or_else(|| failed().next())
                .or(Some("it has no exports".to_owned())),
        };
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        group.in_use = None;
        match refused {
            Some(reason) => group.machine.refused(reason, us),
            None => group.machine.taken(us),
        }
    }

    /// Everything is closed, and the storage given back: others may have it.
    fn settle_leaving(&mut self, name: &str, now: Instant) {
        let us = self.us(now);
        let leaving = &self.leaving;
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        group.leaving.retain(|id| leaving.contains_key(id));
        // Its first step is to close everything; only then there is an end to wait for.
        let is_closed = *group.machine.state() == Role::Leaving
            && group.machine.next_us().is_none()
            && group.leaving.is_empty();
        if !is_closed {
            return;
        }
        if group.running.is_some() {
            return;
        }
        let had_storage = std::mem::take(&mut group.has_storage);
        if had_storage && group.config.command.is_some() {
            self.run_lock(name, LockOrder::Release);
        } else {
            group.machine.left(us);
        }
    }

    pub(super) fn next_group_time(&self) -> Option<Instant> {
        let times = self.groups.values().flat_map(|group| {
            let check = group.check.filter(|_| group.machine.may_hold_locks());
            let step = group.machine.next_us().map(|us| self.at(us));
            [check, step]
        });
        times.flatten().min()
    }
}
