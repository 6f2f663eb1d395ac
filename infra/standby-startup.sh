#!/bin/bash
# Runs as root at every start of a standby. Safe to repeat: it formats the data disk only when that is blank.
set -euo pipefail

disk=/dev/disk/by-id/google-data
mount_point=/var/lib/warmspare
login=$(curl -sf -H 'Metadata-Flavor: Google' \
    http://metadata.google.internal/computeMetadata/v1/instance/attributes/ssh-keys | head -n 1 | cut -d: -f1)

packages=()
command -v rsync >/dev/null || packages+=(rsync)
command -v mkfs.btrfs >/dev/null || packages+=(btrfs-progs)
if [ "${#packages[@]}" -gt 0 ]; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}"
fi

# A disk with any known content is never formatted: it may be the only copy.
if [ -z "$(blkid -p -o value -s TYPE "$disk" 2>/dev/null || true)" ] && [ -z "$(wipefs -n "$disk")" ]; then
    mkfs.btrfs -q -L warmspare "$disk"
fi
mkdir -p "$mount_point"
# What a GPU sends is data, never a device or a set-uid program.
mountpoint -q "$mount_point" || mount -o nodev,nosuid,noatime,compress=zstd:1 "$disk" "$mount_point"
chmod 0700 "$mount_point"
if [ -n "$login" ] && [ ! -e "/etc/sudoers.d/warmspare" ]; then
    printf '%s ALL=(root) NOPASSWD: ALL\n' "$login" > /etc/sudoers.d/warmspare
    chmod 0440 /etc/sudoers.d/warmspare
fi

printf 'PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin no\n' > /etc/ssh/sshd_config.d/warmspare.conf
systemctl reload ssh || systemctl reload sshd
