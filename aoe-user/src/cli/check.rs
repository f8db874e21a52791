//! `xblade check`: what a config file would serve here.

mod copies;

use crate::config::backing;
use crate::config::validate::{Finding, Report, SeenExport, SettingNames, contradictions};
use crate::config::{Access, ExportConfig, file};
use crate::control::preflight;
use crate::store::{ImageFormat, SECTOR_BYTES, StoreKind, conflict, foreign};

use super::args::CheckArgs;
use super::table::{TextTable, size};

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let mut file = file::load(&args.config)?;
    file.config.force = args.force;
    if args.file_only {
        let report = contradictions(&file.config, SettingNames::File);
        let problems = report.problems(Some(&file.origin));
        anyhow::ensure!(problems.0.is_empty(), problems);
        return Ok(());
    }
    let mut report = super::validate_here(&file.config, SettingNames::File)?;
    report.problems.extend(refused(&file.config.exports));
    copies::look(&file.config.exports, &mut report);
    report.log_warnings();
    if let Some(warning) = preflight::descriptors(&file.config) {
        tracing::warn!("{warning}");
    }
    let problems = report.problems(Some(&file.origin));
    anyhow::ensure!(problems.0.is_empty(), problems);
    table(&file.config.exports, &report).print()
}

/// What is mounted, under a loop device, swap, or part of another device, so that a daemon would wait for it to be free; and images
/// in other formats.
fn refused(exports: &[ExportConfig]) -> impl Iterator<Item = Finding> {
    let refused = |export: &ExportConfig| {
        let start = export.offset.saturating_mul(SECTOR_BYTES);
        let end = match export.length {
            0 => u64::MAX,
            length => start.saturating_add(length.saturating_mul(SECTOR_BYTES)),
        };
        let opens = export.store.uses_file() && !export.shared;
        let in_use = opens.then(|| conflict(&export.path, start..end, export.writes_backing()));
        let detects =
            export.store != StoreKind::Null && export.format == ImageFormat::Detect && export.offset == 0;
        in_use
            .flatten()
            .or_else(|| detects.then(|| foreign(&export.path)).flatten())
    };
    exports.iter().enumerate().filter_map(move |(index, export)| {
        Some(Finding {
            export: index,
            key: "path",
            message: refused(export)?.to_string(),
            other: None,
        })
    })
}

fn table(exports: &[ExportConfig], report: &Report) -> TextTable {
    let mut table = TextTable::new([
        "ADDRESS",
        "INTERFACES",
        "VLAN",
        "SIZE",
        "SECTORS/FRAME",
        "RIGHTS",
        "STORE",
        "FILE",
    ]);
    for (export, seen) in exports.iter().zip(&report.exports) {
        table.row([
            export.address(),
            seen.interfaces.join(","),
            export.vlan.to_string(),
            served_size(export, seen),
            sectors_per_frame(export),
            rights(export),
            if export.sync {
                format!("{}, sync", export.store)
            } else {
                export.store.to_string()
            },
            export.path.display().to_string(),
        ]);
    }
    table
}

fn served_size(export: &ExportConfig, seen: &SeenExport) -> String {
    // Validation passed, so the backing object is known.
    seen.backing.map_or_else(String::new, |backing| {
        size(backing::sectors_served(export, &backing))
    })
}

/// The cap, where there is one: `at most 8`.
fn sectors_per_frame(export: &ExportConfig) -> String {
    match export.max_sectors {
        ExportConfig::MAX_SECTORS => "by MTU".into(),
        cap => format!("at most {cap}"),
    }
}

/// Who may do what: `rw for everyone`, `rw for 1, ro for 2`.
fn rights(export: &ExportConfig) -> String {
    let best = if export.read_only {
        Access::ReadOnly
    } else {
        Access::ReadWrite
    };
    if export.allow.is_empty() {
        return format!("{best} for everyone");
    }
    let writers = export
        .allow
        .iter()
        .filter(|entry| !export.read_only && entry.access == Access::ReadWrite)
        .count();
    let readers = export.allow.len() - writers;
    match (writers, readers) {
        (0, _) => format!("ro for {readers}"),
        (_, 0) => format!("rw for {writers}"),
        _ => format!("rw for {writers}, ro for {readers}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::AccessEntry;
    use aoe_common::Mac;

    #[test]
    fn rights_count_who_may_do_what() {
        let entry = |last, access| AccessEntry {
            mac: Mac([2, 0, 0, 0, 0, last]),
            access,
            rate_limit: None,
        };
        let mut export = ExportConfig::new(1, 1, "/d".into());
        assert_eq!(rights(&export), "rw for everyone");
        export.allow = [
            entry(1, Access::ReadWrite),
            entry(2, Access::ReadOnly),
            entry(3, Access::ReadOnly),
        ]
        .into();
        assert_eq!(rights(&export), "rw for 1, ro for 2");
        export.read_only = true;
        assert_eq!(rights(&export), "ro for 3");
        export.allow = [].into();
        assert_eq!(rights(&export), "ro for everyone");
    }
}
