"""An ingester killed before any change is made good by one clean pass, on both databases."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
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

#: in storage, with what becomes of them: several batches, and files that are no ingest
FILES = {
    **{
        f"2026-11-{night:02}/image {night}{number}.fits": b"x"
        for night in (1, 2)
        for number in (1, 2)
    },
    "2026-11-02/left.log": b"left out by a pattern",
    "2026-11-03/empty.fits": b"",
}
#: the empty file fails in one pass or the other
CODES = (0, 1)
BATCHES = {"batch_files": 2, "include": [r"\.fits$"]}

Make = Callable[[Path], AbstractContextManager[Site]]


def sites(databases: Databases, backend: str, target: Mapping[str, Any]) -> Make:
    """Sites with the files in storage and one target that has not seen them."""

    @contextmanager
    def make(directory: Path) -> Iterator[Site]:
        with databases.fresh(backend, directory) as url:
            site = Site(directory / "site", url)
            keys = {**target, "config": dict(target.get("config", {}))}
            for key, value in keys["config"].items():
                if isinstance(value, str):
                    keys["config"][key] = value.replace("ROOT", str(site.root))
            site.write(targets={"a": {**BATCHES, **keys}})
            (site.storage / ".dbb-storage").touch()
            (site.root / "ingested").mkdir()
            for path, content in FILES.items():
                site.put(path, content, site.storage)
            picture.execute(
                url,
                [
                    "INSERT INTO file (storage, relpath, filename, size_bytes, checksum, status,"
                    f" finder, added_on) VALUES ('{site.storage}', '{path.rpartition('/')[0]}',"
                    f" '{path.rpartition('/')[2]}', {len(content)}, 'blake2b:{'0' * 128}',"
                    " 'STORED', 'latiss', '2026-11-24 00:00:00')"
                    for path, content in FILES.items()
                ],
            )
            yield site

    return make


def command(site: Site) -> list[str]:
    return [sys.executable, str(TOP / "bin" / "dbb-ingester"), "-c", str(site.config)]


def look(site: Site) -> dict[str, Any]:
    return picture.disk(site.root) | picture.tables(site.database_url, site.root)


def test_an_ingester_to_null(
    sweep: Callable[..., Swept], databases: Databases, backend: str
) -> None:
    sweep(sites(databases, backend, {"plugin": "null"}), command, look, exit_codes=CODES, every=20)


def test_an_ingester_by_a_command(
    sweep: Callable[..., Swept], databases: Databases, backend: str
) -> None:
    # A link that is there already says that an earlier pass was killed after making it.
    target = {
        "plugin": "command",
        "config": {"command": "ln -s -- {file} ROOT/ingested/", "already": [1]},
    }
    sweep(sites(databases, backend, target), command, look, exit_codes=CODES, every=30)
