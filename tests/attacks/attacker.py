"""Somebody who may write to the directories of a site, and exchanges names while a pass works.

Run as a program: its stdin begins with a line of JSON, a list of pairs of paths on one file system.
It exchanges the two names of pairs in one step, again and again, until its stdin ends; then each
pair is as it was at the beginning, as far as the names are still there. What it does next, and for
how long, is random, so that each system call of a pass sooner or later meets each state.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_IN_NONBLOCK = os.O_NONBLOCK
#: opened, read, closed, moved, made or removed: whatever a step of a pass shows of itself
_IN_ALL = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200

_libc = ctypes.CDLL(None, use_errno=True)


class Pair:
    """Two names that are exchanged.

    Parameters
    ----------
    path : `str`
        What the site knows.
    other : `str`
        What is to have its name for moments.
    """

    def __init__(self, path: str, other: str) -> None:
        self.path = path
        self.other = other
        self._exchanged = False
        self._names = os.fsencode(path), os.fsencode(other)

    def exchange(self) -> None:
        """Exchange the two, if both are there."""
        one, two = self._names
        if _libc.renameat2(_AT_FDCWD, one, _AT_FDCWD, two, _RENAME_EXCHANGE) == 0:
            self._exchanged = not self._exchanged

    def restore(self) -> None:
        """Let each have its own name again; what took the place of one that was moved on stays."""
        if self._exchanged:
            self.exchange()
        if self._exchanged and not os.path.lexists(self.path) and os.path.lexists(self.other):
            with suppress(FileNotFoundError):
                os.rename(self.other, self.path)


class Watch:
    """What the kernel tells of the directories of a site.

    Parameters
    ----------
    pairs : `~collections.abc.Sequence` [ `Pair` ]
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._fd = _libc.inotify_init1(_IN_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._directories: dict[int, Pair] = {}
        self._files: dict[tuple[int, bytes], Pair] = {}
        for pair in pairs:
            if os.path.isdir(pair.path):
                self._directories[self._add(pair.path)] = pair
            else:
                above, name = os.path.split(os.fsencode(pair.path))
                self._files[self._add(os.fsdecode(above)), name] = pair

    def _add(self, path: str) -> int:
        found: int = _libc.inotify_add_watch(self._fd, os.fsencode(path), _IN_ALL)
        return found

    def next(self, seconds: float) -> set[Pair]:
        """Return the pairs in which something happens; none if the time is over."""
        if not self._poll.poll(seconds * 1000):
            return set()
        return self.drain()

    def drain(self) -> set[Pair]:
        """Return what has happened until now."""
        found: set[Pair] = set()
        try:
            events = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return found
        while events:
            number = int.from_bytes(events[:4], sys.byteorder, signed=True)
            size = int.from_bytes(events[12:16], sys.byteorder)
            name, events = events[16 : 16 + size].rstrip(b"\0"), events[16 + size :]
            for pair in (self._files.get((number, name)), self._directories.get(number)):
                if pair:
                    found.add(pair)
        return found


def _spin(most: float) -> None:
    """Wait for a random time that is too short to sleep."""
    end = time.monotonic() + random.uniform(0, most)
    while time.monotonic() < end:
        pass


def flicker(pairs: Sequence[Pair], watch: Watch, end: float) -> None:
    """Exchange some all the time."""
    some = random.sample(pairs, random.randint(1, len(pairs)))
    while time.monotonic() < end:
        for pair in some:
            pair.exchange()


def blink(pairs: Sequence[Pair], watch: Watch, end: float) -> None:
    """Exchange one after the other for a moment."""
    while time.monotonic() < end:
        pair = random.choice(pairs)
        pair.exchange()
        _spin(1e-4)
        pair.exchange()
        _spin(1e-4)


def hide(pairs: Sequence[Pair], watch: Watch, end: float) -> None:
    """Exchange some for longer."""
    some = random.sample(pairs, random.randint(1, len(pairs)))
    for pair in some:
        pair.exchange()
    time.sleep(max(0, end - time.monotonic()))
    for pair in some:
        pair.exchange()


def ambush(pairs: Sequence[Pair], watch: Watch, end: float) -> None:
    """Exchange where a step of the pass shows, and as soon as it does."""
    watch.drain()
    longest = random.choice([2e-5, 2e-4, 2e-3])
    while (left := end - time.monotonic()) > 0:
        for pair in watch.next(left):
            pair.exchange()
            _spin(longest)
            pair.exchange()
        watch.drain()  # what we did ourselves


def main() -> None:
    """Attack until stdin ends."""
    pairs = [Pair(*names) for names in json.loads(sys.stdin.readline())]
    watch = Watch(pairs)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    ended = select.poll()
    ended.register(0, select.POLLIN | select.POLLHUP)
    try:
        while not ended.poll(0):
            attack = random.choice([flicker, blink, hide, ambush, ambush])
            attack(pairs, watch, time.monotonic() + random.uniform(0.005, 0.1))
    finally:
        for pair in pairs:
            pair.restore()


@contextmanager
def attacking(pairs: Sequence[tuple[Path, Path]]) -> Iterator[None]:
    """Let somebody exchange names as long as the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-I", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps([list(map(str, pair)) for pair in pairs]).encode() + b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            process.stdin.close()
            process.wait()
    assert process.returncode == 0


if __name__ == "__main__":
    main()
