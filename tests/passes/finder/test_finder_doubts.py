"""Where a finder must doubt what it sees: two paths to one file, storage that lost its copy, kills.

And the order of what it does: durable before it is recorded, recorded before an original goes.
"""

import os
import re
import subprocess
import sys
from contextlib import ExitStack
from datetime import timedelta
from functools import partial, partialmethod

import pytest

from dbbbatch.areas.storage import duplicates
from dbbbatch.areas.storage import store as storing
from dbbbatch.config import sections
from dbbbatch.config.fields import defaults
from dbbbatch.database import bulk, connect
from dbbbatch.database.models.file import File, FileRow
from dbbbatch.database.models.statuses import IngestStatus
from dbbbatch.files import checksum, identity, mounts, place, temporary
from dbbbatch.files import tree as tree_module
from dbbbatch.files.tree import Entry, Tree, outside
from dbbbatch.passes import runner
from dbbbatch.passes.auditor.work import AuditorWork
from dbbbatch.passes.backfill import BackfillWork
from dbbbatch.passes.finder import batch
from dbbbatch.passes.forget import forget
from tests.support.disks import path_of
from tests.support.finding import SENTINEL, Finding, tree
from tests.support.scripts import TOP
from tests.support.site import Site

pytestmark = pytest.mark.promise


@pytest.fixture
def finding(settings, tmp_path):
    return Finding(settings, tmp_path, retry_wait=0)


@pytest.fixture
def apart(settings, tmp_path, other_file_system):
    """A finder whose source is on another file system than storage."""
    return Finding(settings, tmp_path, other_file_system, retry_wait=0)


@pytest.fixture
def mount():
    """Mount something until the end of the test."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    with ExitStack() as mounted:

        def _mount(*arguments):
            done = subprocess.run(
                ["mount", *arguments], capture_output=True, text=True, check=False
            )
            if done.returncode:
                pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
            mounted.callback(subprocess.run, ["umount", "--lazy", arguments[-1]], check=True)

        yield _mount


AdoptWork = partial(AuditorWork, adopt=True)


class Killed(BaseException):
    """The process is no more."""


def kill(finding):
    """Make a pass that is killed."""
    with pytest.raises(Killed):
        finding.run()
    connect.disconnect()


def killed(*arguments, **keywords):
    raise Killed


def then_killed(real):
    """What is killed when it has done its work."""

    def function(*arguments, **keywords):
        real(*arguments, **keywords)
        raise Killed

    return function


def stored(finding, rel="a", content=b"data"):
    finding.put(rel, content)
    assert finding.run() == 0


def agrees(finding):
    """Every row is STORED and tells of its file, and every file has a row."""
    found = {}
    for relpath, filename, digest, status in finding.rows(
        "SELECT relpath, filename, checksum, status FROM file"
    ):
        rel = f"{relpath}/{filename}" if relpath else filename
        algorithm, wanted = checksum.parse(digest)
        assert status == "STORED"
        assert (
            checksum.compute(outside(str(finding.storage / rel)), [algorithm])[algorithm] == wanted
        )
        found[rel] = digest
    assert sorted(found) == sorted(tree(finding.storage))


# ---- two paths to one file -----------------------------------------------------------------------


@pytest.fixture
def overlaid(settings, tmp_path, mount):
    """A finder of which storage holds a file, and whose source is an overlay that writes there."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "none", disk)
    finding = Finding(settings, disk, retry_wait=0, max_attempts=2)
    stored(finding)
    for name in ("lower", "work"):
        (disk / name).mkdir()
    layers = f"lowerdir={disk}/lower,upperdir={finding.storage},workdir={disk}/work"
    mount("-t", "overlay", "overlay", "-o", layers, finding.source)
    assert tree(finding.source) == {"a": b"data"}
    return finding


@pytest.mark.parametrize("alternative", ["delete", "quarantine"])
def test_what_lies_below_an_overlay_is_not_a_duplicate_of_itself(overlaid, alternative, capsys):
    overlaid.change(alternative=alternative)
    for _ in range(3):
        assert overlaid.run() == 1
    assert tree(overlaid.storage) == {"a": b"data"}
    assert tree(overlaid.quarantine) == {}
    assert "a: source and storage lead to this same file" in capsys.readouterr().err


@pytest.mark.parametrize("cut_off", [False, True])
def test_stored_file_gets_its_name_back_if_nothing_shows_that_it_is_the_same(
    overlaid, monkeypatch, cut_off
):
    overlaid.change(alternative="delete")
    monkeypatch.setattr(identity, "may_be_same_file", lambda first, second: False)
    if cut_off:
        with monkeypatch.context() as patch:
            patch.setattr(duplicates, "_prove", killed)
            kill(overlaid)
        assert list(tree(overlaid.storage)) != ["a"]
    for _ in range(3):
        assert overlaid.run() == 1
        assert tree(overlaid.storage) == {"a": b"data"}
        assert tree(overlaid.quarantine) == {}
    assert overlaid.rows() == [("", "a", "STORED")]


@pytest.mark.parametrize("place_", ["before", "hidden", "proved", "after"])
def test_removal_of_a_duplicate_is_finished_after_a_kill(finding, monkeypatch, place_):
    finding.change(alternative="delete")
    stored(finding)
    finding.put("a")
    where, name, what = {
        "before": (duplicates, "act", killed),
        "hidden": (duplicates, "_prove", killed),
        "proved": (duplicates, "_prove", then_killed(duplicates._prove)),
        "after": (duplicates, "act", then_killed(duplicates.act)),
    }[place_]
    with monkeypatch.context() as patch:
        patch.setattr(where, name, what)
        kill(finding)
    assert finding.run() == 0
    assert tree(finding.source) == {}
    assert tree(finding.storage) == {"a": b"data"}
    assert finding.rows("SELECT * FROM finder_left") == []


def test_hidden_duplicate_whose_name_is_taken_by_then_is_lost_neither(finding, monkeypatch):
    finding.change(alternative="delete")
    stored(finding)
    finding.put("a")
    with monkeypatch.context() as patch:
        patch.setattr(duplicates, "_prove", killed)
        kill(finding)
    finding.put("a", b"other")
    (finding.storage / "a").write_bytes(b"rotten")
    assert finding.run() == 1
    assert tree(finding.quarantine) == {"a": b"other"}
    assert tree(finding.storage) == {"a": b"rotten", "a.~1~": b"data"}


@pytest.mark.parametrize("alternative", ["none", "delete", "quarantine"])
def test_source_that_leads_into_storage_is_refused(finding, alternative, capsys):
    stored(finding)
    os.rmdir(finding.source)
    finding.source.symlink_to(finding.storage)
    finding.change(alternative=alternative)
    assert finding.run() == 78
    assert "leads into" in capsys.readouterr().err
    assert sorted(os.listdir(finding.storage)) == [SENTINEL, "a"]
    assert tree(finding.quarantine) == {}


@pytest.mark.parametrize("inner", ["source", "storage"])
def test_one_may_not_lie_in_the_other_by_another_path(finding, inner, tmp_path):
    inner = getattr(finding, inner)
    outer = finding.storage if inner == finding.source else finding.source
    (outer / "below").mkdir()
    (outer / "below" / SENTINEL).touch()
    (tmp_path / "link").symlink_to(outer)
    for path in inner.iterdir():
        path.unlink()
    inner.rmdir()
    inner.symlink_to(tmp_path / "link" / "below")
    (finding.storage / SENTINEL).touch()
    finding.put("a")
    assert finding.run() == 78


def test_source_that_is_storage_by_a_bind_mount_is_refused(finding, mount):
    mount("--bind", finding.storage, finding.source)
    finding.put("a")
    assert finding.run() == 78
    assert tree(finding.storage) == {"a": b"data"}


@pytest.mark.parametrize("alternative", ["none", "delete", "quarantine"])
def test_directory_of_storage_that_leads_into_the_source_is_left_alone(
    finding, alternative, capsys
):
    finding.put("2026/a")
    os.symlink(finding.source / "2026", finding.storage / "2026")
    finding.change(alternative=alternative, max_attempts=2)
    for _ in range(3):
        assert finding.run() == 1
    assert f"2026/a: {finding.storage}/2026 leads into" in capsys.readouterr().err
    assert tree(finding.source) == {"2026/a": b"data"}
    assert finding.rows() == []


@pytest.mark.parametrize(
    ("inner", "outer"), [("storage/night one", "source"), ("source/night one", "storage")]
)
def test_mount_of_a_directory_of_the_one_as_the_other_is_refused(
    finding, mount, tmp_path, inner, outer, capsys
):
    (tmp_path / inner).mkdir()
    if outer == "storage":
        (tmp_path / inner / SENTINEL).touch()
    mount("--bind", tmp_path / inner, tmp_path / outer)
    path = finding.put("a", where=tmp_path / inner)
    assert finding.run() == 78
    assert "leads into" in capsys.readouterr().err
    assert path.exists()


@pytest.mark.parametrize("by", ["a mount", "a link"])
def test_directory_that_leads_from_the_one_into_the_other_is_left_alone(finding, mount, by, capsys):
    """Stored files would be moved away under the directory's other name."""
    stored(finding, "y/a")
    if by == "a mount":
        (finding.source / "x").mkdir()
        mount("--bind", finding.storage / "y", finding.source / "x")
        expected = {"y/a": b"data"}
    else:
        finding.put("y/b")
        (finding.storage / "x").symlink_to(finding.source / "y")
        finding.put("x/a")
        expected = {"y/a": b"data", "y/b": b"data"}
    for _ in range(2):
        assert finding.run() == 1
    assert "leads into" in capsys.readouterr().err
    assert tree(finding.storage) == expected


def test_part_of_storage_that_is_not_mounted_takes_nothing(finding, capsys):
    """Its mount would hide what came, and the original is gone."""
    for name in ("2026/a", "2026/b", "2026/night/c", "2026/night/d"):
        stored(finding, name)
    (finding.storage / "2026").rename(finding.storage.parent / "away")
    (finding.storage / "2026").mkdir()
    finding.put("2026/next night/e")
    finding.put("2027/f")
    for _ in range(2):
        assert finding.run() == 75
    assert f"{finding.storage}/2026: not there or empty" in capsys.readouterr().err
    assert tree(finding.source) == {"2026/next night/e": b"data"}
    assert tree(finding.storage) == {"2027/f": b"data"}
    (finding.storage / "2026").rmdir()
    (finding.storage.parent / "away").rename(finding.storage / "2026")
    assert finding.run() == 0
    agrees(finding)


def test_directory_of_storage_that_lost_a_few_files_takes_what_comes(finding):
    stored(finding, "2026/a")
    (finding.storage / "2026/a").unlink()
    stored(finding, "2026/b")
    assert tree(finding.storage) == {"2026/b": b"data"}


# ---- originals that stayed -----------------------------------------------------------------------


def refused(source, path, *more, real, **keywords):
    if path_of(path, keywords) == str(source):
        raise PermissionError(1, "Operation not permitted")
    return real(path, *more, **keywords)


def staying(entry, path, destination, *, real):
    """Refuse to move a file."""
    if entry.path == str(path):
        raise PermissionError(1, "Operation not permitted")
    real(entry, destination)


@pytest.fixture
def left(apart, monkeypatch):
    """A finder that stored a copy and could not remove the original."""
    path = apart.put("a")
    with monkeypatch.context() as patch:
        patch.setattr(Entry, "move_to", partialmethod(staying, path, real=Entry.move_to))
        apart.run()
    assert apart.rows("SELECT verdict FROM finder_left") == [("MOVED",)]
    assert tree(apart.source) == tree(apart.storage) == {"a": b"data"}
    return apart


def test_original_is_removed_where_nothing_can_be_renamed_without_overwriting(apart, monkeypatch):
    apart.put("a")

    def refused(entry, destination, real=Entry.move_to):
        if entry.tree.path == destination.tree.path == str(apart.source):
            raise tree_module.refusal(destination.path)
        real(entry, destination)

    monkeypatch.setattr(Entry, "move_to", refused)
    assert apart.run() == 0
    assert (tree(apart.source), tree(apart.storage)) == ({}, {"a": b"data"})


def test_original_is_removed_when_it_can_be(left):
    assert left.run() == 0
    assert tree(left.source) == {}
    assert left.rows("SELECT * FROM finder_left") == []


@pytest.mark.parametrize("status", ["STORED", "MISSING", "FORGOTTEN"])
def test_original_returns_to_storage_that_lost_its_copy(left, status):
    (left.storage / "a").unlink()
    left.change_rows("UPDATE file SET status = ?", [status])
    left.run()
    left.run()
    assert tree(left.storage) == {"a": b"data"}
    assert left.rows() == [("", "a", "STORED")]


@pytest.mark.parametrize("status", ["MISSING", "CORRUPT", "QUARANTINED", "FORGOTTEN"])
def test_original_is_kept_while_the_stored_copy_is_not_stored_by_the_table(left, status):
    left.change_rows("UPDATE file SET status = ?", [status])
    left.run()
    assert [*tree(left.source).values(), *tree(left.quarantine).values()] == [b"data"]


@pytest.mark.parametrize("content", [b"DATA", b"longer than it was"])
def test_original_is_kept_if_the_stored_copy_is_not_right(left, content):
    (left.storage / "a").write_bytes(content)
    left.run()
    assert sorted([*tree(left.source).values(), *tree(left.quarantine).values()]) == [b"data"]


def test_original_is_kept_if_its_row_tells_of_other_content_by_now(left):
    (left.storage / "a").write_bytes(b"corrected")
    digest = checksum.compute(outside(str(left.storage / "a")))["blake2b"]
    left.change_rows("UPDATE file SET size_bytes = 9, checksum = ?", [f"blake2b:{digest}"])
    left.run()
    assert tree(left.quarantine) == {"a": b"data"}


def test_original_that_stays_is_kept_in_mind_though_the_file_failed_before(apart, monkeypatch):
    path = apart.put("a")
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", partial(refused, path, real=os.open))
        assert apart.run() == 1
    with monkeypatch.context() as patch:
        patch.setattr(Entry, "move_to", partialmethod(staying, path, real=Entry.move_to))
        apart.run()
    assert apart.rows("SELECT verdict FROM finder_left") == [("MOVED",)]
    apart.run()
    assert tree(apart.source) == {}


# ---- several mounts ------------------------------------------------------------------------------


def exdev(finding, monkeypatch):
    """Let no rename lead from source to storage."""

    def moved(source, destination, real=Entry.move_to):
        if source.path.startswith(f"{finding.source}/") and destination.path.startswith(
            f"{finding.storage}/"
        ):
            raise OSError(18, "Invalid cross-device link")
        real(source, destination)

    monkeypatch.setattr(Entry, "move_to", moved)


def test_file_that_no_rename_brings_to_storage_is_copied(finding, monkeypatch):
    exdev(finding, monkeypatch)
    finding.change(file_mode=0o440)
    finding.put("2026/a")
    finding.put("b", b"")
    assert finding.run() == 0
    assert tree(finding.source) == {}
    assert tree(finding.storage) == {"2026/a": b"data", "b": b""}
    assert (finding.storage / "2026/a").stat().st_mode & 0o777 == 0o440
    agrees(finding)


@pytest.mark.parametrize("at", ["copied", "placed"])
def test_copy_for_want_of_a_rename_may_be_killed(finding, monkeypatch, at):
    exdev(finding, monkeypatch)
    finding.put("a")
    with monkeypatch.context() as patch:
        if at == "copied":
            patch.setattr(place, "sync_file", killed)
        else:
            patch.setattr(storing, "_as_placed", killed)
        kill(finding)
    assert finding.run() == 0
    assert tree(finding.source) == {}
    assert tree(finding.storage) == {"a": b"data"}
    agrees(finding)


def test_file_that_changes_while_it_is_copied_for_want_of_a_rename_is_left(finding, monkeypatch):
    exdev(finding, monkeypatch)
    path = finding.put("a")
    look = path.stat()

    def beside(*arguments, real=place.copy_beside, **keywords):
        path.write_bytes(b"DATA")
        os.utime(path, ns=(look.st_atime_ns, look.st_mtime_ns))
        return real(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(place, "copy_beside", beside)
        assert finding.run() == 0
    assert tree(finding.source) == {"a": b"DATA"}
    assert tree(finding.storage) == {}
    assert finding.rows() == []


def test_two_mounts_of_one_file_system(settings, tmp_path, mount):
    for name in ("source", "storage"):
        (tmp_path / f"real {name}").mkdir()
        (tmp_path / name).mkdir()
        mount("--bind", tmp_path / f"real {name}", tmp_path / name)
    assert not mounts.same_file_system(str(tmp_path / "source"), str(tmp_path / "storage"))
    finding = Finding(settings, tmp_path)
    finding.put("a")
    assert finding.run() == 0
    assert tree(finding.source) == {}
    agrees(finding)


def test_directory_of_storage_that_is_a_bind_mount(finding, tmp_path, mount):
    for path in (tmp_path / "elsewhere", finding.storage / "2026"):
        path.mkdir()
    mount("--bind", tmp_path / "elsewhere", finding.storage / "2026")
    finding.put("2026/a")
    assert finding.run() == 0
    assert tree(finding.source) == {}
    agrees(finding)


@pytest.mark.parametrize("source", ["same", "other"])
def test_directory_of_storage_that_is_a_file_system_is_synced_before_an_original_goes(
    settings, tmp_path, other_file_system, mount, monkeypatch, source
):
    finding = Finding(settings, tmp_path, other_file_system if source == "other" else None)
    (finding.storage / "2026").mkdir()
    mount("-t", "tmpfs", "none", finding.storage / "2026")
    paths = [finding.put("2026/a"), finding.put("b", b"other")]
    steps = record(finding, monkeypatch)
    # What is seen to be apart is not read twice.
    monkeypatch.setattr(storing, "_copy", None)
    assert finding.run() == 0
    assert tree(finding.source) == {}
    agrees(finding)
    wanted = {("sync", os.stat(finding.storage / rel).st_dev) for rel in ("2026", ".")}
    done = steps.index("STORED")
    assert wanted <= set(steps[steps.index("ARRIVING") : done])
    for path in paths:
        gone = ("unlink", hidden(path, str(path.relative_to(finding.source))))
        if gone in steps:
            assert steps.index(gone) > done


# ---- the order of what is done -------------------------------------------------------------------


def record(finding, monkeypatch):
    """Record syncs, by device, transactions, by the statuses then, and unlinks, by path."""
    steps = []

    def sync(descriptor, real=tree_module.sync_everything):
        steps.append(("sync", os.fstat(descriptor).st_dev))
        real(descriptor)

    def write(function, *arguments, real=connect.write, **named):
        result = real(function, *arguments, **named)
        statuses = connect.execute("SELECT DISTINCT status FROM file").fetchall()
        steps.extend(status for (status,) in statuses)
        return result

    def unlink(path, real=os.unlink, **keywords):
        steps.append(("unlink", path_of(path, keywords)))
        real(path, **keywords)

    def moved(source, destination, real=Entry.move_to):
        steps.append(("place", destination.path))
        real(source, destination)

    monkeypatch.setattr(tree_module, "sync_everything", sync)
    monkeypatch.setattr(connect, "write", write)
    monkeypatch.setattr(os, "unlink", unlink)
    monkeypatch.setattr(Entry, "move_to", moved)
    return steps


def in_order(steps, *wanted):
    """Demand that these steps come one after the other, among others."""
    rest = iter(steps)
    for step in wanted:
        assert step in rest, f"{step} does not follow in {steps}"


def removed_below(directory, steps):
    """Return the one step that removed a file of a directory, which may have had a hidden name."""
    (removed,) = [step for step in steps if step[0] == "unlink" and is_in(directory, step[1])]
    return removed


def is_in(directory, path):
    return os.path.dirname(path) == str(directory)


def hidden(path, rel=None):
    """Return the name under which an original is removed."""
    return temporary.hidden_path(str(path), "removing", "finder.latiss", rel or path.name)


def device(path):
    return os.stat(path).st_dev


def test_renamed_file_is_durable_before_it_is_recorded(finding, monkeypatch):
    finding.put("a")
    steps = record(finding, monkeypatch)
    finding.run()
    path = str(finding.storage / "a")
    in_order(steps, "ARRIVING", ("place", path), ("sync", device(finding.storage)), "STORED")


def test_copy_is_durable_before_its_intent_and_recorded_before_the_original_goes(
    apart, monkeypatch
):
    source = apart.put("a")
    steps = record(apart, monkeypatch)
    apart.run()
    sync = ("sync", device(apart.storage))
    path = str(apart.storage / "a")
    gone = ("unlink", hidden(source))
    in_order(steps, sync, "ARRIVING", ("place", path), sync, "STORED", gone)


def test_file_of_a_killed_pass_is_durable_before_it_is_recorded(apart, monkeypatch):
    source = apart.put("a")
    with monkeypatch.context() as patch:
        patch.setattr(storing, "_as_placed", killed)
        kill(apart)
    steps = record(apart, monkeypatch)
    apart.run()
    in_order(steps, ("sync", device(apart.storage)), "STORED", ("unlink", hidden(source)))
    assert tree(apart.source) == {}


def test_file_that_is_adopted_is_durable_before_it_is_recorded(finding, monkeypatch):
    stored(finding)
    finding.change_rows("DELETE FROM file")
    finding.put("a")
    steps = record(finding, monkeypatch)
    finding.run()
    in_order(steps, ("sync", device(finding.storage)), "STORED")


def other_content(apart):
    """A finder across file systems, and a file that goes to quarantine."""
    stored(apart)
    return apart.put("a", b"other")


def test_quarantined_copy_is_durable_before_the_original_goes(apart, monkeypatch):
    source = other_content(apart)
    steps = record(apart, monkeypatch)
    assert apart.run() == 1
    in_order(steps, ("sync", device(apart.quarantine)), removed_below(source.parent, steps))


def test_quarantined_copy_of_a_killed_pass_is_durable_before_the_original_goes(apart, monkeypatch):
    source = other_content(apart)

    def sync(root, rel="", real=Tree.sync_file_system):
        if root.path == str(apart.quarantine):
            raise Killed
        real(root, rel)

    with monkeypatch.context() as patch:
        patch.setattr(Tree, "sync_file_system", sync)
        kill(apart)
    steps = record(apart, monkeypatch)
    apart.run()
    in_order(steps, ("sync", device(apart.quarantine)), removed_below(source.parent, steps))
    assert tree(apart.quarantine) == {"a": b"other"}


# ---- kills ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"data and more", b"DATA", b"d"])
def test_file_that_was_written_to_between_reading_and_placing_is_recorded_after_a_kill(
    finding, monkeypatch, content
):
    finding.change(checksums=("md5",))
    path = finding.put("a")

    def written(file, real=storing._renamed):
        path.write_bytes(content)
        real(file)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(storing, "_renamed", written)
        kill(finding)
    assert finding.run() == 0
    assert tree(finding.storage) == {"a": content}
    agrees(finding)
    md5 = checksum.compute(outside(str(finding.storage / "a")), ["md5"])["md5"]
    assert finding.rows("SELECT value FROM file_checksum") == [(md5,)]


#: What gets the name of a file after that was read, and whether it may stay in storage.
GOT_NAME = {
    "rewritten": True,
    "replaced": True,
    "a link": False,
    "a directory": False,
    "another owner": False,
    "replaced by an unreadable one": False,
}


def gets_name(finding, what):
    """Let something else get the name of a file that was read."""
    path, other = finding.source / "a", finding.quarantine / "other"
    if what == "rewritten":
        path.write_bytes(b"the next version")
        return
    if what == "a link":
        other.symlink_to("/etc/passwd")
    elif what == "a directory":
        other.mkdir()
        (other / "b").write_bytes(b"the next version")
        path.unlink()
    else:
        other.write_bytes(b"the next version")
    if what == "another owner":
        if os.geteuid() != 0:
            pytest.skip("only root can give files away")
        os.chown(other, 65534, 65534)
    os.rename(other, path)


def has_row_for_each(finding):
    """Storage holds nothing without a row."""
    known = {filename for _, filename, _ in finding.rows()}
    assert set(os.listdir(finding.storage)) <= {SENTINEL, *known}


@pytest.mark.parametrize("how", ["killed", "refused", "killed and refused"])
@pytest.mark.parametrize("what", GOT_NAME)
def test_what_got_the_name_of_a_file_after_it_was_read_is_recorded_or_goes_back(
    finding, monkeypatch, capsys, what, how
):
    finding.put("a")

    def renamed(file, real=storing._renamed):
        gets_name(finding, what)
        result = real(file)
        if "killed" in how:
            raise Killed
        return result

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied")

    def unreadable(file, *more, real=checksum.compute):
        if str(file.path).startswith(str(finding.storage)):
            raise OSError(5, "Input/output error", file.path)
        return real(file, *more)

    with monkeypatch.context() as patch:
        if "refused" in how:
            patch.setattr(place, "place_versioned", refuse)
        if "unreadable" in what:
            patch.setattr(checksum, "compute", unreadable)
        with monkeypatch.context() as first:
            first.setattr(storing, "_renamed", renamed)
            kill(finding) if "killed" in how else finding.run()
        has_row_for_each(finding)
        for _ in range(2 * ("refused" in how)):
            assert finding.run() == (0 if GOT_NAME[what] else 1)
            has_row_for_each(finding)
            assert finding.rows() == [("", "a", "STORED" if GOT_NAME[what] else "ARRIVING")]
        told = "cannot be moved back to the source: Permission denied" in capsys.readouterr().err
        assert told == ("refused" in how and not GOT_NAME[what])
    assert finding.run() == 0
    assert "look below its mount point" not in capsys.readouterr().err
    agrees(finding)
    if what == "a link":
        assert (finding.source / "a").is_symlink()
        assert finding.rows() == []
    else:
        assert list(tree(finding.storage).values()) == [b"the next version"]
        assert tree(finding.source) == {}


def killed_before_it_is_placed(finding, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(storing, "_renamed", killed)
        kill(finding)


@pytest.mark.parametrize("what", ["a file", "a link"])
def test_what_came_to_storage_otherwise_after_a_kill_is_left_alone(finding, monkeypatch, what):
    finding.put("a")
    killed_before_it_is_placed(finding, monkeypatch)
    if what == "a file":
        finding.put("a", b"somebody's", finding.storage)
    else:
        (finding.storage / "a").symlink_to("/etc/passwd")
    before = (finding.storage / "a").lstat()
    assert finding.run() == 1
    assert (finding.storage / "a").lstat() == before
    assert finding.rows() == []
    assert tree(finding.quarantine) == {"a": b"data"}


@pytest.mark.parametrize("came", ["by a rename", "otherwise"])
def test_what_may_have_come_to_storage_otherwise_is_told_until_one_of_two_is_moved_away(
    finding, monkeypatch, capsys, came
):
    """The source has yet another version by then."""
    finding.put("a")

    def renamed(file, real=storing._renamed):
        gets_name(finding, "replaced")
        if came == "by a rename":
            real(file)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(storing, "_renamed", renamed)
        kill(finding)
    third = finding.put("third", b"the third version", finding.quarantine)
    os.rename(third, finding.source / "a")
    if came == "otherwise":
        finding.put("a", b"somebody's", finding.storage)
    before = tree(finding.storage)
    for _ in range(2):
        assert finding.run() == 1
        assert tree(finding.storage) == before
        assert tree(finding.source) == {"a": b"the third version"}
        assert finding.rows() == [("", "a", "ARRIVING")]
    assert "nothing shows how it came there" in capsys.readouterr().err
    if came == "otherwise":
        (finding.storage / "a").unlink()
        assert finding.run() == 0
        assert tree(finding.storage) == {"a": b"the third version"}
    else:
        os.rename(finding.source / "a", finding.source / "c")
        assert finding.run() == 0
        assert tree(finding.storage) == before | {"c": b"the third version"}
    agrees(finding)


def test_what_is_no_copy_of_a_file_that_has_gone_since_is_left_alone_and_told(
    apart, monkeypatch, capsys
):
    path = apart.put("a")
    with monkeypatch.context() as patch:
        patch.setattr(place, "place_copy", killed)
        kill(apart)
    path.unlink()
    apart.put("a", b"somebody's", apart.storage)
    for _ in range(2):
        assert apart.run() == 1
        assert tree(apart.storage) == {"a": b"somebody's"}
        assert apart.rows() == [("", "a", "ARRIVING")]
    assert "nothing shows how it came there" in capsys.readouterr().err
    os.rename(apart.storage / "a", apart.storage.parent / "away")
    apart.put("a", b"somebody's")
    assert apart.run() == 0
    agrees(apart)


def test_directory_with_stored_files_is_not_moved_to_the_source(
    settings, tmp_path, finding, monkeypatch
):
    path = finding.put("2026", b"data")
    killed_before_it_is_placed(finding, monkeypatch)
    path.unlink()
    other = Finding(settings, tmp_path, tmp_path / "other source")
    other.change(name="other")
    stored(other, "2026/a")
    assert finding.run() == 1
    assert tree(finding.storage) == {"2026/a": b"data"}
    assert tree(finding.source) == {}


def test_file_of_a_killed_pass_that_belongs_to_another_user_by_now_becomes_ours(
    finding, monkeypatch
):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    finding.put("a")
    with monkeypatch.context() as patch:
        patch.setattr(storing, "_as_placed", killed)
        kill(finding)
    os.chown(finding.storage / "a", 65534, 65534)
    assert finding.run() == 0
    assert (finding.storage / "a").stat().st_uid == 0
    agrees(finding)


def test_copy_of_a_killed_pass_by_another_user_is_stored(apart, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    apart.put("a")
    with monkeypatch.context() as patch:
        patch.setattr(storing, "_as_placed", killed)
        kill(apart)
    os.chown(apart.storage / "a", 65534, 65534)
    assert apart.run() == 0
    assert tree(apart.source) == {}
    agrees(apart)


def test_file_that_was_written_to_and_had_both_its_names_when_killed_is_recorded(
    finding, monkeypatch
):
    path = finding.put("a")

    def linked(file):
        path.write_bytes(b"data and more")
        os.link(file.source.path, file.destination.path)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(storing, "_renamed", linked)
        kill(finding)
    assert finding.run() == 0
    assert tree(finding.source) == {}
    assert tree(finding.storage) == {"a": b"data and more"}
    agrees(finding)


def test_further_checksums_are_of_what_a_file_was_when_it_was_placed(finding, monkeypatch):
    finding.change(checksums=("md5",))
    path = finding.put("a")

    def written(file, real=storing._renamed):
        path.write_bytes(b"more")
        return real(file)

    monkeypatch.setattr(storing, "_renamed", written)
    assert finding.run() == 0
    md5 = checksum.compute(outside(str(finding.storage / "a")), ["md5"])["md5"]
    assert finding.rows("SELECT value FROM file_checksum") == [(md5,)]


def test_file_that_is_still_written_to_after_a_kill_goes_back(finding, monkeypatch):
    path = finding.put("a")

    def written(file, real=storing._renamed):
        path.write_bytes(b"longer")
        real(file)
        raise Killed

    def compute(source, *more, real=checksum.compute):
        raise checksum.Changed(11, "the file changed while it was read", source)

    with monkeypatch.context() as patch:
        patch.setattr(storing, "_renamed", written)
        kill(finding)
        patch.undo()
        patch.setattr(checksum, "compute", compute)
        patch.setattr(batch.FinderBatch, "store", lambda self: None)
        finding.run()
    assert tree(finding.source) == {"a": b"longer"}
    assert tree(finding.storage) == {}
    assert finding.rows() == []
    assert finding.run() == 0
    agrees(finding)


def test_intent_below_what_is_a_file_now_is_taken_back(finding):
    with finding.database():
        row = FileRow("d", "a", 4, "blake2b:00", 0, 0)
        connect.write(lambda: File.intend(str(finding.storage), "latiss", [row]))
    (finding.storage / "d").write_bytes(b"")
    finding.put("z")
    assert finding.run() == 0
    assert finding.rows() == [("", "z", "STORED")]


def test_file_that_leaves_storage_before_it_is_adopted_is_stored_next(finding, monkeypatch):
    finding.put("a")
    finding.put("a", where=finding.storage)
    finding.put("b", b"other")

    def gone(self, orphans, real=batch.FinderBatch._adopt):
        (finding.storage / "a").unlink()
        return real(self, orphans)

    with monkeypatch.context() as patch:
        patch.setattr(batch.FinderBatch, "_adopt", gone)
        assert finding.run() == 0
    assert finding.rows() == [("", "b", "STORED")]
    assert finding.run() == 0
    agrees(finding)


def test_copy_of_what_another_finder_stores_first_is_removed(apart, monkeypatch):
    apart.put("a")

    def busy(area, files, real=storing._record_intents):
        row = FileRow("", "a", 4, "blake2b:00", 0, 0)
        File.intend(area.section.storage, "other", [row])
        return real(area, files)

    monkeypatch.setattr(storing, "_record_intents", busy)
    apart.run()
    assert tree(apart.storage) == {}
    assert tree(apart.source) == {"a": b"data"}


# ---- rows of others ------------------------------------------------------------------------------


def elsewhere(finding):
    """Make a pass in another process."""
    pid = os.fork()
    if pid == 0:
        code = 99
        try:
            connect.disconnect()
            code = finding.run()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("status", ["STORED", "MISSING", "FORGOTTEN"])
def test_row_that_another_finder_brought_up_to_date_meanwhile_stays_right(
    settings, tmp_path, monkeypatch, status
):
    one = Finding(settings, tmp_path, tmp_path / "source 1")
    two = Finding(settings, tmp_path, tmp_path / "source 2")
    two.change(name="other")
    stored(one, "x")
    (one.storage / "x").unlink()
    one.change_rows("UPDATE file SET status = ?", [status])
    one.put("x")
    two.put("x", b"other content" if status == "FORGOTTEN" else b"data")
    before = []

    def store(area, arrivals, real=storing.store):
        if not before:
            before.append(area)
            elsewhere(one)
        return real(area, arrivals)

    monkeypatch.setattr(storing, "store", store)
    assert two.run() == 0
    assert tree(two.storage) == {"x": b"data"}
    agrees(two)
    assert one.rows("SELECT finder, error, was FROM file") == [("latiss", None, None)]


@pytest.mark.parametrize("stale", [{"status": "FORGOTTEN"}, {"checksum": "blake2b:00"}])
def test_row_that_was_not_seen_as_it_is_is_left_as_it_is(finding, stale):
    stored(finding)
    before = finding.rows("SELECT * FROM file")
    with finding.database():
        known = File.known(str(finding.storage), [("", "a")])[("", "a")]._replace(**stale)
        row = FileRow("", "a", 9, "blake2b:11", 0, 0)
        connect.write(File.intend_again, "other", [(known, row)])
    assert finding.rows("SELECT * FROM file") == before


def test_row_is_what_it_was_if_the_file_did_not_come(finding, monkeypatch):
    stored(finding)
    (finding.storage / "a").unlink()
    finding.change_rows("UPDATE file SET status = 'FORGOTTEN', error = 'why', finder = 'old'")
    before = finding.rows("SELECT * FROM file")
    path = finding.put("a", b"new content")

    def gone(*arguments, real=storing.intend):
        found = real(*arguments)
        path.unlink()
        return found

    monkeypatch.setattr(storing, "intend", gone)
    finding.run()
    assert finding.rows("SELECT * FROM file") == before


def test_intents_of_a_finder_that_no_longer_exists_are_reported_once(finding, capsys):
    finding.put("a")
    with finding.database():
        row = FileRow("", "a", 4, "blake2b:00", 0, 0)
        connect.write(lambda: File.intend(str(finding.storage), "old", [row]))
    assert finding.run() == 0
    said = capsys.readouterr().err
    assert "finder.old: 1 file waits for it" in said
    assert "[finder.old]" in said
    assert finding.run() == 0
    assert capsys.readouterr().err == ""
    # What it says helps.
    finding.change(name="old")
    finding.run()
    finding.change(name="latiss")
    finding.run()
    agrees(finding)


@pytest.mark.parametrize(
    ("ago", "told"),
    # The time of a clock that was ahead proves nothing.
    [(timedelta(hours=1), False), (timedelta(days=3), True), (timedelta(days=-300000), True)],
)
def test_finder_that_makes_passes_is_not_reported(finding, capsys, ago, told):
    other = Finding(finding.settings, finding.storage.parent, finding.storage.parent / "other")
    other.change(name="other")
    other.run()
    finding.put("a")
    with finding.database():
        row = FileRow("", "a", 4, "blake2b:00", 0, 0)
        connect.write(lambda: File.intend(str(finding.storage), "other", [row]))
        started = connect.now() - ago
        connect.write(
            lambda: connect.execute(
                "UPDATE run SET started = ? WHERE name = 'other'", [bulk.time_value(started)]
            )
        )
    finding.run()
    assert ("finder.other: 1 file waits for it" in capsys.readouterr().err) == told


# ---- what comes back -----------------------------------------------------------------------------


def forgotten(finding):
    (finding.storage / "a").unlink()
    with finding.database():
        forget("archive", finding.finder, "a", False, "it was wrong")


@pytest.mark.parametrize(
    ("status", "content", "becomes"),
    [
        ("UNTRIED", b"corrected", "RERUN"),
        ("UNTRIED", b"data", "RERUN"),
        ("SUCCESS", b"corrected", "RERUN"),
        ("SUCCESS", b"data", "SUCCESS"),
        ("IGNORED", b"corrected", "IGNORED"),
    ],
)
@pytest.mark.parametrize("cut_off", [False, True])
def test_what_comes_back_after_it_was_forgotten_is_offered(
    finding, monkeypatch, status, content, becomes, cut_off
):
    finding.add_target("one")
    stored(finding)
    finding.change_rows("UPDATE ingest_state SET status = ?", [status])
    forgotten(finding)
    finding.put("a", content)
    if cut_off:
        with monkeypatch.context() as patch:
            patch.setattr(storing, "_as_placed", killed)
            kill(finding)
    assert finding.run() == 0
    assert finding.rows("SELECT status FROM ingest_state") == [(becomes,)]
    agrees(finding)


@pytest.mark.parametrize(("content", "parts"), [(b"corrected", ""), (b"data", '["raw"]')])
def test_parts_done_are_of_the_content_that_comes_back(finding, content, parts):
    finding.add_target("one")
    stored(finding)
    finding.change_rows("UPDATE ingest_state SET status = 'FAILURE', parts_done = '[\"raw\"]'")
    forgotten(finding)
    finding.put("a", content)
    assert finding.run() == 0
    assert finding.rows("SELECT status, parts_done FROM ingest_state") == [("RERUN", parts)]


def test_what_comes_back_into_storage_by_another_way_is_offered_too(finding):
    finding.add_target("one")
    stored(finding)
    finding.change_rows("UPDATE ingest_state SET status = 'SUCCESS'")
    forgotten(finding)
    finding.put("a", b"corrected", finding.storage)
    finding.put("a", b"corrected")
    assert finding.run() == 0
    assert finding.rows("SELECT status FROM ingest_state") == [("RERUN",)]


@pytest.mark.parametrize(
    "work", [BackfillWork, partial(BackfillWork, becomes=IngestStatus.UNTRIED), AdoptWork]
)
def test_what_is_recorded_where_it_is_after_it_was_forgotten_is_offered_too(finding, work):
    finding.add_target("one")
    finding.add_target("two")
    stored(finding)
    finding.change_rows("UPDATE ingest_state SET status = 'SUCCESS' WHERE target_id = 1")
    forgotten(finding)
    finding.put("a", b"corrected", finding.storage)
    made = work(finding.finder)
    assert runner.run_pass(made, finding.settings, finding.finder, runner.Options()) == 0
    assert finding.rows("SELECT status FROM ingest_state") == [("RERUN",), ("RERUN",)]
    agrees(finding)


@pytest.fixture
def twice(finding):
    """A finder that left a duplicate in its source."""
    stored(finding)
    stored(finding)
    assert finding.rows("SELECT verdict FROM finder_left") == [("DUPLICATE",)]
    return finding


def test_duplicate_that_was_left_returns_when_storage_loses_its_file(twice):
    (twice.storage / "a").unlink()
    twice.change_rows("UPDATE file SET status = 'MISSING'")
    assert twice.run() == 0
    assert tree(twice.source) == {}
    assert twice.rows("SELECT * FROM finder_left") == []
    agrees(twice)


def test_file_that_was_missing_and_is_there_is_stored_again(twice):
    twice.change_rows("UPDATE file SET status = 'MISSING'")
    assert twice.run() == 0
    agrees(twice)


@pytest.mark.parametrize("alternative", ["delete", "quarantine"])
def test_duplicate_that_was_left_is_dealt_with_when_the_configuration_says_so(twice, alternative):
    twice.change(alternative=alternative)
    twice.run()
    assert tree(twice.source) == {}
    assert len(tree(twice.quarantine)) == (alternative == "quarantine")


def test_duplicates_that_are_left_cost_no_statement_each(finding, monkeypatch):
    for number in range(50):
        finding.put(str(number), str(number).encode())
    finding.run()
    for number in range(50):
        finding.put(str(number), str(number).encode())
    finding.run()
    count = []
    monkeypatch.setattr(
        connect, "read", lambda *arguments, real=connect.read: count.append(1) or real(*arguments)
    )
    finding.run()
    assert len(count) < 20


# ---- odd things ----------------------------------------------------------------------------------


def test_what_tells_storage_is_no_file_to_be_stored(finding, capsys):
    finding.add_target()
    finding.put(SENTINEL, b"")
    assert finding.run() == 0
    assert finding.rows() == []
    assert f"{SENTINEL}: has the name by which storage is known" in capsys.readouterr().err
    assert (finding.source / SENTINEL).exists()
    finding.run()
    assert capsys.readouterr().err == ""


def test_name_that_begins_as_ours_do_is_reported_if_it_is_not_ours(finding, capsys):
    finding.put(".dbb~important.fits")
    ours = finding.put("2026/.dbb~0123456789abcdef01234567")
    finding.run()
    said = capsys.readouterr().err
    assert ".dbb~important.fits: begins with .dbb~" in said
    assert ours.name not in said
    assert len(tree(finding.source)) == 2
    finding.run()
    assert capsys.readouterr().err == ""
    finding.change(exclude=(re.compile("important"),))
    finding.run()
    assert "is over: .dbb~important.fits" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make device files")
def test_device_files_are_reported_and_left(finding, capsys):
    try:
        os.mknod(finding.source / "null", 0o020666, os.makedev(1, 3))
        os.mknod(finding.source / "disk", 0o060666, os.makedev(7, 0))
    except PermissionError:
        pytest.skip("device files are not allowed here")
    assert finding.run() == 0
    said = capsys.readouterr().err
    assert "null: a character device" in said
    assert "disk: a block device" in said
    assert sorted(os.listdir(finding.source)) == ["disk", "null"]
    assert finding.rows() == []


# ---- several finders at one time -----------------------------------------------------------------


def test_finders_that_store_overlapping_names_at_one_time_lose_nothing(tmp_path, database_url):
    site = Site(tmp_path / "site", database_url)
    sources = {name: tmp_path / name for name in ("one", "two", "three")}
    configs = {}
    for name, source in sources.items():
        source.mkdir()
        (tmp_path / f"{name}-quarantine").mkdir()
        site.name = name
        site.config = tmp_path / f"{name}.toml"
        keys = {"source": source, "quarantine": tmp_path / f"{name}-quarantine"}
        keys |= {"batch_files": 7, "alternative": "delete", "settle": 0}
        configs[name] = site.write(finder=keys).config
    came = set()
    for turn in range(4):
        for name, source in sources.items():
            for number in range(40):
                # The same under every name, of another content under each, and each one's own.
                content = {0: b"", 1: name.encode(), 2: b""}[number % 3] + f"{number}".encode()
                rel = f"{turn}/{number}" if number % 3 < 2 else f"{turn}/{name} {number}"
                site.put(rel, content, source)
                came.add((f"{turn}/{number}", content))
        finders = [
            subprocess.Popen(
                [sys.executable, str(TOP / "bin" / "dbb-finder"), "-c", str(path)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for path in configs.values()
        ]
        for process in finders:
            _, said = process.communicate(timeout=120)
            assert process.returncode in (0, 1), said
    for path in configs.values():
        assert site.run("dbb-finder", "-c", str(path)).code in (0, 1)
    kept = tree(site.storage) | {
        f"{name}: {rel}": content
        for name in sources
        for rel, content in tree(tmp_path / f"{name}-quarantine").items()
    }
    assert {content for _, content in came} == set(kept.values())
    assert all(tree(source) == {} for source in sources.values())
    connect.connect(defaults(sections.Database, url=database_url))
    rows = connect.execute("SELECT relpath, filename, checksum, status FROM file").fetchall()
    connect.disconnect()
    assert {status for *_, status in rows} == {"STORED"}
    table = {f"{relpath}/{filename}": digest for relpath, filename, digest, _ in rows}
    assert table == {
        rel: f"blake2b:{checksum.compute(outside(str(site.storage / rel)))['blake2b']}"
        for rel in tree(site.storage)
    }
