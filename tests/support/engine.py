"""A scheduler and workers of dask.distributed, each a process of its own on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Seconds in which what is awaited must happen.
PATIENCE = 60

#: What each worker runs first: it stops at a gate, if there is one, and may have another version.
_PRELOAD = """
import os, sys, time
import dbbbatch
dbbbatch.__version__ = os.environ.get("WORKER_VERSION", dbbbatch.__version__)
from dbbbatch.files import checksum, place
here = os.environ["WORKER_DIRECTORY"]
def gated(name, function):
    def stop(*arguments):
        result = function(*arguments)
        if os.path.exists(f"{here}/{name}"):
            open(f"{here}/{name}.{os.getpid()}", "w").close()
            while os.path.exists(f"{here}/{name}"):
                time.sleep(0.01)
        return result
    return stop
place.sync_file = gated("copied", place.sync_file)
checksum.read_file = gated("read", checksum.read_file)
"""


class Cluster:
    """The processes of a cluster, which are stopped by their pids.

    Attributes
    ----------
    address : `str`
        Of the scheduler.
    workers : `list` [ `subprocess.Popen` ]
    """

    def __init__(self, directory: Path, workers: int, *, tls: bool = False) -> None:
        directory.mkdir(parents=True)
        self.tls = {name: str(directory / f"{name}.pem") for name in ("cert", "key")} if tls else {}
        if tls:
            # One certificate, which signed itself, for all.
            self.tls["ca"] = self.tls["cert"]
            subprocess.run(
                [
                    *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
                    *("-subj", "/CN=dbb", "-keyout", self.tls["key"], "-out", self.tls["cert"]),
                ],
                check=True,
                capture_output=True,
            )
        self.directory = directory
        (directory / "preload.py").write_text(_PRELOAD)
        found = directory / "scheduler.json"
        self.scheduler = self._start(
            *("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
            *("--scheduler-file", str(found), "--protocol", "tls" if tls else "tcp"),
        )
        import json

        wait_for(lambda: found.exists() and found.read_text().endswith("}"))
        self.address: str = json.loads(found.read_text())["address"]
        self.workers = [self.add_worker() for _ in range(workers)]

    def add_worker(self, **env: str) -> subprocess.Popen[bytes]:
        """Start a worker, with more in its environment."""
        return self._start(
            *("worker", self.address, "--no-nanny", "--no-dashboard", "--nthreads", "1"),
            *("--host", "127.0.0.1", "--local-directory", str(self.directory)),
            *("--preload", str(self.directory / "preload.py")),
            **env,
        )

    def section(self, **keys: Any) -> dict[str, Any]:
        """Return the keys of [executor] that use it."""
        files = {f"tls_{name}": path for name, path in self.tls.items()}
        return {"kind": "dask", "scheduler": self.address, "least": 0, **files, **keys}

    def gate(self, name: str) -> Path:
        """Make workers stop where they have copied or read a file ("copied", "read")."""
        path = self.directory / name
        path.touch()
        return path

    def waiting(self, name: str) -> list[int]:
        """Return the pids of the workers at a gate, once there is one."""

        def pids() -> list[int]:
            return [int(path.suffix[1:]) for path in self.directory.glob(f"{name}.*")]

        wait_for(pids)
        return pids()

    def open(self, name: str) -> None:
        """Let workers go on."""
        (self.directory / name).unlink(missing_ok=True)
        for path in self.directory.glob(f"{name}.*"):
            path.unlink()

    def kill(self, pid: int) -> None:
        """Kill a worker."""
        (worker,) = (each for each in self.workers if each.pid == pid)
        self.workers.remove(worker)
        worker.kill()
        worker.wait()

    def stop(self) -> None:
        """Kill what runs."""
        for process in (*self.workers, self.scheduler):
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()

    def _start(self, *arguments: str, **env: str) -> subprocess.Popen[bytes]:
        options = {"ca": "--tls-ca-file", "cert": "--tls-cert", "key": "--tls-key"}
        tls = [word for name, path in self.tls.items() for word in (options[name], path)]
        with open(self.directory / "log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments, *tls],
                stdout=log,
                stderr=log,
                env=os.environ | {"WORKER_DIRECTORY": str(self.directory)} | env,
            )


def wait_for(is_so: Callable[[], Any]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, f"{is_so} is not so"
        time.sleep(0.01)
