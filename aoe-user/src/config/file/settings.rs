//! The settings that `[defaults]` and `[[export]]` share, and how paths are read.

use std::path::{Path, PathBuf};

use super::super::reader::{Keys, Value, boolean, number, one_of, read_element, text, text_or_number};
use super::super::values::{self, BUFFERS, MAX_SECTORS, SPIN_US, VLAN};
use super::super::{
    ExportConfig, ImageFormat, Mode, OnLostWrite, StoreKind, Vlan, device, interfaces, overlays,
};
use super::Tables;
use crate::store::RemotePath;

/// The keys that `[defaults]` and `[[export]]` share.
pub(super) fn read_settings(
    keys: &mut Keys<'_, '_, '_>,
    export: &mut ExportConfig,
    (file, tables): (&Path, &Tables),
) {
    overlays::read_settings(keys, export, file);
    let list = keys.list("interfaces", |value, mistakes| {
        read_element("interfaces", value, text(interfaces::pattern), mistakes)
    });
    if let Some(list) = list {
        export.interfaces = list;
        if let Some(value) = keys
            .raw("interfaces")
            .filter(|value| value.get_ref().as_array().is_some_and(|a| a.is_empty()))
        {
            keys.mistake(value.span(), "interfaces = []: at least one is needed");
        }
    }
    keys.set("mode", &mut export.mode, one_of(&Mode::NAMES, &Mode::OTHER_NAMES));
    keys.set("store", &mut export.store, one_of(&StoreKind::NAMES, &[]));
    keys.set("format", &mut export.format, one_of(&ImageFormat::NAMES, &[]));
    keys.set("sync", &mut export.sync, boolean);
    keys.set("read_only", &mut export.read_only, boolean);
    keys.set("buffers", &mut export.buffers, number(BUFFERS));
    keys.set("max_sectors", &mut export.max_sectors, number(MAX_SECTORS));
    keys.set("spin_us", &mut export.spin_us, number(SPIN_US));
    keys.set("vlan", &mut export.vlan, read_vlan);
    if let Some(wire_admin) = keys.get("wire_admin", boolean) {
        export.wire_admin = Some(wire_admin);
    }
    keys.set("smart", &mut export.smart, boolean);
    keys.set(
        "stale_after",
        &mut export.stale_after,
        text_or_number(values::stale_after),
    );
    keys.set("late_duplicates", &mut export.late_duplicates, boolean);
    keys.set("shared", &mut export.shared, boolean);
    keys.set("prealloc", &mut export.prealloc, boolean);
    keys.set(
        "flush_interval",
        &mut export.flush_interval,
        text_or_number(values::flush_interval),
    );
    keys.set(
        "on_lost_write",
        &mut export.on_lost_write,
        one_of(&OnLostWrite::NAMES, &[]),
    );
    if let Some(rate) = keys.get("rate_limit", text_or_number(values::rate)) {
        export.rate_limit = Some(rate);
    }
    if let Some(list) = tables.lists.allow(keys) {
        export.allow = list.into();
    }
    if let Some(group) = tables.groups.of(keys) {
        export.failover = Some(group);
    }
}

fn read_vlan(value: &Value<'_>) -> Result<Vlan, String> {
    match value.get_ref().as_str() {
        Some("any") => Ok(Vlan::Any),
        Some(_) => Err(VLAN.expected()),
        None => number(VLAN)(value).map(Vlan::Id),
    }
}

/// What the kernel takes as a path (`PATH_MAX` without the end).
const PATH_BYTES: usize = 4095;

pub(super) fn read_path(file: &Path, text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("the path of an image or block device is needed".into());
    }
    if let Some(remote) = RemotePath::of(Path::new(text)) {
        remote?;
        return Ok(text.into());
    }
    if let Some(device) = device::named(text) {
        return device;
    }
    let path = file.parent().unwrap_or(Path::new("")).join(text);
    if path.as_os_str().len() > PATH_BYTES {
        return Err(format!("a path has at most {PATH_BYTES} bytes"));
    }
    Ok(path)
}
