//! What AoE and ATA say: request in, reply out.
pub mod link;
