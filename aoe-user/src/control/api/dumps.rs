//! Frames as they come and go, in the words of the control socket.

use serde::{Deserialize, Serialize};

/// Which frames somebody wants to see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WantedFrames {
    /// Names of interfaces; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) interfaces: Vec<String>,
    /// Globs of exports, as in `e1.*`; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) exports: Vec<String>,
    /// So many bytes of each frame.
    #[serde(default = "whole_frames")]
    pub(crate) frame_bytes: u32,
}

/// No frame is longer.
pub(crate) const fn whole_frames() -> u32 {
    1 << 16
}

/// The result of [`super::types::ControlRequest::Dump`]; the line is followed by pcapng instead of further replies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dumping {
    /// The interfaces that are served now and wanted; one that is opened later follows by itself.
    pub(crate) interfaces: Vec<String>,
}
