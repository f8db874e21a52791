//! What keys change at the target: an export is paused or served again, once that is confirmed.

use crate::control::api::types::Request;

/// What is done to an export once it is confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Pause(String),
    Resume(String),
}

impl Change {
    /// What the user is asked.
    pub(super) fn question(&self) -> String {
        match self {
            Change::Pause(export) => format!("pause {export} (it answers nobody)?"),
            Change::Resume(export) => format!("serve {export} again?"),
        }
    }

    /// What the target is asked.
    pub(super) fn request(&self) -> Request {
        match self.clone() {
            Change::Pause(export) => Request::Pause {
                exports: vec![export],
            },
            Change::Resume(export) => Request::Resume {
                exports: vec![export],
            },
        }
    }
}
