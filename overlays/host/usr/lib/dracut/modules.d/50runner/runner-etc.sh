#!/bin/sh
# Mounts an overlay over the image's /etc. Its upper layer is in memory, so nothing
# written to /etc outlives the boot by accident, and a file of a later image is
# never hidden by an older copy. The machine id has to outlive the boot: it is
# kept in /var/lib/runner/host and copied into the overlay.
set -eu
etc=/sysroot/etc
keep=/sysroot/var/lib/runner/host

mkdir -p /run/etc/upper /run/etc/work
chmod 0755 /run/etc/upper
mount -t overlay -o "lowerdir=$etc,upperdir=/run/etc/upper,workdir=/run/etc/work" overlay "$etc"

mkdir -p "$keep"
# While a reset is under way the appliance is another one (runner-reset.service).
if [ -e /sysroot/var/lib/runner/reset.json ]; then
    rm -f "$keep/machine-id"
fi
if [ -s "$keep/machine-id" ]; then
    cat "$keep/machine-id" >"$etc/machine-id"
else
    # systemd-machine-id-setup(1) uses the id of the firmware or hypervisor if
    # there is one, and a random id otherwise.
    systemd-machine-id-setup --root=/sysroot
    cp "$etc/machine-id" "$keep/.machine-id.tmp"
    sync -f "$keep/.machine-id.tmp"
    mv "$keep/.machine-id.tmp" "$keep/machine-id"
    sync -f "$keep"
fi
chmod 0444 "$etc/machine-id"

# cloud-init remembers which host name it wrote to /etc, and would not write it
# again into the new /etc.
rm -f /sysroot/var/lib/cloud/data/set-hostname /sysroot/var/lib/cloud/data/previous-hostname

# A power cut during the first boot leaves cloud-init with notes of what it has done
# and with empty files: it would fail at every boot, and config.env would stay empty.
# Until it has marked its work as durable, each boot is the first
# (cloud-init-network.service.d/50-runner.conf).
if [ ! -e /sysroot/var/lib/cloud/seed-applied ]; then
    for dir in data instance instances sem; do
        rm -rf "/sysroot/var/lib/cloud/$dir"
    done
fi
