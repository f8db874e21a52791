//! What becomes of each box.

use super::boxes::CommandBox;

/// Where a box is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scene {
    /// A target on which nothing runs.
    Target,
    /// One that serves e1.1 and e1.2 from files under /srv/aoe, with an initiator that reads.
    Running,
    /// An initiator to which these are served.
    Initiator,
    /// One with Linux's driver, to which e1.1 is served on eth1.
    Guest,
    /// A gateway that has the failover group san1.
    Gateway,
    /// A target with the golden image of the page, and copies of two machines.
    Room,
    /// A Debian with systemd.
    Systemd,
    /// A machine with the key of a Ceph cluster's administrator.
    CephAdministrator,
    /// One that runs xblade, with what the administrator has made for it.
    CephClient,
    /// The gateway that stands by, of two in front of that cluster.
    StandbyGateway,
}

/// How a box is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// To its end, which must be a good one; where the page shows what is said, that is said.
    Ends(Scene),
    /// Until it says this.
    Until(Scene, &'static str),
    /// Each line for itself, to its end.
    Lines(Scene),
    /// Each line for itself, until it says this, in their order.
    LinesUntil(Scene, &'static [&'static str]),
    /// By another test.
    By(&'static str),
    /// Not, for this reason.
    Not(&'static str),
}

/// What becomes of the boxes of a page that begin so; `*`: of all that it has.
#[derive(Debug)]
pub(crate) struct Row {
    pub page: &'static str,
    pub first: &'static str,
    pub how: How,
    /// What the page says or takes for granted that has been done before.
    pub before: &'static str,
    /// The lines that begin so are left out, for this reason.
    pub without: &'static [(&'static str, &'static str)],
}

impl Row {
    pub(crate) fn is_of(&self, found: &CommandBox) -> bool {
        self.page == found.page && (self.first == "*" || found.lines.join("\n").starts_with(self.first))
    }

    const fn after(self, before: &'static str) -> Row {
        Row { before, ..self }
    }

    const fn without(self, without: &'static [(&'static str, &'static str)]) -> Row {
        Row { without, ..self }
    }
}

const fn row(page: &'static str, first: &'static str, how: How) -> Row {
    Row {
        page,
        first,
        how,
        before: "",
        without: &[],
    }
}

use How::{By, Ends, Lines, LinesUntil, Not, Until};
use Scene::{
    CephAdministrator, CephClient, Gateway, Guest, Initiator, Room, Running, StandbyGateway, Systemd, Target,
};

const XTASK: How = Not("builds and tests xblade itself: that its words are understood is tested in `xtask`");
const DEBIAN: How = Not(
    "makes a Debian with the mirror's packages, on a partition that not every kernel knows: `debian_root` and `room` do the same with an image of their own",
);

pub(crate) const ROWS: &[Row] = &[
    row("README.md", "cargo xtask", XTASK),
    row("README.md", "cargo build", Until(Target, "e1.1 ready on eth1")),
    row("README.md", "ip link", Ends(Guest)),
    row("docs/beyond-one-machine.md", "ceph osd", Ends(CephAdministrator)),
    row("docs/beyond-one-machine.md", "apt install", Until(CephClient, "e1.1 ready on eth1"))
        .without(&[("apt install", "is the machine's own")]),
    row("docs/beyond-one-machine.md", "qemu-nbd", Until(Target, "e1.1 ready on eth1"))
        .after("qemu-img create -f qcow2 vm.qcow2 64M"),
    row("docs/beyond-one-machine.md", "qemu-storage-daemon", Until(Target, "e1.1 ready on eth1"))
        .after("qemu-img create -f qcow2 vm.qcow2 64M"),
    row("docs/booting.md", "xblade serve", Until(Target, "e12.9 ready on eth1")).after("truncate -s 64M root.raw"),
    row("docs/booting.md", "ip link", By("boot::linux_with_its_root_on_an_export")),
    row("docs/booting.md", "dpkg --install", DEBIAN),
    row("docs/cli.md", "xblade serve", LinesUntil(Target, &["e1.1 ready on eth1", "e1.2 ready on eth2"]))
        .after("truncate -s 64M vm.raw; mkdir -p /dev/vg0; truncate -s 64M /dev/vg0/lv1; ip link set eth2 up"),
    row("docs/cli.md", "xblade reload", By("control::changes::a_reload_tells_what_it_did")),
    row("docs/cli.md", "xblade create", Lines(Target)).without(&[("xblade create --prealloc", "takes 8 GiB: `cli_tools` has a smaller one")]),
    row("docs/cli.md", "xblade state", Ends(Running)).without(&[
        ("xblade state clear --lost-writes", "a disk has to fail: `disk_faults`"),
        ("xblade state adopt", "an earlier release has to have left something: `kept`"),
    ]),
    row("docs/cli.md", "xblade doctor", Lines(Target)).after("ip link set eth2 up").without(&[("xblade doctor eth1 --steer", "takes a card with filters: `doctor` has its drivers' answers")]),
    row("docs/configuration.md", "xblade check", Ends(Target)).after(
        "mkdir -p /srv/aoe /etc/xblade; cp page-1.toml /etc/xblade/xblade.toml; truncate -s 8G /srv/aoe/vm.raw\n\
         truncate -s 650M /srv/aoe/install.iso; ip link add em1 type veth peer name far0",
    ),
    row("docs/control-socket.md", "echo", Until(Running, "\"e1.1\"\n\"e1.2\"\n")),
    row("docs/durability.md", "*", Not("cuts the power, after half a million writes: `power` does it to guests")),
    row("docs/failover.md", "xblade failover status", Ends(Gateway)),
    row("docs/failover.md", "xblade failover take", Ends(StandbyGateway)),
    row("docs/failover.md", "#!/bin/sh\n# /etc/xblade/drbd-lock", By("book::what_is_typed_on_a_gateway")),
    row("docs/failover.md", "#!/bin/sh\n# /etc/xblade/drbd-fence", Not("takes a DRBD that has lost its peer, and a power switch")),
    row("docs/getting-started.md", "cargo build", Ends(Target)),
    row("docs/getting-started.md", "sudo ip link set eth1 up  ", Ends(Guest)),
    row("docs/getting-started.md", "sudo ip link set eth1 up\nsudo xblade", Ends(Target)),
    row("docs/getting-started.md", "sudo mkdir", Until(Target, "e1.1 ready on eth1")).after("rm -rf /srv/aoe"),
    row("docs/getting-started.md", "sudo useradd", Ends(Systemd)).after("cp -r /project/. ."),
    row("docs/getting-started.md", "sudo xblade check", Until(Systemd, "e1.1 ready on eth1")).after(
        "mkdir -p /srv/aoe; truncate -s 1M /srv/aoe/vm.raw\n\
         ulimit -l unlimited || {\n\
         mkdir -p /etc/systemd/system/xblade.service.d\n\
         printf '[Service]\\nAmbientCapabilities=CAP_IPC_LOCK\\nCapabilityBoundingSet=CAP_IPC_LOCK\\n' \
         >/etc/systemd/system/xblade.service.d/lock.conf\n\
         systemctl daemon-reload; }",
    ),
    row("docs/hardware.md", "xblade doctor", Lines(Initiator)),
    row("docs/initiators.md", "ip link", Ends(Guest)),
    row("docs/lesson.md", "*", By("lesson::every_step_goes_as_it_is_written")),
    row("docs/migration.md", "xblade import", Ends(Target)).after(
        "mkdir -p /etc/vblade.conf.d /srv/aoe; truncate -s 1M /srv/aoe/a.raw\n\
         printf 'shelf=1\\nslot=2\\nnetif=eth1\\nfilename=/srv/aoe/a.raw\\n' >/etc/vblade.conf.d/a.conf\n\
         printf '[disk]\\nshelf = 1\\nslot = 2\\npath = /srv/aoe/a.raw\\ninterfaces = eth1\\n' >/etc/ggaoed.conf\n\
         printf 'device {\\nshelf = 1;\\nslot = 2;\\ntarget = /srv/aoe/a.raw;\\ninterface = eth1;\\n}\\n' >/etc/qaoed.conf",
    ),
    row("docs/migration.md", "vblade", Until(Target, "e1.2 ready on eth1"))
        .after("mkdir -p /srv/aoe; truncate -s 1M /srv/aoe/a.raw")
        .without(&[("vblade", "is what the line below it stands for")]),
    row("docs/one-image.md", "xblade overlay list", Ends(Room)),
    row("docs/one-image.md", "mkdir -p /srv/golden", DEBIAN),
    row("docs/one-image.md", "apt install", DEBIAN),
    row("docs/one-image.md", "chroot /mnt grub-install", DEBIAN),
    row("docs/one-image.md", "rbd import", Ends(CephAdministrator)).after("truncate -s 1M debian12.raw"),
    row("docs/one-image.md", "cp /srv", Ends(Target)).after("mkdir -p /srv/golden; truncate -s 1M /srv/golden/debian12.raw"),
    row("docs/one-image.md", "xblade overlay commit", Ends(Room)),
    row("docs/operations.md", "truncate", Ends(Running)),
    row("docs/operations.md", "xblade export pause", Ends(Running)),
    row("docs/operations.md", "xblade dump", LinesUntil(Running, &["AoE", "1000 frames", "frames on eth0"])),
    row("docs/packages.md", "cargo build", Ends(Target)),
    row(
        "docs/packages.md",
        "cargo deb",
        Not("cargo-deb and cargo-generate-rpm are no Debian packages: `systemd` and `packages` read what these read"),
    ),
    row("docs/packages.md", "packaging/initiator", Ends(Target))
        .after("cp -r /project/. .")
        .without(&[("cargo generate-rpm", "is no Debian package: `packages` reads what it reads")]),
    row("docs/performance-notes.md", "xblade bench", Lines(Initiator)),
    row("docs/performance-notes.md", "fio", Not("measures a disk, for minutes")),
    row("docs/performance-notes.md", "ethtool", Not("takes a card with filters, which veth and emulated cards are not")),
    row("docs/performance.md", "xblade bench", Lines(Initiator)),
    row("docs/testing.md", "cd fuzz", Not("is about an input that libFuzzer has found")),
    row("docs/testing.md", "cargo test", Not("runs the tests")),
    row("docs/testing.md", "XBLADE_ROOM_MACHINES=20", Not("boots machines for an hour: `room` has three")),
    row("docs/testing.md", "cargo xtask", XTASK),
];
