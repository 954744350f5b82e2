"""A report killed before any change leaves whole pages, and the next one makes the others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dbbbatch.files.temporary import is_temporary
from tests.killing.sweep import Swept
from tests.support.database import Databases
from tests.support.scripts import TOP
from tests.support.site import Site

#: How the files of a report end.
ENDS = {".html": "</html>", ".js": ";"}


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_report(sweep: Callable[..., Swept], databases: Databases, backend: str) -> None:
    pytest.importorskip("matplotlib")

    @contextmanager
    def make(directory: Path) -> Iterator[Site]:
        with databases.fresh(backend, directory) as url:
            site = Site(directory / "site", url).write()
            site.put("2026-11-28/a.fits", b"data")
            assert site.run("dbb-handoff").code == 0
            yield site

    def command(site: Site) -> list[str]:
        script = str(TOP / "bin" / "dbb-report")
        return [sys.executable, script, "-c", str(site.config), str(site.root / "pages")]

    def look(site: Site) -> dict[str, bool]:
        """Which files there are, and whether each is whole."""
        pages = [page for page in (site.root / "pages").iterdir() if not is_temporary(page.name)]
        return {page.name: page.read_text().rstrip().endswith(ENDS[page.suffix]) for page in pages}

    swept = sweep(make, command, look, every=8)
    assert set(swept.seen) > {"index.html", "search.js"}
    assert all(swept.seen.values())
