"""Run a command and kill it, with all that it started, before its Nth change of disk or database.

A seccomp filter, inherited by every thread and child, has the kernel hold each listed call until
this supervisor lets it go on. The calls are thus counted in one order over the whole tree; when
the Nth comes it is never answered, so it does not happen, and neither does any other: whatever
else the tree wants to change waits for an answer too, until SIGKILL ends it.

`supervise` runs the supervisor in a process of its own: a new one, or the fork of one that has
imported everything (`preloaded`), which is much quicker. That process adopts orphans
(PR_SET_CHILD_SUBREAPER), so a child that starts a session of its own or outlives its parent is
still found. What is started by a server outside the tree, as the far end of ssh by its sshd, is
not a child and lives on, as in life.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import json
import os
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.killing import calls, processes

#: what an address of the database's socket holds; a sendto or write to such a socket is counted
DATABASE = (".s.PGSQL.", ":5432")

#: what a process does to become the command of a request
Become = Callable[[dict[str, Any]], None]

_ROOT = Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_RECEIVE, _SEND, _SET_FLAGS = 0xC0502100, 0xC0182101, 0x40082104
_SYNCHRONOUS_WAKE_UP = 1
_GO_ON = 1


@dataclass(frozen=True)
class Call:
    """One counted call: its number in the order of the whole tree, and what it was about.

    `phase` is the step of a change in which it was made (`tests.killing.phases`), as far as known.
    """

    number: int
    name: str
    paths: tuple[str, ...]
    program: str
    phase: str = ""

    def __str__(self) -> str:
        where = f", in {self.phase}" if self.phase else ""
        return f"#{self.number} {self.name} {' -> '.join(self.paths)} by {self.program}{where}"


@dataclass(frozen=True)
class Report:
    """What became of a supervised command.

    Attributes
    ----------
    counted
        The calls that were held, the one it was killed at included.
    killed
        The call that was prevented, or made to fail; None if the command ended before it came.
    exit_code
        As of subprocess: negative for a signal.
    calls
        All counted calls, if `trace` was asked for.
    """

    counted: int
    killed: Call | None
    exit_code: int
    stdout: str
    stderr: str
    calls: tuple[Call, ...] = ()


@functools.cache
def unavailable() -> str | None:
    """Why this machine cannot hold system calls, or None if it can."""
    try:
        report = supervise([sys.executable, "-S", "-c", "import os; os.rmdir('/')"], timeout=30)
    except (OSError, RuntimeError) as error:
        return str(error)
    return None if report.counted else "no system call was held"


def supervise(
    command: Sequence[str | os.PathLike[str]],
    *,
    kill_at: int | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    database: Sequence[str] = DATABASE,
    streams: bool = False,
    spare: Sequence[str] = (),
    trace: bool = False,
    timeout: float = 120,
    held: bool = True,
    fail: int = 0,
    below: Sequence[str] = (),
    start: Callable[[dict[str, Any]], None] | None = None,
) -> Report:
    """Run `command` and kill its whole tree before its `kill_at`-th change (1 is the first).

    Parameters
    ----------
    database
        Parts of addresses (a socket's path, or `host:port`) that lead to the database.
    streams
        Count writes to pipes and to other sockets too: more points at which a conversation with
        the far end breaks off.
    spare
        Names of programs that are let live, with what they start, and whose calls are not counted:
        a far end that in life is another machine. They end before this returns.
    timeout
        Seconds, after which everything is killed and TimeoutError is raised.
    held
        False lets the command run freely: nothing is counted or prevented.
    fail
        An errno. The `kill_at`-th call is not made and fails with it, and nothing is killed; also
        calls that only look are counted, but only those on what lies below certain directories.
    below
        These directories, with a slash at the end.
    start
        Has a request served, in another way than by a new process: `preloaded.Preloaded.serve`.

    Raises
    ------
    RuntimeError
        The supervisor itself failed: seccomp is missing, or the command cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="supervisor-") as directory:
        folder = Path(directory)
        request = {
            "command": [os.fspath(part) for part in command],
            "kill_at": kill_at,
            "env": dict(os.environ if env is None else env) | {"PYTHONDONTWRITEBYTECODE": "1"},
            "cwd": os.fspath(cwd) if cwd is not None else os.getcwd(),
            "database": list(database),
            "streams": streams,
            "spare": list(spare),
            "trace": trace,
            "timeout": timeout,
            "held": held,
            "fail": fail,
            "below": list(below),
            "folder": directory,
        }
        (start or _in_a_new_process)(request)
        answer = json.loads((folder / "report").read_bytes())
        stdout, stderr = (
            (folder / name).read_text(errors="replace") for name in ("stdout", "stderr")
        )
    if answer["timed_out"]:
        raise TimeoutError(f"not done after {timeout:g} s: {request['command']}\n{stdout}{stderr}")
    counted = tuple(Call(n, name, tuple(paths), *more) for n, name, paths, *more in answer["calls"])
    return Report(
        counted=answer["counted"],
        killed=counted[-1] if answer["killed"] else None,
        exit_code=answer["exit_code"],
        stdout=stdout,
        stderr=stderr,
        calls=counted if trace else (),
    )


def _in_a_new_process(request: dict[str, Any]) -> None:
    own = subprocess.run(
        [sys.executable, "-m", "tests.killing.supervisor"],
        input=json.dumps(request).encode(),
        cwd=_ROOT,
        capture_output=True,
        check=False,
    )
    if own.returncode:
        raise RuntimeError(f"the supervisor failed: {own.stderr.decode(errors='replace')}")


def serve(
    request: dict[str, Any], become: Become | None = None, phase: Callable[[], str] = str
) -> None:
    """Supervise in this process, which has no other children, and write the report.

    Parameters
    ----------
    become
        What the command's process does instead of `os.execvpe`; it does not return.
    phase
        Returns the step of a change that the command is in.
    """
    supervisor = _Supervisor(request, become or _execute, phase)
    supervisor.run()
    report = {
        "counted": supervisor.counted,
        "killed": supervisor.killed,
        "exit_code": supervisor.exit_code,
        "calls": supervisor.recorded,
        "timed_out": supervisor.timed_out,
    }
    Path(request["folder"], "report").write_text(json.dumps(report))


class _Supervisor:
    """The process that answers for the held calls of one command."""

    def __init__(self, request: dict[str, Any], become: Become, phase: Callable[[], str]) -> None:
        self.phase = phase
        self.kill_at: int | None = request["kill_at"]
        self.database: list[str] = request["database"]
        self.streams: bool = request["streams"]
        self.spare = set(request["spare"])
        self.trace: bool = request["trace"]
        self.give_up_at = time.monotonic() + request["timeout"]
        self.own = request["folder"] + "/"  # where stdout and stderr go
        self.fail: int = request["fail"]
        self.below = tuple(request["below"])
        self.table = calls.table(looks=bool(self.below))
        self.database_sockets: set[str] = set()
        self.counted = 0
        self.recorded: list[tuple[int, str, list[str], str, str]] = []
        self.killed = False
        self.timed_out = False
        self.exit_code: int | None = None
        self.name = Path(request["command"][min(1, len(request["command"]) - 1)]).name
        self.child, self.listener = _start(request, become)

    def run(self) -> None:
        """Answer until everything below has ended; then nothing of the tree is left."""
        awake, wake = socket.socketpair()
        for end in (awake, wake):
            end.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        if self.listener is not None:
            poll.register(self.listener, select.POLLIN)
        poll.register(awake, select.POLLIN)
        while self._reap():
            left = self.give_up_at - time.monotonic()
            if left <= 0:
                self.timed_out = True
                self._kill(spare=False)
                return
            for descriptor, happened in poll.poll(left * 1000):
                if descriptor == awake.fileno():
                    awake.recv(4096)
                elif happened & select.POLLIN:
                    self._answer()
                else:
                    poll.unregister(self.listener)  # nobody is left under the filter

    def _reap(self) -> bool:
        """Collect the dead; False when there is no child left, living or dead."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.child:
                self.exit_code = os.waitstatus_to_exitcode(status)

    def _answer(self) -> None:
        """Take one held call and let it go on, or kill the tree instead."""
        assert self.listener is not None
        buffer = bytearray(80)
        try:
            fcntl.ioctl(self.listener, _RECEIVE, buffer)
        except OSError:  # its thread was killed meanwhile
            return
        identity, thread, _, number, _, _, *arguments = struct.unpack("=QIIiIQ6Q", buffer)
        held = self.table[number]
        about = self._change(thread, held, arguments)
        if about is not None and not self.killed and not self._is_spared(thread):
            self.counted += 1
            last = self.counted == self.kill_at
            if last or self.trace:
                program = self._program(thread)
                self.recorded.append((self.counted, held.name, about, program, self.phase()))
            if last:
                self.killed = True
                if not self.fail:
                    self._kill(spare=True)
                    return
                self._send(struct.pack("=QqiI", identity, 0, -self.fail, 0))
                return
        self._send(struct.pack("=QqiI", identity, 0, 0, _GO_ON))

    def _send(self, response: bytes) -> None:
        assert self.listener is not None
        try:
            fcntl.ioctl(self.listener, _SEND, response)
        except OSError:  # its thread was killed meanwhile
            return

    def _change(self, thread: int, held: calls.Held, arguments: list[int]) -> list[str] | None:
        """What the call would change; None if that is neither disk nor database."""
        if held.name == "connect":
            address = processes.address(
                processes.memory(thread, arguments[1], min(arguments[2], 128))
            )
            if any(part in address for part in self.database):
                self.database_sockets.add(processes.descriptor(thread, arguments[0])[0])
            return None
        if self.below:
            return self._about(thread, held, arguments)
        paths = []
        for where in held.where:
            kind, *positions = where.split(":")
            values = [arguments[int(position)] for position in positions]
            if kind == "fd":
                path, mode = processes.descriptor(thread, values[0])
                if path.startswith(self.own):
                    return None
                if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
                    paths.append(path)
                elif path in self.database_sockets:
                    paths.append("database")
                elif self.streams and (stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode)):
                    paths.append(path)
                else:
                    return None
            else:
                base = values[0] if kind == "at" else processes.AT_WORKING_DIRECTORY
                path, mode = processes.path(thread, base, values[-1])
                if held.name in _OPENS and not self._opening_changes(
                    held.name, thread, arguments, mode
                ):
                    return None
                paths.append(path)
        return paths

    def _about(self, thread: int, held: calls.Held, arguments: list[int]) -> list[str] | None:
        """What a call is about, if that lies below the directories that are of interest."""
        if self._program(thread) != self.name:
            return None
        paths = []
        for where in held.where:
            kind, *positions = where.split(":")
            values = [arguments[int(position)] for position in positions]
            if kind == "fd":
                paths.append(processes.descriptor(thread, values[0])[0])
            else:
                base = values[0] if kind == "at" else processes.AT_WORKING_DIRECTORY
                path, _ = processes.path(thread, base, values[-1])
                if path.endswith("/") and not path.startswith(self.below):
                    # An empty path: the descriptor itself.
                    path = path.rstrip("/")
                paths.append(path)
        return paths if any(f"{path}/".startswith(self.below) for path in paths) else None

    def _program(self, thread: int) -> str:
        if processes.process(thread) == self.child:
            return self.name  # not that of a process which was forked and runs a script
        return processes.program(thread)

    def _opening_changes(
        self, name: str, thread: int, arguments: list[int], mode: int | None
    ) -> bool:
        """Whether it makes or truncates a file: opening what is there changes nothing."""
        flags = _OPENS[name](thread, arguments)
        if mode is None:
            return bool(flags & os.O_CREAT)
        return stat.S_ISREG(mode) and bool(flags & os.O_TRUNC)

    def _is_spared(self, thread: int) -> bool:
        """Whether the thread's process runs below a program that is to live."""
        if not self.spare:
            return False
        process = processes.process(thread)
        while process > 1 and process != os.getpid():
            if processes.program(process) in self.spare:
                return True
            process = processes.parent(process)
        return False

    def _kill(self, *, spare: bool) -> None:
        """SIGKILL everything below this process, until nothing new turns up."""
        while True:
            doomed = [
                process
                for process in processes.below(os.getpid())
                if not (spare and self._is_spared(process))
            ]
            if not doomed:
                return
            for process in doomed:
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            while self._reap_one_of(doomed):
                pass

    def _reap_one_of(self, doomed: list[int]) -> bool:
        """Collect the doomed that are our children; what they leave behind becomes ours."""
        for process in doomed:
            try:
                _, status = os.waitpid(process, 0)
            except ChildProcessError:
                continue
            if process == self.child:
                self.exit_code = os.waitstatus_to_exitcode(status)
            return True
        return False


def _start(request: dict[str, Any], become: Become) -> tuple[int, int | None]:
    """Start the command under the filter: its process and the filter's descriptor."""
    here, there = socket.socketpair()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = os.fork()
    if child == 0:
        here.close()
        try:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            os.chdir(request["cwd"])
            for name, target in (("stdout", 1), ("stderr", 2)):
                path = os.path.join(request["folder"], name)
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), target)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            if request["held"]:
                listener = calls.install(looks=bool(request["below"]))
                socket.send_fds(there, [b"filter"], [listener])
                there.recv(1)
                os.close(listener)
            become(request)
        except BaseException as error:  # noqa: BLE001 - a forked child must not return
            trouble = f"{request['command'][0]}: {error}\n".encode()
            try:
                there.sendmsg([trouble])  # not held, whether or not the parent listens already
            except OSError:
                os.write(2, trouble)
        finally:
            os._exit(127)
    there.close()
    if not request["held"]:
        here.close()
        return child, None
    message, descriptors, _, _ = socket.recv_fds(here, 4096, 1)
    if not descriptors:
        raise RuntimeError(message.decode())
    os.set_inheritable(descriptors[0], False)
    # Linux 6.6: the two sides wake each other on one CPU, twice as fast; older kernels refuse.
    with contextlib.suppress(OSError):
        fcntl.ioctl(descriptors[0], _SET_FLAGS, _SYNCHRONOUS_WAKE_UP)
    here.send(b"!")
    here.close()
    return child, descriptors[0]


def _execute(request: dict[str, Any]) -> None:
    os.execvpe(request["command"][0], request["command"], request["env"])


def _flags_of_openat2(thread: int, arguments: list[int]) -> int:
    raw = processes.memory(thread, arguments[2], 8)
    return struct.unpack("=Q", raw)[0] if len(raw) == 8 else 0


#: how each call that opens is told what to do
_OPENS: dict[str, Callable[[int, list[int]], int]] = {
    "open": lambda thread, arguments: arguments[1],
    "openat": lambda thread, arguments: arguments[2],
    "openat2": _flags_of_openat2,
    "creat": lambda thread, arguments: os.O_CREAT | os.O_TRUNC,
}


def main() -> None:
    """Serve the request on stdin."""
    try:
        serve(json.loads(sys.stdin.buffer.read()))
    except (OSError, RuntimeError, KeyError) as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()
