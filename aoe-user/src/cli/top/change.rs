//! What keys change at the target: an export is paused or served again, once that is confirmed.

use crate::control::api::types::ControlRequest;

/// What is done to an export once it is confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TopChange {
    /// Its name.
    pub(crate) export: String,
    /// Exports of this name are served on several VLANs: all of them are meant.
    pub(crate) has_namesakes: bool,
    /// It is to answer nobody; else to be served again.
    pub(crate) pauses: bool,
}

impl TopChange {
    /// What the user is asked.
    pub(super) fn question(&self) -> String {
        let whole = if self.has_namesakes {
            " on all its VLANs"
        } else {
            ""
        };
        match self.pauses {
            true => format!("pause {}{whole} (it answers nobody)?", self.export),
            false => format!("serve {}{whole} again?", self.export),
        }
    }

    /// What the target is asked.
    pub(super) fn request(&self) -> ControlRequest {
        let exports = vec![self.export.clone()];
        match self.pauses {
            true => ControlRequest::Pause {
                exports,
                for_ms: None,
            },
            false => ControlRequest::Resume { exports },
        }
    }
}
