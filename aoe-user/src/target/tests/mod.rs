//! The engine from outside: through [`Session`](super::Session), over links and stores of plain memory.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test may panic, and should rather than go on"
)]

mod arbitrary;
pub mod bench;
mod changes;
mod commands;
mod discovery;
mod link;
mod model;
mod ordering;
mod parser;
pub mod store;
mod threads;
mod trial;
mod vector_file;
mod vectors;
