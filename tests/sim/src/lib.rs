//! The simulator: the whole target and its initiators in one thread, in virtual time, from one seed that reproduces everything.
//!
//! What is tested is the real engine: its sessions, exports, order and protocol state. Network, disks, state store, process and
//! initiators are simulated around it, all with faults; [`oracle`] watches that what the project promises holds, all the time;
//! [`mutants`] are planted defects that show that it would see if it did not. `docs/testing.md` has the chapter for users.

pub mod bus;
pub mod disk;
pub mod draw;
mod faults;
pub mod frame;
pub mod gateways;
pub mod host;
pub mod known;
pub mod link;
pub mod mutants;
pub mod net;
pub mod oracle;
pub mod plan;
pub mod process;
pub mod random;
pub mod run;
pub mod search;
pub mod seeds;
pub mod shrink;
pub mod stamp;
pub mod state;
mod target;
mod trace;
pub mod world;
