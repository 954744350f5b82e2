"""What only a person can end is told with what that person must do, wherever it is met."""

import json
import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.database import Databases
from tests.support.scripts import SOMEBODY, TOP, Ran, somebody_starts_python
from tests.support.site import Site

NOBODY = pwd.getpwuid(65534)

MOUNT = "mount it, then: dbb -c {} check"
ALLOW = "change its owner or mode there, then: dbb -c {} check"

with_plugins = pytest.mark.skipif(
    not somebody_starts_python(), reason="only root may start this Python, and plugins need it"
)


@pytest.fixture
def site(databases: Databases) -> Iterator[Site]:
    """Yield a site that belongs to a user who is not root, with a file that went all the way."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        with databases.fresh("sqlite", Path(directory)) as url:
            made = Site(Path(directory), url)
            (made.root / "links").mkdir()
            made.write(
                finder={"min_free": 0},
                handoff={"min_free": 0},
                targets={
                    "null": {},
                    "link": {"plugin": "link", "config": {"root": made.root / "links"}},
                },
            )
            made.put("a.fits")
            if os.geteuid() == 0:
                for path in (made.root, *made.root.rglob("*")):
                    os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
            passes(made)
            yield made


def run(site: Site, *command: str) -> Ran:
    return site.run(*command, unprivileged=True)


def passes(site: Site) -> None:
    ingester = [["dbb-ingester", "--all"]] if somebody_starts_python() else []
    for command in (["dbb-handoff"], ["dbb-finder"], *ingester):
        ran = run(site, *command)
        assert ran == Ran(0, "", ""), ran


def put(site: Site, rel: str, where: Path | None = None, content: bytes = b"data") -> None:
    """Write a file as the user who runs the passes."""
    path = site.put(rel, content, where)
    if os.geteuid() == 0:
        for one in (path, path.parent):
            os.chown(one, NOBODY.pw_uid, NOBODY.pw_gid)


@contextmanager
def mode(path: Path, mode: int) -> Iterator[None]:
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)


@contextmanager
def away(path: Path) -> Iterator[None]:
    other = path.rename(path.with_name("away"))
    try:
        yield
    finally:
        other.rename(path)


def troubles(site: Site) -> dict[str, Any]:
    """Return the troubles that `dbb status` shows, by label."""
    ran = run(site, "dbb", "status", "--json", "-c", str(site.config))
    found = json.loads(ran.out)["troubles"]
    return {one["label"]: one for one in found}


def test_a_buffer_of_the_endpoint_that_is_away_is_to_be_mounted(site: Site) -> None:
    put(site, "b.fits")
    with away(site.far_buffer):
        assert run(site, "dbb-handoff").code == 75
        found = troubles(site)["handoff.latiss"]
    assert "is not there (not mounted?)" in found["message"]
    assert found["advice"] == MOUNT.format(site.config)


@with_plugins
def test_the_root_of_a_target_is_to_be_mounted_and_is_no_storage_area(site: Site) -> None:
    put(site, "b.fits")
    with away(site.root / "links"):
        run(site, "dbb-handoff")
        run(site, "dbb-finder")
        assert run(site, "dbb-ingester", "link").code == 75
        found = troubles(site)["target.link"]
    assert found["message"] == f"root: {site.root}/links: is not there; is it mounted?"
    assert found["advice"] == MOUNT.format(site.config)


def test_a_buffer_that_may_not_be_read_is_not_tried_again_by_itself(site: Site) -> None:
    with mode(site.buffer, 0):
        assert run(site, "dbb-handoff").code == 75
        found = troubles(site)["handoff.latiss"]
    assert f"{site.buffer}: Permission denied" in found["message"]
    assert found["advice"] == ALLOW.format(site.config)


def test_a_root_that_may_not_be_reached_is_not_to_be_mounted(site: Site) -> None:
    with mode(site.storage.parent, 0):
        assert run(site, "dbb-finder").code == 75
        found = troubles(site)["finder.latiss"]
    assert "mounted" not in found["message"]
    assert found["advice"] == ALLOW.format(site.config)


@with_plugins
def test_a_root_of_a_target_that_refuses_is_named_and_costs_no_file_an_attempt(
    site: Site,
) -> None:
    put(site, "b.fits")
    run(site, "dbb-handoff")
    run(site, "dbb-finder")
    with mode(site.root / "links", 0o555):
        assert run(site, "dbb-ingester", "link").code == 75
        found = troubles(site)["target.link"]
    assert (found["what"], found["files"]) == ("try again later", 0)
    assert f"{site.root}/links: Permission denied" in found["message"]
    assert found["advice"] == ALLOW.format(site.config)
    ran = run(site, "dbb-ingester", "link")
    assert (ran.code, "is over" in ran.err) == (0, True)


@pytest.mark.parametrize("refuses", ["buffer", "holding"])
def test_the_directory_that_lets_no_original_be_moved_to_holding_is_named(
    site: Site, refuses: str
) -> None:
    put(site, "n/a.fits")
    passes(site)
    put(site, "n/b.fits")
    directory = {"buffer": site.buffer, "holding": site.holding}[refuses] / "n"
    with mode(directory, 0o555):
        ran = run(site, "dbb-handoff")
        found = troubles(site)["handoff.latiss"]
    why = f"delivered, but cannot be moved to holding: {directory}: Permission denied"
    assert found["message"] == f"{site.buffer}/n/b.fits: {why}"
    assert (ran.code, why in ran.err) == (1, True)
    assert found["advice"].startswith("change owner or mode of the directory that is named")


@pytest.mark.parametrize("refuses", ["source", "quarantine"])
def test_the_directory_that_lets_no_file_be_moved_aside_is_named(site: Site, refuses: str) -> None:
    put(site, "n/a.fits")
    passes(site)
    put(site, "n/a.fits", site.far_buffer, b"other")
    directory = {"source": site.far_buffer / "n", "quarantine": site.storage_quarantine}[refuses]
    with mode(directory, 0o555):
        ran = run(site, "dbb-finder")
        found = troubles(site)["finder.latiss"]
    assert (
        f"and cannot be moved aside: {directory}: Permission denied (n/a.fits" in found["message"]
    )
    assert ran.code == 1
    assert found["advice"].startswith("change owner or mode of the directory that is named")


def test_the_directory_of_the_source_that_lets_no_file_go_is_named(site: Site) -> None:
    put(site, "n/b.fits", site.far_buffer)
    with mode(site.far_buffer / "n", 0o555):
        assert run(site, "dbb-finder").code == 1
        found = troubles(site)["finder.latiss"]
    assert found["message"].startswith(f"{site.far_buffer}/n: Permission denied (n/b.fits")


@with_plugins
def test_a_directory_of_a_target_that_refuses_is_named(site: Site) -> None:
    put(site, "night/b.fits")
    passes(site)
    put(site, "night/c.fits")
    run(site, "dbb-handoff")
    run(site, "dbb-finder")
    with mode(site.root / "links" / "night", 0o555):
        assert run(site, "dbb-ingester", "link").code == 1
        found = troubles(site)["target.link"]
    assert found["message"] == f"night/c.fits: {site.root}/links/night: Permission denied"
    assert found["advice"].startswith("change owner or mode of the directory that is named")


def paste(site: Site, advice: str) -> int:
    """Run an advice as the user who runs the passes, as a shell would; return its exit code."""
    command = ["sh", "-c", advice.replace("dbb ", f"{sys.executable} {TOP}/bin/dbb ")]
    if os.geteuid() == 0:
        command = [*SOMEBODY, *command]
    return subprocess.run(command, check=False).returncode


def test_a_state_directory_with_a_wrong_mode_gets_it_back_by_what_is_shown(site: Site) -> None:
    site.state.chmod(0o555)
    found = troubles(site)[""]
    said = run(site, "dbb", "check")
    assert (found["what"], found["advice"]) == ("state directory", f"chmod -R u+rwX {site.state}")
    assert "another user" not in said.out + said.err
    assert paste(site, found["advice"]) == 0
    assert troubles(site) == {}


def test_locks_with_a_wrong_mode_are_one_trouble(site: Site) -> None:
    locks = sorted((site.state / "locks").glob("*.lock"))
    for path in locks:
        path.chmod(0o444)
    (found,) = troubles(site).values()
    said = run(site, "dbb", "check")
    assert found["message"].startswith(f"{site.state}/locks ({len(locks)} files): user ")
    assert found["advice"] == f"chmod -R u+rwX {site.state}"
    assert f"may not write it: {found['advice']}" in said.out + said.err
    assert paste(site, found["advice"]) == 0
    assert troubles(site) == {}


@with_plugins
def test_a_file_that_stays_invalid_can_be_ignored_by_what_is_shown(site: Site) -> None:
    put(site, "empty.fits", content=b"")
    for command in (["dbb-handoff"], ["dbb-finder"], ["dbb-ingester", "--all"]):
        run(site, *command)
    found = troubles(site)["target.null"]
    assert found["what"] == "invalid"
    assert found["advice"].startswith("if the reason is gone: dbb ")
    again, ignored = found["advice"].removeprefix("if the reason is gone: ").split(", or: ")
    assert " retry target.null --status INVALID" in again
    assert paste(site, ignored) == 0
    run(site, "dbb-ingester", "null")
    assert "target.null" not in troubles(site)


@with_plugins
def test_all_that_an_auditor_found_is_shown_and_no_list_is_promised(site: Site) -> None:
    put(site, "b.fits")
    passes(site)
    (site.root / "links" / "b.fits").unlink()
    with mode(site.storage / "a.fits", 0):
        ran = run(site, "dbb-auditor", "--share", "1")
        found = troubles(site)["auditor.latiss"]
        shown = " ".join(run(site, "dbb", "status", "--short").out.split())
    assert (ran.code, "2 files failed; `dbb status` says why\n" in ran.err) == (1, True)
    one, other = "a.fits: cannot be read: Permission denied", "b.fits: is ingested according to"
    told = [found["message"], *found["others"]]
    assert len(told) == 2
    assert {one, other} == {each for each in (one, other) if any(each in said for said in told)}
    assert one in shown
    assert other in shown
    assert "`dbb retry target.link --status SUCCESS --match b.fits` offers it again" in shown
    assert found["advice"].startswith("change owner or mode of the directory that is named")
