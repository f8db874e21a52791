//! Zero-copy AF_XDP, which veth does not have: xblade in a guest, on a virtio_net card that has it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use disks::Disk;
use lab::needs::Need;
use lab::seed;
use lab::vm::host::{Host, MAC, MOUNTED, Parts, ext4};
use lab::vm::kernel::Kernel;
use lab::writer::{Options, Writer};
use lab::{Address, Namespace, needs};

/// Linux 6.12 refuses the bind with EOPNOTSUPP (its driver has only the receiving half), 6.18 does it.
///
/// virtio_net gives its queues to AF_XDP only where it may map memory for the device by itself (`iommu_platform`) and
/// can restart a queue alone (`queue_reset`, QEMU 7.2).
const CARD: &str = ",disable-legacy=on,iommu_platform=on,queue_reset=on";

#[test]
fn zero_copy_serves_verified_io() -> Result<()> {
    needs!(
        Need::Root,
        Need::Tool("qemu-system-x86_64"),
        Need::Tool("mkfs.ext4"),
        Need::File("/dev/fuse")
    );
    let namespace = Namespace::new("host")?;
    let disk = Disk::new(&namespace, 64)?;
    disk.preset(&ext4(64)?);
    let binary = lab::target::binary()?;
    let parts = Parts {
        kernel: Kernel::newer().context("a kernel with zero-copy virtio_net")?,
        disk: disk.path(),
        xblade: Path::new(&binary),
        prepare: MOUNTED,
        arguments: "serve 7 3 eth0 /mnt/image --mode zerocopy",
        mtu: 1500,
        card: CARD,
    };
    let host = Host::new(namespace, &parts)?;
    let vm = host.switch_on()?;
    let log = vm.log();
    let ready = log
        .lines()
        .find(|line| line.contains(" ready"))
        .context("no line with ready")?;
    println!("{ready}");
    assert!(ready.contains("zero-copy"), "{ready}");
    let options = Options {
        seed: seed(),
        address: Address::new(7, 3),
        target: MAC,
        sectors: 512,
        per_write: 2,
        depth: 16,
        patience: Duration::from_millis(500),
    };
    let mut writer = Writer::new(host.initiator()?, options);
    writer.run_till(2000, lab::vm::STEP)?;
    writer.settle(lab::vm::STEP)?;
    writer.judge_by_reading()?.nothing_lost()
}
