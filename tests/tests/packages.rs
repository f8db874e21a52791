//! The packages' lists of files: what is in one form of a package is in the other, where each form has it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use toml::{Table, Value};

/// Where the manifest is, and its sources of files begin.
fn manifest_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../aoe-user")
}

fn metadata() -> Result<Table> {
    let manifest: Table = fs::read_to_string(manifest_folder().join("Cargo.toml"))?.parse()?;
    let metadata = &manifest["package"]["metadata"];
    metadata.as_table().cloned().context("no metadata")
}

/// A file of a package by its source: where it goes, its mode, and whether an administrator's changes to it are kept.
type Files = BTreeMap<String, (String, String, bool)>;

fn text(value: Option<&Value>) -> Result<&str> {
    value.and_then(Value::as_str).context("an odd asset")
}

/// Of a table for cargo-generate-rpm.
fn rpm_files(table: &Value) -> Result<Files> {
    let assets = table["assets"].as_array().context("no assets")?;
    let file = |asset: &Value| -> Result<_> {
        let field = |name: &str| text(asset.get(name)).map(str::to_owned);
        let is_config = asset.get("config").and_then(Value::as_str) == Some("noreplace");
        Ok((field("source")?, (field("dest")?, field("mode")?, is_config)))
    };
    assets.iter().map(file).collect()
}

/// Of the table for cargo-deb, told as one for cargo-generate-rpm would.
fn debian_files(table: &Value) -> Result<Files> {
    let config = table["conf-files"].as_array().context("no conf-files")?;
    let assets = table["assets"].as_array().context("no assets")?;
    let file = |asset: &Value| -> Result<_> {
        let field = |n: usize| text(asset.get(n));
        let (source, to) = (field(0)?, format!("/{}", field(1)?));
        let name = source.rsplit('/').next().unwrap_or(source);
        let is_config = config
            .iter()
            .any(|file| file.as_str() == Some(&format!("{to}{name}")));
        Ok((source.to_owned(), (to, field(2)?.to_owned(), is_config)))
    };
    assets.iter().map(file).collect()
}

/// The licences' files and the folder of zsh's completions are a matter of the distribution.
#[test]
fn the_rpm_has_the_files_of_the_debian_package() -> Result<()> {
    let metadata = metadata()?;
    let mut debian = debian_files(&metadata["deb"])?;
    let mut rpm = rpm_files(&metadata["generate-rpm"])?;
    debian
        .remove("../packaging/debian/copyright")
        .context("no copyright")?;
    for licence in ["../LICENSE-MIT", "../LICENSE-APACHE"] {
        rpm.remove(licence).context("no licence")?;
    }
    let zsh = debian.get_mut("../target/completions/_xblade").context("zsh")?;
    ensure!(zsh.0 == "/usr/share/zsh/vendor-completions/");
    zsh.0 = "/usr/share/zsh/site-functions/".to_owned();
    ensure!(debian == rpm, "{debian:#?}\n{rpm:#?}");
    Ok(())
}

fn files_under(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files_under(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// The Debian package is the tree as it lies there; initramfs-tools is Debian's.
#[test]
fn the_initiators_rpm_has_the_files_of_its_tree() -> Result<()> {
    let metadata = metadata()?;
    let mut rpm = rpm_files(&metadata["generate-rpm"]["variants"]["initiator"])?;
    rpm.retain(|source, _| !source.contains("LICENSE"));
    let conffiles = fs::read_to_string(manifest_folder().join("../packaging/initiator/debian/conffiles"))?;
    let root = manifest_folder().join("../packaging/initiator/root");
    let mut found = Vec::new();
    files_under(&root, &mut found)?;
    ensure!(found.len() > 5, "{found:?}");
    for path in found {
        let inner = path.strip_prefix(&root)?;
        if inner.starts_with("usr/share/initramfs-tools") {
            continue;
        }
        let folder = format!("/{}/", inner.parent().context("no folder")?.display());
        let name = inner.file_name().context("no name")?.to_string_lossy();
        let is_meant = |source: &str| {
            let pattern = source.rsplit('/').next().unwrap_or(source);
            pattern == name
                || pattern
                    .strip_prefix('*')
                    .is_some_and(|ending| name.ends_with(ending))
        };
        let (_, (to, mode, is_config)) = rpm
            .iter()
            .find(|(source, file)| file.0 == folder && is_meant(source))
            .with_context(|| format!("{} is not in the .rpm", inner.display()))?;
        let is_program = fs::metadata(&path)?.permissions().mode() & 0o111 != 0;
        ensure!(
            is_program == (mode == "755"),
            "{} in {to}: {mode}",
            path.display()
        );
        let is_conffile = conffiles
            .lines()
            .any(|line| line == format!("/{}", inner.display()));
        ensure!(is_conffile == *is_config, "{}", path.display());
    }
    Ok(())
}

#[test]
fn the_sources_of_the_rpms_exist_and_their_scripts_are_shell() -> Result<()> {
    let metadata = metadata()?;
    let rpm = &metadata["generate-rpm"];
    let files = rpm_files(rpm)?;
    let files = files.into_iter().chain(rpm_files(&rpm["variants"]["initiator"])?);
    for (source, _) in files.filter(|(source, _)| !source.contains("target/")) {
        let path = manifest_folder().join(&source);
        let folder_is_there = source.contains('*') && path.parent().is_some_and(Path::is_dir);
        ensure!(path.is_file() || folder_is_there, "{source}");
    }
    for script in ["pre_install", "post_install", "pre_uninstall", "post_uninstall"] {
        let path = manifest_folder().join(text(rpm.get(format!("{script}_script")))?);
        let parsed = Command::new("sh").arg("-n").arg(&path).output()?;
        ensure!(parsed.status.success(), "{}: {parsed:?}", path.display());
    }
    Ok(())
}
