#!/bin/busybox sh
# First part of every guest's init: mounts, modules, and the words the scripts are written in.
/bin/busybox --install -s /bin
export PATH=/opt:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
stty -echo

ok() { echo; echo "@@ok $*"; }
finish() { echo; echo "@@done"; poweroff -f; sleep 60; }
fail() { echo; echo "@@fail $*"; dmesg | tail -n 30; finish; }
# Stands here till the test says go.
point() { echo; echo "@@point $*"; read -r _; }
# must COMMAND…: it has to succeed.  mustnt COMMAND…: it has to fail.
must() { "$@" >/tmp/out 2>&1 || { cat /tmp/out; fail "$*"; }; }
mustnt() { "$@" >/tmp/out 2>&1 && { cat /tmp/out; fail "succeeded: $*"; }; }
# within SECONDS COMMAND…: it has to succeed, tried every 0.1 s; on a busy machine it may take ten times as long.
within() {
    tries=$(($1 * 100)); what="$*"; shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || fail "within $what"
        sleep 0.1
    done
}
# Seconds and hundredths since boot.
now() { cut -d' ' -f1 /proc/uptime | tr -d .; }
aoe_up() { insmod /modules/aoe.ko "$@"; }

for module in /modules/[0-9]*; do insmod "$module" || fail "insmod $module"; done
for card in /sys/class/net/e*; do ip link set "${card##*/}" up; done
sleep 0.2
