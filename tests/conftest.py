"""Fixtures that every room's tests share; what they are made of is in tests/support."""

import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.config import load, sections
from dbbbatch.config.fields import defaults
from tests.support import ssh
from tests.support.database import BACKENDS, Databases
from tests.support.engine import Cluster
from tests.support.site import Site

# Thousands of processes would compile every module again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where DBB_CI_STRICT=1, a promise that was not tried counts as broken."""
    report = yield
    if (
        os.environ.get("DBB_CI_STRICT") == "1"
        and report.skipped
        and not hasattr(report, "wasxfail")
        and item.get_closest_marker("promise")
    ):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: a promise was skipped: {report.longrepr[2]}"  # type: ignore[index]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Where DBB_CI_STRICT=1, a whole module that was not tried counts as broken, marked or not."""
    report = yield
    if os.environ.get("DBB_CI_STRICT") == "1" and report.outcome == "skipped":
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid}: was skipped: {report.longrepr[2]}"  # type: ignore[index]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Escape half characters in a report: a worker that cannot send one takes all others along."""
    return _whole((yield))


def _whole(data: Any) -> Any:
    if isinstance(data, str):
        return data.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(data, dict):
        return {_whole(key): _whole(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(map(_whole, data))
    return data


@pytest.fixture(autouse=True)
def _no_configuration_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DBB_CONFIG", "PGPASSFILE", "PGPASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    """Yield what makes databases of each kind; PostgreSQL is started when first asked for."""
    made = Databases(tmp_path_factory.mktemp("databases"))
    yield made
    made.close()


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Run the test once for each kind of database; parametrize ``backend`` to choose."""
    return request.param


@pytest.fixture
def database_url(backend: str, databases: Databases, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of a database of its own with the schema in place (as after ``dbb init``)."""
    with databases.fresh(backend, tmp_path) as url:
        yield url


@pytest.fixture
def empty_database_url(backend: str, databases: Databases, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of a database of its own that holds nothing."""
    with databases.fresh(backend, tmp_path, schema=False) as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Any]:
    """Connect to the database of `database_url`; the models are bound to it."""
    from dbbbatch.config.fields import defaults
    from dbbbatch.config.sections import Database
    from dbbbatch.database import connect

    yield connect.connect(defaults(Database, url=database_url))
    connect.disconnect()


@pytest.fixture
def site(tmp_path: Path, database_url: str) -> Site:
    """Return two sites side by side, far end a directory, with the usual configuration written."""
    return Site(tmp_path / "site", database_url).write()


@pytest.fixture(scope="session")
def _session_ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ssh.SshServer]:
    if what := ssh.missing():
        pytest.skip(what)
    server = ssh.SshServer(tmp_path_factory.mktemp("ssh"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def ssh_server(_session_ssh_server: ssh.SshServer) -> ssh.SshServer:
    """Return a running SSH server that tests share: do not stop it."""
    return _session_ssh_server


@pytest.fixture
def own_ssh_server(tmp_path: Path) -> Iterator[ssh.SshServer]:
    """Yield a running SSH server of this test's own, which it may stop, pause or start again."""
    if what := ssh.missing():
        pytest.skip(what)
    directory = tmp_path / "ssh"
    directory.mkdir()
    server = ssh.SshServer(directory)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def ssh_site(tmp_path: Path, database_url: str, ssh_server: ssh.SshServer) -> Site:
    """Return two sites side by side, the far end reached by ssh and rsync."""
    return Site(tmp_path / "site", database_url, ssh_server).write()


@pytest.fixture(scope="session")
def fits_files() -> list[Path]:
    """Return real FITS files (images, tables, compressed ones; 3 to 90 kB) that astropy brings."""
    import astropy.io.fits

    found = sorted((Path(astropy.io.fits.__file__).parent / "tests" / "data").glob("*.fits"))
    assert len(found) > 10
    return found


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Return a function that puts a script first on PATH: ``program("rsync", "exit 24")``."""
    directory = tmp_path / "programs"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")

    def write(name: str, script: str) -> Path:
        path = directory / name
        path.write_text(f"#!{shutil.which('sh')}\n{script}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    """Yield a directory on another file system than `tmp_path`."""
    path = Path(tempfile.mkdtemp(dir="/dev/shm"))
    if path.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is on the file system of the temporary directory")
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def _session_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    made = Cluster(tmp_path_factory.mktemp("engine") / "cluster", workers=2)
    yield made
    made.stop()


@pytest.fixture
def cluster(_session_cluster: Cluster) -> Cluster:
    """Return a scheduler with two workers, which tests share: who kills a worker starts another."""
    return _session_cluster


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> load.Settings:
    """Return the settings of a site without sections, on a database of its own."""
    return load.Settings(
        path=tmp_path / "dbb.toml",
        site=defaults(sections.Site, name="archive", state=str(tmp_path / "state")),
        database=defaults(sections.Database, url=database_url, patience=0.2),
        handoff={},
        finder={},
        target={},
    )
