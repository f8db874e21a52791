//! Where boxes are typed: a container with this machine's programs and the xblade that is tested, on one side of a lab. What a page takes
//! for granted and a container has not stands in for it.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use lab::container::{Container, STEP};
use lab::{Namespace, ceph, eventually, packages, target};

use super::boxes::{self, CommandBox};
use super::rows::{How, Row};
use crate::lesson::is_seen;

/// The binary that is tested.
const TESTED: &str = "/usr/lib/xblade-tested";

/// Where those parts of the source are that the pages name: of a box `before`, `cp -r /project/. .` has it typed there.
const PROJECT: &str = "/project";

/// Programs that are not what they are elsewhere, and what they do instead.
const STAND_INS: [(&str, &str); 6] = [
    // A measurement ends as by Ctrl-C.
    (
        "xblade",
        "[ \"$1\" != bench ] || exec timeout --preserve-status --signal INT 1 /usr/lib/xblade-tested \"$@\"\n\
         exec /usr/lib/xblade-tested \"$@\"",
    ),
    ("sudo", "exec \"$@\""),
    // What is built is the binary that is tested.
    (
        "cargo",
        "[ \"$*\" = 'build --release -p xblade' ] || exit 1\n\
         mkdir -p target/release && cp /usr/lib/xblade-tested target/release/xblade",
    ),
    // There is no volume group.
    ("lvcreate", "exit 0"),
    // DRBD's state is a file.
    (
        "drbdadm",
        "case $1 in primary) echo Primary >/run/role ;; secondary) echo Secondary >/run/role ;; esac",
    ),
    (
        "drbdsetup",
        "[ $1 = status ] && printf '%s role:%s\\n  disk:UpToDate\\n' $2 $(cat /run/role)",
    ),
];

/// Tools of other packages, which may be unpacked beside the machine's.
const TOOLS: [&str; 6] = [
    "qemu-nbd",
    "qemu-storage-daemon",
    "qemu-img",
    "tshark",
    "socat",
    "jq",
];

/// One side of a lab to type in.
#[derive(Debug)]
pub(crate) struct Stage {
    system: Container,
    count: Cell<u32>,
}

impl Stage {
    /// With this machine's programs.
    pub(crate) fn new(namespace: &Namespace) -> Result<Stage> {
        Stage::of(Container::of_this_machine(namespace)?)
    }

    /// In a container, which gets what the pages take for granted.
    pub(crate) fn of(system: Container) -> Result<Stage> {
        let stage = Stage {
            system,
            count: Cell::new(0),
        };
        fs::create_dir_all(stage.system.path(PROJECT))?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let copied = Command::new("cp")
            .arg("-r")
            .args(["packaging", "Cargo.toml"].map(|name| root.join(name)))
            .arg(stage.system.path(PROJECT))
            .output()?;
        ensure!(copied.status.success(), "{copied:?}");
        stage.script(TESTED, &fs::read(target::binary()?)?)?;
        for (name, text) in STAND_INS {
            let text = format!("#!/bin/sh\n{text}\n");
            stage.script(&format!("/usr/sbin/{name}"), text.as_bytes())?;
        }
        for tool in TOOLS {
            stage.tool(tool, &packages::words(tool))?;
        }
        for tool in ["ceph", "rbd"] {
            stage.tool(tool, &ceph::words_of(tool))?;
        }
        Ok(stage)
    }

    /// Has a program that may lie beside the machine's.
    fn tool(&self, name: &str, words: &[OsString]) -> Result<()> {
        let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
        if words.len() > 1 {
            let text = format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "));
            self.script(&format!("/usr/sbin/{name}"), text.as_bytes())?;
        }
        Ok(())
    }

    /// Writes a file.
    pub(crate) fn write(&self, path: &str, text: &str) -> Result<()> {
        self.system.write(path, text)
    }

    fn script(&self, path: &str, text: &[u8]) -> Result<()> {
        let path = self.system.path(path);
        let _ = fs::remove_file(&path);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
    }

    /// Does what a row says with its box.
    pub(crate) fn play(&self, row: &Row, command_box: &CommandBox) -> Result<()> {
        println!("{}:{}", command_box.page, command_box.line);
        let is_left_out = |line: &&String| row.without.iter().any(|(out, _)| line.starts_with(out));
        let lines = command_box.lines.iter().filter(|line| !is_left_out(line));
        let lines: Vec<&str> = lines.map(String::as_str).collect();
        let whole = [lines.join("\n")];
        let (scripts, until): (Vec<&str>, &[&str]) = match &row.how {
            How::Ends(_) => (vec![&whole[0]], &[]),
            How::Until(_, text) => (vec![&whole[0]], std::slice::from_ref(text)),
            How::Lines(_) => (lines, &[]),
            How::LinesUntil(_, texts) => (lines, texts),
            How::By(_) | How::Not(_) => bail!("it is not played"),
        };
        for (n, script) in scripts.into_iter().enumerate() {
            let folder = self.folder(&command_box.page)?;
            if !row.before.is_empty() {
                self.start(&folder, row.before)?.ends().context("before it")?;
            }
            let running = self.start(&folder, script)?;
            match until.get(n) {
                Some(text) => running.says(text)?.stop()?,
                None => is_all_seen(&command_box.seen, &running.ends()?)?,
            }
        }
        Ok(())
    }

    /// Runs a script until it has said all of this, and on.
    pub(crate) fn begin(&self, page: &str, script: &str, said: &[&str]) -> Result<Running<'_>> {
        let folder = self.folder(page)?;
        let mut running = self.start(&folder, script)?;
        for text in said {
            running = running.says(text)?;
        }
        Ok(running)
    }

    /// What a script says, which ends well.
    pub(crate) fn output(&self, script: &str) -> Result<String> {
        let folder = self.folder("README.md")?;
        self.start(&folder, script)?.ends()
    }

    /// A new folder with the page's configuration files.
    fn folder(&self, page: &str) -> Result<String> {
        self.count.set(self.count.get() + 1);
        let folder = format!("/book/{}", self.count.get());
        fs::create_dir_all(self.system.path(&folder))?;
        for (n, (_, lines)) in boxes::in_language(&boxes::text(page)?, "toml").iter().enumerate() {
            self.system.write(
                &format!("{folder}/page-{}.toml", n + 1),
                &(lines.join("\n") + "\n"),
            )?;
        }
        Ok(folder)
    }

    fn start(&self, folder: &str, script: &str) -> Result<Running<'_>> {
        self.count.set(self.count.get() + 1);
        let name = format!("/book/script-{}", self.count.get());
        self.system.write(&name, &format!("{script}\n"))?;
        // In a session of its own: it ends with all that it has started.
        let line = format!("cd {folder} && echo $$ >{name}.pid && exec sh -e {name} >{name}.out 2>&1");
        let child = self
            .system
            .command(&["setsid", "sh", "-c", &line])
            .stdin(Stdio::null())
            .spawn()?;
        Ok(Running {
            system: &self.system,
            name,
            child,
        })
    }
}

/// A script that runs; it is ended when dropped.
#[derive(Debug)]
pub(crate) struct Running<'a> {
    system: &'a Container,
    name: String,
    child: Child,
}

impl Running<'_> {
    fn said(&self) -> String {
        fs::read_to_string(self.system.path(&format!("{}.out", self.name))).unwrap_or_default()
    }

    /// Waits till it has ended, well. Gives what it said.
    fn ends(mut self) -> Result<String> {
        eventually("the end", STEP, || Ok(self.child.try_wait()?.is_some())).with_context(|| self.said())?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}: {}", self.said());
        Ok(self.said())
    }

    /// Waits till it says this.
    fn says(mut self, text: &str) -> Result<Self> {
        let mut is_over = false;
        eventually(text, STEP, || {
            let is_said = self.said().contains(text);
            ensure!(is_said || !is_over, "it ended without {text:?}");
            is_over = self.child.try_wait()?.is_some();
            Ok(is_said)
        })
        .with_context(|| self.said())?;
        Ok(self)
    }

    /// Ends it as Ctrl-C or systemd would.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.signal();
        eventually("its end", STEP, || Ok(self.child.try_wait()?.is_some()))
    }

    fn signal(&self) {
        let line = format!("kill -s TERM -- -$(cat {}.pid)", self.name);
        let _ = self.system.run(&["sh", "-c", &line]);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            self.signal();
            let _ = eventually("its end", STEP, || Ok(self.child.try_wait()?.is_some()));
        }
    }
}

/// The lines that a page shows are those that were said, in this order.
fn is_all_seen(written: &[String], said: &str) -> Result<()> {
    let mut lines = said.lines();
    for wanted in written {
        ensure!(
            lines.any(|line| is_seen(wanted, line)),
            "{wanted:?} is not in {said}"
        );
    }
    Ok(())
}
