"""The supervisor counts each change in one order, prevents the Nth, and leaves nothing alive."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import psutil
import pytest

from tests.killing import calls
from tests.killing.preloaded import Preloaded
from tests.killing.supervisor import supervise, unavailable

pytestmark = [
    pytest.mark.promise,
    pytest.mark.skipif(unavailable() is not None, reason=f"{unavailable()}"),
]


def python(script: str, *arguments: object) -> list[str]:
    return [sys.executable, "-S", "-c", script, *map(str, arguments)]


MAKE_FIVE = "import os, sys\nfor n in range(5): os.mkdir(f'{sys.argv[1]}/{n}')"


def test_an_undisturbed_command_does_all_it_would(tmp_path: Path) -> None:
    report = supervise(python(MAKE_FIVE + "\nprint('done'); sys.exit(3)", tmp_path))
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2", "3", "4"]
    assert (report.killed, report.exit_code, report.stdout) == (None, 3, "done\n")
    assert report.counted == 5


@pytest.mark.parametrize("number", [1, 2, 5])
def test_the_nth_call_does_not_happen_and_those_before_it_did(tmp_path: Path, number: int) -> None:
    report = supervise(python(MAKE_FIVE, tmp_path), kill_at=number)
    assert sorted(os.listdir(tmp_path)) == [str(n) for n in range(number - 1)]
    assert report.killed is not None
    assert (report.killed.number, report.killed.name) == (number, "mkdir")
    assert report.killed.paths == (f"{tmp_path}/{number - 1}",)
    assert report.exit_code == -9


def test_an_nth_that_never_comes_kills_nothing(tmp_path: Path) -> None:
    report = supervise(python(MAKE_FIVE, tmp_path), kill_at=6)
    assert (report.counted, report.killed, report.exit_code) == (5, None, 0)


CHANGES = """
import os, sys
os.chdir(sys.argv[1])
f = os.open("a", os.O_WRONLY | os.O_CREAT)
os.write(f, b"1"); os.pwrite(f, b"2", 0); os.writev(f, [b"3"]); os.ftruncate(f, 1)
os.fsync(f); os.fdatasync(f); os.fchmod(f, 0o600); os.utime("a"); os.setxattr("a", "user.x", b"y")
os.rename("a", "b"); os.link("b", "c"); os.symlink("b", "d"); os.unlink("d"); os.chmod("b", 0o644)
os.mkdir("e"); os.rmdir("e"); os.truncate("b", 0); os.sync()
os.close(os.open("b", os.O_WRONLY | os.O_TRUNC))
"""


def test_each_kind_of_change_is_counted_once(tmp_path: Path) -> None:
    report = supervise(python(CHANGES, tmp_path), trace=True)
    assert report.exit_code == 0, report.stderr
    assert " ".join(call.name.removesuffix("at") for call in report.calls) == (
        "open write pwrite64 writev ftruncate fsync fdatasync fchmod utimens setxattr rename link "
        "symlink unlink chmod mkdir rmdir truncate sync open"
    )


HARMLESS = """
import os, socket, sys
open(sys.argv[1]).read(); os.listdir("."); os.stat(sys.argv[1])
os.write(os.open("/dev/null", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), b"1")
os.close(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT))
r, w = os.pipe(); os.write(w, b"1"); os.read(r, 1)
a, b = socket.socketpair(); a.send(b"1"); b.recv(1)
"""


def test_reading_devices_and_pipes_are_not_counted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    report = supervise(python(HARMLESS, tmp_path / "file"), trace=True)
    assert (report.counted, report.exit_code) == (0, 0), report


def test_pipes_and_sockets_are_counted_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    report = supervise(python(HARMLESS, tmp_path / "file"), streams=True, trace=True)
    assert [call.name for call in report.calls] == ["write", "sendto"]


THREADS = """
import os, sys, threading
def work(n):
    for m in range(10): os.mkdir(f"{sys.argv[1]}/{n}-{m}")
threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
"""


def test_all_threads_are_counted_in_one_order_and_stopped_together(tmp_path: Path) -> None:
    report = supervise(python(THREADS, tmp_path), kill_at=23, trace=True)
    assert [call.number for call in report.calls] == list(range(1, 24))
    made = {f"{tmp_path}/{name}" for name in os.listdir(tmp_path)}
    assert made <= {call.paths[0] for call in report.calls[:-1]}
    # a call that was let go may have been overtaken by the kill, but one for each other thread
    assert 22 - len(made) <= 3


CHILDREN = """
mkdir "$1/shell"
(mkdir "$1/subshell"; sh -c 'mkdir "$1/grandchild"' sh "$1")
setsid sh -c 'mkdir "$1/session"' sh "$1" &
wait
cp "$1/source" "$1/copy"
"""


def test_children_of_any_kind_are_counted(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("content")
    report = supervise(["sh", "-c", CHILDREN, "sh", tmp_path], trace=True)
    names = Counter(call.name.removesuffix("at") for call in report.calls)
    assert names["mkdir"] == 4
    assert {call.program for call in report.calls} == {"mkdir", "cp"}


LIVES_ON = """
import os, subprocess, sys, threading, time
subprocess.Popen(["setsid", "sleep", "1000"])
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: time.sleep(1000)
    os._exit(0)
threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
os.wait()
os.mkdir(sys.argv[1] + "/now")
"""


def test_nothing_of_the_tree_survives(tmp_path: Path) -> None:
    mark = f"SUPERVISED={tmp_path}"
    report = supervise(
        python(LIVES_ON, tmp_path), kill_at=1, env=os.environ | {"SUPERVISED": str(tmp_path)}
    )
    assert report.killed is not None
    assert not [p for p in psutil.process_iter() if mark in _environment(p)]


def _environment(process: psutil.Process) -> list[str]:
    try:
        return [f"{key}={value}" for key, value in process.environ().items()]
    except psutil.Error:
        return []


FAR_END = """
import subprocess, sys
far = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=open(sys.argv[1] + "/far", "wb"))
far.stdin.write(b"received"); far.stdin.flush()
import os
os.mkdir(sys.argv[1] + "/near")
"""


def test_a_program_that_is_spared_lives_on_and_is_not_counted(tmp_path: Path) -> None:
    report = supervise(python(FAR_END, tmp_path), kill_at=2, spare=["cat"], trace=True)
    assert [call.name.removesuffix("at") for call in report.calls] == ["open", "mkdir"]
    assert not (tmp_path / "near").exists()
    assert (tmp_path / "far").read_bytes() == b"received"


SQLITE = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1]); c.execute("insert into t values (1)"); c.commit()
"""


def test_a_transaction_of_sqlite_is_whole_or_absent_at_every_point(tmp_path: Path) -> None:
    seen = []
    for number in range(1, 100):
        path = tmp_path / f"{number}.sqlite"
        with sqlite3.connect(path) as database:
            database.execute("create table t (x)")
            database.execute("pragma journal_mode = wal")
        database.close()
        report = supervise(python(SQLITE, path), kill_at=number)
        with sqlite3.connect(path) as database:
            seen.append(database.execute("select count(*) from t").fetchone()[0])
        database.close()
        if report.killed is None:
            break
    assert len(seen) > 3
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, 1)


TO_A_DATABASE = """
import socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
s.send(b"first"); s.recv(5); s.send(b"second"); s.recv(5)
"""


def test_what_is_sent_to_the_socket_of_the_database_is_counted(tmp_path: Path) -> None:
    path = tmp_path / ".s.PGSQL.5432"
    received: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            while part := connection.recv(100):
                received.append(part)
                connection.send(b"thank")

        thread = threading.Thread(target=serve)
        thread.start()
        report = supervise(python(TO_A_DATABASE, path), kill_at=2, trace=True)
        thread.join()
    assert [(call.name, call.paths) for call in report.calls] == [("sendto", ("database",))] * 2
    assert received == [b"first"]


def test_it_works_without_root(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests show it")
    tmp_path.chmod(0o777)
    script = (
        "import sys; from tests.killing.supervisor import supervise\n"
        "report = supervise([sys.executable, '-c', sys.argv[1], sys.argv[2]], kill_at=3)\n"
        "print(report.killed)"
    )
    # The interpreter may be in a directory that only root can enter.
    readable = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    user = ["setpriv", "--reuid=65534", "--clear-groups", *readable]
    report = subprocess.run(
        [*user, sys.executable, "-c", script, MAKE_FIVE, tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "#3 mkdir" in report.stdout, report.stderr
    assert sorted(os.listdir(tmp_path)) == ["0", "1"]


def test_a_command_that_does_not_end_is_ended(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        supervise(["sleep", "1000"], timeout=0.2)


def test_a_command_that_is_not_there_is_reported() -> None:
    assert "no-such-command" in supervise(["no-such-command"]).stderr


@pytest.mark.parametrize("machine", sorted(calls.ARCHITECTURES))
def test_no_number_stands_for_two_calls(machine: str) -> None:
    column = calls.ARCHITECTURES[machine][1]
    numbers = [row[column] for row in calls.CALLS.values() if row[column] is not None]
    assert len(numbers) == len(set(numbers))
    assert len(calls.program(machine)) % 8 == 0


SCRIPT = """
import os, sys, threading
os.mkdir(sys.argv[1])
threading.Thread(target=lambda: os.mkdir(sys.argv[1] + "/thread")).start()
print(os.environ.get("MARK"), len(os.listdir("/proc/self/fd")))
sys.exit(int(sys.argv[2]))
"""


def test_a_fork_of_what_is_preloaded_runs_a_script_like_python(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(SCRIPT)
    reports = []
    with Preloaded() as server:
        for start, name in ((None, "new"), (server.serve, "fork")):
            command = [sys.executable, script, tmp_path / name, "3"]
            environment = os.environ | {"MARK": "here"}
            reports.append(supervise(command, env=environment, start=start, trace=True))
            report = supervise(
                [sys.executable, script, tmp_path / f"{name} killed", "3"], start=start, kill_at=2
            )
            assert os.listdir(tmp_path / f"{name} killed") == []
            assert report.killed is not None
    new, fork = reports
    assert (fork.exit_code, fork.stdout, fork.stderr) == (3, new.stdout, "")
    assert [(call.name, call.program) for call in fork.calls] == [
        (call.name, call.program) for call in new.calls
    ]


def test_a_script_that_fails_in_a_fork_says_so(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("raise ValueError('of no use')")
    with Preloaded() as server:
        report = supervise([sys.executable, script], start=server.serve, held=False)
    assert report.exit_code == 1
    assert "ValueError: of no use" in report.stderr
