"""What every pass does, whatever its work: locks, exit codes, the row in `run`."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager

import pytest

from dbbbatch.database import connect
from dbbbatch.database.models.run import Pause, Run
from dbbbatch.errors import ConfigError, TryLater
from dbbbatch.files.lock import Lock
from dbbbatch.passes import memory, runner
from dbbbatch.report import verdict
from tests.support.scripts import TOP


class Section:
    name = "a"


class Work(runner.Work):
    """Does what the test gives it to do."""

    kind = "demo"
    interval = 0.01

    def __init__(self, work=lambda p: None, recover=lambda p: None, due=lambda p: False):
        self._work, self._recover, self._due = work, recover, due
        self.done = []

    def recover(self, p):
        self.done.append("recover")
        self._recover(p)

    def work(self, p):
        self.done.append("work")
        self._work(p)

    def plan(self, p):
        yield from ("first", "second")

    def due(self, p):
        return self._due(p)


def raises(error):
    def work(p):
        raise error

    return work


@pytest.fixture
def run(settings):
    def run(work, **options):
        return runner.run_pass(work, settings, Section(), runner.Options(**options))

    return run


@pytest.fixture
def runs(settings):
    """Return the rows of `run`: outcome, exit code, counts, message."""

    def runs():
        connect.connect(settings.database)
        found = connect.execute(
            "SELECT outcome, exit_code, counts, message, finished FROM run ORDER BY id"
        ).fetchall()
        connect.disconnect()
        return found

    return runs


def test_a_pass_recovers_before_it_works(run):
    work = Work()
    assert run(work) == 0
    assert work.done == ["recover", "work"]


@pytest.mark.promise
@pytest.mark.parametrize("error", [TryLater("\ud800\udcff a\0b"), ConfigError("\udcff\0")])
def test_the_row_of_a_pass_takes_any_message(run, runs, error):
    assert run(Work(raises(error))) == error.exit_code
    assert runs()[0][1] == error.exit_code


@pytest.mark.promise
def test_a_pass_that_is_well_says_nothing(run, capfd):
    run(Work())
    assert capfd.readouterr() == ("", "")


def test_who_holds_the_lock_is_said_when_the_waiting_begins(run, capfd, tmp_path, monkeypatch):
    other = Lock(tmp_path / "state" / "locks", "demo.a")
    other.acquire()
    monkeypatch.setattr("dbbbatch.files.lock.time.sleep", lambda _: other.release())
    assert run(Work(), wait=600, verbose=1) == 0
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith(f"demo.a: waits up to 0:10:00 for pid {os.getpid()} since 20")
    assert lines[1] == "demo.a: the other pass has ended; this one begins"


def test_waiting_is_silent_for_cron(run, capfd, tmp_path, monkeypatch):
    other = Lock(tmp_path / "state" / "locks", "demo.a")
    other.acquire()
    monkeypatch.setattr("dbbbatch.files.lock.time.sleep", lambda _: other.release())
    assert run(Work(), wait=600) == 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("work", "code", "outcome"),
    [
        (lambda p: None, 0, "ok"),
        (lambda p: p.counts.update(failed=2), 1, "failed"),
        (raises(TryLater("the mount is away")), 75, "later"),
        (raises(ConfigError("no such thing")), 78, "error"),
        (raises(OSError(errno.EIO, "Input/output error", "/data/x")), 75, "later"),
        (raises(MemoryError()), 75, "later"),
        (raises(ZeroDivisionError("oh")), 70, "error"),
        (lambda p: os.kill(os.getpid(), signal.SIGTERM), 75, "interrupted"),
    ],
)
def test_how_a_pass_ended_is_its_exit_code_and_its_row(run, runs, work, code, outcome):
    assert run(Work(work)) == code
    assert [(row[0], row[1]) for row in runs()] == [(outcome, code)]
    assert runs()[0][4] is not None


def test_what_was_done_is_counted_in_the_row(run, runs):
    run(Work(lambda p: p.counts.update(held=3)))
    assert json.loads(runs()[0][2]) == {"held": 3}


def test_an_unforeseen_error_is_one_line_and_a_traceback_in_the_state_directory(
    run, capfd, tmp_path
):
    run(Work(raises(ZeroDivisionError("oh"))))
    said = capfd.readouterr().err
    kept = tmp_path / "state" / "crashes" / "demo.a.txt"
    assert said.count("\n") == 1
    assert said.endswith(f"report it with {kept}\n")
    assert "ZeroDivisionError" in kept.read_text()


@pytest.mark.promise
def test_a_second_start_leaves_quietly(run, capfd, tmp_path):
    lock = Lock(tmp_path / "state" / "locks", "demo.a")
    lock.acquire()
    work = Work()
    assert run(work) == 0
    assert work.done == []
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def other_pass(tmp_path):
    """Hold the lock, as another pass does."""
    lock = Lock(tmp_path / "state" / "locks", "demo.a")
    lock.acquire()
    yield lock
    lock.release()


def test_a_second_start_with_strict_is_75(run, other_pass):
    assert run(Work(), strict=True) == 75


def test_on_request_it_is_said_who_is_at_work(run, other_pass, capfd):
    run(Work(), verbose=1)
    assert f"pid {os.getpid()} since" in capfd.readouterr().err


def test_with_wait_a_second_start_takes_its_turn(run, other_pass):
    waiting = threading.Timer(0.1, other_pass.release)
    waiting.start()
    work = Work()
    assert run(work, wait=60) == 0
    assert work.done == ["recover", "work"]
    waiting.join()


@pytest.fixture
def hanging_pass(tmp_path):
    """Let another process hold the lock, and record that it has held it for 26 hours."""
    path = tmp_path / "state" / "locks" / "demo.a.lock"
    code = (
        "import sys, pathlib; from dbbbatch.files.lock import Lock;"
        "Lock(pathlib.Path(sys.argv[1]), 'demo.a').acquire(); print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path.parent],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=TOP,
    ) as process:
        process.stdout.readline()
        said = json.loads(path.read_text())
        earlier = {clock: said[clock] - 26 * 3600 for clock in ("since", "uptime")}
        path.write_text(json.dumps({**said, **earlier}))
        yield process
        process.kill()


def test_a_pass_that_hangs_is_told_of_once_and_when_it_is_over(run, hanging_pass, capsys):
    for _ in range(2):
        assert run(Work()) == 0
        assert run(Work(), strict=True) == 75
    hanging_pass.kill()
    hanging_pass.wait()
    assert run(Work()) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.startswith("demo.a: is over: ") for line in said] == [False, True]
    assert "a pass may hang: 26 h at work, longer than hang_after ([site])" in said[0]
    assert f"pid {hanging_pass.pid} since 20" in said[0]
    assert f"`kill {hanging_pass.pid}` ends it" in said[0]


def test_what_else_was_said_stands_while_a_pass_hangs(run, request, capsys):
    run(Work(lambda p: p.warn("a trouble")))
    hanging = request.getfixturevalue("hanging_pass")
    run(Work())
    hanging.kill()
    hanging.wait()
    capsys.readouterr()
    run(Work(lambda p: p.warn("a trouble")))
    assert capsys.readouterr().err.count("\n") == 1  # the other pass no longer hangs


def test_a_stopped_pass_is_told_with_what_lets_it_go_on(run, hanging_pass, capsys):
    hanging_pass.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, hanging_pass.pid, os.WSTOPPED)
    run(Work())
    assert f"`kill -CONT {hanging_pass.pid}` lets it go on" in capsys.readouterr().err


def test_a_pass_that_hangs_is_told_of_while_the_database_is_away(
    settings, hanging_pass, capsys, tmp_path
):
    away = dataclasses.replace(settings.database, url=f"sqlite:///{tmp_path}/none/dbb.sqlite")
    settings = dataclasses.replace(settings, database=away)
    assert runner.run_pass(Work(), settings, Section(), runner.Options()) == 0
    assert "a pass may hang" in capsys.readouterr().err


def test_a_pass_that_hangs_beside_others_of_its_section_is_told_of(run, hanging_pass, capsys):
    work = Work()
    work.passes = 2
    assert run(work) == 0
    assert work.done == ["recover", "work"]
    assert "a pass may hang" in capsys.readouterr().err


def test_passes_are_never_said_to_hang_where_that_is_not_wanted(settings, hanging_pass, capsys):
    settings = dataclasses.replace(
        settings, site=dataclasses.replace(settings.site, hang_after=0.0)
    )
    assert runner.run_pass(Work(), settings, Section(), runner.Options()) == 0
    assert capsys.readouterr().err == ""


def test_the_lock_is_free_after_a_pass_that_failed(run, tmp_path):
    run(Work(raises(ZeroDivisionError("oh"))))
    assert Lock(tmp_path / "state" / "locks", "demo.a").holders() == []


def test_a_paused_section_does_nothing(run, settings, runs):
    connect.connect(settings.database)
    connect.write(
        connect.execute,
        "INSERT INTO pause (site, label, since)"
        " VALUES ('archive', 'demo.a', '2026-01-01 00:00:00')",
    )
    work = Work()
    assert run(work) == 0
    assert work.done == []
    assert runs() == []


def test_a_pause_whose_time_is_over_is_none(run, settings):
    connect.connect(settings.database)
    connect.write(
        connect.execute,
        "INSERT INTO pause (site, label, since, until) VALUES"
        " ('archive', 'demo.a', '2026-01-01 00:00:00', '2026-01-02 00:00:00')",
    )
    work = Work()
    run(work)
    assert work.done == ["recover", "work"]


def test_the_first_signal_lets_the_batch_in_hand_end(run):
    seen = []

    def work(p):
        os.kill(os.getpid(), signal.SIGINT)
        seen.append(p.stopping)

    assert run(Work(work)) == 75
    assert seen == [True]


def test_a_second_signal_stops_the_transfer_at_once(run):
    stopped = []

    def work(p):
        p.on_second_signal(lambda: stopped.append(True))
        os.kill(os.getpid(), signal.SIGTERM)
        assert not stopped
        os.kill(os.getpid(), signal.SIGTERM)

    assert run(Work(work)) == 75
    assert stopped == [True]


def test_an_interrupted_recovery_is_not_followed_by_work(run):
    work = Work(recover=lambda p: os.kill(os.getpid(), signal.SIGTERM))
    assert run(work) == 75
    assert work.done == ["recover"]


def interrupts(number, times):
    def work(p):
        for _ in range(times):
            os.kill(os.getpid(), number)

    return work


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("failed", [0, 1])
def test_an_interrupted_pass_is_remembered_as_such_and_is_no_trouble(
    settings, database, tmp_path, number, times, failed
):
    class Finding(Work):
        kind = "finder"

    work = Finding(interrupts(number, times), lambda p: p.counts.update(failed=failed))
    assert runner.run_pass(work, settings, Section(), runner.Options()) == 75
    last = memory.last_pass(tmp_path / "state", "finder.a")
    assert (last.outcome, last.code, last.last_ok) == ("interrupted", 75, None)
    assert last.message == "interrupted by a signal; the next pass carries on"
    health = verdict.examine(settings)
    assert health.troubles == []
    assert [one.state for one in health.components] == ["interrupted (75)"]


def test_a_limit_that_is_reached_is_well(run):
    taken = []

    def work(p):
        taken.extend([p.take(3), p.stopping, p.take(3), p.stopping])

    assert run(Work(work), limit=5) == 0
    assert taken == [3, False, 2, True]


def test_a_time_that_is_over_is_well(run):
    seen = []
    assert run(Work(lambda p: seen.append(p.stopping)), max_time=0) == 0
    assert seen == []  # no batch was started at all


def test_match_is_a_glob_on_the_relative_path(run):
    seen = []

    def work(p):
        seen.extend(p.matches(rel) for rel in ("2026-11-20/raw/a.fits", "2026-12-01/a.fits"))

    run(Work(work), match=("2026-11-2*/**",))
    assert seen == [True, False]


def test_lingering_passes_again_when_there_is_work(run):
    looks = iter([False, True])
    work = Work(due=lambda p: next(looks, False))
    assert run(work, linger=0.5) == 0
    assert work.done == ["recover", "work"] * 2


def test_the_lock_is_free_while_lingering(run, tmp_path):
    holders = []

    def look(p):
        holders.extend(Lock(tmp_path / "state" / "locks", "demo.a").holders())
        os.kill(os.getpid(), signal.SIGTERM)
        return False

    run(Work(due=look), linger=60)
    assert holders == []


@pytest.mark.promise
def test_a_lingering_start_beside_a_pass_at_work_leaves_at_once(run, tmp_path, capsys):
    other = Lock(tmp_path / "state" / "locks", "demo.a")
    other.acquire()
    work = Work(due=raises(AssertionError("there is nothing to wait for")))
    assert run(work, linger=600) == 0
    other.release()
    assert (work.done, capsys.readouterr().err) == ([], "")


@pytest.mark.promise
def test_a_lingering_start_during_a_pause_leaves_at_once(run, database, capsys):
    Pause.begin("archive", "demo.a", connect.now(), None, "")
    work = Work(due=raises(AssertionError("there is nothing to wait for")))
    assert run(work, linger=600) == 0
    assert (work.done, capsys.readouterr().err) == ([], "")


def test_the_database_can_be_asked_while_lingering(run, settings):
    connect.disconnect()
    found = []

    def look(p):
        found.append(connect.read(Run.sites))
        os.kill(os.getpid(), signal.SIGTERM)
        return False

    assert run(Work(due=look), linger=600) == 0
    assert found == [{"archive"}]


@pytest.mark.parametrize("error", [TryLater("away"), PermissionError(errno.EACCES, "Denied", "/b")])
def test_a_look_that_fails_only_ends_the_lingering(run, error, capsys):
    assert run(Work(due=raises(error)), linger=600) == 0
    assert capsys.readouterr().err == ""


def test_a_bug_while_lingering_is_a_line_and_a_file(run, tmp_path, capsys):
    assert run(Work(due=raises(ZeroDivisionError("oops"))), linger=600) == 70
    assert capsys.readouterr().err.count("\n") == 1
    assert "oops" in (tmp_path / "state" / "crashes" / "demo.a.txt").read_text()


def test_what_is_due_and_is_left_is_no_reason_to_pass_without_end(run):
    work = Work(due=lambda p: True)
    work.interval = 600
    # The second pass does nothing, so there is none before the interval is over.
    assert run(work, linger=0.5) == 0
    assert work.done == ["recover", "work"] * 2


@pytest.mark.parametrize("work", [lambda p: None, raises(ZeroDivisionError("oops"))])
def test_what_passes_keep_for_each_other_is_let_go_at_the_end(run, work):
    work = Work(work)
    work.close = lambda: work.done.append("close")
    run(work, linger=0.05)
    assert work.done.count("close") == 1
    assert work.done[-1] == "close"


def test_a_signal_ends_lingering(run):
    def look(p):
        os.kill(os.getpid(), signal.SIGTERM)
        return False

    assert run(Work(due=look), linger=600) == 0


def test_a_plan_takes_no_lock_and_writes_nothing(settings, other_pass, runs):
    assert list(runner.plan_pass(Work(), settings, Section(), runner.Options())) == [
        "first",
        "second",
    ]
    assert runs() == []


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_database_that_goes_away_in_mid_pass_is_one_line_and_75(run, capfd, databases):
    with ExitStack() as stack:

        def work(p):
            stack.enter_context(databases.postgres.down())
            connect.write(connect.now)

        assert run(Work(work)) == 75
    assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("options", [{"match": ("b*",)}, {"limit": 1}])
def test_a_pass_over_some_files_says_of_no_trouble_that_it_is_over(run, capfd, options):
    run(Work(lambda p: p.warn("a.fits: odd")))
    capfd.readouterr()
    run(Work(lambda p: p.take(1)), **options)
    assert capfd.readouterr().err == ""


def test_each_pass_removes_old_rows_of_its_section(run, settings, runs):
    for _ in range(3):
        run(Work())
    with change(settings) as execute:
        execute("UPDATE run SET started = '2020-01-01 00:00:00.000000' WHERE id < 3")
    run(Work())
    assert len(runs()) == 2


def test_a_row_of_another_section_stays_though_it_is_old(run, settings, runs):
    run(Work())
    with change(settings) as execute:
        execute("UPDATE run SET started = '2020-01-01 00:00:00.000000', name = 'b'")
    run(Work())
    assert len(runs()) == 2


@contextmanager
def change(settings):
    connect.connect(settings.database)
    yield connect.execute
    connect.disconnect()


def failing(settings):
    """Let a file of the target wait for its next try."""
    with change(settings) as execute:
        execute(
            "INSERT INTO target (site, name, storage, plugin, created_at)"
            " VALUES ('archive', 'a', '/s', 'null', '2026-01-01 00:00:00')"
        )
        execute(
            "INSERT INTO file (storage, relpath, filename, size_bytes, checksum, status, finder)"
            " VALUES ('/s', '', 'x', 1, 'md5:1', 'STORED', 'f')"
        )
        execute(
            "INSERT INTO ingest_state (file_id, target_id, status, changed_at, next_try_at)"
            " VALUES (1, 1, 'FAILURE', '2026-01-01 00:00:00', '2099-01-01 00:00:00')"
        )


class TargetWork(Work):
    kind = "target"


@pytest.mark.promise
def test_a_trouble_lasts_while_a_file_waits_for_its_next_try(run, settings, capfd):
    run(TargetWork(lambda p: p.counts.update(failed=1)))
    failing(settings)
    said = capfd.readouterr().err
    assert said == "target.a: 1 file failed; `dbb status` says why, and what lists them\n"
    assert run(TargetWork()) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.promise
def test_a_file_that_is_given_up_is_told_and_is_not_over(run, settings, capfd):
    failing(settings)
    run(TargetWork())
    capfd.readouterr()
    with change(settings) as execute:
        execute("UPDATE ingest_state SET next_try_at = NULL")
    run(TargetWork())
    assert capfd.readouterr().err == (
        "target.a: 1 file waits for a person; `dbb status` says what deals with them\n"
        "target.a: is over: files failed; `dbb status` says why, and what lists them\n"
    )


@pytest.mark.promise
def test_a_trouble_is_over_when_the_last_file_is_well(run, settings, capfd):
    failing(settings)
    run(TargetWork())
    with change(settings) as execute:
        execute("UPDATE ingest_state SET status = 'SUCCESS', next_try_at = NULL")
    capfd.readouterr()
    run(TargetWork())
    assert capfd.readouterr().err.count("is over: files failed") == 1


@pytest.mark.promise
def test_an_error_whose_numbers_change_is_the_same_trouble(run, capfd):
    for free in ("980.5 MB", "1.2 GB", "0 B"):
        run(Work(raises(TryLater(f"the endpoint: {free} free"))))
    assert capfd.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("options", [{"match": ("b*",)}, {"limit": 1}])
def test_a_pass_over_some_files_keeps_silent_about_the_others(run, settings, capfd, options):
    failing(settings)
    run(TargetWork(lambda p: p.take(1)), **options)
    assert capfd.readouterr().err == ""


def test_a_full_disk_under_the_lock_is_75(run, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", "lock")

    monkeypatch.setattr(Lock, "acquire", full)
    assert run(Work()) == 75


# ---- one trouble has one key --------------------------------------------------------------------


class Area:
    """A section that names a directory, as those of the configuration do."""

    name = "a"

    def __init__(self):
        self.storage = "/data/storage"


@pytest.mark.promise
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (TryLater("/data/storage/n/1.fits: Stale"), TryLater("/data/storage/m/2 b.fits: Stale")),
        (TryLater("only 12.5 MiB free"), TryLater("only 3 kB free")),
        (TryLater(f"x-{'0a' * 8}.r is in the way"), TryLater(f"x-{'f1' * 8}.r is in the way")),
        (TryLater("full: disk I/O error", key="k"), TryLater("only 3 KiB free", key="k")),
    ],
)
def test_what_differs_from_pass_to_pass_is_no_new_trouble(settings, capsys, one, other):
    def run(work):
        return runner.run_pass(work, settings, Area(), runner.Options())

    assert run(Work(raises(one))) == run(Work(raises(other))) == 75
    assert capsys.readouterr().err == f"demo.a: {one}\n"
    assert run(Work()) == 0
    assert capsys.readouterr().err == f"demo.a: is over: {one}\n"


def test_another_directory_is_another_trouble(settings, capsys):
    for path in ("/data/storage/1.fits", "/data/buffer/1.fits"):
        runner.run_pass(
            Work(raises(TryLater(f"{path}: Stale"))), settings, Area(), runner.Options()
        )
    assert capsys.readouterr().err.count("Stale") == 2


class TwoAreas:
    """A section with two directories, of which one is on the disk of the other."""

    name = "a"

    def __init__(self):
        self.buffer = "/data2"
        self.holding = "/data2/hold"


@pytest.mark.parametrize("path", ["/data2", "/data2/n/1.fits", "/data2/n/2.fits"])
def test_an_error_of_the_machine_is_shared_by_who_meets_it_at_the_same_directory(
    settings, tmp_path, path
):
    error = PermissionError(errno.EACCES, "Permission denied", path)
    runner.run_pass(Work(raises(error)), settings, TwoAreas(), runner.Options())
    key = memory.last_pass(tmp_path / "state", "demo.a").key
    assert key == "the machine: /data2: Permission denied"


def test_an_error_of_the_machine_at_another_directory_is_another_trouble(
    settings, tmp_path, capsys
):
    for path in ("/data2/n/1.fits", "/data2/hold/n/1.fits", "/data1/1.fits"):
        error = PermissionError(errno.EACCES, "Permission denied", path)
        runner.run_pass(Work(raises(error)), settings, TwoAreas(), runner.Options())
    assert capsys.readouterr().err.count("Permission denied") == 3
