//! Arguments of `xblade bench`.

use std::time::Duration;

use aoe_common::Mac;
use clap::Args;

use crate::config::values::{self, OFFSET, SPAN};
use crate::initiator::flood;
use crate::initiator::load::MAX_DEPTH;

/// `xblade bench`
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Interface that the target is reached through
    #[arg(value_name = "NETIF")]
    pub(crate) interface: String,

    /// Target, as in 7.3; may be left out where only one answers
    #[arg(value_name = "SHELF.SLOT", value_parser = parse_address)]
    pub(crate) address: Option<(u16, u8)>,

    /// Port of the target, where several answer for the address
    #[arg(long)]
    pub(crate) mac: Option<Mac>,

    /// Write instead of reading
    #[arg(long, conflicts_with = "mix")]
    pub(crate) write: bool,

    /// Read and write; this share of the requests are reads
    #[arg(long, value_name = "PERCENT_READ", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) mix: Option<u8>,

    /// Allow writes: they destroy what the target holds
    #[arg(long)]
    pub(crate) destroy_data: bool,

    /// Go through the target in order instead of at random
    #[arg(long)]
    pub(crate) sequential: bool,

    /// Sectors in a request [default: what target and MTU allow]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) sectors: Option<u8>,

    /// Requests outstanding
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_DEPTH)))]
    pub(crate) depth: u16,

    /// How long to measure, as in 10, 1.5s, 500ms, 2m or 1h [default: 10s, with --count no limit]
    #[arg(long, value_name = "TIME", value_parser = values::some_time, allow_hyphen_values = true)]
    pub(crate) duration: Option<Duration>,

    /// Stop after this many requests
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), allow_negative_numbers = true)]
    pub(crate) count: Option<u64>,

    /// Time before measuring begins [default: 200ms, with --count none]
    #[arg(long, value_name = "TIME", value_parser = values::time, allow_hyphen_values = true)]
    pub(crate) warmup: Option<Duration>,

    /// First sector used, or where it starts as in 1GiB
    #[arg(long, value_name = "SECTORS", default_value = "0", value_parser = values::sectors(OFFSET), allow_negative_numbers = true)]
    pub(crate) first: u64,

    /// Sectors used, or their size as in 1GiB [default: up to the end]
    #[arg(long, value_name = "SECTORS", value_parser = values::sectors(SPAN), allow_negative_numbers = true)]
    pub(crate) span: Option<u64>,

    /// Stamp every sector written, check every sector read, read back all that was written
    ///
    /// Without writes, sectors are checked that an earlier run with the same --seed has written.
    #[arg(long)]
    pub(crate) verify: bool,

    /// Number that makes the order and the stamps of a run its own [default: by chance]
    #[arg(long)]
    pub(crate) seed: Option<u32>,

    /// A request without an answer for this long has failed
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = values::some_time, allow_hyphen_values = true)]
    pub(crate) timeout: Duration,

    /// Send and receive by AF_XDP, for targets faster than a packet socket
    ///
    /// An XDP program on the interface brings the answers. While it is there, other user-space initiators on this interface
    /// hear none; Linux's own does. It needs root, and an interface without an XDP program.
    #[arg(long, conflicts_with = "flood")]
    pub(crate) af_xdp: bool,

    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,

    /// Send frames that the target must not care about, and measure nothing
    #[arg(long, value_name = "KIND", hide = true, requires = "rate")]
    pub(crate) flood: Option<flood::Kind>,

    /// Frames of the flood a second
    #[arg(long, hide = true, requires = "flood", value_parser = values::rate)]
    pub(crate) rate: Option<u32>,
}

/// Takes 7.3 and e7.3.
fn parse_address(text: &str) -> Result<(u16, u8), String> {
    let wrong = || "a target is SHELF.SLOT, as in 7.3; shelf 0 to 65534, slot 0 to 254".to_owned();
    let (shelf, slot) = text
        .strip_prefix('e')
        .unwrap_or(text)
        .split_once('.')
        .ok_or_else(wrong)?;
    match (shelf.parse(), slot.parse()) {
        (Ok(shelf), Ok(slot)) if shelf != u16::MAX && slot != u8::MAX => Ok((shelf, slot)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_as_linux_and_as_vblade_write_them() {
        assert_eq!(parse_address("7.3"), Ok((7, 3)));
        assert_eq!(parse_address("e65534.254"), Ok((65534, 254)));
        for bad in ["", "7", "7.", ".3", "65535.0", "0.255", "7.3.1", "x.y", "-1.2"] {
            assert!(parse_address(bad).is_err(), "{bad}");
        }
    }
}
