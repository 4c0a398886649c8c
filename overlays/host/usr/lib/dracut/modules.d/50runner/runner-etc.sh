#!/bin/sh
# Lays a memory-backed layer over the image's /etc, so that nothing written
# there outlives the boot by accident, and puts into it what must: the machine
# id, kept in /var/lib/runner/host. The image's own files always win, because
# nothing else is kept.
set -eu
etc=/sysroot/etc
keep=/sysroot/var/lib/runner/host

mkdir -p /run/etc/upper /run/etc/work
chmod 0755 /run/etc/upper
mount -t overlay -o "lowerdir=$etc,upperdir=/run/etc/upper,workdir=/run/etc/work" overlay "$etc"

mkdir -p "$keep"
if [ -s "$keep/machine-id" ]; then
    cat "$keep/machine-id" >"$etc/machine-id"
else
    # systemd-machine-id-setup(1) takes the firmware's or hypervisor's id if
    # there is one, and a random one if not.
    systemd-machine-id-setup --root=/sysroot
    cp "$etc/machine-id" "$keep/.machine-id.tmp"
    sync -f "$keep/.machine-id.tmp"
    mv "$keep/.machine-id.tmp" "$keep/machine-id"
    sync -f "$keep"
fi
chmod 0444 "$etc/machine-id"

# cloud-init remembers which hostname it wrote to /etc, and would not write it
# again to the new one.
rm -f /sysroot/var/lib/cloud/data/set-hostname /sysroot/var/lib/cloud/data/previous-hostname
