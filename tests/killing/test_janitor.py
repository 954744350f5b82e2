"""A janitor killed before any change is made good by one clean pass."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.killing import picture
from tests.killing.sweep import Swept
from tests.support.database import Databases
from tests.support.scripts import TOP
from tests.support.site import Site

pytestmark = pytest.mark.promise

#: held, with what the endpoint has of them: stored, not stored, and other content
FILES = {"night/a.fits": b"stored", "night/b.fits": b"not yet", "c.fits": b"stored too"}
STORED = ("night/a.fits", "c.fits")


def site(directory: Path, url: str) -> Site:
    """Return a site whose holding area has the files, and whose endpoint has stored some."""
    made = Site(directory / "site", url)
    confirm = shlex.join([sys.executable, f"{TOP}/bin/dbb", "-c", str(made.config), "confirm"])
    made.write(handoff={"purge_after": 0, "min_free": 0}, endpoint={"confirm": confirm})
    statements = []
    for path, content in FILES.items():
        relpath, _, filename = path.rpartition("/")
        held = made.put(path, content, made.holding).stat()
        rest = f"'{relpath}', '{filename}', {len(content)}, 'blake2b:{'0' * 128}'"
        statements.append(
            "INSERT INTO handoff_file (site, handoff, status, held_as, held_at, discovered_at,"
            " mtime_ns, inode, relpath, filename, size_bytes, checksum) VALUES ('summit',"
            f" 'latiss', 'HELD', '{filename}', '2026-11-24 00:00:00', '2026-11-24 00:00:00',"
            f" {held.st_mtime_ns}, {held.st_ino}, {rest})"
        )
        if path in STORED:
            made.put(path, content, made.storage)
            statements.append(
                "INSERT INTO file (storage, status, finder, relpath, filename, size_bytes,"
                f" checksum) VALUES ('{made.storage}', 'STORED', 'latiss', {rest})"
            )
    picture.execute(url, statements)
    return made


def test_a_janitor(sweep: Callable[..., Swept], databases: Databases, backend: str) -> None:
    @contextmanager
    def make(directory: Path) -> Iterator[Site]:
        with databases.fresh(backend, directory) as url:
            yield site(directory, url)

    def command(made: Site) -> list[str]:
        return [sys.executable, str(TOP / "bin" / "dbb-janitor"), "-c", str(made.config)]

    def look(made: Site) -> dict[str, Any]:
        return picture.disk(made.root) | picture.tables(made.database_url, made.root)

    sweep(make, command, look, every=16)
