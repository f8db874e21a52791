//! The times of a group.

/// How often a gateway that does not answer for the group asks for the one that does, in microseconds.
pub const ASK_EVERY_US: u64 = 125_000;

/// The times of a group, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// How many questions in a row without an answer it takes to take the group over. Questions are counted, not time: a process
    /// that was stopped, or has no interface to ask on, has heard no silence.
    pub(crate) questions: u32,
    /// How long nobody is answered after the locks were taken: what the network still carries for the gateway before dies out.
    pub quiet_us: u64,
    /// How long a gateway that lost the group leaves it to the others. Two
    /// gateways that do not hear each other take the group from each other at most this often.
    pub(crate) hold_us: u64,
    /// For so long a gateway may go on answering that has lost the locks and has not noticed. Whoever answers for longer has locks of its own.
    pub late_us: u64,
}

impl GroupSettings {
    /// A group that is taken over after `detect_us` of silence, with one second of quiet and at most one take-over a minute.
    pub fn with_detect_us(detect_us: u64) -> GroupSettings {
        let questions = detect_us.div_ceil(ASK_EVERY_US).max(2);
        GroupSettings {
            questions: u32::try_from(questions).unwrap_or(u32::MAX),
            quiet_us: 1_000_000,
            hold_us: 60_000_000,
            late_us: detect_us.saturating_add(1_000_000),
        }
    }
}
