"""Fixtures of the tests of workers."""

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.targets import registry
from dbbbatch.targets.plugin import Context, Outcome, StoredFile
from dbbbatch.targets.pool import WorkerPool
from dbbbatch.targets.worker import Launch

#: The first yields each outcome at once, the second only at the end of the batch.
PLUGINS = {
    "naughty": "tests.targets.naughty:Naughty",
    "whole": "tests.targets.naughty:Whole",
}

MakePool = Callable[..., WorkerPool]


@pytest.fixture
def naughty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install the naughty plugins, as a package would: for this process and its children."""
    for name, where in PLUGINS.items():
        write_package(tmp_path / "site-packages", name, where)
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    assert "naughty" in registry.names()


def write_package(directory: Path, name: str, where: str) -> None:
    """Write what pip leaves of an installed package with an entry point."""
    information = directory / f"{name}-1.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (information / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{name} = {where}\n")


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    directory = tmp_path / "storage"
    directory.mkdir()
    return directory


@pytest.fixture
def stored(storage: Path) -> Callable[..., list[StoredFile]]:
    """Return a function that puts files with these names into storage and describes them."""

    def put(*names: str) -> list[StoredFile]:
        files = []
        for number, name in enumerate(names, start=1):
            path = storage / name
            path.write_bytes(b"data")
            files.append(StoredFile(number, str(path), "", name, 4))
        return files

    return put


@pytest.fixture
def make_pool(naughty: None, storage: Path, tmp_path: Path) -> Iterator[MakePool]:
    """Yield a function that makes a pool of naughty plugins; all are ended afterwards."""
    made: list[WorkerPool] = []

    def make(
        plugin: str = "naughty",
        *,
        workers: int = 1,
        timeout: float = 60.0,
        memory_limit: int = 0,
        **config: Any,
    ) -> WorkerPool:
        context = Context("a", "here", str(storage), str(tmp_path), timeout)
        launch = Launch(plugin, config, context, memory_limit)
        made.append(WorkerPool(launch, workers, logging.getLogger("dbbbatch")))
        return made[-1]

    yield make
    for pool in made:
        pool.end()


def outcomes_of(pool: WorkerPool) -> dict[int, Outcome]:
    """Collect all outcomes, by the number of their file."""
    outcomes: dict[int, Outcome] = {}
    while pool.busy:
        for outcome in pool.collect(60.0):
            assert outcome.number not in outcomes
            outcomes[outcome.number] = outcome
    return outcomes


def open_when_read(fifo: Path, meanwhile: Callable[[], object]) -> int:
    """Open a FIFO for writing once somebody reads it."""
    while True:
        meanwhile()
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does; the test's own time limit is the only one."""
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)
