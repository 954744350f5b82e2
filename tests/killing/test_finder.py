"""A finder killed before any change is made good by one clean pass, on both databases."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
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

#: in the source: several batches, a copy, an empty file, and four that meet something in storage
FOUND = {
    "2026-11-23/image 1.fits": b"one",
    "2026-11-23/image 2.fits": b"two",
    "2026-11-24/copy.fits": b"one",
    "2026-11-24/empty.fits": b"",
    "2026-11-24/same.fits": b"the same",
    "2026-11-24/other.fits": b"other content",
    "2026-11-24/lost.fits": b"lost by storage",
    "2026-11-24/unknown.fits": b"unknown to the table",
}
#: in storage and in the table
STORED = {
    "2026-11-24/same.fits": b"the same",
    "2026-11-24/other.fits": b"first content",
}
#: in the table, but not in storage
LOST = {"2026-11-24/lost.fits": b"lost by storage"}
#: in storage, but not in the table
UNKNOWN = {"2026-11-24/unknown.fits": b"unknown to the table"}

#: one file is quarantined, in one pass or the other
CODES = (0, 1)

#: also what is remembered, and what waits in quarantine
TABLES = picture.TABLES | {
    "finder_left": "SELECT relpath, filename, verdict FROM finder_left",
    "quarantine": "SELECT relpath, filename, path, reason, quarantined_at IS NULL AS moving"
    " FROM quarantine",
}

Make = Callable[[Path], AbstractContextManager[Site]]


def sites(databases: Databases, backend: str, apart: bool, **keys: Any) -> Make:
    """Sites with files in the source, of which storage knows some."""

    @contextmanager
    def make(directory: Path) -> Iterator[Site]:
        other = Path(tempfile.mkdtemp(dir="/dev/shm")) if apart else None
        try:
            with databases.fresh(backend, directory) as url:
                site = Site(directory / "site", url)
                if other:
                    site.far_buffer = other
                site.write(finder={"source": site.far_buffer, "batch_files": 3, "jobs": 1, **keys})
                (site.storage / ".dbb-storage").touch()
                for files, where in (
                    (FOUND, site.far_buffer),
                    (STORED, site.storage),
                    (UNKNOWN, site.storage),
                ):
                    for rel, content in files.items():
                        site.put(rel, content, where)
                picture.execute(
                    url,
                    [
                        *(row(site, *file) for file in (STORED | LOST).items()),
                        "INSERT INTO target (site, name, storage, plugin, created_at) VALUES"
                        f" ('summit', 'a', '{site.storage}', 'null', '2026-11-24 00:00:00')",
                    ],
                )
                yield site
        finally:
            if other:
                shutil.rmtree(other)

    return make


def row(site: Site, rel: str, content: bytes) -> str:
    """The statement that records a stored file."""
    relpath, _, filename = rel.rpartition("/")
    digest = hashlib.blake2b(content).hexdigest()
    return (
        "INSERT INTO file (storage, relpath, filename, size_bytes, checksum, status, finder,"
        f" added_on) VALUES ('{site.storage}', '{relpath}', '{filename}', {len(content)},"
        f" 'blake2b:{digest}', 'STORED', 'latiss', '2026-11-24 00:00:00')"
    )


def command(site: Site) -> list[str]:
    return [sys.executable, str(TOP / "bin" / "dbb-finder"), "-c", str(site.config)]


def look(site: Site) -> dict[str, Any]:
    seen = picture.disk(site.root) | picture.tables(site.database_url, site.root, TABLES)
    if not site.far_buffer.is_relative_to(site.root):
        seen |= {f"source/{rel}": what for rel, what in picture.disk(site.far_buffer).items()}
    return seen


@pytest.mark.parametrize("alternative", ["none", "delete", "quarantine"])
def test_a_finder_on_one_file_system(
    sweep: Callable[..., Swept], databases: Databases, backend: str, alternative: str
) -> None:
    make = sites(databases, backend, apart=False, alternative=alternative, file_mode="0444")
    sweep(make, command, look, exit_codes=CODES, every=8)


@pytest.mark.parametrize("alternative", ["none", "delete", "quarantine"])
def test_a_finder_across_file_systems(
    sweep: Callable[..., Swept], databases: Databases, backend: str, alternative: str
) -> None:
    make = sites(databases, backend, apart=True, alternative=alternative)
    sweep(make, command, look, exit_codes=CODES, every=8)


def test_a_finder_of_large_files_across_file_systems(
    sweep: Callable[..., Swept], databases: Databases
) -> None:
    """Two threads copy and remove; the disk is given parts of a copy while the rest is read."""

    @contextmanager
    def make(directory: Path) -> Iterator[Site]:
        with sites(databases, "sqlite", apart=True, jobs=2)(directory) as site:
            for name, blocks in (("a", 20), ("b", 12), ("c", 12)):
                content = name.encode() * (blocks << 18)
                site.put(f"2026-11-24/large {name}.fits", content, site.far_buffer)
            yield site

    sweep(make, command, look, exit_codes=CODES, every=16)


@contextmanager
def logging_site(
    databases: Databases, backend: str, directory: Path, **more: Any
) -> Iterator[Site]:
    """A site whose storage was filled by rsync, which left two logs about it."""
    with databases.fresh(backend, directory) as url:
        site = Site(directory / "site", url)
        keys = {"search": "rsync-logs", "standard": "none", "date": "20261124", "delay": 0, **more}
        site.write(finder={**keys, "batch_files": 2, "jobs": 1, "done_suffix": ".done"})
        (site.storage / ".dbb-storage").touch()
        updated = "2026-11-23/image 1.fits"
        # The update of the second one may be still to come.
        letters = dict.fromkeys((updated, "2026-11-24/copy.fits"), ".st......")
        named = [*FOUND, "not there yet"]
        for number, some in enumerate((named[::2], named[1::2])):
            lines = "".join(f"<f{letters.get(rel, '+' * 9)} {rel}\n" for rel in some)
            site.put(f"20261124/rsync-{number}.log", lines.encode(), site.far_buffer)
        for rel, content in FOUND.items():
            site.put(rel, content, site.storage)
        picture.execute(
            url,
            [
                row(site, updated, b"before it was updated"),
                "INSERT INTO target (site, name, storage, plugin, created_at) VALUES"
                f" ('summit', 'a', '{site.storage}', 'null', '2026-11-24 00:00:00')",
                "INSERT INTO ingest_state (file_id, target_id, status, changed_at)"
                " SELECT file.id, target.id, 'SUCCESS', '2026-11-24 00:00:00' FROM file, target",
            ],
        )
        yield site


def test_a_finder_by_rsyncs_logs(
    sweep: Callable[..., Swept], databases: Databases, backend: str
) -> None:
    def make(directory: Path) -> AbstractContextManager[Site]:
        return logging_site(databases, backend, directory)

    sweep(make, command, look, every=4)


def test_a_backfill(sweep: Callable[..., Swept], databases: Databases, backend: str) -> None:
    def make(directory: Path) -> AbstractContextManager[Site]:
        return logging_site(databases, backend, directory)

    def backfill(site: Site) -> list[str]:
        return [
            *(sys.executable, str(TOP / "bin" / "dbb"), "backfill", "finder.latiss"),
            *("--jobs", "1", "-c", str(site.config)),
        ]

    sweep(make, backfill, look, every=4)
