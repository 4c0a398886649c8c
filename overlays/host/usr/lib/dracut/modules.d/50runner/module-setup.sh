#!/bin/bash
# shellcheck disable=SC2154 # dracut sets moddir, initdir, systemdsystemunitdir
# shellcheck disable=SC2317 # dracut calls the functions
# dracut module: mounts /var and the transient /etc before the switch to the real
# root.

check() {
    require_binaries mount mkfs.ext4 e2fsck sfdisk || return 1
    return 255
}

depends() {
    echo systemd systemd-repart fs-lib
}

install() {
    inst_multiple mount mkdir cp chmod mv rm cat sync readlink grep systemd-machine-id-setup sfdisk e2fsck
    inst_script "$moddir/runner-etc.sh" /usr/lib/runner/runner-etc
    inst_script "$moddir/runner-first-layout.sh" /usr/lib/runner/runner-first-layout
    inst_simple "$moddir/sysroot-var.mount" "$systemdsystemunitdir/sysroot-var.mount"
    inst_simple "$moddir/runner-etc.service" "$systemdsystemunitdir/runner-etc.service"
    inst_simple "$moddir/systemd-repart.conf" "$systemdsystemunitdir/systemd-repart.service.d/50-runner.conf"
    $SYSTEMCTL -q --root "$initdir" add-wants initrd-root-fs.target systemd-repart.service
    $SYSTEMCTL -q --root "$initdir" add-requires initrd-fs.target sysroot-var.mount
    $SYSTEMCTL -q --root "$initdir" add-requires initrd-fs.target runner-etc.service
}
