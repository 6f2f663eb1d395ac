"""Trees to measure with: the same for every peer of a run, made of bytes that no transfer can make smaller."""

import os
from pathlib import Path

MIB = 1 << 20


def large(root, files, size_mib):
    """A few large files."""
    Path(root).mkdir(parents=True)
    for number in range(files):
        with open(Path(root, f"checkpoint-{number}.pt"), "wb") as file:
            for _ in range(0, size_mib, 8):
                file.write(os.urandom(8 * MIB))


def small(root, files):
    """Many files of 100 to 4,196 bytes, 200 in a directory."""
    noise = os.urandom(MIB)
    for number in range(files):
        directory = Path(root, f"d{number // 200:05}")
        if number % 200 == 0:
            directory.mkdir(parents=True)
        begin, length = number * 37 % (MIB // 2), number * 7919 % 4096 + 100
        with open(directory / f"f{number:06}", "wb") as file:
            file.write(noise[begin : begin + length])
