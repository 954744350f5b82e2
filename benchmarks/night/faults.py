"""The agent of faults: with a seed, it breaks what can break, and repairs it a moment later."""

from __future__ import annotations

import heapq
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.night.cron import Cron, Started, far_processes
from benchmarks.night.journal import Journal
from benchmarks.night.sites import DISK, SERVICE, Sites, exchange, resize

#: Each fault, and how often it comes in comparison with others.
WEIGHTS = {
    "kill a group": 12,
    "kill a parent": 12,
    "kill a child": 10,
    "kill at the far end": 8,
    "end or interrupt": 8,
    "stop and continue": 8,
    "stop and continue at the far end": 4,
    "stop PostgreSQL": 3,
    "lock": 6,
    "drop the line": 5,
    "refuse the line": 3,
    "hang the line": 4,
    "kill sshd": 2,
    "fill a disk": 5,
    "rename away": 6,
    "take permissions": 6,
    "restore the database": 0.7,
    "step the clock": 5,
    "exchange for a link": 8,
    "an operator": 14,
}

#: Directories that go away for a moment, and those that cannot be used for a moment.
_RENAMED = (
    *("archive/storage", "guider-disk/storage", "summit/holding", "summit/buffer"),
    *("archive/staging", "archive/buffer", "archive/quarantine", "guider/source"),
    *("summit/quarantine", "archive/by-night"),
)
_FORBIDDEN = (*_RENAMED, "var/summit/state", "var/archive/state", "catalog")

#: Directories that have directories of nights, and the tables that are locked.
_WITH_NIGHTS = ("summit/buffer", "archive/buffer", "guider/source", "archive/storage")
_TABLES = {
    "summit": ("run", "handoff_file", "transfer_batch", "transfer_attempt", "quarantine"),
    "archive": ("run", "file", "ingest_state", "ingest_event", "finder_left", "ingest_claim"),
}

#: What operators type while all this goes on: site, and command.
_COMMANDS = (
    ("summit", "dbb status"),
    ("archive", "dbb status --json"),
    ("summit", "dbb check"),
    ("archive", "dbb check --json"),
    ("summit", "dbb list handoff.latiss"),
    ("archive", "dbb list finder.latiss"),
    ("archive", "dbb list target.catalog --json"),
    ("summit", "dbb history AT_O_000001.fits"),
    ("archive", "dbb history AT_O_000002.fits --json"),
    ("archive", "dbb find 2026-11-21 --limit 5"),
    ("summit", "dbb retry handoff.latiss"),
    ("archive", "dbb retry finder.latiss"),
    ("archive", "dbb retry target.by-night"),
    ("archive", "dbb retry target.null --status SUCCESS --match 2026-11-22/AT_O_0000*"),
    ("summit", "dbb-handoff latiss --dry-run"),
    ("archive", "dbb-finder latiss --dry-run"),
    ("archive", "dbb-ingester catalog --dry-run"),
    ("summit", "dbb-janitor latiss --dry-run"),
    ("summit", "dbb-handoff latiss -v --limit 20 --wait 3s"),
    ("archive", "dbb-finder guider --max-time 2s --match 2026-11-2[13]/*"),
    ("archive", "dbb-ingester null --strict --limit 7"),
    ("summit", "dbb-janitor latiss"),
    ("archive", "dbb-auditor latiss --share 0.3 --max-time 4s"),
    ("archive", "dbb-auditor guider --dry-run"),
    ("summit", "dbb resend handoff.latiss 2026-11-23/AT_O_0000*"),
    ("archive", "dbb quarantine list"),
    ("archive", "dbb quarantine release finder.latiss --match 2026-11-24/*"),
    ("summit", "dbb quarantine release handoff.latiss --match *"),
    ("summit", "dbb pause handoff.latiss --for 3s --reason night"),
    ("archive", "dbb pause target --for 2s"),
    ("archive", "dbb resume target"),
    ("archive", "dbb backfill finder.latiss --dry-run"),
    ("archive", "dbb rebuild finder.latiss --dry-run"),
    ("archive", "dbb-report --metrics -"),
)


class Agent:
    """Breaks and repairs.

    Parameters
    ----------
    sites : `Sites`
    cron : `Cron`
    journal : `Journal`
    seed : `int`
    rate : `float`
        Faults a second.
    only : `~collections.abc.Collection` [ `str` ]
        Names of faults; all, if it is empty.
    """

    def __init__(
        self, sites: Sites, cron: Cron, journal: Journal, seed: int, rate: float, only: Any = ()
    ) -> None:
        self._sites, self._cron, self._journal = sites, cron, journal
        self._chance = random.Random(f"{seed} faults")
        self._rate = rate
        self._weights = {
            name: weight for name, weight in WEIGHTS.items() if not only or name in only
        }
        if not sites.postgres:
            self._weights.pop("stop PostgreSQL", None)
        if not sites.faketime:
            self._weights.pop("step the clock", None)
        cron.fake_share = 0.25 if "step the clock" in self._weights else 0
        self._numbers = itertools.count(1)
        self._next = time.monotonic() + 1
        #: what is broken: what repairs it is in `_repairs`
        self._broken: set[str] = set()
        self._repairs: list[tuple[float, int, str, Callable[[], object]]] = []
        self._next_backup = time.monotonic() + 15
        self.done = 0

    def tick(self) -> None:
        """Do what is due."""
        now = time.monotonic()
        while self._repairs and self._repairs[0][0] <= now:
            self._repair(*heapq.heappop(self._repairs)[2:])
        if now >= self._next_backup and "restore the database" in self._weights:
            self._next_backup = now + 20
            for site in ("summit", "archive"):
                self._sites.begin_backup(site, next(self._numbers))
        if now >= self._next:
            self._next += self._chance.expovariate(self._rate)
            (name,) = self._chance.choices(list(self._weights), list(self._weights.values()))
            done = getattr(self, "_" + name.replace(" ", "_").lower())()
            if done:
                self.done += 1
                self._journal.write("fault", name=name, on=str(done))

    def repair_all(self) -> None:
        """Let everything be whole again."""
        while self._repairs:
            self._repair(*heapq.heappop(self._repairs)[2:])

    def _repair(self, what: str, repair: Callable[[], object]) -> None:
        repair()
        self._broken.discard(what)
        self._journal.write("repaired", on=what)

    def _break(self, what: str, seconds: tuple[float, float], repair: Callable[[], object]) -> str:
        """Note what has been broken, and that it is to be repaired after some time."""
        self._broken.add(what)
        length = self._chance.uniform(*seconds)
        heapq.heappush(
            self._repairs, (time.monotonic() + length, next(self._numbers), what, repair)
        )
        return f"{what} for {length:.1f} s"

    # ---- processes

    def _any_pass(self) -> Started | None:
        running = [one for one in self._cron.running if f"stop {one.number}" not in self._broken]
        return self._chance.choice(running) if running else None

    def _kill_a_group(self) -> str:
        one = self._any_pass()
        if not one or not self._cron.hit(one, "killed", signal.SIGKILL):
            return ""
        return str(one.command)

    def _kill_a_parent(self) -> str:
        if not (one := self._any_pass()):
            return ""
        # With libfaketime what a process with threads has just forked may hang for ever, and keep
        # the lock of its parent, which ends it.
        whole = "clock" in one.hits
        self._cron.hit(one, "killed", signal.SIGKILL, 0 if whole else one.process.pid)
        return str(one.command)

    def _kill_a_child(self) -> str:
        for one in self._chance.sample(self._cron.running, len(self._cron.running)):
            if children := self._cron.descendants(one):
                pid = self._chance.choice(children)
                number = self._chance.choice((signal.SIGKILL, signal.SIGTERM))
                self._cron.hit(one, "child killed", number, pid)
                return f"{pid} of {one.command}"
        return ""

    def _kill_at_the_far_end(self) -> str:
        if not (far := far_processes()):
            return ""
        with suppress(ProcessLookupError):
            os.kill(pid := self._chance.choice(far), signal.SIGKILL)
        return str(pid)

    def _end_or_interrupt(self) -> str:
        if not (one := self._any_pass()):
            return ""
        number = self._chance.choice((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        self._cron.hit(one, "signal", number, one.process.pid)
        if self._chance.random() < 0.3:
            self._cron.hit(one, "signal", number, one.process.pid)
        return f"{number.name} {one.command}"

    def _stop_and_continue(self) -> str:
        if not (one := self._any_pass()):
            return ""
        self._cron.hit(one, "stopped", signal.SIGSTOP)

        def repair() -> None:
            self._cron.hit(one, "continued", signal.SIGCONT)

        return self._break(f"stop {one.number}", (0.3, 8), repair)

    def _stop_and_continue_at_the_far_end(self) -> str:
        if not (far := far_processes()):
            return ""
        pid = self._chance.choice(far)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)

        def repair() -> None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

        return self._break(f"far process {pid}", (0.3, 12), repair)

    # ---- servers and lines

    def _stop_postgresql(self) -> str:
        postgres = self._sites.postgres
        if not postgres or "PostgreSQL" in self._broken:
            return ""
        postgres.stop()
        return self._break("PostgreSQL", (0.2, 5), postgres.start)

    def _lock(self) -> str:
        site = self._chance.choice(list(_TABLES))
        what = f"lock at {site}"
        if what in self._broken or "PostgreSQL" in self._broken:
            return ""
        if self._sites.postgres:
            table = self._chance.choice(_TABLES[site])
            begin = f"BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"
            program = "import psycopg; c = psycopg.connect(sys.argv[1]); c.execute(sys.argv[2])"
        else:
            begin = self._chance.choice(("BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"))
            program = (
                "import sqlite3; c = sqlite3.connect(sys.argv[1].removeprefix('sqlite:///'),"
                " isolation_level=None, timeout=5); c.execute(sys.argv[2])"
            )
        holder = [sys.executable, "-c", f"import sys, time; {program}; time.sleep(60)"]
        process = subprocess.Popen(
            [*holder, self._sites.direct_url(site), begin],
            user=SERVICE,
            group=SERVICE,
            extra_groups=[],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def repair() -> None:
            process.kill()
            process.wait()

        return self._break(what, (0.5, 12), repair)

    def _line(self) -> str:
        return self._chance.choice(list(self._sites.lines))

    def _drop_the_line(self) -> str:
        line = self._line()
        self._sites.lines[line].drop()
        return line

    def _refuse_the_line(self) -> str:
        what = f"refused {(line := self._line())}"
        if what in self._broken:
            return ""
        self._sites.lines[line].refuse(True)
        return self._break(what, (0.5, 5), lambda: self._sites.lines[line].refuse(False))

    def _hang_the_line(self) -> str:
        what = f"hanging {(line := self._line())}"
        if what in self._broken:
            return ""
        self._sites.lines[line].hang(True)
        return self._break(what, (0.5, 15), lambda: self._sites.lines[line].hang(False))

    def _kill_sshd(self) -> str:
        if "sshd" in self._broken:
            return ""
        self._sites.ssh.stop()
        return self._break("sshd", (0.2, 4), self._sites.start_sshd)

    # ---- disks and directories

    def _fill_a_disk(self) -> str:
        disk = self._sites.disks[name := self._chance.choice(list(self._sites.disks))]
        what = f"full {name}"
        if what in self._broken:
            return ""
        free = os.statvfs(disk)
        used = (free.f_blocks - free.f_bfree) * free.f_bsize
        # As if files of somebody else's took the rest.
        resize(disk, used + self._chance.choice((0, 0, 4096, 1 << 17, 4 << 20)))
        return self._break(what, (0.5, 8), lambda: resize(disk, DISK))

    def _rename_away(self) -> str:
        path = self._sites.root / (name := self._chance.choice(_RENAMED))
        what = f"directory {name}"
        if what in self._broken:
            return ""
        away = path.with_name(f"{path.name}.away")
        path.rename(away)
        bare = name.endswith("storage") and self._chance.random() < 0.5
        if bare:
            path.mkdir()
            os.chown(path, SERVICE, SERVICE)

        def repair() -> None:
            if bare:
                left = sorted(str(each) for each in path.rglob("*"))
                if left:
                    self._journal.write("violation", text=f"made where nothing is mounted: {left}")
                    path.rename(path.with_name(f"{path.name}.bare-{next(self._numbers)}"))
                else:
                    path.rmdir()
            away.rename(path)

        return self._break(what, (0.3, 6), repair)

    def _take_permissions(self) -> str:
        name = self._chance.choice(_FORBIDDEN)
        path = self._sites.root / name
        if f"directory {name}" in self._broken:
            return ""
        if self._chance.random() < 0.5 and (below := list(_directories(path))):
            path = self._chance.choice(below)
        what = f"directory {name}"
        mode = path.stat().st_mode & 0o7777
        path.chmod(self._chance.choice((0o000, 0o555, 0o444)))
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

        def repair() -> None:
            os.fchmod(fd, mode)
            os.close(fd)

        return self._break(what, (0.3, 6), repair) + f" ({path})"

    def _exchange_for_a_link(self) -> str:
        """Exchange a directory for a link to one outside, once or again and again."""
        name = self._chance.choice(_WITH_NIGHTS)
        what = f"directory {name}"
        if what in self._broken:
            return ""
        night = f"2026-11-{20 + self._chance.randrange(6)}"
        path = self._sites.root / name / night
        if not path.is_dir() or path.is_symlink():
            return ""
        other = path.parents[1] / f"{Path(name).name}.link"
        other.symlink_to(self._sites.root / "outside" / night)
        if self._chance.random() < 0.5:
            end = time.monotonic() + self._chance.uniform(0.05, 0.4)
            while time.monotonic() < end:
                exchange(path, other)
                time.sleep(self._chance.uniform(0, 0.003))
            self._put_back(path, other)
            return f"{path}, again and again"
        exchange(path, other)
        return self._break(what, (0.1, 4), lambda: self._put_back(path, other)) + f" ({path})"

    def _put_back(self, path: Path, other: Path) -> None:
        if path.is_symlink():
            exchange(path, other)
        if other.is_symlink():
            other.unlink()
        elif other.exists():  # the link was removed: somebody's fault
            self._journal.write("violation", text=f"{path}: the link in its place is gone")
            other.rename(path)

    # ---- the clock, the database, operators

    def _step_the_clock(self) -> str:
        step = self._chance.choice((0, 90, -90, 7200, -7200, 3 * 86400, -3 * 86400, 40 * 86400))
        self._sites.set_clock(step)
        return f"{step:+d} s"

    def _restore_the_database(self) -> str:
        """Restore a backup of a site as docs/database.md says."""
        site = self._chance.choice(("summit", "archive"))
        if not (known := self._sites.backups(site)[-3:]):
            return ""
        self.repair_all()
        # The far end's `dbb confirm` asks the archive's database.
        sites = ("summit", "archive") if site == "archive" else ("summit",)
        self._cron.suspended |= set(sites)
        self._cron.wait(*sites)
        if site == "archive":
            for pid in far_processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        backup = self._chance.choice(known)
        age = time.time() - backup.stat().st_mtime
        self._sites.restore(site, backup)
        labels = ["handoff.latiss"] if site == "summit" else ["finder.latiss", "finder.guider"]
        for command in (["dbb", "init"], *(["dbb", "rebuild", label] for label in labels)):
            for _ in range(20):
                done = self._sites.by_hand(site, *command)
                self._journal.write(
                    "restoring", site=site, command=command, code=done.returncode,
                    said=done.stdout + done.stderr,
                )  # fmt: skip
                if done.returncode != 1:
                    break
                time.sleep(0.5)
        self._cron.suspended.clear()
        return f"{site}, {age:.0f} s old"

    def _an_operator(self) -> str:
        site, command = self._chance.choice(_COMMANDS)
        self._cron.start(site, command.split(), by_hand=True)
        return f"{site}: {command}"


def _directories(path: Path) -> Iterator[Path]:
    for directory in path.iterdir() if path.is_dir() else ():
        if directory.is_dir() and not directory.is_symlink():
            yield directory
