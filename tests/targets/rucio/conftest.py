"""A real Rucio server, and a storage element and a scope of each test's own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.targets.rucio.server import ACCOUNT, PASSWORD, USER
from tests.targets.extras import give_up, without
from tests.targets.rucio.server import RucioServer, environment

pytest_pycollect_makemodule = without(
    "Rucio's client is not installed: pip install 'dbbbatch[rucio]'", "rucio.client"
)

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def rucio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RucioServer]:
    """Yield a running server that tests share: a test that stops it starts it again."""
    found = environment()
    if isinstance(found, str):
        give_up(found)
    server = RucioServer(found, tmp_path_factory.mktemp("rucio"))
    server.start()
    yield server
    server.stop()


@dataclass
class Element:
    """A storage element for a directory, with a scope."""

    server: RucioServer
    directory: Path
    client: Any
    rse: str
    scope: str

    @property
    def config(self) -> dict[str, Any]:
        """The keys of a target that registers files of the directory there."""
        return {
            "url": self.server.url,
            "account": ACCOUNT,
            "username": USER,
            "password": PASSWORD,
            "rse": self.rse,
            "scope": self.scope,
            "timeout": 10,
        }

    def replicas(self) -> dict[str, tuple[str, ...]]:
        """Return the PFNs of all files in the scope, by name."""
        names = list(self.client.list_dids(self.scope, {"name": "*"}, did_type="file"))
        asked = [{"scope": self.scope, "name": name} for name in names]
        found = list(self.client.list_replicas(asked)) if asked else []
        return {one["name"]: tuple(one["rses"][self.rse]) for one in found}

    def content(self, dataset: str) -> list[str]:
        """Return the names of a dataset's files."""
        return sorted(one["name"] for one in self.client.list_content(self.scope, dataset))


@pytest.fixture
def make_element(
    rucio_server: RucioServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Path], Element]:
    """Return a function that makes a storage element for a directory, and a scope."""
    from rucio.client import Client

    # Rucio keeps tokens in the temporary directory, and asks for no password while it finds one.
    prefix = "rucio.client.baseclient.BaseClient.TOKEN_PATH_PREFIX"
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("RUCIO_CONFIG", "RUCIO_HOME", "RUCIO_ACCOUNT"):
        monkeypatch.delenv(name, raising=False)

    def make(directory: Path) -> Element:
        monkeypatch.setattr(prefix, f"{tmp_path}/ours-")
        client = Client(
            rucio_host=rucio_server.url,
            auth_host=rucio_server.url,
            account=ACCOUNT,
            auth_type="userpass",
            creds={"username": USER, "password": PASSWORD},
            timeout=30,
        )
        monkeypatch.setattr(prefix, f"{tmp_path}/plugin-")
        number = next(_numbers)
        rse, scope = f"DISK{number}", f"raw{number}"
        client.add_scope(ACCOUNT, scope)
        client.add_rse(rse, deterministic=False, rse_type="DISK")
        operations = {"read": 1, "write": 1, "delete": 1}
        protocol = {
            "scheme": "file",
            "hostname": "localhost",
            "port": 0,
            "prefix": f"{directory}/",
            "impl": "rucio.rse.protocols.posix.Default",
            "domains": {"lan": operations, "wan": operations},
        }
        client.add_protocol(rse, protocol)
        return Element(rucio_server, directory, client, rse, scope)

    return make


@pytest.fixture
def element(make_element: Callable[[Path], Element], tmp_path: Path) -> Element:
    """Return a storage element of this test for `tmp_path`/storage."""
    directory = tmp_path / "storage"
    directory.mkdir()
    return make_element(directory)
