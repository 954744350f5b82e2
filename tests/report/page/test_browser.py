"""The pages in a real browser: Chromium, without a network and, for its content, without script."""

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.report.page import site
from tests.report.page import examples
from tests.support import browser
from tests.support.browser import DARK, LIGHT

PROBE = Path(__file__).with_name("probe.js")

pytestmark = pytest.mark.skipif(browser.BROWSER is None, reason="needs chromium")

#: A window is never as narrow as a telephone; a frame in it may be.
FRAME = """<!doctype html><pre id="probe"></pre>
<script>onmessage = (event) => document.getElementById("probe").textContent = event.data;</script>
<iframe src="{name}" style="border: 0; width: {width}px; height: 800px"></iframe>"""

INDEX, NIGHT = "index.html", f"night-{examples.LAST}.html"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site in trouble, with files whose names look like tags."""
    directory = tmp_path_factory.mktemp("browser") / "pages"
    site.write_site(str(directory), examples.survey(count=3))
    return directory


def probed(
    pages: Path, name: str, tmp_path: Path, width: int = 1280, colours: int = LIGHT
) -> dict[str, Any]:
    """Return what a script in a page sees; the page's own ban on foreign scripts is taken out."""
    copy = tmp_path / "pages"
    shutil.copytree(pages, copy)
    shutil.copy(PROBE, copy)
    text = (copy / name).read_text()
    probe = '<script src="probe.js"></script>'
    changed, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^\n]*', probe, text)
    assert count == 1
    (copy / name).write_text(changed)
    (copy / "frame.html").write_text(FRAME.format(name=name, width=width))
    seen = browser.run(copy / "frame.html", tmp_path / "profile", "--dump-dom", colours=colours)
    found = re.search(r'<pre id="probe">(.+?)</pre>', seen, re.DOTALL)
    assert found, seen
    answer: dict[str, Any] = json.loads(html.unescape(found[1]))
    return answer


@pytest.mark.promise
@pytest.mark.parametrize("name", [INDEX, NIGHT])
@pytest.mark.parametrize(("width", "colours"), [(1280, LIGHT), (390, DARK)])
def test_a_page_is_read_found_and_harmless(
    pages: Path, name: str, width: int, colours: int, tmp_path: Path
) -> None:
    seen = probed(pages, name, tmp_path, width, colours)
    assert seen["alerts"] == 0
    assert seen["width"] == width
    assert seen["scrollWidth"] <= width
    assert seen["contrast"] == []
    assert seen["searchShown"]
    assert [url for url in seen["requests"] if not url.startswith("file://")] == []
    found = seen["found"]
    assert found["<script>"]["names"][0] == f"{examples.LAST}/<script>alert(1)</script>.fits"
    assert "in the buffer" in found["<script>"]["first"]
    assert found["nothing of this name"]["names"] == []
    assert found["nothing of this name"]["hits"].startswith("No files.")
    assert found["_r00_s0"]["hits"].startswith("More than 100 files")
    assert len(found["_r00_s0"]["names"]) == 100


def test_the_search_looks_into_every_night(pages: Path, tmp_path: Path) -> None:
    found = probed(pages, INDEX, tmp_path)["found"]["<script>"]
    days = [night.day for night in examples.nights(3)]
    assert found["names"] == [f"{day}/<script>alert(1)</script>.fits" for day in days]
    assert "Nights looked at: 3." in found["hits"]


def test_a_page_that_is_old_says_so(pages: Path, tmp_path: Path) -> None:
    made = examples.NOW.strftime("%Y-%m-%dT%H:%M")
    shutil.copytree(pages, tmp_path / "old")
    page = tmp_path / "old" / INDEX
    page.write_text(
        re.sub(rf'data-made="{made}[^"]*"', 'data-made="2020-01-01T00:00:00Z"', page.read_text())
    )
    assert re.search(r"This page is \d+ d old", probed(tmp_path / "old", INDEX, tmp_path)["old"])


@pytest.mark.parametrize("name", [INDEX, NIGHT])
def test_its_own_rules_let_a_page_run_its_own_script(
    pages: Path, name: str, tmp_path: Path
) -> None:
    seen = browser.run(pages / name, tmp_path, "--dump-dom")
    assert re.search(r'<form class="search" role="search">', seen)


def test_everything_but_the_search_needs_no_script(pages: Path, tmp_path: Path) -> None:
    """Its own script is the only one that a page allows."""
    copy = tmp_path / "pages"
    shutil.copytree(pages, copy)
    (copy / "search.js").unlink()
    seen = browser.run(copy / INDEX, tmp_path / "profile", "--dump-dom")
    assert re.search(r'<form class="search" role="search" hidden="">', seen)
    assert "NOT WELL" in seen
    assert "dbb -c /etc/dbb/dbb.toml retry target.rucio" in seen
    assert f'href="{NIGHT}"' in seen
