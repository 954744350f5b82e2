"""A process that has imported what our scripts need, and forks for each of them.

Starting Python and importing the dependencies costs several times what a small pass does, and a
sweep makes thousands of them. A pass that runs in a fork is the same code in the same kind of
process; only its imports are not its own.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib
import json
import mmap
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
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.killing import phases, supervisor

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
)


class Preloaded:
    """The process; a context manager that ends it."""

    def __enter__(self) -> Preloaded:
        self._directory = tempfile.TemporaryDirectory(prefix="preloaded-")
        self._path = os.path.join(self._directory.name, "socket")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(self._path)
            listening.listen()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.killing.preloaded", str(listening.fileno())],
                cwd=_ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[listening.fileno()],
            )
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._directory.cleanup()

    def serve(self, request: dict[str, Any]) -> None:
        """Have a request of `supervisor.supervise` served by a fork."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self._path)
            connection.sendall(json.dumps(request).encode())
            connection.shutdown(socket.SHUT_WR)
            trouble = b""
            while part := connection.recv(4096):
                trouble += part
        if trouble:
            raise RuntimeError(f"the supervisor failed: {trouble.decode(errors='replace')}")


def is_script(command: Sequence[str | os.PathLike[str]]) -> bool:
    """Whether a command line is this Python and one of our scripts."""
    return (
        len(command) > 1
        and command[0] == sys.executable
        and Path(command[1]).parent == _ROOT / "bin"
    )


def main() -> None:
    """Import everything, then fork for each connection."""
    listening = socket.socket(fileno=int(sys.argv[1]))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for name in _MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in _PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)
    phases.collect()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever ended is gone
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _serve(connection)
        connection.close()


def _serve(connection: socket.socket) -> None:
    """Be the supervisor of one request."""
    try:
        request = b""
        while part := connection.recv(1 << 16):
            request += part
        phase = phases.shared()
        supervisor.serve(
            json.loads(request), partial(_run_script, phase), partial(phases.read, phase)
        )
    except BaseException:  # noqa: BLE001 - a fork must not return
        connection.sendall(traceback.format_exc().encode())
    finally:
        os._exit(0)


def _run_script(phase: mmap.mmap, request: dict[str, Any]) -> None:
    """Be what `python script arguments` is, as far as the script can tell."""
    os.closerange(3, 256)
    os.environ.clear()
    os.environ.update(request["env"])
    sys.dont_write_bytecode = True
    phases.watch(phase)
    sys.argv = request["command"][1:]
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
        stream.flush()
    os._exit(code if isinstance(code, int) else code is not None)


if __name__ == "__main__":
    main()
