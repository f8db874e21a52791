//! Why an export could not be opened, as far as the plan cares.

/// Why an export could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::control) struct OpenRefusal {
    pub(crate) reason: String,
    /// Somebody else has its storage.
    pub(crate) in_use: bool,
}

impl From<String> for OpenRefusal {
    fn from(reason: String) -> OpenRefusal {
        OpenRefusal {
            reason,
            in_use: false,
        }
    }
}
