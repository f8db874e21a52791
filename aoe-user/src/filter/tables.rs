//! The maps that hold the rules, and their replacement as a whole.

use std::time::Duration;

use aoe_common::Mac;
use aoe_common::rules::{FilterState, Generation, RETURNED, STATIONS, export_key, source_key};
use aya::Pod;
use aya::maps::{Array, HashMap, MapData, MapError};
use rustix::io::Errno;
use rustix::thread::{MembarrierCommand, membarrier};

use super::FilterError;
use super::compile::Tables;
use super::error::errno;

/// The rules in the kernel.
pub(super) struct Installed {
    state: Array<MapData, u64>,
    exports: Keyed<u64>,
    sources: Keyed<u32>,
    own: Mac,
    generation: Generation,
    any_vlan: bool,
}

impl Installed {
    pub(super) fn new(
        state: Array<MapData, u64>,
        exports: HashMap<MapData, u64, u64>,
        sources: HashMap<MapData, u64, u32>,
        room: Room,
        own: Mac,
    ) -> Installed {
        Installed {
            state,
            exports: Keyed::new("exports", exports, room.exports),
            sources: Keyed::new("sources", sources, room.sources),
            own,
            generation: Generation::default(),
            any_vlan: false,
        }
    }

    /// Puts these rules in force. Where it fails, those in force stay.
    pub(super) fn replace(&mut self, tables: &Tables) -> Result<(), FilterError> {
        self.exports.check_room(tables.exports.len())?;
        self.sources.check_room(tables.sources())?;
        self.exports.sweep()?;
        self.sources.sweep()?;

        let next = self.generation.other();
        for (number, list) in (1..).zip(&tables.lists) {
            for &(source, interval_ns) in list.iter() {
                self.sources
                    .write(source_key(next, number, source), interval_ns)?;
            }
        }
        for &station in &tables.stations {
            self.sources.write(source_key(next, STATIONS, station), 0)?;
        }
        for &(target, access) in &tables.exports {
            self.exports.write(export_key(next, target), access.to_u64())?;
        }
        self.set_state(next, tables.any_vlan, self.own)?;
        self.exports.change_over();
        self.sources.change_over();

        // Entries are recycled at once when removed: a frame still under way with the old rules must not find
        // another's.
        wait_for_frames_under_way();
        for result in [self.exports.sweep(), self.sources.sweep()] {
            if let Err(error) = result {
                tracing::debug!(%error, "old rules stay until the next change");
            }
        }
        Ok(())
    }

    pub(super) fn set_own(&mut self, own: Mac) -> Result<(), FilterError> {
        self.set_state(self.generation, self.any_vlan, own)
    }

    /// Tells the program by what it knows frames that were put back.
    pub(super) fn set_mark(&mut self, mark: u64) -> Result<(), FilterError> {
        self.state
            .set(RETURNED, mark, 0)
            .map_err(FilterError::map("state"))
    }

    /// Entries that wait for removal.
    #[cfg(test)]
    pub(super) fn entries_not_in_force(&self) -> usize {
        self.exports.other.len() + self.sources.other.len()
    }

    fn set_state(&mut self, generation: Generation, any_vlan: bool, own: Mac) -> Result<(), FilterError> {
        let state = FilterState::new(generation, any_vlan, own);
        self.state.set(0, state.0, 0).map_err(FilterError::map("state"))?;
        (self.generation, self.any_vlan, self.own) = (generation, any_vlan, own);
        Ok(())
    }
}

/// Entries of one generation that the maps of rules have room for; they hold two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(crate) exports: usize,
    pub(crate) sources: usize,
}

impl Room {
    /// Room for these rules, for twice as many, and at least for what a usual installation grows to.
    pub(super) fn for_growth_of(tables: &Tables) -> Room {
        let grown = |len: usize, least: usize| (len * 2).max(least).next_power_of_two();
        Room {
            exports: grown(tables.exports.len(), 1 << 13),
            sources: grown(tables.sources(), 1 << 15),
        }
    }

    /// Entries of a map that holds two generations.
    pub(super) fn map_entries(entries: usize) -> u32 {
        u32::try_from(entries * 2).unwrap_or(u32::MAX)
    }
}

/// A map with entries of the generation in force and, while rules are replaced, of another.
struct Keyed<V: Pod> {
    name: &'static str,
    map: HashMap<MapData, u64, V>,
    room: usize,
    in_force: Vec<u64>,
    other: Vec<u64>,
}

impl<V: Pod> Keyed<V> {
    fn new(name: &'static str, map: HashMap<MapData, u64, V>, room: usize) -> Keyed<V> {
        Keyed {
            name,
            map,
            room,
            in_force: Vec::new(),
            other: Vec::new(),
        }
    }

    fn check_room(&self, need: usize) -> Result<(), FilterError> {
        if need > self.room {
            return Err(FilterError::Full {
                what: self.name,
                need,
                room: self.room,
            });
        }
        Ok(())
    }

    fn write(&mut self, key: u64, value: V) -> Result<(), FilterError> {
        self.other.push(key);
        self.map
            .insert(key, value, 0)
            .map_err(FilterError::map(self.name))
    }

    fn change_over(&mut self) {
        std::mem::swap(&mut self.in_force, &mut self.other);
    }

    /// Removes the entries that are not in force.
    fn sweep(&mut self) -> Result<(), FilterError> {
        while let Some(key) = self.other.last() {
            match self.map.remove(key) {
                Ok(()) => {}
                // It was never written: its insertion failed.
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(FilterError::map(self.name)(error)),
            }
            self.other.pop();
        }
        Ok(())
    }
}

fn is_absent(error: &MapError) -> bool {
    matches!(error, MapError::KeyNotFound) || errno(error) == Some(Errno::NOENT)
}

/// Returns when every frame that was in the program when it was called has left it.
fn wait_for_frames_under_way() {
    // In the kernel this is synchronize_rcu(), and XDP programs run as RCU readers. Where it is not available
    // (nohz_full), time has the same effect: no driver's poll takes as long.
    if membarrier(MembarrierCommand::Global).is_err() {
        std::thread::sleep(Duration::from_millis(100));
    }
}
