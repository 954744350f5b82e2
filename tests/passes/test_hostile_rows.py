"""Rows whose names lead out of the directories: they are told, and nothing is done for them."""

from __future__ import annotations

import os
import shlex
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.files import checksum, names
from dbbbatch.files.identity import Version
from dbbbatch.files.tree import outside as file_at
from dbbbatch.passes.handoff.delivery import attempt_prefix
from tests.support.endpoints import BASE, FIRST, base, with_base
from tests.support.handing import change, rows
from tests.support.scripts import TOP
from tests.support.site import Site

pytestmark = pytest.mark.promise

WHEN = "2026-11-24 00:00:00"
SCRIPTS = ["dbb-handoff", "dbb-finder", "dbb-ingester", "dbb-janitor", "dbb-auditor"]

#: From a buffer, holding area, source or storage of the site to a file beside them; and what is
#: no path at all.
ASTRAY = [
    ("../..", "victim"),
    ("", "../../victim"),
    ("night/../../..", "victim"),
    ("{root}", "victim"),
    ("night/.", "good"),
    ("night//", "good"),
    ("", ".."),
    ("\\q", "victim"),
]


@pytest.fixture
def site(site: Site) -> Site:
    """Return a site whose janitor may purge at once, and a file beside its directories."""
    ours = [sys.executable, f"{TOP}/bin/dbb", "-c", str(site.config), "confirm"]
    confirm = shlex.join(ours)
    site.write(
        handoff={"purge_after": 0, "min_free": 0, "stale_after": 0},
        endpoint={"confirm": confirm},
        finder={"min_free": 0, "audit_share": 1.0},
    )
    (site.root / "victim").write_bytes(b"victim")
    (site.state / "victim.list").write_bytes(b"a list of somebody")
    return site


def version(path: Path) -> dict[str, Any]:
    status = path.stat()
    digest = checksum.compute(file_at(str(path)))["blake2b"]
    return {
        "size_bytes": status.st_size,
        "mtime_ns": Version.of_file(status).mtime_ns,
        "inode": status.st_ino,
        "checksum": f"blake2b:{digest}",
    }


def insert(at: Site, table: str, **values: Any) -> None:
    columns, marks = ", ".join(values), ", ".join("?" * len(values))
    change(at, f"INSERT INTO {table} ({columns}) VALUES ({marks})", *values.values())


def insert_all(at: Site, table: str, **values: Any) -> int:
    """Put in a row of each kind of name; give how many."""
    for relpath, filename in ASTRAY:
        where = {"relpath": relpath.format(root=at.root), "filename": filename}
        insert(at, table, **{**version(at.root / "victim"), **where, **values})
    return len(ASTRAY)


def outside(site: Site) -> dict[str, bytes]:
    """Return what is beside the configured roots, and in the state directory except notes."""
    roots = (site.buffer, site.holding, site.far_buffer, site.staging, site.storage)
    roots = (*roots, site.quarantine, site.storage_quarantine)
    found = {}
    for top, _, files in os.walk(site.root):
        if not any(Path(top).is_relative_to(root) for root in roots):
            found |= {os.path.join(top, name): Path(top, name).read_bytes() for name in files}
    ours = (str(site.state / each) for each in ("said", "passes", "locks", "lists", "crashes"))
    skipped = tuple(ours)
    return {path: data for path, data in found.items() if not path.startswith(skipped)}


def run_all(site: Site) -> dict[str, Any]:
    return {script: site.run(script) for script in SCRIPTS}


def assert_only_told(site: Site, before: dict[str, bytes], teller: str) -> None:
    """A good file goes all the way, the row is told, and nothing outside is touched.

    Whatever a row is like, the janitor cleans the staging area in the same pass.
    """
    site.put("night/good", b"good")
    stale = site.staging / f"{attempt_prefix('summit', 'latiss')}{'f' * 16}"
    stale.mkdir()
    ran = run_all(site)
    assert not stale.exists()
    assert outside(site) == before
    assert [each.code for each in ran.values() if each.code not in (0, 1)] == [], ran
    assert ran[teller].code == 1
    assert "refused" in ran[teller].err
    assert (site.storage / "night/good").read_bytes() == b"good"
    states = rows(site, "s.status", "ingest_state s JOIN file f ON f.id = s.file_id")
    assert "SUCCESS" in states


@pytest.mark.parametrize("status", ["FOUND", "DELIVERED", "QUARANTINED"])
def test_rows_of_a_handoff(site: Site, status: str) -> None:
    before = outside(site)
    insert_all(
        site, "handoff_file", site="summit", handoff="latiss", status=status, discovered_at=WHEN
    )
    site.run("dbb-handoff", "--dry-run")
    assert_only_told(site, before, "dbb-handoff")


@pytest.mark.parametrize("which", ["relpath", "held_as"])
def test_rows_of_a_janitor(site: Site, which: str) -> None:
    before = outside(site)
    victim = version(site.root / "victim")
    common = {"site": "summit", "handoff": "latiss", "status": "HELD"}
    common |= {"discovered_at": WHEN, "held_at": WHEN}
    # The endpoint says of each of them that it is stored.
    for relpath, filename in [("../..", "victim"), ("night", "x")]:
        held_as = "../../../victim" if which == "held_as" else filename
        where = {"relpath": relpath, "filename": filename}
        insert(site, "handoff_file", **victim, **where, **common, held_as=held_as)
        insert(
            site,
            "file",
            **victim,
            **where,
            storage=str(site.storage),
            status="STORED",
            finder="latiss",
            added_on=WHEN,
            verified_at=WHEN,
        )
    site.put("night/x", b"victim", site.storage)
    assert_only_told(site, before, "dbb-janitor")


@pytest.mark.parametrize("held", ["long ago", "lately"])
@pytest.mark.parametrize("confirm", [True, False])
def test_rows_of_files_that_are_held(site: Site, held: str, confirm: bool) -> None:
    if not confirm:
        site.write(handoff={"min_free": 0, "stale_after": 0}, finder={"min_free": 0})
    before = outside(site)
    when = WHEN if held == "long ago" else f"{datetime.now(UTC) - timedelta(hours=1):%F %T}"
    common = {"site": "summit", "handoff": "latiss", "status": "HELD"}
    common |= {"discovered_at": WHEN, "held_at": when}
    victim = version(site.root / "victim")
    for relpath, filename in ASTRAY:
        where = {"relpath": relpath.format(root=site.root), "filename": filename}
        insert(site, "handoff_file", **victim, **where, **common, held_as=filename)
    # No pass holds a file under no name.
    insert(site, "handoff_file", **victim, **common, relpath="night", filename="nameless")
    if not confirm and held == "long ago":
        # Nobody looks at them, and nothing else is held up.
        site.put("night/good", b"good")
        assert [each.code for each in run_all(site).values()] == [0] * len(SCRIPTS)
        return
    assert_only_told(site, before, "dbb-janitor")
    if confirm:
        assert run_all(site)["dbb-janitor"].code == 1
        assert rows(site, "status", "handoff_file WHERE filename = 'good' AND size_bytes = 4") == [
            "PURGED"
        ]


@pytest.mark.parametrize("status", ["PURGED", "IGNORED", "VANISHED"])
def test_rows_that_no_pass_reads(site: Site, status: str) -> None:
    before = outside(site)
    insert_all(
        site, "handoff_file", site="summit", handoff="latiss", status=status, discovered_at=WHEN
    )
    site.put("night/good", b"good")
    assert [each.code for each in run_all(site).values()] == [0] * len(SCRIPTS)
    assert outside(site) == before


@pytest.mark.parametrize("of", [FIRST, BASE])
@pytest.mark.parametrize("status", ["FOUND", "DELIVERED", "QUARANTINED"])
def test_rows_of_one_of_two_endpoints(site: Site, status: str, of: str) -> None:
    with_base(site)
    insert_all(site, "handoff_file", site="summit", handoff=of, status=status, discovered_at=WHEN)
    site.put("night/good", b"good")
    before = outside(site)
    ran = [site.run("dbb-handoff", name) for name in (of, BASE if of == FIRST else FIRST, of)]
    assert [each.code for each in ran if each.code not in (0, 1)] == [], ran
    assert ran[0].code == 1
    assert "refused" in ran[0].err
    # Nobody else learns of the row, and what is sound goes all the way.
    states = rows(
        site, "handoff, status", "handoff_file WHERE filename = 'good' AND size_bytes = 4"
    )
    assert sorted(states) == [(FIRST, "HELD"), (BASE, "HELD")]
    assert len(rows(site, "id")) == len(ASTRAY) + 2
    assert outside(site) == before | {str(base(site) / "night/good"): b"good"}


@pytest.mark.parametrize("status", ["ARRIVING", "STORED", "MISSING", "CORRUPT"])
def test_rows_of_storage(site: Site, status: str) -> None:
    before = outside(site)
    insert_all(
        site,
        "file",
        storage=str(site.storage),
        status=status,
        finder="latiss",
        added_on=WHEN,
        verified_at=WHEN,
    )
    assert site.run("dbb", "rebuild", "finder.latiss", "--dry-run").code in (0, 1)
    assert_only_told(site, before, "dbb-finder" if status == "ARRIVING" else "dbb-auditor")


@pytest.mark.parametrize("verdict", ["MOVED", "FAILED", "DUPLICATE"])
def test_rows_of_what_a_finder_remembers(site: Site, verdict: str) -> None:
    before = outside(site)
    insert_all(
        site,
        "finder_left",
        site="summit",
        finder="latiss",
        verdict=verdict,
        seen_at=WHEN,
    )
    # The table tells of each as stored, so that an original may be removed.
    insert_all(
        site,
        "file",
        storage=str(site.storage),
        status="STORED",
        finder="latiss",
        added_on=WHEN,
        verified_at=WHEN,
    )
    assert_only_told(site, before, "dbb-finder" if verdict == "MOVED" else "dbb-auditor")


@pytest.mark.parametrize("label", ["handoff.latiss", "finder.latiss"])
@pytest.mark.parametrize("case", ["moving", "moved", "released"])
def test_rows_of_quarantine(site: Site, label: str, case: str) -> None:
    before = outside(site)
    root = site.quarantine if label == "handoff.latiss" else site.storage_quarantine
    victim = str(site.root / "victim")
    common: dict[str, Any] = {"site": "summit", "label": label, "reason": "none"}
    common["quarantined_at"] = None if case == "moving" else WHEN
    for path in (victim, f"{root}/../../victim", str(root)):
        released = {"released_as": victim} if case == "released" else {}
        where = {"relpath": "night", "filename": "x", "path": path}
        insert(site, "quarantine", **version(site.root / "victim"), **where, **common, **released)
    insert_all(site, "quarantine", **common, path=f"{root}/x")
    ran = site.run("dbb", "quarantine", "release", label, "--match", "*")
    assert ran.code in (0, 64), ran.err
    assert site.run("dbb", "quarantine", "list").code == 0
    site.put("night/good", b"good")
    ran = run_all(site)
    assert outside(site) == before
    assert [each.code for each in ran.values() if each.code not in (0, 1)] == []
    assert (site.storage / "night/good").read_bytes() == b"good"


@pytest.mark.parametrize("status", ["OPEN", "SETTLED"])
def test_names_of_attempts(site: Site, status: str) -> None:
    before = outside(site)
    assert site.run("dbb-handoff").code == 0
    (run,) = rows(site, "min(id)", "run")
    prefix = attempt_prefix("summit", "latiss")
    for attempt in ("", "p", "../victim", f"{prefix}../../victim", "-rf", f"{prefix}{'0' * 15}"):
        insert(
            site,
            "transfer_batch",
            run_id=run,
            site="summit",
            handoff="latiss",
            attempt=attempt,
            status=status,
            files=1,
            size_bytes=1,
            started=WHEN,
        )
    assert_only_told(site, before, "dbb-handoff")


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("rel", ["../../victim", "/etc/passwd", "night/./x", "night//x", "..", "."])
def test_names_on_the_command_line(site: Site, rel: str) -> None:
    before = outside(site)
    assert site.run("dbb", "forget", "finder.latiss", rel, "--remove", "--yes").code == 64
    assert site.run("dbb", "backfill", "finder.latiss", rel).code in (1, 64)
    assert site.run("dbb", "history", rel).code == 64
    assert outside(site) == before


@pytest.mark.parametrize(
    "rel", ["", "/", "/a", "..", ".", "a/..", "../a", "a/../b", "./a", "a/.", "a//b", "a/", "a\0b"]
)
def test_gate_refuses(rel: str) -> None:
    assert names.is_astray(rel)
    with pytest.raises(names.Astray):
        names.below("/root", rel)


@pytest.mark.parametrize(
    "rel", ["a", "a/b", "...", "..a", "a..", ".a", "a./b", "a/..b", "a\nb", "\\"]
)
def test_gate_lets_through(rel: str) -> None:
    assert names.below("/root", rel) == f"/root/{rel}"
