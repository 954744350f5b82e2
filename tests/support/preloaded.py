"""A process that has imported what our scripts need, and forks for each of them.

Starting Python and importing the dependencies costs several times what a small pass does. A script
that runs in a fork is the same code in the same kind of process; only its imports are not its own.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_ROOT = Path(__file__).resolve().parents[2]
#: imported if they are there
_MODULES = ("click", "peewee", "psutil", "psycopg", "sh", "sqlite3", "tenacity", "tomli")
#: of these, every module
_PACKAGES = (
    "dbbbatch.areas",
    "dbbbatch.cli",
    "dbbbatch.config",
    "dbbbatch.database",
    "dbbbatch.files",
    "dbbbatch.passes",
    "dbbbatch.process",
    "dbbbatch.report",
)
#: what begins the names of the variables by which Python starts in another way
_STARTING = ("COVERAGE", "LANG", "LC_", "LD_", "PYTHON", "TZ")


class Server:
    """The process; a context manager that ends it.

    Parameters
    ----------
    module
        What it runs: a module whose main function calls `serve_forks`.
    """

    def __init__(self, module: str = __name__) -> None:
        self._module = module

    def __enter__(self) -> Server:
        self._directory = tempfile.TemporaryDirectory(prefix="preloaded-")
        self._path = os.path.join(self._directory.name, "socket")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self._path)
            listening.listen()
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, str(listening.fileno())],
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[listening.fileno()],
            )
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._directory.cleanup()

    def ask(self, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> socket.socket:
        """Send a request, with open files, to a new fork; its answer can be read."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._path)
        text = json.dumps(request).encode()
        socket.send_fds(connection, [text[:1]], descriptors)
        connection.sendall(text[1:])
        connection.shutdown(socket.SHUT_WR)
        return connection


def serve_forks(serve: Callable[[socket.socket, dict[str, Any], list[int]], None]) -> None:
    """Fork for each connection, and let the fork serve it."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever ended is gone
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                request, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
                while part := connection.recv(1 << 16):
                    request += part
                serve(connection, json.loads(request), list(descriptors))
            except BaseException:  # noqa: BLE001 - a fork must not return
                with contextlib.suppress(OSError):
                    connection.sendall(traceback.format_exc().encode())
            finally:
                os._exit(0)
        connection.close()


def preload() -> None:
    """Import everything, in a process that ends with the one that started it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for name in _MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in _PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)


def become_script(command: Sequence[str], env: Mapping[str, str]) -> None:
    """Be what `python script arguments` is, as far as the script can tell; do not return."""
    os.environ.clear()
    os.environ.update(env)
    sys.dont_write_bytecode = True
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as Python opens them when it starts
    sys.stdout = open(1, "w", errors=sys.stdout.errors, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = list(command[1:])
    sys.path[0] = os.path.dirname(sys.argv[0])
    code: object = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - as Python does at the top
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads, or it is closed
            stream.flush()
    os._exit(code if isinstance(code, int) else code is not None)


def is_script(command: Sequence[str | os.PathLike[str]]) -> bool:
    """Whether a command line is this Python and one of our scripts."""
    return (
        len(command) > 1
        and command[0] == sys.executable
        and Path(command[1]).parent == _ROOT / "bin"
    )


def _starting(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(_STARTING)}


_STARTED_WITH = _starting(os.environ)


def may_fork(env: Mapping[str, str]) -> bool:
    """Whether Python, started with these variables, would be as the preloaded process is."""
    return _starting(env) == _STARTED_WITH


@cache
def _server() -> Server:
    server = Server().__enter__()
    atexit.register(server.__exit__)
    return server


def run(
    command: Sequence[str | os.PathLike[str]],
    env: Mapping[str, str],
    cwd: str | os.PathLike[str],
    stdin: bytes,
    timeout: float,
) -> tuple[int, bytes, bytes]:
    """Run a script in a fork; return its exit code, and what it wrote to stdout and stderr.

    Raises
    ------
    subprocess.TimeoutExpired
        It was killed when the time was up.
    """
    words = [os.fspath(word) for word in command]
    request = {"command": words, "env": dict(env), "cwd": os.path.abspath(cwd)}
    with tempfile.TemporaryFile() as given:
        given.write(stdin)
        given.seek(0)
        read, write = zip(os.pipe(), os.pipe(), strict=True)
        connection = _server().ask(request, [given.fileno(), *write])
    for descriptor in write:
        os.close(descriptor)
    parts: list[bytes] = [b"", b""]

    def collect(number: int) -> None:
        with open(read[number], "rb") as file:
            parts[number] = file.read()

    readers = [threading.Thread(target=collect, args=[number], daemon=True) for number in (0, 1)]
    for reader in readers:
        reader.start()
    with connection:
        pid = int(connection.recv(16))
        connection.settimeout(timeout)
        try:
            ended = connection.recv(16)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(words, timeout) from None
    for reader in readers:
        # Whatever the script left behind holds them open, as it would hold up cron.
        reader.join(timeout)
        if reader.is_alive():
            raise subprocess.TimeoutExpired(words, timeout)
    return int(ended), *parts


class Started:
    """A script in a fork, which writes to a file.

    Attributes
    ----------
    pid : `int`
    """

    def __init__(
        self, command: Sequence[str | os.PathLike[str]], env: Mapping[str, str], output: Path
    ) -> None:
        request = {"command": [*map(os.fspath, command)], "env": dict(env), "cwd": os.getcwd()}
        with open(os.devnull, "rb") as nothing, output.open("ab") as file:
            descriptors = [nothing.fileno(), file.fileno(), file.fileno()]
            self._connection = _server().ask(request, descriptors)
        self.pid = int(self._connection.recv(16))

    def wait(self) -> int:
        """Wait for its end; return its exit code."""
        with self._connection:
            return int(self._connection.recv(16))


def _serve(connection: socket.socket, request: dict[str, Any], descriptors: list[int]) -> None:
    """Run one script in a fork of this fork, and answer with its number and its exit code."""
    pid = os.fork()
    if pid == 0:
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.closerange(3, 256)
        os.chdir(request["cwd"])
        become_script(request["command"], request["env"])
    for descriptor in descriptors:
        os.close(descriptor)
    connection.sendall(b"%-16d" % pid)
    _, status = os.waitpid(pid, 0)
    connection.sendall(b"%-16d" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    preload()
    serve_forks(_serve)
