//! Failover groups, in the words of the control socket.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The result of [`super::types::ControlRequest::FailoverGroups`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct FailoverGroups {
    /// By name.
    pub(crate) groups: Vec<GroupInfo>,
}

/// A failover group as this gateway sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct GroupInfo {
    /// Its name.
    pub(crate) group: String,
    /// What this gateway does for it.
    pub(crate) role: Role,
    /// For how long it has.
    pub(crate) since_seconds: f64,
    /// The address that it is served under.
    pub(crate) mac: String,
    /// How long ago the gateway that serves it was last heard; none: never, or it is this one.
    pub(crate) heard_seconds: Option<f64>,
    /// For how long this gateway leaves it to others.
    pub(crate) held_seconds: Option<f64>,
    /// It is the active one, and answers nobody, because its storage does not answer.
    #[serde(default)]
    pub(crate) is_silent: bool,
    /// What went wrong.
    pub(crate) reason: Option<String>,
    /// Why this gateway could not take it the last time that was tried.
    #[serde(default)]
    pub(crate) refused: Option<String>,
    /// What moves with it.
    pub(crate) exports: Vec<GroupExport>,
}

/// An export of a group.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct GroupExport {
    /// Its address, as in `e1.1`.
    pub(crate) export: String,
    /// Who had the lock of its image when this gateway last looked.
    pub(crate) owner: Option<String>,
}

/// What a gateway does for a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// It says nothing, and listens for the one that answers.
    #[default]
    Standby,
    /// It takes the locks.
    Taking,
    /// It has the locks, and answers in a moment.
    Quiet,
    /// It answers.
    Active,
    /// It answers nobody any more, and closes everything.
    Leaving,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Standby => "standby",
            Role::Taking => "taking",
            Role::Quiet => "quiet",
            Role::Active => "ACTIVE",
            Role::Leaving => "leaving",
        })
    }
}
