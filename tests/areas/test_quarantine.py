"""Quarantining files: killed at each step, finished by recovery."""

import errno
import os
from contextlib import suppress

import pytest

from dbbbatch.areas.quarantine import QuarantineArea, Rejected
from dbbbatch.areas.reasons import REASON
from dbbbatch.config import sections
from dbbbatch.config.fields import defaults
from dbbbatch.database import connect
from dbbbatch.database.models.quarantine import Quarantine
from dbbbatch.errors import TryLater
from dbbbatch.files import checksum, place
from dbbbatch.files.roots import Roots
from dbbbatch.files.tree import Entry


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


def must_refuse_none(table, number, why):
    raise AssertionError(f"{table} {number}: {why}")


def kill(*arguments, **keywords):
    raise Killed


def broken(path, **keywords):
    raise OSError(errno.EIO, "Input/output error", path)


@pytest.fixture(params=["one file system", "two file systems"])
def places(request, tmp_path, database):
    """A quarantine and a source, which may be on another file system."""
    source = tmp_path / "source"
    if request.param == "two file systems":
        source = request.getfixturevalue("other_file_system")
    source.mkdir(exist_ok=True)
    (tmp_path / "quarantine").mkdir()
    return source, tmp_path / "quarantine"


def area(places):
    source, root = places
    places = {"source": str(source), "quarantine": str(root), "storage": "/nowhere"}
    finder = defaults(sections.Finder, name="x", **places)
    return QuarantineArea("site", finder, Roots())


def rejected(places, content=b"data"):
    path = places[0] / "d" / "a"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    digest = checksum.compute(str(path))["blake2b"]
    return Rejected(str(path), "d/a", os.lstat(path), f"blake2b:{digest}", "because")


def files(directory):
    """Return the names of all files but reasons."""
    found = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
    return {name for name in found if not name.endswith(REASON)}


def rows():
    return [(row.path, row.quarantined_at is not None) for row in Quarantine.select()]


def test_file_is_moved_and_its_reason_recorded(places):
    source, root = places
    assert area(places).quarantine([rejected(places)]) == []
    assert (files(source), files(root)) == (set(), {"d/a"})
    row = Quarantine.get()
    assert (row.label, row.relpath, row.filename, row.reason) == ("finder.x", "d", "a", "because")
    assert rows() == [(str(root / "d/a"), True)]


def test_file_that_changed_meanwhile_stays(places):
    file = rejected(places)
    with open(file.source, "ab") as more:
        more.write(b"more")
    ((_, error),) = area(places).quarantine([file])
    assert isinstance(error, checksum.Changed)
    assert files(places[0]) == {"d/a"}
    assert rows() == []


def test_two_files_of_one_name_in_one_batch_get_two_places(places):
    first = rejected(places)
    other = places[0] / "other"
    other.write_bytes(b"other")
    second = Rejected(str(other), "d/a", os.lstat(other), None, "because")
    assert area(places).quarantine([first, second]) == []
    assert files(places[1]) == {"d/a", "d/a.~1~"}


@pytest.mark.parametrize("places", ["two file systems"], indirect=True)
def test_source_that_may_not_be_removed_leaves_no_copy(places, monkeypatch):
    source, root = places
    file = rejected(places)

    def unlink(path, real=os.unlink, **keywords):
        if path == file.source:
            raise PermissionError(1, "Operation not permitted")
        real(path, **keywords)

    monkeypatch.setattr(os, "unlink", unlink)
    ((_, error),) = area(places).quarantine([file])
    assert isinstance(error, PermissionError)
    assert (files(source), files(root), rows()) == ({"d/a"}, set(), [])


@pytest.mark.promise
@pytest.mark.parametrize("step", ["place", "sync_file_system", "unlink", "record"])
def test_kill_at_any_step_is_finished_by_recovery(places, monkeypatch, step):
    source, root = places
    file = rejected(places)
    with monkeypatch.context() as patched:
        if step == "record":
            patched.setattr(Quarantine, "arrived", kill)
        elif step == "unlink":
            patched.setattr(os, "unlink", kill)
        else:
            patched.setattr(place, step, kill)
        try:
            area(places).quarantine([file])
        except Killed:
            connect.disconnect()
    area(places).recover(must_refuse_none)
    if files(source):
        assert (files(root), rows()) == (set(), [])
        assert area(places).quarantine([file]) == []
    assert (files(source), files(root)) == (set(), {"d/a"})
    assert rows() == [(str(root / "d/a"), True)]


@pytest.mark.promise
@pytest.mark.parametrize("places", ["two file systems"], indirect=True)
def test_copy_stays_where_the_removal_of_its_original_is_answered_with_an_error(
    places, monkeypatch
):
    """As a server does that has removed it, and is asked once more."""
    source, root = places
    file = rejected(places)

    def unlink(path, real=os.unlink, **keywords):
        real(path, **keywords)
        if path == file.source:
            raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "unlink", unlink)
    assert area(places).quarantine([file]) == []
    assert (files(source), files(root)) == (set(), {"d/a"})
    assert rows() == [(str(root / "d/a"), True)]


@pytest.mark.promise
def test_file_whose_source_cannot_be_looked_at_afterwards_stays_in_quarantine(places, monkeypatch):
    source, root = places
    file = rejected(places)
    with monkeypatch.context() as patched:

        def sync(path):
            patched.setattr(os, "lstat", broken)
            patched.setattr(Entry, "lstat", broken)

        patched.setattr(place, "sync_file_system", sync)
        ((_, error),) = area(places).quarantine([file])
    assert error.errno == errno.EIO
    assert files(root) == {"d/a"}
    area(places).recover(must_refuse_none)
    assert (files(source), files(root)) == (set(), {"d/a"})
    assert rows() == [(str(root / "d/a"), True)]


def test_what_is_in_neither_place_waits_for_a_quarantine_that_is_not_mounted(places, monkeypatch):
    source, root = places
    with monkeypatch.context() as patched:
        patched.setattr(QuarantineArea, "record", kill)
        with suppress(Killed):
            area(places).quarantine([rejected(places)])
    assert (files(source), files(root)) == (set(), {"d/a"})
    root.rename(root.with_name("unmounted"))
    root.mkdir()
    assert area(places).recover(must_refuse_none) == 0
    assert [done for _, done in rows()] == [False]
    root.rmdir()
    root.with_name("unmounted").rename(root)
    assert area(places).recover(must_refuse_none) == 1
    assert [done for _, done in rows()] == [True]


def test_what_cannot_be_looked_at_does_not_keep_recovery_from_the_rest(places, monkeypatch):
    source, root = places
    other = source / "other"
    other.write_bytes(b"other")
    killed = [rejected(places), Rejected(str(other), "other", os.lstat(other), None, "because")]
    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr(Quarantine, "arrived", kill)
        area(places).quarantine(killed)
    connect.disconnect()

    def lstat(entry, real=Entry.lstat):
        return broken(entry) if entry.path == str(root / "d/a") else real(entry)

    with monkeypatch.context() as patched:
        patched.setattr(Entry, "lstat", lstat)
        assert area(places).recover(must_refuse_none) == 1
    assert rows() == [(str(root / "d/a"), False), (str(root / "other"), True)]
    assert area(places).recover(must_refuse_none) == 1
    assert files(root) == {"d/a", "other"}
    assert [there for _, there in rows()] == [True, True]


def test_disk_of_the_quarantine_that_fails_is_tried_again_later(places, monkeypatch):
    source, root = places
    with monkeypatch.context() as patched:
        patched.setattr(place, "sync_file_system", broken)
        with pytest.raises(TryLater, match=f"{root}: Input/output error"):
            area(places).quarantine([rejected(places)])
    area(places).recover(must_refuse_none)
    assert (files(source), files(root)) == (set(), {"d/a"})
