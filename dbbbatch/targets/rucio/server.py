"""A Rucio server on loopback for trials and tests; not for real files.

Run it by the Python of an environment that holds the package `rucio` (which cannot share one with
`rucio-clients`): ``VENV/bin/python -P server.py WORKDIR [DATABASE]``. When it listens, WORKDIR/url
holds its address; user ddmlab, password secret, account root. By default its database is SQLite in
WORKDIR.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

USER, PASSWORD, ACCOUNT = "ddmlab", "secret", "root"

CONFIG = """\
[common]
loglevel = WARNING
[database]
default = {database}
[bootstrap]
userpass_identity = {user}
userpass_pwd = {password}
[cache]
url = 127.0.0.1:1
[policy]
permission = generic
schema = generic
"""


class OneWriter:
    """Lets one request at a time write, since SQLite refuses a second one."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Serve a request; those that may write wait for each other."""
        if environ["REQUEST_METHOD"] == "GET" and not environ["PATH_INFO"].startswith("/auth"):
            return self._application(environ, start_response)
        with self._lock:
            return self._application(environ, start_response)


def main(work: Path, database: str) -> None:
    """Serve until killed."""
    work.mkdir(parents=True, exist_ok=True)
    # Rucio logs to stdout; a pipe that nobody reads would fill up and stop it.
    log = os.open(work / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    config = work / "rucio.cfg"
    config.write_text(CONFIG.format(database=database, user=USER, password=PASSWORD))
    os.environ["RUCIO_CONFIG"] = str(config)

    from rucio.db.sqla import models
    from rucio.db.sqla.session import get_engine
    from rucio.db.sqla.util import create_base_vo, create_root_account
    from sqlalchemy import event, inspect

    engine = get_engine()
    sqlite = engine.dialect.name == "sqlite"
    if sqlite:

        @event.listens_for(engine, "connect")
        def _settings(connection: Any, _: Any) -> None:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")

    if not inspect(engine).has_table("vos"):
        models.register_models(engine)
        create_base_vo()
        create_root_account()

    from rucio.web.rest.flaskapi.v1.main import application
    from werkzeug.serving import make_server

    address = work / "url"
    port = int(address.read_text().rpartition(":")[2]) if address.exists() else 0
    served = OneWriter(application) if sqlite else application
    server = make_server("127.0.0.1", port, served, threaded=True)
    unfinished = work / "url.unfinished"
    unfinished.write_text(f"http://127.0.0.1:{server.server_port}")
    unfinished.replace(address)
    (work / "ready").touch()
    server.serve_forever()


if __name__ == "__main__":
    directory = Path(sys.argv[1]).resolve()
    main(directory, sys.argv[2] if len(sys.argv) > 2 else f"sqlite:///{directory}/rucio.db")
