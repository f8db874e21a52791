//! Virtual machines with a real initiator in them: Linux's aoe driver on Debian's kernel, in software emulation.
//!
//! The target's namespace — veth — the initiator's namespace: bridge — tap — virtio-net. The driver works only in its
//! initial namespace, so the *target* is the one in a namespace. Nothing on the way pads short frames.

pub mod boot_disk;
pub mod host;
pub mod initramfs;
pub mod kernel;
pub mod machine;
pub mod qemu;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

use crate::link::Lab;
use crate::net::Namespace;
use crate::packages::find_file;
use crate::process::Process;
use initramfs::Initramfs;
use kernel::{Kernel, Module};

/// How long one step of a guest may take; emulation on a busy machine is slow.
pub const STEP: Duration = Duration::from_secs(600);

/// What runs in the guest before the test's own script.
const PRELUDE: &str = include_str!("prelude.sh");

/// A guest to be: script, modules, programs.
#[derive(Debug)]
pub struct Guest {
    script: String,
    modules: Vec<&'static str>,
    programs: Vec<&'static str>,
    xblade: Option<PathBuf>,
    files: Vec<(PathBuf, String)>,
    memory_mib: u32,
    nics: u32,
    mtu: u32,
}

impl Guest {
    /// A guest that runs this shell script after `prelude.sh`.
    pub fn new(script: &str) -> Guest {
        Guest {
            script: script.to_owned(),
            modules: vec!["virtio_pci", "virtio_net", "crc32c_generic", "ext4", "aoe"],
            // busybox's dd takes oflag=direct and writes through the page cache all the same.
            programs: vec!["dd"],
            xblade: None,
            files: Vec::new(),
            memory_mib: 512,
            nics: 1,
            mtu: 1500,
        }
    }

    /// Adds programs of the host.
    #[must_use]
    pub fn programs(mut self, names: &[&'static str]) -> Guest {
        self.programs.extend(names);
        self
    }

    /// Adds drivers to those that are loaded at the start.
    #[must_use]
    pub fn modules(mut self, names: &[&'static str]) -> Guest {
        self.modules.extend(names);
        self
    }

    /// Adds this binary as `/opt/xblade`: the guest serves, and its initiators are outside.
    #[must_use]
    pub fn xblade(mut self, binary: impl Into<PathBuf>) -> Guest {
        self.xblade = Some(binary.into());
        self
    }

    /// Adds a file of the host under a path of the guest.
    #[must_use]
    pub fn file(mut self, from: impl Into<PathBuf>, to: &str) -> Guest {
        self.files.push((from.into(), to.to_owned()));
        self
    }

    /// Gives the guest this many network cards, one on each link of the lab.
    #[must_use]
    pub fn nics(mut self, nics: u32) -> Guest {
        self.nics = nics;
        self
    }

    /// MTU of the cards.
    #[must_use]
    pub fn mtu(mut self, mtu: u32) -> Guest {
        self.mtu = mtu;
        self
    }

    /// Boots the guest on the links of the lab, from the first on.
    ///
    /// # Errors
    /// When the kernel cannot be had, or qemu does not start.
    pub fn boot(&self, lab: &Lab) -> Result<Vm> {
        self.boot_in(&lab.initiator)
    }

    /// The same in a namespace whose `eth0` and following lead to the targets.
    ///
    /// # Errors
    /// As [`Guest::boot`].
    pub fn boot_in(&self, namespace: &Namespace) -> Result<Vm> {
        let kernel = Kernel::get().context("getting a kernel for the guest")?;
        let mut archive = Initramfs::new()?;
        for (n, Module { file_name, bytes }) in kernel.modules(&self.modules)?.iter().enumerate() {
            // The driver's discovery starts when it is loaded: the script decides when.
            let place = if file_name == "aoe.ko" {
                file_name.clone()
            } else {
                format!("{n:02}-{file_name}")
            };
            archive.file(&format!("modules/{place}"), 0o644, bytes);
        }
        let mut script = PRELUDE.to_owned();
        for program in &self.programs {
            archive.program(program)?;
            // busybox's shell prefers its own applets to what is in PATH, but functions to both.
            if !program.contains(['-', '.']) {
                script += &format!("{program}() {{ /opt/{program} \"$@\"; }}\n");
            }
        }
        if let Some(binary) = &self.xblade {
            let (_stripped, binary) = host::strip(binary)?;
            archive.program_file(&binary, "xblade")?;
        }
        for (from, to) in &self.files {
            archive.host_file(from, to)?;
        }
        archive.file(
            "init",
            0o755,
            format!("{script}\n{}\nfinish\n", self.script).as_bytes(),
        );
        let mut initrd = NamedTempFile::with_prefix("xblade-")?;
        initrd.write_all(&archive.finish())?;

        let image = kernel.image.to_str().context("odd path")?.to_owned();
        let initrd_path = initrd.path().to_str().context("odd path")?.to_owned();
        let append = "console=ttyS0 loglevel=5 panic=-1 mitigations=off no_timer_check tsc=unstable";
        let mut args = machine(self.memory_mib);
        args.extend(["-kernel", &image, "-initrd", &initrd_path, "-append", append].map(str::to_owned));
        args.extend(cards(namespace, self.nics, self.mtu, false)?);
        let process = spawn(namespace, &args)?;
        Ok(Vm {
            process,
            mark: 0,
            _initrd: Some(initrd),
        })
    }
}

/// Bridges this many cards to their links and returns qemu's arguments for them.
///
/// `firmware` gives them their boot ROM (iPXE).
///
/// # Errors
/// When `ip` fails.
pub fn cards(namespace: &Namespace, nics: u32, mtu: u32, firmware: bool) -> Result<Vec<String>> {
    let rom = if firmware { "" } else { ",romfile=" };
    let mut args = Vec::new();
    for n in 0..nics {
        bridge(namespace, n, mtu)?;
        args.push("-netdev".to_owned());
        args.push(format!("tap,id=net{n},ifname=tap{n},script=no,downscript=no"));
        args.push("-device".to_owned());
        args.push(format!(
            "virtio-net-pci,netdev=net{n},mac={},host_mtu={mtu}{rom}",
            guest_mac(n)
        ));
    }
    Ok(args)
}

/// Address of a guest's card on link `n`.
pub fn guest_mac(n: u32) -> aoe_common::Mac {
    aoe_common::Mac([2, 0, 0, 0, n as u8, 0x11])
}

/// The machine without disks, cards and firmware options.
pub fn machine(memory_mib: u32) -> Vec<String> {
    format!(
        "-accel tcg -machine q35,graphics=off -smp 1 -m {memory_mib} -nodefaults -display none -no-reboot -serial stdio"
    )
    .split(' ')
    .map(str::to_owned)
    .chain(qemu::firmware())
    .collect()
}

/// Starts qemu in a namespace.
///
/// # Errors
/// When it does not start.
pub fn spawn(namespace: &Namespace, args: &[String]) -> Result<Process> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Process::spawn(namespace, qemu::PROGRAM, &args)
}

/// iPXE as a kernel, of Debian's package `ipxe`; what that has elsewhere is a link to this.
pub const IPXE: &str = "/boot/ipxe.lkrn";

/// Starts a machine on link 0 that boots from an export of AoE by iPXE, `aoe:e12.9` for one. The script for iPXE is put into `directory`.
///
/// # Errors
/// When iPXE is missing or qemu does not start.
pub fn sanboot(lab: &Lab, directory: &Path, export: &str, memory_mib: u32) -> Result<Process> {
    let script = directory.join("script.ipxe");
    std::fs::write(
        &script,
        format!("#!ipxe\nifopen net0\nsanboot {export} || sanboot {export}\n"),
    )?;
    let mut args = machine(memory_mib);
    let kernel = find_file(IPXE).context("no iPXE")?;
    for (option, file) in [("-kernel", &kernel), ("-initrd", &script)] {
        args.extend([option, file.to_str().context("odd path")?].map(str::to_owned));
    }
    args.extend(cards(&lab.initiator, 1, 1500, false)?);
    spawn(&lab.initiator, &args)
}

/// Joins link `n` and a tap by a bridge; does nothing when that is so already.
///
/// # Errors
/// When `ip` fails.
pub fn bridge(ns: &Namespace, n: u32, mtu: u32) -> Result<()> {
    if ns.ip(&format!("link show br{n}")).is_ok() {
        return Ok(());
    }
    ns.ip(&format!(
        "link add br{n} mtu {mtu} type bridge forward_delay 0 mcast_snooping 0"
    ))?;
    ns.ip(&format!("tuntap add tap{n} mode tap"))?;
    ns.ip(&format!("link set tap{n} mtu {mtu} master br{n} up"))?;
    ns.ip(&format!("link set eth{n} master br{n}"))?;
    ns.ip(&format!("link set br{n} up"))?;
    Ok(())
}

/// A running guest.
#[derive(Debug)]
pub struct Vm {
    process: Process,
    mark: usize,
    _initrd: Option<NamedTempFile>,
}

impl Vm {
    /// Waits till the script has said `ok NAME` and returns the rest of that line.
    ///
    /// # Errors
    /// When the script fails, the guest dies, or [`STEP`] passes.
    pub fn expect(&mut self, name: &str) -> Result<String> {
        self.marker("ok", name)
    }

    /// Waits till the script stands at `point NAME`; it goes on with [`Vm::go`].
    ///
    /// # Errors
    /// As [`Vm::expect`].
    pub fn point(&mut self, name: &str) -> Result<String> {
        self.marker("point", name)
    }

    /// Lets the script go on from a point.
    ///
    /// # Errors
    /// When the guest is gone.
    pub fn go(&mut self) -> Result<()> {
        self.process.type_line("go")
    }

    /// Waits for the end of the script and of the guest.
    ///
    /// # Errors
    /// As [`Vm::expect`].
    pub fn finish(mut self) -> Result<()> {
        self.marker("done", "")?;
        self.process.wait(STEP).map(drop)
    }

    /// Everything on the console so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    fn marker(&mut self, kind: &str, name: &str) -> Result<String> {
        let wanted = format!("@@{kind} {name}");
        let accept = |line: &str| {
            line.split_once("@@").is_some_and(|(_, rest)| {
                rest.starts_with("fail")
                    || format!("@@{rest} ").starts_with(&format!("{} ", wanted.trim_end()))
            })
        };
        let (at, line) = self
            .process
            .wait_for_after(self.mark, accept, STEP)
            .with_context(|| format!("the guest did not reach {wanted:?}"))?;
        self.mark = at + 1;
        if line.contains("@@fail") {
            // The script prints what led to it before and after; give it a moment.
            std::thread::sleep(Duration::from_millis(1500));
            bail!(
                "the guest reports {line:?} while {wanted:?} was expected; its console:\n{}",
                self.log()
            );
        }
        Ok(line
            .split_once(&wanted)
            .map_or("", |(_, rest)| rest)
            .trim()
            .to_owned())
    }
}
