//! What drivers do not tell of themselves, from their source: docs/hardware.md has the tables.

/// The largest MTU at which a driver without multi-buffer takes native XDP; `None` where the book does not know.
pub(super) fn native_mtu(driver: &str) -> Option<u32> {
    let mtu = match driver {
        "igc" | "netsec" | "cpsw" | "cpsw-switch" => 1500,
        "rvu_nicpf" => 1508,
        "mvpp2" => 1640,
        "am65-cpsw-nuss" => 2002,
        "gve" => 2032,
        "tsnep" => 2048,
        "igb" | "ixgbe" => 3046,
        "nfp" => 3370,
        "qede" => 3490,
        "vmxnet3" => 3494,
        "mlx4_core" | "ena" => 3498,
        "mana" | "hv_netvsc" => 3506,
        "mtk_soc_eth" => 3520,
        "vif" => 3840,
        _ => return None,
    };
    Some(mtu)
}

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
