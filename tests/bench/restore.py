#!/usr/bin/env python3
"""Measures restores against cp, rsync and tar over ssh: the same trees, disk, sshd and cipher (and rsync once as it comes), in the same run.

Prints a table and writes rows {work, peer, wall_s, cpu_s, ratio}; `ratio` is our time divided by the peer's. Peers only copy, so
they stand against the time at which our copy was complete; the verification, which reads everything back on both sides, is a row
of its own beside rsync's second pass with --checksum.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import trees
from machine import Machine, adopt_orphans, measured, scratch

ROOT = Path(__file__).resolve().parents[2]


class Standby:
    """The agent, with one recovery point of a tree."""

    def __init__(self, agent, place, target):
        self.agent, self.place, self.target = agent, Path(place), target
        self.home = self.place / "home"
        self.home.mkdir(parents=True)
        key = self.call({"verb": "prepare"})["prepared"]["public_key"]
        with open(target.place / "authorized_keys", "a") as keys:
            keys.write(key + "\n")
        self.epoch = 1

    def call(self, request):
        command = [self.agent, "--data", self.place / "data", "call"]
        call = json.dumps({"schema": 1, "request": request}).encode()
        environment = {**os.environ, "HOME": str(self.home)}
        done = subprocess.run(command, input=call, stdout=subprocess.PIPE, env=environment, check=True)
        outcome = json.loads(done.stdout)["outcome"]
        if "refused" in outcome:
            raise RuntimeError(outcome["refused"]["message"])
        return outcome

    def host(self):
        return {"address": "127.0.0.1", "port": self.target.port, "user": self.target.user}

    def protect(self, tree):
        bind = {
            "verb": "bind", "association": "vast-7", "epoch": 1, "source": self.host(), "source_path": str(tree),
            "accept": "nothing", "max_deleted_percent": 50, "excludes": [],
        }  # fmt: skip
        self.call(bind)
        status = self.call({"verb": "sync", "epoch": 1, "urgency": "due", "wait_ms": 3_600_000})["status"]
        return self.place / "data" / "recovery-points" / status["points"]["latest"]["id"]

    def restore(self, path):
        """Restores and answers after how many seconds the copy was complete."""
        self.epoch += 1
        wish = {"verb": "restore", "epoch": self.epoch, "point": "latest", "target": self.host(), "target_path": str(path)}
        begun = time.monotonic()
        copied = None
        self.call({**wish, "wait_ms": 0})
        while True:
            stage = json.loads((self.place / "data" / "restore.json").read_text())["stage"]
            if copied is None and "copying" not in json.dumps(stage):
                copied = time.monotonic() - begun
            if "verified" in stage:
                return copied
            if "failed" in stage:
                raise RuntimeError(stage)
            time.sleep(0.01)


def peers(machine, point, target):
    """The peers' commands for copying `point` to `target`."""
    rsync = ["rsync", "-aHX", "-e", " ".join(machine.ssh()), f"{point}/", f"127.0.0.1:{target}/"]
    as_it_comes = ["rsync", "-aHX", "-e", " ".join(machine.ssh(cipher=None)), f"{point}/", f"127.0.0.1:{target}/"]
    pack = ["tar", "--create", "--file=-", "--directory", str(point), "."]
    unpack = [*machine.ssh(), "127.0.0.1", "tar", "--extract", "--preserve-permissions", "--file=-", "--directory", str(target)]

    def through_tar():
        packer = subprocess.Popen(pack, stdout=subprocess.PIPE)
        subprocess.run(unpack, stdin=packer.stdout, check=True)
        packer.stdout.close()
        if packer.wait() != 0:
            raise RuntimeError("tar failed")

    return {
        "cp": lambda: subprocess.run(["cp", "-a", f"{point}/.", target], check=True),
        "rsync, OpenSSH's own cipher": lambda: subprocess.run(as_it_comes, check=True),
        "rsync over ssh": lambda: subprocess.run(rsync, check=True),
        "tar over ssh": through_tar,
    }, lambda: subprocess.run([*rsync[:2], "--checksum", *rsync[2:]], check=True)


def fresh(target):
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)


def bench(work, grow, agent, parent, repeat):
    place = Path(scratch(parent))
    try:
        machine = Machine(place / "machine")
        standby = Standby(agent, place / "standby", machine)
        source, target = place / "source", place / "target"
        grow(source)
        with machine:
            point = standby.protect(source)
        shutil.rmtree(source)
        copies, checksum = peers(machine, point, target)
        best = {}

        def note(name, wall, cpu):
            if name not in best or wall < best[name][0]:
                best[name] = (wall, cpu)

        # Round by round, so that a slow moment of the machine does not hit one peer alone.
        for _ in range(repeat):
            for name, copy in copies.items():
                fresh(target)
                _, wall, cpu = measured(machine, copy)
                note(name, wall, cpu)
                if name == "rsync over ssh":
                    _, more, more_cpu = measured(machine, checksum)
                    note("rsync and rsync --checksum", wall + more, cpu + more_cpu)
            fresh(target)
            copied, wall, cpu = measured(machine, lambda: standby.restore(target))
            note("warmspare, copied", copied, cpu)
            note("warmspare, verified", wall, cpu)
        return [row(work, name, *best[name], best) for name in best]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def row(work, peer, wall, cpu, best):
    verified = peer in ("rsync and rsync --checksum", "warmspare, verified")
    ours = best["warmspare, verified" if verified else "warmspare, copied"][0]
    return {"work": work, "peer": peer, "wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "ratio": round(ours / wall, 2)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--agent", default=ROOT / "target/release/warmspare-agent", type=Path)
    arguments.add_argument("--out", default=ROOT / "target/bench/restore.json", type=Path)
    arguments.add_argument("--dir", default=ROOT / "target/bench", help="where the trees lie: the disk that is measured")
    arguments.add_argument("--repeat", default=2, type=int, help="rounds; the best of each counts")
    arguments.add_argument("--quick", action="store_true", help="a tenth of everything")
    wish = arguments.parse_args()
    adopt_orphans()
    mib, files = (128, 10_000) if wish.quick else (1024, 100_000)
    rows = []
    for work, grow in {
        f"4 files of {mib} MiB": lambda root: trees.large(root, 4, mib),
        f"{files} files of 2 KiB": lambda root: trees.small(root, files),
    }.items():
        rows += bench(work, grow, wish.agent.resolve(), wish.dir, wish.repeat)
    wish.out.parent.mkdir(parents=True, exist_ok=True)
    wish.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{'work':22} {'peer':28} {'wall s':>8} {'CPU s':>8} {'ours / peer':>12}")
    for it in rows:
        print(f"{it['work']:22} {it['peer']:28} {it['wall_s']:8.2f} {it['cpu_s']:8.2f} {it['ratio']:12.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
