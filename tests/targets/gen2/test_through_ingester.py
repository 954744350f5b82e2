"""Gen2 Butler: from the finder's buffer to a repository, by the scripts; the task is a double."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.targets import through
from tests.targets.gen2 import pipe_tasks_double as double
from tests.targets.observations import write

pytestmark = [
    pytest.mark.parametrize("backend", ["sqlite"]),
    pytest.mark.promise,
]


class Repository(through.System):
    """A repository with links to its files."""

    plugin = "butler-gen2"

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir()
        (root / "_mapper").write_text(f"{double.__name__}.Mapper\n")
        with double.Register().openRegistry(str(root), create=True):
            pass

    @property
    def config(self) -> dict[str, Any]:
        return {"root": self._root, "task": f"{double.__name__}.IngestTask"}

    def write(self, directory: Path, number: int, content: str = "") -> Path:
        cards = {"VISIT": number, "CCD": 0, "FILTER": "r", "OBJECT": content or "M31"}
        return write(directory / f"{number:04}.fits", cards)

    def held(self) -> list[str]:
        return sorted(str(link.readlink()) for link in self._root.glob("raw/*.fits"))

    @contextmanager
    def away(self) -> Iterator[None]:
        elsewhere = self._root.with_name("elsewhere")
        self._root.rename(elsewhere)
        yield
        elsewhere.rename(self._root)


class TestThroughTheIngester(through.ThroughTheIngester):
    @pytest.fixture
    def system(self, tmp_path: Path) -> Repository:
        return Repository(tmp_path / "repo")
