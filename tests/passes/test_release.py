"""Files that were moved aside: listed with their reason, and put back where they came from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable

import pytest

from tests.passes.handing import change, make_pass, rows, statuses
from tests.support.site import Site, tree

KEYS = {"min_free": 0, "max_attempts": 1}


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site with two files in the quarantine of its handoff."""
    site.write(handoff=KEYS, endpoint={"transfer": "false {batch} {dest}"})
    for rel in ("a/b", "c"):
        site.put(rel)
        make_pass(site)
    assert set(statuses(site).values()) == {"QUARANTINED"}
    return site.write(handoff=KEYS)


def test_the_reason_stands_beside_the_file(site: Site) -> None:
    reason = (site.quarantine / "a" / "b.reason").read_text()
    assert reason == "gave up after attempt 1: false: exit code 1\n"


def test_a_list_tells_the_reason(site: Site) -> None:
    out = site.run("dbb", "quarantine", "list").out
    assert f"handoff.latiss  {site.quarantine}/a/b: gave up after attempt 1" in out


def test_a_list_for_programs(site: Site) -> None:
    found = json.loads(site.run("dbb", "quarantine", "list", "--match", "c", "--json").out)
    assert [(row["label"], row["filename"]) for row in found] == [("handoff.latiss", "c")]


def test_a_released_file_is_sent_as_if_it_were_new(site: Site) -> None:
    ran = site.run("dbb", "quarantine", "release", "handoff.latiss", "--match", "a/*")
    assert ran.out == "1 files of handoff.latiss are back\n"
    assert set(tree(site.quarantine)) == {"c", "c.reason"}
    make_pass(site)
    assert statuses(site) == {"a/b": "HELD", "c": "QUARANTINED"}


def test_a_release_by_reason(site: Site) -> None:
    ran = site.run("dbb", "quarantine", "release", "handoff.latiss", "--reason", "exit code 1")
    assert ran == (0, "2 files of handoff.latiss are back\n", "")


def test_a_release_never_overwrites(site: Site) -> None:
    site.put("c", b"the next version")
    ran = site.run("dbb", "quarantine", "release", "handoff.latiss", "--match", "*")
    assert ran.code == 64
    assert "another file has this name" in ran.err
    assert tree(site.buffer) == {"a/b": b"data", "c": b"the next version"}
    assert rows(site, "filename", "quarantine WHERE released_at IS NULL") == ["c"]


def test_a_release_that_was_cut_off_is_finished(site: Site) -> None:
    os.rename(site.quarantine / "c", site.buffer / "c")
    site.run("dbb", "quarantine", "release", "handoff.latiss", "--match", "c")
    make_pass(site)
    assert statuses(site)["c"] == "HELD"


def cut_off(site: Site) -> None:
    """Leave of a release what is recorded before the file is moved."""
    back = str(site.buffer / "c")
    change(site, "UPDATE quarantine SET released_as = ? WHERE filename = 'c'", back)


@pytest.mark.promise
@pytest.mark.parametrize("move", [os.rename, os.link, shutil.copy2])
def test_a_release_that_was_cut_off_is_finished_by_a_pass(
    site: Site, move: Callable[..., object]
) -> None:
    cut_off(site)
    move(site.quarantine / "c", site.buffer / "c")
    make_pass(site)
    assert statuses(site) == {"a/b": "QUARANTINED", "c": "HELD"}
    assert set(tree(site.quarantine)) == {"a/b", "a/b.reason"}
    assert rows(site, "filename", "quarantine WHERE released_at IS NULL") == ["b"]


@pytest.mark.promise
def test_a_file_that_was_not_moved_waits_on(site: Site) -> None:
    cut_off(site)
    make_pass(site)
    assert set(tree(site.quarantine)) == {"a/b", "a/b.reason", "c", "c.reason"}
    assert len(rows(site, "filename", "quarantine WHERE released_at IS NULL")) == 2


@pytest.mark.promise
def test_a_quarantine_that_is_not_mounted_was_not_emptied_by_a_release(site: Site) -> None:
    cut_off(site)
    site.quarantine.rename(site.root / "unmounted")
    site.quarantine.mkdir()
    make_pass(site)
    assert len(rows(site, "filename", "quarantine WHERE released_at IS NULL")) == 2


def test_which_files_must_be_said(site: Site) -> None:
    assert site.run("dbb", "quarantine", "release", "handoff.latiss").code == 64


def test_a_dry_run_releases_nothing(site: Site) -> None:
    ran = site.run("dbb", "quarantine", "release", "handoff.latiss", "--match", "*", "--dry-run")
    assert f"{site.quarantine}/c" in ran.out.splitlines()
    assert set(tree(site.quarantine)) == {"a/b", "a/b.reason", "c", "c.reason"}
