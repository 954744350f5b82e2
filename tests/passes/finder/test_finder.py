"""The finder that scans and moves: what it stores, what it leaves, what it moves aside."""

import errno
import os
import re
import socket
import stat
import time

import pytest

from dbbbatch.areas.storage import store as storing
from dbbbatch.database import connect
from dbbbatch.errors import LeaseLost
from dbbbatch.files import checksum, names, place
from dbbbatch.files.identity import Version
from dbbbatch.files.tree import Entry, outside
from dbbbatch.passes.finder import examine
from dbbbatch.passes.finder.scan import FinderWork
from tests.support.disks import path_of
from tests.support.finding import SENTINEL, Finding, tree


@pytest.fixture
def finding(settings, tmp_path):
    return Finding(settings, tmp_path)


@pytest.fixture(params=["one file system", "two file systems"])
def either(request, settings, tmp_path):
    """A finder whose source is on the file system of storage, or on another."""
    source = None
    if request.param == "two file systems":
        source = request.getfixturevalue("other_file_system")
    return Finding(settings, tmp_path, source)


NAMES = [
    b"a b",
    b"q'\"",
    b"$(touch x)",
    b"; rm -rf",
    b"#a",
    b"-rf",
    b"a\nb",
    b"\xff\xfe",
    b"back\\slash",
    b"\\xff",
    b"x" * 255,
]


def test_a_writer_that_comes_before_the_permissions_are_set_delays_its_file(finding, monkeypatch):
    path = finding.put("a")
    path.chmod(0o664)
    opened = []
    set_mode = place.set_mode

    def open_first(*arguments):
        opened.append(os.open(path, os.O_WRONLY))
        set_mode(*arguments)

    monkeypatch.setattr(place, "set_mode", open_first)
    assert finding.run() == 0
    assert (tree(finding.source), tree(finding.storage)) == ({"a": b"data"}, {})
    os.close(opened[0])
    assert finding.run() == 0
    assert tree(finding.storage) == {"a": b"data"}


def free_in_storage(finding, monkeypatch, count):
    """Let storage have so many bytes free, and all else plenty."""

    def free(path):
        return count if path == str(finding.storage) else 1 << 40

    monkeypatch.setattr(place, "free_bytes", free)


class TestStoring:
    def test_files_are_moved_and_recorded(self, either):
        either.put("2026/a.fits", b"one")
        either.put("b.fits", b"two")
        assert either.run() == 0
        assert tree(either.source) == {}
        assert tree(either.storage) == {"2026/a.fits": b"one", "b.fits": b"two"}
        assert either.rows() == [("", "b.fits", "STORED"), ("2026", "a.fits", "STORED")]

    def test_row_says_size_and_checksum(self, either):
        either.put("a", b"data")
        either.run()
        digest = checksum.compute(outside(str(either.storage / "a")))["blake2b"]
        assert either.rows("SELECT size_bytes, checksum, finder, error FROM file") == [
            (4, f"blake2b:{digest}", "latiss", None)
        ]

    def test_further_checksums_are_kept(self, finding):
        finding.change(checksums=("md5", "adler32"))
        finding.put("a", b"data")
        finding.run()
        assert finding.rows("SELECT algorithm, value FROM file_checksum ORDER BY algorithm") == [
            ("adler32", "0400019b"),
            ("md5", "8d777f385d3dfec8815d20f7496026dc"),
        ]

    def test_file_is_due_for_every_target_once_stored(self, finding):
        finding.add_target("one")
        finding.add_target("two")
        finding.put("a")
        finding.run()
        assert finding.rows("SELECT status FROM ingest_state") == [("UNTRIED",), ("UNTRIED",)]

    def test_one_that_another_host_moves_at_the_last_moment_is_stored(self, finding, monkeypatch):
        """A file server may carry out what a host asked for after that host has died."""
        finding.put("a")
        move = Entry.move_to

        def twice(entry, destination):
            move(entry, destination)
            move(entry, destination)

        monkeypatch.setattr(Entry, "move_to", twice)
        assert finding.run() == 0
        assert tree(finding.storage) == {"a": b"data"}
        assert finding.rows() == [("", "a", "STORED")]

    def test_a_pass_that_lost_its_lease_says_nothing_of_what_it_leaves(
        self, finding, monkeypatch, capsys
    ):
        def lost(*_):
            raise LeaseLost("another host has taken over")

        finding.change(batch_files=1)
        for name in "abc":
            finding.put(name)
        with monkeypatch.context() as patched:
            patched.setattr(storing, "intend", lost)
            patched.setattr(place, "remove_temporary", lost)
            assert finding.run() == 75
        assert capsys.readouterr() == ("", "")
        assert finding.run() == 0
        assert sorted(tree(finding.storage)) == ["a", "b", "c"]

    def test_many_files_cost_few_transactions(self, finding, monkeypatch):
        for number in range(300):
            finding.put(f"{number % 7}/{number}", str(number).encode())
        count = []
        real = connect.write
        monkeypatch.setattr(
            connect, "write", lambda *args, **named: count.append(args) or real(*args, **named)
        )
        finding.run()
        assert len(finding.rows()) == 300
        assert len(count) <= 5

    def test_batches_hold_as_many_files_as_configured(self, finding):
        finding.change(batch_files=2)
        for number in range(5):
            finding.put(f"{number}", str(number).encode())
        assert finding.run() == 0
        assert len(finding.rows()) == 5

    def test_limit_is_kept(self, finding):
        for number in range(5):
            finding.put(f"{number}", str(number).encode())
        assert finding.run(limit=3) == 0
        assert len(finding.rows()) == 3
        assert len(tree(finding.source)) == 2

    def test_only_matching_files_are_taken(self, finding):
        finding.put("2026-11-23/a")
        finding.put("2026-11-24/a")
        finding.run(match=("2026-11-24/*",))
        assert list(tree(finding.source)) == ["2026-11-23/a"]

    @pytest.mark.promise
    def test_any_name_is_stored_as_it_is(self, either):
        for name in NAMES:
            either.put(name, name)
        assert either.run() == 0
        assert {os.fsencode(rel): content for rel, content in tree(either.storage).items()} == {
            name: name for name in NAMES
        }
        texts = [text for (text,) in either.rows("SELECT filename FROM file")]
        assert {os.fsencode(names.from_text(text)) for text in texts} == set(NAMES)

    def test_names_that_differ_in_case_only_are_two_files(self, finding):
        finding.put("a.fits", b"one")
        finding.put("A.FITS", b"two")
        finding.run()
        assert tree(finding.storage) == {"a.fits": b"one", "A.FITS": b"two"}

    def test_empty_files_are_stored_without_being_copies(self, either):
        either.put("a", b"")
        either.put("b", b"")
        either.run()
        assert either.rows("SELECT status, copy_of FROM file") == [("STORED", None)] * 2

    @pytest.mark.parametrize("together", [True, False])
    def test_same_content_elsewhere_is_stored_and_noted(self, finding, together):
        finding.put("a")
        if not together:
            finding.run()
        finding.put("b")
        assert finding.run() == 0
        rows = finding.rows("SELECT id, copy_of FROM file ORDER BY id")
        assert [copy for _, copy in rows] == [None, rows[0][0]]

    def test_mode_and_group_are_those_configured(self, either):
        either.put("2026/a").chmod(0o640)
        either.change(file_mode=0o444, dir_mode=0o2750, group=str(os.getgid()))
        either.run()
        assert stat.S_IMODE((either.storage / "2026/a").stat().st_mode) == 0o444
        assert stat.S_IMODE((either.storage / "2026").stat().st_mode) == 0o2750

    def test_group_that_is_not_known_is_an_error_of_configuration(self, finding, capsys):
        finding.change(group="no-such-group")
        assert finding.run() == 78
        assert "[finder.latiss] group" in capsys.readouterr().err

    @pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EIO])
    def test_file_whose_mode_may_not_be_set_is_copied(self, finding, monkeypatch, code):
        finding.put("a").chmod(0o600)
        finding.change(file_mode=0o444)

        def fchmod(descriptor, mode, real=os.fchmod):
            if os.fstat(descriptor).st_ino == inode:
                raise OSError(code, os.strerror(code))
            real(descriptor, mode)

        inode = (finding.source / "a").stat().st_ino
        monkeypatch.setattr(os, "fchmod", fchmod)
        assert finding.run() == 0
        assert tree(finding.source) == {}
        assert stat.S_IMODE((finding.storage / "a").stat().st_mode) == 0o444

    def test_empty_directories_leave_the_source_when_old(self, finding):
        finding.change(expiration=0)
        finding.put("old/a")
        (finding.source / "writer").mkdir()
        finding.run()
        assert os.listdir(finding.source) == ["writer"]

    def test_empty_directories_that_are_to_be_kept_stay(self, finding):
        finding.change(expiration=0, keep_directories=(re.compile("^old$"),))
        finding.put("old/a")
        finding.run()
        assert os.listdir(finding.source) == ["old"]

    @pytest.mark.parametrize("size", [4, 2 << 20])
    def test_original_that_cannot_be_removed_is_reported_and_not_stored_twice(
        self, settings, tmp_path, other_file_system, monkeypatch, capsys, size
    ):
        finding = Finding(settings, tmp_path, other_file_system, jobs=2)
        for name in ("b", "c"):
            finding.put(name, bytes(size))
        source = finding.put("a", bytes(size))

        def refusing(name):
            real = getattr(Entry, name)

            def refused(file, *more):
                if file.path == str(source):
                    raise PermissionError(1, "Operation not permitted")
                real(file, *more)

            monkeypatch.setattr(Entry, name, refused)

        refusing("unlink")
        refusing("move_to")
        finding.run()
        assert finding.run() == 0
        assert "cannot be removed" in capsys.readouterr().err
        assert set(tree(finding.source)) == {"a"}
        assert finding.rows() == [("", name, "STORED") for name in "abc"]
        monkeypatch.undo()
        finding.run()
        assert tree(finding.source) == {}


class TestNotYet:
    def test_file_that_has_not_settled_is_left_quietly(self, finding, capsys):
        finding.change(settle=3600)
        finding.put("young")
        old = finding.put("old")
        os.utime(old, (time.time() - 7200,) * 2)
        assert finding.run() == 0
        assert tree(finding.source) == {"young": b"data"}
        assert capsys.readouterr().err == ""

    def test_file_that_grows_while_it_is_read_is_left_quietly(self, either, monkeypatch, capsys):
        path = either.put("a")

        def stream(descriptor, *more, real=checksum.stream):
            found = real(descriptor, *more)
            with open(path, "ab") as file:
                file.write(b"more")
            return found

        monkeypatch.setattr(checksum, "stream", stream)
        assert either.run() == 0
        assert either.rows() == []
        assert tree(either.storage) == {}
        assert capsys.readouterr().err == ""

    def test_file_that_grows_between_reading_and_placing_is_stored_as_it_is(
        self, finding, monkeypatch
    ):
        path = finding.put("a")

        def intend(*arguments, real=storing.intend):
            with open(path, "ab") as file:
                file.write(b" and more")
            return real(*arguments)

        monkeypatch.setattr(storing, "intend", intend)
        assert finding.run() == 0
        digest = checksum.compute(outside(str(finding.storage / "a")))["blake2b"]
        assert finding.rows("SELECT size_bytes, checksum, status FROM file") == [
            (13, f"blake2b:{digest}", "STORED")
        ]

    def test_file_that_is_replaced_between_reading_and_placing_is_stored_for_nobody_to_write(
        self, finding, monkeypatch
    ):
        finding.put("a")
        other = finding.put("other", b"the next version", finding.quarantine)
        other.chmod(0o666)

        def intend(*arguments, real=storing.intend):
            other.rename(finding.source / "a")
            return real(*arguments)

        monkeypatch.setattr(storing, "intend", intend)
        assert finding.run() == 0
        assert tree(finding.storage) == {"a": b"the next version"}
        assert finding.rows() == [("", "a", "STORED")]
        assert (finding.storage / "a").stat().st_mode & 0o022 == 0

    @pytest.mark.promise
    def test_file_still_written_to_gives_way_to_the_next_version_of_its_name(
        self, finding, monkeypatch
    ):
        path = finding.put("a")

        def intend(*arguments, real=storing.intend):
            path.write_bytes(b"the first version")
            return real(*arguments)

        def compute(*arguments):
            finding.put("a", b"the next one")
            raise checksum.Changed(11, "the file changed while it was read")

        with monkeypatch.context() as patched:
            patched.setattr(storing, "intend", intend)
            patched.setattr(checksum, "compute", compute)
            assert finding.run() == 0
        assert (finding.rows(), tree(finding.storage)) == ([], {})
        assert finding.run() == 0
        assert tree(finding.storage) == {"a": b"the next one", "a.~1~": b"the first version"}

    @pytest.mark.promise
    def test_file_that_can_neither_be_read_nor_moved_back_is_not_given_up(
        self, finding, monkeypatch
    ):
        path = finding.put("a")

        def intend(*arguments, real=storing.intend):
            path.write_bytes(b"the first version")
            return real(*arguments)

        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        with monkeypatch.context() as patched:
            patched.setattr(checksum, "compute", refuse)
            patched.setattr(place, "place_versioned", refuse)
            with monkeypatch.context() as once:
                once.setattr(storing, "intend", intend)
                assert finding.run() == 1
            assert finding.rows() == [("", "a", "ARRIVING")]
            assert finding.run() == 1
        assert finding.run() == 0
        assert finding.rows() == [("", "a", "STORED")]
        assert tree(finding.storage) == {"a": b"the first version"}

    def test_file_that_vanishes_before_it_is_read_is_nothing(self, either, monkeypatch, capsys):
        path = either.put("a")
        either.put("b", b"other")

        def vanish(self, arrival_, real=examine.Examiner._examine_one):
            path.unlink(missing_ok=True)
            return real(self, arrival_)

        monkeypatch.setattr(examine.Examiner, "_examine_one", vanish)
        assert either.run() == 0
        assert either.rows() == [("", "b", "STORED")]
        assert capsys.readouterr().err == ""

    def test_file_that_vanishes_before_it_is_placed_leaves_no_row(self, finding, monkeypatch):
        path = finding.put("a")

        def intend(*arguments, real=storing.intend):
            path.unlink()
            return real(*arguments)

        monkeypatch.setattr(storing, "intend", intend)
        assert finding.run() == 0
        assert finding.rows() == []

    def test_file_that_another_finder_is_storing_is_left(self, finding):
        finding.put("a")
        with finding.database():
            from dbbbatch.database.models.file import File, FileRow

            row = FileRow("", "a", 4, "blake2b:00", 0, 0)
            connect.write(lambda: File.intend(str(finding.storage), "other", [row]))
        assert finding.run() == 0
        assert tree(finding.source) == {"a": b"data"}


class TestOddThings:
    def test_links_and_special_files_are_said_once_and_left(self, finding, capsys):
        finding.put("secret", where=finding.quarantine)
        os.symlink(finding.quarantine / "secret", finding.source / "link")
        os.symlink(finding.quarantine, finding.source / "linked")
        os.mkfifo(finding.source / "fifo")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(finding.source / "socket"))
        assert finding.run() == 0
        said = capsys.readouterr().err
        assert all(f"{name}:" in said for name in ("link", "linked", "fifo", "socket"))
        assert finding.run() == 0
        assert capsys.readouterr().err == ""
        assert tree(finding.storage) == {}
        assert len(os.listdir(finding.source)) == 4

    def test_link_put_in_a_files_place_after_the_scan_is_not_followed(
        self, either, monkeypatch, tmp_path
    ):
        path = either.put("a")
        (tmp_path / "secret").write_text("secret")

        def swap(self, arrival_, real=examine.Examiner._examine_one):
            path.unlink()
            path.symlink_to(tmp_path / "secret")
            return real(self, arrival_)

        monkeypatch.setattr(examine.Examiner, "_examine_one", swap)
        assert either.run() == 0
        assert tree(either.storage) == tree(either.quarantine) == {}
        assert path.is_symlink()

    def test_unreadable_file_fails_alone(self, either, monkeypatch, capsys):
        either.put("a")
        either.put("b", b"other")
        unreadable(monkeypatch, "a")
        assert either.run() == 1
        assert "a: Permission denied" in capsys.readouterr().err
        assert either.rows() == [("", "b", "STORED")]
        assert either.rows("SELECT verdict, tries FROM finder_left") == [("FAILED", 1)]

    def test_failed_file_waits_for_its_next_try(self, finding, monkeypatch):
        finding.put("a")
        unreadable(monkeypatch, "a")
        finding.run()
        monkeypatch.undo()
        assert finding.run() == 0
        assert finding.rows() == []
        finding.change(retry_wait=0)
        assert finding.run() == 0
        assert finding.rows() == [("", "a", "STORED")]
        assert finding.rows("SELECT * FROM finder_left") == []

    def test_clock_that_was_ahead_keeps_no_failed_file_waiting(self, finding, monkeypatch):
        finding.put("a")
        unreadable(monkeypatch, "a")
        finding.run()
        monkeypatch.undo()
        finding.change_rows("UPDATE finder_left SET seen_at = '2999-01-01 00:00:00'")
        assert finding.run() == 0
        assert finding.rows() == [("", "a", "STORED")]

    @pytest.mark.promise
    @pytest.mark.parametrize("call", ["write", "mkdir"])
    def test_storage_that_cannot_be_written_is_no_fault_of_any_file(
        self, settings, tmp_path, other_file_system, monkeypatch, capsys, call
    ):
        finding = Finding(settings, tmp_path, other_file_system, retry_wait=0, max_attempts=1)
        finding.put("night/a")

        real = getattr(os, call)

        def broken(where, *more, **keywords):
            if call == "write":
                path = os.readlink(f"/proc/self/fd/{where}")
            else:
                path = path_of(where, keywords)
            if path.startswith(str(finding.storage)):
                raise OSError(5, "Input/output error", None if call == "write" else path)
            return real(where, *more, **keywords)

        with monkeypatch.context() as patched:
            patched.setattr(os, call, broken)
            assert finding.run() == 75
        assert "Input/output error; nothing is lost" in capsys.readouterr().err
        assert finding.rows("SELECT * FROM finder_left") == []
        assert finding.run() == 0
        assert tree(finding.storage) == {"night/a": b"data"}

    def test_failed_file_is_quarantined_after_its_last_attempt(self, finding, monkeypatch):
        finding.change(retry_wait=0, max_attempts=2)
        finding.put("a")
        unreadable(monkeypatch, "a")
        finding.run()
        assert finding.run() == 1
        assert tree(finding.quarantine) == {"a": b"data"}
        ((reason,),) = finding.rows("SELECT reason FROM quarantine")
        assert reason == "after 2 attempts: Permission denied"


class TestAcrossFileSystems:
    """A copy is another file than the one that was read."""

    @pytest.mark.promise
    def test_row_has_time_and_inode_of_the_copy(self, settings, tmp_path, other_file_system):
        finding = Finding(settings, tmp_path, other_file_system)
        finding.put("a")
        assert finding.run() == 0
        assert finding.rows("SELECT mtime_ns, inode FROM file") == [entry(finding, "a")]

    @pytest.mark.promise
    def test_row_has_them_too_where_a_pass_was_killed(
        self, settings, tmp_path, other_file_system, monkeypatch
    ):
        finding = Finding(settings, tmp_path, other_file_system)
        finding.put("a")
        with monkeypatch.context() as patched:
            patched.setattr(storing, "_record_stored", lambda *_: 1 / 0)
            assert finding.run() == 70
        assert finding.run() == 0
        assert finding.rows("SELECT mtime_ns, inode FROM file") == [entry(finding, "a")]
        assert tree(finding.source) == {}


def entry(finding, rel):
    """Return time and inode of a file of storage, as a row has them."""
    return Version.of_file(os.stat(finding.storage / rel))[1:]


def unreadable(monkeypatch, name):
    """Make a file one that this user may not read, though the tests run as root."""

    def opened(path, *more, real=os.open, **keywords):
        if path_of(path, keywords).endswith("/" + name):
            raise PermissionError(13, "Permission denied")
        return real(path, *more, **keywords)

    monkeypatch.setattr(os, "open", opened)


class TestAlreadyThere:
    def stored(self, finding, content=b"data"):
        finding.put("a", content)
        assert finding.run() == 0

    def test_duplicate_stays_and_is_not_read_again(self, either, monkeypatch):
        self.stored(either)
        either.put("a")
        assert either.run() == 0
        assert tree(either.source) == {"a": b"data"}
        monkeypatch.setattr(checksum, "stream", None)
        assert either.run() == 0

    def test_duplicate_that_is_rewritten_is_looked_at_again(self, finding):
        self.stored(finding)
        finding.put("a")
        finding.run()
        finding.put("a", b"new content")
        assert finding.run() == 1
        assert tree(finding.quarantine) == {"a": b"new content"}
        assert finding.rows("SELECT * FROM finder_left") == []

    def test_duplicate_is_deleted(self, either):
        self.stored(either)
        either.change(alternative="delete")
        either.put("a")
        assert either.run() == 0
        assert tree(either.source) == {}
        assert tree(either.storage) == {"a": b"data"}

    def test_duplicate_is_quarantined(self, either):
        self.stored(either)
        either.change(alternative="quarantine")
        either.put("a")
        assert either.run() == 1
        assert tree(either.quarantine) == {"a": b"data"}

    def test_duplicate_is_not_deleted_if_the_stored_copy_differs(self, finding):
        self.stored(finding)
        (finding.storage / "a").write_bytes(b"DATA")
        finding.change(alternative="delete")
        finding.put("a")
        assert finding.run() == 1
        assert tree(finding.source) == {"a": b"data"}

    def test_duplicate_is_not_deleted_if_the_stored_copy_cannot_be_read(self, finding, monkeypatch):
        self.stored(finding)
        finding.change(alternative="delete")
        finding.put("a")

        def compute(source, *more, real=checksum.compute):
            if str(source) == str(finding.storage / "a"):
                raise PermissionError(13, "Permission denied")
            return real(source, *more)

        monkeypatch.setattr(checksum, "compute", compute)
        assert finding.run() == 1
        assert tree(finding.source) == {"a": b"data"}

    @pytest.mark.promise
    @pytest.mark.parametrize("further_link", [False, True])
    def test_stored_copy_itself_is_never_deleted_through_another_path(
        self, finding, tmp_path, further_link
    ):
        self.stored(finding)
        if further_link:
            os.link(finding.storage / "a", tmp_path / "elsewhere")
        # The source becomes another way to storage.
        os.rmdir(finding.source)
        finding.source.symlink_to(finding.storage)
        finding.change(alternative="delete")
        assert finding.run() == 78
        assert tree(finding.storage) == {"a": b"data"}

    def test_duplicate_that_is_a_further_link_of_the_stored_file_is_deleted(self, finding):
        self.stored(finding)
        finding.change(alternative="delete")
        os.link(finding.storage / "a", finding.source / "a")
        assert finding.run() == 0
        assert tree(finding.source) == {}
        assert tree(finding.storage) == {"a": b"data"}

    def test_file_written_while_its_duplicate_is_proved_is_not_deleted(self, finding, monkeypatch):
        self.stored(finding)
        finding.change(alternative="delete")
        finding.put("a")

        def compute(source, *more, real=checksum.compute):
            # Who had opened it before it got its hidden name goes on with it.
            (hidden,) = finding.source.glob(".dbb~*")
            with open(hidden, "ab") as writer:
                writer.write(b" and more")
            return real(source, *more)

        monkeypatch.setattr(checksum, "compute", compute)
        assert finding.run() == 1
        assert tree(finding.source) == {"a": b"data and more"}

    @pytest.mark.promise
    def test_other_content_is_quarantined_and_storage_untouched(self, either, capsys):
        self.stored(either)
        either.put("a", b"other")
        assert either.run() == 1
        assert tree(either.storage) == {"a": b"data"}
        assert tree(either.quarantine) == {"a": b"other"}
        assert tree(either.source) == {}
        assert either.rows("SELECT filename, reason FROM quarantine") == [
            ("a", "storage holds other content under this name")
        ]
        assert "dbb quarantine list" in capsys.readouterr().err

    def test_further_contents_are_kept_as_versions_in_quarantine(self, finding):
        self.stored(finding)
        for content in (b"1", b"2", b"3"):
            finding.put("a", content)
            finding.run()
        assert tree(finding.quarantine) == {"a": b"1", "a.~1~": b"2", "a.~2~": b"3"}

    def test_longest_name_finds_its_place_in_quarantine(self, finding):
        name = "x" * 255
        for content in (b"0", b"1", b"2"):
            finding.put(name, content)
            finding.run()
        assert sorted(tree(finding.quarantine).values()) == [b"1", b"2"]

    def test_file_that_storage_has_lost_is_stored_again(self, either):
        either.add_target("one")
        self.stored(either)
        (either.storage / "a").unlink()
        either.put("a")
        assert either.run() == 0
        assert tree(either.storage) == {"a": b"data"}
        assert either.rows() == [("", "a", "STORED")]
        assert either.rows("SELECT count(*) FROM ingest_state") == [(1,)]

    @pytest.mark.parametrize(
        ("status", "content", "code"),
        [
            ("MISSING", b"data", 0),
            ("MISSING", b"other", 1),
            ("FORGOTTEN", b"other", 0),
            ("QUARANTINED", b"data", 1),
        ],
    )
    def test_file_that_left_storage_comes_back(self, either, status, content, code):
        self.stored(either)
        (either.storage / "a").unlink()
        either.change_rows("UPDATE file SET status = ?", [status])
        either.put("a", content)
        assert either.run() == code
        assert either.rows() == [("", "a", "STORED" if code == 0 else status)]
        assert tree(either.storage) == ({"a": content} if code == 0 else {})

    def test_good_copy_of_a_corrupt_file_waits_in_quarantine(self, finding):
        self.stored(finding)
        finding.change_rows("UPDATE file SET status = 'CORRUPT'")
        finding.put("a")
        finding.run()
        ((reason,),) = finding.rows("SELECT reason FROM quarantine")
        assert "this one has the content it should have" in reason

    @pytest.mark.promise
    def test_table_that_lost_its_rows_adopts_what_is_the_same(self, either):
        self.stored(either)
        forget_everything(either)
        either.put("a")
        assert either.run() == 0
        assert either.rows() == [("", "a", "STORED")]
        assert tree(either.source) == tree(either.storage) == {"a": b"data"}

    @pytest.mark.promise
    def test_table_that_lost_its_rows_lets_nothing_be_overwritten(self, either):
        self.stored(either)
        forget_everything(either)
        either.put("a", b"other")
        assert either.run() == 1
        assert either.rows() == []
        assert tree(either.storage) == {"a": b"data"}
        assert tree(either.quarantine) == {"a": b"other"}

    def test_directory_where_a_file_should_go(self, either):
        (either.storage / "a").mkdir()
        either.put("a")
        assert either.run() == 1
        assert either.rows("SELECT reason FROM quarantine") == [
            ("storage has a directory under this name",)
        ]

    def test_file_where_a_directory_should_go(self, either):
        self.stored(either)
        either.put("a/b")
        assert either.run() == 1
        assert tree(either.quarantine) == {"a/b": b"data"}
        ((reason,),) = either.rows("SELECT reason FROM quarantine")
        assert "needs a directory" in reason

    def test_name_taken_in_the_last_moment_is_not_overwritten(self, finding, monkeypatch):
        finding.put("a")

        def intend(*arguments, real=storing.intend):
            (finding.storage / "a").write_bytes(b"other")
            return real(*arguments)

        monkeypatch.setattr(storing, "intend", intend)
        assert finding.run() == 0
        assert tree(finding.storage) == {"a": b"other"}
        assert tree(finding.source) == {"a": b"data"}
        assert finding.rows() == []


def forget_everything(finding):
    finding.change_rows("DELETE FROM file")


class TestTransient:
    @pytest.mark.promise
    def test_storage_without_its_sentinel_takes_nothing(self, finding, capsys):
        finding.put("a")
        (finding.storage / SENTINEL).unlink()
        assert finding.run() == 75
        assert "empty mount point" in capsys.readouterr().err
        assert tree(finding.source) == {"a": b"data"}
        assert finding.rows() == []

    def test_storage_that_goes_away_between_two_batches_takes_nothing_more(
        self, finding, monkeypatch
    ):
        finding.change(batch_files=1)
        finding.put("a")
        finding.put("b", b"other")

        def store(*arguments, real=storing.store):
            outcome = real(*arguments)
            (finding.storage / SENTINEL).unlink()
            return outcome

        monkeypatch.setattr(storing, "store", store)
        assert finding.run() == 75
        assert len(finding.rows()) == len(tree(finding.source)) == 1

    @pytest.mark.parametrize("name", ["source", "storage"])
    def test_directory_that_is_not_mounted_is_waited_for(self, finding, name):
        os.rename(getattr(finding, name), str(finding.source) + ".away")
        assert finding.run() == 75

    @pytest.mark.promise
    def test_disk_that_is_full_changes_no_file(self, finding, monkeypatch, capsys):
        finding.put("2026/a")

        def full(*arguments, **keywords):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(place, "make_directories", full)
        assert finding.run() == 75
        assert "No space left on device" in capsys.readouterr().err
        monkeypatch.undo()
        assert finding.run() == 0
        assert finding.rows() == [("2026", "a", "STORED")]

    def test_disk_that_fills_while_files_are_placed_leaves_work_for_the_next_pass(
        self, either, monkeypatch
    ):
        for name in ("a", "b", "c"):
            either.put(name, name.encode())
        calls = []

        def full(*arguments, real=place.place):
            calls.append(arguments)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
            real(*arguments)

        monkeypatch.setattr(place, "place", full)
        assert either.run() == 75
        monkeypatch.undo()
        assert either.run() == 0
        assert tree(either.storage) == {"a": b"a", "b": b"b", "c": b"c"}
        assert tree(either.source) == {}
        assert len(either.rows()) == 3

    def test_copy_that_would_fill_storage_is_not_begun(
        self, settings, tmp_path, other_file_system, monkeypatch, capsys
    ):
        finding = Finding(settings, tmp_path, other_file_system)
        finding.put("a")
        free_in_storage(finding, monkeypatch, 10)
        assert finding.run() == 75
        assert "min_free" in capsys.readouterr().err
        assert tree(finding.source) == {"a": b"data"}

    def test_a_batch_that_has_room_is_stored_though_the_next_one_has_none(
        self, settings, tmp_path, other_file_system, monkeypatch
    ):
        finding = Finding(settings, tmp_path, other_file_system, batch_files=1, min_free=1)
        finding.put("a", b"data")
        finding.put("b", b"data")
        free_in_storage(finding, monkeypatch, 6)
        assert finding.run() == 75
        assert len(tree(finding.source)) == 1

    def test_no_room_for_our_own_notes_begins_nothing(self, either, monkeypatch, capsys):
        either.put("a")
        monkeypatch.setattr(place, "free_bytes", lambda path: 1 << 20)
        assert either.run() == 75
        assert "could not be recorded" in capsys.readouterr().err
        assert tree(either.source) == {"a": b"data"}
        assert either.rows() == []

    def test_copy_that_would_fill_quarantine_is_not_begun(
        self, settings, tmp_path, other_file_system, monkeypatch
    ):
        finding = Finding(settings, tmp_path, other_file_system)
        TestAlreadyThere().stored(finding)
        finding.put("a", b"other")

        def free(path, real=place.free_bytes):
            return 1 << 20 if path == str(finding.quarantine) else real(path)

        monkeypatch.setattr(place, "free_bytes", free)
        assert finding.run() in (1, 75)
        assert tree(finding.source) == {"a": b"other"}
        assert tree(finding.quarantine) == {}

    def test_quarantine_that_is_full_leaves_the_file(self, finding, monkeypatch):
        TestAlreadyThere().stored(finding)
        finding.put("a", b"other")

        def full(source, destination, real=Entry.move_to):
            if destination.path.startswith(str(finding.quarantine)):
                raise OSError(28, "No space left on device")
            real(source, destination)

        monkeypatch.setattr(Entry, "move_to", full)
        assert finding.run() == 75
        assert tree(finding.source) == {"a": b"other"}
        assert finding.rows("SELECT * FROM quarantine") == []


class TestLookingOnly:
    def test_dry_run_says_what_would_be_stored_and_changes_nothing(self, finding):
        finding.put("2026/a", b"12345")
        assert finding.plan() == ["would store 2026/a, 5 bytes"]
        assert tree(finding.source) == {"2026/a": b"12345"}
        assert finding.rows() == finding.rows("SELECT * FROM run") == []

    def test_dry_run_says_first_what_would_be_finished(self, finding):
        with finding.database():
            from dbbbatch.database.models.file import File, FileRow

            row = FileRow("2026", "b", 4, "blake2b:00", 0, 0)
            connect.write(lambda: File.intend(str(finding.storage), "latiss", [row]))
        finding.put("a")
        assert finding.plan() == ["would finish 2026/b", "would store a, 4 bytes"]

    def test_work_is_due_only_for_files_that_are_new(self, finding):
        work = FinderWork(finding.finder)
        look = finding.context()
        with finding.database():
            assert not work.due(look)
            finding.put("a")
            assert work.due(look)
        finding.run()
        finding.put("a")
        finding.run()
        with finding.database():
            assert not work.due(look)

    def test_pass_without_work_says_nothing(self, finding, capsys):
        assert finding.run() == 0
        assert capsys.readouterr().err == ""


def test_what_cannot_be_looked_at_where_it_was_just_placed_keeps_its_intent(either, monkeypatch):
    either.put("a")
    real = Entry.move_to

    def placed(source, destination):
        real(source, destination)
        if destination.path == str(either.storage / "a"):
            os.rename(destination.path, either.storage / "hidden")

    with monkeypatch.context() as patched:
        patched.setattr(Entry, "move_to", placed)
        assert either.run() == 75
    assert either.rows() == [("", "a", "ARRIVING")]
    os.rename(either.storage / "hidden", either.storage / "a")
    assert either.run() == 0
    assert either.rows() == [("", "a", "STORED")]
    assert tree(either.source) == {}
