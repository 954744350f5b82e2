"""Data management systems for the demo: a Gen3 Butler repository and a Rucio server."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from dbbbatch.config import fields
from dbbbatch.errors import ConfigError, TryLater
from dbbbatch.targets.butler.settings import Gen3Settings

#: Names of the demo's own storage element and scope.
RSE, SCOPE = "DBB_DEMO", "dbb_demo"

#: Seconds within which a Rucio server must start.
_PATIENCE = 60

Tables = Mapping[str, Mapping[str, Any]]


def butler(root: Path) -> Tables:
    """Make a repository for the demo's camera, or complete it, and return its sections.

    Raises
    ------
    ConfigError
        If the packages are not installed.
    """
    try:
        from dbbbatch.targets.butler.prepare import prepare
    except ImportError as error:
        raise ConfigError(
            f"butler-gen3: {error.name} is not installed; pip install 'dbbbatch[butler]'"
        ) from None
    repo = root / "archive" / "butler"
    for _ in prepare(fields.defaults(Gen3Settings, repo=str(repo)), "LATISS"):
        pass
    return {
        "target.butler": {"storage": root / "archive" / "storage", "plugin": "butler-gen3"},
        "target.butler.config": {"repo": repo},
    }


@contextmanager
def rucio(root: Path, server: Path | None) -> Iterator[Tables]:
    """Provide a Rucio server with a storage element for the demo's storage area.

    Parameters
    ----------
    root : `pathlib.Path`
        The demo's directory.
    server : `pathlib.Path` or `None`
        An environment with the package ``rucio``, whose server runs on loopback within the
        context. Without it, the server of the user's rucio.cfg is used.

    Yields
    ------
    tables : mapping
        The sections of a target that registers files there.

    Raises
    ------
    ConfigError
        If the client is not installed, or there is no server.
    """
    try:
        from rucio.client import Client
    except ImportError as error:
        raise ConfigError(
            f"rucio: {error.name} is not installed; pip install 'dbbbatch[rucio]'"
        ) from None
    storage = root / "archive" / "storage"
    config: dict[str, Any] = {"rse": RSE, "scope": SCOPE, "dataset": "latiss-{relpath}"}
    tables = {
        "target.rucio": {"storage": storage, "plugin": "rucio"},
        "target.rucio.config": config,
    }
    if server is None:
        _make_element(_configured(Client), storage)
        yield tables
        return
    from dbbbatch.targets.rucio.server import ACCOUNT, PASSWORD, USER

    with _started(root / "rucio", server) as url:
        login = {"username": USER, "password": PASSWORD}
        client = Client(
            rucio_host=url, auth_host=url, account=ACCOUNT, auth_type="userpass", creds=login
        )
        _make_element(client, storage)
        config |= {"url": url, "account": ACCOUNT, **login}
        yield tables


def _configured(client: Any) -> Any:
    from rucio.common.exception import RucioException

    try:
        return client()
    except RucioException as error:
        raise ConfigError(
            f"rucio: no server is configured ({error}); name an environment that holds the package "
            "rucio with --rucio-server, or write a rucio.cfg"
        ) from None


@contextmanager
def _started(work: Path, environment: Path) -> Iterator[str]:
    """Run a temporary server within the context."""
    from dbbbatch.process import run
    from dbbbatch.targets.rucio import server

    python = environment.absolute() / "bin" / "python"
    work.mkdir(exist_ok=True)
    ready = work / "ready"
    ready.unlink(missing_ok=True)
    argv = [str(python), "-P", server.__file__, str(work)]
    with run.Process([os.fsencode(word) for word in argv], cwd=str(work)) as process:
        deadline = time.monotonic() + _PATIENCE
        while not ready.exists():
            if time.monotonic() > deadline or not _runs(process):
                raise TryLater(f"rucio: its server did not start; see {work}/server.log")
            time.sleep(0.05)
        yield (work / "url").read_text(encoding="utf-8")


def _runs(process: Any) -> bool:
    return os.path.isdir(f"/proc/{process.pid}")


def _make_element(client: Any, storage: Path) -> None:
    """Make the demo's scope and storage element, unless an earlier demo did."""
    from rucio.common.exception import Duplicate

    operations = {"read": 1, "write": 1, "delete": 1}
    protocol = {
        "scheme": "file",
        "hostname": "localhost",
        "port": 0,
        "prefix": f"{storage}/",
        "impl": "rucio.rse.protocols.posix.Default",
        "domains": {"lan": operations, "wan": operations},
    }
    for make in (
        partial(client.add_scope, client.account, SCOPE),
        partial(client.add_rse, RSE, deterministic=False, rse_type="DISK"),
        partial(client.add_protocol, RSE, protocol),
    ):
        with suppress(Duplicate):
            make()
