//! Machines that boot from an export: Linux with its root file system on it, and iPXE.

use std::os::unix::fs::FileExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use lab::image::stamp;
use lab::needs::{Need, find};
use lab::target::daemon;
use lab::vm::{self, Guest};
use lab::{Image, Lab, Options, Process, Target, needs};

const NETWORK_ROM: &str = "/usr/lib/ipxe/qemu/pxe-virtio.rom";

/// Makes an ext4 file system with these files in an image, without mounting anything.
fn file_system(image: &Image, files: &[(&str, &[u8])]) -> Result<()> {
    let root = image.directory().join("root");
    for directory in ["bin", "sbin", "proc", "sys", "dev", "tmp"] {
        std::fs::create_dir_all(root.join(directory))?;
    }
    for (path, data) in files {
        let path = root.join(path);
        std::fs::write(&path, data)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    }
    run(Command::new(find("mke2fs").context("no mke2fs")?)
        .args(["-q", "-t", "ext4", "-F", "-d"])
        .arg(&root)
        .arg(image.path()))
    .map(drop)
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

/// What a distribution's initramfs has to do for a root on AoE, as the book has it.
fn initramfs() -> Result<String> {
    const FIRST: &str = "ip link set eth0 up\n";
    const LAST: &str = "exec switch_root /mnt /sbin/init\n";
    let page = include_str!("../../docs/booting.md");
    let found = page.split_once(&format!("```sh\n{FIRST}"));
    let lines = found.and_then(|(_, rest)| rest.split_once(&format!("{LAST}```")));
    let (lines, _) = lines.context("docs/booting.md has no such box")?;
    Ok(format!(
        "modprobe() {{ insmod /modules/$1.ko; }}\n{FIRST}{lines}ok mounted\n\
         for part in proc sys dev; do mount -o move /$part /mnt/$part; done\n{LAST}"
    ))
}

/// The init of that root.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
grep -q '^/dev/etherd/e12.9 / ext4 rw' /proc/mounts || { echo "@@fail $(cat /proc/mounts)"; poweroff -f; }
echo; echo "@@ok root"
dd if=/dev/urandom of=/written bs=1M count=8 2>/dev/null
sha256sum </written | cut -d' ' -f1 >/sum
sync
mount -o remount,ro / || { echo "@@fail remount"; poweroff -f; }
echo; echo "@@ok written $(cat /sum)"
echo; echo "@@done"
poweroff -f
sleep 60
"#;

#[test]
fn linux_with_its_root_on_an_export() -> Result<()> {
    needs!(
        Need::Root,
        Need::Tool("qemu-system-x86_64"),
        Need::File("/bin/busybox"),
        Need::Tool("mke2fs")
    );
    let lab = Lab::new(Options::default())?;
    let image = Image::sparse(1 << 17)?;
    let busybox = std::fs::read("/bin/busybox")?;
    file_system(
        &image,
        &[("bin/busybox", &busybox), ("sbin/init", INIT.as_bytes())],
    )?;
    let _target = Target::ready(&lab.target, &["serve", "12", "9", "eth0", image.as_str()], 1)?;
    let mut vm = Guest::new(&initramfs()?).boot(&lab)?;
    vm.expect("mounted")?;
    vm.expect("root")?;
    let sum = vm.expect("written")?;
    vm.finish()?;

    run(Command::new(find("e2fsck").context("no e2fsck")?).args(["-fn", image.as_str()]))?;
    let debugfs = find("debugfs").context("no debugfs")?;
    let stored = run(Command::new(debugfs).args(["-R", "cat /sum", image.as_str()]))?;
    ensure!(
        stored.contains(&sum) && sum.len() == 64,
        "the guest wrote {sum}, the image has {stored}"
    );
    Ok(())
}

/// A boot sector for a machine without an operating system. It writes three sectors of 'W' to LBA 100 by INT 13h,
/// reads LBA 7, looks for its stamp, and says how that went on the serial line.
#[rustfmt::skip]
const BOOT_SECTOR: &[u8] = &[
    0xfa,                               // 7c00  cli
    0x31, 0xc0,                         //       xor   ax, ax
    0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0, //       mov   ds, ax; mov es, ax; mov ss, ax
    0xbc, 0x00, 0x7c,                   //       mov   sp, 0x7c00
    0xfb, 0xfc,                         //       sti; cld
    0x88, 0x16, 0x00, 0x70,             //       mov   [0x7000], dl         the drive we came from
    0xbf, 0x00, 0x80,                   //       mov   di, 0x8000
    0xb0, b'W',                         //       mov   al, 'W'
    0xb9, 0x00, 0x06,                   //       mov   cx, 3 * 512
    0xf3, 0xaa,                         //       rep stosb
    0xbe, 0x75, 0x7c,                   //       mov   si, packet
    0xb8, 0x00, 0x43,                   //       mov   ax, 0x4300           extended write
    0xcd, 0x13,                         //       int   0x13
    0x72, 0x32,                         //       jc    fail
    0xc7, 0x06, 0x77, 0x7c, 0x01, 0x00, //       mov   word [packet + 2], 1
    0xc7, 0x06, 0x79, 0x7c, 0x00, 0x90, //       mov   word [packet + 4], 0x9000
    0xc7, 0x06, 0x7d, 0x7c, 0x07, 0x00, //       mov   word [packet + 8], 7
    0xbe, 0x75, 0x7c,                   //       mov   si, packet
    0xb4, 0x42,                         //       mov   ah, 0x42             extended read
    0x8a, 0x16, 0x00, 0x70,             //       mov   dl, [0x7000]
    0xcd, 0x13,                         //       int   0x13
    0x72, 0x13,                         //       jc    fail
    0x80, 0x3e, 0x00, 0x90, 0x07,       //       cmp   byte [0x9000], 7
    0x75, 0x0c,                         //       jne   fail
    0x80, 0x3e, 0x08, 0x90, b'A',       //       cmp   byte [0x9008], 'A'
    0x75, 0x05,                         //       jne   fail
    0xbe, 0x85, 0x7c,                   //       mov   si, good
    0xeb, 0x03,                         //       jmp   print
    0xbe, 0x94, 0x7c,                   // fail  mov   si, bad
    0xac,                               // print lodsb
    0x84, 0xc0,                         //       test  al, al
    0x74, 0x12,                         //       jz    stop
    0x88, 0xc4,                         //       mov   ah, al
    0xba, 0xfd, 0x03,                   //       mov   dx, 0x3fd
    0xec,                               // wait  in    al, dx
    0xa8, 0x20,                         //       test  al, 0x20
    0x74, 0xfb,                         //       jz    wait
    0xba, 0xf8, 0x03,                   //       mov   dx, 0x3f8
    0x88, 0xe0,                         //       mov   al, ah
    0xee,                               //       out   dx, al
    0xeb, 0xe9,                         //       jmp   print
    0xf4,                               // stop  hlt
    0xeb, 0xfd,                         //       jmp   stop
    16, 0, 3, 0, 0x00, 0x80, 0, 0,      // packet: its size, 3 sectors, buffer 0000:8000,
    100, 0, 0, 0, 0, 0, 0, 0,           //       LBA 100
    b'\r', b'\n', b'@', b'@', b'o', b'k', b' ', b'i', b'n', b't', b'1', b'3', b'\r', b'\n', 0,           // good
    b'\r', b'\n', b'@', b'@', b'f', b'a', b'i', b'l', b' ', b'i', b'n', b't', b'1', b'3', b'\r', b'\n', 0, // bad
];

/// A stamped disk with that boot sector; under a cylinder of 255 heads and 63 sectors the BIOS calls would not read it.
fn bootable() -> Result<Image> {
    let image = Image::stamped(32768)?;
    let mut sector = [0; 512];
    sector[..BOOT_SECTOR.len()].copy_from_slice(BOOT_SECTOR);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    image.file().write_all_at(&sector, 0)?;
    Ok(image)
}

/// Waits for the boot sector's word and looks at what it wrote.
fn booted(qemu: &mut Process, image: &Image) -> Result<()> {
    let (_, line) = qemu
        .wait_for_after(0, |line| line.contains("int13"), vm::STEP)
        .context("the disk was not booted")?;
    ensure!(line.contains("@@ok"), "INT 13h failed: {line}");
    ensure!(
        image.read(100, 3)? == [b'W'; 3 * 512],
        "what INT 13h wrote is not in the image"
    );
    ensure!(
        image.read(99, 1)? == stamp(99) && image.read(103, 1)? == stamp(103),
        "it wrote beside its sectors"
    );
    Ok(())
}

#[test]
fn ipxe_boots_by_sanboot() -> Result<()> {
    needs!(Need::Root, Need::Tool("qemu-system-x86_64"), Need::File(vm::IPXE));
    let lab = Lab::new(Options::default())?;
    let image = bootable()?;
    let _target = Target::ready(&lab.target, &["serve", "12", "9", "eth0", image.as_str()], 1)?;
    booted(&mut sanboot(&lab, image.directory())?, &image)
}

/// A machine that boots from the export by a script for iPXE.
fn sanboot(lab: &Lab, directory: &Path) -> Result<Process> {
    vm::sanboot(lab, directory, "aoe:e12.9", 256)
}

#[test]
fn ipxe_boots_into_a_copy_of_the_golden_image_that_begins_anew_each_time() -> Result<()> {
    needs!(Need::Root, Need::Tool("qemu-system-x86_64"), Need::File(vm::IPXE));
    let lab = Lab::new(Options::default())?;
    let golden = bootable()?;
    let before = golden.read(0, 32768)?;
    let text = format!(
        "[[export]]\nshelf = 12\nslot = 9\npath = {:?}\ninterfaces = [\"eth0\"]\noverlay = \"volatile\"\n\
         overlay_dir = \"overlays\"\n",
        golden.as_str()
    );
    std::fs::write(golden.directory().join("xblade.toml"), text)?;
    let mut target = Target::ready(&lab.target, &daemon(golden.directory())?, 1)?;
    let said = |qemu: &mut Process| -> Result<String> {
        let (_, line) = qemu.wait_for_after(0, |line| line.contains("int13"), vm::STEP)?;
        Ok(line)
    };
    ensure!(said(&mut sanboot(&lab, golden.directory())?)?.contains("@@ok"));
    let output = target.ask(&["overlay", "list", "--json"])?;
    let list: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    ensure!(list["overlays"][0]["written_bytes"] == 3 * 512, "{list}");

    // In the next image LBA 7 has no stamp, and the boot sector says so.
    let next = bootable()?;
    next.file().write_all_at(&[0; 512], 7 * 512)?;
    let beside = golden.directory().join("next.raw");
    std::fs::copy(next.path(), &beside)?;
    std::fs::rename(&beside, golden.path())?;
    let second = said(&mut sanboot(&lab, golden.directory())?)?;
    ensure!(
        second.contains("@@fail"),
        "the old image, or the old copy: {second}"
    );
    target
        .process
        .wait_for_after(0, |line| line.contains("begins anew"), lab::initiator::TIMEOUT)?;
    ensure!(golden.read(0, 32768)? == before, "the golden image was written");
    Ok(())
}

#[test]
fn ipxe_boots_by_dhcp_root_path() -> Result<()> {
    needs!(
        Need::Root,
        Need::Tool("qemu-system-x86_64"),
        Need::File(NETWORK_ROM),
        Need::File("/bin/busybox")
    );
    let lab = Lab::new(Options::default())?;
    let image = bootable()?;
    let _target = Target::ready(&lab.target, &["serve", "12", "9", "eth0", image.as_str()], 1)?;
    let _dhcp = dhcp_server(&lab, image.directory())?;
    let mut args = vm::machine(256);
    args.extend(["-boot", "n"].map(str::to_owned));
    args.extend(vm::cards(&lab.initiator, 1, 1500, true)?);
    // iPXE asks for an address for some seconds of its own time, which runs ahead on a busy host, and the firmware gives up: it is switched on again.
    for _ in 0..SWITCHED_ON {
        let mut machine = vm::spawn(&lab.initiator, &args)?;
        let ends = |line: &str| line.contains("int13") || line.contains("No bootable device");
        if !machine.wait_for_after(0, ends, vm::STEP)?.1.contains("int13") {
            machine.kill()?;
            continue;
        }
        return booted(&mut machine, &image);
    }
    bail!("the disk was not booted in {SWITCHED_ON} times")
}

/// How often a machine that found no disk is switched on.
const SWITCHED_ON: u32 = 5;

/// A DHCP server on the target's side that names the export as root path.
fn dhcp_server(lab: &Lab, directory: &Path) -> Result<Process> {
    lab.target.ip("addr add 10.9.8.2/24 dev eth0")?;
    let leases = directory.join("leases");
    std::fs::write(&leases, "")?;
    let config = directory.join("udhcpd.conf");
    let text = format!(
        "start 10.9.8.10\nend 10.9.8.20\ninterface eth0\nlease_file {0}\npidfile {0}.pid\n\
         option subnet 255.255.255.0\nopt rootpath aoe:e12.9\n",
        leases.display()
    );
    std::fs::write(&config, text)?;
    let mut server = Process::spawn(
        &lab.target,
        "/bin/busybox",
        &["udhcpd", "-f", config.to_str().context("odd path")?],
    )?;
    server.wait_for("started", lab::initiator::TIMEOUT)?;
    Ok(server)
}
