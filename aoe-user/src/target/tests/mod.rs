//! The engine from outside: through [`Session`](super::Session), over links and stores of plain memory.
#![expect(clippy::arithmetic_side_effects, reason = "tests may panic")]

mod bench;
mod commands;
mod discovery;
mod link;
mod store;
mod vectors;
