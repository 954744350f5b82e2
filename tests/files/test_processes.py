"""A process is known by its boot, its number and its first tick, whatever the clock says."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from dbbbatch.files import processes

BORN_AT_ANOTHER_TIME = 1.0


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def ticks_of(process: subprocess.Popen[bytes]) -> int:
    text = Path(f"/proc/{process.pid}/stat").read_text()
    return int(text.rpartition(")")[2].split()[19])


def test_the_tick_at_which_this_process_began() -> None:
    assert processes.start_ticks() is not None
    assert processes.lives(os.getpid(), processes.start_ticks(), BORN_AT_ANOTHER_TIME)


def test_a_running_process_lives_whatever_the_clock(child: subprocess.Popen[bytes]) -> None:
    ticks = ticks_of(child)
    assert processes.lives(child.pid, ticks, BORN_AT_ANOTHER_TIME)


def test_another_process_of_the_same_number_is_not_it(child: subprocess.Popen[bytes]) -> None:
    ticks = ticks_of(child)
    born = psutil.Process(child.pid).create_time()
    assert not processes.lives(child.pid, ticks - 1, born)


def test_a_row_of_an_older_version_is_compared_by_its_time(
    child: subprocess.Popen[bytes],
) -> None:
    born = psutil.Process(child.pid).create_time()
    assert processes.lives(child.pid, None, born)
    assert not processes.lives(child.pid, None, born - 3600)


def test_an_ended_process_does_not_live(child: subprocess.Popen[bytes]) -> None:
    ticks = ticks_of(child)
    child.kill()
    child.wait()
    assert not processes.lives(child.pid, ticks, 0)


def test_a_zombie_does_not_live(child: subprocess.Popen[bytes]) -> None:
    ticks = ticks_of(child)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.lives(child.pid, ticks, 0)


def test_a_name_that_looks_like_the_rest_of_the_line_misleads_nobody() -> None:
    code = "open('/proc/self/comm', 'w').write(') Z 1 2 3'); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert processes.lives(process.pid, ticks_of(process), 0)
        process.kill()


def test_a_stopped_process_waits_for_a_signal(child: subprocess.Popen[bytes]) -> None:
    assert processes.waits_for(os.getpid()) == ""
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    assert f"`kill -CONT {child.pid}`" in processes.waits_for(child.pid)


def test_names_of_machines_differ_by_boot() -> None:
    here = processes.machine()
    assert processes.same_boot(here, here.partition(" ")[0] + " pid:[1]")
    assert not processes.same_boot(here, "another " + here)
