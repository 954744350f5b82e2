"""Starting programs: what they get, what they write, and that they end."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil
import pytest

from dbbbatch.errors import TryLater
from dbbbatch.process import family, run

FOREVER = 60
EVERY_BYTE = bytes(range(256))


def shell(script: str, *arguments: bytes, timeout: float = FOREVER) -> run.Finished:
    return run.run([b"sh", b"-c", script.encode(), b"sh", *arguments], timeout=timeout)


def wait_for(pid: int) -> None:
    """Wait until a process is gone, or only a zombie of somebody else's."""
    try:
        psutil.Process(pid).wait(FOREVER)
    except psutil.NoSuchProcess:
        return


def test_arguments_arrive_byte_for_byte() -> None:
    argument = bytes(range(1, 256))
    assert shell('printf %s "$1"', argument).stdout == argument


def test_a_child_that_is_killed_before_it_is_the_program_is_tried_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Only the child begins a session.
    monkeypatch.setattr(os, "setsid", lambda: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(TryLater, match="killed at its start"):
        run.run([b"true"], timeout=FOREVER)


def test_a_child_that_does_not_become_the_program_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "_LONGEST_START", 0.1)
    # Only the child begins a session: as if another thread had locked what it needs for that.
    monkeypatch.setattr(os, "setsid", threading.Event().wait)
    with pytest.raises(TryLater, match="killed at its start"):
        run.run([b"true"], timeout=FOREVER)


def test_a_child_that_is_made_late_and_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def end_copies(seconds: float) -> None:
        end(seconds)
        looked.set()

    def fork_late() -> int:
        assert looked.wait(FOREVER)
        return fork()

    looked, end, fork = threading.Event(), run.family.end_copies, os.fork
    monkeypatch.setattr(run, "_LONGEST_START", 0.1)
    monkeypatch.setattr(run.family, "end_copies", end_copies)
    monkeypatch.setattr(os, "fork", fork_late)
    monkeypatch.setattr(os, "setsid", threading.Event().wait)
    with pytest.raises(TryLater, match="killed at its start"):
        run.run([b"true"], timeout=FOREVER)


def test_nothing_outlives_a_pass_as_a_copy_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def report() -> None:
        os.write(begun, b"x")
        threading.Event().wait()

    begins, begun = os.pipe()
    monkeypatch.setattr(os, "setsid", report)
    with ThreadPoolExecutor() as threads:
        started = threads.submit(run.run, [b"true"], timeout=FOREVER)
        os.read(begins, 1)
        run.end_all()
        with pytest.raises(TryLater, match="killed at its start"):
            started.result(FOREVER)
    os.close(begins)
    os.close(begun)


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOMEM, TryLater), (errno.EIO, TryLater), (errno.EACCES, run.ToolMissing)],
)
def test_a_machine_that_cannot_start_a_program_now_may_later(
    monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
) -> None:
    def execv(path: bytes, *_: object) -> None:
        raise OSError(number, os.strerror(number), path)

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(os, "execve", execv)
    with pytest.raises(error, match=os.strerror(number)):
        run.run([b"true"], timeout=FOREVER)


def test_a_process_that_cannot_be_made_is_tried_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(TryLater, match="temporarily unavailable"):
        run.run([b"true"], timeout=FOREVER)


@pytest.mark.parametrize("pipes", [0, 1, 2])
def test_a_machine_that_has_no_more_descriptors_is_tried_later_and_none_stays_open(
    monkeypatch: pytest.MonkeyPatch, pipes: int
) -> None:
    def pipe() -> tuple[int, int]:
        if len(made) == pipes:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        made.append(real())
        return made[-1]

    made, real = list[tuple[int, int]](), os.pipe
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "pipe", pipe)
    with pytest.raises(TryLater, match=r"true: Too many open files.*ulimit -n"):
        run.run([b"true"], timeout=FOREVER)
    assert os.listdir("/proc/self/fd") == before


def test_a_machine_that_has_no_more_threads_is_tried_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(TryLater, match="no further thread"):
        run.run([b"true"], timeout=FOREVER)


def test_a_copy_that_cannot_be_made_is_tried_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> int:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", full)
    with pytest.raises(TryLater, match="cannot make a process now: Resource temporarily unavail"):
        run.fork()


def test_input_and_output_are_exact_bytes() -> None:
    data = EVERY_BYTE * 1000
    assert run.run([b"cat"], timeout=FOREVER, stdin=data).stdout == data


def test_input_may_come_in_pieces() -> None:
    pieces = (b"%d\n" % n for n in range(3))
    assert run.run([b"cat"], timeout=FOREVER, stdin=pieces).stdout == b"0\n1\n2\n"


def test_more_input_than_is_read_does_no_harm() -> None:
    finished = run.run([b"true"], timeout=FOREVER, stdin=b"x" * 10_000_000)
    assert finished.exit_code == 0


def test_the_end_of_long_output_is_kept() -> None:
    finished = run.run(
        [b"sh", b"-c", b"yes | head -c 100000 >&2; echo last >&2"], timeout=FOREVER, keep=1000
    )
    assert finished.stderr.endswith(b"last\n")
    assert len(finished.stderr) <= 2 * 1000


def test_the_summary_has_the_exit_code_and_the_last_output() -> None:
    finished = shell("echo why >&2; echo not >&2; exit 3")
    assert (finished.exit_code, finished.summary()) == (3, "exit code 3: why | not")


def test_what_a_silent_stderr_does_not_say_stdout_may() -> None:
    assert shell("echo why; exit 3").summary() == "exit code 3: why"


def test_the_last_output_is_one_printable_line() -> None:
    summary = shell("printf 'a\\033[1m\\377\\nb' >&2; exit 1").summary()
    assert summary == "exit code 1: a [1m\\xff | b"


def test_the_last_output_begins_with_a_whole_line() -> None:
    assert run.last_lines(b"x" * 90 + b"\nremove it with:\nthis\n", 100) == "remove it with: | this"
    assert run.last_lines(b"first\n" + b"x" * 200 + b"end\n", 100) == "…" + "x" * 96 + "end"
    assert run.last_lines(b"\n\n") == ""


def test_a_signal_is_no_exit_code() -> None:
    finished = shell("kill -9 $$")
    assert (finished.exit_code, finished.signal) == (None, 9)


def test_there_is_no_terminal() -> None:
    assert shell("test -t 0 || test -t 1 || test -t 2").exit_code == 1
    assert shell("exec 2>/dev/null; : </dev/tty").exit_code != 0


def test_no_descriptor_is_inherited(tmp_path: Path) -> None:
    with open(tmp_path / "lock", "w") as lock:
        os.set_inheritable(lock.fileno(), True)
        fcntl.flock(lock, fcntl.LOCK_EX)
        inherited = shell("ls -l /proc/$$/fd").stdout
    assert os.fsencode(tmp_path) not in inherited


def test_the_program_leads_a_session_of_its_own() -> None:
    with run.Process([b"sleep", b"60"]) as process:
        assert os.getsid(process.pid) == process.pid != os.getsid(0)


def test_a_broken_pipe_ends_the_program_and_not_us() -> None:
    assert shell("yes | head -n 1").stdout == b"y\n"


def test_a_program_runs_in_the_environment_and_directory(tmp_path: Path) -> None:
    argv = [b"/bin/sh", b"-c", b"echo $A; pwd"]
    finished = run.run(argv, timeout=FOREVER, cwd=str(tmp_path), env={"A": "b"})
    assert finished.stdout == f"b\n{tmp_path}\n".encode()


def test_the_time_limit_ends_all_that_was_started() -> None:
    # One that ignores being asked, one in a process group of its own, one in a session of its own.
    script = "sleep 61 & echo $!; setsid sleep 62 & echo $!; trap '' TERM; echo $$; sleep 63"
    finished = shell(script, timeout=0.3)
    assert finished.timed_out
    for pid in map(int, finished.stdout.split()):
        wait_for(pid)


def test_the_summary_has_the_time_limit() -> None:
    assert shell("sleep 60", timeout=0.1).summary().startswith("ended at its time limit")


def test_a_program_asked_to_end_may_tidy_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "GRACE", FOREVER)
    script = f"trap 'echo >{tmp_path}/tidy; exit' TERM; echo up; while :; do sleep 1; done"
    with run.Process([b"sh", b"-c", script.encode()]) as process:
        process.read(time.monotonic() + FOREVER)
        assert process.finish(time.monotonic()).timed_out
    assert (tmp_path / "tidy").exists()


def test_a_child_that_keeps_the_output_open_does_not_delay_the_end() -> None:
    # As an ssh master connection does.
    finished = shell("setsid sleep 60 & echo $!")
    assert finished.exit_code == 0
    psutil.Process(int(finished.stdout)).kill()


def test_ending_from_outside_ends_the_run() -> None:
    with run.Process([b"sleep", b"60"]) as process:
        run.end_all()
        finished = process.finish(time.monotonic() + FOREVER)
    assert finished.signal == 9


@pytest.fixture
def undying(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Let no signal arrive, as at a program with other rights; yield whom to end afterwards."""
    pids: list[int] = []
    monkeypatch.setattr(family, "end", lambda *_: None)
    monkeypatch.setattr(run, "GRACE", 0.1)
    yield pids
    for pid in pids:
        assert psutil.Process(pid).is_running()
        os.kill(pid, signal.SIGKILL)


def test_a_program_that_cannot_be_ended_is_not_waited_for(undying: list[int]) -> None:
    finished = shell("echo $$; exec sleep 60", timeout=0.5)
    undying.append(int(finished.stdout))
    assert (finished.timed_out, finished.exit_code, finished.signal) == (True, None, None)
    assert finished.survivor == undying[0]
    assert f"process {undying[0]} could not be ended" in finished.summary()


@pytest.mark.parametrize("waits", ["finish", "read", "write"])
def test_after_an_end_from_outside_nobody_waits_for_long(undying: list[int], waits: str) -> None:
    until = time.monotonic() + FOREVER
    with run.Process([b"sleep", b"60"]) as process:
        undying.append(process.pid)
        with ThreadPoolExecutor() as threads:
            what = {
                "finish": process.finish,
                "read": process.read,
                "write": partial(process.write, b"x" * 10_000_000),
            }[waits]
            waiting = threads.submit(what, until)
            run.end_all()
            if waits == "finish":
                assert waiting.result(FOREVER).survivor == process.pid
            else:
                with pytest.raises(TimeoutError):
                    waiting.result(FOREVER)
    assert process.finish(until).survivor == process.pid
    assert time.monotonic() < until


def test_a_program_that_cannot_be_ended_does_not_keep_the_interpreter() -> None:
    code = """
from concurrent.futures import ThreadPoolExecutor
from dbbbatch.process import family, run
family.end, run.GRACE = lambda *_: None, 0.1
print(ThreadPoolExecutor().submit(run.run, [b"sleep", b"60"], timeout=0.1).result().survivor)
"""
    finished = run.run([sys.executable.encode(), b"-c", code.encode()], timeout=FOREVER)
    assert finished.exit_code == 0
    os.kill(int(finished.stdout), signal.SIGKILL)


def test_a_process_is_ended_by_what_it_names(tmp_path: Path) -> None:
    # Where a killed pass left it: neither our child nor known to us.
    name = b"attempt-" + os.urandom(8).hex().encode()

    def left(argument: bytes) -> int:
        script = b'setsid sh -c "sleep 60; : $1" >/dev/null 2>&1 & echo $!'
        argv = [b"sh", b"-c", script, b"sh", argument]
        return int(run.run(argv, timeout=FOREVER).stdout)

    reader = left(b"/var/log/" + name + b".txt")
    transfers = [left(b"host:/staging/%s/t/" % name), left(b"--files-from=/lists/%s.list" % name)]
    assert family.end_naming(name) >= 2
    for pid in transfers:
        wait_for(pid)
    psutil.Process(reader).kill()


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (b"dbb-no-such-program", "no such program"),
        (b"/dbb/no/such", "no such program"),
        (b"/\xff", "must be ASCII"),
    ],
)
def test_the_error_names_a_missing_program(program: bytes, why: str) -> None:
    with pytest.raises(run.ToolMissing, match=why):
        run.run([program], timeout=FOREVER)


def test_the_error_names_what_cannot_be_started(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no program")
    (tmp_path / "text").chmod(0o755)
    with pytest.raises(run.ToolMissing, match="Exec format error"):
        run.run([os.fsencode(tmp_path / "text")], timeout=FOREVER)


def test_nothing_stays_open() -> None:
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        shell("exit 1")
    with pytest.raises(run.ToolMissing):
        run.run([b"dbb-no-such-program"], timeout=FOREVER)
    assert os.listdir("/proc/self/fd") == before


def test_it_is_loaded_only_when_used() -> None:
    code = "import sys, dbbbatch.process.run; sys.exit('sh' in sys.modules)"
    finished = run.run([sys.executable.encode(), b"-c", code.encode()], timeout=FOREVER)
    assert finished.exit_code == 0


def test_output_without_end_does_not_put_off_the_time_limit() -> None:
    for script in ("exec yes", "exec yes >&2", "while :; do echo x; sleep 0.01; done"):
        finished = shell(script, timeout=0.5)
        assert finished.timed_out
        assert len(finished.stdout) + len(finished.stderr) <= 4 * run.KEPT + (1 << 16)


def test_a_reader_is_not_kept_by_output_without_end() -> None:
    def read_all(process: run.Process, deadline: float) -> None:
        while process.read(deadline):
            pass

    with run.Process([b"yes"]) as process, pytest.raises(TimeoutError):
        read_all(process, time.monotonic() + 0.3)


def test_a_writer_is_not_kept_by_a_program_that_only_prints() -> None:
    with run.Process([b"yes"]) as process:
        with pytest.raises(TimeoutError):
            process.write(b"x" * 10_000_000, time.monotonic() + 0.5)
        # What nobody has read yet stays in the program's pipe.
        assert len(process.read(time.monotonic() + FOREVER)) < run.KEPT + (1 << 17)


def test_a_child_that_goes_on_printing_does_not_delay_the_end(tmp_path: Path) -> None:
    finished = shell(f"yes & echo $! >{tmp_path}/pid; exit 3", timeout=FOREVER)
    run.family.end([int((tmp_path / "pid").read_text())])
    assert (finished.exit_code, finished.timed_out) == (3, False)
