//! Up to which MTU drivers have their quick modes. They do not tell; it stands in their source, and docs/hardware.md has the tables.

use aoe_common::wire::{SECTOR_BYTES, sectors_per_frame};

/// Up to this MTU a frame fits one zero-copy chunk of 4 KiB with every NIC, also those that count in KiB.
pub(crate) const ZERO_COPY_ONE_CHUNK_MTU: u32 = 3046;
/// The least MTU that has room for a sector.
pub(crate) const LEAST_MTU: u32 = 548;

/// A buffer of its first ring has 3072 bytes, and what lies in two goes past XDP to the network stack
/// (`VMXNET3_MAX_SKB_BUF_SIZE`, `vmxnet3_rq_rx_complete`). It takes programs up to 3494 all the same.
const VMXNET3_MTU: u32 = 3050;
/// XDP sees the first buffer of a frame only (`qede_rx_process_cqe`), and no MTU is refused.
const QEDE_MTU: u32 = 3490;

/// The largest MTU at which a driver without multi-buffer takes native XDP; `None` where the book does not know.
pub(crate) fn native_mtu(driver: &str) -> Option<u32> {
    let mtu = match driver {
        "igc" | "netsec" | "cpsw" | "cpsw-switch" => 1500,
        "rvu_nicpf" => 1508,
        "mvpp2" => 1640,
        "am65-cpsw-nuss" => 2002,
        "gve" => 2032,
        "tsnep" => 2048,
        "igb" | "ixgbe" => 3046,
        "nfp" => 3370,
        "qede" => QEDE_MTU,
        "vmxnet3" => VMXNET3_MTU,
        "mlx4_core" | "ena" => 3498,
        "mana" | "hv_netvsc" => 3506,
        "mtk_soc_eth" => 3520,
        "vif" => 3840,
        _ => return None,
    };
    Some(mtu)
}

/// Up to which MTU native XDP sees whole frames, for drivers that take a program at larger ones, too, and then give it none of the
/// frames that are longer, or a part of them.
pub(crate) fn whole_frames_mtu(driver: &str) -> Option<u32> {
    match driver {
        "vmxnet3" => Some(VMXNET3_MTU),
        "qede" => Some(QEDE_MTU),
        _ => None,
    }
}

/// The least MTU that carries as many sectors as this one.
pub(crate) fn least_mtu_with_sectors_of(mtu_bytes: u32) -> u32 {
    let sectors = u32::from(sectors_per_frame(mtu_bytes));
    LEAST_MTU + sectors.saturating_sub(1) * SECTOR_BYTES as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_the_least_mtu_of_its_sectors() {
        for (mtu, step) in [(548, 548), (1500, 1060), (3050, 2596), (9000, 8740)] {
            assert_eq!(least_mtu_with_sectors_of(mtu), step);
            assert_eq!(sectors_per_frame(step), sectors_per_frame(mtu));
            assert!(step == LEAST_MTU || sectors_per_frame(step - 1) < sectors_per_frame(mtu));
        }
    }

    #[test]
    fn what_a_driver_cuts_is_no_native_mtu() {
        for driver in ["vmxnet3", "qede"] {
            assert_eq!(native_mtu(driver), whole_frames_mtu(driver));
        }
    }
}
