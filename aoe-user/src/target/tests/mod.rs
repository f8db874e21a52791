//! The engine from outside: through [`Session`](super::Session), over links and stores of plain memory.
#![expect(clippy::arithmetic_side_effects, reason = "tests may panic")]

mod arbitrary;
mod bench;
mod changes;
mod commands;
mod discovery;
mod link;
mod ordering;
mod parser;
mod store;
mod trial;
mod vector_file;
mod vectors;
