"""The lock: held by a process, gone with it, kept from its children."""

import json
import os
import signal
import subprocess
import sys

import pytest

from dbbbatch.errors import LockHeld, TryLater
from dbbbatch.files.lock import Lock

HOLD = """
import sys, pathlib
from dbbbatch.files.lock import Lock
lock = Lock(pathlib.Path(sys.argv[1]), "handoff.a")
lock.acquire()
{more}
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Start a process that holds the lock; killed in the end."""
    started = []

    def start(more=""):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD.format(more=more), tmp_path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.promise
def test_a_second_holder_is_refused(tmp_path, holder):
    holder()
    with pytest.raises(LockHeld):
        Lock(tmp_path, "handoff.a").acquire()


def test_the_error_names_the_holder_its_time_and_its_command_line(tmp_path, holder):
    process = holder()
    with pytest.raises(LockHeld, match=rf"pid {process.pid} since 20.* UTC: .*python"):
        Lock(tmp_path, "handoff.a").acquire()


@pytest.mark.promise
def test_the_lock_dies_with_its_holder(tmp_path, holder):
    process = holder()
    process.send_signal(signal.SIGKILL)
    process.wait()
    Lock(tmp_path, "handoff.a").acquire()


@pytest.mark.promise
def test_no_child_keeps_the_lock(tmp_path, holder):
    process = holder(
        "import subprocess; c = subprocess.Popen(['sleep', '60'], close_fds=False);"
        "print(c.pid, file=open(sys.argv[1] + '/child', 'w'), flush=True)"
    )
    process.kill()
    process.wait()
    child = int((tmp_path / "child").read_text())
    try:
        Lock(tmp_path, "handoff.a").acquire()
        os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_lock_that_is_waited_for_is_taken_when_its_holder_leaves(tmp_path, holder):
    process = holder()
    looks = []

    def let_go():
        looks.append(1)
        process.kill()
        process.wait()
        return False

    Lock(tmp_path, "handoff.a").acquire(wait=60, stopping=let_go)
    assert looks


def test_several_passes_may_hold_a_lock_of_several(tmp_path):
    first, second, third = (Lock(tmp_path, "target.a", 2) for _ in range(3))
    first.acquire()
    second.acquire()
    with pytest.raises(LockHeld):
        third.acquire()
    first.release()
    third.acquire()


def test_asking_for_the_holders_does_not_acquire_it(tmp_path):
    lock = Lock(tmp_path, "handoff.a")
    assert lock.holders() == []
    lock.acquire()
    assert f"pid {os.getpid()}" in Lock(tmp_path, "handoff.a").holders()[0]


def test_a_pid_that_is_used_again_is_not_taken_for_the_holder(tmp_path):
    lock = Lock(tmp_path, "handoff.a")
    lock.acquire()
    path = tmp_path / "handoff.a.lock"
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "ticks": said["ticks"] - 1}))
    assert Lock(tmp_path, "handoff.a").holders() == ["a process that started or left just now"]


def as_earlier_versions_wrote_it(path, earlier=0.0):
    """Leave in a lock file what an earlier version says of its holder."""
    said = json.loads(path.read_text())
    path.write_text(json.dumps({"pid": said["pid"], "since": said["since"] - earlier}))


def test_a_pass_of_an_earlier_version_that_holds_it_is_named(tmp_path, holder):
    process = holder()
    as_earlier_versions_wrote_it(tmp_path / "handoff.a.lock")
    lock = Lock(tmp_path, "handoff.a")
    assert lock.holders()[0].startswith(f"pid {process.pid} since 20")
    assert [each.pid for each in lock.held_for(0)] == [process.pid]


def test_what_began_after_an_earlier_version_took_the_lock_is_not_taken_for_it(tmp_path, holder):
    holder()
    as_earlier_versions_wrote_it(tmp_path / "handoff.a.lock", earlier=7200)
    assert Lock(tmp_path, "handoff.a").holders() == ["a process that started or left just now"]


@pytest.fixture
def reader(tmp_path):
    """Start a process that holds a lock for reading on a lock file, as no pass does."""
    (tmp_path / "handoff.a.lock").touch()
    script = """
import fcntl, struct, sys
file = open(sys.argv[1])
fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi", fcntl.F_RDLCK, 0, 0, 0, 0))
print("held", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "handoff.a.lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"held\n"
    yield
    process.kill()
    process.communicate()


@pytest.mark.promise
@pytest.mark.parametrize("count", [1, 2])
def test_a_lock_for_reading_is_no_pass_at_work(tmp_path, reader, count):
    second = Lock(tmp_path, "handoff.a", count)
    if count == 2:
        second.acquire()  # there is a second seat
    with pytest.raises(TryLater, match="no pass does") as caught:
        Lock(tmp_path, "handoff.a", count).acquire()
    assert not isinstance(caught.value, LockHeld)


def test_a_lock_file_is_for_its_owner_only(tmp_path):
    (tmp_path / "handoff.a.lock").touch(0o664)
    for label in ("handoff.a", "handoff.b"):
        Lock(tmp_path, label).acquire()
        assert (tmp_path / f"{label}.lock").stat().st_mode & 0o777 == 0o600


def test_held_for_returns_those_that_have_held_it_so_long(tmp_path, holder):
    process = holder()
    lock = Lock(tmp_path, "handoff.a")
    assert [each.pid for each in lock.held_for(0)] == [process.pid]
    assert lock.held_for(3600) == []


@pytest.mark.parametrize(
    "changes",
    [{"uptime": -7200}, {"uptime": -7200, "since": 86400}, {"since": -7200, "uptime": None}],
    ids=["as it was", "the clock was set back", "of an earlier version"],
)
def test_the_time_for_which_it_is_held_comes_from_the_clock_that_nobody_sets(
    tmp_path, holder, changes
):
    holder()
    _change(tmp_path / "handoff.a.lock", changes)
    (found,) = Lock(tmp_path, "handoff.a").held_for(3600)
    assert 7200 <= found.seconds < 7300


def test_a_clock_that_was_set_forward_makes_no_pass_hang(tmp_path, holder):
    holder()
    _change(tmp_path / "handoff.a.lock", {"since": -3 * 86400})
    assert Lock(tmp_path, "handoff.a").held_for(3600) == []


def _change(path, changes):
    """Let a holder have been there for longer, by each clock; `None` is not known."""
    said = json.loads(path.read_text())
    said |= {clock: said[clock] + by for clock, by in changes.items() if by is not None}
    path.write_text(json.dumps({k: v for k, v in said.items() if changes.get(k, 0) is not None}))


def test_another_holder_beside_us_is_returned(tmp_path, holder):
    process = holder()
    lock = Lock(tmp_path, "handoff.a", count=2)
    lock.acquire()
    assert [each.pid for each in lock.held_for(0)] == [process.pid]
