"""`dbb storage move`: a storage area that is under another path keeps its rows and history."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.database import connect
from dbbbatch.database.models.target import TargetRow
from dbbbatch.files.lock import Lock
from dbbbatch.passes import relocate
from tests.support.handing import change, rows
from tests.support.site import Site

pytestmark = pytest.mark.promise


class Killed(BaseException):
    """As if by SIGKILL."""


@pytest.fixture
def old(site: Site) -> Path:
    """Return a storage area with three ingested files; the site has it under a new path."""
    for rel in ("night/a", "night/b c", "d"):
        site.put(rel, rel.encode())
    for script in ("dbb-handoff", "dbb-finder", "dbb-ingester"):
        assert site.run(script).code == 0
    old = site.storage
    site.storage = site.root / "new disk"
    subprocess.run(["cp", "-a", old, site.storage], check=True)
    site.write()
    return old


def storages(site: Site) -> set[tuple[str, str]]:
    found = {("file", each) for each in rows(site, "storage", "file")}
    return found | {("target", each) for each in rows(site, "storage", "target")}


def everywhere(path: Path) -> set[tuple[str, str]]:
    return {("file", str(path)), ("target", str(path))}


def events(site: Site) -> list[Any]:
    return sorted(rows(site, "id, file_id, status", "ingest_event"))


def assert_all_well(site: Site) -> None:
    before = events(site)
    for script in ("dbb-finder", "dbb-ingester"):
        ran = site.run(script)
        assert (ran.code, ran.err) == (0, "")
    ran = site.run("dbb-auditor", "--share", "1")
    assert (ran.code, ran.err) == (0, "")
    assert events(site) == before
    assert set(rows(site, "status", "ingest_state")) == {"SUCCESS"}


def test_nothing_is_offered_again_and_history_stays(site: Site, old: Path) -> None:
    ran = site.run("dbb", "storage", "move", old, site.storage)
    assert (ran.code, ran.out) == (0, f"{old} is {site.storage} now: 3 files\n")
    assert storages(site) == everywhere(site.storage)
    assert "night/b c" in site.run("dbb", "history", "night/b c").out
    assert_all_well(site)


def test_init_does_the_same_where_it_is_certain(site: Site, old: Path) -> None:
    ran = site.run("dbb", "init")
    assert ran.code == 0
    assert f"{old}: is {site.storage} now" in ran.out
    assert storages(site) == everywhere(site.storage)
    assert_all_well(site)


def test_init_takes_no_new_storage_area_for_the_old_one(site: Site, old: Path) -> None:
    shutil.rmtree(site.storage)
    site.storage.mkdir()
    ran = site.run("dbb", "init")
    assert ran.code == 0
    assert "is not assumed to be the same" in ran.out
    assert storages(site) == everywhere(old)
    assert (site.storage / ".dbb-storage").exists()


def test_dry_run_changes_nothing(site: Site, old: Path) -> None:
    ran = site.run("dbb", "storage", "move", old, site.storage, "--dry-run")
    assert (ran.code, ran.out) == (0, f"{old} would be {site.storage} now: 3 files\n")
    assert storages(site) == everywhere(old)


def test_what_lies_behind_a_link_is_not_in_storage(site: Site, old: Path) -> None:
    (site.storage / "night").rename(site.root / "elsewhere")
    (site.storage / "night").symlink_to(site.root / "elsewhere")
    ran = site.run("dbb", "storage", "move", old, site.storage)
    assert ran.code == 75
    assert "is a link, or no directory" in ran.err
    assert storages(site) == everywhere(old)


@pytest.mark.parametrize("how", ["missing", "of another size", "a directory"])
def test_file_that_is_not_there_keeps_everything_as_it_is(site: Site, old: Path, how: str) -> None:
    path = site.storage / "night/a"
    path.chmod(0o644)
    if how == "of another size":
        path.write_bytes(b"cut")
    else:
        path.unlink()
    if how == "a directory":
        path.mkdir()
    ran = site.run("dbb", "storage", "move", old, site.storage)
    assert ran.code == 75
    assert ran.err.startswith("dbb: night/a: is ")
    assert "1 of 3 files not in " in ran.err
    assert storages(site) == everywhere(old)


def test_storage_that_is_not_mounted_is_waited_for(site: Site, old: Path) -> None:
    (site.storage / ".dbb-storage").unlink()
    assert site.run("dbb", "storage", "move", old, site.storage).code == 75
    assert storages(site) == everywhere(old)


def test_paths_that_are_not_meant_are_refused(site: Site, old: Path) -> None:
    for arguments in (
        (old, old),
        (site.storage, old),
        (old, site.root / "elsewhere"),
        (site.root / "elsewhere", site.storage),
    ):
        ran = site.run("dbb", "storage", "move", *map(str, arguments))
        assert ran.code == 64, ran.err
    site.storage = old
    site.write()
    assert site.run("dbb", "storage", "move", old, site.root / "new disk").code == 64
    assert storages(site) == everywhere(old)


def test_file_that_both_storage_areas_have_is_told(site: Site, old: Path) -> None:
    change(
        site,
        "INSERT INTO file (storage, relpath, filename, size_bytes, checksum, status, finder)"
        " SELECT ?, relpath, filename, size_bytes, checksum, status, finder FROM file"
        " WHERE filename = 'd'",
        str(site.storage),
    )
    ran = site.run("dbb", "storage", "move", old, site.storage)
    assert ran.code == 64
    assert "knows it in both" in ran.err


def test_a_kill_between_leaves_all_or_nothing(
    site: Site, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: Any) -> None:
        raise Killed

    settings = site.settings()
    connect.connect(settings.database)
    with monkeypatch.context() as patched:
        patched.setattr(TargetRow, "moved", killed)
        with pytest.raises(Killed):
            relocate.relocate(settings, str(old), str(site.storage))
    connect.disconnect()
    assert storages(site) == everywhere(old)
    assert site.run("dbb", "storage", "move", old, site.storage).code == 0
    assert storages(site) == everywhere(site.storage)


def test_file_on_its_way_is_finished_under_the_new_path(site: Site, old: Path) -> None:
    change(site, "UPDATE file SET status = 'ARRIVING' WHERE filename = 'd'")
    assert site.run("dbb", "storage", "move", old, site.storage).code == 0
    assert site.run("dbb-finder").code == 0
    assert set(rows(site, "status", "file")) == {"STORED"}


@pytest.mark.parametrize("wrong", ["finder", "targets"])
def test_while_a_section_is_wrong_no_storage_area_is_said_to_have_none(
    site: Site, old: Path, wrong: str
) -> None:
    # The section that is wrong may well have the old one.
    keys = {"finder": {"batch_files": 0}, "targets": {"a": {"timeout": 0}}}
    site.write(**{wrong: keys[wrong]})
    assert "storage move" not in site.run("dbb", "check").out
    ran = site.run("dbb", "storage", "move", old, site.storage)
    assert ran.code == 78
    assert f"[{'finder.latiss' if wrong == 'finder' else 'target.a'}]" in ran.err
    assert storages(site) == everywhere(old)


def test_ingester_says_how_to_tell_the_table(site: Site, old: Path) -> None:
    ran = site.run("dbb-ingester")
    assert ran.code == 78
    assert f"dbb storage move {old} {site.storage}" in ran.err
    assert os.path.isdir(old)


@pytest.mark.parametrize("label", ["finder.latiss", "auditor.latiss"])
def test_it_waits_for_a_pass_of_the_old_path(site: Site, old: Path, label: str) -> None:
    lock = Lock(site.state / "locks", label)
    lock.acquire()
    try:
        ran = site.run("dbb", "storage", "move", str(old), str(site.storage))
    finally:
        lock.release()
    assert ran.code == 75
    assert f"{label} is at work" in ran.err
    assert storages(site) == everywhere(old)
    assert site.run("dbb", "storage", "move", str(old), str(site.storage)).code == 0
    assert_all_well(site)


def told(site: Site) -> list[tuple[str, str]]:
    """Return what the status tells of storage areas, and what it advises."""
    from dbbbatch.report import verdict

    try:
        health = verdict.examine(site.settings())
    finally:
        connect.disconnect()
    what = "storage without a section"
    return [(one.message, one.advice) for one in health.troubles if one.what == what]


def test_status_and_check_say_which_storage_no_section_has(site: Site, old: Path) -> None:
    (site.storage / ".dbb-storage").unlink()
    ((message, advice),) = told(site)
    assert str(old) in message
    assert advice == f"dbb -c {site.config} storage move {old} '{site.storage}'"
    ran = site.run("dbb", "check")
    assert f"[database] storage {old}: " in ran.out
    assert f"`dbb storage move {old} '{site.storage}'`" in ran.out
    (site.storage / ".dbb-storage").touch()
    assert site.run("dbb", "storage", "move", old, site.storage).code == 0
    assert told(site) == []


def test_storage_of_another_configuration_file_is_no_trouble(site: Site, old: Path) -> None:
    text = site.config.read_text().replace("[finder.latiss]", "[finder.other]")
    site.config.write_text(text)
    assert told(site) == []
    change(site, "UPDATE run SET started = '2026-01-01 00:00:00'")
    ((_, advice),) = told(site)
    assert "if it has moved: dbb " in advice
