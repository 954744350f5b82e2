"""A plugin that misbehaves on demand: what it does with a file is the file's name."""

import ctypes
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dbbbatch.config.fields import option
from dbbbatch.files import checksum
from dbbbatch.files.tree import Entry, outside
from dbbbatch.targets.plugin import Misconfigured, NotReady, Outcome, Plugin, Result, StoredFile


@dataclass(frozen=True, kw_only=True)
class Settings:
    start: str = option("", "what goes wrong at the start")
    journal: str = option("", "file that lists each file as it is begun")


def _is_socket(descriptor: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def _unmount(file: StoredFile) -> None:
    """Take storage away, or leave a bare mount point, if the file's name says so."""
    storage = os.path.dirname(file.path)
    if file.filename.endswith(".gone"):
        os.rename(storage, f"{storage}.gone")
    elif file.filename.endswith(".bare"):
        os.unlink(f"{storage}/.dbb-storage")


def _fail(file: StoredFile) -> None:
    """Fail with the error that the file's name says, of storage as it says."""
    _unmount(file)
    number = int(file.filename.split(".")[1])
    raise OSError(number, os.strerror(number), file.path)


class Naughty(Plugin):
    """Does what the file's name says."""

    name = "naughty"
    Settings = Settings
    one_at_a_time = True

    def start(self) -> None:
        self._misbehave(self.settings.start)

    def version(self) -> str:
        return "7.0"

    def stored(self, file: StoredFile) -> Entry:
        if file.filename.startswith("unseen"):
            _fail(file)
        return super().stored(file)

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        yield from map(self._one, files)

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]]:
        for file in files:
            yield file.number, file.filename.startswith("known")

    def _one(self, file: StoredFile) -> Outcome:
        if self.settings.journal:
            with open(self.settings.journal, "a") as journal:
                journal.write(f"{file.filename}\n")
        what = file.filename.partition(".")[0]
        if what == "unread":
            _fail(file)
        _unmount(file)
        if what in {result.value for result in Result}:
            parts = frozenset({"first"}) if what == "partly" else frozenset()
            return Outcome(file.number, Result(what), "as its name says", parts_done=parts)
        self._path = file.path
        self._misbehave(what)
        sums = {"sum": {"md5": "00"}, "nosum": {"md5": "\0", "\ud800": "00", "sha1": "\ud800"}}
        return Outcome(file.number, Result.DONE, checksums=sums.get(what, {}))

    def _speak(self, words: bytes) -> None:
        """Write to the pass, on whichever socket that is, a byte now and then."""
        numbers = sorted(map(int, os.listdir("/proc/self/fd")))
        mine = next(number for number in numbers if number > 2 and _is_socket(number))
        os.write(mine, words)
        while True:
            time.sleep(0.1)
            os.write(mine, b"x")

    def _misbehave(self, what: str) -> None:
        if what == "segfault":
            ctypes.string_at(0)
        elif what == "read":
            checksum.compute(outside(self._path))
        elif what == "hang":
            time.sleep(3600)
        elif what == "exit":
            sys.exit(3)
        elif what == "vanish":
            os._exit(4)
        elif what == "raise":
            raise RuntimeError("it went wrong") from OSError("deep down")
        elif what == "memory":
            hoard = []
            while True:
                hoard.append(bytearray(1 << 24))
        elif what in ("mumble", "babble"):
            self._speak(b"\0\0\1\0" if what == "mumble" else b"\xff" * 9)
        elif what == "chatter":
            while True:
                os.write(1, b"chatter" * 100)
        elif what == "shout":
            os.write(1, b"x" * 300_000 + b"\n")
            print("to stdout", flush=True)
        elif what == "orphan":
            child = subprocess.Popen(["sleep", "3600"], start_new_session=True)
            with open(self.settings.journal, "a") as journal:
                journal.write(f"{child.pid}\n")
            time.sleep(3600)
        elif what == "notready":
            raise NotReady("the repository is being moved")
        elif what == "misconfigured":
            raise Misconfigured("wrong password")
        elif what == "import":
            raise ImportError("No module named 'lsst'")


class Whole(Naughty):
    """The same, but all outcomes come at the end."""

    name = "whole"
    one_at_a_time = False

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        yield from list(map(self._one, files))
