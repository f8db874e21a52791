#!/bin/bash
# Root file systems on AoE, for dracut.

check() {
    require_binaries ip || return 1
    if [[ $hostonly ]] || [[ $mount_needs ]]; then
        # Where the machine's own root is on one.
        is_aoe() { [[ $(readlink -f "/sys/dev/block/$1") == */etherd\!* ]]; }
        for_each_host_dev_and_slaves is_aoe || return 255
        return 0
    fi
    return 0
}

depends() {
    echo rootfs-block udev-rules
}

installkernel() {
    hostonly='' instmods aoe
    # All, also for a machine that is not this one.
    hostonly='' instmods =drivers/net/ethernet =drivers/net/phy virtio_net vmxnet3 hv_netvsc xen-netfront
}

install() {
    inst_multiple ip
    inst_rules 61-aoe.rules
    inst_multiple -o /etc/modprobe.d/aoe.conf
    inst_simple /usr/share/xblade-initiator/functions /lib/aoe-functions
    inst_hook initqueue/settled 30 "$moddir/aoe.sh"
}
