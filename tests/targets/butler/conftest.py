"""Real Gen3 repositories, on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.targets.butler.postgres import InstalledPostgres, binaries
from tests.targets.butler.preparing import prepared
from tests.targets.extras import give_up, without

pytest_pycollect_makemodule = without(
    "the Butler's packages are not installed: pip install 'dbbbatch[butler]'",
    "lsst.daf.butler",
    "astro_metadata_translator",
)

CAMERAS = ("LATISS", "LSSTCam", "HSC", "DECam")


@pytest.fixture(scope="session")
def _prepared_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repo = tmp_path_factory.mktemp("butler") / "repo"
    for camera in CAMERAS:
        prepared(repo, camera)
    return repo


@pytest.fixture
def sqlite_repo(_prepared_sqlite: Path, tmp_path: Path) -> Path:
    """Return a repository of the test's own, for four cameras, on SQLite."""
    return Path(shutil.copytree(_prepared_sqlite, tmp_path / "repo"))


@pytest.fixture(scope="session")
def _prepared_for_the_stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repo = tmp_path_factory.mktemp("butler") / "stack"
    for camera in CAMERAS:
        prepared(repo, camera, storage_class="Exposure")
    return repo


@pytest.fixture
def stack_repo(_prepared_for_the_stack: Path, tmp_path: Path) -> Path:
    """Return a repository of the test's own that the stack's tasks take, on SQLite."""
    return Path(shutil.copytree(_prepared_for_the_stack, tmp_path / "stack"))


@pytest.fixture(params=["sqlite", "postgresql"])
def each_stack_repo(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a repository that the stack's tasks take, for LATISS, on each kind of database."""
    if request.param == "sqlite":
        return Path(request.getfixturevalue("stack_repo"))
    repo = tmp_path / "repo"
    database = request.getfixturevalue("butler_postgres").fresh()
    registry = {"db": database, "namespace": "butler"}
    prepared(repo, "LATISS", registry=registry, storage_class="Exposure")
    return repo


@pytest.fixture(scope="session")
def butler_postgres() -> Iterator[InstalledPostgres]:
    """Yield a PostgreSQL server that can hold the registry of a repository."""
    programs = binaries()
    if programs is None:
        give_up("no PostgreSQL with btree_gist is installed: apt-get install postgresql")
    server = InstalledPostgres(programs)
    yield server
    server.remove()


@pytest.fixture
def postgres_repo(butler_postgres: InstalledPostgres, tmp_path: Path) -> Path:
    """Return a repository of the test's own, for LATISS and DECam, on PostgreSQL."""
    repo = tmp_path / "repo"
    database = butler_postgres.fresh()
    prepared(repo, "LATISS", registry={"db": database, "namespace": "butler"})
    prepared(repo, "DECam")
    return repo


@pytest.fixture(params=["sqlite", "postgresql"])
def repo(request: pytest.FixtureRequest) -> Path:
    """Return a repository of the test's own, on each kind of database."""
    name = "sqlite_repo" if request.param == "sqlite" else "postgres_repo"
    return request.getfixturevalue(name)


@pytest.fixture
def opened(repo: Path) -> Callable[[], Any]:
    """Return what opens the repository with the Butler alone, to look at it."""
    from lsst.daf.butler import Butler

    return lambda: Butler.from_config(str(repo))


@pytest.fixture(autouse=True)
def _fresh_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.targets.butler import obs_base_double as double

    monkeypatch.setattr(double.RawIngestTask, "calls", [])
    monkeypatch.setattr(double.DefineVisitsTask, "defined", [])
    monkeypatch.setattr(double.DefineVisitsTask, "calls", [])
    monkeypatch.setattr(double.DefineVisitsTask, "impossible", set())
