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
    # Interfaces have the names here that they have afterwards.
    inst_rules 75-net-description.rules 80-net-setup-link.rules
    inst_multiple -o /usr/lib/systemd/network/99-default.link /lib/systemd/network/99-default.link
    inst_multiple -o /etc/modprobe.d/aoe.conf
    inst_simple /usr/share/xblade-initiator/functions /lib/aoe-functions
    inst_hook initqueue/settled 30 "$moddir/aoe.sh"
    # Newer versions run that queue only where a module says so.
    if declare -F dracut_need_initqueue >/dev/null; then
        dracut_need_initqueue
    fi
}
