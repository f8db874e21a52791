//! Carries out what `xblade overlay` asks for.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::overlays::{CommitOverlay, FullOf, OverlayInfo, Overlays, PinOverlays, ResetOverlays};
use super::socket::ControlAnswer;
use super::view::Selection;
use crate::config::Overlay as Kind;
use crate::control::machines::{DiskName, DiskState, Disks};
use crate::control::supervisor::{Event, Supervisor};
use crate::store::{Full, OverlayTotals};

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn overlay(export: &str, state: DiskState) -> OverlayInfo {
    let totals = state.totals;
    let bytes = |sectors: fn(OverlayTotals) -> u64| totals.map_or(0, sectors) * 512;
    OverlayInfo {
        export: format!("e{export}"),
        machine: state.name.to_string(),
        macs: state.macs.iter().map(ToString::to_string).collect(),
        kept_by: state.kept_by.iter().map(ToString::to_string).collect(),
        persistent: state.kind == Kind::Persistent,
        copy: state.kind != Kind::None,
        pinned: state.pinned,
        image_read_bytes: bytes(|totals| totals.golden_sectors),
        copy_read_bytes: bytes(|totals| totals.delta_sectors),
        wrote_bytes: bytes(|totals| totals.written_sectors),
        counted_since: totals.map(|totals| seconds(totals.since)),
        written_bytes: state.usage.written_sectors * 512,
        allocated_bytes: state.usage.allocated_bytes,
        refused_writes: state.usage.refused_writes,
        full: state.usage.full.map(|full| match full {
            Full::Limit => FullOf::Limit,
            Full::Delta => FullOf::Disk,
            Full::Bits => FullOf::Memory,
        }),
        since: seconds(state.since),
        old_image: state.old_image,
        in_flight: state.in_flight,
        problem: state.problem,
        ended: state.ended,
    }
}

impl Supervisor {
    fn disks(&self, selection: &Selection) -> Vec<(String, Arc<Disks>)> {
        let served = self
            .exports
            .values()
            .filter(|served| selection.has(&served.config));
        let mut disks: Vec<(String, Arc<Disks>)> = served
            .filter_map(|served| Some((served.config.address(), served.disks.clone()?)))
            .collect();
        disks.sort_by(|(one, _), (other, _)| one.cmp(other));
        disks
    }

    /// Tells of all copies. Looks at files, so it is a job.
    pub(super) fn tell_overlays(&mut self, selection: &Selection, answer: ControlAnswer) {
        let disks = self.disks(selection);
        let work = move || {
            let of = |(export, disks): &(String, Arc<Disks>)| -> Vec<OverlayInfo> {
                let states = disks.states().into_iter();
                states.map(|state| overlay(export, state)).collect()
            };
            let overlays = disks.iter().flat_map(of).collect();
            answer.result(Overlays { overlays });
            Event::Answered
        };
        self.jobs.start(work, |_| Event::Answered);
    }

    /// The one export with copies that a request names.
    fn disks_of(&self, export: &str) -> Result<(String, Arc<Disks>), String> {
        let mut disks = self.disks(&Selection::new(&[export.to_owned()])?);
        match (disks.pop(), disks.is_empty()) {
            (Some(found), true) => Ok(found),
            _ => Err(format!("{export} is not one export with overlays that is open")),
        }
    }

    /// Merges a copy into a new golden image.
    pub(super) fn commit_overlay(&mut self, asked: CommitOverlay, answer: ControlAnswer) {
        let CommitOverlay {
            export,
            machine,
            force,
        } = asked;
        let (export, disks) = match self.disks_of(&export) {
            Ok(found) => found,
            Err(reason) => return answer.error(reason),
        };
        let work = move || {
            let Ok(name) = machine.parse::<DiskName>();
            match disks.commit(&name, force) {
                Ok(()) => {
                    answer
                        .result(serde_json::json!({ "export": format!("e{export}"), "committed": machine }));
                }
                Err(reason) => answer.error(reason),
            }
            Event::Answered
        };
        self.jobs.start(work, |_| Event::Answered);
    }

    /// Has copies stay when their machines boot, or not any more.
    pub(super) fn pin_overlays(&mut self, asked: PinOverlays, answer: ControlAnswer) {
        let PinOverlays {
            export,
            machines,
            pinned,
        } = asked;
        let done = if pinned { "pinned" } else { "unpinned" };
        let pin = move |disks: &Disks, name| disks.pin(name, pinned);
        self.change_overlays(&export, machines, done, pin, answer);
    }

    /// Takes copies away.
    pub(super) fn reset_overlays(&mut self, asked: ResetOverlays, answer: ControlAnswer) {
        let ResetOverlays {
            export,
            machines,
            discard,
            force,
        } = asked;
        let done = if discard { "discarded" } else { "reset" };
        let reset = move |disks: &Disks, name| disks.reset(name, discard, force);
        self.change_overlays(&export, machines, done, reset, answer);
    }

    /// Does something with the copies of the machines that are named, up to the first that it fails with.
    fn change_overlays(
        &mut self,
        export: &str,
        machines: Vec<String>,
        done: &'static str,
        change: impl Fn(&Disks, DiskName) -> Result<(), String> + Send + 'static,
        answer: ControlAnswer,
    ) {
        let (export, disks) = match self.disks_of(export) {
            Ok(found) => found,
            Err(reason) => return answer.error(reason),
        };
        if machines.is_empty() {
            return answer.error("name the machines");
        }
        let work = move || {
            let change = |machine: &String| {
                let Ok(name) = machine.parse::<DiskName>();
                change(&disks, name)
            };
            match machines.iter().try_for_each(change) {
                Ok(()) => {
                    answer.result(serde_json::json!({ "export": format!("e{export}"), done: machines }));
                }
                Err(reason) => answer.error(reason),
            }
            Event::Answered
        };
        self.jobs.start(work, |_| Event::Answered);
    }
}
