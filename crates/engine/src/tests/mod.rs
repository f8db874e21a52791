//! The engine from outside: through [`Session`](super::Session), over links and stores of plain memory.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test may panic, and should rather than go on"
)]

mod advertisements;
mod arbitrary;
mod at_once;
mod changes;
mod commands;
mod cut;
mod discovery;
mod fence;
mod gateway;
#[cfg(loom)]
mod loom;
mod machines;
mod meters;
mod model;
mod old;
mod ordering;
mod pause;
mod threads;
mod vectors;
mod waiting;
