//! A lab to type in: commands that run other commands on the target's and on the initiator's side, and a folder to work in.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::link::Lab;
use crate::net::Namespace;

/// The commands `target COMMAND…`, `initiator COMMAND…` and `xblade`, and a folder, removed when dropped. A process that was started by them
/// ends with the shell that started it.
#[derive(Debug)]
pub struct Commands {
    folder: TempDir,
}

impl Commands {
    /// Makes them for a lab and a binary of xblade.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn new(lab: &Lab, xblade: &Path) -> Result<Commands> {
        let folder = tempfile::Builder::new().prefix("xblade-lab-").tempdir()?;
        let commands = Commands { folder };
        for part in ["bin", "work"] {
            fs::create_dir(commands.folder.path().join(part))?;
        }
        for namespace in [&lab.target, &lab.initiator] {
            commands.script(namespace)?;
        }
        let xblade = fs::canonicalize(xblade).with_context(|| format!("no {}", xblade.display()))?;
        std::os::unix::fs::symlink(xblade, commands.folder.path().join("bin/xblade"))?;
        Ok(commands)
    }

    fn script(&self, namespace: &Namespace) -> Result<()> {
        let path = self.folder.path().join("bin").join(namespace.label());
        // Its /sys is another one as well. The folder is gone into again there.
        let [net, mount] = ["net", "mnt"].map(|kind| namespace.path_of(kind));
        let text = format!(
            "#!/bin/sh\nexec setpriv --pdeathsig KILL -- nsenter --net={net} --mount={mount} -- sh -c 'cd \"$0\" && exec \"$@\"' \"$PWD\" \"$@\"\n"
        );
        fs::write(&path, text)?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
    }

    /// The folder to work in.
    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// What the environment of a shell has to have: where the commands are found, and where xblade's control socket is.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        // System directories, which an ordinary user's PATH leaves out.
        let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        let folders = [self.folder.path().join("bin")];
        let all = folders
            .into_iter()
            .chain(std::env::split_paths(&path))
            .chain(more);
        vec![
            ("PATH", std::env::join_paths(all).unwrap_or(path.clone())),
            ("XBLADE_CONTROL", self.work().join("control.sock").into()),
        ]
    }
}
