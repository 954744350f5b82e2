"""The operators' pages are carried out from top to bottom, each command as it is written."""

from __future__ import annotations

import re
import shlex

import pytest

from dbbbatch.config import toml
from tests.support.scripts import TOP
from tests.support.site import SENTINEL, Site

NIGHT = "2026-11-24"
EXPOSURE = f"{NIGHT}/AT_O_20261124_000001.fits"

#: Commands that need what no test has: a second disk, another release, a newer file.
ELSEWHERE = (
    "dbb quarantine release",
    "dbb storage move",
    "dbb forget",
    "dbb resend handoff.latiss --",
)


def commands(page: str) -> list[str]:
    """Return the lines of a page that run one of our scripts."""
    text = (TOP / "docs" / page).read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("dbb") and not line.startswith(ELSEWHERE)]


@pytest.fixture
def site(site: Site) -> Site:
    """Return a site after a night, with the names that the pages use."""
    tree = site.root / "by-night"
    tree.mkdir()
    by_night = {"plugin": "link", "config": {"root": tree}}
    site.write(targets={"gen3": {}, "by-night": by_night})
    by_rsync = {"source": "logs", "storage": "by-rsync", "quarantine": "by-rsync-quarantine"}
    keys = {key: site.root / name for key, name in by_rsync.items()}
    document = {"finder.by-rsync": {**keys, "search": "rsync-logs", "standard": "none"}}
    with site.config.open("a") as config:
        config.write("\n" + toml.toml_document(document))
    for path in keys.values():
        path.mkdir()
    (keys["storage"] / SENTINEL).touch()
    site.put_all([EXPOSURE, f"{NIGHT}/a.fits", f"{NIGHT}/x_bias_0.fits", "2025-01-01/b.fits"])
    for script in ("dbb-handoff", "dbb-finder", "dbb-ingester"):
        arguments = {"dbb-finder": ["latiss"], "dbb-ingester": ["gen3"]}.get(script, [])
        assert site.run(script, *arguments) == (0, "", "")
    return site


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize(
    "page",
    [
        *("outage.md", "failed-files.md", "history.md", "holding-area.md", "storage.md"),
        *("targets.md", "alerts.md"),
    ],
)
def test_each_command_of_a_page_works_as_it_is_written(site: Site, page: str) -> None:
    for line in commands(page):
        words = shlex.split(line, comments=True)
        for there, here in (
            ("/data/holding", site.holding),
            ("/data/storage", site.storage),
            ("/var/lib/prometheus/node-exporter", site.root),
        ):
            words = [word.replace(there, str(here)) for word in words]
        ran = site.run(*words)
        assert ran.code == 0, (line, ran)
        assert "unforeseen" not in ran.err, (line, ran)
