//! Failover groups: several gateways can serve the same exports under one address, and one of them does.
//!
//! A [`Group`] is one gateway's view of one group. It decides and does nothing else: what it hears comes in as events with
//! their time, what is to be done comes out of [`Group::poll`] as a [`GroupStep`], and the end of each step comes in as an event
//! again. It has no thread, no clock, no socket and no randomness, so that the simulator can run it.
//!
//! ```text
//! Standby ─ silence for `detect`, or the operator ─→ Taking ─ locks held ─→ Quiet ─ `quiet` ─→ Active
//!    ↑                                                 │                     │                  │
//!    └──────────────── all is closed ──────────── Leaving ←─ lock lost, refused, or released ───┘
//! ```
//!
//! What keeps data whole is the storage's lock, never this machine's opinion: a gateway that is wrongly taken for dead is shut
//! out by the storage before another one answers. A wrong opinion costs a pause.
//!
//! Where two gateways have locks of different storage, by a mistake of whoever configured them, no lock helps. A gateway that has the locks and hears
//! another one answer does not become active; of two that are, the one which took the group later leaves.
#![forbid(unsafe_code)]

mod group;
mod rivals;
mod settings;
#[cfg(test)]
mod tests;

pub use group::{Group, GroupState, GroupStep, Holder};
pub use rivals::{ASK_RIVALS_EVERY_US, Standing, parse_standing, standing_text};
pub use settings::{ASK_EVERY_US, GroupSettings};
