//! Power cuts: xblade runs in a virtual machine on ext4, on a disk with a volatile cache. The machine is killed at
//! random moments, the disk keeps what it was told to flush and of the rest a random part, and after the next boot
//! every sector is compared with what was acknowledged.
//!
//! `XBLADE_CUTS=N` cuts the power N times; 3 times otherwise, and as often as it takes until write-back has lost something.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use disks::Disk;
use lab::image::Random;
use lab::needs::Need;
use lab::seed;
use lab::vm::STEP;
use lab::vm::host::{Host, MAC, MOUNTED, Parts, ext4};
use lab::vm::kernel::Kernel;
use lab::writer::{Options, Writer};
use lab::{Address, Namespace, needs};

fn cuts() -> usize {
    std::env::var("XBLADE_CUTS").map_or(3, |text| text.parse().expect("XBLADE_CUTS is a number"))
}

/// What a cut took away.
#[derive(Debug)]
struct Cut {
    /// When.
    at: Instant,
    /// When the last FLUSH that was answered had been sent.
    flushed: Instant,
    /// How long it took: what a commit costs on this machine now.
    commit: Duration,
    /// When the lost writes had been acknowledged.
    lost: Vec<Instant>,
}

impl Cut {
    /// Age of the oldest lost write.
    fn reach(&self) -> Duration {
        self.lost
            .iter()
            .map(|acknowledged| self.at - *acknowledged)
            .max()
            .unwrap_or_default()
    }
}

/// When the power has been cut often enough.
type Enough = fn(&[Cut]) -> bool;

/// Whatever came of it.
const ANY: Enough = |_| true;

/// Not before something was lost: some cuts come just after a commit.
const LOSS: Enough = |cuts| cuts.iter().any(|cut| !cut.lost.is_empty());

fn cut_again_and_again(arguments: &str, enough: Enough) -> Result<Vec<Cut>> {
    cut_again_and_again_after(MOUNTED, arguments, enough)
}

/// The address of the initiators' end of the cable.
const INITIATOR: &str = "02:00:00:ae:00:01";

fn cut_again_and_again_after(prepare: &str, arguments: &str, enough: Enough) -> Result<Vec<Cut>> {
    cut_again_and_again_with(Kernel::get()?, prepare, arguments, enough)
}

/// The machine, and its disk, which goes last.
fn machine(kernel: Kernel, prepare: &str, arguments: &str) -> Result<(Disk, Host)> {
    let namespace = Namespace::new("host")?;
    let disk = Disk::new(&namespace, 64)?;
    disk.preset(&ext4(64)?);
    let binary = lab::target::binary()?;
    let parts = Parts {
        kernel,
        disk: disk.path(),
        xblade: Path::new(&binary),
        prepare,
        arguments,
        mtu: 1500,
    };
    let host = Host::new(namespace, &parts)?;
    host.namespace.ip(&format!("link set tap0 address {INITIATOR}"))?;
    Ok((disk, host))
}

fn cut_again_and_again_with(
    kernel: Kernel,
    prepare: &str,
    arguments: &str,
    enough: Enough,
) -> Result<Vec<Cut>> {
    let (disk, host) = machine(kernel, prepare, arguments)?;
    let options = Options {
        seed: seed(),
        address: Address::new(7, 3),
        target: MAC,
        sectors: 256,
        per_write: 2,
        depth: 8,
        patience: Duration::from_millis(500),
    };
    let mut writer = Writer::new(host.initiator()?, options);
    let mut random = Random::new(options.seed);
    let mut history = Vec::new();
    let mut vm = host.switch_on()?;
    let most = cuts() * 6;
    for round in 1..=most {
        let before = writer.acknowledged;
        writer.run_till(60 + random.below(400), STEP)?;
        let flushed = writer.flush()?;
        let commit = flushed.elapsed();
        writer.run_for(Duration::from_millis(random.below(6000)))?;
        vm.cut()?;
        let at = Instant::now();
        writer.drain()?;
        let sectors = disk.cut(&mut random);
        let written = writer.acknowledged - before;

        vm = host.switch_on()?;
        let verdict = writer.judge_by_reading()?;
        assert!(
            verdict.foreign.is_empty() && verdict.torn.is_empty(),
            "sectors {:?} hold what nobody wrote, {:?} are torn",
            verdict.foreign,
            verdict.torn
        );
        let cut = Cut {
            at,
            flushed,
            commit,
            lost: verdict.lost.iter().map(|(_, at)| *at).collect(),
        };
        println!(
            "cut {round}: {written} writes acknowledged, {} lost, the oldest {:?} old; a flush took {commit:?}; \
             the disk lost {sectors} sectors",
            cut.lost.len(),
            cut.reach()
        );
        history.push(cut);
        if round >= cuts() && enough(&history) {
            break;
        }
    }
    Ok(history)
}

const NEEDS: [Need; 4] = [
    Need::Root,
    Need::Tool("qemu-system-x86_64"),
    Need::Tool("mkfs.ext4"),
    Need::File("/dev/fuse"),
];

#[test]
fn no_write_acknowledged_in_sync_mode_is_lost() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    let cuts = cut_again_and_again("serve 7 3 eth0 /mnt/image --sync", ANY)?;
    assert!(
        cuts.iter().all(|cut| cut.lost.is_empty()),
        "acknowledged writes were lost"
    );
    Ok(())
}

#[test]
fn no_write_acknowledged_by_the_direct_store_in_sync_mode_is_lost() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    let cuts = cut_again_and_again("serve 7 3 eth0 /mnt/image --direct --sync", ANY)?;
    assert!(
        cuts.iter().all(|cut| cut.lost.is_empty()),
        "acknowledged writes were lost"
    );
    Ok(())
}

/// In the guest's kernel, which is nobody else's.
const NO_IO_URING: &str = "echo 2 > /proc/sys/kernel/io_uring_disabled || fail io_uring\n";

#[test]
fn nor_is_one_where_io_uring_is_forbidden() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    let prepare = format!("{MOUNTED}{NO_IO_URING}");
    let arguments = "serve 7 3 eth0 /mnt/image --direct --sync";
    // The setting is Linux 6.6's.
    let cuts = cut_again_and_again_with(Kernel::with_all_drivers()?, &prepare, arguments, ANY)?;
    assert!(
        cuts.iter().all(|cut| cut.lost.is_empty()),
        "acknowledged writes were lost"
    );
    Ok(())
}

/// The promise, and what an emulated machine on a busy one adds to it: timers that fire late.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
const MARGIN: Duration = Duration::from_secs(3);

#[test]
fn write_back_loses_no_more_than_its_flush_interval_and_nothing_before_a_flush() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    check_write_back(&cut_again_and_again(
        "serve 7 3 eth0 /mnt/image --flush-interval 1s",
        LOSS,
    )?);
    Ok(())
}

fn check_write_back(cuts: &[Cut]) {
    assert!(
        cuts.iter().any(|cut| !cut.lost.is_empty()),
        "nothing was ever lost: was the power cut at all?"
    );
    for cut in cuts {
        // The oldest write that is lost is at most one interval older than the newest; a write that was answered when it was
        // committed itself may have waited for as long as a commit takes.
        let bound = FLUSH_INTERVAL + cut.commit + MARGIN;
        assert!(
            cut.reach() <= bound,
            "a write {:?} old was lost, the bound is {bound:?}",
            cut.reach()
        );
        assert!(
            cut.lost.iter().all(|acknowledged| *acknowledged > cut.flushed),
            "a flushed write was lost"
        );
    }
}

/// The machine's persistent copy of a golden image on the same file system.
fn copy(sync: bool) -> String {
    format!(
        r#"{MOUNTED}
cat > /tmp/xblade.toml <<'END'
[[export]]
shelf = 7
slot = 3
path = "/mnt/image"
interfaces = ["eth0"]
sync = {sync}
flush_interval = "1s"
overlay = "persistent"
overlay_dir = "/mnt/overlays"
unknown = "refuse"

[[machine]]
name = "pc17"
macs = ["{INITIATOR}"]
END
"#
    )
}

const DAEMON: &str = "daemon --config /tmp/xblade.toml";

#[test]
fn no_write_acknowledged_by_a_persistent_copy_in_sync_mode_is_lost() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    let cuts = cut_again_and_again_after(&copy(true), DAEMON, ANY)?;
    assert!(
        cuts.iter().all(|cut| cut.lost.is_empty()),
        "acknowledged writes were lost"
    );
    Ok(())
}

#[test]
fn a_persistent_copy_loses_no_more_than_its_flush_interval_and_nothing_before_a_flush() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    check_write_back(&cut_again_and_again_after(&copy(false), DAEMON, LOSS)?);
    Ok(())
}
