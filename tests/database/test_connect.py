"""Transactions that wait for a database that is busy or away, and repeat as a whole."""

import sqlite3
import threading

import peewee
import pytest

from dbbbatch.config.fields import defaults
from dbbbatch.config.sections import Database
from dbbbatch.database import connect
from dbbbatch.database.base import database as proxy
from dbbbatch.errors import ConfigError, DbbError, TryLater

only_sqlite = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
only_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


@pytest.fixture
def opened(database_url):
    """Connect with little patience, to the database that the models are bound to."""
    yield connect.connect(defaults(Database, url=database_url, busy_timeout=0.05, patience=0.3))
    connect.disconnect()


def pause(label):
    connect.execute(
        "INSERT INTO pause (site, label, since, reason) VALUES (?, ?, ?, '')",
        ("s", label, "2026-01-01 00:00:00"),
    )


def labels():
    return [label for (label,) in connect.execute("SELECT label FROM pause").fetchall()]


def test_what_a_transaction_did_is_there_when_it_returns(opened):
    connect.write(pause, "a")
    assert labels() == ["a"]


def test_a_transaction_that_raises_leaves_nothing(opened):
    def fail():
        pause("a")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        connect.write(fail)
    assert labels() == []


def test_a_mistake_in_sql_is_not_taken_for_a_busy_database(opened):
    with pytest.raises(peewee.PeeweeException):
        connect.write(connect.execute, "SELEC 1")


def test_the_clock_is_utc_without_a_zone(opened):
    assert connect.now().tzinfo is None


def test_statements_with_a_percent_sign_mean_the_same_on_both(opened):
    connect.write(pause, "100%")
    found = connect.execute("SELECT label FROM pause WHERE label LIKE '100%' AND site = ?", ("s",))
    assert found.fetchall() == [("100%",)]


def test_many_rows_go_in_by_one_call(opened):
    rows = [("s", str(n)) for n in range(1000)]
    connect.write(
        connect.execute_many,
        "INSERT INTO pause (site, label, since) VALUES (?, ?, '2026-01-01 00:00:00')",
        rows,
    )
    assert len(labels()) == 1000


@only_sqlite
def test_sqlite_is_set_up_to_lose_nothing(opened):
    pragmas = {name: opened.pragma(name) for name in ("journal_mode", "synchronous")}
    assert pragmas == {"journal_mode": "wal", "synchronous": 2}
    assert opened.pragma("foreign_keys") == 1


def test_the_usual_busy_timeout_is_thirty_seconds(database_url):
    assert defaults(Database, url=database_url).busy_timeout >= 30


@pytest.mark.promise
@only_sqlite
def test_a_busy_database_is_waited_for(database_url, tmp_path):
    connect.connect(defaults(Database, url=database_url, busy_timeout=0.01, patience=30))
    other = sqlite3.connect(tmp_path / "dbb.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    tries = []
    begin = proxy.obj.begin

    def begin_and_release(*args):
        tries.append(1)
        if len(tries) == 3:
            other.execute("COMMIT")
        return begin(*args)

    proxy.obj.begin = begin_and_release
    connect.write(pause, "a")
    assert len(tries) == 3
    assert labels() == ["a"]
    other.close()
    connect.disconnect()


@pytest.mark.promise
@only_sqlite
def test_a_database_that_stays_busy_is_a_matter_for_later(opened, tmp_path):
    other = sqlite3.connect(tmp_path / "dbb.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(TryLater, match="busy or away"):
        connect.write(pause, "a")
    other.close()
    assert labels() == []


@pytest.mark.promise
@only_postgresql
def test_a_transaction_whose_connection_breaks_is_repeated(database_url):
    connect.connect(defaults(Database, url=database_url, patience=30))
    tries = []

    def work():
        tries.append(1)
        pause(f"try {len(tries)}")
        if len(tries) == 1:
            mine = connect.execute("SELECT pg_backend_pid()").fetchone()[0]
            killer = threading.Thread(target=kill_backend, args=(database_url, mine))
            killer.start()
            killer.join()
            connect.execute("SELECT 1")

    connect.write(work)
    assert labels() == ["try 2"]
    connect.disconnect()


def kill_backend(url, pid):
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


@pytest.mark.promise
def test_a_server_that_is_not_there_is_a_matter_for_later(tmp_path):
    url = f"postgresql://nobody@/dbb?host={tmp_path}"
    with pytest.raises(TryLater, match="busy or away"):
        connect.connect(defaults(Database, url=url, patience=0.2))


@only_postgresql
def test_a_database_that_does_not_exist_is_a_matter_for_a_person(database_url):
    url = database_url.replace("/dbb_", "/no_")
    with pytest.raises(ConfigError, match="does not exist"):
        connect.connect(defaults(Database, url=url, patience=0.2))


@only_sqlite
def test_a_missing_file_says_what_to_run(tmp_path, backend):
    with pytest.raises(ConfigError, match="dbb init"):
        connect.connect(defaults(Database, url=f"sqlite:///{tmp_path}/none.sqlite"))


@only_sqlite
def test_a_missing_directory_may_be_mounted_later(tmp_path, backend):
    with pytest.raises(TryLater, match="mounted"):
        connect.connect(defaults(Database, url=f"sqlite:///{tmp_path}/none/dbb.sqlite"))


@only_sqlite
def test_a_damaged_file_is_one_line(tmp_path, backend):
    (tmp_path / "bad.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(ConfigError, match=r"damaged.*restore a backup.*-wal or -shm") as caught:
        connect.connect(defaults(Database, url=f"sqlite:///{tmp_path}/bad.sqlite"))
    assert "\n" not in str(caught.value)


@only_sqlite
def test_a_file_that_was_read_without_its_log_is_not_called_damaged(opened, monkeypatch):
    damaged = sqlite3.DatabaseError("database disk image is malformed")
    damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    monkeypatch.setattr(connect, "_immutable", True)
    with pytest.raises(TryLater, match="look again"):
        connect._raise_unless_sqlite_busy(damaged, peewee.DatabaseError())


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (sqlite3.SQLITE_FULL, "the disk is full or failing"),
        (sqlite3.SQLITE_IOERR, "the disk is full or failing"),
        (sqlite3.SQLITE_CORRUPT, "is damaged"),
        (sqlite3.SQLITE_READONLY, "cannot be opened or written by user"),
    ],
)
@only_sqlite
def test_a_database_in_trouble_is_named_by_its_file(opened, tmp_path, code, said):
    error = sqlite3.OperationalError("odd")
    error.sqlite_errorcode = code
    with pytest.raises(DbbError, match=f"^{tmp_path}/dbb.sqlite: {said}"):
        connect._raise_unless_sqlite_busy(error, peewee.DatabaseError())


@only_postgresql
def test_a_server_in_trouble_is_named_without_its_password(database_url):
    url = database_url.replace("/dbb_", "/no_").replace(":@", ":sesame@")
    with pytest.raises(ConfigError) as caught:
        connect.connect(defaults(Database, url=url, patience=0.2))
    assert str(caught.value).startswith("postgresql://postgres@")
    assert "sesame" not in str(caught.value)


def test_a_database_opened_to_look_refuses_changes(database_url):
    connect.connect(defaults(Database, url=database_url), readonly=True)
    with pytest.raises(Exception, match=r"read-only|readonly|written"):
        connect.write(pause, "a")
    connect.disconnect()
