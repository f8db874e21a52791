//! The ATA-over-Ethernet wire format ([`wire`]), Ethernet addresses ([`mac`]), and what an export is called and who may use it
//! ([`Address`], [`Vlan`], [`Access`]): for targets, initiators, firmware and eBPF programs. Nothing is allocated.
//!
//! [`rules`] is of no use to others: the types of the eBPF maps through which the two halves of the target xblade talk.
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
