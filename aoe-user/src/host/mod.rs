//! This machine: its interfaces with their queues, offloads and drivers, and what its kernel can do. Asked here and nowhere else, in
//! the network namespace of the thread that asks.

pub mod clock;
mod driver;
mod genetlink;
mod interface;
pub mod kernel;
pub mod limits;
mod page_lists;
mod probe;
mod queues;

pub use driver::{XdpFeatures, offloads, xdp_features};
pub use interface::{Interface, NO_ETHERNET, has_carrier, list as interfaces, named, real_name};
pub use page_lists::{PageLists, page_lists};
pub use probe::{Probe, driver, kind, probe};
pub use queues::{rx_queues, sysfs};
