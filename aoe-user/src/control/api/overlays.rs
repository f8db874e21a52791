//! Machines' copies of golden images, in the words of the control socket.

use serde::{Deserialize, Serialize};

/// Whose copies are to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResetOverlays {
    /// The export, as in `e1.1`.
    pub(crate) export: String,
    /// Names of machines, or addresses of those without a name.
    pub(crate) machines: Vec<String>,
    /// Only take them away: a machine gets a new one when it asks again.
    #[serde(default)]
    pub(crate) discard: bool,
    /// Also where machines were heard a short time ago.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) force: bool,
}

/// Whose copy is to be merged into its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommitOverlay {
    /// The export, as in `e1.1`.
    pub(crate) export: String,
    /// The machine's name, or its address.
    pub(crate) machine: String,
    /// Also where it was heard a short time ago.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) force: bool,
}

/// Whose copies are to stay when their machines boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PinOverlays {
    /// The export, as in `e1.1`.
    pub(crate) export: String,
    /// Names of machines, or addresses of those without a name.
    pub(crate) machines: Vec<String>,
    /// False: not any more.
    #[serde(default = "yes")]
    pub(crate) pinned: bool,
}

/// What has no room for a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FullOf {
    /// `overlay_limit` allows no more.
    Limit,
    /// The file system of `overlay_dir` is full.
    Disk,
    /// The tmpfs of the bits is full.
    Memory,
}

/// The result of [`super::types::ControlRequest::Overlays`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Overlays {
    /// By export and machine.
    pub(crate) overlays: Vec<OverlayInfo>,
}

/// A machine's copy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct OverlayInfo {
    /// Whose image it is a copy of, as in `e1.1`.
    pub(crate) export: String,
    /// The machine's name, or its address.
    pub(crate) machine: String,
    /// The addresses it has the copy by.
    pub(crate) macs: Vec<String>,
    /// Those of them that the configuration gives to other machines: each has the copy until it boots, and nobody else gets it before.
    #[serde(default)]
    pub(crate) kept_by: Vec<String>,
    /// It outlives power cuts and its machine's boots.
    #[serde(default)]
    pub(crate) persistent: bool,
    /// It has a copy; without one it has the image itself. A target of a release before this was told gives everybody one.
    #[serde(default = "yes")]
    pub(crate) copy: bool,
    /// It stays when its machine boots, by the operator's order.
    #[serde(default)]
    pub(crate) pinned: bool,
    /// Bytes that the machine has read from the image since `counted_since`.
    #[serde(default)]
    pub(crate) image_read_bytes: u64,
    /// Bytes that it has read from its copy.
    #[serde(default)]
    pub(crate) copy_read_bytes: u64,
    /// Bytes that it has written, those of a sector each time.
    #[serde(default)]
    pub(crate) wrote_bytes: u64,
    /// When that count began, in seconds since 1970: the machine booted, or its copy was opened. Null: it has none that is open.
    #[serde(default)]
    pub(crate) counted_since: Option<f64>,
    /// Bytes of sectors that were written.
    pub(crate) written_bytes: u64,
    /// Bytes that this takes on the disk.
    pub(crate) allocated_bytes: u64,
    /// Writes that failed because there was no space.
    pub(crate) refused_writes: u64,
    /// Why writes to new places fail now: `limit` (`overlay_limit`), `disk` (the file system of `overlay_dir`) or `memory` (that of the
    /// bits). Null: they do not.
    #[serde(default)]
    pub(crate) full: Option<FullOf>,
    /// When it began, in seconds since 1970.
    pub(crate) since: f64,
    /// The golden image has been replaced since: the machine gets the new one when it boots.
    pub(crate) old_image: bool,
    /// Requests under way.
    pub(crate) in_flight: usize,
    /// Why it is not served.
    pub(crate) problem: Option<String>,
    /// That is because it was volatile and ended with the host. The machine is silent until it boots.
    #[serde(default)]
    pub(crate) ended: bool,
}

/// What keeps machines from their work, and the room there is for their copies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CopiesInfo {
    /// Machines that hear nothing.
    pub(crate) silent: Vec<SilentMachine>,
    /// Machines whose writes to new places are refused, because there is no room.
    pub(crate) full: Vec<String>,
    /// What may still be written to the file system of the copies, in bytes; null: that is not known, or they are not there.
    pub(crate) free_bytes: Option<u64>,
}

/// A machine that hears nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SilentMachine {
    /// Its name, or its address.
    pub(crate) machine: String,
    /// Why, and what to do.
    pub(crate) reason: String,
}

/// What a machine has read and written since it booted, or since its copy was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MachineInfo {
    /// The machine's name, or its address; "other" for all beyond 64, taken together.
    pub(crate) machine: String,
    /// Bytes read from the golden image.
    pub(crate) image_read_bytes: u64,
    /// Bytes read from its copy.
    pub(crate) copy_read_bytes: u64,
    /// Bytes written, those of a sector each time.
    pub(crate) written_bytes: u64,
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_say_it_has_a_copy_has_one() {
        let mut told = serde_json::to_value(OverlayInfo::default()).unwrap();
        let has_copy =
            |told: &serde_json::Value| serde_json::from_value::<OverlayInfo>(told.clone()).unwrap().copy;
        assert!(!has_copy(&told));
        told.as_object_mut().unwrap().remove("copy");
        assert!(has_copy(&told));
    }
}
