//! A Debian with its root file system on an export, by UUID: it boots by iPXE and GRUB in a virtual machine, through the files of the package
//! xblade-initiator as dpkg has installed them, under systemd; with an initramfs of initramfs-tools, and with one of dracut.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use lab::needs::{Need, find};
use lab::packages;
use lab::target::daemon;
use lab::vm::{self, boot_disk};
use lab::{Image, Lab, Options, Process, Target, needs};

const MIB: u64 = 1024;
/// Sectors of a MiB.
const SECTORS: u64 = 2048;
const UUID: &str = "5c1a3f52-7b1e-4c55-9d0e-aa0e12090001";

/// What systemd starts when the machine is up.
const REPORT_UNIT: &str =
    "[Unit]\nDescription=what the test looks at\n[Service]\nExecStart=/usr/local/sbin/report\n";

/// The tree that is installed into: what boots, and both makers of an initramfs.
fn tree(codename: &str) -> Result<PathBuf> {
    let include = [
        "systemd",
        "systemd-sysv",
        "udev",
        "dbus",
        "initramfs-tools",
        "dracut-core",
        "busybox",
        "linux-image-cloud-amd64",
        "iproute2",
    ];
    packages::debian(&format!("{codename}-bootable"), codename, &include)
}

fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {text}");
    Ok(text)
}

/// Builds the package, as its maintainers do.
fn package(folder: &Path) -> Result<PathBuf> {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/initiator/build.sh");
    run(Command::new("sh").arg(build).arg(folder))?;
    let mut packages = fs::read_dir(folder)?;
    Ok(packages.next().context("no package")??.path())
}

/// Adds the files that make the tree the test's own: what an administrator would write, and the report.
fn write_files(folder: &Path, word: &str) -> Result<()> {
    let file = |path: &str, text: &str| -> Result<PathBuf> {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().context("no folder")?)?;
        fs::write(&path, text)?;
        Ok(path)
    };
    file(
        "etc/fstab",
        &format!("UUID={UUID} / ext4 defaults 0 1\nLABEL=data /srv ext4 defaults,_netdev 0 2\n"),
    )?;
    file(
        "boot/grub/grub.cfg",
        &format!(
            "serial --unit=0 --speed=115200\nterminal_output serial\necho @@ok grub\n\
             linux /boot/vmlinuz root=UUID={UUID} ro {word} console=ttyS0 panic=-1 mitigations=off no_timer_check tsc=reliable\n\
             initrd /boot/initrd.img\necho @@ok loaded\nboot\n"
        ),
    )?;
    let report = include_str!("debian_root/report.sh").replace("@UUID@", UUID);
    let report = file("usr/local/sbin/report", &report)?;
    fs::set_permissions(report, fs::Permissions::from_mode(0o755))?;
    file("etc/systemd/system/report.service", REPORT_UNIT)?;
    let wants = folder.join("etc/systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    std::os::unix::fs::symlink("../report.service", wants.join("report.service"))?;
    // The serial line is the report's.
    std::os::unix::fs::symlink(
        "/dev/null",
        folder.join("etc/systemd/system/serial-getty@ttyS0.service"),
    )?;
    Ok(())
}

/// Makes the disk that boots, and returns what went into its initramfs.
fn make_disk(image: &Image, codename: &str, initramfs: &str, word: &str) -> Result<String> {
    let scratch = tempfile::Builder::new().prefix("xblade-debian-").tempdir()?;
    let folder = |name: &str| -> Result<PathBuf> {
        let path = scratch.path().join(name);
        fs::create_dir(&path)?;
        Ok(path)
    };
    let (place, files, built) = (folder("place")?, folder("files")?, folder("built")?);
    write_files(&files, word)?;
    let made = run(Command::new("unshare")
        .args(["--mount", "sh", "-c", include_str!("debian_root/make.sh"), "sh"])
        .args([&place, &tree(codename)?, &package(&built)?, &files])
        .arg(initramfs)
        .arg(find("mke2fs").context("no mke2fs")?)
        .args(["-q", "-t", "ext4", "-F", "-U", UUID])
        .args(["-E", "offset=1048576,lazy_itable_init=0,lazy_journal_init=0"])
        .arg(image.path())
        .arg(format!("{}M", MIB - 1)))?;
    boot_disk::embed_grub(image.path(), MIB)?;
    Ok(made)
}

/// A running machine and how far its console has been read.
struct Machine {
    process: Process,
    mark: usize,
    since: Instant,
}

impl Machine {
    /// Waits for a word, and gives what follows it.
    fn says(&mut self, word: &str) -> Result<String> {
        let wanted = format!("@@ok {word}");
        let accept =
            |line: &str| line.contains("@@fail") || line.contains(&wanted) || line.contains("ALERT!");
        let (at, line) = self
            .process
            .wait_for_after(self.mark, accept, vm::STEP)
            .with_context(|| format!("waiting for {word:?}"))?;
        let Some((_, rest)) = line.split_once(&wanted) else {
            bail!("{line:?}, not {word:?}:\n{}", self.process.log());
        };
        println!("{word} after {:.1} s", self.since.elapsed().as_secs_f64());
        self.mark = at + 1;
        Ok(rest.trim().to_owned())
    }
}

/// Boots a disk with this release of Debian and this kind of initramfs, and this word for it on the kernel's command line, to its end; looks at what the machine has left on it.
fn boots(codename: &str, initramfs: &str, word: &str) -> Result<()> {
    let lab = Lab::new(Options::default())?;
    let [root, data, fresh] = [MIB * SECTORS, 64 * SECTORS, 64 * SECTORS].map(Image::sparse);
    let (root, data, fresh) = (root?, data?, fresh?);
    let begun = Instant::now();
    let made = make_disk(&root, codename, initramfs, word)?;
    println!("made in {:.1} s", begun.elapsed().as_secs_f64());
    for wanted in [
        "/aoe.ko",
        "61-aoe.rules",
        "aoe-functions",
        "virtio_net.ko",
        "sbin/ip",
    ] {
        ensure!(made.contains(wanted), "{wanted} is not in the initramfs:\n{made}");
    }
    let mke2fs = find("mke2fs").context("no mke2fs")?;
    run(Command::new(mke2fs).args(["-q", "-t", "ext4", "-F", "-L", "data", data.as_str()]))?;

    let mut text = "[defaults]\ninterfaces = [\"eth0\"]\n".to_owned();
    for (slot, image) in [(9, &root), (10, &data), (11, &fresh)] {
        let path = image.as_str();
        text += &format!(
            "[[export]]\nshelf = 12\nslot = {slot}\npath = {path:?}\nserial = \"lab-serial-{}\"\n",
            slot - 8
        );
    }
    fs::write(root.directory().join("xblade.toml"), text)?;
    let _target = Target::ready(&lab.target, &daemon(root.directory())?, 3)?;
    let mut machine = Machine {
        process: vm::sanboot(&lab, root.directory(), "aoe:e12.9", 768)?,
        mark: 0,
        since: Instant::now(),
    };
    for word in ["grub", "loaded", "systemd", "names", "fresh", "options"] {
        machine.says(word)?;
    }
    let sum = machine.says("written")?;
    ensure!(sum.len() == 64, "{sum:?}");
    machine.process.wait(vm::STEP)?;
    println!("off after {:.1} s", machine.since.elapsed().as_secs_f64());

    // Both file systems were unmounted while the disks were there.
    for (at, path) in [("?offset=1048576", "/sum"), ("", "/sum")] {
        let file_system = match at {
            "" => data.as_str().to_owned(),
            _ => format!("{}{at}", root.as_str()),
        };
        let checked = run(Command::new(find("e2fsck").context("no e2fsck")?).args(["-fn", &file_system]))?;
        ensure!(!checked.contains("journal recovery"), "{checked}");
        let debugfs = find("debugfs").context("no debugfs")?;
        let stored = run(Command::new(debugfs).args(["-R", &format!("cat {path}"), &file_system]))?;
        ensure!(
            stored.contains(&sum),
            "the guest wrote {sum}, {file_system} has {stored}"
        );
    }
    Ok(())
}

const NEEDS: [Need; 7] = [
    Need::Root,
    Need::Tool("qemu-system-x86_64"),
    Need::Tool("debootstrap"),
    Need::File(vm::IPXE),
    boot_disk::NEEDS[0],
    boot_disk::NEEDS[1],
    boot_disk::NEEDS[2],
];

#[test]
fn a_debian_boots_from_an_export_by_uuid() -> Result<()> {
    let [a, b, c, d, e, f, g] = NEEDS;
    needs!(a, b, c, d, e, f, g);
    boots("bookworm", "initramfs-tools", "aoe")
}

#[test]
fn it_boots_with_an_initramfs_of_dracut_too() -> Result<()> {
    let [a, b, c, d, e, f, g] = NEEDS;
    needs!(a, b, c, d, e, f, g);
    boots("bookworm", "dracut", &format!("aoe={}", vm::guest_mac(0)))
}

/// Newer: dracut runs its queue only where a module asks for it, and the kernel renames an interface that is up.
#[test]
fn debian_13_boots_with_an_initramfs_of_dracut() -> Result<()> {
    let [a, b, c, d, e, f, g] = NEEDS;
    needs!(a, b, c, d, e, f, g);
    boots("trixie", "dracut", &format!("aoe={}", vm::guest_mac(0)))
}

/// The interfaces on which the initramfs speaks AoE with this command line of the kernel.
fn interfaces(folder: &Path, command_line: &str) -> Result<String> {
    fs::write(folder.join("cmdline"), format!("{command_line}\n"))?;
    let functions = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../packaging/initiator/root/usr/share/xblade-initiator/functions");
    let script = r#". "$0"; asked=$(aoe_asked) || exit 0; aoe_interfaces "$asked"; true"#;
    let printed = run(Command::new("sh")
        .args(["-c", script])
        .arg(functions)
        .env("AOE_CMDLINE", folder.join("cmdline"))
        .env("AOE_NET", folder.join("net")))?;
    Ok(printed.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// A machine that was not asked to look for disks of AoE keeps its links as they are.
#[test]
fn the_command_line_says_on_which_interfaces_the_initramfs_looks() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("xblade-names-").tempdir()?;
    // Name, address, kind of hardware, has a device: two cards, the loopback, a bridge, a card that is not Ethernet.
    for (name, address, kind, device) in [
        ("enp1s0", "02:00:00:00:00:0a", 1, true),
        ("enp2s0", "02:00:00:00:00:0b", 1, true),
        ("lo", "00:00:00:00:00:00", 772, false),
        ("br0", "02:00:00:00:00:0c", 1, false),
        ("ib0", "80:00:00:48:fe:80", 32, true),
    ] {
        let path = folder.path().join("net").join(name);
        fs::create_dir_all(&path)?;
        fs::write(path.join("address"), format!("{address}\n"))?;
        fs::write(path.join("type"), format!("{kind}\n"))?;
        if device {
            fs::create_dir(path.join("device"))?;
        }
    }
    for (command_line, wanted) in [
        ("root=UUID=1-2 ro quiet", ""),
        ("root=/dev/sda1 aoe_deadsecs=3 noaoe", ""),
        ("ro aoe quiet", "enp1s0 enp2s0"),
        ("root=/dev/etherd/e1.1p1", "enp1s0 enp2s0"),
        ("root=/dev/aoe/1.1", "enp1s0 enp2s0"),
        ("aoe=enp2s0 root=/dev/etherd/e1.1", "enp2s0"),
        (
            "root=/dev/etherd/e1.1 aoe=02:00:00:00:00:0a,br0,eth7",
            "br0 enp1s0",
        ),
    ] {
        let found = interfaces(folder.path(), command_line)?;
        ensure!(found == wanted, "{command_line:?}: {found:?}, not {wanted:?}");
    }
    Ok(())
}
