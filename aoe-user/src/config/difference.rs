//! In which settings two configurations of an export differ, for people.

use std::fmt::Debug;
use std::time::Duration;

use super::{AccessEntry, CephOptions, ExportConfig, FailoverGroup, Machine};

/// A setting: its key in the config file, its value before, its value after.
pub(super) type Setting = (String, String, String);

impl ExportConfig {
    /// The settings that differ.
    pub(crate) fn differences(&self, after: &ExportConfig) -> Vec<Setting> {
        let pairs = self.settings().into_iter().zip(after.settings());
        let differing = pairs.filter(|((_, before), (_, after))| before != after);
        differing
            .map(|((key, before), (_, after))| (key.to_owned(), before, after))
            .collect()
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        // Taken apart so that no setting is forgotten.
        macro_rules! settings {
            ($($name:ident => $text:expr,)+) => {{
                let ExportConfig { $($name),+ } = self;
                vec![$((stringify!($name), $text)),+]
            }};
        }
        let time = |time: &Duration| humantime::format_duration(*time).to_string();
        settings! {
            shelf => shelf.to_string(),
            slot => slot.to_string(),
            path => path.display().to_string(),
            interfaces => interfaces.join(","),
            mode => mode.to_string(),
            store => store.to_string(),
            format => format!("{format:?}").to_lowercase(),
            sync => sync.to_string(),
            read_only => read_only.to_string(),
            offset => offset.to_string(),
            length => length.to_string(),
            buffers => buffers.to_string(),
            max_sectors => max_sectors.to_string(),
            spin_us => spin_us.to_string(),
            allow => members(allow),
            vlan => vlan.to_string(),
            serial => or_none(serial),
            rate_limit => or_none(rate_limit),
            wire_admin => or_none(wire_admin),
            state_name => or_none(state_name),
            smart => smart.to_string(),
            late_duplicates => late_duplicates.to_string(),
            shared => shared.to_string(),
            prealloc => prealloc.to_string(),
            flush_interval => time(flush_interval),
            on_lost_write => format!("{on_lost_write:?}").to_lowercase(),
            stale_after => time(stale_after),
            ceph => ceph_text(ceph),
            failover => failover.as_ref().map_or("none".into(), |group| group_text(group)),
            overlay => format!("{overlay:?}").to_lowercase(),
            overlay_dir => or_none(overlay_dir),
            overlay_limit => or_none(overlay_limit),
            overlay_reset => overlay_reset.to_string(),
            unknown => format!("{unknown:?}").to_lowercase(),
            unknown_max => unknown_max.to_string(),
            machines => machine_names(machines),
        }
    }
}

fn ceph_text(ceph: &CephOptions) -> String {
    let conf = ceph
        .conf
        .as_ref()
        .map_or("the usual file".into(), |path| path.display().to_string());
    format!("client.{} of {conf}, clusters = {}", ceph.user, ceph.clusters)
}

fn group_text(group: &FailoverGroup) -> String {
    let peers: Vec<String> = group.peers.iter().map(ToString::to_string).collect();
    format!(
        "{} {} of {}, detect {}, command {}",
        group.name,
        group.mac,
        peers.join(" "),
        humantime::format_duration(group.detect),
        group
            .command
            .as_ref()
            .map_or("none".into(), |words| words.join(" "))
    )
}

fn or_none<T: Debug>(value: &Option<T>) -> String {
    value.as_ref().map_or("none".into(), |value| format!("{value:?}"))
}

/// A list that may have thousands of members: its number, and a digest of it where it is long.
fn members(list: &[AccessEntry]) -> String {
    let member = |entry: &AccessEntry| match entry.rate_limit {
        Some(rate) => format!("{} {} {rate}/s", entry.mac, entry.access),
        None => format!("{} {}", entry.mac, entry.access),
    };
    let list: Vec<String> = list.iter().map(member).collect();
    match &list[..] {
        [] => "everyone".into(),
        short if short.len() <= 4 => short.join(", "),
        long => {
            let digest = xxhash_rust::xxh3::xxh3_64(long.join(",").as_bytes());
            format!("{} addresses ({digest:016x})", long.len())
        }
    }
}

/// Machines with their addresses, as [`members`].
fn machine_names(list: &[Machine]) -> String {
    let machine = |machine: &Machine| {
        let macs: Vec<String> = machine.macs.iter().map(ToString::to_string).collect();
        let overlay = machine
            .overlay
            .map_or(String::new(), |overlay| format!(" {overlay:?}").to_lowercase());
        format!("{} {}{overlay}", machine.name, macs.join(" "))
    };
    let list: Vec<String> = list.iter().map(machine).collect();
    match list.len() {
        0 => "none".into(),
        1..=4 => list.join(", "),
        count => {
            let digest = xxhash_rust::xxh3::xxh3_64(list.join(",").as_bytes());
            format!("{count} machines ({digest:016x})")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_differ_are_named_with_both_values() {
        let before = ExportConfig::new(1, 1, "/a".into());
        let mut after = before.clone();
        assert_eq!(before.differences(&after), []);
        after.read_only = true;
        after.serial = Some("S".into());
        let setting = |key: &str, before: &str, after: &str| (key.into(), before.into(), after.into());
        assert_eq!(
            before.differences(&after),
            [
                setting("read_only", "false", "true"),
                setting("serial", "none", "\"S\"")
            ]
        );
    }
}
