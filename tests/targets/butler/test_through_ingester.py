"""Gen3 Butler: from the finder's buffer to a real repository, by the scripts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.targets import through
from tests.targets.observations import latiss

pytestmark = [
    pytest.mark.parametrize("backend", ["sqlite"]),
    pytest.mark.promise,
]


class Repository(through.System):
    """A repository on SQLite."""

    plugin = "butler-gen3"

    def __init__(self, repo: Path) -> None:
        self._repo = repo

    @property
    def config(self) -> dict[str, Any]:
        return {"repo": self._repo}

    def write(self, directory: Path, number: int, content: str = "") -> Path:
        return latiss(directory, sequence=number, OBJECT=content or "M31")

    def held(self) -> list[str]:
        from lsst.daf.butler import Butler

        with Butler.from_config(str(self._repo)) as butler:
            refs = butler.query_datasets("raw", "LATISS/raw/all", limit=None, explain=False)
            return sorted(butler.getURI(ref).ospath for ref in refs)

    @contextmanager
    def away(self) -> Iterator[None]:
        elsewhere = self._repo.with_name("elsewhere")
        self._repo.rename(elsewhere)
        yield
        elsewhere.rename(self._repo)


class TestThroughTheIngester(through.ThroughTheIngester):
    @pytest.fixture
    def system(self, sqlite_repo: Path) -> Repository:
        return Repository(sqlite_repo)

    def test_corrupt_file_is_invalid(self) -> None:
        paths = self.store(1)
        cut = latiss(self.site.far_buffer, sequence=2)
        cut.write_bytes(cut.read_bytes()[:-2880])
        assert self.site.run("dbb-finder").code == 0
        self.ingest(code=1)
        assert self.statuses() == {"SUCCESS": 1, "INVALID": 1}
        assert self.system.held() == paths

    def test_conflict_is_a_failure_that_names_both(self) -> None:
        (path,) = self.store(1)
        self.ingest()
        other = latiss(self.site.far_buffer / "other", sequence=1, OBJECT="M32")
        assert self.site.run("dbb-finder").code == 0
        self.ingest(code=1)
        assert self.statuses() == {"SUCCESS": 1, "FAILURE": 1}
        ((message,),) = self.ask("SELECT message FROM ingest_state WHERE status = 'FAILURE'")
        assert path in message
        assert other.name in message
