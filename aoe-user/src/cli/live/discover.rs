//! `xblade discover`: the targets on an interface, of whatever make.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use serde_json::json;

use super::args::DiscoverArgs;
use super::columns::{Column, choose, table};
use crate::cli::{output, table::size};
use crate::control::api::types::SCHEMA;
use crate::host;
use crate::initiator::Client;

/// How long each target may take to answer for its size and model.
const IDENTIFY: Duration = Duration::from_secs(1);

/// A target as found.
#[derive(Debug, Serialize)]
struct Row {
    export: String,
    mac: String,
    /// `null`: it did not answer IDENTIFY.
    size_bytes: Option<u64>,
    buffers: u16,
    sectors: u8,
    model: Option<String>,
    serial: Option<String>,
    config: String,
}

const COLUMNS: [Column<Row>; 8] = [
    ("export", |row| row.export.clone()),
    ("mac", |row| row.mac.clone()),
    ("size", |row| {
        row.size_bytes
            .map_or_else(|| "-".into(), |bytes| size(bytes / 512))
    }),
    ("buffers", |row| row.buffers.to_string()),
    ("sectors", |row| row.sectors.to_string()),
    ("model", |row| row.model.clone().unwrap_or_else(|| "-".into())),
    ("config", |row| row.config.clone()),
    ("serial", |row| row.serial.clone().unwrap_or_else(|| "-".into())),
];

pub(in crate::cli) fn discover(args: &DiscoverArgs) -> Result<ExitCode> {
    let columns = choose(&COLUMNS, 7, &args.output)?;
    let mut client = Client::open(&host::real_name(&args.interface))?;
    let found = client.discover(None, args.wait)?;
    let rows: Vec<Row> = found
        .iter()
        .map(|target| {
            let identity = client.identify(target, IDENTIFY).ok();
            Row {
                export: format!("e{}.{}", target.shelf, target.slot),
                mac: target.mac.to_string(),
                size_bytes: identity.as_ref().map(|identity| identity.sectors * 512),
                buffers: target.buffers,
                sectors: target.sectors,
                model: identity.as_ref().map(|identity| identity.model.clone()),
                serial: identity.as_ref().map(|identity| identity.serial.clone()),
                config: target.config.escape_ascii().to_string(),
            }
        })
        .collect();
    if args.output.json {
        output::line(json!({ "schema": SCHEMA, "targets": rows }))?;
    } else {
        table(&columns, &rows, &args.output).print()?;
    }
    // As with grep: nothing found is not success.
    Ok(if rows.is_empty() {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
