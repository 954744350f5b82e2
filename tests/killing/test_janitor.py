"""A janitor killed before any change is made good by one clean pass."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.files import place
from tests.killing import picture
from tests.killing.sweep import Swept
from tests.support.database import Databases
from tests.support.endpoints import BASE, FIRST, with_base
from tests.support.scripts import TOP
from tests.support.site import Site

pytestmark = pytest.mark.promise

#: held, with what the endpoint has of them: stored, not stored, and other content
FILES = {"night/a.fits": b"stored", "night/b.fits": b"not yet", "c.fits": b"stored too"}
STORED = ("night/a.fits", "c.fits")

Make = Callable[[Path], AbstractContextManager[Site]]


#: When the files were written and held.
WRITTEN = 1_795_400_000


def site(directory: Path, url: str, *, base: bool = False, later: str = "") -> Site:
    """Return a site whose holding area has the files, and whose endpoint has stored some.

    A further one, ``base``, has the same; but one of the files is still to be sent there. The
    buffer has a later version of the file ``later``.
    """
    made = Site(directory / "site", url)
    confirm = shlex.join([sys.executable, f"{TOP}/bin/dbb", "-c", str(made.config), "confirm"])
    write = partial(with_base, made, keys={"confirm": confirm}) if base else made.write
    purge_after = "1d" if later else 0
    write(handoff={"purge_after": purge_after, "min_free": 0}, endpoint={"confirm": confirm})
    if later:
        os.utime(made.put(later, b"a later version"), (WRITTEN + 1, WRITTEN + 1))
    statements = []
    for path, content in FILES.items():
        relpath, _, filename = path.rpartition("/")
        file = made.put(path, content, made.holding)
        os.utime(file, (WRITTEN, WRITTEN))
        held = file.stat()
        rest = f"'{relpath}', '{filename}', {len(content)}, 'blake2b:{'0' * 128}'"
        for name in (FIRST, BASE) if base else (FIRST,):
            status = "FOUND" if (name, path) == (BASE, "c.fits") else "HELD"
            statements.append(
                "INSERT INTO handoff_file (site, handoff, status, held_as, held_at, discovered_at,"
                f" mtime_ns, inode, relpath, filename, size_bytes, checksum) VALUES ('summit',"
                f" '{name}', '{status}', '{filename}', '2026-11-24 00:00:00',"
                f" '2026-11-24 00:00:00', {held.st_mtime_ns}, {held.st_ino}, {rest})"
            )
        if path in STORED:
            made.put(path, content, made.storage)
            statements.append(
                "INSERT INTO file (storage, status, finder, relpath, filename, size_bytes,"
                f" checksum) VALUES ('{made.storage}', 'STORED', 'latiss', {rest})"
            )
    picture.execute(url, statements)
    return made


def command(made: Site) -> list[str]:
    return [sys.executable, str(TOP / "bin" / "dbb-janitor"), "-c", str(made.config)]


def look(made: Site) -> dict[str, Any]:
    return picture.disk(made.root) | picture.tables(made.database_url, made.root)


def sites(databases: Databases, backend: str, *, base: bool = False, later: str = "") -> Make:
    @contextmanager
    def make(directory: Path) -> Iterator[Site]:
        with databases.fresh(backend, directory) as url:
            yield site(directory, url, base=base, later=later)

    return make


def test_a_janitor(sweep: Callable[..., Swept], databases: Databases, backend: str) -> None:
    sweep(sites(databases, backend), command, look, every=16)


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_janitor_of_two_endpoints(
    sweep: Callable[..., Swept], databases: Databases, backend: str
) -> None:
    # Both have one of the files: it goes once, and is purged for each of them.
    swept = sweep(sites(databases, backend, base=True), command, look, every=32)
    held = {f"summit/holding/{path}" for path in FILES} & swept.seen.keys()
    assert held == {"summit/holding/night/b.fits", "summit/holding/c.fits"}
    rows = [row for about, row in swept.seen.items() if about.startswith("handoff_file ")]
    purged = [row for row in rows if row["status"] == "PURGED"]
    assert [(row["handoff"], row["filename"]) for row in purged] == [
        (FIRST, "a.fits"),
        (BASE, "a.fits"),
    ]


def handoff(made: Site) -> list[str]:
    return [sys.executable, str(TOP / "bin" / "dbb-handoff"), "-c", str(made.config)]


def look_by_version(made: Site) -> dict[str, Any]:
    """As `look`, but it does not matter which of its names a version has in the holding area.

    It matters that the row of each held file leads to this very version.
    """
    seen = look(made)
    for about, row in seen.items():
        if about.startswith("handoff_file "):
            name = row.pop("held_as")
            held = made.holding / row["relpath"] / (name or "none")
            row["size held"] = held.stat().st_size if row["status"] == "HELD" else None
    return {place.without_version(about): what for about, what in seen.items()}


def test_a_janitor_and_a_later_version(
    sweep: Callable[..., Swept], databases: Databases, backend: str
) -> None:
    # The handoff holds it between the kill and the clean pass.
    make = sites(databases, backend, later="night/a.fits")
    swept = sweep(make, command, look_by_version, then=handoff, every=8)
    rows = [row for about, row in swept.seen.items() if about.startswith("handoff_file ")]
    versions = [(row["status"], row["size held"]) for row in rows if row["filename"] == "a.fits"]
    assert sorted(versions, key=str) == [("HELD", 15), ("PURGED", None)]
