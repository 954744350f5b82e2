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
from dbbbatch.files import checksum
from dbbbatch.files.roots import Roots
from dbbbatch.files.tree import Entry, Tree
from tests.support.disks import behind_a_link


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


def rejected(places, content=b"data", rel="d/a"):
    file = Tree(str(places[0])).entry(rel)
    os.makedirs(os.path.dirname(file.path), exist_ok=True)
    with open(file.path, "wb") as written:
        written.write(content)
    digest = checksum.compute(file)["blake2b"]
    return Rejected(file, file.lstat(), f"blake2b:{digest}", "because")


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
    with open(file.source.path, "ab") as more:
        more.write(b"more")
    ((_, error),) = area(places).quarantine([file])
    assert isinstance(error, checksum.Changed)
    assert files(places[0]) == {"d/a"}
    assert rows() == []


def test_two_files_of_one_name_in_one_batch_get_two_places(places):
    (places[1] / "d").mkdir()
    (places[1] / "d" / "a").write_bytes(b"there already")
    first, second = rejected(places), rejected(places, b"other", "d/a.~1~")
    assert area(places).quarantine([first, second]) == []
    assert files(places[1]) == {"d/a", "d/a.~1~", "d/a.~1~.~1~"}


@pytest.mark.parametrize("places", ["two file systems"], indirect=True)
def test_source_that_may_not_be_removed_leaves_no_copy(places, monkeypatch):
    source, root = places
    file = rejected(places)

    def unlink(entry, real=Entry.unlink):
        if entry.tree.path == str(source):
            raise PermissionError(1, "Operation not permitted")
        real(entry)

    monkeypatch.setattr(Entry, "unlink", unlink)
    ((_, error),) = area(places).quarantine([file])
    assert isinstance(error, PermissionError)
    assert (files(source), files(root), rows()) == ({"d/a"}, set(), [])


@pytest.mark.promise
@pytest.mark.parametrize(
    "step",
    [
        (Entry, "move_to"),
        (Tree, "sync_file_system"),
        (Tree, "require_same"),
        (os, "unlink"),
        (Quarantine, "arrived"),
    ],
)
def test_kill_at_any_step_is_finished_by_recovery(places, monkeypatch, step):
    source, root = places
    file = rejected(places)
    with monkeypatch.context() as patched:
        patched.setattr(*step, kill)
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

    def unlink(entry, real=Entry.unlink):
        real(entry)
        if entry.tree.path == str(source):
            raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Entry, "unlink", unlink)
    assert area(places).quarantine([file]) == []
    assert (files(source), files(root)) == (set(), {"d/a"})
    assert rows() == [(str(root / "d/a"), True)]


@pytest.mark.promise
@pytest.mark.parametrize("places", ["one file system"], indirect=True)
def test_file_that_cannot_be_looked_at_after_its_move_keeps_its_row(places, monkeypatch):
    source, root = places
    file = rejected(places)

    def broken_in_quarantine(entry, real=Entry.lstat):
        if entry.tree.path == str(root) and files(root):
            raise NotADirectoryError(errno.ENOTDIR, "Not a directory", entry.path)
        return real(entry)

    with monkeypatch.context() as patched:
        patched.setattr(Entry, "lstat", broken_in_quarantine)
        with pytest.raises(TryLater):
            area(places).quarantine([file])
    assert (files(source), files(root)) == (set(), {"d/a"})
    area(places).recover(must_refuse_none)
    assert rows() == [(str(root / "d/a"), True)]


@pytest.mark.promise
def test_file_whose_source_cannot_be_looked_at_afterwards_stays_in_quarantine(places, monkeypatch):
    source, root = places
    file = rejected(places)
    with monkeypatch.context() as patched:

        def sync(tree):
            patched.setattr(Entry, "lstat", broken)

        patched.setattr(Tree, "sync_file_system", sync)
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


@pytest.mark.promise
@pytest.mark.parametrize("where", ["source", "quarantine"])
def test_file_behind_a_link_is_not_taken_for_gone(places, monkeypatch, where):
    """Where it was copied, its original may be there still, and be removed only now."""
    source, root = places
    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr(QuarantineArea, "_remove_original", kill)
        area(places).quarantine([rejected(places)])
    with behind_a_link((source if where == "source" else root) / "d"):
        area(places).recover(must_refuse_none)
        assert [done for _, done in rows()] == [False]
    assert area(places).recover(must_refuse_none) == 1
    assert (files(source), files(root)) == (set(), {"d/a"})
    assert [done for _, done in rows()] == [True]


@pytest.mark.promise
def test_what_cannot_be_looked_at_does_not_keep_recovery_from_the_rest(places, monkeypatch):
    _, root = places
    killed = [rejected(places), rejected(places, b"other", "other")]
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
        patched.setattr(Tree, "sync_file_system", broken)
        with pytest.raises(TryLater, match=f"{root}: Input/output error"):
            area(places).quarantine([rejected(places)])
    area(places).recover(must_refuse_none)
    assert (files(source), files(root)) == (set(), {"d/a"})


def instead(monkeypatch, file, after=lambda: None):
    """Let somebody exchange the names of a file and another one just before it is moved."""

    def move_to(entry, destination, real=Entry.move_to):
        if entry == file.source and not entry.beside("ours").status():
            os.rename(entry.path, entry.beside("ours").path)
            with open(entry.path, "wb") as other:
                other.write(b"other content")
            real(entry, destination)
            after()
        else:
            real(entry, destination)

    monkeypatch.setattr(Entry, "move_to", move_to)


@pytest.mark.promise
@pytest.mark.parametrize("places", ["one file system"], indirect=True)
def test_what_was_moved_instead_of_a_file_goes_back(places, monkeypatch):
    source, root = places
    file = rejected(places)
    instead(monkeypatch, file)
    ((_, error),) = area(places).quarantine([file])
    assert isinstance(error, checksum.Changed)
    assert (files(source), files(root), rows()) == ({"d/a", "d/ours"}, set(), [])
    assert (source / "d/a").read_bytes() == b"other content"


@pytest.mark.promise
@pytest.mark.parametrize("places", ["one file system"], indirect=True)
@pytest.mark.parametrize("taken", [False, True])
def test_what_a_killed_pass_moved_instead_of_a_file_goes_back(places, monkeypatch, taken):
    source, root = places
    file = rejected(places)
    with monkeypatch.context() as patched, suppress(Killed):
        instead(patched, file, kill)
        area(places).quarantine([file])
    connect.disconnect()
    assert (files(source), files(root)) == ({"d/ours"}, {"d/a"})
    if taken:
        (source / "d/a").write_bytes(b"next")
    area(places).recover(must_refuse_none)
    assert files(source) == {"d/a", "d/ours", *(["d/a.~1~"] if taken else [])}
    assert (files(root), rows()) == (set(), [])


@pytest.mark.promise
@pytest.mark.parametrize("places", ["one file system"], indirect=True)
def test_a_file_that_got_the_place_of_one_that_vanished_stays_in_quarantine(places, monkeypatch):
    source, root = places
    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr(Entry, "move_to", kill)
        area(places).quarantine([rejected(places)])
    connect.disconnect()
    assert area(places).quarantine([rejected(places, b"the next one")]) == []
    area(places).recover(must_refuse_none)
    assert (files(source), files(root)) == (set(), {"d/a"})
    assert [there for _, there in rows()] == [True]


@pytest.mark.promise
@pytest.mark.parametrize("places", ["two file systems"], indirect=True)
def test_a_version_that_takes_the_place_of_a_copied_original_is_not_removed(places, monkeypatch):
    source, root = places
    file = rejected(places)

    def move_to(entry, destination, real=Entry.move_to):
        if entry == file.source and destination.tree is entry.tree:
            with open(entry.path, "wb") as written:
                written.write(b"the next version")
        real(entry, destination)

    monkeypatch.setattr(Entry, "move_to", move_to)
    assert area(places).quarantine([file]) == []
    assert (files(source), files(root)) == ({"d/a"}, {"d/a"})
    assert (source / "d/a").read_bytes() == b"the next version"


@pytest.mark.promise
@pytest.mark.parametrize("places", ["two file systems"], indirect=True)
def test_an_original_that_a_killed_pass_took_is_not_offered_under_another_name(places, monkeypatch):
    source, root = places
    file = rejected(places)
    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", kill)
        with pytest.raises(Killed):
            area(places).quarantine([file])
    connect.disconnect()
    (source / "d/a").write_bytes(b"the next version")
    area(places).recover(must_refuse_none)
    assert (files(source), files(root)) == ({"d/a"}, {"d/a"})
    assert (source / "d/a").read_bytes() == b"the next version"
    assert rows() == [(str(root / "d/a"), True)]


@pytest.mark.promise
@pytest.mark.parametrize("places", ["one file system"], indirect=True)
def test_a_directory_that_is_a_link_takes_and_gives_nothing(places, tmp_path):
    source, root = places
    file = rejected(places)
    (tmp_path / "elsewhere").mkdir()
    (root / "d").symlink_to(tmp_path / "elsewhere")
    ((_, error),) = area(places).quarantine([file])
    assert isinstance(error, NotADirectoryError)
    (root / "d").unlink()
    file.source.tree.forget()
    (source / "d").rename(tmp_path / "elsewhere" / "d")
    (source / "d").symlink_to(tmp_path / "elsewhere" / "d")
    ((_, error),) = area(places).quarantine([file])
    assert isinstance(error, NotADirectoryError)
    assert files(tmp_path / "elsewhere") == {"d/a"}
    assert (files(root), rows()) == (set(), [])
