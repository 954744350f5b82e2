"""Simulate a night: ``python -m benchmarks.night --seed 1 --minutes 10 --database postgresql``.

It needs root, to mount disks in memory and to be several users, and leaves nothing behind: it runs
in namespaces of its own. What it found is printed, and kept if there is a violation.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.night import checker, faults, journal, sites
from benchmarks.night.archiver import Orders
from benchmarks.night.cron import Cron


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.night", description=__doc__)
    parser.add_argument("--seed", type=int, help="of what happens (default: a new one, printed)")
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--files", type=int, help="how many (default: 1200 a minute)")
    parser.add_argument("--faults", type=float, default=50, help="a minute")
    parser.add_argument("--only", action="append", default=[], choices=list(faults.WEIGHTS))
    parser.add_argument("--without", action="append", default=[], choices=list(faults.WEIGHTS))
    parser.add_argument("--minute", type=float, default=6, help="seconds of a minute of cron")
    parser.add_argument("--patience", type=float, default=600, help="seconds for what is left")
    parser.add_argument("--results", type=Path, help="directory for journals and output")
    parser.add_argument("--keep", action="store_true", help="keep disks and databases, too")
    given = parser.parse_args()
    given.seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    given.only = [one for one in given.only or faults.WEIGHTS if one not in given.without]
    given.files = int(given.minutes * 1200) if given.files is None else given.files
    return given


class Simulation:
    """One night."""

    def __init__(self, given: argparse.Namespace, root: Path, results: Path) -> None:
        self._given, self._root, self._results = given, root, results
        self._settle = 3.0
        self._journal = journal.Journal(results / "night.jsonl")
        self._sites = sites.Sites(root, given.database, self._settle)
        self.summary = ""

    def run(self) -> list[str]:
        """Live through the night; return what is wrong."""
        for site in ("summit", "archive"):
            done = self._sites.by_hand(site, "dbb", "init")
            assert done.returncode == 0, done
        before = checker.picture(self._root / "outside")
        cron = Cron(self._sites, self._journal, self._results, self._given.minute)
        agent = faults.Agent(
            self._sites,
            cron,
            self._journal,
            self._given.seed,
            self._given.faults / 60,
            self._given.only,
        )
        archiver = self._start_archiver()
        end = time.monotonic() + 60 * self._given.minutes
        while time.monotonic() < end or archiver.poll() is None:
            cron.tick()
            if time.monotonic() < end:
                agent.tick()
            else:
                agent.repair_all()
            time.sleep(0.05)
        assert archiver.returncode == 0, "the archiver failed"
        agent.repair_all()
        self._sites.set_clock(0)
        cron.fake_share = 0
        self._say(f"morning after {agent.done} faults, {cron.ended} passes")
        self._finish(cron)
        night = self._night(before)
        wrong = list(checker.check(night))
        self.summary = (
            f"seed {self._given.seed}, {self._given.database}, {self._given.minutes:g} min:"
            f" {sum(night.placed.values())} versions, {agent.done} faults, {cron.ended} passes,"
            f" {len(wrong)} violations"
        )
        self._say(str(dict(Counter(entry["name"] for entry in night.entries("fault")))))
        if wrong and self._given.keep:
            self._keep()
        self._sites.stop()
        return wrong

    def _start_archiver(self) -> subprocess.Popen[bytes]:
        orders = Orders(
            buffers=[str(self._root / name) for name in checker.BUFFER.values()],
            spools=[str(self._root / "summit/spool"), str(self._root / "guider/spool")],
            outside=str(self._root / "outside"),
            journal=str(self._results / "archiver.jsonl"),
            seed=self._given.seed,
            files=self._given.files,
            seconds=60 * self._given.minutes * 0.9,
            settle=self._settle,
        )
        (self._results / "archiver.jsonl").touch()
        os.chown(self._results / "archiver.jsonl", sites.CAMERA, sites.SERVICE)
        archiver = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.night.archiver"],
            stdin=subprocess.PIPE,
            cwd=sites.TOP,
            user=sites.CAMERA,
            group=sites.SERVICE,
            extra_groups=[],
        )
        assert archiver.stdin
        archiver.stdin.write(json.dumps(orders._asdict()).encode() + b"\n")
        archiver.stdin.close()
        return archiver

    def _finish(self, cron: Cron) -> None:
        """Let cron go on until nothing waits; then make one more pass of each kind."""
        end, quiet = time.monotonic() + self._given.patience, 0
        next_look = 0.0
        while quiet < 2 and time.monotonic() < end:
            cron.tick()
            if time.monotonic() > next_look:
                left = list(checker.unfinished(self._night({})))
                quiet = quiet + 1 if not left else 0
                next_look = time.monotonic() + 5
                if left:
                    self._say(", ".join(left))
            time.sleep(0.05)
        cron.wait("summit", "archive")
        for site, *command in (
            ("summit", "dbb-janitor", "latiss"),
            ("archive", "dbb-auditor", "latiss", "--share", "1"),
            ("archive", "dbb-auditor", "guider", "--share", "1"),
            ("summit", "dbb-handoff", "latiss"),
            *(("archive", "dbb-finder", name) for name in ("latiss", "guider")),
            *(("archive", "dbb-ingester", name) for name in sum(checker.TARGETS.values(), ())),
            ("summit", "dbb-janitor", "latiss"),
        ):
            for _ in range(5):  # a machine that others use may be slow, too
                one = cron.start(site, command)
                cron.wait(site, seconds=120)
                if one.process.returncode != 75:
                    break

    def _night(self, before: dict[str, list[object]]) -> checker.Night:
        lines = [
            *journal.read_all(self._results / "night.jsonl"),
            *journal.read_all(self._results / "archiver.jsonl"),
        ]
        lines.sort(key=lambda entry: entry["t"])
        ask = lambda site, sql: sites.ask(self._sites.direct_url(site), sql)  # noqa: E731
        return checker.Night(self._root, ask, lines, before)

    def _keep(self) -> None:
        kept = self._results / "kept"
        command = f"cd {self._root} && tar c --exclude=./postgres . | tar x -C {kept}"
        kept.mkdir()
        subprocess.run(["sh", "-c", command], check=False)
        for site in ("summit", "archive"):
            if self._sites.postgres:
                self._sites.postgres.begin_dump(site, kept / f"{site}.dump").wait()

    def _say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main() -> int:
    if os.geteuid() != 0:
        print("a simulated night needs root: it mounts disks and is several users", file=sys.stderr)
        return 77
    given = arguments()
    if os.environ.get("NIGHT_APART") != "1":
        sites.apart([*sys.argv[1:], "--seed", str(given.seed)])
    print(f"seed {given.seed}", flush=True)
    results = given.results or Path(tempfile.mkdtemp(prefix="night-results-"))
    results.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="night-"))
    results.chmod(0o755)
    night = Simulation(given, root, results)
    try:
        wrong = night.run()
    finally:
        subprocess.run(["umount", "--lazy", "--recursive", root], check=False)
        root.rmdir()
    for each in wrong[:60]:
        print(each)
    if len(wrong) > 60:
        print(f"and {len(wrong) - 60} more")
    (results / "violations").write_text("".join(f"{each}\n" for each in wrong), errors="replace")
    print(night.summary)
    if wrong:
        print(f"what it wrote down is in {results}")
    elif given.results is None:
        shutil.rmtree(results)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
