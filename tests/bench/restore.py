"""Restores against cp, rsync and tar over ssh: the same tree, disk and sshd in the same run, each until the data is on the disk.

The target of a restore is a machine that nobody has a connection to yet: each opens its own. rsync and tar keep what our copy keeps: hard links, extended
attributes and nanoseconds. They use the cipher that we use; rsync stands there with ssh's default as well.

Peers only copy, so they stand against the time at which our copy was complete; the verification, which reads everything back on both sides, is a work
of its own beside rsync's second pass with --checksum. CPU is that of both ends together.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import time

from support import AGENT, ROOT, Disk, Gpu, Meter, Standby, Table, grow_small, quietly, write_large


class Restorer(Standby):
    """A standby with one recovery point, pushing it again and again."""

    epoch = 1

    def protect(self, gpu, tree):
        self.bind(gpu, tree)
        self.gpu = gpu
        return self.data / "recovery-points" / self.sync()["points"]["latest"]["id"]

    def restore(self, path):
        """Answers after how many seconds the copy was complete and on the disk."""
        self.epoch += 1
        target = {"address": "127.0.0.1", "port": self.gpu.port, "user": "root"}
        begun, copied = time.perf_counter(), None
        self.call("restore", epoch=self.epoch, point="latest", target=target, target_path=str(path), wait_ms=0)
        while True:
            stage = json.loads((self.data / "restore.json").read_text())["stage"]
            if copied is None and "copying" not in json.dumps(stage):
                settle(path)
                copied = time.perf_counter() - begun
            if "verified" in stage:
                return copied
            if "failed" in stage:
                raise SystemExit(str(stage))
            time.sleep(0.01)


def settle(target):
    """Data that a power failure would take is not restored yet."""
    subprocess.run(["sync", "--file-system", target], check=True)


def peers(gpu, point, target):
    """The peers' commands for copying `point` to `target`."""
    rsync = lambda *options, **shell: ["rsync", "-aHX", *options, "-e", gpu.shell(**shell), f"{point}/", f"127.0.0.1:{target}/"]  # noqa: E731
    unpack = [*gpu.shell().split(), "127.0.0.1", "tar", "--extract", "--preserve-permissions", "--xattrs", "--file=-", "--directory", str(target)]

    def through_tar():
        packer = subprocess.Popen(["tar", "--create", "--format=posix", "--xattrs", "--file=-", "--directory", str(point), "."], stdout=subprocess.PIPE)
        subprocess.run(unpack, stdin=packer.stdout, check=True)
        packer.stdout.close()
        if packer.wait() != 0:
            raise SystemExit("tar failed")

    def rsync_twice():
        quietly(rsync())
        quietly(rsync("--checksum"))

    copies = {
        "cp -a": lambda: quietly(["cp", "-a", f"{point}/.", str(target)]),
        "rsync over ssh": lambda: quietly(rsync()),
        "rsync, ssh's default cipher": lambda: quietly(rsync(cipher="^chacha20-poly1305@openssh.com")),
        "tar over ssh": through_tar,
    }
    return copies, {"rsync, and rsync --checksum": rsync_twice}


def bench(table, meter, name, grow, disk, repeat):
    place = disk.path / name.replace(" ", "-").replace(",", "")
    place.mkdir()
    gpu = Gpu(place / "gpu")
    standby = Restorer(place / "standby", place / "home")
    try:
        source, target = place / "source", place / "target"
        source.mkdir()
        grow(source)
        point = standby.protect(gpu, source)
        copies, verified = peers(gpu, point, target)
        best = {}

        def measure(peer, work):
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            settle(target)
            gpu.hang_up()
            wall, cpu = meter.once(work)
            if peer not in best or wall < best[peer][0]:
                best[peer] = (wall, cpu)

        def ours():
            copied.append(standby.restore(target))

        # Round by round, so that a slow moment of the machine does not hit one peer alone.
        copied = []
        for _ in range(repeat):
            measure("warmspare", ours)
            for peer, work in {**copies, **verified}.items():
                measure(peer, lambda work=work: (work(), settle(target)))
        # The CPU of the copy alone is not known: it is that of copy and verification.
        table.ours(f"copied, {name}", (min(copied), best["warmspare"][1]))
        for peer in copies:
            table.peer(f"copied, {name}", peer, best[peer])
        table.ours(f"copied and verified, {name}", best["warmspare"])
        for peer in verified:
            table.peer(f"copied and verified, {name}", peer, best[peer])
    finally:
        standby.hang_up()
        gpu.close()
        shutil.rmtree(place, ignore_errors=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", default=ROOT / "target/bench/data-plane.json", type=pathlib.Path)
    arguments.add_argument("--repeat", default=2, type=int, help="rounds; the best of each counts")
    arguments.add_argument("--quick", action="store_true", help="a tenth of everything")
    given = arguments.parse_args()
    assert AGENT.is_file(), f"{AGENT} is missing: `make bench` builds it"
    mib, files = (128, 10_000) if given.quick else (1024, 100_000)

    def large(root):
        for number in range(4):
            write_large(root / f"checkpoint-{number}.pt", mib << 20)

    meter, table, disk = Meter(), Table(), Disk(4 if given.quick else 24, "ext4")
    try:
        bench(table, meter, f"4 files of {mib:,} MiB", large, disk, given.repeat)
        bench(table, meter, f"{files:,} files of 2 KiB", lambda root: grow_small(root, files), disk, given.repeat)
    finally:
        meter.close()
        disk.close()
    table.write(given.out)


if __name__ == "__main__":
    main()
