"""A PostgreSQL with btree_gist, which the Butler wants and the server from PyPI lacks."""

from __future__ import annotations

import glob
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def binaries() -> Path | None:
    """Return the directory of an installed PostgreSQL's programs; None if there is none."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/pg_ctl")) or [shutil.which("pg_ctl") or ""]
    return Path(found[-1]).parent if found[-1] else None


class InstalledPostgres:
    """A private server of an installed PostgreSQL, on a socket only."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # Not below pytest's directories: as root the server runs as another user.
        self._directory = Path(tempfile.mkdtemp(prefix="dbb-butler-pg-"))
        self._user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        if os.geteuid() == 0:
            shutil.chown(self._directory, self._user)
        self._numbers = itertools.count(1)
        data = str(self._directory / "data")
        self._run("initdb", "-D", data, "-U", "butler", "--auth=trust", "-E", "UTF8", "--no-sync")
        self._start()

    def fresh(self) -> str:
        """Make a database with the extension and give its URL."""
        import psycopg

        name = f"butler_{next(self._numbers)}"
        with psycopg.connect(self._url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        with psycopg.connect(self._url(name), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION btree_gist")
        return self._url(name)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Stop the server for a while."""
        self._stop()
        try:
            yield
        finally:
            self._start()

    def restart(self) -> None:
        """End every connection and begin anew."""
        self._stop()
        self._start()

    def remove(self) -> None:
        """End the server and remove its files."""
        self._stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _url(self, database: str) -> str:
        return f"postgresql://butler@/{database}?host={self._directory}"

    def _start(self) -> None:
        options = (
            f"-c listen_addresses='' -k {self._directory} "
            "-c fsync=off -c full_page_writes=off -c autovacuum=off"
        )
        log = str(self._directory / "log")
        self._run(
            "pg_ctl", "-D", str(self._directory / "data"), "-w", "-l", log, "-o", options, "start"
        )

    def _stop(self) -> None:
        self._run("pg_ctl", "-D", str(self._directory / "data"), "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        subprocess.run(
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd="/",
            user=self._user if os.geteuid() == 0 else None,
            group=self._user if os.geteuid() == 0 else None,
        )
