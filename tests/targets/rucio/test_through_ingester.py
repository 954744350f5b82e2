"""Rucio: from the finder's buffer to a real server, by the scripts."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.site import Site
from tests.targets import through
from tests.targets.rucio.conftest import Element

pytestmark = [
    pytest.mark.parametrize("backend", ["sqlite"]),
    pytest.mark.promise,
]


class Server(through.System):
    """A storage element of the server, with a dataset a night."""

    plugin = "rucio"

    def __init__(self, element: Element) -> None:
        self.element = element

    @property
    def config(self) -> dict[str, Any]:
        return self.element.config | {"dataset": "night-{relpath}"}

    def write(self, directory: Path, number: int, content: str = "") -> Path:
        path = directory / "2026-11-23" / f"{number:04}.fits"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number} {content}")
        return path

    def held(self) -> list[str]:
        pfns = [pfn for some in self.element.replicas().values() for pfn in some]
        return sorted(pfn.removeprefix("file://localhost") for pfn in pfns)

    def away(self) -> AbstractContextManager[None]:
        return self.element.server.down()


class TestThroughTheIngester(through.ThroughTheIngester):
    @pytest.fixture
    def system(self, site: Site, make_element: Any) -> Server:
        return Server(make_element(site.storage))

    def test_all_are_in_the_dataset(self) -> None:
        self.store(1, 2)
        self.ingest()
        content = self.system.element.content("night-2026-11-23")
        assert content == ["2026-11-23/0001.fits", "2026-11-23/0002.fits"]

    def test_computed_checksums_are_kept(self) -> None:
        self.store(1)
        self.ingest()
        kept = self.ask("SELECT algorithm, length(value) FROM file_checksum ORDER BY algorithm")
        assert ("adler32", 8) in kept
        assert ("md5", 32) in kept

    def test_auditor_compares_the_checksums_that_are_kept(self) -> None:
        self.store(1)
        self.ingest()
        assert self.site.run("dbb-auditor", env=through.OURS).code == 0
        with closing(
            sqlite3.connect(self.site.database_url.removeprefix("sqlite:///"))
        ) as database:
            database.execute("UPDATE file_checksum SET value = '0' WHERE algorithm = 'adler32'")
            database.commit()
        ran = self.site.run("dbb-auditor", env=through.OURS)
        assert (ran.code, "target.a does not hold it" in ran.err) == (1, True)

    def test_checksums_of_the_finder_are_used(self) -> None:
        self.site.write(
            finder={"checksums": ["blake2b", "adler32", "md5"]},
            targets={"a": {"plugin": "rucio", "config": self.system.config}},
        )
        (path,) = self.store(1)
        ((adler32,),) = self.ask("SELECT value FROM file_checksum WHERE algorithm = 'adler32'")
        # As if it were another file: nobody reads it again.
        Path(path).chmod(0o644)
        Path(path).write_text("2 ")
        self.ingest()
        asked = [{"scope": self.system.element.scope, "name": "2026-11-23/0001.fits"}]
        (held,) = self.system.element.client.get_metadata_bulk(asked)
        assert held["adler32"] == adler32
