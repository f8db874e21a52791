//! This machine: its interfaces with their queues, VLANs, offloads and drivers, its name, and what its kernel can do. Asked here and nowhere else, in
//! the network namespace of the thread that asks.

mod aoe_listener;
mod aoe_sockets;
pub(crate) mod clock;
pub(crate) mod cpus;
pub(crate) mod descriptors;
mod driver;
mod genetlink;
mod interface;
pub(crate) mod kernel;
pub(crate) mod limits;
mod page_lists;
mod probe;
mod queues;
mod vlans;

pub(crate) use aoe_listener::AoeListener;
pub(crate) use aoe_sockets::{aoe_sockets_of_others, programs_with};
pub(crate) use driver::{XdpFeatures, offloads, xdp_features};
pub(crate) use interface::{
    Interface, has_carrier, link_state, list as interfaces, named, real_name, upper_with_program,
};
pub(crate) use page_lists::{PageLists, page_lists};
pub(crate) use probe::{Probe, driver, kind, probe};
pub(crate) use queues::{fewer_rx_queues, rx_queues, sysfs};
pub(crate) use vlans::vlan_devices;
