//! What drivers do not tell of their filters, from their source: docs/hardware.md has the table.

/// Which filters of `ethtool -N` a driver has for AoE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Steering {
    /// By source and EtherType: AoE of each initiator goes where it is told.
    SourceAndType,
    /// By source alone: all frames of an initiator.
    Source,
    /// None that spreads AoE.
    Nothing,
    /// The book does not know.
    Unknown,
}

/// What a driver's filters can do for AoE.
pub(super) fn steering(driver: &str) -> Steering {
    match driver {
        "ice" | "mlx5_core" | "rvu_nicpf" | "fsl_enetc" | "fsl_dpaa2_eth" | "sfc" => Steering::SourceAndType,
        // With both in one rule each becomes a filter of its own, and the EtherType takes everything.
        "igb" | "igc" => Steering::Source,
        "atlantic" | "tsnep" | "nfp" | "mlx4_core" | "bnxt_en" | "mvpp2" | "ixgbe" | "ixgbevf" | "i40e"
        | "gve" | "qede" | "idpf" | "st_gmac" | "stmmaceth" | "ena" | "mana" | "hv_netvsc" | "virtio_net"
        | "vmxnet3" | "fec" | "cpsw" | "cpsw-switch" | "mvneta" | "ionic" | "lan966x-switch" | "r8169"
        | "tg3" | "e1000e" => Steering::Nothing,
        _ => Steering::Unknown,
    }
}
