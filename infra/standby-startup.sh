#!/bin/bash
# Prepares a standby. Runs as root at every start, and is safe to repeat: after a stop, on a re-created machine with the old data
# disk, or twice in a row. The data disk may hold the only copy of somebody's work, so it is formatted only when it is proven blank;
# whatever is not understood is left as it is, and the machine does not call itself ready.
#
# Only the tests set these:
#   WARMSPARE_DISK          the data disk
#   WARMSPARE_MOUNT_POINT   where it is mounted
#   WARMSPARE_ROOT_ETC      the directory of system settings
#   WARMSPARE_METADATA_URL  the metadata server
#   WARMSPARE_WAIT_SECONDS  how long to wait for the disk, for the host key, and for other users of apt
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

disk=${WARMSPARE_DISK:-/dev/disk/by-id/google-data}
mount_point=${WARMSPARE_MOUNT_POINT:-/var/lib/warmspare}
etc=${WARMSPARE_ROOT_ETC:-/etc}
metadata_url=${WARMSPARE_METADATA_URL:-http://metadata.google.internal}
wait_seconds=${WARMSPARE_WAIT_SECONDS:-120}
label=warmspare
mib=1048576

main() {
    # The mark of the last start would say that this one has mounted the disk.
    metadata DELETE guest-attributes/warmspare/ready >/dev/null 2>&1 || true
    wait_until test -b "$disk" ||
        die "the data disk $disk did not appear within $wait_seconds s. Nothing was changed. Attach it with the device name 'data', then start the machine again."
    disk=$(realpath "$disk")
    install_packages
    refuse_a_second_copy
    format_if_blank
    mount_disk
    fill_disk
    allow_login
    harden_sshd
    publish
}

say() {
    printf 'warmspare: %s\n' "$*"
    logger -t warmspare -- "$*" 2>/dev/null || true
}

die() {
    say "FAILED: $*" >&2
    exit 1
}

wait_until() {
    local deadline=$((SECONDS + wait_seconds))
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 1
    done
}

metadata() { # method, path, more arguments of curl
    curl -sS -f --noproxy '*' --max-time 10 --retry 5 --retry-connrefused --retry-max-time 30 \
        -X "$1" -H 'Metadata-Flavor: Google' "${@:3}" "$metadata_url/computeMetadata/v1/instance/$2"
}

install_packages() {
    local packages=()
    command -v rsync >/dev/null || packages+=(rsync)
    command -v mkfs.btrfs >/dev/null || packages+=(btrfs-progs)
    command -v visudo >/dev/null || packages+=(sudo)
    [ "${#packages[@]}" -gt 0 ] || return 0
    say "installing ${packages[*]}"
    wait_until apt_install "${packages[@]}" ||
        die "cannot install ${packages[*]}: apt failed for $wait_seconds s. The data disk was not touched. Check that the machine reaches its package mirror, then start it again."
}

apt_install() {
    # A fresh image updates itself while this runs. The time-out covers the lock of dpkg but not that of the package lists, so the caller repeats.
    local apt=(apt-get -q -o DPkg::Lock::Timeout=120)
    "${apt[@]}" update && DEBIAN_FRONTEND=noninteractive "${apt[@]}" install -y --no-install-recommends "$@"
}

# Two disks with our label: one is a copy of the other, and only a person knows which one counts.
refuse_a_second_copy() {
    local entry device
    for entry in /sys/class/block/*; do
        device=/dev/$(basename "$entry" | tr '!' '/')
        [ -b "$device" ] && [ "$(realpath "$device")" != "$disk" ] || continue
        [ "$(tag LABEL "$device")" != "$label" ] ||
            die "the disk $device has the label $label too, but the data disk is $disk. Nothing was mounted or changed. Detach the one that is not the standby's, then start the machine again."
    done
}

tag() { # name, device
    blkid -p -o value -s "$1" "$2" 2>/dev/null || true
}

format_if_blank() {
    local status=0
    blkid -p "$disk" >/dev/null 2>&1 || status=$?
    case $status in
        0) return ;;
        # blkid says the same when it cannot read the disk, so that alone proves nothing.
        2) ;;
        8) refuse "its content is ambiguous: it looks like several things at once" ;;
        *) refuse "blkid could not examine it (status $status)" ;;
    esac
    local signatures
    signatures=$(wipefs -n "$disk") || refuse "wipefs could not examine it"
    [ -z "$signatures" ] || refuse "it carries signatures: $signatures"
    refuse_unless_zero
    say "formatting $disk, which is blank"
    # Without -f: mkfs looks for other file systems itself, and may have the last word.
    mkfs.btrfs -q -L "$label" "$disk" >/dev/null || die "cannot format the blank disk $disk. There was no work on it. Check the disk, then start the machine again."
}

# Reads the first and the last MiB, the place of btrfs' second superblock, and samples between them.
refuse_unless_zero() {
    local size offset offsets=(0 $((64 * mib))) step
    size=$(blockdev --getsize64 "$disk") || refuse "its size is unknown"
    [ "$size" -ge $((128 * mib)) ] || refuse "it is too small: $size bytes"
    for step in {1..63}; do
        offsets+=($(((size - mib) * step / 63)))
    done
    for offset in "${offsets[@]}"; do
        local status=0
        cmp -s -n "$mib" -i "$offset:0" "$disk" /dev/zero || status=$?
        case $status in
            0) ;;
            1) refuse "there is unknown content near byte $offset" ;;
            *) refuse "it cannot be read near byte $offset" ;;
        esac
    done
}

refuse() {
    die "the data disk $disk is neither blank nor usable: $1. It was left exactly as it is. If it holds work, rescue that from a snapshot of it; if it holds nothing, run 'wipefs -a $disk && blkdiscard -z $disk'. Then start the machine again."
}

mount_disk() {
    # What a GPU sends is data, never a device or a set-uid program.
    local type device=$disk options=nodev,nosuid,noatime
    type=$(tag TYPE "$disk")
    case $type in
        btrfs) options+=,compress=zstd:1 ;;
        # Somebody chose it, and it works: recovery points then cost a copy each.
        ext4 | xfs) ;;
        *) refuse "it holds ${type:-a partition table or something unknown} where a btrfs, ext4 or xfs file system was expected" ;;
    esac
    mkdir -p "$mount_point"
    if mountpoint -q "$mount_point"; then
        device=$(findmnt -nvo SOURCE --mountpoint "$mount_point" | tail -n 1)
        [ "$(realpath "$device")" = "$disk" ] ||
            die "$device is mounted at $mount_point, but the data disk is $disk. Nothing was changed. Unmount it, then start the machine again."
    else
        # A disk made here goes by its label, so that what is mounted is what the search above found to be the only one.
        [ "$(tag LABEL "$disk")" != "$label" ] || device=$(blkid -c /dev/null -L "$label") || device=nowhere
        [ "$(realpath "$device")" = "$disk" ] || die "looked up by its label $label the data disk is $device, not $disk. Start it again."
        mount -t "$type" -o "$options" "$device" "$mount_point" ||
            die "cannot mount the $type file system of $disk. It was not formatted and not repaired. Make a snapshot of the disk, then look at dmesg."
    fi
    chmod 0700 "$mount_point"
    say "$disk ($type) is mounted at $mount_point"
}

fill_disk() {
    [ "$(tag TYPE "$disk")" = btrfs ] || return 0
    # A disk that did not grow still protects what fits on it.
    btrfs filesystem resize max "$mount_point" >/dev/null || say "WARNING: the file system could not grow to the size of $disk; it works as before"
}

allow_login() {
    local keys login file=$etc/sudoers.d/warmspare
    keys=$(metadata GET attributes/ssh-keys) || die "cannot read the login from the metadata server. The data disk is mounted and unharmed. Start the machine again."
    login=${keys%%:*}
    # It becomes a line of sudoers: a word that means something there must not get through.
    [[ $login =~ ^[a-z_][a-z0-9_-]{0,31}$ ]] || die "the metadata 'ssh-keys' begins with no login. The data disk is mounted and unharmed. Repair the metadata, then start the machine again."
    mkdir -p "$etc/sudoers.d"
    # sudo reads no file with a dot in its name, so a draft is never in force.
    (umask 0337 && rm -f "$file.draft" && printf '%s ALL=(root) NOPASSWD: ALL\n' "$login" >"$file.draft")
    visudo -c -q -f "$file.draft" || {
        rm -f "$file.draft"
        die "visudo refuses the rule for $login; sudo is as it was. The data disk is mounted and unharmed."
    }
    mv -f "$file.draft" "$file"
}

harden_sshd() {
    local sshd settings complaint wanted file=$etc/ssh/sshd_config.d/00-warmspare.conf
    # sshd wants to be called by its full path.
    sshd=$(command -v sshd) || die "there is no sshd. The data disk is mounted and unharmed. Use an image that has an SSH server."
    # sshd keeps the first value it reads, so the name has to sort before those of the image's own files.
    settings=$'PubkeyAuthentication yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin no'
    # Only the running service makes this directory, and sshd checks nothing without it.
    mkdir -p /run/sshd "${file%/*}"
    rm -f "$file.before"
    [ ! -e "$file" ] || cp -p "$file" "$file.before"
    printf '%s\n' "$settings" >"$file.draft"
    chmod 0644 "$file.draft"
    mv -f "$file.draft" "$file"
    if ! complaint=$("$sshd" -t -f "$etc/ssh/sshd_config" 2>&1); then
        rm -f "$file"
        [ ! -e "$file.before" ] || mv -f "$file.before" "$file"
        die "sshd refuses its settings with ours among them: $complaint. They are as they were, and sshd was not reloaded. The data disk is mounted and unharmed. Repair $etc/ssh, then start the machine again."
    fi
    rm -f "$file.before"
    complaint=$("$sshd" -T -f "$etc/ssh/sshd_config") || die "sshd does not say what is in force. The data disk is mounted and unharmed."
    while read -r wanted; do
        grep -qixF "$wanted" <<<"$complaint" || die "sshd does not obey '$wanted': another file in $etc/ssh comes first. The data disk is mounted and unharmed. Remove that line, then start the machine again."
    done <<<"$settings"
    # Does nothing when sshd has not started yet or starts per connection: it then reads the new settings anyway.
    systemctl try-reload-or-restart ssh || systemctl try-reload-or-restart sshd ||
        die "sshd could not be reloaded, so older settings are in force. The data disk is mounted and unharmed. Start the machine again."
}

# Google's guest agent publishes the host key on the first boot only, and not every image has that agent.
publish() {
    local kind blob file=$etc/ssh/ssh_host_ed25519_key.pub
    wait_until test -s "$file" || die "sshd has no ed25519 host key. The data disk is mounted and unharmed. Make one with 'ssh-keygen -A', then start the machine again."
    read -r kind blob _ <"$file" || true
    [[ $kind == ssh-ed25519 && $blob =~ ^[A-Za-z0-9+/]+=*$ ]] || die "$file holds no ed25519 key. The data disk is mounted and unharmed."
    local refused="the metadata server refuses guest attributes. The data disk is mounted and unharmed. Set enable-guest-attributes to TRUE and check that the organisation allows them, then start the machine again."
    metadata PUT guest-attributes/hostkeys/ssh-ed25519 --data "$blob" >/dev/null || die "$refused"
    metadata PUT guest-attributes/warmspare/ready --data true >/dev/null || die "$refused"
    say "ready"
}

trap 'say "FAILED: start-up stopped at line $LINENO: $BASH_COMMAND. The machine is not ready; the disk was not formatted unless a line above says so." >&2' ERR
set -E
main
