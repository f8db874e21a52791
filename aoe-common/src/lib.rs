//! What both halves of xblade agree on: the ATA-over-Ethernet wire format ([`wire`]), Ethernet addresses
//! ([`mac`]) and the types of the eBPF maps ([`rules`]).
#![no_std]
#![forbid(unsafe_code)]

pub mod mac;
pub mod rules;
pub mod wire;

pub use mac::Mac;
