"""A real system behind the real scripts: what must hold for each of them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.scripts import CRON_ENVIRONMENT, TOP
from tests.support.site import Site

#: Seconds after which a test that waits for a script fails.
PATIENCE = 120

#: So that a plugin can import doubles of the tests.
OURS = {"PYTHONPATH": str(TOP)}


class System(ABC):
    """A data management system that a test can look into and switch off."""

    plugin: str

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The keys of a target for it."""

    @abstractmethod
    def write(self, directory: Path, number: int, content: str = "") -> Path:
        """Write a file that it can take; of one number, it takes one content only."""

    @abstractmethod
    def held(self) -> list[str]:
        """The paths that it holds, sorted."""

    @abstractmethod
    def away(self) -> AbstractContextManager[None]:
        """Make it unavailable for a while."""


class ThroughTheIngester:
    """Files go from the finder's buffer to storage to the system, by the scripts."""

    @pytest.fixture(autouse=True)
    def _arranged(self, site: Site, system: System) -> None:
        self.site, self.system = site, system
        self.configure()

    def configure(self, **keys: Any) -> None:
        target = {"plugin": self.system.plugin, "config": self.system.config, "retry_wait": 0}
        self.site.write(targets={"a": target | keys})

    def store(self, *numbers: int, content: str = "") -> list[str]:
        """Let the finder store files, and return their paths."""
        stored = []
        for number in numbers:
            path = self.system.write(self.site.far_buffer, number, content)
            stored.append(str(self.site.storage / path.relative_to(self.site.far_buffer)))
        assert self.site.run("dbb-finder").code == 0
        return stored

    def ingest(self, code: int = 0) -> str:
        """Make a pass, check its exit code, and return its stderr."""
        ran = self.site.run("dbb-ingester", "a", env=OURS)
        assert ran.code == code, ran
        return ran.err

    def ask(self, query: str) -> list[Any]:
        path = self.site.database_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path)) as database:
            return database.execute(query).fetchall()

    def statuses(self) -> Counter[str]:
        return Counter(status for (status,) in self.ask("SELECT status FROM ingest_state"))

    def successes(self) -> list[int]:
        """How often each file became SUCCESS."""
        query = "SELECT count(*) FROM ingest_event WHERE status = 'SUCCESS' GROUP BY file_id"
        return [count for (count,) in self.ask(query)]

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, TOP / "bin" / "dbb-ingester", "a", "-c", self.site.config],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=CRON_ENVIRONMENT | OURS | {"TMPDIR": os.environ.get("TMPDIR", "/tmp")},
        )

    def test_first_ingest_and_repeat(self) -> None:
        paths = self.store(1, 2, 3)
        assert self.ingest() == ""
        assert self.statuses() == {"SUCCESS": 3}
        assert self.system.held() == paths
        assert self.site.run("dbb", "retry", "target.a", "--status", "SUCCESS").code == 0
        assert self.ingest() == ""
        assert self.statuses() == {"SUCCESS": 3}
        assert self.system.held() == paths
        ((message,),) = self.ask("SELECT message FROM ingest_event ORDER BY id DESC LIMIT 1")
        assert "registered before" in message

    def test_missing_file_stops_only_itself(self) -> None:
        paths = self.store(1, 2, 3)
        Path(paths[1]).unlink()
        self.ingest()
        assert self.statuses()["SUCCESS"] == 2
        assert self.system.held() == [paths[0], paths[2]]

    def test_away_and_back(self) -> None:
        paths = self.store(1, 2)
        with self.system.away():
            assert self.ingest(code=75).count("\n") == 1
        assert set(self.statuses()) <= {"UNTRIED", "PENDING"}
        assert self.ask("SELECT max(attempts) FROM ingest_state") == [(0,)]
        self.ingest()
        assert self.statuses() == {"SUCCESS": 2}
        assert self.system.held() == paths

    def test_killed_between_its_success_and_our_record(self) -> None:
        paths = self.store(1, 2)
        running = self.start()
        waited_for(lambda: self.statuses() == {"PENDING": 2}, running)
        # While the plugin is still starting: from now on the pass cannot write.
        path = self.site.database_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")
            waited_for(lambda: self.system.held() == paths, running)
            children = psutil.Process(running.pid).children(recursive=True)
            running.send_signal(signal.SIGKILL)
            running.wait()
            database.execute("ROLLBACK")
        # The plugin's process may still be closing its registry.
        psutil.wait_procs(children, 30)
        assert self.statuses() == {"PENDING": 2}
        self.ingest()
        assert self.successes() == [1, 1]
        assert self.system.held() == paths

    def test_four_passes_at_once(self) -> None:
        paths = self.store(*range(1, 41))
        self.configure(passes=4, batch_files=5)
        running = [self.start() for _ in range(4)]
        for each in running:
            said, _ = each.communicate(timeout=PATIENCE)
            assert (each.returncode, said) == (0, b"")
        assert self.successes() == [1] * 40
        assert self.system.held() == sorted(paths)


def waited_for(event: Callable[[], bool], running: subprocess.Popen[bytes]) -> None:
    """Wait for something to happen while a script runs."""
    deadline = time.monotonic() + PATIENCE
    while not event():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
