//! What tests and the fuzzer bring to run the engine: a link, a store, completions and a state store of plain memory, and a
//! worker made of them.
#![allow(missing_docs, reason = "names of test helpers say what they are")]
#![expect(
    clippy::arithmetic_side_effects,
    reason = "a test may panic, and should rather than go on"
)]

pub mod bench;
pub mod completions;
pub mod link;
pub mod parser;
pub mod store;
pub mod trial;
pub mod vector_file;
