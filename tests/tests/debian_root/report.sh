#!/bin/sh
# In the guest, when systemd has started all: looks at what the package promises, says so on the serial line and switches the machine off.
exec >/dev/ttyS0 2>&1
fail() {
    echo
    echo "@@fail $*"
    systemctl --no-pager --failed
    ls -l /dev/etherd /dev/aoe /dev/disk/by-*
    findmnt
    sleep 2
    systemctl poweroff --force --force
    exit
}
is() {
    [ "$(readlink -f "$1")" = "$2" ] || fail "$1 is $(readlink -f "$1"), not $2"
}
ok() {
    echo
    echo "@@ok $*"
}
state=$(systemctl is-system-running --wait)
[ "$state" = running ] || fail "systemd is $state"
ok systemd

[ "$(findmnt --noheadings --output SOURCE /)" = /dev/etherd/e12.9p1 ] || fail root
is "/dev/disk/by-uuid/@UUID@" /dev/etherd/e12.9p1
is /dev/aoe/12.9 /dev/etherd/e12.9
is /dev/aoe/12.9-part1 /dev/etherd/e12.9p1
# The model, and the serial number that the export has in its config.
is "$(echo /dev/disk/by-id/aoe-*_lab-serial-1)" /dev/etherd/e12.9
is "$(echo /dev/disk/by-id/aoe-*_lab-serial-1-part1)" /dev/etherd/e12.9p1
ls /dev/disk/by-partuuid/* >/dev/null || fail by-partuuid
[ "$(findmnt --noheadings --output SOURCE /srv)" = /dev/etherd/e12.10 ] || fail /srv
is /dev/disk/by-label/data /dev/etherd/e12.10
ok names

# A file system that is made on a disk has its names at once.
mke2fs -q -t ext4 -F -L fresh /dev/etherd/e12.11 || fail mke2fs
udevadm settle --timeout=60
is /dev/disk/by-label/fresh /dev/etherd/e12.11
ok fresh

# What the example of the driver's options says are its defaults.
grep -c '^#options aoe ' /etc/modprobe.d/aoe.conf | grep -q '^3$' || fail options
sed -n 's/^#options aoe \([a-z_]*\)=\([0-9]*\)$/\1 \2/p' /etc/modprobe.d/aoe.conf | while read -r name value; do
    [ "$(cat "/sys/module/aoe/parameters/$name")" = "$value" ] || echo "$name"
done >/run/differs
[ -s /run/differs ] && fail "not the default: $(cat /run/differs)"
ok options

dd if=/dev/urandom of=/written bs=1M count=8 2>/dev/null
sha256sum </written | cut -d' ' -f1 >/sum
cp /sum /srv/sum
ok written "$(cat /sum)"
systemctl poweroff
