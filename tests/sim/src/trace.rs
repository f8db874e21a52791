//! A run in words.

use aoe_common::wire::{SECTOR_BYTES, aoe};

use crate::frame::Reply;
use crate::stamp;

/// A reply of the target's.
pub(crate) fn reply(port: u8, bytes: &[u8]) -> String {
    let Some(reply) = Reply::parse(bytes) else {
        return format!("port {port} sends what is no reply");
    };
    let to = if reply.to.is_group() {
        "everybody".to_owned()
    } else {
        format!("host {}", reply.to.0[5])
    };
    let what = match (reply.error, reply.command) {
        (0, aoe::CMD_ATA) => {
            let (status, error) = reply.status().unwrap_or_default();
            let data = reply.data();
            let stamps: Vec<u64> = data
                .chunks_exact(SECTOR_BYTES)
                .filter_map(|sector| Some(u64::from_le_bytes(*sector.first_chunk()?)))
                .collect();
            let stamps: Vec<String> = stamps
                .into_iter()
                .filter(|value| *value > 1 << 32)
                .map(stamp::name)
                .collect();
            format!("status {status:02x} error {error:02x} {}", stamps.join(", "))
        }
        (0, command) => format!(
            "command {command} {:02x?}",
            &reply.argument[..reply.argument.len().min(24)]
        ),
        (error, _) => format!("AoE error {error}"),
    };
    format!("port {port} answers {to}, tag {:08x}: {what}", reply.tag)
}
