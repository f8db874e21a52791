//! What stands in the text, and in the book.

use super::*;
use crate::control::api::failover::GroupInfo;
use crate::control::api::overlays::{CopiesInfo, SilentMachine};
use crate::control::api::types::{ExportCounters, Initiator, InterfaceInfo};

fn state() -> DaemonState {
    let read_time = Times {
        buckets: vec![(4, 2), (1280, 1)],
        sum_us: 1206,
    };
    DaemonState {
        version: "1".into(),
        exports: vec![ExportInfo {
            export: "e1.1".into(),
            vlan: "untagged".into(),
            path: "/a \"b\"\\".into(),
            store: "mmap".into(),
            state: Condition::Ready,
            dirty_seconds: Some(0.5),
            flush_interval_seconds: 1.0,
            counters: ExportCounters {
                counts: Counts {
                    reads: 3,
                    medium_errors: 2,
                    ..Counts::default()
                },
                read_time,
                ..ExportCounters::default()
            },
            initiators: vec![Initiator {
                initiator: "02:00:00:00:00:01".into(),
                read_bytes: 512,
                ..Initiator::default()
            }],
            machines: vec![MachineInfo {
                machine: "pc01".into(),
                image_read_bytes: 1024,
                ..MachineInfo::default()
            }],
            copies: Some(CopiesInfo {
                silent: vec![SilentMachine::default()],
                full: Vec::new(),
                free_bytes: Some(4096),
            }),
            ..ExportInfo::default()
        }],
        interfaces: vec![InterfaceInfo {
            interface: "eth1".into(),
            opens: 2,
            deaf: 1,
            filter: [("redirected".into(), 7)].into(),
            queues: vec![[("frames".into(), 7)].into()],
            ..InterfaceInfo::default()
        }],
        ..DaemonState::default()
    }
}

#[test]
fn a_standby_is_told_from_what_is_down() {
    let mut state = state();
    state.exports[0].state = Condition::Standby;
    state.failover = vec![GroupInfo {
        group: "san1".into(),
        heard_seconds: Some(0.25),
        ..GroupInfo::default()
    }];
    let text = text(&state, MetricsFormat::OpenMetrics);
    assert!(!text.contains("xblade_export_up{"), "{text}");
    for line in [
        "xblade_failover_active{group=\"san1\"} 0",
        "xblade_failover_heard_seconds{group=\"san1\"} 0.25",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
    }
}

#[test]
fn counters_stand_under_their_names() {
    let text = text(&state(), MetricsFormat::OpenMetrics);
    for line in [
        "xblade_export_reads_completed_total{export=\"e1.1\"} 3",
        "xblade_export_info{export=\"e1.1\",path=\"/a \\\"b\\\"\\\\\",store=\"mmap\",mode=\"rw\"} 1",
        "xblade_export_up{export=\"e1.1\"} 1",
        "xblade_export_dirty_seconds{export=\"e1.1\"} 0.5",
        "xblade_export_flush_interval_seconds{export=\"e1.1\"} 1",
        "xblade_export_errors_total{export=\"e1.1\",kind=\"medium\"} 2",
        "# HELP xblade_export_waits Requests that waited for one that overlaps them",
        "xblade_export_request_duration_seconds_bucket{export=\"e1.1\",op=\"read\",le=\"0.000004\"} 2",
        "xblade_export_request_duration_seconds_bucket{export=\"e1.1\",op=\"read\",le=\"0.001024\"} 2",
        "xblade_export_request_duration_seconds_bucket{export=\"e1.1\",op=\"read\",le=\"0.004096\"} 3",
        "xblade_export_request_duration_seconds_bucket{export=\"e1.1\",op=\"read\",le=\"+Inf\"} 3",
        "xblade_export_request_duration_seconds_sum{export=\"e1.1\",op=\"read\"} 0.001206",
        "xblade_machine_image_read_bytes_total{export=\"e1.1\",machine=\"pc01\"} 1024",
        "xblade_initiator_read_bytes_total{export=\"e1.1\",initiator=\"02:00:00:00:00:01\"} 512",
        "xblade_interface_opens_total{interface=\"eth1\"} 2",
        "xblade_interface_deaf_total{interface=\"eth1\"} 1",
        "xblade_filter_frames_total{interface=\"eth1\",verdict=\"redirected\"} 7",
        "xblade_queue_frames_total{interface=\"eth1\",queue=\"0\"} 7",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn what_a_store_does_not_know_is_not_told() {
    let mut state = state();
    state.exports[0].dirty_seconds = None;
    let text = text(&state, MetricsFormat::OpenMetrics);
    assert!(
        !text.contains("dirty") && !text.contains("flush_interval"),
        "{text}"
    );
}

#[test]
fn each_family_comes_once_and_its_samples_follow_it() {
    for format in [MetricsFormat::OpenMetrics, MetricsFormat::Text] {
        families(&text(&state(), format));
    }
}

fn families(text: &str) {
    let mut families = std::collections::HashSet::new();
    let mut family = "";
    for line in text.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap();
            assert!(families.insert(family), "{family} twice");
        } else {
            let name = line.trim_start_matches("# HELP ");
            assert!(name.starts_with(family), "{line} is no sample of {family}");
        }
    }
}

#[test]
fn the_older_format_has_only_what_it_knows() {
    let text = text(&state(), MetricsFormat::Text);
    for line in [
        "# TYPE xblade_export_info gauge",
        "# TYPE xblade_export_reads_completed_total counter",
        "xblade_export_reads_completed_total{export=\"e1.1\"} 3",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
    assert!(!text.contains("# EOF") && !text.contains(" info\n"));
}

#[test]
fn every_metric_stands_in_the_book() {
    let book = include_str!("../../../../docs/operations.md");
    let text = text(&state(), MetricsFormat::Text);
    for name in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = name.split(' ').next().unwrap();
        // Those of a row that have the same beginning are shortened to what differs.
        let short = [
            "xblade_export",
            "xblade_initiator",
            "xblade_machine",
            "xblade_queue",
        ];
        let short = short.into_iter().find_map(|prefix| name.strip_prefix(prefix));
        let is_there = book.contains(name) || short.is_some_and(|short| book.contains(&format!("…{short}")));
        assert!(is_there, "{name} is not in docs/operations.md");
    }
}
