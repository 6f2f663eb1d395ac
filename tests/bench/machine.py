"""A machine to measure against: a real sshd on loopback, whose CPU time is counted with everything else that a work starts."""

import ctypes
import os
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36  # Source: linux/prctl.h.


def adopt_orphans():
    """What a work leaves in the background becomes our child, so that its CPU time is counted and it can be ended."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children_of(root):
    """Every process below `root`."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path("/proc", entry, "stat").read_text()
            except OSError:
                continue
            parents[int(entry)] = int(stat.rsplit(")", 1)[1].split()[1])
    found, waiting = [], [root]
    while waiting:
        parent = waiting.pop()
        below = [pid for pid, its in parents.items() if its == parent]
        found += below
        waiting += below
    return found


def end_children():
    """Ends and reaps whatever is still below us."""
    until = time.monotonic() + 10
    while children_of(os.getpid()) and time.monotonic() < until:
        for pid in children_of(os.getpid()):
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        time.sleep(0.05)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return


class Machine:
    """An sshd for the current user, reached with `key`; also usable as the restore target of the agent."""

    def __init__(self, place, authorized=()):
        self.place = Path(place)
        self.place.mkdir(parents=True, exist_ok=True)
        for name in ("host_key", "key"):
            if not (self.place / name).exists():
                command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.place / name]
                subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
        lines = [(self.place / "key.pub").read_text().strip(), *authorized]
        (self.place / "authorized_keys").write_text("\n".join(lines) + "\n")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.user = subprocess.run(["id", "-un"], check=True, capture_output=True, text=True).stdout.strip()
        (self.place / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {self.place}/host_key\n"
            f"AuthorizedKeysFile {self.place}/authorized_keys\nPidFile none\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nPermitRootLogin yes\nMaxStartups 100\n"
        )
        self.sshd = None

    def __enter__(self):
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)
        command = [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", self.place / "sshd_config"]
        self.sshd = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=open(self.place / "sshd.log", "w"))
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.02)
        raise RuntimeError(f"no sshd: {(self.place / 'sshd.log').read_text()}")

    def __exit__(self, *_):
        for pid in [*children_of(self.sshd.pid), self.sshd.pid]:
            try:
                os.kill(pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
        self.sshd.wait()

    def ssh(self, cipher="^aes128-gcm@openssh.com"):
        """The words of an ssh to this machine, without the address; with the cipher that the agent uses, or OpenSSH's own choice."""
        words = [
            "ssh", "-F", "none", "-i", str(self.place / "key"), "-p", str(self.port), "-l", self.user,
            "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
            "-o", "LogLevel=ERROR",
        ]  # fmt: skip
        return [*words, "-o", f"Ciphers={cipher}"] if cipher else words


def measured(machine, work):
    """Runs `work` with the machine up; answers its answer, the wall clock time and the CPU time of both ends in seconds."""
    os.sync()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with machine:
        begun = time.monotonic()
        answer = work()
        wall = time.monotonic() - begun
    end_children()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return answer, wall, cpu


def scratch(parent):
    """A directory of our own, on the disk that is to be measured."""
    os.makedirs(parent, exist_ok=True)
    return tempfile.mkdtemp(prefix="bench-", dir=parent)
