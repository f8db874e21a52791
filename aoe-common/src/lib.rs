//! What both halves of xblade agree on: the ATA-over-Ethernet wire format ([`wire`]), Ethernet addresses
//! ([`mac`]), what an export is called and who may use it ([`Address`], [`Vlan`], [`Access`]), and the types of the eBPF
//! maps ([`rules`]).
#![no_std]
#![forbid(unsafe_code)]

// So that the README's example is compiled and run with the tests of the documentation.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod address;
pub mod mac;
pub mod rules;
pub mod wire;

pub use address::{Access, Address, Vlan};
pub use mac::Mac;
