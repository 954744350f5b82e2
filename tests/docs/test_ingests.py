"""The page about ingests is held to the state machine, and the example of a plugin is run."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dbbbatch.database import connect
from dbbbatch.database.models.statuses import IngestStatus
from dbbbatch.targets.plugin import PLUGIN_RESULTS, Plugin
from tests.support.ingesting import Ingesting
from tests.support.scripts import TOP
from tests.support.site import Site

DOCS = TOP / "docs"
EXAMPLE = DOCS / "example-plugin"


def table(page: str, heading: str) -> list[list[str]]:
    """Return the rows of the first table below a heading."""
    text = (DOCS / page).read_text().split(f"## {heading}\n")[1]
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert lines is not None
    rows = [line.strip("|").split("|") for line in lines[0].splitlines()[2:]]
    return [[cell.strip() for cell in row] for row in rows]


def test_every_status_is_explained() -> None:
    assert [row[0] for row in table("ingests.md", "Statuses")] == [str(one) for one in IngestStatus]


def test_every_result_of_a_plugin_is_explained() -> None:
    rows = table("plugins.md", "Outcomes")
    assert [row[0] for row in rows] == [f"`{result.name}`" for result in PLUGIN_RESULTS]


def test_every_member_of_a_plugin_is_explained() -> None:
    rows = {re.split(r"\W", row[0].strip("`"))[0] for row in table("plugins.md", "What to write")}
    public = {name for name in vars(Plugin) if not name.startswith("_")}
    assert rows == public | {"name", "__init__"}


def test_example_on_the_page_is_the_package() -> None:
    code = (EXAMPLE / "dbb_catalog" / "__init__.py").read_text().rstrip()
    assert f"```python\n{code}\n```" in (DOCS / "plugins.md").read_text()


@pytest.mark.parametrize("backend", ["sqlite"])
def test_example_is_installed_as_a_package_of_its_own_and_ingests(
    site: Site, tmp_path: Path
) -> None:
    source, installed = tmp_path / "source", tmp_path / "installed"
    shutil.copytree(EXAMPLE, source)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--target", installed, source),
        ],
        check=True,
    )
    ingesting = Ingesting(site)
    ingesting.site.write(
        targets={"a": {"plugin": "catalog", "config": {"file": f"{tmp_path}/catalog.sqlite"}}}
    )
    environment = {"PYTHONPATH": str(installed)}
    assert ingesting.site.run("dbb-ingester", env=environment) == (0, "", "")
    from dbbbatch.config.fields import defaults
    from dbbbatch.config.sections import Database

    connect.connect(defaults(Database, url=site.database_url))
    ingesting.store("night/x.fits", "y.fits")
    assert ingesting.site.run("dbb-ingester", env=environment) == (0, "", "")
    assert set(ingesting.statuses().values()) == {"SUCCESS"}
    rows = connect.execute("SELECT version FROM ingest_attempt").fetchall()
    assert all(row[0].startswith("SQLite 3") for row in rows)
    connect.disconnect()
