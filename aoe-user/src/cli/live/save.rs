//! `--save` of `xblade export add` and `rm`: the change in a file of the config folder, so that it outlives a reload and a restart.
//!
//! The target itself may not write its configuration: the one who asks does, with his own rights.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Error, Result, bail, ensure};
use tempfile::NamedTempFile;

use super::args::Ask;
use super::client::ControlClient;
use crate::config::ExportConfig;
use crate::config::file::{self, ConfigFile};
use crate::config::sources;
use crate::config::validate::{SettingNames, contradictions};
use crate::control::api::selection::Selection;
use crate::control::api::types::{ControlRequest, DaemonState};
use crate::target::Address;

/// What the target serves, and from which file.
fn known(ask: &Ask) -> Result<(Vec<Address>, PathBuf)> {
    let request = ControlRequest::State {
        exports: Vec::new(),
        every_ms: None,
    };
    let state: DaemonState = ControlClient::new(&ask.target)?.ask(&request)?;
    let address = |name: &str| {
        let (shelf, slot) = name.strip_prefix('e')?.split_once('.')?;
        Some(Address {
            shelf: shelf.parse().ok()?,
            slot: slot.parse().ok()?,
        })
    };
    let served = state.exports.iter().filter_map(|export| address(&export.export));
    let file = state
        .config_file
        .context("this target has no config file (it is `xblade serve`): nothing can be saved")?;
    Ok((served.collect(), file.into()))
}

fn load(config: &Path) -> Result<ConfigFile> {
    file::load(config).with_context(|| format!("{} is not in order: nothing was done", config.display()))
}

/// A file that is written and not in its place yet.
#[derive(Debug)]
pub(super) struct NewFile {
    written: NamedTempFile,
    path: PathBuf,
}

impl NewFile {
    /// Writes these tables for an export with this address; nothing else is to see them yet.
    ///
    /// # Errors
    /// When the configuration would contradict itself with them, or the file cannot be written.
    pub(super) fn write(shelf: u16, slot: u8, toml: &str, ask: &Ask) -> Result<NewFile> {
        NewFile::beside(&known(ask)?.1, &format!("e{shelf}.{slot}.toml"), toml)
    }

    fn beside(config: &Path, name: &str, toml: &str) -> Result<NewFile> {
        let folder = sources::folder(config)
            .with_context(|| format!("no folder belongs to {}: nothing can be saved", config.display()))?;
        let path = folder.join(name);
        ensure!(
            path.symlink_metadata().is_err(),
            "{} is there already: nothing was done",
            path.display()
        );
        let mut all = load(config)?.config;
        let further = file::parse_further(&all.sources, &path, toml.to_owned())?;
        all.exports.extend(further);
        let problems = contradictions(&all, SettingNames::File).problems(None);
        if !problems.0.is_empty() {
            bail!("{problems}");
        }
        let cannot = || format!("cannot write in {}", folder.display());
        fs::create_dir_all(&folder).with_context(cannot)?;
        // The target passes over names that begin with a dot.
        let mut written = NamedTempFile::with_prefix_in(".xblade-", &folder).with_context(cannot)?;
        written
            .write_all(format!("# xblade export add --save\n{toml}").as_bytes())
            .with_context(cannot)?;
        // Whoever may read the config file, as the target's user, has to read this one.
        let like = fs::metadata(config)?;
        fchown(written.as_file(), Some(like.uid()), Some(like.gid())).with_context(cannot)?;
        let permissions = fs::Permissions::from_mode(like.mode() & 0o777);
        written
            .as_file()
            .set_permissions(permissions)
            .with_context(cannot)?;
        written.as_file().sync_all().with_context(cannot)?;
        Ok(NewFile { written, path })
    }

    /// Puts it in its place, and says where that is.
    ///
    /// # Errors
    /// When that fails; the export is served, and the message says that it will be forgotten.
    pub(super) fn keep(self) -> Result<String> {
        let NewFile { written, path } = self;
        let shown = path.display().to_string();
        let forgotten = || format!("the export is added, but {shown} is not: a reload or restart forgets it");
        written.persist_noclobber(&path).with_context(forgotten)?;
        sync_folder(&path).with_context(forgotten)?;
        Ok(shown)
    }
}

/// The files of exports that are to go for good.
#[derive(Debug)]
pub(super) struct OldFiles(Vec<PathBuf>);

impl OldFiles {
    /// Those of the exports that the globs name. One that was added without `--save` has none.
    ///
    /// # Errors
    /// When one stands in a file with other things, which this command does not edit, or nothing would be left to serve.
    pub(super) fn of(globs: &[String], ask: &Ask) -> Result<OldFiles> {
        let (served, config) = known(ask)?;
        OldFiles::of_globs(globs, served, &config)
    }

    fn of_globs(globs: &[String], served: Vec<Address>, config: &Path) -> Result<OldFiles> {
        let ConfigFile { config: all, origin } = load(config)?;
        let chosen = Selection::new(globs).map_err(Error::msg)?;
        // One that was removed without `--save` stands in its file alone.
        let address = |export: &ExportConfig| Address {
            shelf: export.shelf,
            slot: export.slot,
        };
        let known = served.into_iter().chain(all.exports.iter().map(address));
        if let Some(glob) = chosen.unmatched(known) {
            bail!(
                "{glob} matches no export, served or in the config file; `xblade ls` lists those that are served"
            );
        }
        let mut files = Vec::new();
        for (at, export) in all.exports.iter().enumerate() {
            if !chosen.has(export) {
                continue;
            }
            let source = origin.source(at).context("an export without a place")?;
            if source.file() == config || !is_alone(source.text()) {
                let place = origin.export(at).unwrap_or_default();
                let (shelf, slot) = (export.shelf, export.slot);
                bail!(
                    "e{shelf}.{slot} stands in a file with other things, at {place}: take it out there, then `xblade reload`. Nothing was done"
                );
            }
            files.push(source.file().to_owned());
        }
        ensure!(
            files.len() < all.exports.len(),
            "nothing would be left to serve, and such a configuration is refused: stop xblade instead. Nothing was done"
        );
        Ok(OldFiles(files))
    }

    /// Deletes them, and says which they were.
    ///
    /// # Errors
    /// When one cannot be deleted: the exports are gone, and the message says that this one comes back.
    pub(super) fn delete(self) -> Result<Vec<String>> {
        let delete = |path: PathBuf| {
            let shown = path.display().to_string();
            fs::remove_file(&path)
                .and_then(|()| sync_folder(&path))
                .with_context(|| {
                    format!("removed, but {shown} is not deleted: it comes back with a reload or restart")
                })?;
            Ok(shown)
        };
        self.0.into_iter().map(delete).collect()
    }
}

/// Whether a file has this one export and nothing else.
fn is_alone(text: &str) -> bool {
    let Ok(table) = text.parse::<toml::Table>() else {
        return false;
    };
    let exports = table.get("export").and_then(toml::Value::as_array);
    table.len() == 1 && exports.is_some_and(|exports| exports.len() == 1)
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPORT: &str = "[[export]]\nshelf = 1\nslot = 7\npath = \"/a\"\ninterfaces = [\"eth1\"]\n";

    fn site() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let config = temp.path().join("xblade.toml");
        let main = EXPORT.replace("slot = 7", "slot = 1").replace("/a", "/b");
        fs::write(&config, main).unwrap();
        fs::set_permissions(&config, fs::Permissions::from_mode(0o640)).unwrap();
        (temp, config)
    }

    #[test]
    fn what_is_saved_is_read_like_the_config_file_and_can_go_again() {
        let (temp, config) = site();
        let new = NewFile::beside(&config, "e1.7.toml", EXPORT).unwrap();
        assert_eq!(load(&config).unwrap().config.exports.len(), 1);
        let path = PathBuf::from(new.keep().unwrap());
        assert_eq!(path, temp.path().join("conf.d/e1.7.toml"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert_eq!(load(&config).unwrap().config.exports.len(), 2);

        let names = ["e1.7".to_owned()];
        OldFiles::of_globs(&names, vec![], &config)
            .unwrap()
            .delete()
            .unwrap();
        assert_eq!(load(&config).unwrap().config.exports.len(), 1);
        assert!(!path.exists());
    }

    #[test]
    fn an_export_is_not_saved_twice() {
        let (temp, config) = site();
        NewFile::beside(&config, "e1.7.toml", EXPORT)
            .unwrap()
            .keep()
            .unwrap();
        let twice = |name| NewFile::beside(&config, name, EXPORT).unwrap_err().to_string();
        assert!(twice("e1.7.toml").contains("is there already"));
        assert!(twice("other.toml").contains("1.7"));
        let left: Vec<_> = fs::read_dir(temp.path().join("conf.d")).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn what_stands_with_other_things_is_left_alone() {
        let (temp, config) = site();
        let folder = temp.path().join("conf.d");
        fs::create_dir(&folder).unwrap();
        let two = format!("{EXPORT}{}", EXPORT.replace("slot = 7", "slot = 8"));
        fs::write(folder.join("two.toml"), two).unwrap();
        for (name, place) in [("e1.1", "xblade.toml:1:1"), ("e1.8", "two.toml:6:1")] {
            let refused = OldFiles::of_globs(&[name.to_owned()], vec![], &config).unwrap_err();
            assert!(refused.to_string().contains(place), "{refused}");
        }
        fs::remove_file(folder.join("two.toml")).unwrap();
        fs::write(folder.join("one.toml"), EXPORT).unwrap();
        fs::write(&config, "").unwrap();
        let refused = OldFiles::of_globs(&["e1.7".to_owned()], vec![], &config).unwrap_err();
        assert!(refused.to_string().contains("nothing would be left"), "{refused}");
    }
}
