"""A site in trouble, one that is well, and their nights: data for the pages.

``python -m tests.report.page.examples DIR`` writes the pages of both, to look at.
"""

import random
import sys
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path

from dbbbatch.report.health import Component, Health, Level, Room, Trouble, Waiting
from dbbbatch.report.night_files import NightFiles
from dbbbatch.report.nights import (
    BIN,
    LATENCY_BOUNDS,
    Latency,
    Night,
    NightFile,
    Reason,
    Slow,
    Step,
)
from dbbbatch.report.page import site
from dbbbatch.report.survey import Survey

NOW = datetime(2026, 11, 30, 9, 12, 5)
LAST = date(2026, 11, 29)

#: Names that a careless page would obey.
HOSTILE = [
    "<script>alert(1)</script>.fits",
    "new\nline.fits",
    "not\\xffutf8.fits",
    '"><img src=x onerror=alert(1)>.fits',
    "\u202egnp.fits",
    "{{ 7 * 7 }}.fits",
    "');alert(1);('.fits",
]


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def component(label: str, state: str = "ok", **values: object) -> Component:
    site, host = ("summit", "s1") if label.startswith(("handoff", "janitor")) else ("archive", "a1")
    usual = {"janitor": 3600.0, "auditor": 86400.0}.get(label.partition(".")[0], 60.0)
    given: dict[str, object] = {
        "site": site,
        "host": host,
        "started": ago(seconds=62),
        "finished": ago(seconds=8),
        "last_ok": ago(seconds=8),
        "usual": usual,
    }
    return Component(label=label, state=state, **{**given, **values})  # type: ignore[arg-type]


def room(where: str, path: str, free: float, total: float, needed: float = 0) -> Room:
    return Room(
        where=where,
        path=path,
        free_bytes=int(free * 1e9),
        total_bytes=int(total * 1e9),
        needed_bytes=int(needed * 1e9),
    )


def well() -> Health:
    return Health(
        at=NOW,
        site="summit",
        components=[
            component("handoff.latiss", counts={"delivered": 3, "held": 3}),
            component(
                "janitor.latiss",
                last_ok=ago(minutes=55),
                started=ago(minutes=55.2),
                finished=ago(minutes=55),
            ),
            component("finder.latiss", "at work", counts={"stored": 2}, finished=None),
            component("target.gen3", counts={"ingested": 2}),
            component("target.rucio", counts={"ingested": 2}),
            component(
                "auditor.latiss",
                last_ok=ago(hours=16),
                started=ago(hours=16.5),
                finished=ago(hours=16),
            ),
        ],
        rooms=[
            room("[handoff.latiss] holding", "/data/holding", 2300, 8000, 100),
            room("[site] state", "/var/lib/dbb", 41, 60),
        ],
    )


def in_trouble() -> Health:
    storage_gone = (
        "/data/storage ([finder.latiss] storage): .dbb-storage is not there; is its disk mounted?"
    )
    return Health(
        at=NOW,
        site="summit",
        troubles=[
            Trouble(
                "archive",
                "finder.latiss",
                "try again later",
                1203,
                storage_gone,
                "mount it, then: dbb -c /etc/dbb/dbb.toml check",
                "",
                ago(hours=5, minutes=3),
                Level.CRITICAL,
            ),
            Trouble(
                "archive",
                "/data/storage",
                "corrupt",
                1,
                "2026-11-24/AT_O_20261124_000113_R00_S00.fits: checksum blake2b:7be1… expected, "
                "blake2b:09fa… read",
                "copy it back, then: dbb-auditor -c /etc/dbb/dbb.toml latiss --share 1 --match "
                "2026-11-24/AT_O_20261124_000113_R00_S00.fits",
                "dbb-auditor -c /etc/dbb/dbb.toml latiss --dry-run",
                ago(days=1, hours=2),
                Level.CRITICAL,
            ),
            Trouble(
                "archive",
                "target.rucio",
                "gave up",
                12,
                f"{HOSTILE[0]}: the scope of this file is not registered",
                "dbb -c /etc/dbb/dbb.toml retry target.rucio",
                "dbb -c /etc/dbb/dbb.toml list target.rucio --status gave-up",
                ago(hours=9),
            ),
            Trouble(
                "summit",
                "janitor.latiss",
                "overdue",
                0,
                f"has not succeeded since {ago(days=4):%Y-%m-%d %H:%M} UTC; usually every 60 min; "
                "does cron run?",
                "crontab -l; if it is no longer used: dbb pause janitor.latiss",
                "",
                ago(days=4),
                Level.CRITICAL,
            ),
            Trouble(
                "archive",
                "target.gen3",
                "failing",
                3,
                "ConflictingDefinitionError: exposure 2026112900412",
                "",
                "dbb -c /etc/dbb/dbb.toml list target.gen3 --status failing",
                ago(minutes=40),
            ),
        ],
        components=[
            component("handoff.latiss", counts={"delivered": 31, "held": 31}),
            component(
                "janitor.latiss",
                last_ok=ago(days=4),
                started=ago(days=4.001),
                finished=ago(days=4),
                overdue=True,
            ),
            component(
                "finder.latiss",
                "later (75)",
                last_ok=ago(hours=5, minutes=3),
                overdue=True,
                message=storage_gone,
            ),
            component("target.gen3", "failed (1)", counts={"failed": 3, "ingested": 31}),
            component("target.rucio", "paused", paused_until=NOW + timedelta(hours=2)),
            component("auditor.latiss", "never", started=None, last_ok=None, usual=None),
        ],
        backlog=[
            Waiting(
                site="summit",
                label="handoff.latiss",
                step="deliver",
                files=212,
                size_bytes=3_560_000_000,
                oldest=ago(minutes=9),
                rate=0.35,
            ),
            Waiting(
                site="archive",
                label="finder.latiss",
                step="store",
                files=1203,
                at_least=True,
                size_bytes=20_200_000_000,
                oldest=ago(hours=5, minutes=3),
                rate=-0.07,
            ),
            Waiting(
                site="archive",
                label="target.rucio",
                step="try again",
                files=12,
                oldest=ago(hours=9),
            ),
        ],
        rooms=[
            room("[handoff.latiss] holding", "/data/holding", 61, 8000, 100),
            room("[finder.latiss] quarantine", "/data/quarantine", 310, 8000),
            room("[site] state", "/var/lib/dbb", 41, 60),
        ],
    )


def latency(seconds: float, files: int, name: str, since: str = "found") -> Latency:
    return Latency(
        since=since,
        files=files,
        median=seconds,
        p95=seconds * 4,
        p99=seconds * 15,
        total=seconds * files * 1.5,
        within=tuple(files if bound > seconds else 0 for bound in LATENCY_BOUNDS),
        worst=tuple(Slow(name, seconds * times) for times in (90, 70, 40)),
    )


def step(name: str, profile: list[int], **values: object) -> Step:
    files = int(values.pop("files", 1640))  # type: ignore[call-overload]
    given: dict[str, object] = {
        "done": files // 4,
        "missing": 0,
        "unknown": 0,
        "files": files,
        "missing_files": 0,
        "unknown_files": 0,
        "size_bytes": sum(profile),
        "latency": None,
        "bytes_by_time": tuple(profile),
        "bytes_earlier": 0,
        "bytes_later": 0,
    }
    return Step(name=name, **{**given, **values})  # type: ignore[arg-type]


def night(day: date = LAST, *, trouble: bool = False) -> Night:
    begins = datetime(day.year, day.month, day.day, 12)
    luck = random.Random(day.toordinal())
    found = [
        int(luck.uniform(0.4, 1) * 1.2e9) if 46 <= bin < 87 or bin in (20, 21) else 0
        for bin in range(86400 // BIN)
    ]
    stored = list(found)
    if trouble:
        stored[64:] = [0] * (len(found) - 64)
    name = f"{day}/AT_O_{day:%Y%m%d}_000113_R00_S00.fits"
    part = {"files": 1015, "done": 253, "missing": 157, "missing_files": 625}
    kept = part if trouble else {}
    return Night(
        day=day,
        begins=begins,
        ends=begins + timedelta(days=1),
        unit="exposure",
        expected=420,
        found=410,
        files=1640,
        size_bytes=sum(found),
        withdrawn=0,
        steps=(
            step("found", found),
            step("delivered", found, latency=latency(9, 1640, name)),
            step("stored", stored, latency=latency(22, 1640, name), **kept),
            step(
                "target.gen3",
                stored,
                site="archive",
                latency=latency(41, 1637, name),
                **(kept or {"files": 1637, "done": 409, "missing": 1, "missing_files": 3}),
            ),
            step(
                "target.rucio",
                [0] * 80 + [size // 3 for size in stored[60:76]],
                site="archive",
                latency=latency(1900, 1628, HOSTILE[0]),
                bytes_later=3_000_000_000,
                **(kept or {"files": 1628, "done": 407, "missing": 3, "missing_files": 12}),
            ),
        ),
        reasons=(
            Reason("target.rucio", "the scope of this file is not registered", 12, HOSTILE[0]),
            Reason("target.gen3", "ConflictingDefinitionError: exposure #", 3, name),
        ),
    )


def nights(count: int = 30, *, trouble: bool = False) -> list[Night]:
    days = [LAST - timedelta(days=back) for back in range(count)]
    return [night(day, trouble=trouble and day == LAST) for day in days]


def files(*days: date) -> NightFiles:
    found = NightFiles()
    for day in days or [LAST]:
        for file in files_of(day):
            found.add(day, file)
    return found


def files_of(day: date) -> Iterator[NightFile]:
    targets = {"gen3": "SUCCESS", "rucio": "SUCCESS"}
    for number in range(1640):
        path = f"{day}/AT_O_{day:%Y%m%d}_{number // 4:06}_R00_S0{number % 4}.fits"
        yield NightFile(path=path, size_bytes=16_800_000, where="stored", targets=targets)
    for name in HOSTILE:
        yield NightFile(path=f"{day}/{name}", size_bytes=1, where="in the buffer")


def survey(health: Health | None = None, count: int = 2, *, trouble: bool = True) -> Survey:
    """Return all that a report shows, with the files of these nights."""
    shown = nights(count, trouble=trouble)
    given = files(*(one.day for one in shown)) if shown else NightFiles()
    return Survey(health=health or in_trouble(), nights=shown, files=given)


if __name__ == "__main__":
    for name, seen in (
        ("trouble", survey(count=12)),
        ("well", survey(well(), 5, trouble=False)),
    ):
        directory = Path(sys.argv[1], name)
        directory.mkdir(parents=True, exist_ok=True)
        site.write_site(str(directory), seen)
