//! What both halves of xblade agree on: the ATA-over-Ethernet wire format ([`wire`]), Ethernet addresses
//! ([`mac`]), what an export is called and who may use it ([`Address`], [`Vlan`], [`Access`]), and the types of the eBPF
//! maps ([`rules`]).
#![no_std]
#![forbid(unsafe_code)]

mod address;
pub mod mac;
pub mod rules;
pub mod wire;

pub use address::{Access, Address, Vlan};
pub use mac::Mac;
