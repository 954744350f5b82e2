"""A real Rucio server on loopback, in an environment of its own that is kept between runs."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dbbbatch.targets.rucio import server

VERSION = "41.5.1"
#: Names an environment that holds the package `rucio`, instead of the one that is made here.
VARIABLE = "DBB_RUCIO_SERVER"


def environment() -> Path | str:
    """Return an environment that holds the server, made if necessary; or why there is none."""
    if given := os.environ.get(VARIABLE):
        return Path(given)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dbbbatch"
    place = cache / f"rucio-{VERSION}-python{sys.version_info.major}.{sys.version_info.minor}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            venv.create(place, clear=True, with_pip=True)
            done = subprocess.run(
                [place / "bin" / "pip", "install", "-q", f"rucio=={VERSION}"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                return f"rucio {VERSION} cannot be installed: {done.stderr.strip()[-300:]}"
            (place / "complete").touch()
    return place


class RucioServer:
    """One server process over one SQLite database; may be stopped, frozen and started again."""

    def __init__(self, environment: Path, work: Path) -> None:
        self._python = environment / "bin" / "python"
        self._work = work
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return (self._work / "url").read_text()

    def start(self) -> None:
        """Start it and wait until it listens."""
        ready = self._work / "ready"
        ready.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [self._python, "-P", server.__file__, self._work],
            stdin=subprocess.DEVNULL,
            cwd=self._work,
            env=os.environ | {"PYTHONWARNINGS": "ignore"},
        )
        deadline = time.monotonic() + 60
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log = (self._work / "server.log").read_text()[-2000:]
                raise RuntimeError(f"the Rucio server did not start: {log}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def down(self) -> Iterator[None]:
        """Stop the server for a while; it comes back with the same address and database."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it accept connections and never answer."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)
