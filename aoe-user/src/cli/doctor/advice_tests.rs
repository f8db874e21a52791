use super::super::{Finding, report};
use super::*;

pub(in super::super) fn nic() -> Probe {
    Probe {
        interface: "eth0".into(),
        kernel: "6.12.5-amd64".into(),
        driver: Some("ice".into()),
        is_virtual: false,
        has_slaves: false,
        up: true,
        carrier: true,
        mtu_bytes: 9000,
        rx_queues: 1,
        tx_queues: 1,
        max_mtu_bytes: Some(9702),
        fewer_rx_queues: None,
        one_queue: Some("ethtool -L eth0 combined 1".into()),
        threaded: Some(false),
        has_program: false,
        has_native_program: false,
        xdp: Some(XdpFeatures {
            bits: 0x3f,
            zero_copy_pieces: 5,
        }),
        offloads: Some(vec![]),
        switchable: vec!["rx-vlan-hw-parse".into(), "rx-lro".into()],
    }
}

#[test]
fn a_good_host_gets_zero_copy_and_no_advice() {
    let report = report(&Finding::with(nic(), None));
    assert!(report.contains("native XDP, zero-copy\n"), "{report}");
    assert!(report.contains("MTU 9000: 17 sectors (8.5 KiB)"), "{report}");
    assert!(report.contains("Nothing to improve"), "{report}");
}

#[test]
fn the_mode_follows_driver_and_mtu() {
    let with = |bits, zero_copy_pieces, mtu_bytes| {
        mode(&Probe {
            xdp: Some(XdpFeatures {
                bits,
                zero_copy_pieces,
            }),
            mtu_bytes,
            ..nic()
        })
    };
    assert_eq!(with(0x0f, 1, 1500), "native XDP, zero-copy");
    // ice has multi-buffer; where an unknown driver ends without it is for the driver to say.
    assert!(with(0x0f, 1, 9000).contains("else generic"));
    assert_eq!(with(0x2f, 1, 3046), "native XDP, zero-copy");
    assert!(with(0x2f, 1, 9000).starts_with("native XDP, by copy"));
    assert_eq!(with(0x23, 1, 9000), "native XDP, by copy");
    assert!(with(0, 1, 1500).starts_with("generic"));
    assert!(mode(&Probe { xdp: None, ..nic() }).starts_with("unknown"));
    let bond = Probe {
        has_slaves: true,
        ..nic()
    };
    assert!(mode(&bond).starts_with("generic") && mode(&bond).contains("slaves"));
    assert!(with(0x01, 1, 1500).contains("cannot redirect"));
    assert!(with(0x3f, 1, 547).starts_with("cannot serve"));
    assert!(with(0x3f, 1, 548).starts_with("native"));
}

#[test]
fn advice_names_commands_that_can_be_typed() {
    let probe = Probe {
        mtu_bytes: 1500,
        rx_queues: 8,
        xdp: Some(XdpFeatures {
            bits: 0x23,
            zero_copy_pieces: 1,
        }),
        offloads: Some(vec!["rx-vlan-hw-parse".into(), "rx-lro".into()]),
        ..nic()
    };
    let report = report(&Finding::with(probe, None));
    for command in [
        "ip link set eth0 mtu 9000",
        "ethtool -L eth0 combined 1",
        "xblade doctor eth0 --steer 02:00:00:00:00:01",
        "ethtool -K eth0 rxvlan off",
        "ethtool -K eth0 lro off",
        "echo 1 > /sys/class/net/eth0/threaded",
    ] {
        assert!(
            report.contains(&format!("\n  {command}")),
            "{command} is missing:\n{report}"
        );
    }
}

#[test]
fn drivers_of_one_buffer_are_native_up_to_their_own_mtu() {
    let of = |driver: &str, mtu_bytes| Probe {
        driver: Some(driver.into()),
        mtu_bytes,
        xdp: Some(XdpFeatures {
            bits: if driver == "mlx4_core" || driver == "ena" {
                0x03
            } else {
                0x0b
            },
            zero_copy_pieces: 1,
        }),
        ..nic()
    };
    for (driver, most, zero_copy, step) in [
        ("igb", 3046, true, 2596),
        ("ixgbe", 3046, true, 2596),
        ("mlx4_core", 3498, false, 3108),
        ("ena", 3498, false, 3108),
    ] {
        let expected = if zero_copy {
            "native XDP, zero-copy"
        } else {
            "native XDP, by copy"
        };
        for mtu_bytes in [1500, 1501, most] {
            assert_eq!(mode(&of(driver, mtu_bytes)), expected, "{driver} at {mtu_bytes}");
        }
        assert!(mode(&of(driver, most + 1)).starts_with("generic XDP"), "{driver}");
        for mtu_bytes in [1500, 9000] {
            let finding = Finding::with(of(driver, mtu_bytes), None);
            let report = report(&finding);
            assert!(report.contains(&format!("mtu {step}\n")), "{driver}: {report}");
            assert!(
                !report.contains("mtu 9000\n") && !finding.is_bad(),
                "{driver}: {report}"
            );
        }
    }
}

#[test]
fn rules_are_advised_as_the_driver_takes_them() {
    let of = |driver: &str, switchable: &[&str]| {
        let probe = Probe {
            driver: Some(driver.into()),
            rx_queues: 4,
            switchable: switchable.iter().map(|name| (*name).to_owned()).collect(),
            ..nic()
        };
        report(&Finding::with(probe, None))
    };
    let advised = "xblade doctor eth0 --steer ";
    assert!(of("ice", &[FILTERS]).contains(advised));
    for driver in ["igb", "igc"] {
        let report = of(driver, &[FILTERS]);
        assert!(
            report.contains(advised) && report.contains("by its address alone"),
            "{report}"
        );
        assert!(!of(driver, &[]).contains(advised), "a card without filters");
    }
    for driver in ["ixgbe", "i40e", "ena", "virtio_net", "bnxt_en"] {
        assert!(!of(driver, &[FILTERS]).contains(advised), "{driver}");
    }
    assert!(of("of-tomorrow", &[FILTERS]).contains("where the NIC has such filters"));
}

#[test]
fn what_the_card_says_of_its_filters_counts() {
    let of = |filters| {
        let probe = Probe {
            rx_queues: 4,
            switchable: vec![FILTERS.into()],
            ..nic()
        };
        report(&Finding::with(probe, Some(filters)))
    };
    let refused = of(Filters::Refused("Operation not supported".into()));
    assert!(
        refused.contains("filters      none: Operation not supported") && !refused.contains("--steer"),
        "{refused}"
    );
    assert!(of(Filters::Set(Vec::new())).contains("--steer"));
    let filter = SteeringFilter {
        id: 7,
        source: Some("02:00:00:00:00:0a".into()),
        ethertype: Some(0x88a2),
        is_narrow: false,
        queue: Some(2),
    };
    let set = of(Filters::Set(vec![filter]));
    assert!(
        set.contains("02:00:00:00:00:0a on queue 2") && !set.contains("--steer"),
        "{set}"
    );
}

#[test]
fn threaded_is_advised_where_it_works_only() {
    let veth = |has_native_program| {
        let probe = Probe {
            is_virtual: true,
            has_native_program,
            xdp: Some(XdpFeatures {
                bits: 0x23,
                zero_copy_pieces: 1,
            }),
            ..nic()
        };
        report(&Finding::with(probe, None)).contains("/threaded")
    };
    assert!(!veth(false) && veth(true));
    let other_namespace = Probe {
        threaded: None,
        ..nic()
    };
    assert!(!report(&Finding::with(other_namespace, None)).contains("/threaded"));
}

#[test]
fn what_is_bad_is_told_from_what_would_help() {
    let finding = |probe| Finding::with(probe, None);
    assert!(!finding(nic()).is_bad());
    assert!(
        !finding(Probe {
            mtu_bytes: 1500,
            ..nic()
        })
        .is_bad()
    );
    for bad in [
        Probe { up: false, ..nic() },
        Probe {
            mtu_bytes: 500,
            ..nic()
        },
        Probe {
            kernel: "5.10.0".into(),
            mtu_bytes: 1500,
            ..nic()
        },
        Probe {
            kernel: "6.1.0".into(),
            ..nic()
        },
    ] {
        let finding = finding(bad);
        assert!(
            finding.is_bad() && report(&finding).contains("This must change:"),
            "{finding:?}"
        );
    }
}

#[test]
fn a_missing_carrier_is_told() {
    let unplugged = Probe {
        carrier: false,
        ..nic()
    };
    let finding = Finding::with(unplugged, None);
    assert!(report(&finding).contains("link         up, without a carrier"));
    assert!(!finding.is_bad(), "a host may be made ready before its cable is");
}

#[test]
fn what_is_unknown_is_said_to_be() {
    let report = report(&Finding::with(
        Probe {
            interface: "x".into(),
            ..Probe::default()
        },
        None,
    ));
    assert_eq!(report.matches("unknown").count(), 6, "{report}");
    assert!(report.contains("ip link set x up"), "{report}");
}

#[test]
fn an_old_kernel_gets_no_advice_that_it_cannot_follow() {
    let probe = Probe {
        kernel: "6.1.0".into(),
        mtu_bytes: 1500,
        ..nic()
    };
    let report = report(&Finding::with(probe, None));
    assert!(
        report.contains("no jumbo frames, they need 6.6") && !report.contains("mtu 9000"),
        "{report}"
    );
}

#[test]
fn a_receive_queue_that_cannot_answer_is_bad() {
    let report_of = |remedy: &str| {
        let probe = Probe {
            driver: Some("veth".into()),
            is_virtual: true,
            xdp: Some(XdpFeatures {
                bits: 0x23,
                zero_copy_pieces: 1,
            }),
            rx_queues: 4,
            tx_queues: 2,
            fewer_rx_queues: Some(remedy.into()),
            ..nic()
        };
        report(&Finding::with(probe, None))
    };
    let with_command = report_of("`ethtool -L eth0 rx 2`");
    let must_change = "must change:\n\n  # 4 receive queues and 2 transmit queues";
    assert!(with_command.contains(must_change), "{with_command}");
    assert!(
        with_command.contains("\n  ethtool -L eth0 rx 2\n"),
        "{with_command}"
    );
    assert!(with_command.contains("cannot serve it"), "{with_command}");
    let without = report_of("make it anew");
    assert!(without.contains("own number; make it anew\n"), "{without}");
}

#[test]
fn no_mtu_is_advised_that_the_driver_does_not_take() {
    let advised = |mtu_bytes, max_mtu_bytes, bits| {
        let probe = Probe {
            mtu_bytes,
            max_mtu_bytes,
            driver: Some("8139cp".into()),
            xdp: Some(XdpFeatures {
                bits,
                zero_copy_pieces: 1,
            }),
            ..nic()
        };
        better_mtu(&probe).map(|advice| (advice.commands.concat(), advice.why))
    };
    let (command, why) = advised(1500, Some(4096), 0).expect("larger frames");
    assert_eq!(command, "ip link set eth0 mtu 4096");
    assert!(why.starts_with("7 sectors"), "{why}");
    assert_eq!(advised(1500, Some(1500), 0), None);
    assert_eq!(advised(4096, Some(4096), 0), None);
    assert!(advised(1500, None, 0).is_some_and(|(command, _)| command.ends_with("mtu 9000")));
}

#[test]
fn a_number_of_queues_that_cannot_be_set_is_not_advised() {
    let probe = |one_queue: Option<&str>| Probe {
        rx_queues: 2,
        driver: Some("vmxnet3".into()),
        one_queue: one_queue.map(str::to_owned),
        ..nic()
    };
    assert!(better_queues(&probe(None), None).is_empty());
    let advised = better_queues(&probe(Some("ethtool -L eth0 rx 1")), None);
    assert_eq!(advised[0].commands, ["ethtool -L eth0 rx 1"]);
}
