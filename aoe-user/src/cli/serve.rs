//! `xblade serve`: one export from the command line.

use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Access, AccessEntry, CephOptions, Config, ExportConfig, StoreKind, Vlan};
use crate::control::{self, Service};

use super::args::ServeArgs;
use super::log::Log;

pub(super) fn run(args: ServeArgs, log: &Log) -> anyhow::Result<()> {
    let waits = args.wait;
    let control = args.control.clone();
    let config = config(args);
    control::run(Service {
        control,
        set_log: log.changer(),
        read_log: log.reader(),
        load: Arc::new(move || {
            if waits {
                super::fit_to_wait(config.clone(), None)
            } else {
                super::fit_to_serve(config.clone())
            }
        }),
        reloads: false,
        must_start: !waits,
    })
}

fn config(mut args: ServeArgs) -> Config {
    args.allow.sort_unstable();
    args.allow.dedup();
    let entry = |mac| AccessEntry {
        mac,
        access: Access::ReadWrite,
        rate_limit: None,
    };
    let mut export = ExportConfig {
        shelf: args.shelf,
        slot: args.slot,
        path: args.file,
        interfaces: args.interfaces,
        mode: args.mode,
        store: if args.direct {
            StoreKind::Direct
        } else {
            args.store
        },
        format: args.format,
        sync: args.sync,
        read_only: args.read_only,
        offset: args.offset,
        length: args.length,
        buffers: args.buffers,
        max_sectors: ExportConfig::MAX_SECTORS,
        spin_us: args.spin_us,
        allow: args.allow.into_iter().map(entry).collect(),
        vlan: args.vlan.unwrap_or(Vlan::Untagged),
        serial: args.serial,
        rate_limit: args.rate_limit,
        wire_admin: wire_admin(args.wire_admin, args.no_wire_admin),
        state_name: None,
        smart: args.smart,
        stale_after: ExportConfig::STALE_AFTER,
        late_duplicates: args.late_duplicates,
        shared: args.shared,
        prealloc: args.prealloc,
        flush_interval: args.flush_interval.unwrap_or(ExportConfig::FLUSH_INTERVAL),
        on_lost_write: args.on_lost_write,
        ceph: Arc::new(CephOptions {
            conf: args.ceph_conf,
            user: args.ceph_user,
            clusters: 1,
        }),
        // Overlays are a matter of config files.
        ..ExportConfig::new(args.shelf, args.slot, PathBuf::new())
    };
    export.settle_path();
    Config {
        sources: Vec::new(),
        exports: vec![export],
        state_dir: args.state_dir,
        state_required: false,
        cpus: args.cpus.unwrap_or_default(),
        force: args.force,
    }
}

/// Neither word: as the access list says.
fn wire_admin(yes: bool, no: bool) -> Option<bool> {
    (yes || no).then_some(yes)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use clap::Parser as _;

    use super::super::args::{Cli, CliCommand};
    use super::*;
    use crate::config::{ImageFormat, Mode, OnLostWrite};

    fn parsed(line: &str) -> Config {
        match Cli::try_parse_from(line.split(' ')).unwrap().command {
            CliCommand::Serve(args) => config(*args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_bare_line_has_the_defaults_of_the_config_file() {
        let export = ExportConfig {
            interfaces: vec!["eth0".into()],
            ..ExportConfig::new(1, 2, "/d".into())
        };
        let expected = Config {
            sources: Vec::new(),
            exports: vec![export],
            state_dir: None,
            state_required: false,
            cpus: vec![],
            force: false,
        };
        assert_eq!(parsed("xblade serve 1 2 eth0 /d"), expected);
    }

    #[test]
    fn every_option_arrives() {
        let line = "xblade serve 1 2 eth0 /d -r -m 020000000001 -o 1 -l 2 -b 3 -s -d --mode skb --spin-us 4 --cpus 5 \
                    --serial S --vlan any --rate-limit 6/s --flush-interval 70ms --prealloc --shared --no-wire-admin \
                    --smart --late-duplicates --state-dir /s --force --format raw --on-lost-write continue";
        let export = ExportConfig {
            interfaces: vec!["eth0".into()],
            mode: Mode::Skb,
            store: StoreKind::Direct,
            format: ImageFormat::Raw,
            sync: true,
            read_only: true,
            offset: 1,
            length: 2,
            buffers: 3,
            spin_us: 4,
            allow: [AccessEntry {
                mac: aoe_common::Mac([2, 0, 0, 0, 0, 1]),
                access: Access::ReadWrite,
                rate_limit: None,
            }]
            .into(),
            vlan: Vlan::Any,
            serial: Some("S".into()),
            rate_limit: Some(6),
            wire_admin: Some(false),
            smart: true,
            late_duplicates: true,
            shared: true,
            prealloc: true,
            flush_interval: Duration::from_millis(70),
            on_lost_write: OnLostWrite::Continue,
            ..ExportConfig::new(1, 2, "/d".into())
        };
        let state_dir = Some(PathBuf::from("/s"));
        assert_eq!(
            parsed(line),
            Config {
                sources: Vec::new(),
                exports: vec![export],
                state_dir,
                state_required: false,
                cpus: vec![5],
                force: true
            }
        );
    }
}
