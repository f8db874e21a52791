//! The user half of xblade: an ATA-over-Ethernet target on AF_XDP.
//!
//! Arrows run one way: `main → cli → {config, control, port} → {filter, xsk, target} → store → aoe-common`.

pub mod cli;
pub mod config;
pub mod control;
pub mod filter;
pub mod initiator;
pub mod port;
pub mod store;
pub mod target;
pub mod xsk;
