"""What the benchmarks stand on: two ends with a real sshd between them, disks, trees, and a meter that counts the CPU of everything it starts."""

import json
import os
import pathlib
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
AGENT = ROOT / "target/release/warmspare-agent"


class Meter:
    """Wall time, and the CPU of every process below it, on both ends: a control group of its own (version 1 or 2), as root."""

    def __init__(self):
        name = f"wsbench-{os.getpid()}"
        old, new = pathlib.Path("/sys/fs/cgroup/cpuacct"), pathlib.Path("/sys/fs/cgroup")
        self.group = (old if old.is_dir() else new) / name
        try:
            self.group.mkdir()
            self.usage()
            (self.group / ("tasks" if old.is_dir() else "cgroup.procs")).write_text(str(os.getpid()))
        except OSError as error:
            raise SystemExit(f"the benchmarks count CPU in a control group, which needs root and a writable /sys/fs/cgroup: {error}") from None

    def usage(self):
        """Seconds of CPU so far, of this program as well."""
        if (self.group / "cpuacct.usage").exists():
            return int((self.group / "cpuacct.usage").read_text()) / 1e9
        return int((self.group / "cpu.stat").read_text().split()[1]) / 1e6

    def close(self):
        parent = self.group.parent / ("tasks" if (self.group / "tasks").exists() else "cgroup.procs")
        for pid in (self.group / parent.name).read_text().split():
            try:
                parent.write_text(pid)
            except OSError:
                pass
        try:
            self.group.rmdir()
        except OSError:
            pass

    def once(self, work):
        own, used, start = time.process_time(), self.usage(), time.perf_counter()
        work()
        wall = time.perf_counter() - start
        return wall, max(0.0, self.usage() - used - (time.process_time() - own))

    def median(self, work, times, before=lambda: None):
        """The medians of several runs; `before` is not counted."""
        runs = []
        for _ in range(times):
            before()
            runs.append(self.once(work))
        return tuple(statistics.median(column) for column in zip(*runs))


class Disk:
    """A file system in a file."""

    def __init__(self, gib, kind="btrfs"):
        self.place = pathlib.Path(tempfile.mkdtemp(prefix="wsbench-disk-"))
        image, self.path = self.place / "image", self.place / "mnt"
        with open(image, "wb") as file:
            file.truncate(gib << 30)
        self.path.mkdir()
        run([f"mkfs.{kind}", "-q", image], stdout=subprocess.DEVNULL)
        run(["mount", "-o", "loop,noatime", image, self.path])

    def close(self):
        subprocess.run(["umount", "--lazy", self.path], check=False)
        shutil.rmtree(self.place, ignore_errors=True)


class Gpu:
    """The far end: an sshd of its own on loopback."""

    def __init__(self, place):
        self.place = pathlib.Path(place)
        self.place.mkdir(parents=True, exist_ok=True)
        for name in ("host_key", "user_key"):
            run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.place / name])
        self.keys = self.place / "authorized_keys"
        self.keys.write_text((self.place / "user_key.pub").read_text())
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = self.place / "sshd_config"
        config.write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {self.place}/host_key\nAuthorizedKeysFile {self.keys}\nPidFile none\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nMaxSessions 100\nMaxStartups 100\nSubsystem sftp internal-sftp\n"
            # Keeps bash from reading the start-up files of whoever runs this: they may cost more than a pass.
            "SetEnv SHLVL=5\n"
        )
        os.makedirs("/run/sshd", exist_ok=True)
        self.sshd = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", config], stdin=subprocess.DEVNULL, stderr=open(self.place / "sshd.log", "wb"))
        until("sshd answers", lambda: answers(self.port))
        self.control = self.place / "control"

    def shell(self, cipher="^aes128-gcm@openssh.com"):
        """ssh with a kept connection, as somebody who knows ssh would loop rsync over it; with the cipher that the agent uses, or another."""
        return (
            f"ssh -q -p {self.port} -i {self.place}/user_key -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null "
            f"-o Ciphers={cipher} -o ControlMaster=auto -o ControlPath={self.control} -o ControlPersist=600"
        )

    def hang_up(self):
        """Closes the peers' kept connection."""
        subprocess.run(self.shell().split() + ["-O", "exit", "127.0.0.1"], stderr=subprocess.DEVNULL, check=False)

    def close(self):
        self.hang_up()
        self.sshd.kill()
        self.sshd.wait()


class Standby:
    """The agent over a data directory, bound to a GPU's tree."""

    def __init__(self, data, home):
        self.data, self.home = pathlib.Path(data), pathlib.Path(home)
        self.home.mkdir(parents=True, exist_ok=True)

    def call(self, verb, **fields):
        call = json.dumps({"schema": 1, "request": {"verb": verb, **fields}})
        done = subprocess.run(
            [AGENT, "--data", self.data, "call"], input=call, capture_output=True, text=True, check=True, env={**os.environ, "HOME": str(self.home)}
        )
        outcome = json.loads(done.stdout)["outcome"]
        assert "refused" not in outcome, outcome
        return outcome

    def bind(self, gpu, tree):
        key = self.call("prepare")["prepared"]["public_key"]
        with open(gpu.keys, "a") as keys:
            keys.write(key + "\n")
        self.call(
            "bind", association="vast-7", epoch=1, source={"address": "127.0.0.1", "port": gpu.port, "user": "root"}, source_path=str(tree),
            accept="nothing", max_deleted_percent=50, excludes=[],
        )  # fmt: skip

    def sync(self, live="off", wait_s=3600):
        fields = {} if live == "off" else {"live": live}
        status = self.call("sync", epoch=1, urgency="due", wait_ms=wait_s * 1000, **fields)["status"]
        assert not status["last_failure"] and not status["halt"], status
        return status

    def status(self):
        return self.call("status")["status"]

    def hang_up(self):
        """Closes the agent's kept connections, which live in the data directory and would hold its disk."""
        for place in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                if (place / "comm").read_text() == "ssh\n" and os.readlink(place / "cwd") == str(self.data):
                    os.kill(int(place.name), signal.SIGTERM)
            except OSError:
                pass


def run(command, **options):
    return subprocess.run([str(word) for word in command], check=True, stdin=subprocess.DEVNULL, **options)


def quietly(command):
    """A peer's command, whose words are only shown when it fails."""
    done = subprocess.run(command, shell=isinstance(command, str), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def until(what, holds, patience=60):
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if found := holds():
            return found
        time.sleep(0.01)
    raise SystemExit(f"waited {patience} s in vain until {what}")


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def grow_tree(root, files, per_directory=100):
    """Small files as a training's data set has them, and some code beside."""
    root = pathlib.Path(root)
    content = os.urandom(1 << 16)
    for start in range(0, files, per_directory):
        directory = root / f"part-{start // 10_000:04}" / f"dir-{start // per_directory:06}"
        directory.mkdir(parents=True, exist_ok=True)
        for number in range(start, min(start + per_directory, files)):
            file = os.open(directory / f"sample-{number:07}.bin", os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(file, content[number % 60_000 : number % 60_000 + 100 + number % 400])
            os.close(file)


def grow_small(root, files):
    """Many files of 100 to 4,196 bytes, 200 in a directory."""
    noise = os.urandom(1 << 20)
    for number in range(files):
        directory = pathlib.Path(root) / f"d{number // 200:05}"
        if number % 200 == 0:
            directory.mkdir(parents=True)
        begin, length = number * 37 % (1 << 19), number * 7919 % 4096 + 100
        (directory / f"f{number:06}").write_bytes(noise[begin : begin + length])


def write_large(path, size):
    """Noise that nowhere repeats itself: rsync would find a block in another place, and copy what it need not touch."""
    with open(path, "wb") as file:
        for _ in range(size >> 24):
            file.write(os.urandom(1 << 24))


class Table:
    """Rows `{work, peer, wall_s, cpu_s, ratio}`; the ratio is the peer's time over ours."""

    def __init__(self):
        self.rows = []

    def ours(self, work, measured, **more):
        self._add(work, "warmspare", measured, 1.0, more)

    def peer(self, work, peer, measured, **more):
        own = next(row for row in self.rows if row["work"] == work and row["peer"] == "warmspare")
        self._add(work, peer, measured, measured[0] / own["wall_s"] if own["wall_s"] else None, more)

    def _add(self, work, peer, measured, ratio, more):
        row = {"work": work, "peer": peer, "wall_s": round(measured[0], 4), "cpu_s": round(measured[1], 4), "ratio": ratio and round(ratio, 2), **more}
        self.rows.append(row)
        extra = "".join(f"  {name} {value}" for name, value in more.items())
        print(f"{work:<44} {peer:<18} {row['wall_s']:>10.3f} s {row['cpu_s']:>10.3f} s CPU  x{row['ratio']}{extra}", flush=True)

    def write(self, path, **facts):
        """Rows of other works that are there already stay."""
        path.parent.mkdir(parents=True, exist_ok=True)
        there = json.loads(path.read_text()) if path.is_file() else {"rows": []}
        own = {row["work"] for row in self.rows}
        rows = [row for row in there["rows"] if row["work"] not in own] + self.rows
        path.write_text(json.dumps({**there, "schema": 1, **facts, "rows": rows}, indent=2) + "\n")
