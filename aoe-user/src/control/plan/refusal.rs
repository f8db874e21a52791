//! Why an export could not be opened, as far as the plan cares.

use crate::store::StoreError;

/// Why an export could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control) struct OpenRefusal {
    pub(crate) reason: String,
    /// What it means for its failover group, unless it has failed for a reason of its own.
    pub(crate) obstacle: Option<Obstacle>,
}

/// Why a gateway may not take a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::control) enum Obstacle {
    /// Somebody else has the storage of an export.
    InUse,
    /// The gateway before served another part of it.
    OtherRange,
}

impl From<String> for OpenRefusal {
    fn from(reason: String) -> OpenRefusal {
        OpenRefusal {
            reason,
            obstacle: None,
        }
    }
}

impl From<anyhow::Error> for OpenRefusal {
    fn from(error: anyhow::Error) -> OpenRefusal {
        let mut stores = error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<StoreError>());
        let obstacle = stores.find_map(|error| match error {
            StoreError::RbdInUse { .. } => Some(Obstacle::InUse),
            StoreError::RbdRange { .. } => Some(Obstacle::OtherRange),
            // An earlier opening by this process, which is being closed, takes the group from nobody.
            _ => None,
        });
        OpenRefusal {
            reason: format!("{error:#}"),
            obstacle,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_somebody_else_and_another_part_of_an_image_are_in_a_group_s_way() {
        let path = || "rbd:p/a".to_owned();
        let of = |error: StoreError| OpenRefusal::from(anyhow::Error::new(error).context("e1.1")).obstacle;
        let holder = "10.0.0.1:0/7".to_owned();
        let in_use = StoreError::RbdInUse { path: path(), holder };
        assert_eq!(of(in_use), Some(Obstacle::InUse));
        let other_range = StoreError::RbdRange {
            path: path(),
            before: String::new(),
            here: String::new(),
            forget: String::new(),
        };
        assert_eq!(of(other_range), Some(Obstacle::OtherRange));
        assert_eq!(of(StoreError::RbdInUseHere { path: path() }), None);
    }
}
