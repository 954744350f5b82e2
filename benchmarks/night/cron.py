"""What cron and the operators start, overlapping, and what came of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.night.journal import Journal
from benchmarks.night.sites import SERVICE, Sites


@dataclass
class Started:
    """A script that was started."""

    number: int
    site: str
    command: list[str]
    process: subprocess.Popen[bytes]
    output: Path
    began: float
    #: what was done to it: its exit code, or what it could remember, may follow from that
    hits: list[str] = field(default_factory=list)
    by_hand: bool = False
    #: how much of its output is in the journal
    heard: int = 0


class Line:
    """A line of a crontab: what is started how often, in minutes of the night."""

    def __init__(self, site: str, every: int, *command: str) -> None:
        self.site, self.every, self.command = site, every, list(command)


class Cron:
    """Starts the lines of two crontabs.

    Parameters
    ----------
    sites : `Sites`
    journal : `Journal`
    results : `pathlib.Path`
        Where what scripts print is kept.
    minute : `float`
        Seconds that a minute of the night takes.
    """

    def __init__(self, sites: Sites, journal: Journal, results: Path, minute: float) -> None:
        self._sites, self._journal, self._minute = sites, journal, minute
        self._output = results / "output"
        self._output.mkdir()
        linger = ["--linger", f"{max(1, int(minute) - 1)}s"]
        self.lines = [
            Line("summit", 1, "dbb-handoff", "latiss", *linger),
            Line("archive", 1, "dbb-finder", "latiss", *linger),
            Line("archive", 1, "dbb-finder", "guider", *linger),
            *(
                Line("archive", 1, "dbb-ingester", name, *linger)
                for name in ("null", "by-night", "catalog", "guider")
            ),
            Line("summit", 4, "dbb-janitor", "latiss"),
            Line("archive", 7, "dbb-auditor", "latiss", "--share", "0.1"),
            Line("archive", 9, "dbb-auditor", "guider", "--share", "0.1"),
            Line("archive", 3, "dbb", "status", "--check"),
        ]
        self._tick = 0
        self._next = time.monotonic()
        self._count = 0
        #: no pass of these sites is started
        self.suspended: set[str] = set()
        self.running: list[Started] = []
        #: the share of passes whose clock is the night's
        self.fake_share = 0.0
        self.ended = 0

    def tick(self) -> None:
        """Start what is due, and note what has ended."""
        self._reap()
        if time.monotonic() < self._next:
            return
        self._next += self._minute
        for number, line in enumerate(self.lines):
            if (self._tick + number) % line.every == 0 and line.site not in self.suspended:
                number = self._tick * len(self.lines) + number
                self.start(
                    line.site, line.command, fake=number * 7919 % 100 < self.fake_share * 100
                )
        self._tick += 1

    def start(
        self, site: str, command: list[str], fake: bool = False, by_hand: bool = False
    ) -> Started:
        """Start a script."""
        self._count += 1
        output = self._output / str(self._count)
        with output.open("wb") as file:
            process = subprocess.Popen(
                [str(self._sites.scripts / command[0]), *command[1:]],
                env=self._sites.environment(site, fake and bool(self._sites.faketime)),
                cwd="/",
                user=SERVICE,
                group=SERVICE,
                extra_groups=[],
                umask=0o022,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        one = Started(self._count, site, command, process, output, time.time(), by_hand=by_hand)
        if fake:
            one.hits.append("clock")
        self.running.append(one)
        return one

    def of_site(self, site: str) -> list[Started]:
        """Return what runs at a site."""
        return [one for one in self.running if one.site == site]

    def wait(self, *sites: str, seconds: float = 30) -> None:
        """Wait until nothing runs at these sites; then end what still does."""
        end = time.monotonic() + seconds
        while any(self.of_site(site) for site in sites):
            self._reap()
            time.sleep(0.05)
            if time.monotonic() > end:
                for site in sites:
                    for one in self.of_site(site):
                        self.hit(one, "ended", signal.SIGKILL)
                end += seconds

    def hit(self, one: Started, why: str, number: int, pid: int = 0) -> bool:
        """Signal the group of a script, or one process; return whether it was there."""
        one.hits.append(why)
        try:
            if pid:
                os.kill(pid, number)
            else:
                os.killpg(one.process.pid, number)
        except ProcessLookupError:
            return False
        return True

    def descendants(self, one: Started) -> list[int]:
        """Return the processes that a script has started."""
        try:
            return [child.pid for child in psutil.Process(one.process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _hear(self, one: Started) -> None:
        """Write down the lines that a pass has printed since it was last heard, and when."""
        status = one.output.stat()
        if one.command[0] in ("dbb", "dbb-report") or status.st_size == one.heard:
            return
        with one.output.open("rb") as file:
            file.seek(one.heard)
            new = file.read()
        whole, _, _ = new.rpartition(b"\n")
        if whole:
            one.heard += len(whole) + 1
            for line in whole.decode(errors="surrogateescape").split("\n"):
                # Of passes at work at a time the order is known by that of their files.
                at = round(status.st_mtime, 3)
                self._journal.write("line", t=at, number=one.number, site=one.site, text=line)

    def _reap(self) -> None:
        for one in self.running:
            self._hear(one)
        for one in list(self._ended()):
            self.ended += 1
            self._hear(one)
            said = one.output.read_bytes()
            if not said:
                one.output.unlink()
            self._journal.write(
                "pass",
                number=one.number,
                site=one.site,
                command=one.command,
                began=round(one.began, 3),
                code=one.process.returncode,
                hits=one.hits,
                by_hand=one.by_hand,
                said=said[:20000].decode(errors="surrogateescape"),
            )

    def _ended(self) -> Iterator[Started]:
        for one in list(self.running):
            if one.process.poll() is not None:
                self.running.remove(one)
                yield one


def far_processes() -> list[int]:
    """Return what runs at the far end: sessions of sshd, and all that they have started."""
    found = []
    for process in psutil.process_iter(["name", "pid", "ppid", "uids"]):
        if process.info["name"].startswith("sshd") and process.info["ppid"] not in (0, 1):
            try:
                found += [child.pid for child in process.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
    return sorted(set(found))
