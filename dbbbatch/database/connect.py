"""The one door to the database: connecting, transactions that can be repeated, and its clock.

Every change is made by a function given to `transact`. The whole function is repeated when another
writer is in the way or the server is away for a moment, so it does database work only, and doing
it twice equals doing it once: a commit whose answer was lost may have happened.
"""

import os
import re
import sqlite3
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

import peewee

from dbbbatch import keys
from dbbbatch.config import Database as DatabaseSettings
from dbbbatch.config import is_sqlite, sqlite_path
from dbbbatch.database import schema
from dbbbatch.database.base import database as proxy
from dbbbatch.errors import NO_ROOM, ConfigError, DbbError, TryLater, user
from dbbbatch.files import trust
from dbbbatch.files.state import DATABASE_MODE

Result = TypeVar("Result")

#: SQLSTATE classes and codes after which a repeat can succeed: lost connection, server going down
#: or starting, out of connections, serialization failure, deadlock, lock not available.
_PASSING = re.compile(r"08|57P0|53300|40001|40P01|55P03")

#: What SQLite says to a rollback after it has made one itself.
_ROLLED_BACK = re.compile(r"no transaction is active|no such savepoint")

_patience = 60.0

#: The database at hand, as messages name it.
_name = "the database"

#: An SQLite file that is read without its log, which this user cannot make beside it.
_immutable = False


def connect(
    settings: DatabaseSettings, *, readonly: bool = False, check: bool = True
) -> peewee.Database:
    """Connect to the database and bind the models to it.

    Parameters
    ----------
    settings : `dbbbatch.config.Database`
        Its ``url`` is complete.
    readonly : `bool`
        Refuse every change (for ``--dry-run`` and for reports).
    check : `bool`
        Ask whether the schema is one that this version may use.

    Returns
    -------
    database : `peewee.Database`

    Raises
    ------
    TryLater
        If it is away and stays away for ``patience`` seconds.
    ConfigError
        If it can never work: no such database, wrong password, schema missing or too new.
    """
    global _patience, _name, _immutable
    _patience = settings.patience
    _immutable = False
    _name = keys.without_password(settings.url)
    if is_sqlite(settings.url):
        _name = sqlite_path(settings.url)
    made = (_sqlite if is_sqlite(settings.url) else _postgresql)(settings, readonly, check)
    if isinstance(getattr(proxy, "obj", None), peewee.Database):
        proxy.obj.close()
    proxy.initialize(made)
    _patiently(lambda: made.connect(reuse_if_open=True))
    if check:
        _patiently(lambda: schema.check(made, settings.url))
    return made


def upgrade(settings: DatabaseSettings) -> list[str]:
    """Connect, and make the tables fit this version.

    Returns
    -------
    applied : `list` [`str`]
        As `schema.upgrade`.

    Raises
    ------
    TryLater, ConfigError
        As `connect`: also if the tables are too new for this version.
    """
    database = connect(settings, check=False)
    applied = _patiently(lambda: schema.upgrade(database))
    _patiently(lambda: schema.check(database, settings.url))
    return applied


def transact(function: Callable[[], Result]) -> Result:
    """Do a function's database work in one transaction, again as a whole if need be.

    Parameters
    ----------
    function : callable
        Does database work only; running it twice must equal running it once.

    Returns
    -------
    result
        What the function returned the time that was committed.

    Raises
    ------
    TryLater
        If the database stays busy, full or away. Nothing of the function's work is then relied on.
    """

    def once() -> Result:
        # A writer takes SQLite's write lock at BEGIN: upgrading a read lock later can fail at
        # once, without the busy timeout.
        begin = () if isinstance(proxy.obj, peewee.PostgresqlDatabase) else ("IMMEDIATE",)
        with proxy.atomic(*begin):
            return function()

    return _patiently(once)


def look(function: Callable[[], Result]) -> Result:
    """Do a function's reading, again if the database is away for a moment."""
    return _patiently(function)


def execute(sql: str, values: Sequence[Any] = ()) -> Any:
    """Run one statement written with ``?`` for its values, on either database.

    Returns
    -------
    cursor
        Of the driver.
    """
    return proxy.execute_sql(_dialect(sql), tuple(values))


def execute_many(sql: str, rows: Iterable[Sequence[Any]]) -> None:
    """Run one statement for many rows of values, in the transaction at hand."""
    with peewee.__exception_wrapper__:
        proxy.cursor().executemany(_dialect(sql), rows)


def now() -> datetime:
    """Give the time by the database's clock: UTC, without a time zone."""
    if isinstance(proxy.obj, peewee.PostgresqlDatabase):
        found: datetime = execute("SELECT clock_timestamp() AT TIME ZONE 'UTC'").fetchone()[0]
        return found
    # SQLite's clock is that of this host.
    return datetime.now(UTC).replace(tzinfo=None)


def on_postgresql() -> bool:
    """Tell whether the database at hand is PostgreSQL."""
    return isinstance(proxy.obj, peewee.PostgresqlDatabase)


def disconnect() -> None:
    """Close this thread's connection, if there is one."""
    if isinstance(getattr(proxy, "obj", None), peewee.Database):
        with suppress(peewee.PeeweeException):
            proxy.obj.close()


def _dialect(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s") if on_postgresql() else sql


def _sqlite(settings: DatabaseSettings, readonly: bool, must_exist: bool) -> peewee.Database:
    global _immutable
    path = sqlite_path(settings.url)
    directory = os.path.dirname(path)
    if not _is_there(directory):
        raise TryLater(f"{path}: its directory is not there; is it mounted?")
    if must_exist and not _is_there(path):
        raise ConfigError(f"{path}: no such database; run `dbb init`")
    mode = "ro" if readonly else "rwc" if not must_exist else "rw"
    if mode == "rwc":
        _make_sqlite_file(path)
    # A log (-wal) belongs to a database in use. Without one, SQLite makes it even to read, which
    # is refused to a user who may only read, and would be in the way of the owner if another user
    # made it; then the file itself is all that there is.
    looks_only = readonly and (not os.access(directory, os.W_OK) or not _is_ours(path))
    _immutable = looks_only and not _is_there(f"{path}-wal")
    if _immutable:
        mode += "&immutable=1"
    pragmas = {"foreign_keys": 1} | ({"query_only": 1} if readonly else {"synchronous": "full"})
    return peewee.SqliteDatabase(
        f"file:{urllib.parse.quote(path)}?mode={mode}",
        pragmas=pragmas,
        timeout=settings.busy_timeout,
        uri=True,
    )


def _is_ours(path: str) -> bool:
    # What root makes, SQLite gives to the owner of the database.
    return os.geteuid() in (0, os.stat(path).st_uid)


def _make_sqlite_file(path: str) -> None:
    """Make an empty database, which SQLite would let everybody read."""
    with suppress(OSError):  # SQLite meets the same, and says it
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, DATABASE_MODE))


def _is_there(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError as error:
        raise ConfigError(
            f"{path}: cannot be reached by user {user()}: {error.strerror}; run this as the user "
            "that runs the scripts"
        ) from None
    except OSError as error:
        raise TryLater(f"{path}: {error.strerror}") from None
    return True


def _postgresql(settings: DatabaseSettings, readonly: bool, must_exist: bool) -> peewee.Database:
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"{keys.without_password(settings.url)}: psycopg is not installed; "
            "pip install 'dbbbatch[postgres]'"
        ) from None
    more: dict[str, Any] = {}
    if settings.password_file:
        try:
            more["password"] = trust.read(settings.password_file).decode().strip()
        except (trust.Distrusted, UnicodeDecodeError) as error:
            problem = "is no UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            raise ConfigError(
                f"[database] password_file {settings.password_file}: {problem}"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"[database] password_file {settings.password_file}: {error.strerror}"
            ) from None
    elif settings.password:
        more["password"] = settings.password.reveal()
    if readonly:
        more["options"] = "-c default_transaction_read_only=on"
    return peewee.PostgresqlDatabase(
        re.sub(r"^postgres(ql)?://", "postgresql://", settings.url),
        prefer_psycopg3=True,
        connect_timeout=10,
        application_name="dbbbatch",
        **more,
    )


def _patiently(function: Callable[[], Result]) -> Result:
    try:
        return function()
    except peewee.DatabaseError as error:
        _raise_unless_passing(_first(error))
    except peewee.InterfaceError:
        _drop_broken_connection()
    import tenacity

    waiting = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_Passing),
        wait=tenacity.wait_random_exponential(0.1, max=5),
        stop=tenacity.stop_after_delay(_patience),
        reraise=True,
    )
    try:
        return waiting(_sorted_out, function)
    except _Passing as passing:
        raise TryLater(f"{_name}: the database is busy or away: {passing}") from None


class _Passing(Exception):
    """An error of the database that a repeat may not meet."""


def _sorted_out(function: Callable[[], Result]) -> Result:
    try:
        return function()
    except peewee.DatabaseError as error:
        error = _first(error)
        _raise_unless_passing(error)
        raise _Passing(_first_line(error)) from None
    except peewee.InterfaceError as error:
        _drop_broken_connection()
        raise _Passing(_first_line(error)) from None


def _first(error: peewee.DatabaseError) -> peewee.DatabaseError:
    """Give the error that another one hides: a rollback fails where SQLite has made it already.

    SQLite does so when its disk is full.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, peewee.DatabaseError) and not _ROLLED_BACK.search(str(found)):
            return found
        found = found.__context__
    return error


def _raise_unless_passing(error: peewee.DatabaseError) -> None:
    """Return if a repeat may succeed; else raise what the operator or the caller must see."""
    original = getattr(error, "orig", error)
    if isinstance(original, sqlite3.Error):
        _raise_unless_sqlite_busy(original, error)
        return
    state = getattr(original, "sqlstate", None)
    if state is None and isinstance(error, peewee.OperationalError):
        # No SQLSTATE: the connection was refused or broke.
        _raise_if_refused_for_good(_first_line(error))
        _drop_broken_connection()
        return
    if state is not None and _PASSING.match(state):
        _drop_broken_connection()
        return
    if state is not None and state[:2] in ("28", "3D"):
        raise ConfigError(f"{_name}: the database refuses us: {_first_line(error)}") from None
    if state is not None and state[:2] == "53":
        raise TryLater(f"{_name}: the database is out of resources: {_first_line(error)}") from None
    if state == "25006":
        raise DbbError(f"{_name}: this looks only: the database was opened read-only") from None
    raise error


def _raise_unless_sqlite_busy(original: sqlite3.Error, error: peewee.DatabaseError) -> None:
    code = getattr(original, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        # A full disk may be either of them: SQLite also fails to make its log larger.
        raise TryLater(
            f"{_name}: the disk is full or failing ({original}); make room, or see the kernel's "
            "log",
            key=NO_ROOM,
        ) from None
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        raise ConfigError(
            f"{_name}: cannot be opened or written by user {user()} ({original}); run this as the "
            "user that owns it; the directory must be writable, too: SQLite writes beside its file"
        ) from None
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        if _immutable:
            raise TryLater(f"{_name}: was written while it was read; look again") from None
        raise ConfigError(
            f"{_name}: is damaged ({original}); restore a backup, as `dbb backup --help` tells: a "
            "-wal or -shm left beside the file may be what damages it"
        ) from None
    raise error


def _raise_if_refused_for_good(message: str) -> None:
    if re.search(r"authentication failed|no password supplied|does not exist|no pg_hba", message):
        raise ConfigError(f"{_name}: the database refuses us: {message}") from None


def _drop_broken_connection() -> None:
    database = proxy.obj
    if isinstance(database, peewee.PostgresqlDatabase) and not database.is_connection_usable():
        with suppress(peewee.PeeweeException):
            database.close()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
