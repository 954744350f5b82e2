"""The one way to the database: connections, transactions that can be repeated, and its clock.

Every change is made by a function that is passed to `write`. The whole function is repeated when
another writer has a lock or the server is away for a moment. So it does database work only, and
calling it twice equals calling it once: a commit whose answer was lost may have happened.
"""

import os
import re
import sqlite3
import stat
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from operator import attrgetter
from typing import Any, ParamSpec, TypeVar

import peewee

from dbbbatch.config import fields
from dbbbatch.config.sections import Database as DatabaseSettings
from dbbbatch.config.sections import is_sqlite, sqlite_path
from dbbbatch.database import causes, schema, waiting
from dbbbatch.database.base import database as proxy
from dbbbatch.database.base import driver_errors, errors_of_rows, is_postgresql
from dbbbatch.database.causes import Cause
from dbbbatch.errors import (
    AWAY,
    NO_ROOM,
    UNUSABLE,
    ConfigError,
    DbbError,
    Interrupted,
    TryLater,
    user,
    user_named,
    without_numbers,
)
from dbbbatch.files import names, trust
from dbbbatch.files.state import DATABASE_MODE

Value = TypeVar("Value")
Row = TypeVar("Row")
Arguments = ParamSpec("Arguments")

#: Messages, without an SQLSTATE, of a server that refuses a connection for good.
_REFUSED_WORDS = re.compile(
    r"authentication failed|no password supplied|does not exist|no pg_hba|permission denied"
    r"|not permitted to log in|no such (database|user)|invalid value|unrecognized configuration"
    r"|invalid \S+ value|invalid port|invalid integer|does not support SSL|bouncer config error"
)

#: Messages of SQLite on a rollback after it has made one itself.
_ROLLED_BACK = re.compile(r"no transaction is active|no such savepoint")

_patience = 60.0
_busy_timeout = 30.0

#: Whether the last piece of work was given up: the next ones wait for a shorter time.
_given_up = False

#: Seconds for which SQLite waits for another writer between two looks for signals.
_SLICE = 1.0

#: The current database, as messages name it.
_name = "the database"

#: Whether an SQLite file is read without its log, which this user cannot make beside it.
_immutable = False


def connect(
    settings: DatabaseSettings, *, readonly: bool = False, check: bool = True, brief: bool = False
) -> peewee.Database:
    """Connect to the database and bind the models to it.

    Parameters
    ----------
    settings : `dbbbatch.config.sections.Database`
        Its ``url`` is complete.
    readonly : `bool`
        Refuse every change (for ``--dry-run`` and for reports).
    check : `bool`
        Raise if this version cannot use the schema.
    brief : `bool`
        Wait for a connection no longer than if the database had been found away before.

    Returns
    -------
    database : `peewee.Database`

    Raises
    ------
    TryLater
        The database stays away for ``patience`` seconds.
    ConfigError
        It can never work: no such database, wrong password, schema missing or too new.
    """
    global _patience, _busy_timeout, _given_up, _name, _immutable
    _patience, _busy_timeout = settings.patience, settings.busy_timeout
    _given_up, _immutable = brief, False
    _name = fields.without_password(settings.url)
    if is_sqlite(settings.url):
        _name = sqlite_path(settings.url)
    made = (_sqlite if is_sqlite(settings.url) else _postgresql)(settings, readonly, check)
    if isinstance(getattr(proxy, "obj", None), peewee.Database):
        proxy.obj.close()
    proxy.initialize(made)
    _patiently(lambda: made.connect(reuse_if_open=True))
    if check:
        read(schema.require_fitting, made, settings.url)
    return made


def upgrade(settings: DatabaseSettings) -> list[str]:
    """Connect, and create or upgrade the tables for this version.

    Returns
    -------
    applied : `list` [`str`]
        Names of the files in ``sql/`` that were applied now.

    Raises
    ------
    TryLater, ConfigError
        As `connect`.
    """
    database = connect(settings, check=False)
    try:
        applied = _patiently(lambda: schema.apply_migrations(database), long=True)
    except peewee.IntegrityError as error:
        detail = getattr(getattr(error, "orig", None), "diag", None)
        raise ConfigError(
            f"{_name}: {_first_line(error)} ({getattr(detail, 'message_detail', None)}); a "
            "damaged index has let in two rows of one name: remove one of them, and run "
            "`dbb init` again"
        ) from None
    read(schema.require_fitting, database, settings.url)
    return applied


def write(
    function: Callable[Arguments, Value], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Value:
    """Call a function in one transaction, and repeat it as a whole where that may succeed.

    Parameters
    ----------
    function : callable
        Does database work only; calling it twice must equal calling it once.
    *args, **kwargs
        Its arguments.

    Returns
    -------
    value
        What the function returned in the transaction that was committed.

    Raises
    ------
    TryLater
        The database stays busy, full or away. The transaction may have been committed or not.
    """
    return _patiently(_transaction(partial(function, *args, **kwargs), writing=True))


def long_write(
    function: Callable[Arguments, Value], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Value:
    """Call a function as `write` does, for work that grows with what the database holds.

    It may take longer than ``patience``.
    """
    return _patiently(_transaction(partial(function, *args, **kwargs), writing=True), long=True)


def read(
    function: Callable[Arguments, Value], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Value:
    """Call a function that only reads, and repeat it while the database is away for a moment.

    Raises
    ------
    TryLater
        The database stays busy or away.
    """
    if on_postgresql() and proxy.obj.readonly:
        return _patiently(_transaction(partial(function, *args, **kwargs)))
    return _patiently(partial(function, *args, **kwargs))


def long_read(
    function: Callable[Arguments, Value], *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Value:
    """Call a function as `read` does, for work that grows with what the database holds."""
    if on_postgresql():
        return _patiently(_transaction(partial(function, *args, **kwargs)), long=True)
    return _patiently(partial(function, *args, **kwargs), long=True)


def try_once(function: Callable[[], Value], seconds: float) -> Value | None:
    """Call a function once, for at most so many seconds; return `None` if that fails.

    Whether other work waits for the database does not change.
    """
    with waiting.limited(seconds, brief=seconds < waiting.LEAST):
        try:
            return _sorted_out(function)
        except (_Passing, waiting.GaveUp, DbbError):
            return None
        finally:
            _drop_broken_connection()


def pages(
    rows_after: Callable[[Any], Sequence[Row]], first: object, *key: str
) -> Iterator[Sequence[Row]]:
    """Yield the pages of a query, each one a `read`, until one is empty.

    Parameters
    ----------
    rows_after : `~collections.abc.Callable`
        Returns the page that begins after a position.
    first : object
        The position before the first row.
    *key : `str`
        The attributes of a row that are its position: several make a tuple.
    """
    position_of = attrgetter(*key)
    after = first
    while page := read(rows_after, after):
        after = position_of(page[-1])
        yield page


def execute(sql: str, values: Sequence[Any] = ()) -> Any:
    """Run one statement with ``?`` for its values, on either database; return its cursor."""
    statement, given = _dialect(sql), tuple(values)
    if waiting.at_work() or proxy.in_transaction():
        return proxy.execute_sql(statement, given)
    return _patiently(lambda: proxy.execute_sql(statement, given))


def execute_many(sql: str, rows: Iterable[Sequence[Any]]) -> int:
    """Run one statement for many rows of values, in the current transaction.

    Returns
    -------
    count : `int`
        Number of rows inserted or changed.
    """
    with driver_errors:
        cursor = proxy.cursor()
        cursor.executemany(_dialect(sql), rows)
        return int(cursor.rowcount)


def now() -> datetime:
    """Return the time by the database's clock: UTC, without a time zone."""
    if on_postgresql():
        found: datetime = execute("SELECT clock_timestamp() AT TIME ZONE 'UTC'").fetchone()[0]
        return found
    # SQLite's clock is that of this host.
    return datetime.now(UTC).replace(tzinfo=None)


def on_postgresql() -> bool:
    """Return whether the current database is PostgreSQL."""
    return is_postgresql(proxy.obj)


def for_update(how: str = "") -> str:
    """Return the end of a SELECT that locks its rows until the transaction ends.

    SQLite needs none: its transactions exclude each other.
    """
    return f" FOR UPDATE{how}" if on_postgresql() else ""


def must_be_writable(kinds: Collection[str]) -> None:
    """Raise `ConfigError` if passes of some kinds could not write what they write.

    SQLite is asked for its write lock, and PostgreSQL for the rights of this role.
    """
    if kinds and not on_postgresql():
        write(lambda: None)
    elif kinds and (tables := read(schema.unwritable, proxy.obj, kinds)):
        named = ", ".join(tables)
        raise ConfigError(f"{_name}: permission denied for table {named}{_advice('42501')}")


def require_writable(path: str) -> None:
    """Raise `ConfigError` if this user may not write an SQLite database or what lies beside it.

    SQLite would open it for reading, and make a log beside it that nobody can write either.
    """
    if not _mounted_read_only(path) and (why := _why_unwritable(path)):
        raise ConfigError(why, key=UNUSABLE)


def disconnect() -> None:
    """Close this thread's connection, if there is one."""
    if isinstance(getattr(proxy, "obj", None), peewee.Database):
        with suppress(peewee.PeeweeException):
            proxy.obj.close()


def _transaction(function: Callable[[], Value], writing: bool = False) -> Callable[[], Value]:
    """Return a function that calls another one in a transaction of its own."""

    def once() -> Value:
        # A writer takes SQLite's write lock at BEGIN: to upgrade a read lock later can fail at
        # once, without the busy timeout. PostgreSQL is asked for our leases.
        begin = (True if on_postgresql() else "IMMEDIATE",) if writing else ()
        with proxy.atomic(*begin):
            return function()

    return once


def _dialect(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s") if on_postgresql() else sql


def _sqlite(settings: DatabaseSettings, readonly: bool, must_exist: bool) -> peewee.Database:
    global _immutable
    path = sqlite_path(settings.url)
    directory = os.path.dirname(path)
    if not _file_exists(directory):
        raise TryLater(f"{path}: its directory is not there; is it mounted?", key=AWAY)
    if must_exist and not _file_exists(path):
        raise ConfigError(f"{path}: no such database; run `dbb init`", key=UNUSABLE)
    mode = "ro" if readonly else "rwc" if not must_exist else "rw"
    if mode == "rwc":
        _make_sqlite_file(path)
    if not readonly:
        require_writable(path)
    # A database in use has a log (-wal). Where there is none, SQLite makes one even to read, which
    # is refused to a user who may only read; and one that its owner could not write would block
    # all passes. Then the file alone is read: without a log it is complete. To a log that is there
    # SQLite may add no index (-shm).
    looks_only = readonly and not (os.access(directory, os.W_OK) and _leaves_usable_files(path))
    _immutable = looks_only and not _file_exists(f"{path}-wal")
    if _immutable:
        mode += "&immutable=1"
    elif looks_only and not _file_exists(f"{path}-shm"):
        mode += "&readonly_shm=1"
    pragmas = {"foreign_keys": 1} | ({"query_only": 1} if readonly else {"synchronous": "full"})
    return peewee.SqliteDatabase(
        f"file:{urllib.parse.quote(path)}?mode={mode}",
        pragmas=pragmas,
        timeout=min(settings.busy_timeout, _SLICE),
        uri=True,
    )


def _leaves_usable_files(path: str) -> bool:
    """Return whether the owner of a database can write what SQLite makes beside it for us."""
    # SQLite gives it the mode of the database, and what root makes to the owner.
    status = os.stat(path)
    return os.geteuid() in (0, status.st_uid) and bool(status.st_mode & stat.S_IWUSR)


def _why_unwritable(path: str) -> str:
    """Return which file of a database this user may not write, and what to do; '' if none."""
    for each in (path, f"{path}-wal", f"{path}-shm"):
        # SQLite makes and removes two of them: one that came since may be written.
        if os.access(each, os.W_OK) or not os.path.exists(each) or os.access(each, os.W_OK):
            continue
        with suppress(FileNotFoundError):
            owner = os.stat(each).st_uid
            whose, mend = f" of {user_named(owner)}", f"sudo chown {user()}"
            if owner == os.geteuid():
                whose, mend = "", "chmod u+w"
            why = f"user {user()} may not write this file{whose}"
            return f"{each}: {why}: {mend} {names.quoted(each)}"
    return ""


def _make_sqlite_file(path: str) -> None:
    """Make an empty database: SQLite would make one that everybody can read."""
    with suppress(OSError):  # SQLite meets the same error, and reports it
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, DATABASE_MODE))


def _file_exists(path: str) -> bool:
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError as error:
        raise ConfigError(
            f"{path}: cannot be reached by user {user()}: {error.strerror}; run this as the user "
            "that runs the scripts",
            key=UNUSABLE,
        ) from None
    except OSError as error:
        raise TryLater(f"{path}: {error.strerror}", key=AWAY) from None
    return True


def _postgresql(settings: DatabaseSettings, readonly: bool, must_exist: bool) -> peewee.Database:
    try:
        from dbbbatch.database import postgresql
    except ImportError:
        raise ConfigError(
            f"{fields.without_password(settings.url)}: psycopg is not installed; "
            "pip install 'dbbbatch[postgres]'"
        ) from None
    password = settings.password.reveal() if settings.password else None
    if settings.password_file:
        try:
            password = trust.read_trusted(settings.password_file).decode().strip()
        except (trust.Distrusted, UnicodeDecodeError) as error:
            problem = "is no UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
            raise ConfigError(
                f"[database] password_file {settings.password_file}: {problem}"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"[database] password_file {settings.password_file}: {error.strerror}"
            ) from None
    params = postgresql.parameters(settings.url, password, settings.patience)
    return postgresql.Postgresql(_name, params, readonly)


def _patiently(function: Callable[[], Value], *, long: bool = False) -> Value:
    """Do a piece of work, and repeat it while that may succeed and its time is not over."""
    if waiting.at_work():
        return function()  # the piece that it is part of is repeated as a whole
    global _given_up
    with waiting.limited(_patience, long=long, brief=_given_up):
        try:
            result = _repeatedly(function)
        except waiting.GaveUp as error:
            _given_up = True
            raise TryLater(f"{_name}: {AWAY}: {error}", key=AWAY) from None
        except Interrupted:
            _given_up = True
            raise
        finally:
            _drop_broken_connection()
    _given_up = False
    return result


def _repeatedly(function: Callable[[], Value]) -> Value:
    try:
        return _sorted_out(function)
    except _Passing:
        import tenacity

    repeating = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_Passing),
        wait=_pause,
        sleep=waiting.sleep,
        stop=lambda state: waiting.over(),
        reraise=True,
    )
    try:
        result: Value = repeating(_sorted_out, function)
        return result
    except _Passing as passing:
        raise waiting.GaveUp(str(passing)) from None


def _pause(state: Any) -> float:
    """Return the seconds to wait before the next try."""
    import tenacity

    if not on_postgresql() and waiting.elapsed() < _busy_timeout:
        return 0  # SQLite has waited already
    return float(tenacity.wait_random_exponential(0.1, max=5)(state))


class _Passing(Exception):
    """An error of the database after which a repeat may succeed."""


def _sorted_out(function: Callable[[], Value]) -> Value:
    try:
        with errors_of_rows():
            return function()
    except peewee.DatabaseError as error:
        error = _first(error)
        _raise_unless_passing(error)
        raise _Passing(_first_line(error)) from None
    except peewee.InterfaceError as error:
        _drop_broken_connection()
        raise _Passing(_first_line(error)) from None


def _first(error: peewee.DatabaseError) -> peewee.DatabaseError:
    """Return the error that another one hides.

    SQLite makes a rollback itself when its disk is full; Peewee's rollback then fails.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, peewee.DatabaseError) and not _ROLLED_BACK.search(str(found)):
            return found
        found = found.__context__
    return error


def _raise_unless_passing(error: peewee.DatabaseError) -> None:
    """Return if a repeat may succeed; else raise the error for the operator or the caller."""
    original = getattr(error, "orig", error)
    if isinstance(original, sqlite3.Error):
        _raise_unless_sqlite_busy(original, error)
        return
    state, words = getattr(original, "sqlstate", None), _first_line(error)
    if "statement pooling" in words:
        raise ConfigError(
            f"{_name}: PgBouncer gives each statement to another server ({words}); set pool_mode = "
            "transaction (or session) for this database"
        ) from None
    if state is None and isinstance(error, peewee.OperationalError):
        # No SQLSTATE: the connection was refused or broke.
        _raise_if_refused_for_good(words)
        _drop_broken_connection()
        return
    if state is None and isinstance(error, peewee.DataError):
        # The driver could not read it: a time such as 'infinity'.
        raise ConfigError(f"{_name}: a value makes no sense: {words}") from None
    if state is None:
        raise error
    if state == "25006" and getattr(proxy.obj, "readonly", False):
        raise DbbError(f"{_name}: the database was opened read-only") from None
    cause = causes.of_sqlstate(state)
    if cause is Cause.REPEAT:
        # After a failover another server may answer.
        _drop_broken_connection(anyway=state == "25006")
        return
    if cause is Cause.LATER:
        why = f"{_name}: the database cannot do it now: {words}"
        raise TryLater(why, key=AWAY) from None
    if cause is Cause.SETUP:
        # What is missing next is told, too.
        key = f"{UNUSABLE}: {without_numbers(str(words))}"
        raise ConfigError(f"{_name}: {words}{_advice(state)}", key=key) from None
    raise error


def _advice(state: str) -> str:
    """Return the end of a message: what a person can do about an SQLSTATE of the set-up."""
    where, role = _home()
    if state[:2] in ("28", "3D"):
        return "; the database refuses us: see [database] url and its password"
    if state == "42501":
        where = _quoted(where)
        return (
            f" (role {role}); let the owner of the tables run: GRANT USAGE ON SCHEMA {where} TO "
            f"{_quoted(role)}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA "
            f"{where} TO {_quoted(role)}; and `dbb init` is for the owner, who also needs CREATE "
            f"ON SCHEMA {where}"
        )
    if state[:2] == "3F" or state in ("42P01", "42703", "42P10"):
        return (
            f" (role {role}); see whether the search_path of [database] url leads to the tables, "
            "and run `dbb init`; what was dropped comes back from a backup only"
        )
    if state in ("42P06", "42P07", "42701", "42710", "42723", "42809"):
        return (
            "; the schema holds something of that name which is not ours: give dbbbatch a database "
            "or a schema of its own"
        )
    if state in ("0A000", "2BP01"):
        return "; drop what depends on it, run `dbb init`, and make it again"
    if state[:2] == "XX":
        return "; the database is damaged: restore a backup, or REINDEX it"
    return f" (role {role}, SQLSTATE {state}); the database is not as `dbb init` makes it"


def _home() -> tuple[str, str]:
    """Return the schema of our tables and the role of this connection, for a message."""
    where = role = None
    with suppress(peewee.PeeweeException, waiting.GaveUp, Interrupted):
        where, role = schema.home(proxy.obj) if on_postgresql() else (None, None)
    return where or "public", role or getattr(proxy.obj, "role", "") or user()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _raise_unless_sqlite_busy(original: sqlite3.Error, error: peewee.DatabaseError) -> None:
    code = getattr(original, "sqlite_errorcode", None)
    if code is None:
        raise error
    replaced = code == sqlite3.SQLITE_READONLY_DBMOVED
    cause, code = causes.of_sqlite(code), code & 0xFF
    if cause is Cause.REPEAT:
        return
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        # A full disk may be either of them: SQLite may fail to make its log larger.
        raise TryLater(
            f"{_name}: the disk is full or failing ({original}); make room, or see the kernel's "
            "log",
            key=NO_ROOM,
        ) from None
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        if not _immutable and (
            replaced
            or _mounted_read_only(_name)
            or (code == sqlite3.SQLITE_CANTOPEN and _may_write(_name))
        ):
            # Also where no descriptor is left, or there is no space for its log.
            why = f"{_name}: cannot be opened or written now ({original})"
            raise TryLater(why, key=AWAY) from None
        why = _why_unwritable(_name) or (
            f"{_name}: cannot be opened or written by user {user()} ({original}); run this as the "
            "user that owns it; the directory must be writable, too: SQLite writes beside its file"
        )
        raise ConfigError(why, key=UNUSABLE) from None
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT):
        if _immutable:
            raise TryLater(f"{_name}: was written while it was read; look again") from None
        raise ConfigError(
            f"{_name}: is damaged ({original}); restore a backup, as `dbb backup --help` says: a "
            "-wal or -shm left beside the file may be what damages it",
            key=UNUSABLE,
        ) from None
    if code == sqlite3.SQLITE_ERROR and re.match(r"no such (table|column)", str(original)):
        raise ConfigError(f"{_name}: {original}{_advice('42P01')}", key=UNUSABLE) from None
    if cause is Cause.LATER:
        why = f"{_name}: the database cannot do it now: {original}"
        raise TryLater(why, key=AWAY) from None
    if cause is Cause.SETUP:
        raise ConfigError(f"{_name}: {original}", key=UNUSABLE) from None
    raise error


def _mounted_read_only(path: str) -> bool:
    """Return whether a file system is gone, or read-only as the kernel makes it after an error."""
    try:
        return bool(os.statvfs(os.path.dirname(path)).f_flag & os.ST_RDONLY)
    except OSError:
        return True


def _may_write(path: str) -> bool:
    """Return whether this user may write to a file, if it exists, and to its directory."""
    return os.access(os.path.dirname(path), os.W_OK) and (
        not os.path.exists(path) or os.access(path, os.W_OK)
    )


def _raise_if_refused_for_good(message: str) -> None:
    if "unsupported startup parameter" in message:
        raise ConfigError(
            f"{_name}: PgBouncer passes no `options` on ({message}); set what they set by ALTER "
            "ROLE, such as its search_path, and leave them out of [database] url and PGOPTIONS"
        )
    if _REFUSED_WORDS.search(message):
        why = f"{_name}: the database refuses us: {message}"
        raise ConfigError(why, key=UNUSABLE) from None


def _drop_broken_connection(anyway: bool = False) -> None:
    database = proxy.obj
    if not is_postgresql(database) or database.is_closed():
        return
    if anyway or not database.is_connection_usable():
        with suppress(peewee.PeeweeException):
            database.close()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
