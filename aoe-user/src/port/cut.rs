//! What to say of frames that arrive with fewer bytes than their own headers say.
//!
//! Their length is what the driver told AF_XDP, and drivers have been seen to cut frames without a word: to what they had programmed
//! the card's receive buffers to (`xsk/src/config.rs`), or to the first of several buffers (`host/limits.rs`).

use super::{Nic, Obtained};

/// The message for the log.
pub(super) fn report(nic: &Nic, driver: Option<&str>, obtained: Obtained, cut: u64) -> String {
    let Nic { name, mtu_bytes, .. } = nic;
    let driver = driver.unwrap_or("its driver");
    let frames = if cut == 1 { "frame" } else { "frames" };
    let likely = match obtained {
        Obtained { zero_copy: true, .. } => format!(
            "{driver} cuts what is longer than the receive buffers it gives the card: `mode = \"copy\"` or an MTU of 1500 shows it"
        ),
        Obtained { native: true, .. } => format!(
            "{driver} gives XDP a part of what lies in several buffers: `mode = \"skb\"` or an MTU of 1500 shows it"
        ),
        Obtained { .. } => "it was sent so, or cut on the way here".to_owned(),
    };
    format!(
        "{name}: {cut} {frames} with fewer bytes than the headers in it say ({obtained}, MTU {mtu_bytes}); writes so are refused. Either an \
         initiator is wrong, or {likely}. xblade_queue_cut_total counts them"
    )
}

#[cfg(test)]
mod tests {
    use aoe_common::Mac;

    use super::*;

    #[test]
    fn the_likely_cause_depends_on_the_mode() {
        let nic = Nic {
            name: "eth0".into(),
            index: 1,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            mtu_bytes: 9000,
            rx_queues: 1,
            carrier: true,
            xdp_runs_on: vec![1],
            lacks_redirect: false,
            tx_queues: None,
        };
        let of = |native, zero_copy| {
            let obtained = Obtained { native, zero_copy };
            report(&nic, Some("igb"), obtained, 3)
        };
        assert!(of(true, true).contains("igb cuts") && of(true, true).contains("\"copy\""));
        assert!(of(true, false).contains("igb gives XDP a part") && of(true, false).contains("\"skb\""));
        assert!(of(false, false).contains("sent so") && !of(false, false).contains("igb"));
        assert!(of(true, true).starts_with("eth0: 3 frames with fewer bytes"));
    }
}
