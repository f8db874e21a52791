//! Linux's aoe driver in a virtual machine, on one link: discovery, size, file system, fio, partitions, growth,
//! QEMU's block layer; at MTU 1500 and at MTU 9000, where it must use requests of 17 sectors.

use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use lab::capture::Capture;
use lab::needs::Need;
use lab::target::daemon;
use lab::vm::Guest;
use lab::{Image, Lab, Options, Target, needs};

const GIB: u64 = 1 << 21; // sectors

/// What every test here needs.
const NEEDS: [Need; 3] = [
    Need::Root,
    Need::Tool("qemu-system-x86_64"),
    Need::File("/bin/busybox"),
];

const FIO: &str = r#"
fio_verify() {
    must fio --name=v --filename=/dev/etherd/e1.1 --direct=1 --ioengine=libaio --iodepth=32 --rw=randwrite \
        --bsrange=512-1m --size=$1 --randseed=4711 --verify=crc32c --do_verify=1 --verify_fatal=1
    grep -q 'err= 0' /tmp/out || { cat /tmp/out; fail fio; }
}
"#;

const LIFE: &str = r#"
disk=/dev/etherd/e1.1
size_is() { [ "$(cat '/sys/block/etherd!e1.1/size')" = $1 ]; }

# The driver is there before the target: the advertisement must do.
must aoe_up
point loaded
start=$(now); within 3 test -b $disk
ok advertised after $(($(now) - start))0 ms
within 3 size_is 2097152
# And the other way round: the driver's own query.
must rmmod aoe
must aoe_up
start=$(now); within 3 test -b $disk
ok discovered after $(($(now) - start))0 ms
within 3 size_is 2097152
ok size

must mke2fs -q -t ext4 -F $disk
must mount -t ext4 $disk /mnt
mkdir /tmp/files
for n in 0 1 2 3 4 5 6 7; do dd if=/dev/urandom of=/tmp/files/$n bs=1M count=8 2>/dev/null; done
must cp -r /tmp/files /mnt
cd /tmp && sha256sum files/* >/tmp/sums; cd /
must umount /mnt
must e2fsck -fn $disk
must mount -t ext4 $disk /mnt
cd /mnt && must sha256sum -c /tmp/sums; cd /
must umount /mnt
rm -r /tmp/files
ok ext4

fio_verify 64m
ok fio

# QEMU's block layer on the node, as for a virtual machine's disk.
must qemu-io -f raw -n -t none -c 'write -P 0x5a 1M 4M' -c 'aio_write -P 0xa5 16M 1M' -c 'aio_write -P 0x3c 17M 512k' \
    -c 'aio_flush' -c 'read -P 0x5a 1M 4M' -c 'read -P 0xa5 16M 1M' -c 'read -P 0x3c 17M 512k' $disk
grep -q 'verification failed' /tmp/out && fail qemu-io pattern
must qemu-io -f raw -t writeback -c 'write -z 2M 64k' -c 'flush' -c 'read -P 0 2M 64k' -c 'read -P 0x5a 3M 1M' $disk
grep -q 'verification failed' /tmp/out && fail qemu-io zeroes
ok qemu-io

# Partitions: by hand, so that nothing but the driver is asked.
printf 'n\np\n1\n2048\n1050623\nn\np\n2\n1050624\n\nw\n' | fdisk $disk >/tmp/out 2>&1
within 5 test -b ${disk}p1
within 5 test -b ${disk}p2
must dd if=/dev/zero of=${disk}p1 bs=512 count=1 conv=notrunc
[ "$(cat '/sys/block/etherd!e1.1/etherd!e1.1p1/size')" = 1048576 ] || fail partition size
ok partitions

# Growth while the device is open.
exec 9<$disk
point grow
echo e1.1 >/dev/etherd/revalidate
within 10 size_is 4194304
must dd if=/dev/urandom of=/tmp/tail bs=512 count=8
must dd if=/tmp/tail of=$disk bs=512 seek=4194296 oflag=direct
must dd if=$disk of=/tmp/back bs=512 skip=4194296 iflag=direct
must cmp /tmp/tail /tmp/back
exec 9<&-
ok growth
"#;

#[test]
fn the_life_of_a_disk_at_mtu_1500() -> Result<()> {
    needs!(
        NEEDS[0],
        NEEDS[1],
        NEEDS[2],
        Need::Tool("fio"),
        Need::Tool("qemu-io"),
        Need::Tool("mke2fs")
    );
    let lab = Lab::new(Options::default())?;
    let image = Image::sparse(GIB)?;
    let guest = Guest::new(&format!("{FIO}{LIFE}")).programs(&["mke2fs", "e2fsck", "fio", "qemu-io"]);
    let mut vm = guest.file("/etc/mke2fs.conf", "etc/mke2fs.conf").boot(&lab)?;
    vm.point("loaded")?;
    let target = Target::ready(&lab.target, &["serve", "1", "1", "eth0", image.as_str()], 1)?;
    vm.go()?;
    for step in [
        "advertised",
        "discovered",
        "size",
        "ext4",
        "fio",
        "qemu-io",
        "partitions",
    ] {
        println!("{step} {}", vm.expect(step)?);
    }
    vm.point("grow")?;
    image.file().set_len(2 * GIB * 512)?;
    vm.go()?;
    vm.expect("growth")?;
    vm.finish()?;
    drop(target);
    let mut tail = [0; 8 * 512];
    image.file().read_exact_at(&mut tail, (2 * GIB - 8) * 512)?;
    ensure!(
        tail != [0; 8 * 512],
        "what was written beyond the old end is not in the image"
    );
    Ok(())
}

const JUMBO: &str = r#"
disk=/dev/etherd/e1.1
must aoe_up
within 3 test -b $disk
within 3 grep -q . '/sys/block/etherd!e1.1/size'
dmesg | grep -q 'e1.1: setting 8704 byte data frames' || fail frame size
point capture
must dd if=/dev/urandom of=$disk bs=1M count=1 oflag=direct
must dd if=$disk of=/dev/null bs=1M count=1 iflag=direct
point captured
fio_verify 64m
ok fio
"#;

#[test]
fn requests_of_17_sectors_at_mtu_9000() -> Result<()> {
    needs!(
        NEEDS[0],
        NEEDS[1],
        NEEDS[2],
        Need::Tool("fio"),
        Need::Tool("dumpcap"),
        Need::Tool("tshark")
    );
    let lab = Lab::new(Options {
        mtu: 9000,
        ..Options::default()
    })?;
    let image = Image::sparse(GIB)?;
    let _target = Target::ready(&lab.target, &["serve", "1", "1", "eth0", image.as_str()], 1)?;
    let script = format!("{FIO}{JUMBO}");
    let mut vm = Guest::new(&script).programs(&["fio"]).mtu(9000).boot(&lab)?;
    vm.point("capture")?;
    let capture = Capture::start(&lab.initiator, "eth0")?;
    vm.go()?;
    vm.point("captured")?;
    let captured = capture.stop()?;
    vm.go()?;

    let target = lab::link::target_mac(0);
    let count = |filter: &str| -> Result<usize> { Ok(captured.fields(filter, &["frame.number"])?.len()) };
    let (asked, full) = (
        format!("eth.dst == {target} && aoe.cmd == 0"),
        "aoe.sector_count == 17",
    );
    // A MiB makes 120 of them; a capture on a busy machine may miss a few.
    for (what, opcode) in [("writes", "0x34"), ("reads", "0x24")] {
        let seen = count(&format!("{asked} && {full} && aoe.ata.cmd == {opcode}"))?;
        ensure!(seen >= 100, "{seen} {what} of 17 sectors in a MiB");
    }
    ensure!(
        count(&format!("{asked} && !aoe.response_in"))? == 0,
        "requests without a reply"
    );
    ensure!(
        count(&format!(
            "eth.src == {target} && (_ws.malformed || aoe.version != 1)"
        ))? == 0,
        "bad replies"
    );
    vm.expect("fio")?;
    vm.finish()
}

const MANY: &str = r#"
at() { echo /dev/etherd/e$1; }
sectors() { cat "/sys/block/etherd!e$1/size"; }
must aoe_up
for e in 1.1 1.2 2.1 3.1 65534.254; do within 5 test -b $(at $e); done
[ $(sectors 1.1) = 1048576 ] && [ $(sectors 1.2) = 1048576 ] || fail size of the twins
[ $(sectors 2.1) = 6442450944 ] || fail size of 3 TiB: $(sectors 2.1)
[ $(sectors 3.1) = 64 ] || fail size of the read-only one
[ $(sectors 65534.254) = 2048 ] || fail size of the last address
sleep 2
[ -e $(at 4.1) ] && fail the denied one is visible
ok visible

# Two at once: each must get its own.
dd if=/dev/urandom of=/tmp/one bs=1M count=16 2>/dev/null
dd if=/dev/urandom of=/tmp/two bs=1M count=16 2>/dev/null
dd if=/tmp/one of=$(at 1.1) bs=64k oflag=direct 2>/dev/null &
dd if=/tmp/two of=$(at 1.2) bs=64k oflag=direct 2>/dev/null &
wait
dd if=$(at 1.1) of=/tmp/one.back bs=64k count=256 iflag=direct 2>/dev/null &
dd if=$(at 1.2) of=/tmp/two.back bs=64k count=256 iflag=direct 2>/dev/null &
wait
must cmp /tmp/one /tmp/one.back
must cmp /tmp/two /tmp/two.back
ok twins $(sha256sum </tmp/one | cut -d' ' -f1) $(sha256sum </tmp/two | cut -d' ' -f1)

# Around 2^28, 2^32 and at the end.
dd if=/dev/urandom of=/tmp/far bs=512 count=16 2>/dev/null
for lba in 268435448 4294967288 6442450928; do
    must dd if=/tmp/far of=$(at 2.1) bs=512 seek=$lba oflag=direct
    must dd if=$(at 2.1) of=/tmp/back bs=512 skip=$lba count=16 iflag=direct
    must cmp /tmp/far /tmp/back
done
must dd if=$(at 2.1) of=/tmp/back bs=512 count=16 iflag=direct
dd if=/dev/zero bs=512 count=16 2>/dev/null | cmp -s - /tmp/back || fail low sectors of the large disk were written
ok far $(sha256sum </tmp/far | cut -d' ' -f1)

start=$(now)
mustnt dd if=/dev/zero of=$(at 3.1) bs=512 count=1 oflag=direct
grep -q 'Input/output error' /tmp/out || fail no EIO
[ $(($(now) - start)) -lt 300 ] || fail the write to the read-only disk took too long
must dd if=$(at 3.1) of=/dev/null bs=512 count=64 iflag=direct
ok read-only

must dd if=/tmp/far of=$(at 65534.254) bs=512 seek=2032 count=16 oflag=direct
must dd if=$(at 65534.254) of=/tmp/back bs=512 skip=2032 count=16 iflag=direct
must cmp /tmp/far /tmp/back
ok last
"#;

/// The checksum of a part of an image, as `sha256sum` prints it.
fn sha256(image: &Image, lba: u64, count: usize) -> Result<String> {
    let part = image.directory().join("part");
    std::fs::write(&part, image.read(lba, count)?)?;
    let output = std::process::Command::new("sha256sum").arg(&part).output()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split(' ').next().unwrap_or("").to_owned())
}

#[test]
fn many_exports_at_once() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2]);
    let lab = Lab::new(Options::default())?;
    let twins = [Image::sparse(GIB / 2)?, Image::sparse(GIB / 2)?];
    let (large, fixed) = (Image::sparse(3 * GIB * 1024)?, Image::stamped(64)?);
    let (denied, last) = (Image::sparse(64)?, Image::sparse(2048)?);
    let mut config = "[defaults]\ninterfaces = [\"eth0\"]\n".to_owned();
    for (shelf, slot, image, line) in [
        (1, 1, &twins[0], ""),
        (1, 2, &twins[1], ""),
        (2, 1, &large, ""),
        (3, 1, &fixed, "read_only = true"),
        (4, 1, &denied, "allow = [\"02:00:00:00:00:77\"]"),
        (65534, 254, &last, ""),
    ] {
        config += &format!(
            "[[export]]\nshelf = {shelf}\nslot = {slot}\npath = {:?}\n{line}\n",
            image.as_str()
        );
    }
    std::fs::write(fixed.directory().join("xblade.toml"), config)?;
    let _target = Target::ready(&lab.target, &daemon(fixed.directory())?, 6)?;

    let mut vm = Guest::new(MANY).boot(&lab)?;
    vm.expect("visible")?;
    let sums = vm.expect("twins")?;
    let ours = [sha256(&twins[0], 0, 32768)?, sha256(&twins[1], 0, 32768)?];
    ensure!(
        sums == ours.join(" "),
        "the images hold {ours:?}, the guest wrote {sums}"
    );
    let far = vm.expect("far")?;
    for lba in [(1 << 28) - 8, (1 << 32) - 8, 3 * GIB * 1024 - 16] {
        ensure!(
            sha256(&large, lba, 16)? == far,
            "what was written at {lba} is not there"
        );
    }
    vm.expect("read-only")?;
    let expected: Vec<u8> = (0..64).flat_map(lab::image::stamp).collect();
    ensure!(fixed.read(0, 64)? == expected, "the read-only image has changed");
    vm.expect("last")?;
    ensure!(sha256(&last, 2032, 16)? == far);
    vm.finish()
}
