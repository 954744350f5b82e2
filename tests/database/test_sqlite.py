"""SQLite whose file others have open: every wait is bounded, and a signal is heard."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import peewee
import pytest

from dbbbatch.config.fields import defaults
from dbbbatch.config.sections import Database
from dbbbatch.database import connect, waiting
from dbbbatch.errors import ConfigError, Interrupted, TryLater

pytestmark = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)

#: Much longer than a test may take: what ends sooner has not waited for it.
LONG = 3600


@pytest.fixture
def shell(database_url: str, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """Return another program's connection."""
    other = sqlite3.connect(tmp_path / "dbb.sqlite", isolation_level=None)
    yield other
    other.close()


def opened(url: str, patience: float = 0.3, **more: float) -> None:
    connect.connect(defaults(Database, url=url, patience=patience, **more))


def write() -> None:
    connect.write(connect.execute, "INSERT INTO pause (site, label, since) VALUES ('s', 'a', '')")


def refused(code: int) -> TryLater | ConfigError | None:
    """Return what an error of SQLite becomes; `None` if its work is repeated."""
    error = sqlite3.OperationalError("odd")
    error.sqlite_errorcode = code
    try:
        connect._raise_unless_sqlite_busy(error, peewee.DatabaseError())
    except (TryLater, ConfigError) as became:
        return became
    return None


def test_a_shell_left_open_in_a_transaction_is_given_up_after_the_patience(database_url, shell):
    shell.execute("BEGIN IMMEDIATE")
    opened(database_url, busy_timeout=LONG)
    with pytest.raises(TryLater, match="busy or away: database is locked"):
        write()
    connect.disconnect()


def test_a_shell_that_reads_is_in_nobody_s_way(database_url, shell):
    shell.execute("BEGIN")
    shell.execute("SELECT * FROM file").fetchall()
    opened(database_url)
    write()
    connect.disconnect()


def test_a_signal_is_heard_while_another_writes(database_url, shell, monkeypatch):
    shell.execute("BEGIN IMMEDIATE")
    opened(database_url, patience=LONG, busy_timeout=LONG)
    monkeypatch.setattr(waiting, "seen", lambda: 2)
    with pytest.raises(Interrupted):
        write()
    connect.disconnect()


@pytest.mark.parametrize(
    "code",
    [
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY_SNAPSHOT, sqlite3.SQLITE_BUSY_RECOVERY),
        *(sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_SCHEMA),
    ],
)
def test_what_another_program_causes_is_tried_again(database, code):
    assert refused(code) is None


@pytest.mark.parametrize(
    "code",
    [
        *(sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_LOCK),
        *(sqlite3.SQLITE_IOERR_SHMMAP, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM),
        *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY_DBMOVED, sqlite3.SQLITE_INTERRUPT),
    ],
)
def test_what_a_disk_causes_is_a_matter_for_later(database, code):
    assert isinstance(refused(code), TryLater)


def test_a_table_that_is_gone_is_a_matter_of_the_set_up(database):
    connect.write(connect.execute, "DROP TABLE pause")
    with pytest.raises(ConfigError, match=r"no such table: pause.*`dbb init`"):
        write()


@pytest.mark.parametrize("command", [["dbb-handoff"], ["dbb", "pause", "handoff.latiss"]])
def test_a_tool_that_locks_the_files_to_copy_them_is_told(site, database_url, shell, command):
    shell.execute("SELECT * FROM file").fetchall()  # its log is there
    site.write(database={"patience": 0.3})
    site.put("a.fits")
    with locking(Path(database_url.removeprefix("sqlite:///") + "-shm")):
        ran = site.run(*command)
        assert (ran.code, "database is locked" in ran.err) == (75, True)
    assert site.run(*command).code == 0


def test_no_pass_imports_the_driver_of_postgresql(site):
    code = f"""
import sys
from dbbbatch.cli import auditor, finder, handoff, ingester, janitor, status
from dbbbatch.config.load import load
from dbbbatch.database import connect
connect.connect(load({str(site.write().config)!r}).database)
sys.exit('psycopg' in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@contextmanager
def locking(path: Path) -> Iterator[None]:
    """Let another process hold a lock for reading on a whole file."""
    program = (
        "import fcntl, sys; file = open(sys.argv[1], 'rb');"
        " fcntl.lockf(file, fcntl.LOCK_SH); print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield
    process.communicate()
