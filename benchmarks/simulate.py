#!/usr/bin/env python3
"""What one host, ten hosts and a thousand sites carry: a model, and whether it fits a real run.

`costs` (a part) measures what passes cost, with and without files, and compares the model with a
run over a third number of files. `carry` simulates sites that send files to one archive: passes
start each minute, take what waits, and queue for processors, lines, disks and the database. The
costs that it uses are those of `COSTS`, measured so; docs/scale.md says what follows.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import measure
import millions
import psutil


class Cost(NamedTuple):
    """Processor seconds of a pass: when nothing waits, to begin with files, and for each file.

    Those of the database are apart; to begin costs it nothing that matters.
    """

    start: float
    begin: float
    file: float
    start_database: float
    file_database: float


#: Measured by `costs`; an ingester with one target.
COSTS = {
    "handoff": Cost(0.40, 0.40, 0.0012, 0.02, 0.0002),
    "finder": Cost(0.37, 0.03, 0.0002, 0.02, 0.0001),
    "ingester": Cost(0.38, 0.15, 0.0002, 0.02, 0.0001),
    "janitor": Cost(0.46, 0.0, 0.0, 0.02, 0.0),
}

#: Of a handoff's session at the far end: processor seconds to begin it, and for each file.
FAR_SESSION, FAR_FILE = 0.05, 0.0005

#: Bytes a second: of a site's line, of the archive's, of its file system; seconds of a sync.
SITE_LINE, ARCHIVE_LINE, DISK, SYNC = 125e6, 1.25e9, 500e6, 0.002

#: Processors of a site's host, of one of the archive's, and of the database's.
CORES, DATABASE_CORES = 4, 8

#: Files that a pass moves before others get their turn at what it uses.
SLICE = 100

PERIOD = 60.0

#: Times a second that files come, at most: then several at a time.
BURSTS = 20

#: Of the archive.
TARGETS = 3

#: How long is simulated.
MINUTES = 20

#: Sites, hosts of the archive, bytes of a file, and files a second of all sites together.
SCENARIOS = (
    (1, 1, 16e6, (1, 5, 7, 10)),
    (1, 1, 64e3, (10, 100, 200, 400)),
    (10, 10, 16e6, (10, 15, 20)),
    (10, 10, 64e3, (100, 1000, 2000)),
    (1000, 10, 64e3, (10, 100, 1000)),
)


@dataclass
class Station:
    """Something that several passes want: so many are served at a time, the others wait."""

    name: str
    servers: int
    busy: float = 0.0
    free: list[float] = field(default_factory=list)

    def serve(self, now: float, seconds: float) -> float:
        """Return when work that comes now is done."""
        if not self.free:
            self.free = [0.0] * self.servers
        end = max(now, heapq.heappop(self.free)) + seconds
        heapq.heappush(self.free, end)
        self.busy += seconds
        return end


@dataclass
class Section:
    """A component: what waits for it, where that goes then, and on whose processors it runs."""

    kind: str
    own: Station
    waiting: deque[float]
    after: list[deque[float]]
    line: Station
    busy: float = 0.0


class Archive:
    """Sites that send files to one archive.

    Each host of the archive has a finder, and an ingester for each of three targets.

    Parameters
    ----------
    sites, hosts : `int`
    rate : `float`
        Files a second, of all sites together.
    size : `float`
        Bytes of a file.
    """

    def __init__(self, sites: int, hosts: int, rate: float, size: float) -> None:
        self._rate, self._size, self._now, self._seconds = rate, size, 0.0, 0.0
        self._random = random.Random(1)
        self._far = Station("archive's processors", CORES * hosts)
        self._disk = Station("archive's file system", 1)
        self._line = Station("archive's line", 1)
        self._database = Station("database", DATABASE_CORES)
        targets: list[deque[float]] = [deque() for _ in range(TARGETS)]
        found: list[deque[float]] = [deque() for _ in range(hosts)]
        self._sections = [
            Section("finder", self._far, one, targets, self._line) for one in found
        ] + [Section("ingester", self._far, one, [], self._line) for one in targets * hosts]
        self._sites = []
        for number in range(sites):
            near, line = Station("a site's processors", CORES), Station("a site's line", 1)
            came = found[number % hosts]
            self._sites.append(Section("handoff", near, deque(), [came], line))
            self._sections.append(Section("janitor", near, deque(), [], line))
        self._sections += self._sites
        self._delays: list[float] = []

    def run(self, seconds: float) -> None:
        """Let files come and passes start for so long."""
        self._seconds = seconds
        events: list[tuple[float, int, Iterator[float]]] = [(0.0, 0, self._arrivals())]
        for section in self._sections:
            start = self._random.uniform(0, PERIOD)
            heapq.heappush(events, (start, len(events), self._cron(section)))
        while events[0][0] < seconds:
            self._now, number, what = events[0]
            heapq.heapreplace(events, (next(what), number, what))

    def _arrivals(self) -> Iterator[float]:
        burst = math.ceil(self._rate / BURSTS)
        while True:
            self._random.choice(self._sites).waiting.extend([self._now] * burst)
            yield self._now + self._random.expovariate(self._rate / burst)

    def _cron(self, section: Section) -> Iterator[float]:
        while True:
            start = self._now
            for done in self._pass(section):
                before = self._now
                yield done
                section.busy += self._now - before
            yield max(start + PERIOD, self._now)

    def _pass(self, section: Section) -> Iterator[float]:
        """Make a pass over what waits; yield when each step of it is done."""
        cost, far = COSTS[section.kind], section.kind == "handoff"
        yield section.own.serve(self._now, cost.start)
        yield self._database.serve(self._now, cost.start_database)
        if section.waiting:
            yield section.own.serve(self._now, cost.begin)
            if far:
                yield self._far.serve(self._now, FAR_SESSION)
        while some := [section.waiting.popleft() for _ in range(min(len(section.waiting), SLICE))]:
            size = self._size * len(some)
            yield section.own.serve(self._now, cost.file * len(some))
            if far:
                yield section.line.serve(self._now, size / SITE_LINE)
                yield self._line.serve(self._now, size / ARCHIVE_LINE)
                yield self._far.serve(self._now, FAR_FILE * len(some))
            if section.kind != "ingester":
                # The finder reads each file once more, for its checksum.
                yield self._disk.serve(self._now, size / DISK + SYNC)
            yield self._database.serve(self._now, cost.file_database * len(some))
            for queue in section.after:
                queue.extend(some)
            if not section.after:
                self._delays += [self._now - came for came in some]

    def result(self) -> tuple[str, ...]:
        """Return the delay until a target has a file, what waits, and what is busiest."""
        stations = [self._far, self._disk, self._line, self._database]
        stations.append(max((section.own for section in self._sites), key=lambda one: one.busy))
        stations.append(max((section.line for section in self._sites), key=lambda one: one.busy))
        busy = [(one.busy / one.servers, one.name) for one in stations]
        # One pass does one thing after the other.
        busy += [(one.busy, f"one {one.kind}'s passes") for one in self._sections]
        shares = sorted((seconds / self._seconds, name) for seconds, name in busy)
        delays = sorted(self._delays) or [float("nan")]
        waiting = {id(one.waiting): len(one.waiting) for one in self._sections}
        return (
            f"{statistics.median(delays):.0f} s",
            f"{delays[int(len(delays) * 0.99)]:.0f} s",
            f"{sum(waiting.values()):,}",
            ", ".join(f"{name} {share:.0%}" for share, name in _without_twins(shares)),
        )


def _without_twins(shares: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Return the two busiest, of several of one name only the first."""
    highest = {name: share for share, name in shares}
    return sorted(((share, name) for name, share in highest.items()), reverse=True)[:2]


def carry() -> None:
    """Print what sites of several kinds carry."""
    rows = [("sites, hosts", "files/s", "MB each", "median", "99 %", "waiting", "busiest")]
    for sites, hosts, size, rates in SCENARIOS:
        for rate in rates:
            archive = Archive(sites, hosts, rate, size)
            archive.run(MINUTES * 60)
            shown = f"{size / 1e6:g}"
            rows.append((f"{sites}, {hosts}", f"{rate}", shown, *archive.result()))
    measure.print_rows(rows)


def costs(directory: Path, repeats: int) -> None:
    """Measure passes with few and with many files, and compare what follows with a third run."""
    from tests.support.database import Databases

    found: dict[tuple[int, str], list[tuple[float, float]]] = {}
    with measure.databases(directory / "databases") as databases:
        assert isinstance(databases, Databases)
        with databases.fresh("postgresql", directory) as url:
            site = millions.Site(directory / "site", url, 2)
            server = psutil.Process(databases.postgres._server.get_pid())
            for files in (10, *(0, 100, 800, 300) * repeats):
                site.come(files)
                for kind in COSTS:
                    name = "dbb-ingester ONE" if kind == "ingester" else f"dbb-{kind}"
                    before = _used(server)
                    whole = site.cost(name).cpu
                    database = _used(server) - before
                    found.setdefault((files, kind), []).append((whole - database, database))
    titles = ("start", "begin", "a file", "database", "a file", "300 files", "model", "ratio")
    rows = [("processor seconds", *titles)]
    for kind in COSTS:
        idle, few, many, some = (
            [statistics.median(one) for one in zip(*found[files, kind], strict=True)]
            for files in (0, 100, 800, 300)
        )
        each = [(most - least) / 700 for most, least in zip(many, few, strict=True)]
        begin = sum(few) - sum(idle) - 100 * sum(each)
        model, real = sum(idle) + begin + 300 * sum(each), sum(some)
        numbers = (idle[0], begin, each[0], idle[1], each[1])
        rows.append((kind, *(f"{one:.4f}" for one in numbers), f"{real:.2f}", f"{model:.2f}"))
        rows[-1] += (f"{model / real:.2f}",)
    measure.print_rows(rows)


def _used(server: psutil.Process) -> float:
    """Return the processor seconds of a server of PostgreSQL and of its sessions so far."""
    own = server.cpu_times()
    used = own.user + own.system + own.children_user + own.children_system
    for child in server.children():
        times = child.cpu_times()
        used += times.user + times.system
    return float(used)


def main() -> None:
    """Do the parts that are asked for; by default simulate."""
    given = measure.arguments(__doc__, ("costs", "carry"))
    with measure.working_directory(given.directory) as directory:
        for part in given.part or ["carry"]:
            if part == "costs":
                costs(directory, given.repeats)
            else:
                carry()


if __name__ == "__main__":
    main()
