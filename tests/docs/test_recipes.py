"""Recipes of the pages are carried out as they are written."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support.scripts import TOP
from tests.support.site import Site

NAME = "2026-11-24/a.fits"


def recipe(page: str, heading: str, begin: str) -> list[list[str]]:
    """Return the commands of the shell block below a heading that begins so."""
    text = (TOP / "docs" / page).read_text().split(f"## {heading}\n")[1]
    block = re.search(rf"```sh\n({re.escape(begin)}.*?)```", text, re.DOTALL)
    assert block is not None
    return [shlex.split(line, comments=True) for line in block[1].splitlines()]


@pytest.fixture
def site(site: Site) -> Site:
    """Return a site after a night, with the names that the pages use."""
    site.write(targets={"gen3": {}})
    site.put_all([NAME, *(f"2026-11-24/{n}.fits" for n in range(4))])
    for script in ("dbb-handoff", "dbb-finder", "dbb-ingester"):
        assert site.run(script) == (0, "", "")
    return site


def status(site: Site) -> str:
    return site.run("dbb", "history", NAME).out


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_lost_database_is_rebuilt(site: Site) -> None:
    Path(site.database_url.removeprefix("sqlite:///")).unlink()
    for program, *arguments in recipe(
        "database.md", "Losing it, or restoring last night's", "dbb init"
    ):
        ran = site.run(program, *arguments)
        assert ran.code == 0, (arguments, ran)
    for script in ("dbb-handoff", "dbb-finder", "dbb-ingester"):
        assert site.run(script).code == 0
    assert all(word in status(site) for word in ("HELD", "STORED", "SUCCESS"))


def carry_out(site: Site, commands: list[list[str]], **places: str) -> None:
    """Run the commands of a recipe, with other words in some places, and see each succeed."""
    for program, *arguments in commands:
        ran = site.run(program, *(places.get(each, each) for each in arguments))
        assert ran.code == 0, (arguments, ran)


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("alternative", [0, 1])
def test_a_corrected_version_is_accepted(site: Site, alternative: int) -> None:
    wrong = "2026-11-24/wrong.fits"
    for content in (b"wrong", b"corrected"):
        site.put(wrong, content, where=site.far_buffer)
        assert site.run("dbb-finder").code in (0, 1)
    assert (site.storage / wrong).read_bytes() == b"wrong"
    whole = recipe("storage.md", "A file that is wrong", "dbb quarantine")
    gap = whole.index([])
    # A person is asked first.
    whole = [[*words, "--yes"] if "--remove" in words else words for words in whole]
    carry_out(site, whole[:gap] if alternative == 0 else whole[gap + 1 :])
    assert site.run("dbb-finder").code == 0
    name = "wrong-v2.fits" if alternative == 0 else "wrong.fits"
    assert (site.storage / "2026-11-24" / name).read_bytes() == b"corrected"


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_storage_area_moves(site: Site) -> None:
    moved = site.root / "archive" / "moved"
    subprocess.run(["cp", "-a", site.storage, moved], check=True)
    old, site.storage = site.storage, moved
    site.write(targets={"gen3": {}})
    whole = recipe("storage.md", "A storage area that moves", "dbb storage")
    carry_out(site, whole, **{"/data/storage": str(old), "/archive/storage": str(moved)})
    assert "STORED" in status(site)
    assert str(moved / NAME) in status(site)


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("what", ["MISSING", "CORRUPT"])
def test_a_file_that_is_missing_or_corrupt_is_copied_back(site: Site, what: str) -> None:
    path = site.storage / NAME
    path.unlink()
    if what == "CORRUPT":
        path.write_bytes(b"x" * len(NAME))
    assert site.run("dbb-auditor", "--share", "1", "--missing", "1").code == 1
    assert what in status(site)
    for program, *arguments in recipe(
        "storage.md", "A file that is missing or corrupt", "dbb list"
    ):
        given = [
            each.replace("/data/holding", str(site.holding)).replace(
                "/data/storage", str(site.storage)
            )
            for each in arguments
        ]
        if program == "cp":
            subprocess.run([program, *given], check=True)
        else:
            ran = site.run(program, *given)
            assert ran.code == 0, (given, ran)
    assert "STORED" in status(site)
    assert NAME not in site.run("dbb", "list", "finder.latiss", "--status", what.lower()).out
