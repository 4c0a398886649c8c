#!/bin/sh
# Succeeds if the disk has only one slot, that is, before systemd-repart has added
# slot B.
set -eu
root_type=4f68bce3-e8cd-4db1-96e7-fbcaf984b709 # Discoverable Partitions: root, x86-64
part=$(readlink -f /dev/disk/by-partlabel/runner-var)
name=${part##*/}
disk=$(readlink -f "/sys/class/block/$name/..")
slots=$(sfdisk --dump "/dev/${disk##*/}" | grep -ic "type=$root_type") || true
[ "$slots" -lt 2 ]
