//! Linux's aoe driver in a virtual machine, on one link: discovery, size, file system, fio, partitions, growth,
//! QEMU's block layer; at MTU 1500 and at MTU 9000, where it must use requests of 17 sectors.

use std::os::unix::fs::FileExt;

use anyhow::{Result, ensure};
use lab::needs::Need;
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
