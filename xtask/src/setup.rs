//! `cargo xtask setup`: what the tests and the eBPF build need from the distribution.
//!
//! Nothing that is installed is removed, upgraded or downgraded: what apt could not install without that is unpacked in a
//! folder of ours (`lab::packages`) and used from there. xblade itself needs nothing but stable Rust.

use std::process::Command;

use anyhow::{Context, Result, bail};
use lab::packages::{self, Apt};
use lab::vm::qemu;

use crate::sh;

/// A Debian package and what it is for.
struct Package {
    name: &'static str,
    why: &'static str,
}

const fn package(name: &'static str, why: &'static str) -> Package {
    Package { name, why }
}

/// How to get a BPF toolchain where Debian's packages are not available.
const WITHOUT_DEBIAN: &str = "\
Only the eBPF build needs rustc-web, libstd-rust-web-dev-bpf and llvm-22, and only who changes aoe-ebpf needs that
build. Without them the kernel half builds with
  rustup toolchain install nightly --component rust-src
  cargo install bpf-linker
  CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_PANIC=abort \\
    cargo +nightly build --package aoe-ebpf --release --target bpfel-unknown-none -Zbuild-std=core
but the object differs from the checked-in one then: let a Debian machine build what is committed.";

/// Everything that `cargo xtask` may ask for. [`ensure`] takes names from here.
const PACKAGES: &[Package] = &[
    package(
        "rustc-web",
        "eBPF build: the compiler that the prebuilt BPF core belongs to",
    ),
    package("libstd-rust-web-dev-bpf", "eBPF build: core for the BPF machine"),
    package(
        "llvm-22",
        "eBPF build: llc turns bitcode into the object; llvm-objdump compares",
    ),
    package(
        "iproute2",
        "lab: namespaces, veth pairs, bridges, links up and down",
    ),
    package("ethtool", "lab: queues, offloads and driver of an interface"),
    package("vblade", "the peer that benchmarks compare with"),
    package(
        "aoetools",
        "tests: the initiator tools that users have (aoeping, aoecfg, aoe-sancheck)",
    ),
    package("tshark", "tests: an independent dissector reads every reply"),
    package(
        "socat",
        "tests: the control socket from a shell, as the book has it",
    ),
    package("jq", "tests: the same"),
    package("zsh", "tests: its completions are loaded"),
    package("fish", "tests: the same"),
    package("xdp-tools", "tests: xdpdump attaches to the program that runs"),
    package("libteam-utils", "tests: teamd, which drives team devices"),
    package("fio", "tests: verified random I/O inside the VMs"),
    package("e2fsprogs", "tests: ext4 made and checked on an export"),
    package("xfsprogs", "tests: XFS on a disk that hangs"),
    package("btrfs-progs", "tests: btrfs on a disk that hangs"),
    package("fdisk", "tests: partitions of an exported disk"),
    package("busybox-static", "tests: the user land of the VMs"),
    package("kmod", "tests: the aoe driver's dependencies for the VMs"),
    package("xz-utils", "tests: the modules of the VMs' newer kernel"),
    package("g++", "fuzzing: libFuzzer is C++"),
    package("ipxe-qemu", "tests: iPXE as the boot ROM of a VM"),
    package(
        "prometheus",
        "tests: Prometheus and promtool read the metrics and alert rules",
    ),
    package("nbdkit", "tests: an NBD server on the network"),
    package(
        "qemu-utils",
        "tests: qemu-nbd and qemu-img, an NBD server of images in qcow2",
    ),
    package("ceph-mon", "tests: a small Ceph cluster, its monitor"),
    package("ceph-osd", "tests: its OSD"),
    package("ceph-common", "tests: rbd and ceph, which make and change images"),
    package(
        "rbd-fuse",
        "tests: images as files, for two gateways that both write",
    ),
    package("ipxe", "tests: iPXE as a kernel, to boot from an export"),
    package("dnsmasq-base", "tests: DHCP for a room of machines without disks"),
    package(
        "debootstrap",
        "tests: a clean Debian system for the package and its units",
    ),
    package("grub-common", "tests: GRUB on a golden image, its tools"),
    package("grub-pc-bin", "tests: GRUB's modules for a BIOS"),
];

/// Of these, what is unpacked in a folder of ours even where it could be installed: that would start a service, or have a say in how the machine boots.
const SERVICES: &[&str] = &[
    "vblade",
    "aoetools",
    "ipxe",
    "fio",
    "prometheus",
    "xfsprogs",
    "btrfs-progs",
    "ceph-mon",
    "ceph-osd",
    "ceph-common",
    "rbd-fuse",
    "dnsmasq-base",
    "grub-common",
    "grub-pc-bin",
];

/// What rebuilding the kernel half takes.
pub(crate) const EBPF: &[&str] = &["rustc-web", "libstd-rust-web-dev-bpf", "llvm-22"];

/// Options of `cargo xtask setup`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only print what is missing; exit with an error when something is.
    #[arg(long)]
    check: bool,
}

/// Installs all of [`PACKAGES`] that is missing.
pub(crate) fn run(args: &Args) -> Result<()> {
    let all: Vec<&str> = PACKAGES.iter().map(|p| p.name).collect();
    if args.check {
        let missing = missing(&all);
        if !missing.is_empty() {
            describe(&missing);
            bail!("not everything is installed: `cargo xtask setup` does that");
        }
    } else {
        ensure(&all)?;
        qemu::ensure()?;
    }
    println!("everything is installed");
    Ok(())
}

/// Gets those of the named packages that are missing: installs what changes nothing that is there, and unpacks the rest in
/// a folder of ours. Says each command before it runs.
///
/// Does nothing, and needs no root, where all are there. Where it cannot get them it fails with what a person has to do.
///
/// # Panics
/// When a name is not in [`PACKAGES`]: that table is what users are told.
pub(crate) fn ensure(names: &[&str]) -> Result<()> {
    let missing = missing(names);
    if missing.is_empty() {
        return Ok(());
    }
    describe(&missing);
    if !is_debian() {
        bail!(
            "this is no Debian system: install what the packages above contain with your own package manager\n{WITHOUT_DEBIAN}"
        );
    }
    let (services, missing): (Vec<&str>, Vec<&str>) =
        missing.iter().partition(|name| SERVICES.contains(name));
    unpack(&services)?;
    if missing.is_empty() {
        return Ok(());
    }
    let may_install = nix::unistd::geteuid().is_root() || sh::find("sudo").is_some();
    if !may_install {
        return unpack(&missing);
    }
    // A fresh machine knows no packages yet; an old list names versions that are gone.
    if missing.iter().any(|name| !is_known(name)) {
        apt(&["update"])?;
        let unknown: Vec<&str> = missing.iter().copied().filter(|name| !is_known(name)).collect();
        if !unknown.is_empty() {
            bail!(
                "this release has no package {}: Debian 12 (with its security updates) and later have\n{WITHOUT_DEBIAN}",
                unknown.join(", ")
            );
        }
    }
    let (harmless, mut rest) = sort(&missing);
    if install(&harmless).is_err() {
        apt(&["update"])?;
        let (harmless, more) = sort(&harmless);
        install(&harmless)?;
        rest.extend(more);
    }
    unpack(&rest)
}

fn install(names: &[&str]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let mut install = vec!["install", "--yes", "--no-install-recommends", "--no-remove"];
    install.extend(names);
    apt(&install)
}

/// Those that can be installed without any change to what is installed, and those that cannot.
fn sort<'a>(names: &[&'a str]) -> (Vec<&'a str>, Vec<&'a str>) {
    let machine = Apt::of_this_machine();
    let is_harmless = |names: &[&str]| match machine.plan(names) {
        Ok(plan) => plan.changes,
        Err(error) => vec![format!("{error:#}")],
    };
    if is_harmless(names).is_empty() {
        return (names.to_vec(), Vec::new());
    }
    names.iter().partition(|name| {
        let changes = is_harmless(&[name]);
        if !changes.is_empty() {
            eprintln!("{name} is not installed, since apt would have to");
            changes.iter().for_each(|change| eprintln!("  {change}"));
        }
        changes.is_empty()
    })
}

/// Unpacks packages in a folder of ours, together: they may need one another.
fn unpack(names: &[&str]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let set = names.join("+");
    eprintln!(
        "unpacking {} into {}",
        names.join(", "),
        packages::cache().display()
    );
    packages::unpack(&set, names, |lists| Apt::of_suites(lists, &[]))
        .with_context(|| format!("getting {}", names.join(", ")))?;
    Ok(())
}

fn missing<'a>(names: &[&'a str]) -> Vec<&'a str> {
    for name in names {
        assert!(
            PACKAGES.iter().any(|p| p.name == *name),
            "{name} is not in the table of packages"
        );
    }
    names
        .iter()
        .copied()
        .filter(|name| !is_installed(name) && !packages::is_unpacked(name))
        .collect()
}

fn describe(missing: &[&str]) {
    eprintln!("missing:");
    for package in PACKAGES.iter().filter(|p| missing.contains(&p.name)) {
        eprintln!("  {:24} {}", package.name, package.why);
    }
}

fn is_installed(name: &str) -> bool {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat=${db:Status-Status}", name]);
    sh::output(&mut query).is_ok_and(|status| status == b"installed")
}

fn is_known(name: &str) -> bool {
    let mut show = Command::new("apt-cache");
    show.args(["show", "--quiet=2", "--no-all-versions", name]);
    sh::output(&mut show).is_ok_and(|text| !text.is_empty())
}

fn apt(args: &[&str]) -> Result<()> {
    let mut command = if nix::unistd::geteuid().is_root() {
        Command::new("env")
    } else {
        let sudo = sh::find("sudo").context("installing packages needs root, and there is no sudo here")?;
        let mut command = Command::new(sudo);
        command.arg("env");
        command
    };
    // Through env, because sudo drops the environment of its caller.
    command.args([
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-o",
        "DPkg::Lock::Timeout=300",
    ]);
    sh::run(command.args(args))
}

fn is_debian() -> bool {
    std::fs::read_to_string("/etc/os-release").is_ok_and(|text| names_debian(&text))
}

fn names_debian(os_release: &str) -> bool {
    let fields = os_release.lines().filter_map(|line| line.split_once('='));
    fields
        .filter(|(key, _)| matches!(*key, "ID" | "ID_LIKE"))
        .any(|(_, value)| value.trim_matches('"').split(' ').any(|id| id == "debian"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_package_is_listed_once_and_says_why() {
        for (i, package) in PACKAGES.iter().enumerate() {
            assert!(!package.why.is_empty());
            assert!(
                PACKAGES[..i].iter().all(|p| p.name != package.name),
                "{}",
                package.name
            );
        }
        for name in EBPF.iter().chain(crate::test::PACKAGES) {
            assert!(PACKAGES.iter().any(|p| p.name == *name), "{name}");
        }
    }

    /// Files by which a package does more than bring programs: it starts something, or has a say in how the machine boots.
    fn meddles(file: &str) -> bool {
        let places = [
            "/etc/init.d/",
            "/etc/grub.d/",
            "/etc/cron",
            "/etc/modules-load.d/",
            "/usr/lib/modules-load.d/",
        ];
        let is_unit =
            file.contains("/systemd/system/") && (file.ends_with(".service") || file.ends_with(".timer"));
        is_unit || places.iter().any(|place| file.starts_with(place))
    }

    #[test]
    fn what_is_installed_starts_nothing_and_leaves_booting_alone() {
        for package in PACKAGES
            .iter()
            .filter(|package| !SERVICES.contains(&package.name))
        {
            let mut query = Command::new("dpkg-query");
            query.args([
                "--show",
                "--showformat=${db:Status-Status} ${Priority}",
                package.name,
            ]);
            let Ok(answer) = sh::output(&mut query) else {
                continue;
            };
            // What every Debian has is not installed by us.
            if answer != b"installed optional" {
                continue;
            }
            let files = sh::output(Command::new("dpkg-query").args(["--listfiles", package.name])).unwrap();
            let files = String::from_utf8(files).unwrap();
            let found: Vec<&str> = files.lines().filter(|file| meddles(file)).collect();
            assert!(
                found.is_empty(),
                "{} belongs into SERVICES: {found:?}",
                package.name
            );
        }
        assert!(meddles("/lib/systemd/system/vblade.service") && meddles("/etc/grub.d/20_ipxe"));
        assert!(!meddles("/usr/bin/fio"));
    }

    #[test]
    fn debian_and_its_children_are_told_from_others() {
        assert!(names_debian("NAME=x\nID=debian\nVERSION_ID=\"12\"\n"));
        assert!(names_debian("ID=ubuntu\nID_LIKE=debian\n"));
        assert!(names_debian("ID=mint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!names_debian("ID=fedora\nID_LIKE=\"rhel\"\nHOME_URL=debian\n"));
    }
}
