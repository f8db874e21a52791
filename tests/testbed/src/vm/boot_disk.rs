//! A disk that boots Debian's kernel with its root file system on the same disk: GRUB, an initramfs that waits for the disk on AoE, and a root
//! of busybox and one script. Nothing is mounted and no loop device taken to make it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::initramfs::Initramfs;
use super::kernel::Kernel;
use crate::needs::{Need, find};
use crate::packages::{self, find_file};

const MIB: u64 = 1 << 20;
/// GRUB's two halves, as Debian's grub-pc-bin has them; the second is made from modules.
const BOOT_SECTOR: &str = "/usr/lib/grub/i386-pc/boot.img";
const MODULES: [&str; 8] = [
    "biosdisk",
    "part_msdos",
    "ext2",
    "linux",
    "normal",
    "serial",
    "terminal",
    "echo",
];

/// What a test that makes one needs.
pub const NEEDS: [Need; 4] = [
    Need::Tool("mke2fs"),
    Need::Tool("grub-mkimage"),
    Need::File(BOOT_SECTOR),
    Need::File("/bin/busybox"),
];

/// GRUB says when it has begun and when the kernel is loaded.
const GRUB: &str = "serial --unit=0 --speed=115200
terminal_output serial
echo @@ok grub
linux /boot/vmlinuz console=ttyS0 loglevel=4 panic=-1 mitigations=off no_timer_check tsc=reliable
initrd /boot/initrd.img
echo @@ok loaded
boot
";

/// What a distribution's initramfs has to do for a root on AoE. `DISK` is its device.
const INITRAMFS: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
fail() { echo; echo "@@fail $*"; dmesg | tail -n 30; poweroff -f; sleep 60; }
for module in /modules/*; do insmod "$module" || fail "insmod $module"; done
for card in /sys/class/net/e*; do ip link set "${card##*/}" up; done
insmod /aoe.ko || fail aoe
tries=600
until [ -b DISK ]; do
    sleep 0.5
    tries=$((tries - 1))
    [ $tries -gt 0 ] || fail "no disk"
    # Ask again: links need time to come up.
    echo >/dev/etherd/discover
done
mount -t ext4 DISK /mnt || fail mount
for place in proc sys dev; do mount -o move /$place /mnt/$place; done
exec switch_root /mnt /sbin/init
"#;

/// Makes the disk at `path`: `mib` MiB, on which `init` is the first program. `device` is what the guest will know its first partition by.
///
/// # Errors
/// When something is missing.
pub fn make(path: &Path, mib: u64, device: &str, init: &str) -> Result<()> {
    let kernel = Kernel::get()?;
    let scratch = tempfile::Builder::new().prefix("xblade-").tempdir()?;
    let root = scratch.path().join("root");
    for directory in ["bin", "sbin", "proc", "sys", "dev", "tmp", "boot/grub"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::copy(&kernel.image, root.join("boot/vmlinuz"))?;
    fs::write(root.join("boot/initrd.img"), initramfs(&kernel, device)?)?;
    fs::write(root.join("boot/grub/grub.cfg"), GRUB)?;
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    fs::write(root.join("sbin/init"), init)?;
    fs::set_permissions(root.join("sbin/init"), fs::Permissions::from_mode(0o755))?;

    fs::File::create(path)?.set_len(mib * MIB)?;
    let mut mke2fs = Command::new(find("mke2fs").context("no mke2fs")?);
    mke2fs
        .args(["-q", "-t", "ext4", "-F", "-d"])
        .arg(&root)
        .args(["-E", "offset=1048576,lazy_itable_init=0,lazy_journal_init=0"])
        .arg(path)
        .arg(format!("{}M", mib - 1));
    packages_output(mke2fs)?;
    embed_grub(path, mib)
}

/// Makes a disk of `mib` MiB, with a file system of ext4 from its second MiB on, bootable: the boot sector with the table of one partition, and
/// GRUB's core behind it, which reads `/boot/grub/grub.cfg`.
///
/// # Errors
/// When GRUB is missing.
pub fn embed_grub(path: &Path, mib: u64) -> Result<()> {
    let boot_sector = find_file(BOOT_SECTOR).context("no GRUB")?;
    let scratch = tempfile::Builder::new().prefix("xblade-").tempdir()?;
    let core = scratch.path().join("core.img");
    let mut mkimage = packages::command("grub-mkimage");
    mkimage.args(["-O", "i386-pc", "-p", "(hd0,msdos1)/boot/grub", "-d"]);
    mkimage.arg(boot_sector.parent().context("odd path")?);
    mkimage.arg("-o").arg(&core).args(MODULES);
    packages_output(mkimage)?;
    let core = fs::read(core)?;
    ensure!(core.len() as u64 <= MIB - 512, "GRUB's core is too large");

    let mut sector = fs::read(boot_sector)?;
    sector.resize(512, 0);
    let [first, sectors] = [MIB / 512, (mib - 1) * MIB / 512].map(|number| (number as u32).to_le_bytes());
    // Bootable, and no cylinders: everybody looks at the sectors' numbers.
    let entry = [
        &[0x80, 0xfe, 0xff, 0xff, 0x83, 0xfe, 0xff, 0xff],
        &first[..],
        &sectors[..],
    ]
    .concat();
    // The disk's signature, of which udev makes the partition's PARTUUID.
    sector[440..444].copy_from_slice(b"aoe1");
    // On floppy disks GRUB has code there.
    sector[446..510].fill(0);
    sector[446..462].copy_from_slice(&entry);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let disk = fs::File::options().write(true).open(path)?;
    disk.write_all_at(&sector, 0)?;
    Ok(disk.write_all_at(&core, 512)?)
}

fn initramfs(kernel: &Kernel, device: &str) -> Result<Vec<u8>> {
    let mut archive = Initramfs::new()?;
    let names = ["virtio_pci", "virtio_net", "ext4"];
    // Older kernels ask for it by name when they mount ext4; newer ones have no such module.
    let checksums = kernel.modules(&["crc32c_generic"]).unwrap_or_default();
    for (n, module) in kernel.modules(&names)?.iter().chain(&checksums).enumerate() {
        archive.file(
            &format!("modules/{n:02}-{}", module.file_name),
            0o644,
            &module.bytes,
        );
    }
    for module in kernel.modules(&["aoe"])? {
        archive.file("aoe.ko", 0o644, &module.bytes);
    }
    archive.file("init", 0o755, INITRAMFS.replace("DISK", device).as_bytes());
    gzip(&archive.finish())
}

/// Less to load by INT 13h, one sector after the other.
fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new("gzip")
        .arg("-9c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting gzip")?;
    let mut input = child.stdin.take().context("no pipe")?;
    let output = std::thread::scope(|scope| {
        let writer = scope.spawn(move || input.write_all(bytes));
        let output = child.wait_with_output();
        writer.join().expect("no panic in it")?;
        output
    })?;
    ensure!(output.status.success(), "gzip: {}", output.status);
    Ok(output.stdout)
}

fn packages_output(mut command: Command) -> Result<()> {
    packages::output(&mut command).map(drop)
}
