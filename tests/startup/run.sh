#!/bin/bash
# Runs infra/standby-startup.sh for real: real mkfs, mount, sshd and visudo on loop devices, in a mount namespace of its own.
# Only apt-get and systemctl are stand-ins, because they would change this machine.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
script=$here/../../infra/standby-startup.sh
PATH=$PATH:/usr/sbin:/sbin
mapfile -t tests < <(sed -n 's/^test_\([a-z0-9_]*\)() {$/\1/p' "$here/run.sh")

summary() { # passed, failed, skipped; the second line is cargo's, so that whoever sums cargo's lines counts these tests too
    echo "$1 passed, $2 failed"
    local word=ok
    [ "$2" -eq 0 ] || word=FAILED
    echo "test result: $word. $1 passed; $2 failed; $3 ignored; 0 measured; 0 filtered out"
}

skip() {
    echo "SKIPPED: the start-up script was not tested: $1"
    summary 0 0 "${#tests[@]}"
    exit 0
}

if [ "${1:-}" != inside ]; then
    [ "$(id -u)" -eq 0 ] || skip "needs root"
    for program in unshare losetup mkfs.btrfs btrfs mkfs.ext4 blkid wipefs sshd ssh-keygen visudo curl python3 rsync flock sha256sum; do
        command -v "$program" >/dev/null || skip "needs $program"
    done
    losetup -f >/dev/null 2>&1 || skip "needs loop devices"
    grep -qw btrfs /proc/filesystems || modprobe btrfs 2>/dev/null || skip "the kernel has no btrfs"
    unshare -m --propagation private mount -t tmpfs none /run 2>/dev/null || skip "needs mount namespaces"
    exec unshare -m --propagation private "$here/run.sh" inside
fi

# One run at a time: disks with the same label are what the script refuses.
exec 8>/var/tmp/warmspare-startup.lock
flock -w 300 8 || { echo "FAILED: another run holds the lock for 300 s"; exit 1; }
work=$(mktemp -d /var/tmp/warmspare-startup.XXXXXX)
server=
cleanup() {
    local image device
    cd /
    while mountpoint -q "$work/mnt"; do umount "$work/mnt" || umount -l "$work/mnt"; done
    for image in "$work"/*/*.img; do
        losetup -j "$image" 2>/dev/null | cut -d: -f1 | while read -r device; do losetup -d "$device"; done
    done
    [ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
# sshd's directory appears here and not on this machine.
mount -t tmpfs -o mode=0755 none /run

python3 "$here/metadata.py" "$work/port" "$work/attributes" "$work/refuse" "$work/keys" 8>&- &
server=$!
for _ in {1..100}; do [ ! -s "$work/port" ] && sleep 0.1; done
[ -s "$work/port" ] || { echo "FAILED: the metadata server did not start"; exit 1; }

mkdir "$work/bin" "$work/mnt"
cat >"$work/bin/systemctl" <<'FAKE'
#!/bin/bash
echo "$*" >>"$SPACE/systemctl"
FAKE
# Another program holds apt's lock the first time; an installation puts rsync where the machine finds it.
cat >"$work/bin/apt-get" <<'FAKE'
#!/bin/bash
echo "$*" >>"$SPACE/apt"
[ "$(wc -l <"$SPACE/apt")" -gt 1 ] || { echo "E: Could not get lock" >&2; exit 100; }
[[ " $* " != *" install "* ]] || ln -s /bin/true "$SPACE/installed/rsync"
FAKE
chmod +x "$work/bin/systemctl" "$work/bin/apt-get"

# --- what the tests are written in ---------------------------------------------------------------------------------------------------

# A machine as its image makes it: settings, host key, nothing mounted.
new_machine() {
    while mountpoint -q "$work/mnt"; do umount "$work/mnt" || return 1; done
    rm -rf "${space:?}/etc" "$work/attributes" "$work/refuse" "$space/systemctl"
    : >"$work/attributes"
    printf '%s:ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 key\n' standby other >"$work/keys"
    mkdir -p "$space/etc/ssh/sshd_config.d" "$space/etc/sudoers.d"
    ssh-keygen -q -t ed25519 -N '' -C '' -f "$space/etc/ssh/ssh_host_ed25519_key"
    printf 'HostKey %s\nInclude %s\n' "$space/etc/ssh/ssh_host_ed25519_key" "$space/etc/ssh/sshd_config.d/*.conf" >"$space/etc/ssh/sshd_config"
    # What some images bring along.
    echo 'PasswordAuthentication yes' >"$space/etc/ssh/sshd_config.d/50-cloud-init.conf"
}

new_disk() { # name, size: prints the device
    truncate -s "$2" "$space/$1.img" && losetup -f --show "$space/$1.img"
}

start() { # more environment; the words go to $space/said
    env "SPACE=$space" "PATH=$work/bin:$PATH" "WARMSPARE_DISK=$disk" "WARMSPARE_MOUNT_POINT=$work/mnt" "WARMSPARE_ROOT_ETC=$space/etc" \
        "WARMSPARE_METADATA_URL=http://127.0.0.1:$(<"$work/port")" WARMSPARE_WAIT_SECONDS=2 "$@" bash "$script" >"$space/said" 2>&1 8>&-
}

fail() {
    echo "$*" >"$space/why"
    exit 1
}

skip_test() {
    echo "$*" >"$space/why"
    exit 77
}

starts() { start "$@" || fail "did not start: $(<"$space/said")"; }

refuses() { # a word that the message must have, more environment
    start "${@:2}" && fail "started, but should refuse: $(<"$space/said")"
    grep -q "FAILED: .*$1" "$space/said" || fail "does not say '$1': $(<"$space/said")"
    is_not_ready
}

is_ready() { [ "$(tail -n 1 "$work/attributes")" = "PUT warmspare/ready true" ] || fail "not ready: $(<"$work/attributes")"; }
is_not_ready() { ! grep -q 'PUT warmspare/ready' "$work/attributes" || fail "calls itself ready"; }
is_mounted() { mountpoint -q "$work/mnt" || fail "nothing is mounted"; }
is_not_mounted() { ! mountpoint -q "$work/mnt" || fail "something is mounted"; }
uuid() { blkid -p -o value -s UUID "$disk"; }
same() { [ "$1" = "$2" ] || fail "$3: '$1' became '$2'"; }

# Starts, and demands a refusal that leaves every byte of the disk as it was.
refuses_untouched() {
    local before
    sync
    blockdev --flushbufs "$disk"
    before=$(sha256sum <"$disk")
    refuses "$1"
    is_not_mounted
    sync
    blockdev --flushbufs "$disk"
    same "$before" "$(sha256sum <"$disk")" "the disk changed"
}

write_at() { # offset; standard input
    dd of="$disk" bs=1 seek="$1" conv=notrunc,fsync status=none
}

# --- the tests -----------------------------------------------------------------------------------------------------------------------

test_blank_disk_is_formatted_and_mounted() {
    starts
    is_mounted
    is_ready
    same btrfs "$(findmnt -no FSTYPE "$work/mnt")" "file system"
    same warmspare "$(blkid -p -o value -s LABEL "$disk")" "label"
    same 700 "$(stat -c %a "$work/mnt")" "mode of the mount point"
    local option
    for option in nodev nosuid noatime compress=zstd:1; do
        findmnt -no OPTIONS "$work/mnt" | tr , '\n' | grep -qx "$option" || fail "mounted without $option"
    done
}

test_second_start_changes_nothing() {
    starts
    echo work >"$work/mnt/file"
    local before settings
    before=$(uuid)
    settings=$(find "$space/etc" -type f -exec sha256sum {} + | sort)
    starts
    is_ready
    same "$before" "$(uuid)" "the file system"
    same work "$(<"$work/mnt/file")" "the file"
    same "$settings" "$(find "$space/etc" -type f -exec sha256sum {} + | sort)" "the settings"
    same 1 "$(findmnt -rno TARGET "$work/mnt" | wc -l)" "mounts"
    ! grep -q formatting "$space/said" || fail "formatted again"
}

test_stopped_machine_keeps_its_files() {
    starts
    echo work >"$work/mnt/file"
    umount "$work/mnt"
    : >"$work/attributes"
    starts
    is_ready
    same work "$(<"$work/mnt/file")" "the file"
}

test_recreated_machine_keeps_its_files() {
    starts
    echo work >"$work/mnt/file"
    local before
    before=$(uuid)
    umount "$work/mnt"
    losetup -d "$disk"
    new_machine
    disk=$(losetup -f --show "$space/data.img")
    starts
    is_ready
    same "$before" "$(uuid)" "the file system"
    same work "$(<"$work/mnt/file")" "the file"
    grep -qF "PUT hostkeys/ssh-ed25519 $(cut -d' ' -f2 "$space/etc/ssh/ssh_host_ed25519_key.pub")" "$work/attributes" || fail "published no new host key"
}

test_restart_of_the_script_in_another_namespace_keeps_the_files() {
    starts
    echo work >"$work/mnt/file"
    umount "$work/mnt"
    export -f start
    export space work disk script
    # shellcheck disable=SC2016 # the shell in the namespace expands it
    unshare -m --propagation private bash -c 'start && cat "$work/mnt/file"' >"$space/seen" || fail "did not start: $(<"$space/said")"
    same work "$(<"$space/seen")" "the file"
    is_not_mounted
}

test_ext4_disk_is_mounted_and_not_formatted() {
    mkfs.ext4 -q -L mine "$disk"
    mount "$disk" "$work/mnt" && echo work >"$work/mnt/file" && umount "$work/mnt"
    local before
    before=$(uuid)
    starts
    is_ready
    same "$before" "$(uuid)" "the file system"
    same ext4 "$(findmnt -no FSTYPE "$work/mnt")" "file system"
    same work "$(<"$work/mnt/file")" "the file"
}

test_btrfs_disk_without_label_is_mounted_and_not_formatted() {
    mkfs.btrfs -q "$disk"
    local before
    before=$(uuid)
    starts
    is_ready
    same "$before" "$(uuid)" "the file system"
}

test_partition_table_is_refused() {
    # One Linux partition from sector 2048 on, and the signature of a master boot record.
    printf '\0\0\0\0\203\0\0\0\0\010\0\0\0\0\001\0' | write_at 446
    printf '\125\252' | write_at 510
    refuses_untouched "partition table"
}

test_physical_volume_of_lvm_is_refused() {
    # Label sector of LVM2: magic, sector, checksum over what follows, offset of the header, type; then the volume's id and size.
    python3 -c '
import struct, sys
body = struct.pack("<I8s", 32, b"LVM2 001") + b"a" * 32 + struct.pack("<Q", 256 << 20)
body = body.ljust(492, b"\0")
crc = 0xf597a6cf
for byte in body:
    crc ^= byte
    for _ in range(8):
        crc = (crc >> 1) ^ (0xedb88320 if crc & 1 else 0)
sys.stdout.buffer.write(b"LABELONE" + struct.pack("<QI", 1, crc) + body)' | write_at 512
    same LVM2_member "$(blkid -p -o value -s TYPE "$disk")" "what the test made"
    refuses_untouched LVM2_member
}

test_swap_is_refused() {
    mkswap "$disk" >/dev/null
    refuses_untouched swap
}

test_unknown_content_at_the_start_is_refused() {
    head -c 65536 /dev/urandom | write_at 4096
    refuses_untouched "unknown content near byte 0"
}

test_unknown_content_at_the_end_is_refused() {
    printf x | write_at $(((256 << 20) - 1))
    refuses_untouched "unknown content"
}

test_unknown_content_in_the_middle_is_refused() {
    # Where btrfs keeps its second superblock: the first one was overwritten, the data may be whole.
    printf x | write_at $(((64 << 20) + 64))
    refuses_untouched "unknown content"
}

test_formatting_that_was_cut_off_is_refused() {
    # Until it is done, mkfs.btrfs writes this in place of the magic number, which nothing recognises.
    mkfs.btrfs -q "$disk"
    printf '!BHRfS_M' | write_at $((65536 + 64))
    refuses_untouched "neither blank nor usable"
}

test_ambiguous_content_is_refused() {
    mkfs.ext4 -q "$disk"
    printf '\1\0\0\0\377\0\0\0' | write_at 1024
    printf 'SWAPSPACE2' | write_at 4086
    refuses_untouched ambiguous
}

test_damaged_ext4_is_refused() {
    mkfs.ext4 -q -b 1024 "$disk"
    # The group descriptors behind the superblock: it still says ext4, but mounting fails.
    head -c 8192 /dev/urandom | write_at 2048
    refuses_untouched "cannot mount the ext4"
}

test_unreadable_disk_is_refused() {
    # blkid calls such a disk empty.
    truncate -s 100M "$space/data.img"
    refuses "cannot be read"
    is_not_mounted
    same "$((100 << 20))" "$(stat -c %s "$space/data.img")" "size"
    cmp -s -n $((100 << 20)) "$space/data.img" /dev/zero || fail "the disk changed"
}

test_second_disk_with_the_label_is_refused() {
    mkfs.btrfs -q -L warmspare "$disk"
    local other
    other=$(new_disk other 256M)
    mkfs.btrfs -q -L warmspare "$other"
    refuses_untouched "$other has the label"
}

test_blank_disk_is_not_formatted_while_the_data_is_on_another() {
    local other
    other=$(new_disk other 256M)
    mkfs.btrfs -q -L warmspare "$other"
    refuses_untouched "$other has the label"
}

test_other_disk_at_the_mount_point_is_refused() {
    local other
    other=$(new_disk other 256M)
    mkfs.ext4 -q "$other" && mkfs.btrfs -q "$disk"
    mount "$other" "$work/mnt"
    refuses "$other is mounted at"
}

test_disk_that_appears_late_is_waited_for() {
    local device=$disk waiter
    disk=$space/google-data
    (sleep 1.5 && ln -s "$device" "$disk") &
    waiter=$!
    starts WARMSPARE_WAIT_SECONDS=20
    wait "$waiter"
    is_mounted
    is_ready
}

test_missing_disk_is_a_clear_error() {
    disk=$space/google-data
    refuses "google-data did not appear within 2 s"
    is_not_mounted
}

test_grown_disk_is_filled() {
    starts
    echo work >"$work/mnt/file"
    umount "$work/mnt"
    truncate -s 512M "$space/data.img"
    losetup -c "$disk"
    starts
    is_ready
    same $((512 << 20)) "$(btrfs filesystem usage -b "$work/mnt" | sed -n 's/.*Device size:\s*//p')" "size"
    same work "$(<"$work/mnt/file")" "the file"
}

test_sshd_takes_keys_only() {
    starts
    local seen wanted
    seen=$("$(command -v sshd)" -T -f "$space/etc/ssh/sshd_config")
    for wanted in 'pubkeyauthentication yes' 'passwordauthentication no' 'kbdinteractiveauthentication no' 'permitrootlogin no'; do
        grep -qx "$wanted" <<<"$seen" || fail "sshd does not say $wanted"
    done
    same "try-reload-or-restart ssh" "$(<"$space/systemctl")" "what systemd was asked"
    same 1 "$(find "$space/etc/ssh/sshd_config.d" -name '*warmspare*' | wc -l)" "files of ours"
}

test_invalid_sshd_settings_are_rolled_back() {
    # With passwords off, sshd refuses to start.
    echo 'AuthenticationMethods password' >"$space/etc/ssh/sshd_config.d/60-mine.conf"
    refuses "sshd refuses its settings"
    is_mounted
    [ ! -e "$space/systemctl" ] || fail "sshd was reloaded"
    same "50-cloud-init.conf 60-mine.conf" "$(cd "$space/etc/ssh/sshd_config.d" && echo *)" "files"
    "$(command -v sshd)" -t -f "$space/etc/ssh/sshd_config" || fail "sshd cannot start"
}

test_rolled_back_sshd_settings_are_the_former_ones() {
    echo 'PermitRootLogin no' >"$space/etc/ssh/sshd_config.d/00-warmspare.conf"
    echo 'AuthenticationMethods password' >"$space/etc/ssh/sshd_config.d/60-mine.conf"
    refuses "sshd refuses its settings"
    same 'PermitRootLogin no' "$(<"$space/etc/ssh/sshd_config.d/00-warmspare.conf")" "settings"
}

test_sshd_settings_that_others_override_are_an_error() {
    sed -i '1i PasswordAuthentication yes' "$space/etc/ssh/sshd_config"
    refuses "sshd does not obey 'PasswordAuthentication no'"
}

test_host_keys_are_published_and_kept() {
    local before
    before=$(sha256sum "$space"/etc/ssh/ssh_host_*)
    starts
    same "$before" "$(sha256sum "$space"/etc/ssh/ssh_host_*)" "host keys"
    # Retracted first; ready comes last.
    same "DELETE warmspare/ready ;PUT hostkeys/ssh-ed25519 $(cut -d' ' -f2 "$space/etc/ssh/ssh_host_ed25519_key.pub");PUT warmspare/ready true" \
        "$(paste -sd';' "$work/attributes")" "attributes"
}

test_refused_guest_attributes_are_an_error() {
    touch "$work/refuse"
    refuses "enable-guest-attributes"
    is_mounted
}

test_readiness_of_the_last_start_is_retracted() {
    starts
    umount "$work/mnt"
    disk=$space/nowhere start && fail "started without a disk"
    same "DELETE warmspare/ready " "$(tail -n 1 "$work/attributes")" "last attribute"
}

test_login_may_use_sudo() {
    starts
    same 'standby ALL=(root) NOPASSWD: ALL' "$(<"$space/etc/sudoers.d/warmspare")" "rule"
    same 440 "$(stat -c %a "$space/etc/sudoers.d/warmspare")" "mode"
    same warmspare "$(cd "$space/etc/sudoers.d" && echo *)" "files"
}

test_login_that_means_something_to_sudo_is_refused() {
    local login
    for login in ALL '%sudo' '#0' 'a,b' 'a b' ''; do
        echo "$login:ssh-ed25519 AAAA" >"$work/keys"
        refuses "begins with no login"
        is_mounted
        same 0 "$(find "$space/etc/sudoers.d" -type f | wc -l)" "rules for '$login'"
    done
}

test_rule_that_visudo_refuses_is_not_in_force() {
    echo '# former' >"$space/etc/sudoers.d/warmspare"
    mkdir "$space/programs"
    ln -s /bin/false "$space/programs/visudo"
    refuses "visudo refuses" "PATH=$space/programs:$work/bin:$PATH"
    same '# former' "$(<"$space/etc/sudoers.d/warmspare")" "rule"
    same warmspare "$(cd "$space/etc/sudoers.d" && echo *)" "files"
}

test_apt_is_left_alone_when_nothing_is_missing() {
    starts
    [ ! -e "$space/apt" ] || fail "apt-get was called: $(<"$space/apt")"
}

test_missing_rsync_is_installed_once_apt_is_free() {
    # This machine's programs but rsync.
    mkdir "$space/programs" "$space/installed"
    local place
    for place in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin; do
        find "$place" -maxdepth 1 ! -name rsync ! -type d -exec ln -sft "$space/programs" {} +
    done
    starts "PATH=$work/bin:$space/installed:$space/programs" WARMSPARE_WAIT_SECONDS=20
    is_ready
    same 3 "$(wc -l <"$space/apt")" "calls of apt-get"
    grep -q 'DPkg::Lock::Timeout=120 install -y --no-install-recommends rsync$' "$space/apt" || fail "installed something else: $(<"$space/apt")"
}

test_the_scripts_are_clean() {
    command -v shellcheck >/dev/null || skip_test "no shellcheck here"
    shellcheck "$script" "$here/run.sh" >"$space/said" || fail "shellcheck: $(<"$space/said")"
}

# --- the run -------------------------------------------------------------------------------------------------------------------------

passed=0 failed=0 skipped=0
for name in "${tests[@]}"; do
    space=$work/$name
    mkdir "$space"
    (
        new_machine
        disk=$(new_disk data 256M) || fail "no loop device"
        "test_$name"
    ) >"$space/errors" 2>&1
    status=$?
    if [ "$status" -eq 0 ]; then
        echo "ok $name"
        passed=$((passed + 1))
    elif [ "$status" -eq 77 ]; then
        echo "SKIPPED $name: $(<"$space/why")"
        skipped=$((skipped + 1))
    else
        echo "FAILED $name: $(cat "$space/why" 2>/dev/null || echo "status $status: $(<"$space/errors")")"
        failed=$((failed + 1))
    fi
    while mountpoint -q "$work/mnt"; do umount "$work/mnt" || break; done
    for image in "$space"/*.img; do
        losetup -j "$image" | cut -d: -f1 | while read -r device; do losetup -d "$device"; done
        rm -f "$image"
    done
done
summary "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]
