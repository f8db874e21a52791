//! The other way round: xblade runs *in* the guest, on its disk and its network card, and its initiators outside.
//! So its host can lose power.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use aoe_common::Mac;
use tempfile::{NamedTempFile, TempDir};

use super::initramfs::Initramfs;
use super::kernel::Kernel;
use super::{PRELUDE, STEP, Vm, machine, qemu};
use crate::initiator::Initiator;
use crate::net::Namespace;
use crate::process::Process;

/// Address of the guest's card.
pub const MAC: Mac = Mac([2, 0, 0, 0, 0, 0x22]);

/// Shell words that mount the disk, an ext4 file system with the file `/mnt/image` of 1 MiB.
pub const MOUNTED: &str = "mount -t ext4 /dev/vda /mnt || fail mount
[ -f /mnt/image ] || { truncate -s 1M /mnt/image; sync; }
";

/// Shell words that pull the disk out, as far as the kernel can see, when the test says go.
pub const PULLED_OUT: &str = "exec 3<&0
pull() {
    read -r _ <&3
    device=$(readlink /sys/block/vda/device)
    echo \"${device##*/}\" > /sys/bus/virtio/drivers/virtio_blk/unbind
    ok gone
}
pull &
";

/// A machine that can be switched on again and again: the same disk, card and programs.
#[derive(Debug)]
pub struct Host {
    /// Where the machine's network cable ends, as `tap0`.
    pub namespace: Namespace,
    arguments: Vec<String>,
    initrd: NamedTempFile,
    _stripped: TempDir,
}

/// What a [`Host`] is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The kernel it boots.
    pub kernel: Kernel,
    /// The disk: a file as seen in the namespace.
    pub disk: PathBuf,
    /// The binary.
    pub xblade: &'a Path,
    /// What the guest does before it starts xblade: [`MOUNTED`], for one.
    pub prepare: &'a str,
    /// The arguments of xblade. What it can serve is `/dev/vda` or what is on it, on `eth0`.
    pub arguments: &'a str,
    /// MTU of the card.
    pub mtu: u32,
}

impl Host {
    /// Lays the cable and packs the first file system. The namespace must already see the disk.
    ///
    /// # Errors
    /// Without root, or when something is missing.
    pub fn new(namespace: Namespace, parts: &Parts<'_>) -> Result<Host> {
        namespace.ip("tuntap add tap0 mode tap")?;
        namespace.ip(&format!("link set tap0 mtu {} up", parts.mtu))?;

        let mut archive = Initramfs::new()?;
        let names = ["virtio_pci", "virtio_net", "virtio_blk", "ext4"];
        // Older kernels ask for it by name when they mount ext4; newer ones have no such module.
        let checksums = parts.kernel.modules(&["crc32c_generic"]).unwrap_or_default();
        for (n, module) in parts.kernel.modules(&names)?.iter().chain(&checksums).enumerate() {
            archive.file(
                &format!("modules/{n:02}-{}", module.file_name),
                0o644,
                &module.bytes,
            );
        }
        let (stripped, xblade) = strip(parts.xblade)?;
        archive.program_file(&xblade, "xblade")?;
        let init = format!(
            "{PRELUDE}\n{}/opt/xblade {} 2>&1\nfail xblade ended\n",
            parts.prepare, parts.arguments
        );
        archive.file("init", 0o755, init.as_bytes());
        let mut initrd = NamedTempFile::with_prefix("xblade-")?;
        initrd.write_all(&archive.finish())?;

        let mut arguments = machine(512);
        let text = |path: &Path| path.to_str().map(str::to_owned).context("odd path");
        let append = "console=ttyS0 loglevel=4 panic=-1 mitigations=off no_timer_check tsc=unstable";
        let more = [
            "-kernel".to_owned(),
            text(&parts.kernel.image)?,
            "-initrd".to_owned(),
            text(initrd.path())?,
            "-append".to_owned(),
            append.to_owned(),
            "-drive".to_owned(),
            // Every write goes to the disk at once, every flush of the guest too: the disk's cache is the only one
            // below the guest's, and a power cut empties it.
            format!(
                "file={},format=raw,if=none,id=disk,cache=writeback",
                text(&parts.disk)?
            ),
            "-device".to_owned(),
            "virtio-blk-pci,drive=disk,write-cache=on".to_owned(),
            "-netdev".to_owned(),
            "tap,id=net,ifname=tap0,script=no,downscript=no".to_owned(),
            "-device".to_owned(),
            format!(
                "virtio-net-pci,netdev=net,mac={MAC},host_mtu={},romfile=",
                parts.mtu
            ),
        ];
        arguments.extend(more);
        Ok(Host {
            namespace,
            arguments,
            initrd,
            _stripped: stripped,
        })
    }

    /// Switches the machine on and waits till xblade is ready.
    ///
    /// # Errors
    /// When it does not get there.
    pub fn switch_on(&self) -> Result<Vm> {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let process = Process::spawn(&self.namespace, qemu::PROGRAM, &arguments)?;
        let mut vm = Vm {
            process,
            mark: 0,
            _initrd: None,
        };
        let marks = |line: &str| line.contains("@@fail") || line.contains(" ready");
        let (_, line) = vm
            .process
            .wait_for_after(0, marks, STEP)
            .context("waiting for xblade in the guest")?;
        anyhow::ensure!(
            !line.contains("@@fail"),
            "the guest did not get there:\n{}",
            vm.log()
        );
        Ok(vm)
    }

    /// An initiator at the other end of the machine's cable.
    ///
    /// # Errors
    /// When the cable is gone.
    pub fn initiator(&self) -> Result<Initiator> {
        Initiator::open(&self.namespace, "tap0")
    }

    /// Size of the first file system, which a slow emulator must copy at every start.
    ///
    /// # Errors
    /// When it is gone.
    pub fn initrd_bytes(&self) -> Result<u64> {
        Ok(self.initrd.as_file().metadata()?.len())
    }
}

impl Vm {
    /// The power fails: the machine and all it remembers is gone. Its disk keeps what it was told to flush, and some
    /// of the rest (the lab's disk that fails on command decides).
    ///
    /// # Errors
    /// When it was off already.
    pub fn cut(mut self) -> Result<()> {
        self.process.kill()
    }

    /// Waits till a line with this word appears on the console.
    ///
    /// # Errors
    /// When none does in time.
    pub fn wait_for(&mut self, word: &str, timeout: Duration) -> Result<String> {
        self.process.wait_for(word, timeout)
    }
}

/// A copy without debug information, which is most of a debug build; the file itself where there is no `strip`.
pub(super) fn strip(binary: &Path) -> Result<(TempDir, PathBuf)> {
    let directory = tempfile::Builder::new().prefix("xblade-").tempdir()?;
    let copy = directory.path().join("xblade");
    let stripped = Command::new("strip")
        .arg("--strip-debug")
        .arg("-o")
        .arg(&copy)
        .arg(binary)
        .status();
    let made = stripped.is_ok_and(|status| status.success());
    Ok((directory, if made { copy } else { binary.to_owned() }))
}

/// An empty ext4 file system of this size, to begin with on a disk.
///
/// # Errors
/// Without `mkfs.ext4`.
pub fn ext4(mib: u64) -> Result<Vec<u8>> {
    let file = NamedTempFile::with_prefix("xblade-")?;
    file.as_file().set_len(mib << 20)?;
    let mkfs = crate::needs::find("mkfs.ext4").context("mkfs.ext4 is missing (Debian package e2fsprogs)")?;
    // Nothing is left to be done in the background, which would only disturb.
    let options = "lazy_itable_init=0,lazy_journal_init=0";
    let status = Command::new(mkfs)
        .args(["-q", "-F", "-E", options])
        .arg(file.path())
        .status()?;
    anyhow::ensure!(status.success(), "mkfs.ext4: {status}");
    Ok(std::fs::read(file.path())?)
}
