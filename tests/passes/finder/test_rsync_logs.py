"""The finder that reads rsync's logs: what it records, awaits, gives up and refuses."""

import datetime
import gzip
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from dbbbatch.database import connect
from dbbbatch.files import checksum, place, rsync_log
from dbbbatch.files.tree import Entry, Tree, outside
from dbbbatch.passes import runner
from dbbbatch.passes.backfill import BackfillWork
from dbbbatch.passes.finder import logged, rsync_logs
from dbbbatch.passes.finder.rsync_logs import RsyncWork
from dbbbatch.passes.forget import forget
from tests.support.finding import Finding, tree

TODAY = datetime.datetime.now(datetime.UTC).date()


class Logs(Finding):
    """A finder whose source holds logs."""

    since = None

    def __init__(self, settings, root, **keys):
        keys = {"delay": 0, "retry_wait": 0, **keys}
        super().__init__(
            settings,
            root,
            work=lambda finder: RsyncWork(finder, self.since),
            search="rsync-logs",
            standard="none",
            **keys,
        )

    def log(self, *lines, day=TODAY, name="rsync.log", mode="ab"):
        """Write lines to a log, as files sent unless they say otherwise."""
        path = self.source / f"{day:%Y%m%d}" / name
        path.parent.mkdir(exist_ok=True)
        with open(path, mode) as file:
            for line in lines:
                rel = os.fsencode(line)
                file.write(rel if b"\n" in rel else b"<f+++++++++ " + rel + b"\n")
        return path

    def is_due(self):
        """Return whether a lingering pass would begin anew."""
        with self.database():
            return self._work(self.finder).due(self.context())

    def store(self, rel, content=b"data"):
        """Put a file in storage, as rsync does."""
        return self.put(rel, content, self.storage)


@pytest.fixture
def logs(settings, tmp_path):
    return Logs(settings, tmp_path)


@contextmanager
def at(monkeypatch, now, zone="UTC0"):
    """Let it be another time, in another zone."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        patch.setattr(rsync_logs, "time", SimpleNamespace(time=lambda: now))
        yield
    time.tzset()


@pytest.fixture
def hashed(monkeypatch):
    """Paths that were read for their checksum."""
    paths = []
    real = checksum.compute
    monkeypatch.setattr(
        checksum, "compute", lambda path, *more: paths.append(str(path)) or real(path, *more)
    )
    return paths


def refuse(monkeypatch, module, name, *paths):
    """Let a function of a module fail for some paths, as it does for who may not read them."""
    real = getattr(module, name)

    def function(*arguments):
        if set(map(str, arguments)) & set(map(str, paths)):
            raise PermissionError(13, "Permission denied")
        return real(*arguments)

    monkeypatch.setattr(module, name, function, raising=False)


class TestRecording:
    def test_logged_files_are_recorded_and_due(self, logs):
        logs.add_target()
        logs.store("2026/a.fits")
        logs.store("b c.fits", b"two")
        logs.log("2026/a.fits", "b c.fits")
        assert logs.run() == 0
        assert logs.rows() == [("", "b c.fits", "STORED"), ("2026", "a.fits", "STORED")]
        assert logs.rows("SELECT status FROM ingest_state") == [("UNTRIED",)] * 2
        assert tree(logs.storage) == {"2026/a.fits": b"data", "b c.fits": b"two"}

    def test_files_that_no_log_names_are_passed_over(self, logs):
        logs.store("a")
        logs.store("b", b"two")
        logs.log("a", "2026/11/24 07:03:13 [8979] building file list\n")
        logs.run()
        assert logs.rows() == [("", "a", "STORED")]

    def test_excluded_files_are_passed_over(self, settings, tmp_path):
        logs = Logs(settings, tmp_path, exclude=[r"\.tmp$"])
        logs.store("a.tmp")
        logs.log("a.tmp")
        assert logs.run() == 0
        assert logs.rows() == []

    @pytest.mark.parametrize("prefix", ["raw/{date}", "./raw//{date}/", "raw/./{date}"])
    def test_prefix_says_where_rsyncs_root_is(self, settings, tmp_path, prefix):
        logs = Logs(settings, tmp_path, prefix=prefix)
        logs.store(f"raw/{TODAY:%Y%m%d}/a")
        logs.log("./a")
        logs.run()
        assert logs.rows() == [(f"raw/{TODAY:%Y%m%d}", "a", "STORED")]

    def test_directory_that_is_a_link_to_another_is_recorded_as_that(self, logs, capsys):
        logs.add_target()
        logs.store("real/a.fits")
        os.symlink("real", logs.storage / "link")
        logs.log("real/a.fits", "link/a.fits")
        assert logs.run() == 0
        assert logs.rows() == [("real", "a.fits", "STORED")]
        assert capsys.readouterr().err == ""

    def test_hard_link_is_known_by_the_name_that_storage_has(self, logs):
        for name in ("x", "x => y"):
            logs.store(name, name.encode())
        os.link(logs.storage / "x => y", logs.storage / "x => z")
        logs.log(b"hf+++++++++ x => z => x => y\n")
        assert logs.run() == 0
        assert logs.rows() == [("", "x => z", "STORED")]

    def test_files_on_their_way_since_the_finder_scanned_are_finished(self, logs, capsys):
        logs.add_target()
        path = logs.store("a", b"updated")
        status = path.stat()
        logs.change_rows(
            "INSERT INTO file (storage, relpath, filename, size_bytes, checksum, status, finder,"
            " mtime_ns, inode) VALUES (?, '', 'a', 4, 'blake2b:00', 'ARRIVING', 'latiss', 0, ?)",
            [str(logs.storage), status.st_ino],
        )
        assert logs.plan() == ["would finish a"]
        logs.log("a")
        assert logs.run() == 0
        digest = checksum.compute(outside(str(path)))["blake2b"]
        assert logs.rows("SELECT checksum, status FROM file") == [(f"blake2b:{digest}", "STORED")]

    def test_log_that_grew_is_continued(self, logs, hashed):
        logs.store("a")
        logs.log("a")
        logs.run()
        logs.store("b", b"two")
        logs.log("b")
        logs.run()
        assert hashed == [str(logs.storage / name) for name in "ab"]
        assert len(logs.rows()) == 2

    @pytest.mark.promise
    @pytest.mark.parametrize("first", ["a", "building file list\n"])
    def test_line_that_is_written_while_the_log_is_read_is_not_skipped(
        self, logs, monkeypatch, first
    ):
        for name in ("a", "b"):
            logs.store(name, name.encode())
        logs.log(first)
        real = rsync_log.read_lines

        def read(path, offset):
            yield from real(path, offset)
            monkeypatch.undo()
            logs.log("b")

        monkeypatch.setattr(rsync_log, "read_lines", read)
        logs.run()
        logs.run()
        assert ("", "b", "STORED") in logs.rows()

    def test_lines_that_name_no_file_are_read_once(self, logs):
        path = logs.log("building file list\n", "sent 10 bytes\n")
        logs.run()
        assert logs.rows("SELECT position FROM rsync_log") == [(path.stat().st_size,)]

    def test_line_without_its_end_waits(self, logs):
        logs.store("a")
        logs.store("ab", b"two")
        path = logs.log("a")
        with open(path, "ab") as file:
            file.write(b"<f+++++++++ a")
        logs.run()
        assert logs.rows() == [("", "a", "STORED")]
        with open(path, "ab") as file:
            file.write(b"b\n")
        logs.run()
        assert logs.rows() == [("", "a", "STORED"), ("", "ab", "STORED")]

    def test_log_that_was_replaced_is_read_from_its_beginning(self, logs):
        logs.store("a")
        path = logs.log("a")
        logs.run()
        # Kept under another name, so that its inode is not given to the next file.
        path.rename(path.with_suffix(".rotated"))
        logs.store("b", b"two")
        logs.log("b")
        logs.run()
        assert len(logs.rows()) == 2

    @pytest.mark.promise
    def test_log_that_was_written_again_in_its_place_is_read_from_its_beginning(self, logs):
        """Its inode is the same and it is no smaller: only what stands in it tells."""
        logs.store("a")
        path = logs.log("a")
        logs.run()
        logs.store("b", b"two")
        logs.store("c", b"three")
        first = path.read_bytes()
        with open(path, "r+b") as file:
            file.write(first.replace(b" a", b" b") + first.replace(b" a", b" c"))
        assert logs.run() == 0
        assert [name for _, name, _ in logs.rows()] == ["a", "b", "c"]

    def test_log_that_was_replaced_by_one_of_the_same_size_is_read(self, logs, capsys):
        logs.store("a")
        path = logs.log("a")
        logs.run()
        logs.store("b", b"two")
        path.write_bytes(path.read_bytes().replace(b" a", b" b"))
        assert logs.run() == 0
        assert len(logs.rows()) == 2
        assert f"{path}: was emptied or replaced" in capsys.readouterr().err

    def test_log_read_before_tails_were_recorded_is_continued(self, logs, monkeypatch):
        logs.store("a")
        logs.log("a")
        logs.run()
        logs.change_rows("UPDATE rsync_log SET tail = ''")
        logs.store("b", b"two")
        logs.log("b")
        positions = []
        real = rsync_log.read_lines
        monkeypatch.setattr(
            rsync_log,
            "read_lines",
            lambda path, offset: positions.append(offset) or real(path, offset),
        )
        logs.run()
        assert len(logs.rows()) == 2
        assert positions[0] > 0

    @pytest.mark.promise
    def test_file_named_twice_is_recorded_once_and_kept(self, logs):
        logs.store("a")
        logs.log("a", "a")
        logs.log("a", name="rsync-2.log")
        assert logs.run() == 0
        assert logs.rows() == [("", "a", "STORED")]
        assert tree(logs.storage) == {"a": b"data"}

    def test_file_that_rsync_updated_is_due_again(self, logs):
        logs.add_target()
        logs.store("a")
        logs.log("a")
        logs.run()
        logs.change_rows("UPDATE ingest_state SET status = 'SUCCESS'")
        logs.store("a", b"updated")
        logs.log("<f.st...... a\n")
        assert logs.run() == 0
        digest = checksum.compute(outside(str(logs.storage / "a")))["blake2b"]
        assert logs.rows("SELECT size_bytes, checksum, status FROM file") == [
            (7, f"blake2b:{digest}", "STORED")
        ]
        assert logs.rows("SELECT status FROM ingest_state") == [("RERUN",)]

    def test_file_taken_to_be_ingested_is_due_once_rsync_updated_it(self, logs):
        logs.add_target()
        logs.store("a")
        logs.log("a")
        logs.run()
        logs.change_rows("UPDATE ingest_state SET status = 'BACKFILL'")
        logs.store("a", b"updated")
        logs.log("<f.st...... a\n")
        logs.run()
        assert logs.rows("SELECT status FROM ingest_state") == [("RERUN",)]

    def test_further_checksums_are_those_of_the_update(self, settings, tmp_path):
        logs = Logs(settings, tmp_path, checksums=["md5"])
        logs.store("a")
        logs.log("a")
        logs.run()
        logs.change_rows("INSERT INTO file_checksum VALUES (1, 'adler32', 'by a plugin')")
        path = logs.store("a", b"updated")
        logs.log("<f.st...... a\n")
        logs.run()
        digest = checksum.compute(outside(str(path)), ["md5"])["md5"]
        kept = logs.rows("SELECT algorithm, value FROM file_checksum")
        assert kept == [("md5", digest)]

    def test_log_that_still_changes_waits(self, settings, tmp_path):
        logs = Logs(settings, tmp_path, delay="1h")
        logs.store("a")
        path = logs.log("a")
        logs.run()
        assert logs.rows() == []
        os.utime(path, (time.time() - 7200,) * 2)
        logs.run()
        assert logs.rows() == [("", "a", "STORED")]

    def test_log_dated_in_the_future_waits_from_when_it_was_written(self, settings, tmp_path):
        logs = Logs(settings, tmp_path, delay="1h")
        logs.store("a")
        path = logs.log("a")
        os.utime(path, (time.time() + 30 * 86400,) * 2)
        logs.run()
        assert logs.rows() == []
        logs.change(delay=0)
        logs.run()
        assert logs.rows() == [("", "a", "STORED")]

    def test_what_no_scan_would_take_is_passed_over(self, logs):
        for name in (".dbb~0123", "d/.dbb~0123", ".dbb~d/a"):
            logs.store(name)
        logs.log(".dbb-storage", "./.dbb-storage", ".dbb~0123", "d/.dbb~0123", ".dbb~d/a")
        assert logs.run() == 0
        assert logs.rows() == []
        assert logs.rows("SELECT * FROM finder_left") == []

    def test_limit_leaves_the_rest_for_the_next_pass(self, logs):
        for name in ("a", "b", "c"):
            logs.store(name, name.encode())
        logs.log("a", "b", "c")
        logs.run(limit=2)
        assert len(logs.rows()) == 2
        logs.run()
        assert len(logs.rows()) == 3

    def test_match_leaves_the_rest_for_the_next_pass(self, logs):
        for name in ("a", "b"):
            logs.store(name, name.encode())
        logs.log("a", "b")
        logs.run(match=("b",))
        assert logs.rows() == [("", "b", "STORED")]
        logs.run()
        assert len(logs.rows()) == 2

    def test_match_looks_again_for_nothing_else(self, logs):
        logs.log("a", "b")
        logs.run()
        for name in ("a", "b"):
            logs.store(name, name.encode())
        logs.run(match=("b",))
        assert logs.rows() == [("", "b", "STORED")]
        logs.run()
        assert len(logs.rows()) == 2

    def test_database_that_fails_leaves_the_log_unread(self, logs, monkeypatch):
        logs.store("a")
        logs.log("a")

        def fail(*arguments):
            raise runner.TryLater("away")

        monkeypatch.setattr(logged, "adopt", fail)
        assert logs.run() == 75
        monkeypatch.undo()
        logs.run()
        assert logs.rows() == [("", "a", "STORED")]


class TestAwaiting:
    def test_file_that_is_not_there_yet_is_looked_for_again(self, logs, capsys):
        logs.log("late")
        assert logs.run() == 0
        assert logs.rows() == []
        logs.store("late")
        assert logs.run() == 0
        assert logs.rows() == [("", "late", "STORED")]
        assert logs.rows("SELECT * FROM finder_left") == []
        assert capsys.readouterr().err == ""

    def test_file_that_never_comes_is_given_up_with_a_report(self, settings, tmp_path, capsys):
        logs = Logs(settings, tmp_path, max_attempts=3)
        log = logs.log("never")
        assert [logs.run(), logs.run(), logs.run()] == [0, 0, 1]
        assert f"never: named by {log}; given up after 3 tries" in capsys.readouterr().err
        assert logs.rows("SELECT verdict, tries FROM finder_left") == [("GIVEN_UP", 3)]

    def test_file_that_was_given_up_is_recorded_when_a_log_names_it_again(self, settings, tmp_path):
        logs = Logs(settings, tmp_path, max_attempts=1)
        logs.log("late")
        assert logs.run() == 1
        logs.store("late")
        logs.log("late")
        assert logs.run() == 0
        assert logs.rows() == [("", "late", "STORED")]
        assert logs.rows("SELECT * FROM finder_left") == []

    def test_file_that_was_given_up_is_awaited_when_a_log_names_it_again(
        self, settings, tmp_path, capsys
    ):
        logs = Logs(settings, tmp_path, max_attempts=2)
        logs.log("late")
        assert [logs.run(), logs.run()] == [0, 1]
        logs.log("late")
        assert logs.run() == 0
        logs.store("late")
        assert logs.run() == 0
        assert logs.rows() == [("", "late", "STORED")]
        assert logs.rows("SELECT * FROM finder_left") == []

    @pytest.mark.promise
    def test_file_that_was_given_up_is_still_looked_for_but_rarely(
        self, settings, tmp_path, capsys
    ):
        logs = Logs(settings, tmp_path, max_attempts=1)
        logs.log("late")
        assert logs.run() == 1
        logs.store("late")
        assert not logs.is_due()
        assert logs.run() == 0
        assert logs.rows() == []
        self.ago(logs, hours=7)
        assert logs.is_due()
        assert logs.run() == 0
        assert logs.rows() == [("", "late", "STORED")]
        assert logs.rows("SELECT * FROM finder_left") == []
        assert "is over: late: named by" in capsys.readouterr().err

    def test_file_that_is_looked_for_in_vain_stays_given_up(self, settings, tmp_path, capsys):
        logs = Logs(settings, tmp_path, max_attempts=1)
        logs.log("never")
        assert logs.run() == 1
        before = logs.rows("SELECT verdict, tries, message FROM finder_left")
        self.ago(logs, hours=7)
        assert [logs.run(), logs.run()] == [0, 0]
        assert logs.rows("SELECT verdict, tries, message FROM finder_left") == before
        assert not logs.is_due()
        assert "is over: never" not in capsys.readouterr().err

    def test_a_pass_looks_for_no_more_than_a_batch_of_what_was_given_up(self, settings, tmp_path):
        logs = Logs(settings, tmp_path, max_attempts=1, batch_files=2)
        logs.log("a", "b", "c")
        logs.run()
        self.ago(logs, hours=7)
        assert logs.plan() == ["would look again for a", "would look again for b"]
        logs.run()
        assert logs.plan() == ["would look again for c"]

    def test_file_that_was_given_up_and_then_recorded_otherwise_is_no_trouble_any_more(
        self, settings, tmp_path, capsys
    ):
        logs = Logs(settings, tmp_path, max_attempts=1)
        logs.log("late")
        assert logs.run() == 1
        logs.store("late")
        backfill = BackfillWork(logs.finder)
        assert runner.run_pass(backfill, logs.settings, logs.finder, runner.Options()) == 0
        capsys.readouterr()
        assert logs.run() == 0
        assert "is over: late: named by" in capsys.readouterr().err
        assert logs.rows("SELECT * FROM finder_left") == []

    def test_clock_that_was_ahead_once_keeps_no_file_from_being_looked_for(
        self, settings, tmp_path
    ):
        logs = Logs(settings, tmp_path, max_attempts=2)
        logs.log("awaited")
        logs.run()
        self.ago(logs, days=-30)
        logs.run()
        assert logs.rows("SELECT verdict FROM finder_left") == [("GIVEN_UP",)]
        self.ago(logs, days=-30)
        logs.store("awaited")
        logs.run()
        assert logs.rows() == [("", "awaited", "STORED")]

    def test_file_that_was_forgotten_is_awaited_but_never_given_up(
        self, settings, tmp_path, capsys
    ):
        """A log that was rotated to another name is read again, from its beginning."""
        logs = Logs(settings, tmp_path, max_attempts=2)
        path = logs.store("a")
        log = logs.log("a")
        logs.run()
        path.unlink()
        with logs.database():
            forget("archive", logs.finder, "a", False, "why")
        log.rename(log.with_name("rsync-old.log"))
        assert logs.run() == 0
        assert logs.rows("SELECT verdict FROM finder_left") == [("AWAITED",)]
        assert logs.run() == 0
        assert logs.rows("SELECT * FROM finder_left") == []
        assert capsys.readouterr().err == ""

    def ago(self, logs, **times):
        """Let what is kept in mind have been looked for so long ago."""
        with logs.database():
            when = connect.now() - datetime.timedelta(**times)
            connect.execute("UPDATE finder_left SET seen_at = ?", [str(when)])

    def test_tries_are_some_time_apart(self, settings, tmp_path):
        logs = Logs(settings, tmp_path, retry_wait="1h")
        logs.log("late")
        logs.run()
        logs.run()
        assert logs.rows("SELECT tries FROM finder_left") == [(1,)]

    def test_file_that_is_being_written_is_looked_for_again(self, logs, monkeypatch):
        path = logs.store("a")
        logs.log("a")
        real = checksum.compute

        def grow(*arguments):
            found = real(*arguments)
            with open(path, "ab") as file:
                file.write(b"more")
            return found

        monkeypatch.setattr(checksum, "compute", grow)
        logs.run()
        monkeypatch.undo()
        assert logs.rows() == []
        logs.run()
        assert logs.rows("SELECT size_bytes FROM file") == [(8,)]

    def test_link_in_place_of_a_file_is_not_followed(self, settings, tmp_path):
        logs = Logs(settings, tmp_path, max_attempts=1)
        logs.store("a")
        os.symlink("a", logs.storage / "link")
        logs.log("link")
        assert logs.run() == 1
        assert logs.rows() == []


class TestRowsOfOthers:
    """What another pass has done to a row since it was read is not undone, and no news is lost."""

    @pytest.fixture
    def updated(self, logs):
        logs.add_target()
        logs.store("a")
        logs.log("a")
        logs.run()
        logs.change_rows("UPDATE ingest_state SET status = 'SUCCESS'")
        logs.store("a", b"updated")
        logs.log("<f.st...... a\n")
        return logs

    @pytest.mark.promise
    def test_update_of_a_file_that_the_auditor_marks_meanwhile_is_recorded_later(
        self, updated, monkeypatch
    ):
        real = checksum.compute

        def compute(*arguments):
            with updated.database():
                connect.execute("UPDATE file SET status = 'CORRUPT', error = 'other content'")
            connect.connect(updated.settings.database)
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(checksum, "compute", compute)
            assert updated.run() == 0
        assert updated.rows() == [("", "a", "CORRUPT")]
        assert updated.rows("SELECT status FROM ingest_state") == [("SUCCESS",)]
        assert updated.counts() == {"awaited": 1}
        assert updated.run() == 0
        assert updated.rows("SELECT size_bytes, status, error FROM file") == [(7, "STORED", None)]
        assert updated.rows("SELECT status FROM ingest_state") == [("RERUN",)]
        assert updated.rows("SELECT * FROM finder_left") == []

    def test_file_that_another_finder_is_storing_is_awaited(self, updated, hashed):
        updated.change_rows("UPDATE file SET status = 'ARRIVING', finder = 'other'")
        assert updated.run() == 0
        assert hashed == []
        assert updated.counts() == {"awaited": 1}
        updated.change_rows("UPDATE file SET status = 'STORED'")
        assert updated.run() == 0
        assert updated.counts() == {"updated": 1}
        assert updated.rows("SELECT size_bytes FROM file") == [(7,)]

    def test_file_that_another_finder_never_stores_is_given_up_with_its_name(self, updated, capsys):
        updated.change(max_attempts=1)
        updated.change_rows("UPDATE file SET status = 'ARRIVING', finder = 'other'")
        assert updated.run() == 1
        assert "finder.other is storing a file of this name" in capsys.readouterr().err


class TestUpdates:
    """A log may tell of an update before it is in its place."""

    def update(self, logs, content=b"updated"):
        """Put another file in the place of one, as rsync does."""
        os.replace(logs.store(".a.x1y2z3", content), logs.storage / "a")

    def size(self, logs):
        return logs.rows("SELECT size_bytes FROM file")

    @pytest.fixture
    def stored(self, logs):
        logs.store("a")
        logs.log("a")
        logs.run()
        return logs

    @pytest.mark.promise
    def test_update_that_comes_after_its_line_is_recorded(self, stored, capsys):
        stored.log("<f.st...... a\n")
        assert [stored.run(), stored.run()] == [0, 0]
        self.update(stored)
        assert stored.run() == 0
        assert self.size(stored) == [(7,)]
        assert stored.rows("SELECT * FROM finder_left") == []
        assert capsys.readouterr().err == ""

    @pytest.mark.promise
    @pytest.mark.parametrize("before", [[], ["a"]])
    def test_update_of_a_file_that_cannot_be_looked_at_is_awaited(self, logs, monkeypatch, before):
        path = logs.store("a")
        logs.log(*before)
        logs.run()
        logs.log("<f.st...... a\n")
        with monkeypatch.context() as patched:
            refuse(patched, Entry, "lstat", path)
            logs.run()
        logs.run()
        assert self.size(logs) == [(4,)]
        self.update(logs)
        logs.run()
        assert self.size(logs) == [(7,)]

    @pytest.mark.promise
    @pytest.mark.parametrize("before", [[], ["a"]])
    def test_update_of_a_file_that_is_new_to_us_is_awaited(self, logs, before):
        logs.store("a")
        logs.log(*before, "<f.st...... a\n")
        logs.run()
        assert self.size(logs) == [(4,)]
        self.update(logs)
        logs.run()
        assert self.size(logs) == [(7,)]

    @pytest.mark.promise
    def test_each_of_two_updates_is_awaited(self, stored):
        self.update(stored)
        stored.log("<f.st...... a\n", "<f.st...... a\n")
        stored.run()
        assert self.size(stored) == [(7,)]
        self.update(stored, b"once more")
        stored.run()
        assert self.size(stored) == [(9,)]

    @pytest.mark.promise
    def test_update_named_while_another_one_is_awaited_is_awaited_too(self, stored):
        stored.log("<f.st...... a\n")
        stored.run()
        self.update(stored)
        stored.log("<f.st...... a\n")
        stored.change(retry_wait=3600)
        stored.run()
        assert self.size(stored) == [(7,)]
        stored.change(retry_wait=0)
        self.update(stored, b"once more")
        stored.run()
        assert self.size(stored) == [(9,)]

    def test_update_that_came_before_its_line_was_read_is_not_awaited(self, stored):
        self.update(stored)
        stored.log("<f.st...... a\n")
        stored.run()
        assert self.size(stored) == [(7,)]
        assert stored.rows("SELECT * FROM finder_left") == []

    def test_update_that_does_not_show_is_dropped_quietly(self, stored, hashed, capsys):
        stored.change(max_attempts=3)
        stored.log("<f.st...... a\n")
        tries = []
        for _ in range(4):
            assert stored.run() == 0
            tries += stored.rows("SELECT verdict, tries FROM finder_left")
        assert tries == [("AWAITED", 1), ("AWAITED", 2)]
        assert hashed == []
        assert capsys.readouterr().err == ""

    def test_looks_for_an_update_are_some_time_apart(self, stored):
        stored.change(retry_wait=3600)
        stored.log("<f.st...... a\n")
        stored.run()
        stored.run()
        assert stored.rows("SELECT tries FROM finder_left") == [(1,)]


class TestDays:
    """Which days' logs are read: a day's log names a file of that day."""

    DAYS = tuple(datetime.date(2026, 11, day) for day in range(20, 29))

    def read(self, logs, monkeypatch, hour=12, zone="UTC0"):
        """Make a pass on 2026-11-24; give the days of November whose logs were read."""
        now = datetime.datetime(2026, 11, 24, hour, tzinfo=datetime.UTC).timestamp()
        for day in self.DAYS:
            logs.store(f"{day:%d}", f"{day}".encode())
            os.utime(logs.log(f"{day:%d}", day=day), (now - 60,) * 2)
        with at(monkeypatch, now, zone):
            assert logs.run() == 0
        return [int(name) for _, name, _ in logs.rows()]

    @pytest.mark.parametrize(
        ("keys", "days"),
        [
            ({}, [23, 24, 25]),
            ({"past_days": 0, "future_days": 0}, [24]),
            ({"past_days": 2, "future_days": 0}, [22, 23, 24]),
            ({"past_days": 0, "future_days": 2}, [24, 25, 26]),
            ({"date": "20261122"}, [21, 22, 23]),
            ({"date": "20261122", "past_days": 0, "future_days": 3}, [22, 23, 24, 25]),
            ({"past_days": 10**9, "future_days": 10**9}, list(range(20, 29))),
        ],
    )
    def test_days_are_those_around_today(self, settings, tmp_path, monkeypatch, keys, days):
        assert self.read(Logs(settings, tmp_path, **keys), monkeypatch) == days

    @pytest.mark.parametrize(("hour", "zone"), [(11, "KIRITIMATI-14"), (5, "PAGO11")])
    def test_today_is_that_of_utc(self, logs, monkeypatch, hour, zone):
        assert self.read(logs, monkeypatch, hour, zone) == [23, 24, 25]

    def test_since_catches_up(self, logs, monkeypatch):
        logs.since = datetime.date(2026, 11, 21)
        assert self.read(logs, monkeypatch) == [21, 22, 23, 24, 25]


class TestDatabaseThatWasLost:
    """Storage is as it was: what the logs name is recorded again, and nothing else happens."""

    FILES = "SELECT relpath, filename, size_bytes, checksum, status FROM file ORDER BY filename"

    @pytest.fixture
    def recorded(self, logs):
        """Two files, of which one was updated, and one of a day long ago."""
        logs.add_target()
        logs.store("a")
        logs.log("a")
        logs.run()
        logs.store("a", b"updated")
        logs.store("b", b"two")
        logs.store("old", b"three")
        logs.log("<f.st...... a\n", "b")
        logs.log("old", day=TODAY - datetime.timedelta(days=9))
        logs.since = TODAY - datetime.timedelta(days=10)
        assert logs.run() == 0
        assert len(logs.rows()) == 3
        return logs

    @pytest.mark.promise
    def test_all_is_recorded_again(self, recorded, capsys):
        files, there = recorded.rows(self.FILES), tree(recorded.storage)
        for table in ("ingest_event", "ingest_state", "file_checksum", "file", "rsync_log"):
            recorded.change_rows(f"DELETE FROM {table}")
        assert recorded.run() == 0
        assert recorded.rows(self.FILES) == files
        assert tree(recorded.storage) == there
        assert recorded.rows("SELECT status FROM ingest_state") == [("UNTRIED",)] * 3
        assert capsys.readouterr().err == ""

    @pytest.mark.promise
    def test_positions_alone_are_lost(self, recorded, hashed, capsys):
        files, there = recorded.rows(self.FILES), tree(recorded.storage)
        recorded.change_rows("UPDATE ingest_state SET status = 'SUCCESS'")
        recorded.change_rows("DELETE FROM rsync_log")
        hashed.clear()
        assert [recorded.run() for _ in range(9)] == [0] * 9
        assert recorded.rows(self.FILES) == files
        assert tree(recorded.storage) == there
        assert hashed == []
        assert recorded.rows("SELECT status FROM ingest_state") == [("SUCCESS",)] * 3
        assert recorded.rows("SELECT * FROM finder_left") == []
        assert capsys.readouterr().err == ""

    @pytest.mark.promise
    def test_database_restored_from_last_night(self, logs, capsys):
        logs.add_target()
        logs.store("a")
        logs.log("a")
        logs.run()
        last_night = {
            table: logs.rows(f"SELECT {columns} FROM {table}")[0]
            for table, columns in {
                "file": "size_bytes, checksum, mtime_ns, inode",
                "rsync_log": "size_bytes, position, tail",
            }.items()
        }
        logs.store("a", b"updated")
        logs.store("b", b"two")
        logs.log("<f.st...... a\n", "b")
        logs.run()
        files, there = logs.rows(self.FILES), tree(logs.storage)
        for table in ("ingest_event", "ingest_state", "file_checksum"):
            logs.change_rows(f"DELETE FROM {table}")
        logs.change_rows("DELETE FROM file WHERE filename = 'b'")
        logs.change_rows(
            "UPDATE file SET size_bytes = ?, checksum = ?, mtime_ns = ?, inode = ?",
            last_night["file"],
        )
        logs.change_rows(
            "UPDATE rsync_log SET size_bytes = ?, position = ?, tail = ?", last_night["rsync_log"]
        )
        assert logs.run() == 0
        assert logs.rows(self.FILES) == files
        assert tree(logs.storage) == there
        assert logs.rows("SELECT status FROM ingest_state") == [("UNTRIED",)] * 2
        assert capsys.readouterr().err == ""


class TestRefusing:
    @pytest.mark.promise
    @pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "d/../../outside"])
    def test_path_outside_storage_is_refused_and_reported(self, logs, tmp_path, capsys, name):
        (tmp_path / "outside").touch()
        logs.log(name)
        assert logs.run() == 1
        assert "not inside storage: refused" in capsys.readouterr().err
        assert logs.rows() == []

    @pytest.mark.promise
    def test_path_through_a_link_out_of_storage_is_refused_in_the_end(
        self, settings, tmp_path, capsys
    ):
        logs = Logs(settings, tmp_path, max_attempts=2)
        os.symlink(tmp_path, logs.storage / "out")
        (tmp_path / "file").touch()
        logs.log("out/file")
        assert logs.run() == 0
        assert capsys.readouterr().err == ""
        assert logs.run() == 1
        said = capsys.readouterr().err
        assert "given up after 2 tries: reached through a link, it is not inside storage" in said
        assert logs.rows() == []

    @pytest.mark.promise
    def test_file_of_a_directory_that_is_a_link_for_a_moment_is_awaited(self, settings, tmp_path):
        logs = Logs(settings, tmp_path)
        logs.store("d/a")
        logs.log("d/a")
        outside = (logs.storage / "d").rename(tmp_path / "outside")
        (logs.storage / "d").symlink_to(outside)
        assert logs.run() == 0
        assert logs.rows() == []
        (logs.storage / "d").unlink()
        outside.rename(logs.storage / "d")
        assert logs.run() == 0
        assert logs.rows() == [("d", "a", "STORED")]

    def test_storage_without_its_sentinel_leaves_the_log_unread(self, logs):
        logs.log("a")
        (logs.storage / ".dbb-storage").unlink()
        assert logs.run() == 75
        assert logs.rows("SELECT * FROM rsync_log") == []

    def test_refused_path_is_not_taken_for_a_file_of_storage(self, logs, capsys):
        logs.store("a")
        logs.log("/a", "//a", "a", "..//a", "../a")
        assert logs.run() == 1
        said = capsys.readouterr().err
        assert ": /a: a log names it" in said
        assert ": ../a: a log names it" in said
        assert logs.rows() == [("", "a", "STORED")]

    @pytest.mark.promise
    @pytest.mark.parametrize(
        "line", [b"\0\0\0", b"<f+++++++++ half\0\0", b"<f+++++++++ a\\#000b\n"]
    )
    def test_log_with_nuls_is_reported_and_read_on(self, logs, capsys, line):
        for name in ("a", "b", "half"):
            logs.store(name, name.encode())
        path = logs.log("a")
        with open(path, "ab") as file:
            file.write(line)
        logs.log("b")
        assert logs.run() == 1
        assert f"{path}: NUL bytes before byte" in capsys.readouterr().err
        assert logs.rows() == [("", "a", "STORED"), ("", "b", "STORED")]
        assert logs.run() == 0
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("name", ["/etc/passwd", "/passwd", "../outside", "d/../../outside"])
    def test_refused_path_can_be_forgotten(self, logs, capsys, name):
        logs.log(name)
        logs.run()
        capsys.readouterr()
        with logs.database():
            forget("archive", logs.finder, name, False, "why")
        assert logs.run() == 0
        assert f"is over: {name}: a log names it" in capsys.readouterr().err
        assert logs.rows("SELECT * FROM finder_left") == []

    def test_nuls_in_a_log_can_be_forgotten(self, logs, capsys):
        path = logs.log(b"\0\n")
        logs.run()
        capsys.readouterr()
        with logs.database():
            forget("archive", logs.finder, str(path), False, "why")
        assert logs.run() == 0
        assert f"is over: {path}: NUL bytes" in capsys.readouterr().err


class TestReplacedLogs:
    """A log that was rotated, or emptied, before it was read to its end."""

    @pytest.fixture
    def read(self, logs):
        """The path of a log of which the line about `a` was read, and that about `b` was not."""
        for name in "abcd":
            logs.store(name, name.encode())
        path = logs.log("a")
        logs.run()
        logs.log("b")
        return path

    def names(self, logs):
        return "".join(name for _, name, _ in logs.rows())

    def compress(self, path):
        with open(path, "rb") as plain, gzip.open(f"{path}.1.gz", "wb") as packed:
            packed.write(plain.read())

    @pytest.mark.promise
    @pytest.mark.parametrize("name", ["rsync.log.1", "rsync.log-20261124", "old/../other"])
    def test_rest_of_one_that_was_renamed_is_read_first(self, logs, read, capsys, name):
        (read.parent / "old").mkdir()
        read.rename(read.parent / name)
        logs.log("c")
        assert logs.plan() == [
            f"would read {read.parent / os.path.basename(name)} from byte 14: 1 file",
            f"would read {read} from byte 0: 1 file",
        ]
        assert logs.run() == 0
        assert self.names(logs) == "abc"
        assert capsys.readouterr().err == ""
        assert logs.plan() == []

    def test_rest_of_one_is_read_where_no_new_one_has_a_line_yet(self, logs, read, capsys):
        read.rename(f"{read}.1")
        read.touch()
        assert logs.run() == 0
        assert self.names(logs) == "ab"
        logs.log("c")
        os.unlink(f"{read}.1")
        assert logs.run() == 0
        assert self.names(logs) == "abc"
        assert capsys.readouterr().err == ""

    def test_rest_of_one_that_was_copied_and_emptied_is_read(self, logs, read, capsys):
        shutil.copy(read, f"{read}.1")
        os.truncate(read, 0)
        logs.log("c", "d")
        assert logs.run() == 0
        assert self.names(logs) == "abcd"
        assert capsys.readouterr().err == ""

    def test_rest_of_one_that_was_compressed_is_read(self, logs, read, capsys):
        self.compress(read)
        read.unlink()
        logs.log("c")
        assert logs.run() == 0
        assert self.names(logs) == "abc"
        assert capsys.readouterr().err == ""

    def test_those_between_are_read_too(self, logs, read, capsys):
        read.rename(f"{read}.2")
        os.utime(f"{read}.2", (1, 1))
        logs.log("c").rename(f"{read}.1")
        logs.log("d")
        assert logs.run() == 0
        assert self.names(logs) == "abcd"
        assert capsys.readouterr().err == ""

    def test_limit_leaves_the_rest_of_each_for_the_next_pass(self, logs, read):
        logs.log("c")
        read.rename(f"{read}.1")
        logs.log("d")
        for expected in ("ab", "abc", "abcd"):
            logs.run(limit=1)
            assert self.names(logs) == expected

    def test_match_leaves_the_rest_for_the_next_pass(self, logs, read):
        read.rename(f"{read}.1")
        logs.log("c")
        logs.run(match=("c",))
        assert self.names(logs) == "ac"
        logs.run()
        assert self.names(logs) == "abc"

    @pytest.mark.parametrize("how", ["emptied", "removed", "broken"])
    def test_loss_of_the_rest_is_reported_once(self, logs, read, capsys, how):
        if how == "emptied":
            os.truncate(read, 0)
        else:
            # Its inode is not to be given to the next one.
            read.rename(read.parent.parent / "elsewhere")
        if how == "broken":
            Path(f"{read}.1.gz").write_bytes(gzip.compress(b"<f+++++++++ a\n<f+++++++++ b\n")[:-12])
        logs.log("c", "d")
        assert logs.run() == 0
        assert self.names(logs) == "acd"
        assert f"{read}: was emptied or replaced after" in capsys.readouterr().err
        logs.run()
        assert "is over" in capsys.readouterr().err
        logs.run()
        assert capsys.readouterr().err == ""

    def test_one_to_which_rsync_still_writes_is_waited_for(self, settings, tmp_path):
        logs = Logs(settings, tmp_path, delay=60)
        logs.store("a")
        logs.store("b", b"two")
        path = logs.log("a")
        os.utime(path, (1, 1))
        logs.run()
        logs.log("b").rename(f"{path}.1")
        os.utime(logs.log("a"), (1, 1))
        logs.run()
        assert self.names(logs) == "a"
        os.utime(f"{path}.1", (1, 1))
        logs.run()
        assert self.names(logs) == "ab"


class TestOtherFormats:
    """A log whose lines are not those of rsync's own format."""

    @pytest.mark.promise
    @pytest.mark.parametrize(
        "line",
        [
            b"2026/11/24 07:03:13 [89] send tmp/from/d/a.fits 2\n",
            b"2026/11/24 07:03:13 [89] send tmp/not/there/yet.fits 2\n",
            b"d/a.fits\n",
            b"with blanks.fits\n",
            b'{"name": "d/a.fits", "size": 2}\n',
            b"/data/storage/d/a.fits|2|send\n",
            b"send:d/a.fits\r\n",
        ],
    )
    def test_it_is_reported_once(self, logs, capsys, line):
        logs.store("d/a.fits")
        logs.store("with blanks.fits", b"two")
        path = logs.log("sending incremental file list\n", line, "\n", "sent 1 bytes\n")
        assert logs.run() == 1
        assert f"{path}: its lines from byte 0" in capsys.readouterr().err
        assert logs.run() == 0
        assert capsys.readouterr().err == ""
        with logs.database():
            forget("archive", logs.finder, str(path), False, "why")
        logs.run()
        assert "is over" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "line",
        [
            b"*** Authorized use only ***\n",
            b"Mon Nov 24 07:00:01 UTC 2026 start\n",
            b"rsync: [sender] link_stat failed: No such file or directory (2)\n",
            b"2026/11/24 07:03:13 [89] building file list\n",
            b"2026/11/24 07:03:13 [89] .d..t...... ./\n",
            b".f...p..... a\n",
            b"cd+++++++++ d/\n",
            b"*deleting   d/a.fits\n",
            b"          2 100%    0.00kB/s    0:00:00 (xfr#1, to-chk=0/4)\r\n",
        ],
    )
    def test_words_about_no_file_are_none(self, logs, capsys, line):
        logs.store("a")
        logs.store("d/a.fits", b"two")
        logs.log(line)
        assert logs.run() == 0
        assert capsys.readouterr().err == ""

    def test_lines_beside_those_that_are_understood_are_none(self, logs, capsys):
        logs.store("a")
        logs.log("a\n", "a")
        assert logs.run() == 0
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("line", [b"<f+++++++++ a\r\n", b"2026/11/24 07:03:13 >f+++++++++ a\n"])
    def test_line_of_another_system_is_understood(self, logs, capsys, line):
        logs.store("a")
        logs.log(line)
        assert logs.run() == 0
        assert logs.rows() == [("", "a", "STORED")]


class TestDaysBefore:
    """A log of a day before those that are read."""

    OLD = TODAY - datetime.timedelta(days=4)

    @pytest.mark.promise
    def test_it_is_reported_until_it_is_read(self, logs, capsys):
        logs.store("a")
        logs.log("a", day=self.OLD)
        said = (
            "of days before past_days, 1 log is not read to the end, the first of "
            f"{self.OLD:%Y%m%d}: `dbb-finder latiss --since {self.OLD}` reads them"
        )
        assert logs.run() == 0
        assert said in capsys.readouterr().err
        assert logs.run() == 0
        assert capsys.readouterr().err == ""
        logs.since = self.OLD
        logs.run()
        assert logs.rows() == [("", "a", "STORED")]
        logs.since = None
        capsys.readouterr()
        assert logs.run() == 0
        assert capsys.readouterr().err == ""

    def test_it_is_reported_when_it_grew_since(self, logs, capsys):
        logs.since = self.OLD
        logs.store("a")
        logs.log("a", day=self.OLD)
        logs.run()
        logs.since = None
        logs.run()
        assert capsys.readouterr().err == ""
        logs.log("b", day=self.OLD)
        logs.run()
        assert "of days before past_days, 1 log is" in capsys.readouterr().err

    @pytest.mark.parametrize("days", [40, 400])
    def test_it_is_nobodys_after_a_month(self, logs, capsys, days):
        logs.log("a", day=TODAY - datetime.timedelta(days=days))
        assert logs.run() == 0
        assert capsys.readouterr().err == ""

    def test_log_of_no_day_is_reported_once(self, logs, capsys):
        path = logs.source / "rsync.log"
        path.write_bytes(b"<f+++++++++ a\n")
        assert logs.run() == 0
        assert f"{path}: is not read: logs are looked for in a directory" in capsys.readouterr().err
        assert logs.run() == 0
        assert capsys.readouterr().err == ""
        path.unlink()
        logs.run()
        assert "is over" in capsys.readouterr().err

    def test_date_says_that_others_are_not_wanted(self, settings, tmp_path, capsys):
        logs = Logs(settings, tmp_path, date=f"{TODAY:%Y%m%d}")
        logs.log("a", day=self.OLD)
        assert logs.run() == 0
        assert capsys.readouterr().err == ""


class TestWhatIsNoLog:
    @pytest.mark.parametrize(("make", "what"), [(os.mkdir, "a directory"), (os.mkfifo, "a FIFO")])
    def test_it_is_reported_and_never_opened(self, logs, capsys, make, what):
        logs.store("a")
        directory = logs.log("a").parent
        make(directory / "rsync-0.log")
        assert logs.run() == 0
        assert logs.rows() == [("", "a", "STORED")]
        assert f"{directory}/rsync-0.log: {what}, not a log" in capsys.readouterr().err
        assert logs.plan() == []
        assert not logs.is_due()

    def test_log_that_cannot_be_read_keeps_none_from_being_read(self, logs, monkeypatch, capsys):
        logs.store("a")
        logs.log("a")
        path = logs.log("b", name="rsync-0.log")
        refuse(monkeypatch, Entry, "open", path)
        assert logs.run() == 1
        assert logs.rows() == [("", "a", "STORED")]
        assert f"{path}: cannot be read: Permission denied" in capsys.readouterr().err
        assert logs.plan() == [f"cannot read {path}: Permission denied"]
        assert not logs.is_due()

    def test_day_that_cannot_be_read_keeps_none_from_being_read(self, logs, monkeypatch, capsys):
        logs.store("a")
        logs.log("a")
        day = logs.log("b", day=TODAY - datetime.timedelta(days=1)).parent
        refuse(monkeypatch, Tree, "names", day.name)
        assert logs.run() == 1
        assert logs.rows() == [("", "a", "STORED")]
        assert f"{day}: cannot be read: Permission denied" in capsys.readouterr().err

    def test_log_that_cannot_be_looked_at_is_reported(self, logs, monkeypatch, capsys):
        logs.store("a")
        logs.log("a")
        path = logs.log("b", name="rsync-0.log")
        refuse(monkeypatch, Entry, "lstat", path)
        assert logs.run() == 1
        assert logs.rows() == [("", "a", "STORED")]
        assert f"{path}: cannot be read: Permission denied" in capsys.readouterr().err

    @pytest.mark.promise
    def test_log_that_is_a_link_is_not_followed(self, logs, tmp_path, capsys):
        logs.store("a")
        path = logs.log("a")
        path.symlink_to(path.rename(tmp_path / "outside.log"))
        assert logs.run() == 0
        assert logs.rows() == []
        assert f"{path}: a symbolic link, not a log" in capsys.readouterr().err

    @pytest.mark.promise
    def test_day_that_is_a_link_for_a_moment_waits(self, logs, tmp_path, capsys):
        logs.store("a")
        day = logs.log("a").parent
        outside = day.rename(tmp_path / "outside")
        day.symlink_to(outside)
        assert logs.run() == 1
        assert logs.rows() == []
        assert f"{day}: cannot be read: Not a directory" in capsys.readouterr().err
        day.unlink()
        outside.rename(day)
        assert logs.run() == 0
        assert logs.rows() == [("", "a", "STORED")]

    def test_file_named_like_a_day_is_none(self, logs, capsys):
        (logs.source / f"{TODAY:%Y%m%d}").touch()
        assert logs.run() == 0
        assert capsys.readouterr().err == ""


class TestDoneMarks:
    def test_none_is_written_unless_asked_for(self, logs):
        path = logs.log("a")
        logs.store("a")
        logs.run()
        assert os.listdir(path.parent) == ["rsync.log"]

    def test_mark_is_written_once_nothing_is_awaited(self, settings, tmp_path):
        logs = Logs(settings, tmp_path, done_suffix=".done")
        path = logs.log("a")
        logs.run()
        assert os.listdir(path.parent) == ["rsync.log"]
        logs.store("a")
        logs.run()
        assert sorted(os.listdir(path.parent)) == ["rsync.log", "rsync.log.done"]

    def test_no_mark_is_written_while_the_rest_of_a_rotated_log_waits(self, settings, tmp_path):
        logs = Logs(settings, tmp_path, done_suffix=".done")
        for name in "abc":
            logs.store(name, name.encode())
        path = logs.log("a")
        assert logs.run() == 0
        Path(f"{path}.done").unlink()
        logs.log("b", "c").rename(f"{path}.1")
        path.touch()
        logs.run(limit=1)
        assert not Path(f"{path}.done").exists()
        logs.run()
        assert len(logs.rows()) == 3
        assert Path(f"{path}.done").exists()

    @pytest.mark.promise
    def test_no_mark_is_written_through_a_link(self, settings, tmp_path, monkeypatch, capsys):
        logs = Logs(settings, tmp_path, done_suffix=".done")
        logs.store("a")
        day = logs.log("a").parent
        outside = tmp_path / "outside"
        touch = place.touch

        def exchanged(mark):
            day.rename(outside)
            day.symlink_to(outside)
            mark.tree.forget()
            touch(mark)

        monkeypatch.setattr(place, "touch", exchanged)
        assert logs.run() == 1
        assert os.listdir(outside) == ["rsync.log"]
        assert "rsync.log.done: cannot be written: Not a directory" in capsys.readouterr().err

    def test_mark_that_cannot_be_written_is_called_that(
        self, settings, tmp_path, monkeypatch, capsys
    ):
        logs = Logs(settings, tmp_path, done_suffix=".done")
        logs.store("a")
        path = logs.log("a")
        refuse(monkeypatch, place, "touch", f"{path}.done")
        assert logs.run() == 1
        assert logs.rows() == [("", "a", "STORED")]
        said = capsys.readouterr().err
        assert f"{path}.done: cannot be written: Permission denied" in said
        assert "cannot be read" not in said


class TestLookingOnly:
    def test_dry_run_says_what_would_be_read(self, logs):
        path = logs.log("a", "b")
        assert logs.plan() == [f"would read {path} from byte 0: 2 files"]
        logs.run()
        assert logs.plan() == ["would look again for a", "would look again for b"]

    def test_pass_without_news_is_not_due(self, logs):
        logs.store("a")
        logs.log("a")
        assert logs.is_due()
        logs.run()
        assert not logs.is_due()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
class TestCommandLine:
    def test_since_reads_the_logs_of_every_day_from_then_on(self, site):
        site.write(finder={"search": "rsync-logs", "standard": "none", "delay": 0})
        for day in ("20250304", "20250305", "20250306"):
            site.put(f"{day}/rsync.log", b"<f+++++++++ a\n", site.far_buffer)
        assert site.run("dbb-finder", "--dry-run") == (0, "", "")
        for since in ("2025-03-05", "20250305"):
            ran = site.run("dbb-finder", "--dry-run", "--since", since)
            assert ran.out == "".join(
                f"would read {site.far_buffer}/{day}/rsync.log from byte 0: 1 file\n"
                for day in ("20250305", "20250306")
            )

    def test_since_has_no_meaning_for_a_scan(self, site):
        ran = site.run("dbb-finder", "--since", "2025-03-05")
        assert (ran.code, ran.out) == (64, "")
        assert "--since: [finder.latiss] reads no logs" in ran.err

    def test_date_that_is_no_day_is_a_fault_of_the_configuration(self, site):
        site.write(finder={"search": "rsync-logs", "standard": "none", "date": "20261332"})
        ran = site.run("dbb-finder")
        assert ran.code == 78
        assert "[finder.latiss] date: expected a day as YYYYMMDD, not '20261332'" in ran.err


@pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed")
def test_what_the_installed_rsync_sends_is_recorded(logs, tmp_path):
    names = [b"plain.fits", b"a b", b"nl\nx", b"\xff\xfe", b"back\\#123", b"\x01", b"x => y"]
    for name in names:
        logs.put(b"night/" + name, name, tmp_path / "summit")
    for name in ("x => z", "linked"):
        os.link(tmp_path / "summit/night/x => y", tmp_path / "summit/night" / name)
        names.append(name)
    log = logs.log()
    argv = ["rsync", "-aH", f"--log-file={log}", f"{tmp_path}/summit/", f"{logs.storage}/"]
    subprocess.run(argv, check=True)
    assert logs.run() == 0
    assert logs.rows("SELECT count(*) FROM file WHERE status = 'STORED'") == [(len(names),)]


@pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed")
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
@pytest.mark.parametrize("how", ["--delay-updates", "--itemize-changes"])
def test_what_the_installed_rsync_updates_is_recorded_when_it_is_there(settings, tmp_path, how):
    """Passes meet the line while the old content is still there."""
    logs = Logs(settings, tmp_path, retry_wait=0.5)
    summit = tmp_path / "summit"
    logs.put("a", b"first", summit)
    log = logs.log()

    def start(*more):
        argv = ["rsync", "-a", *more, f"{summit}/", f"{logs.storage}/"]
        if how == "--delay-updates":
            return subprocess.Popen([*argv, how, f"--log-file={log}"])
        with open(log, "ab") as out:
            return subprocess.Popen([*argv, how, "--outbuf=L"], stdout=out)

    assert start().wait() == 0
    logs.run()
    big = os.urandom(2 << 20)
    logs.put("a", b"second" + (big if how == "--itemize-changes" else b""), summit)
    logs.put("b", big, summit)
    at_work = start("--bwlimit=1000")
    early = 0
    while at_work.poll() is None:
        logs.run()
        early += logs.rows("SELECT inode FROM finder_left WHERE filename = 'a'") != []
        time.sleep(0.1)
    assert at_work.returncode == 0
    assert early
    deadline = time.monotonic() + 30
    size = [((logs.storage / "a").stat().st_size,)]
    while logs.rows("SELECT size_bytes FROM file WHERE filename = 'a'") != size:
        assert time.monotonic() < deadline
        assert logs.run() == 0
        time.sleep(0.1)
