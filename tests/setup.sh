#!/bin/sh
# Makes sure that the programs are there which the demo and the tests run for real. As root it installs them.
set -eu

missing=""
need() { # program, package
    for place in $(printf '%s' "$PATH" | tr ':' ' ') /usr/sbin /sbin; do
        [ -x "$place/$1" ] && return 0
    done
    case " $missing " in *" $2 "*) ;; *) missing="$missing $2" ;; esac
}

need rsync rsync
need ssh openssh-client
need ssh-keygen openssh-client
need sshd openssh-server
need openssl openssl
need setfattr attr
need cc build-essential
if [ "$(id -u)" -eq 0 ]; then # what mounts disks runs as root only
    need mkfs.btrfs btrfs-progs
    need mount mount
    need losetup mount
    need mkfs.ext4 e2fsprogs
    need visudo sudo
    need curl curl
    need python3 python3
    need ip iproute2
fi

if [ -n "$missing" ]; then
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "installing:$missing"
        apt-get update -qq
        # shellcheck disable=SC2086 # a list of package names
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
    else
        echo "missing Debian packages:$missing" >&2
        echo "get them with: sudo apt-get install$missing" >&2
        exit 1
    fi
fi

if ! command -v cargo >/dev/null; then
    echo "missing: Rust 1.95 or newer; see https://rustup.rs" >&2
    exit 1
fi
# sshd refuses to start as root without its privilege separation directory, which only the system service makes.
[ "$(id -u)" -ne 0 ] || mkdir -p /run/sshd
