"""The finder that reads rsync's logs: what it records, awaits, gives up and refuses."""

import datetime
import os
import shutil
import subprocess
import time

import pytest

from dbbbatch import config
from dbbbatch.files import checksum, rsync_log
from dbbbatch.keys import defaults
from dbbbatch.passes import base
from dbbbatch.passes.finder import logged
from dbbbatch.passes.finder.rsync import RsyncWork
from tests.passes.finding import Finding, tree

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

    def store(self, rel, content=b"data"):
        """Put a file in storage, as rsync does."""
        return self.put(rel, content, self.storage)


@pytest.fixture
def settings(tmp_path, database_url):
    return config.Settings(
        path=tmp_path / "dbb.toml",
        site=defaults(config.Site, name="archive", state=str(tmp_path / "state")),
        database=defaults(config.Database, url=database_url, patience=0.2),
        handoff={},
        finder={},
        target={},
    )


@pytest.fixture
def logs(settings, tmp_path):
    return Logs(settings, tmp_path)


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

    def test_prefix_says_where_rsyncs_root_is(self, settings, tmp_path):
        logs = Logs(settings, tmp_path, prefix="raw/{date}")
        logs.store(f"raw/{TODAY:%Y%m%d}/a")
        logs.log("./a")
        logs.run()
        assert logs.rows() == [(f"raw/{TODAY:%Y%m%d}", "a", "STORED")]

    def test_log_that_grew_is_continued(self, logs, monkeypatch):
        logs.store("a")
        logs.log("a")
        logs.run()
        logs.store("b", b"two")
        logs.log("b")
        read = []
        real = checksum.compute
        monkeypatch.setattr(
            checksum, "compute", lambda path, *more: read.append(path) or real(path, *more)
        )
        logs.run()
        assert read == [str(logs.storage / "b")]
        assert len(logs.rows()) == 2

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
    def test_log_that_was_written_anew_in_its_place_is_read_from_its_beginning(self, logs):
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

    def test_log_read_before_tails_were_recorded_is_continued(self, logs, monkeypatch):
        logs.store("a")
        logs.log("a")
        logs.run()
        logs.change_rows("UPDATE rsync_log SET tail = ''")
        logs.store("b", b"two")
        logs.log("b")
        positions = []
        real = rsync_log.read
        monkeypatch.setattr(
            rsync_log, "read", lambda path, offset: positions.append(offset) or real(path, offset)
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
        digest = checksum.compute(str(logs.storage / "a"))["blake2b"]
        assert logs.rows("SELECT size_bytes, checksum, status FROM file") == [
            (7, f"blake2b:{digest}", "STORED")
        ]
        assert logs.rows("SELECT status FROM ingest_state") == [("RERUN",)]

    def test_logs_of_other_days_are_not_read(self, logs):
        logs.store("a")
        logs.log("a", day=TODAY - datetime.timedelta(days=9))
        logs.run()
        assert logs.rows() == []

    def test_since_catches_up(self, logs):
        logs.store("a")
        logs.log("a", day=TODAY - datetime.timedelta(days=9))
        logs.since = TODAY - datetime.timedelta(days=10)
        logs.run()
        assert logs.rows() == [("", "a", "STORED")]

    def test_log_that_still_changes_waits(self, settings, tmp_path):
        logs = Logs(settings, tmp_path, delay="1h")
        logs.store("a")
        path = logs.log("a")
        logs.run()
        assert logs.rows() == []
        os.utime(path, (time.time() - 7200,) * 2)
        logs.run()
        assert logs.rows() == [("", "a", "STORED")]

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

    def test_database_that_fails_leaves_the_log_unread(self, logs, monkeypatch):
        logs.store("a")
        logs.log("a")

        def fail(*arguments):
            raise base.TryLater("away")

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


class TestRefusing:
    @pytest.mark.promise
    @pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "d/../../outside", "out/file"])
    def test_path_outside_storage_is_refused_and_reported(self, logs, tmp_path, capsys, name):
        os.symlink(tmp_path, logs.storage / "out")
        (tmp_path / "file").touch()
        (tmp_path / "outside").touch()
        logs.log(name)
        assert logs.run() == 1
        assert "not inside storage: refused" in capsys.readouterr().err
        assert logs.rows() == []

    def test_storage_without_its_sentinel_leaves_the_log_unread(self, logs):
        logs.log("a")
        (logs.storage / ".dbb-storage").unlink()
        assert logs.run() == 75
        assert logs.rows("SELECT * FROM rsync_log") == []


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


class TestLookingOnly:
    def test_dry_run_says_what_would_be_read(self, logs):
        path = logs.log("a", "b")
        assert logs.plan() == [f"would read {path} from byte 0: 2 files"]
        logs.run()
        assert logs.plan() == ["would look again for a", "would look again for b"]

    def test_pass_without_news_is_not_due(self, logs):
        work = RsyncWork(logs.finder)
        look = base.Pass(logs.settings, logs.finder, base.Options(), None, None)
        logs.store("a")
        logs.log("a")
        with logs.database():
            assert work.due(look)
        logs.run()
        with logs.database():
            assert not work.due(look)


@pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed")
def test_what_the_installed_rsync_sends_is_recorded(logs, tmp_path):
    names = [b"plain.fits", b"a b", b"nl\nx", b"\xff\xfe", b"back\\#123", b"\x01"]
    for name in names:
        logs.put(b"night/" + name, name, tmp_path / "summit")
    log = logs.log()
    argv = ["rsync", "-a", f"--log-file={log}", f"{tmp_path}/summit/", f"{logs.storage}/"]
    subprocess.run(argv, check=True)
    assert logs.run() == 0
    assert logs.rows("SELECT count(*) FROM file WHERE status = 'STORED'") == [(len(names),)]
