//! Several gateways to one image in Ceph: the real engine and the real [`failover::Group`] in each, and a cluster, a switch and
//! machines around them that fail.

mod answer;
mod ceph;
mod client;
mod closing;
mod control;
pub mod draw;
mod faults;
mod gateway;
mod parts;
mod rivals;
mod store;
mod switch;
mod taking;
mod watch;
mod watching;
mod world;

pub use answer::Answer;
pub use world::run;
