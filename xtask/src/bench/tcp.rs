//! A lab's wire for what goes over TCP.

use anyhow::Result;
use lab::Lab;

/// Address of the target's end.
pub(super) const TARGET: &str = "10.9.0.1";
const INITIATOR: &str = "10.9.0.2";

/// Gives both ends of the first link an address.
pub(super) fn address(lab: &Lab) -> Result<()> {
    lab.target.ip(&format!("addr add {TARGET}/24 dev eth0"))?;
    lab.initiator.ip(&format!("addr add {INITIATOR}/24 dev eth0"))?;
    Ok(())
}
