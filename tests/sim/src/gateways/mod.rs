//! Several gateways to one image in Ceph: the real engine and the real [`failover::Group`] in each, and a cluster, a switch and
//! machines around them that fail.

mod ceph;
mod client;
mod closing;
mod control;
pub mod draw;
mod faults;
mod gateway;
mod parts;
mod switch;
mod taking;
mod watch;
mod world;

pub use ceph::Answer;
pub use world::run;
