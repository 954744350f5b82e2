"""An auditor and a rebuild killed before any change are made good by one clean pass."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.killing import picture
from tests.killing.sweep import Swept
from tests.support.database import Databases
from tests.support.scripts import TOP
from tests.support.site import Site

pytestmark = pytest.mark.promise

#: in storage, and what the table has of it: status and content; none is not known
STORAGE: dict[str, tuple[bytes, str | None, bytes]] = {
    "2026-11-23/right.fits": (b"right", "STORED", b"right"),
    "2026-11-23/longer.fits": (b"longer than it was", "STORED", b"long"),
    "2026-11-23/other.fits": (b"other", "STORED", b"right"),
    "2026-11-24/back.fits": (b"it is back", "MISSING", b"it is back"),
    "2026-11-24/whole.fits": (b"whole", "CORRUPT", b"whole"),
    "2026-11-24/forgotten.fits": (b"forgotten", "FORGOTTEN", b"forgotten"),
    "2026-11-24/unknown 1.fits": (b"unknown", None, b""),
    "2026-11-24/unknown 2.fits": (b"unknown", None, b""),
    "2026-11-24/unknown 3.fits": (b"", None, b""),
    "top": (b"at the top", None, b""),
}
#: in the table only
LOST = {"2026-11-23/lost.fits": b"lost", "2026-11-24/lost.fits": b"lost too"}
#: in a quarantine
ASIDE = {"2026-11-23/right.fits": b"another content", "aside": b"", "aside.~1~": b"again"}
#: in the holding area, one name twice
HELD = {"2026-11-23/a.fits": b"a", "2026-11-23/a.fits.~1~": b"A", "2026-11-24/b.fits": b"b"}

WHEN = "'2026-11-24 00:00:00'"
MODIFIED = 1_795_000_000

TABLES = picture.TABLES | {
    "quarantine": "SELECT relpath, filename, path, reason, size_bytes,"
    " quarantined_at IS NULL AS moving, released_at IS NULL AS waiting FROM quarantine",
    "ingest_event": "SELECT f.relpath, f.filename, e.status FROM ingest_event e"
    " JOIN file f ON f.id = e.file_id",
}

Fill = Callable[[Site], list[str]]


def sites(
    databases: Databases, backend: str, fill: Fill
) -> Callable[[Path], AbstractContextManager[Site]]:
    """Sites with a target and with what `fill` puts there."""

    @contextmanager
    def make(directory: Path) -> Iterator[Site]:
        with databases.fresh(backend, directory) as url:
            site = Site(directory / "site", url)
            site.write(finder={"batch_files": 2, "audit_rate": 0})
            insert = "INSERT INTO target (site, name, storage, plugin, created_at) VALUES"
            target = f"{insert} ('summit', 'a', '{site.storage}', 'null', {WHEN})"
            picture.execute(url, [target, *fill(site)])
            yield site

    return make


def fill_quarantine(site: Site, root: Path) -> None:
    """Put files with a time, and the reasons beside some of them."""
    for rel, content in ASIDE.items():
        path = site.put(rel, content, root)
        os.utime(path, (MODIFIED, MODIFIED))
        if content:
            site.put(f"{rel}.reason", b"why it is here\n", root)


def row(site: Site, rel: str, status: str, content: bytes) -> str:
    relpath, _, filename = rel.rpartition("/")
    return (
        "INSERT INTO file (storage, relpath, filename, size_bytes, checksum, status, finder,"
        f" added_on, verified_at) VALUES ('{site.storage}', '{relpath}', '{filename}',"
        f" {len(content)}, 'blake2b:{hashlib.blake2b(content).hexdigest()}', '{status}',"
        f" 'latiss', {WHEN}, {WHEN})"
    )


def with_storage(site: Site) -> list[str]:
    """Fill storage and the table; the target gave up a file that is back."""
    for rel, (content, _, _) in STORAGE.items():
        site.put(rel, content, site.storage)
    return [
        *(row(site, rel, status, was) for rel, (_, status, was) in STORAGE.items() if status),
        *(row(site, rel, "STORED", content) for rel, content in LOST.items()),
        "INSERT INTO ingest_state (file_id, target_id, status, changed_at)"
        f" SELECT file.id, target.id, 'INVALID', {WHEN} FROM file, target"
        " WHERE file.filename = 'back.fits'",
    ]


def without_rows(site: Site) -> list[str]:
    """Fill storage and holding, and both quarantines."""
    for rel, (content, _, _) in STORAGE.items():
        site.put(rel, content, site.storage)
    for number, (rel, content) in enumerate(HELD.items()):
        os.utime(site.put(rel, content, site.holding), (MODIFIED, MODIFIED + number))
    for root in (site.storage_quarantine, site.quarantine):
        fill_quarantine(site, root)
    return []


def command(script: str, *arguments: str) -> Callable[[Site], list[str]]:
    return lambda site: [
        *(sys.executable, str(TOP / "bin" / script), *arguments),
        *("-c", str(site.config)),
    ]


def look(site: Site) -> dict[str, Any]:
    return picture.disk(site.root) | picture.tables(site.database_url, site.root, TABLES)


def statuses(swept: Swept) -> list[str]:
    return sorted(row["status"] for about, row in swept.seen.items() if about.startswith("file "))


def test_an_auditor(sweep: Callable[..., Swept], databases: Databases, backend: str) -> None:
    audit = command("dbb-auditor", "--adopt", "--share", "1", "--missing", "1")
    # 1: some are wrong.
    swept = sweep(sites(databases, backend, with_storage), audit, look, exit_codes=(1,), every=8)
    assert statuses(swept) == ["CORRUPT"] * 2 + ["MISSING"] * 2 + ["STORED"] * 8


def test_a_rebuild_of_a_finder(
    sweep: Callable[..., Swept], databases: Databases, backend: str
) -> None:
    rebuild = command("dbb", "rebuild", "finder.latiss", "--jobs", "1")
    swept = sweep(sites(databases, backend, without_rows), rebuild, look, every=8)
    assert statuses(swept) == ["STORED"] * len(STORAGE)


def test_a_rebuild_of_a_handoff(
    sweep: Callable[..., Swept], databases: Databases, backend: str
) -> None:
    rebuild = command("dbb", "rebuild", "handoff.latiss", "--jobs", "1")
    swept = sweep(sites(databases, backend, without_rows), rebuild, look, every=4)
    held = [row for about, row in swept.seen.items() if about.startswith("handoff_file ")]
    assert sorted(row["held_as"] for row in held) == ["a.fits", "a.fits.~1~", "b.fits"]
