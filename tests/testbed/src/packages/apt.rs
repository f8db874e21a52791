//! apt, asked without changing anything: what it knows, what it would do, and single downloads.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::sources;

/// apt with options of ours.
#[derive(Debug, Clone)]
pub struct Apt {
    options: Vec<String>,
}

/// What apt would do to install something.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Packages that would come, each `NAME=VERSION`; those that would replace another version are among them.
    pub installs: Vec<String>,
    /// What would be removed, upgraded or downgraded on this machine.
    pub changes: Vec<String>,
}

impl Apt {
    /// With the sources and lists of this machine.
    pub fn of_this_machine() -> Apt {
        Apt {
            options: vec!["-oAPT::Sandbox::User=root".to_owned()],
        }
    }

    /// With Debian's archive at the mirror of this machine and these suites besides its own, in a directory of ours.
    ///
    /// # Errors
    /// When this is no Debian, or there is no such suite or no network.
    pub fn of_suites(directory: &Path, more: &[String]) -> Result<Apt> {
        fs::create_dir_all(directory.join("lists/partial"))?;
        let at = fs::canonicalize(directory)?;
        let parts = at.join("sources.list.d");
        let _ = fs::remove_dir_all(&parts);
        fs::create_dir_all(&parts)?;
        for source in sources::of_debian(Path::new("/etc/apt"), &codename()?, more)? {
            fs::write(parts.join(&source.name), source.text)?;
        }
        let at = at.display();
        let mut apt = Apt::of_this_machine();
        apt.options.extend([
            "-oDir::Etc::SourceList=/dev/null".to_owned(),
            format!("-oDir::Etc::SourceParts={at}/sources.list.d"),
            format!("-oDir::State::Lists={at}/lists"),
            format!("-oDir::Cache={at}"),
            "-oAcquire::Languages=none".to_owned(),
        ]);
        output(apt.command("apt-get").args(["-q", "update"]))
            .with_context(|| format!("asking the mirror of this machine for {}", more.join(", ")))?;
        Ok(apt)
    }

    /// Prefers this suite to the others.
    #[must_use]
    pub fn preferring(mut self, suite: &str) -> Apt {
        self.options.push(format!("-oAPT::Default-Release={suite}"));
        self
    }

    /// `apt-get` or `apt-cache` with our options.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        // Its words are read below.
        command.env("LC_ALL", "C").args(&self.options);
        command
    }

    /// What installing these packages, without what they only recommend, would take.
    ///
    /// # Errors
    /// When apt finds no way.
    pub fn plan(&self, packages: &[&str]) -> Result<Plan> {
        let mut simulate = self.command("apt-get");
        simulate.args(["-q", "--simulate", "--no-install-recommends", "install"]);
        Ok(Plan::parse(&output(simulate.args(packages))?))
    }

    /// The highest version of the packages whose names begin and end so.
    ///
    /// # Errors
    /// When there is none.
    pub fn newest(&self, prefix: &str, suffix: &str) -> Result<String> {
        let names = output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        let version = |name: &str| -> Vec<u32> {
            name.split(|c: char| !c.is_ascii_digit())
                .filter_map(|number| number.parse().ok())
                .collect()
        };
        let names = names.lines().filter(|name| name.ends_with(suffix));
        names
            .max_by_key(|name| version(name))
            .map(str::to_owned)
            .with_context(|| format!("no package {prefix}*{suffix}"))
    }

    /// The first package whose name begins so that this one depends on.
    ///
    /// # Errors
    /// When apt knows none.
    pub fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        let depends = output(self.command("apt-cache").args(["depends", package]))?;
        depends
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "))
            .find(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .with_context(|| format!("apt does not know {package}"))
    }

    /// Downloads packages (`NAME` or `NAME=VERSION`) and unpacks them into a directory; nothing is installed.
    ///
    /// # Errors
    /// Without network, or when a package is damaged.
    pub fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        let archives = tempfile::Builder::new().prefix("xblade-packages-").tempdir()?;
        output(
            self.command("apt-get")
                .args(["-q", "download"])
                .args(packages)
                .current_dir(archives.path()),
        )
        .with_context(|| format!("downloading {}", packages.join(", ")))?;
        fs::create_dir_all(root)?;
        for archive in fs::read_dir(archives.path())? {
            output(Command::new("dpkg-deb").arg("-x").arg(archive?.path()).arg(root))?;
        }
        Ok(())
    }
}

impl Plan {
    /// Reads what `apt-get --simulate` prints: `Inst NAME [OLD] (VERSION ORIGIN…)` and `Remv NAME [OLD]`.
    fn parse(text: &str) -> Plan {
        let mut plan = Plan::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("Remv ") {
                plan.changes.push(format!("remove {rest}"));
            } else if let Some(rest) = line.strip_prefix("Inst ")
                && let Some((name, new)) = rest.split_once('(')
            {
                let version = new.split([' ', ')']).next().unwrap_or(new);
                if let Some((name, old)) = name.trim().split_once(" [") {
                    let old = old.trim_end_matches(']');
                    plan.changes.push(format!("replace {name} {old} by {version}"));
                }
                let name = name.split(' ').next().unwrap_or(name);
                plan.installs.push(format!("{name}={version}"));
            }
        }
        plan
    }
}

/// The name of this release, `bookworm` for one.
///
/// # Errors
/// When this is no Debian.
pub fn codename() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    text.lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"').to_owned())
        .context("/etc/os-release names no release")
}

/// What a command prints.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_tells_what_comes_from_what_would_change() {
        let plan = Plan::parse(
            "Reading package lists...\n\
             Remv qemu-utils [1:10.0.2]\n\
             Inst libfdt1 (1.6.1-4+b1 Debian:12/oldstable [amd64])\n\
             Inst libc6 [2.36-9] (2.36-10 Debian:12/oldstable [amd64]) []\n\
             Conf libfdt1 (1.6.1-4+b1 Debian:12/oldstable [amd64])\n",
        );
        assert_eq!(plan.installs, ["libfdt1=1.6.1-4+b1", "libc6=2.36-10"]);
        assert_eq!(
            plan.changes,
            ["remove qemu-utils [1:10.0.2]", "replace libc6 2.36-9 by 2.36-10"]
        );
    }
}
