"""What a person does to files, killed before any change, is made good by doing it again."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.killing import picture
from tests.killing.sweep import Swept
from tests.support.database import Databases
from tests.support.scripts import TOP
from tests.support.site import SENTINEL, Site

pytestmark = pytest.mark.promise

#: in quarantine for a reason that is gone by now; the directories are no longer in the source
ASIDE = {"2026-11-23/image 1.fits": b"one", "2026-11-23/image 2.fits": b"two", "top": b"three"}
#: in quarantine for another reason
STAYS = {"2026-11-24/stays.fits": b"it stays"}
#: in storage and in the table
STORED = {"2026-11-24/a.fits": b"first content"}
#: in quarantine because storage holds another content
CORRECTED = {"2026-11-24/a.fits": b"corrected content"}
#: the name for it, in a directory that is not there yet
NEW_NAME = "corrected/a-v2.fits"

#: the time of every row that is put into a table
WHEN = "'2026-11-24 00:00:00'"
#: when each file in quarantine was last written to: their order is by it
MODIFIED = 1_795_000_000
#: what a quarantine is asked by
REASON = "gave up"

Make = Callable[[Path], AbstractContextManager[Site]]
Command = Callable[[Site], list[str]]


def sites(
    databases: Databases,
    backend: str,
    fill: Callable[[Site], list[str]],
    apart: bool = False,
) -> Make:
    """Sites with files and the rows that `fill` gives; `apart` has the source elsewhere."""

    @contextmanager
    def make(directory: Path) -> Iterator[Site]:
        other = Path(tempfile.mkdtemp(dir="/dev/shm")) if apart else None
        try:
            with databases.fresh(backend, directory) as url:
                site = Site(directory / "site", url)
                site.far_buffer = other or site.far_buffer
                site.write(finder={"jobs": 1}, handoff={"min_free": 0, "streams": 1})
                target = f"'summit', 'a', '{site.storage}', 'null', {WHEN}"
                insert = "INSERT INTO target (site, name, storage, plugin, created_at) VALUES"
                picture.execute(url, [f"{insert} ({target})", *fill(site)])
                yield site
        finally:
            if other:
                shutil.rmtree(other)

    return make


def quarantined(site: Site, label: str, root: Path, rel: str, content: bytes, why: str) -> str:
    """Put a file and its reason into a quarantine; return the statement that records it."""
    path = site.put(rel, content, root)
    site.put(f"{rel}.reason", f"{why}\n".encode(), root)
    os.utime(path, (MODIFIED, MODIFIED))
    status = path.stat()
    return (
        "INSERT INTO quarantine (site, label, path, size_bytes, mtime_ns, inode, reason,"
        f" quarantined_at, relpath, filename, checksum) VALUES ('summit', '{label}', '{path}',"
        f" {status.st_size}, {status.st_mtime_ns}, {status.st_ino}, '{why}', {WHEN},"
        f" {named(rel, content)})"
    )


def named(rel: str, content: bytes) -> str:
    """Return the values of relpath, filename and checksum."""
    relpath, _, filename = rel.rpartition("/")
    return f"'{relpath}', '{filename}', 'blake2b:{hashlib.blake2b(content).hexdigest()}'"


def stored(site: Site, rel: str, content: bytes, *, lost: bool = False) -> str:
    """Put a file into storage, unless it is `lost`; return the statement that records it."""
    if not lost:
        site.put(rel, content, site.storage)
    return (
        "INSERT INTO file (storage, size_bytes, status, finder, added_on, relpath, filename,"
        f" checksum) VALUES ('{site.storage}', {len(content)}, 'STORED', 'latiss', {WHEN},"
        f" {named(rel, content)})"
    )


def of_a_finder(site: Site) -> list[str]:
    root, label = site.storage_quarantine, "finder.latiss"
    return [
        *(quarantined(site, label, root, *file, f"{REASON} on it") for file in ASIDE.items()),
        *(quarantined(site, label, root, *file, "another reason") for file in STAYS.items()),
    ]


def of_a_finder_with_a_conflict(site: Site) -> list[str]:
    root, label = site.storage_quarantine, "finder.latiss"
    return [
        *(stored(site, *file) for file in STORED.items()),
        *(quarantined(site, label, root, *file, "another content") for file in CORRECTED.items()),
    ]


def of_a_handoff(site: Site) -> list[str]:
    root, label = site.quarantine, "handoff.latiss"
    statements = []
    for files, why in ((ASIDE, f"{REASON} on it"), (STAYS, "another reason")):
        for rel, content in files.items():
            statements.append(quarantined(site, label, root, rel, content, why))
            status = (root / rel).stat()
            statements.append(
                "INSERT INTO handoff_file (site, handoff, status, attempts, discovered_at, error,"
                " size_bytes, mtime_ns, inode, relpath, filename, checksum) VALUES ('summit',"
                f" 'latiss', 'QUARANTINED', 5, {WHEN}, '{why}', {status.st_size},"
                f" {status.st_mtime_ns}, {status.st_ino}, {named(rel, content)})"
            )
    return statements


def of_holding(site: Site) -> list[str]:
    """The files were delivered, and the endpoint has lost them."""
    statements = []
    for rel, content in (ASIDE | STAYS).items():
        path = site.put(rel, content, site.holding)
        os.utime(path, (MODIFIED, MODIFIED))
        status = path.stat()
        statements.append(
            "INSERT INTO handoff_file (site, handoff, status, discovered_at, held_at, held_as,"
            " size_bytes, mtime_ns, inode, relpath, filename, checksum) VALUES ('summit',"
            f" 'latiss', 'HELD', {WHEN}, {WHEN}, '{path.name}', {status.st_size},"
            f" {status.st_mtime_ns}, {status.st_ino}, {named(rel, content)})"
        )
    return statements


def of_storage(site: Site) -> list[str]:
    """One file is no longer there; one is not offered to its target yet, one failed."""
    insert = (
        "INSERT INTO ingest_state (file_id, target_id, status, changed_at)"
        f" SELECT file.id, target.id, '{{}}', {WHEN} FROM file, target"
        " WHERE file.relpath = '{}' AND file.filename = '{}'"
    )
    files = ASIDE | STAYS
    statuses = zip(files, ("SUCCESS", "UNTRIED", "FAILURE", "UNTRIED"), strict=True)
    return [
        *(stored(site, *file, lost=file[0] == "top") for file in files.items()),
        *(insert.format(status, *rel.rpartition("/")[::2]) for rel, status in statuses),
    ]


def explained(files: Mapping[str, bytes]) -> set[str]:
    """Return the names of files and of the reasons beside them."""
    return set(files) | {f"{rel}.reason" for rel in files}


def dbb(*arguments: str) -> Command:
    return lambda site: [
        *(sys.executable, str(TOP / "bin" / "dbb"), "-c", str(site.config)),
        *arguments,
    ]


def cron(script: str) -> Command:
    return lambda site: [sys.executable, str(TOP / "bin" / script), "-c", str(site.config)]


def release(label: str) -> Command:
    return dbb("quarantine", "release", label, "--reason", REASON)


def look(site: Site) -> dict[str, Any]:
    source = str(site.far_buffer)
    queries = picture.TABLES | {
        "finder_left": "SELECT relpath, filename, verdict FROM finder_left",
        "quarantine": "SELECT relpath, filename, path, quarantined_at IS NULL AS moving,"
        f" released_at IS NULL AS waiting, replace(released_as, '{source}', 'SOURCE')"
        " AS released_as FROM quarantine",
        "ingest_event": "SELECT f.relpath, f.filename, e.status FROM ingest_event e"
        " JOIN file f ON f.id = e.file_id",
    }
    seen = picture.disk(site.root) | picture.tables(site.database_url, site.root, queries)
    if not site.far_buffer.is_relative_to(site.root):
        seen |= {
            f"archive/buffer/{rel}": what for rel, what in picture.disk(site.far_buffer).items()
        }
    return seen


def files(swept: Swept, directory: str) -> set[str]:
    """Return the files below a directory as they are in the end."""
    return {
        rel.removeprefix(f"{directory}/")
        for rel, what in swept.seen.items()
        if rel.startswith(f"{directory}/") and what.startswith("-") and not rel.endswith(SENTINEL)
    }


@pytest.mark.parametrize("apart", [False, True], ids=["one_file_system", "two"])
def test_a_release_of_a_finders_files(
    sweep: Callable[..., Swept], databases: Databases, backend: str, apart: bool
) -> None:
    make = sites(databases, backend, of_a_finder, apart)
    swept = sweep(make, release("finder.latiss"), look, every=8)
    assert files(swept, "archive/buffer") == set(ASIDE)
    assert files(swept, "archive/quarantine") == explained(STAYS)


@pytest.mark.parametrize("apart", [False, True], ids=["one_file_system", "two"])
def test_a_release_between_passes_of_the_finder(
    sweep: Callable[..., Swept], databases: Databases, backend: str, apart: bool
) -> None:
    make = sites(databases, backend, of_a_finder, apart)
    swept = sweep(make, release("finder.latiss"), look, then=cron("dbb-finder"), every=12)
    assert files(swept, "archive/buffer") == set()
    assert files(swept, "archive/storage") == set(ASIDE)
    assert files(swept, "archive/quarantine") == explained(STAYS)


@pytest.mark.parametrize("apart", [False, True], ids=["one_file_system", "two"])
def test_a_release_under_a_new_name(
    sweep: Callable[..., Swept], databases: Databases, backend: str, apart: bool
) -> None:
    make = sites(databases, backend, of_a_finder_with_a_conflict, apart)
    which = ("--match", "2026-11-24/a.fits", "--as-new", NEW_NAME)
    command = dbb("quarantine", "release", "finder.latiss", *which)
    # 64: it is done already, and there is no file left that might get the name.
    swept = sweep(make, command, look, exit_codes=(0, 64), every=4)
    assert files(swept, "archive/buffer") == {NEW_NAME}
    assert files(swept, "archive/quarantine") == set()


def test_a_release_of_a_handoffs_files(
    sweep: Callable[..., Swept], databases: Databases, backend: str
) -> None:
    make = sites(databases, backend, of_a_handoff)
    swept = sweep(make, release("handoff.latiss"), look, every=8)
    assert files(swept, "summit/buffer") == set(ASIDE)
    assert files(swept, "summit/quarantine") == explained(STAYS)


def test_a_release_between_passes_of_the_handoff(
    sweep: Callable[..., Swept], databases: Databases, backend: str
) -> None:
    make = sites(databases, backend, of_a_handoff)
    swept = sweep(make, release("handoff.latiss"), look, then=cron("dbb-handoff"), every=12)
    assert files(swept, "summit/holding") == files(swept, "archive/buffer") == set(ASIDE)
    assert files(swept, "summit/quarantine") == explained(STAYS)


def test_a_resending_of_held_files(
    sweep: Callable[..., Swept], databases: Databases, backend: str
) -> None:
    make = sites(databases, backend, of_holding)
    swept = sweep(make, dbb("resend", "handoff.latiss", *ASIDE), look, exit_codes=(0, 64), every=4)
    assert files(swept, "summit/buffer") == set(ASIDE)
    assert files(swept, "summit/holding") == set(STAYS)


def test_a_resending_between_passes_of_the_handoff(
    sweep: Callable[..., Swept], databases: Databases, backend: str
) -> None:
    make = sites(databases, backend, of_holding)
    command = dbb("resend", "handoff.latiss", *ASIDE)
    swept = sweep(make, command, look, then=cron("dbb-handoff"), every=6)
    assert files(swept, "summit/holding") == set(ASIDE | STAYS)
    assert files(swept, "archive/buffer") == set(ASIDE)
    assert files(swept, "summit/buffer") == set()


def test_a_forgetting_of_stored_files(
    sweep: Callable[..., Swept], databases: Databases, backend: str
) -> None:
    make = sites(databases, backend, of_storage)
    swept = sweep(make, dbb("forget", "finder.latiss", *ASIDE, "--remove", "--yes"), look, every=8)
    assert files(swept, "archive/storage") == set(STAYS)


def test_a_forgetting_of_awaited_and_stored_files(
    sweep: Callable[..., Swept], databases: Databases, backend: str
) -> None:
    def fill(site: Site) -> list[str]:
        left = f"'summit', 'latiss', '2026-11-24', 'awaited', 0, 0, 0, 'AWAITED', {WHEN}"
        insert = (
            "INSERT INTO finder_left (site, finder, relpath, filename, size_bytes, mtime_ns, inode,"
            f" verdict, seen_at) VALUES ({left})"
        )
        return [insert, *of_storage(site)]

    make = sites(databases, backend, fill)
    command = dbb("forget", "finder.latiss", "2026-11-24/awaited", *ASIDE, "--remove", "--yes")
    # 64: what was awaited is forgotten already, and so is not known.
    swept = sweep(make, command, look, exit_codes=(0, 64), every=8)
    assert files(swept, "archive/storage") == set(STAYS)
