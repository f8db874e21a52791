//! The commands that README and the book show are typed as they are written: every box of them has a row in `book/rows.rs`, which
//! says what it needs and is run here, or by which test it is run, or why it is not.

mod boxes;
mod ceph;
mod rows;
mod scene;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use aoe_common::Mac;
use lab::container::{self, Container};
use lab::frame::ata;
use lab::image::stamp;
use lab::needs::Need;
use lab::vm::Guest;
use lab::{Address, Image, Lab, Options, Request, Target, needs};

use boxes::CommandBox;
use rows::{How, ROWS, Row, Scene};
use scene::Stage;

/// Each row with its box.
fn pairs() -> Result<Vec<(&'static Row, CommandBox)>> {
    let mut pairs = Vec::new();
    for command_box in boxes::all()? {
        let at = format!("{}:{}", command_box.page, command_box.line);
        let mut found = ROWS.iter().filter(|row| row.is_of(&command_box));
        let row = found.next().with_context(|| {
            format!(
                "{at} has no row in tests/tests/book/rows.rs: {:?}",
                command_box.lines
            )
        })?;
        ensure!(found.next().is_none(), "{at} has two rows");
        pairs.push((row, command_box));
    }
    Ok(pairs)
}

/// Whether there is a test of this name, as in `lesson::every_step_goes_as_it_is_written` or `control::changes::a_reload_tells_what_it_did`.
fn is_test(test: &str) -> Result<bool> {
    let (module, name) = test.rsplit_once("::").context("a test is MODULE::NAME")?;
    let file = module.replace("::", "/");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/{file}.rs"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
    Ok(text.contains(&format!("#[test]\nfn {name}()")))
}

#[test]
fn every_box_is_run_by_a_test_or_has_a_reason_why_not() -> Result<()> {
    let pairs = pairs()?;
    for row in ROWS {
        ensure!(
            pairs.iter().any(|(found, _)| std::ptr::eq(*found, row)),
            "{} has no box that begins with {:?}",
            row.page,
            row.first
        );
        if let How::By(test) = row.how {
            ensure!(is_test(test)?, "there is no test {test}");
        }
    }
    for (row, command_box) in &pairs {
        for (line, reason) in row.without {
            ensure!(
                command_box.lines.iter().any(|found| found.starts_with(line)) && !reason.is_empty(),
                "{}: no line {line:?}",
                row.page
            );
        }
    }
    let run = |(row, _): &&(&Row, CommandBox)| !matches!(row.how, How::Not(_));
    let run = pairs.iter().filter(run).count();
    println!("{run} of {} boxes are run", pairs.len());
    Ok(())
}

/// Does what the rows of a scene say, in the order of the book.
fn play(scene: Scene, stage: &Stage) -> Result<()> {
    let mut count = 0;
    for (row, command_box) in pairs()? {
        let (How::Ends(of) | How::Until(of, _) | How::Lines(of) | How::LinesUntil(of, _)) = row.how else {
            continue;
        };
        if of == scene {
            stage
                .play(row, &command_box)
                .with_context(|| format!("{}, line {}", row.page, command_box.line))?;
            count += 1;
        }
    }
    ensure!(count > 0, "no box is of this scene");
    Ok(())
}

fn lab() -> Result<Lab> {
    Lab::new(Options {
        links: 3,
        ..Options::default()
    })
}

#[test]
fn what_is_typed_on_a_target() -> Result<()> {
    needs!(
        Need::Root,
        Need::Tool("qemu-nbd"),
        Need::Tool("qemu-storage-daemon"),
        Need::Tool("qemu-img"),
        Need::Tool("ethtool")
    );
    let lab = lab()?;
    play(Scene::Target, &Stage::new(&lab.target)?)
}

/// Two exports in use by an initiator.
const SERVED: &str = r#"
mkdir -p /srv/aoe /etc/xblade /run/xblade
truncate -s 64M /srv/aoe/vm.raw /srv/aoe/two.raw
cat >/etc/xblade/xblade.toml <<'END'
[defaults]
interfaces = ["eth0", "eth1"]
[[export]]
shelf = 1
slot = 1
path = "/srv/aoe/vm.raw"
[[export]]
shelf = 1
slot = 2
path = "/srv/aoe/two.raw"
END
exec xblade daemon
"#;

#[test]
fn what_is_asked_of_a_running_target() -> Result<()> {
    needs!(
        Need::Root,
        Need::Tool("socat"),
        Need::Tool("jq"),
        Need::Tool("tshark")
    );
    let lab = lab()?;
    let stage = Stage::new(&lab.target)?;
    let _daemon = stage.begin("README.md", SERVED, &["e1.1 ready on eth1", "e1.2 ready on eth1"])?;
    let initiator = lab.open(1)?;
    // What is kept of it.
    initiator.find(Address::new(1, 1))?.query(4, b"label")?;
    let is_over = &AtomicBool::new(false);
    thread::scope(|scope| {
        let reads = scope.spawn(move || -> Result<()> {
            while !is_over.load(Ordering::Relaxed) {
                for slot in [1, 2] {
                    initiator.find(Address::new(1, slot))?.read(0, 1)?;
                }
            }
            Ok(())
        });
        let played = play(Scene::Running, &stage);
        is_over.store(true, Ordering::Relaxed);
        let read = reads.join().map_err(|_| anyhow::anyhow!("the reads panicked"))?;
        played.and(read)
    })
}

#[test]
fn what_is_typed_on_an_initiator() -> Result<()> {
    needs!(Need::Root, Need::Tool("ethtool"));
    let lab = lab()?;
    let target = Stage::new(&lab.target)?;
    let _daemon = target.begin("README.md", SERVED, &["e1.1 ready on eth1", "e1.2 ready on eth0"])?;
    play(Scene::Initiator, &Stage::new(&lab.initiator)?)
}

/// The gateway of a group whose lock is that of the page's program.
const GATEWAY: &str = r#"
mkdir -p /srv/aoe /run/xblade
chmod 755 /etc/xblade/drbd-lock
truncate -s 64M /srv/aoe/vm.raw
cat >/etc/xblade/xblade.toml <<'END'
[[failover]]
name = "san1"
mac = "02:78:62:00:00:01"
peers = ["02:00:00:00:00:0a"]
command = "/etc/xblade/drbd-lock"
[[export]]
shelf = 1
slot = 1
path = "/srv/aoe/vm.raw"
sync = true
interfaces = ["eth1"]
failover = "san1"
END
exec xblade daemon
"#;

#[test]
fn what_is_typed_on_a_gateway() -> Result<()> {
    needs!(Need::Root);
    let lab = lab()?;
    let stage = Stage::new(&lab.target)?;
    let program = boxes::all()?
        .into_iter()
        .find(|found| found.page == "docs/failover.md" && found.lines[0] == "#!/bin/sh")
        .context("no program for the lock")?;
    stage.write("/etc/xblade/drbd-lock", &(program.lines.join("\n") + "\n"))?;
    let _daemon = stage.begin("docs/failover.md", GATEWAY, &["e1.1 ready on eth1"])?;
    play(Scene::Gateway, &stage)
}

/// The room of the page, with the golden image.
const ROOM: &str = r#"
mkdir -p /srv/golden /etc/xblade /run/xblade /var/lib/xblade/overlays
truncate -s 1M /srv/golden/debian12.raw
cp page-1.toml /etc/xblade/xblade.toml
exec xblade daemon
"#;

#[test]
fn what_is_typed_where_machines_have_one_image() -> Result<()> {
    needs!(Need::Root);
    let lab = lab()?;
    let stage = Stage::new(&lab.target)?;
    let _daemon = stage.begin("docs/one-image.md", ROOM, &["e12.9 ready on eth1"])?;
    let initiator = lab.open(1)?;
    // pc17 of the page, and a machine that it does not name.
    for last in [1, 9] {
        let address = Address::new(12, 9);
        let to = initiator.find(address)?.mac;
        let write = Request::ata(to, address, ata::WRITE_EXT, 7, 1, &stamp(7));
        let reply = initiator.ask(Request {
            src: Mac([0x52, 0x54, 0, 0xae, 0, last]),
            ..write
        })?;
        ensure!(reply.error == 0 && reply.status() & 1 == 0, "{reply:?}");
    }
    play(Scene::Room, &stage)
}

#[test]
fn what_is_typed_under_systemd() -> Result<()> {
    needs!(container::NEEDS[0], container::NEEDS[1]);
    let lab = lab()?;
    let system = Container::boot(&lab.target, &container::tree("bookworm")?)?;
    play(Scene::Systemd, &Stage::of(system)?)
}

/// Types the lines of the boxes of a scene in a guest with Linux's driver.
fn guest_script() -> Result<String> {
    // Where nobody can answer, mkfs does not ask.
    let mut script =
        "exec </dev/null\nsudo() { \"$@\"; }\nmodprobe() { [ -e /sys/module/aoe ] || aoe_up; }\n".to_owned();
    for (row, command_box) in pairs()? {
        if row.how != How::Ends(Scene::Guest) {
            continue;
        }
        for line in &command_box.lines {
            script += &format!(
                "echo {}:{}\n{line} || fail '{line}'\n",
                row.page, command_box.line
            );
            if line.contains("modprobe") {
                script += "within 3 test -b /dev/etherd/e1.1\n";
            }
        }
        script += &format!(
            "umount /mnt 2>/dev/null\nok box {}:{}\n",
            row.page, command_box.line
        );
    }
    Ok(script)
}

#[test]
fn what_is_typed_on_linux() -> Result<()> {
    needs!(
        Need::Root,
        Need::Tool("qemu-system-x86_64"),
        Need::File("/bin/busybox"),
        Need::Tool("mkfs.ext4")
    );
    let lab = Lab::new(Options {
        links: 2,
        mtu: 9000,
        ..Options::default()
    })?;
    let image = Image::sparse(1 << 17)?;
    let target = Target::ready(&lab.target, &["serve", "1", "1", "eth1", image.as_str()], 1)?;
    let script = guest_script()?;
    let guest = Guest::new(&script).programs(&["mkfs.ext4"]).nics(2).mtu(9000);
    let mut vm = guest.file("/etc/mke2fs.conf", "etc/mke2fs.conf").boot(&lab)?;
    for _ in script.matches("\nok ") {
        println!("{}", vm.expect("box")?);
    }
    vm.finish()?;
    drop(target);
    Ok(())
}
