"""The archiver of a night: a program that writes exposures into two buffers, and says which.

Run as ``python -m benchmarks.night.archiver`` with a line of JSON on stdin (`Orders`). Most files
come whole, under a new name. Some are written again while or after they are taken, some are written
in place in two halves, some under a temporary name; some have hostile names, set-id bits, several
names, or are links. It tells the journal of each version what became of it here:

``placed``
    it was in the buffer, whole, and nobody but a pass may have removed it;
``withdrawn``
    the archiver itself put another version in its place before a pass took it;
``half``
    the beginning of a file that was written in place.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import heapq
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.night.journal import Journal

_NOREPLACE, _EXCHANGE = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)

#: What may pass: a disk is full, a directory is away, is a link for a moment, or may not be used.
_PASSING = (
    *(errno.ENOSPC, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.EPERM),
    *(errno.EIO, errno.ESTALE, errno.EBUSY),
)

#: Names that a shell, a terminal, a list, a template or a pattern might take for something else.
HOSTILE = (
    b"a b", b"'", b'"', b"$(touch X)", b"`touch X`", b"-rf", b"--help", b"\n", b"a\nb\n", b"\t",
    b"\x1b[2J\x07", b"\xff\xfe", b"caf\xc3\xa9", b"caf\xe9", b"\\x41", b"\\", b"\\xff",
    b"#x", b";x",
    b"{file}", b"{{", b"%s%n", b"*", b"?", b"[a]", b"~", b"..x", b".hidden", b"x.reason", b"x.~1~",
    b"\xe2\x80\xaegnp", b"\xf0\x9f\x98\x80", b"a" * 230, b"&& true", b"|", b"=", b":", b"@x", b"x.",
)  # fmt: skip

#: Kinds of what is written, and how many of a thousand.
KINDS = {
    "plain": 690, "hostile": 90, "again": 60, "halves": 30, "renamed": 40, "set-id": 20,
    "two names": 20, "link": 10, "fifo": 4, "empty": 6, "same": 20, "refused": 20,
}  # fmt: skip


class Orders(NamedTuple):
    """What is wanted of the archiver.

    Attributes
    ----------
    buffers : `list` [ `str` ]
        The buffer of the handoff, and the source of the finder that has one of its own.
    spools : `list` [ `str` ]
        A directory of its own for each, on the same file system.
    outside : `str`
        A directory that links lead to.
    journal : `str`
    seed, files, seconds
        How much, within which time.
    settle : `float`
        How long a file must be unchanged before it is taken.
    """

    buffers: list[str]
    spools: list[str]
    outside: str
    journal: str
    seed: int
    files: int
    seconds: float
    settle: float


class Archiver:
    """Writes files; see `Orders`."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._chance = random.Random(f"{orders.seed} archiver")
        self._journal = Journal(Path(orders.journal))
        self._numbers = itertools.count(1)
        #: when, a number, what, and whether that must be done before the night ends
        self._later: list[tuple[float, int, Callable[[], None], bool]] = []
        self._recent: list[tuple[int, bytes, bytes]] = []  # buffer, path, content

    def work(self) -> None:
        """Write all files, in bursts, and finish what was begun."""
        begin, done = time.monotonic(), 0
        while done < self._orders.files or any(must for *_, must in self._later):
            due = (time.monotonic() - begin) / self._orders.seconds * self._orders.files
            if done < min(due, self._orders.files):
                for _ in range(self._chance.choice((1, 1, 1, 5, 40))):
                    self._write_one()
                    done += 1
            while self._later and self._later[0][0] <= time.monotonic():
                heapq.heappop(self._later)[2]()
            time.sleep(0.01)
        self._journal.write("archiver", files=done, seconds=round(time.monotonic() - begin, 1))

    def _in(self, seconds: float, what: Callable[[], None], must: bool = False) -> None:
        heapq.heappush(self._later, (time.monotonic() + seconds, next(self._numbers), what, must))

    # ---- what is written

    def _write_one(self) -> None:
        (kind,) = self._chance.choices(list(KINDS), list(KINDS.values()))
        at = 0 if self._chance.random() < 0.85 else 1
        write = getattr(self, f"_{kind.replace(' ', '_').replace('-', '_')}", None)
        path = self._new_path(kind)
        if write is None:
            self._place(at, path, self._content(path), kind)
        else:
            write(at, path)

    def _new_path(self, kind: str) -> bytes:
        chance, number = self._chance, next(self._numbers)
        directory = b"2026-11-%02d" % (20 + chance.randrange(6))
        name = b"AT_O_%06d.fits" % number
        if kind == "hostile":
            odd = chance.choice(HOSTILE)
            name = odd + b"%d" % number if chance.random() < 0.7 else b"%d" % number + odd
            if chance.random() < 0.3:
                directory = chance.choice(HOSTILE)[:40].replace(b".", b"_") + b"/" + directory
        elif kind == "refused":
            name = b"AT_O_%06d_%s.fits" % (number, chance.choice((b"never", b"sick", b"crash")))
        elif chance.random() < 0.2:
            directory += b"/camera-%d/raw" % chance.randrange(4)
        return directory + b"/" + name

    def _content(self, path: bytes) -> bytes:
        """Return a content that no other version has."""
        size = int(self._chance.choice((300, 3000, 3000, 9000, 9000, 40000)))
        if self._chance.random() < 0.003:
            size = 3 << 20
        line = b"%d %s " % (next(self._numbers), hashlib.sha256(path).hexdigest().encode())
        return (line * (size // len(line) + 1))[:size]

    def _again(self, at: int, path: bytes) -> None:
        """Write another version of a file that was written lately."""
        if not self._recent:
            return
        at, path, old = self._chance.choice(self._recent)
        content = self._content(path)
        self._place(at, path, content, "again", replaces=old)

    def _same(self, at: int, path: bytes) -> None:
        """Write a file that was written before once more, if it was taken."""
        if self._recent:
            at, path, content = self._chance.choice(self._recent)
            self._place(at, path, content, "same", replaces=content)

    def _set_id(self, at: int, path: bytes) -> None:
        mode = self._chance.choice((0o4755, 0o2775, 0o6777, 0o1666))
        self._place(at, path, self._content(path), "set-id", mode=mode)

    def _empty(self, at: int, path: bytes) -> None:
        self._place(at, path, b"", "empty")

    def _two_names(self, at: int, path: bytes) -> None:
        content = self._content(path)
        self._place(at, path, content, "two names", also=path + b".other")

    def _link(self, at: int, path: bytes) -> None:
        outside = os.fsencode(self._orders.outside)
        self._odd(at, path, lambda spool: os.symlink(outside + b"/secret.fits", spool), "link")

    def _fifo(self, at: int, path: bytes) -> None:
        self._odd(at, path, lambda spool: os.mkfifo(spool), "fifo")

    def _odd(self, at: int, path: bytes, make: Callable[[bytes], None], kind: str) -> None:
        """Put something into a buffer that is no file; mostly it goes away again."""
        spool = self._spool(at)
        self._patiently(lambda: make(spool))
        self._patiently(lambda: self._rename(at, spool, path, 0))
        self._journal.write("odd", path=os.fsdecode(path), at=at, kind=kind)
        if self._chance.random() < 0.8:
            self._in(self._chance.uniform(3, 15), lambda: self._remove_odd(at, path))

    def _remove_odd(self, at: int, path: bytes) -> None:
        self._patiently(lambda: self._with_directory(at, path, os.unlink))
        self._journal.write("odd gone", path=os.fsdecode(path), at=at)

    def _renamed(self, at: int, path: bytes) -> None:
        """Write a file slowly under a name that is excluded; then give it its own."""
        content = self._content(path)
        self._patiently(
            lambda: self._write_in_place(at, path + b".tmp", content[: len(content) // 2])
        )

        def finish() -> None:
            self._patiently(lambda: self._write_in_place(at, path + b".tmp", content, again=True))
            self._patiently(lambda: self._with_directory(at, path, self._lose_suffix))
            self._placed(at, path, content, "renamed")

        self._in(self._chance.uniform(0.2, 2 * self._orders.settle), finish, must=True)

    def _halves(self, at: int, path: bytes) -> None:
        """Write a file in place, the second half a moment later than the first."""
        content = self._content(path)
        middle = len(content) // 2
        begin = time.monotonic()
        opened: list[int] = []

        def make(name: bytes, dir_fd: int) -> None:
            opened.append(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=dir_fd))

        self._patiently(lambda: self._with_directory(at, path, make))
        (fd,) = opened
        self._patiently(lambda: _write_rest(fd, content[:middle]))

        def finish() -> None:
            self._patiently(lambda: _write_rest(fd, content))
            os.close(fd)
            waited = time.monotonic() - begin
            if waited > 0.7 * self._orders.settle:
                for size in {0, middle}:
                    self._tell("half", at, path, content[:size], "halves")
            self._placed(at, path, content, "halves", waited=round(waited, 2))

        self._in(self._chance.uniform(0.05, 0.4) * self._orders.settle, finish, must=True)

    # ---- how it is written

    def _place(
        self,
        at: int,
        path: bytes,
        content: bytes,
        kind: str,
        mode: int = 0o644,
        replaces: bytes | None = None,
        also: bytes = b"",
    ) -> None:
        """Write a file elsewhere, and give it its name when it is whole."""
        spool = self._spool(at)

        def write() -> None:
            with open(spool, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), mode)

        self._patiently(write)
        if also:
            self._patiently(lambda: os.link(spool, spool + b"2"))
            self._patiently(lambda: self._rename(at, spool + b"2", also, _NOREPLACE))
            self._tell("placed", at, also, content, kind)
        if replaces is None:
            self._patiently(lambda: self._rename(at, spool, path, _NOREPLACE))
        else:
            self._patiently(lambda: self._rename_or_exchange(at, spool, path))
            with suppress(FileNotFoundError):
                with open(spool, "rb") as file:
                    self._tell("withdrawn", at, path, file.read(), kind)
                os.unlink(spool)
        self._placed(at, path, content, kind)

    def _placed(self, at: int, path: bytes, content: bytes, kind: str, **more: Any) -> None:
        self._tell("placed", at, path, content, kind, **more)
        if kind in ("plain", "again", "hostile"):
            self._recent = [*self._recent[-200:], (at, path, content)]

    def _tell(
        self, what: str, at: int, path: bytes, content: bytes, kind: str, **more: Any
    ) -> None:
        digest = hashlib.blake2b(content).hexdigest()
        name, size = os.fsdecode(path), len(content)
        self._journal.write(what, path=name, at=at, digest=digest, size=size, kind=kind, **more)

    def _spool(self, at: int) -> bytes:
        return os.fsencode(self._orders.spools[at]) + b"/%d" % next(self._numbers)

    def _patiently(self, what: Callable[[], None]) -> None:
        """Do something as soon as it can be done."""
        while True:
            try:
                return what()
            except OSError as error:
                if error.errno not in _PASSING:
                    raise
            time.sleep(0.1)

    def _with_directory(self, at: int, path: bytes, what: Callable[..., Any]) -> None:
        """Make the directories of a path in a buffer; do something to the name in the last one."""
        *above, name = path.split(b"/")
        here = os.open(self._orders.buffers[at], os.O_RDONLY | os.O_DIRECTORY)
        try:
            for part in above:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o2775, dir_fd=here)
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
                there = os.open(part, flags, dir_fd=here)
                os.close(here)
                here = there
            what(name, dir_fd=here)
        finally:
            os.close(here)

    def _rename(self, at: int, spool: bytes, path: bytes, flags: int) -> None:
        def rename(name: bytes, dir_fd: int) -> None:
            if _libc.renameat2(-100, spool, dir_fd, name, flags):
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))

        self._with_directory(at, path, rename)

    def _rename_or_exchange(self, at: int, spool: bytes, path: bytes) -> None:
        """Give a file a name that another one may have; that one gets the spool's."""
        try:
            self._rename(at, spool, path, _EXCHANGE)
        except FileNotFoundError:
            try:
                self._rename(at, spool, path, _NOREPLACE)
            except FileExistsError as error:  # a pass put the other one back
                raise OSError(errno.EBUSY, str(error)) from None

    def _write_in_place(self, at: int, path: bytes, content: bytes, again: bool = False) -> None:
        def write(name: bytes, dir_fd: int) -> None:
            flags = os.O_WRONLY | (0 if again else os.O_CREAT) | os.O_NOFOLLOW
            fd = os.open(name, flags, 0o664, dir_fd=dir_fd)
            try:
                _write_rest(fd, content)
            finally:
                os.close(fd)

        self._with_directory(at, path, write)

    def _lose_suffix(self, name: bytes, dir_fd: int) -> None:
        if _libc.renameat2(dir_fd, name + b".tmp", dir_fd, name, _NOREPLACE):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


def _write_rest(fd: int, content: bytes) -> None:
    """Write what a file does not have yet of a content."""
    done = os.fstat(fd).st_size
    while done < len(content):
        done += os.pwrite(fd, content[done:], done)


if __name__ == "__main__":
    os.umask(0o002)
    Archiver(Orders(**json.loads(sys.stdin.readline()))).work()
