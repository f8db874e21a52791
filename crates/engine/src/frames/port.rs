//! What the engine knows of the port that frames come through.

use aoe_common::Mac;

/// The port a frame came through. MAC and MTU may differ from call to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Its address: replies come from it, and only frames to it or to everyone are answered.
    pub mac: Mac,
    /// Its MTU, which bounds the sectors in a frame.
    pub mtu_bytes: u32,
}
