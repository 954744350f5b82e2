"""A PostgreSQL database for Peewee: also behind PgBouncer, and with a limit for every wait.

Nothing lasts longer than a transaction, so that a pooler may run each in another server process: no
prepared statements, no settings of a session, no options at the start except those of the URL.
The message that begins a transaction also sets the limits of `dbbbatch.database.waiting`; the
client enforces them, too, since a server or relay that is frozen cannot.
"""

import os
import re
from collections.abc import Generator
from contextlib import suppress
from typing import Any

import peewee
import psycopg
from psycopg import capabilities
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus

from dbbbatch.config import fields
from dbbbatch.database import waiting
from dbbbatch.database.base import AnyDatabase, driver_errors
from dbbbatch.errors import ConfigError, Interrupted, LeaseLost
from dbbbatch.files.fence import fence

#: Seconds for the request to end a statement, which needs a connection of its own.
_CANCELLING = 2.0

#: A silent peer is probed so many times within ``patience``.
_KEEPALIVES = 3

#: The longest time before a probe that tcp(7) allows (seconds).
_MOST_SECONDS = 32767


def parameters(url: str, password: str | None, patience: float) -> dict[str, Any]:
    """Return the parameters of a connection: those of the URL, and what follows from ``patience``.

    Raises
    ------
    ConfigError
        libpq cannot read the URL.
    """
    try:
        given: dict[str, Any] = conninfo_to_dict(re.sub(r"^postgres(ql)?://", "postgresql://", url))
    except psycopg.ProgrammingError as error:
        # libpq may quote a part of the password.
        shown = fields.without_password(url)
        why = str(error).strip().splitlines()[0] if shown == url else "is the password encoded?"
        raise ConfigError(
            f"[database] url {shown}: libpq cannot read it ({why}); characters such as / ? # @ and "
            "spaces are written as %2F, %3F, %23, %40 and %20"
        ) from None
    patience = max(patience, waiting.LEAST)
    probe = str(min(int(patience / _KEEPALIVES) + 1, _MOST_SECONDS))
    usual = {
        "fallback_application_name": "dbbbatch",
        "keepalives_idle": probe,
        "keepalives_interval": probe,
        "keepalives_count": str(_KEEPALIVES - 1),
        "tcp_user_timeout": str(_milliseconds(patience)),
    }
    if "PGCONNECT_TIMEOUT" not in os.environ:
        usual["connect_timeout"] = "10"
    ours = {"client_encoding": "UTF8"}
    if password is not None:
        ours["password"] = password
    return {**usual, **given, **ours}


class _Adapter(peewee.Psycopg3Adapter):
    """Peewee's adapter of psycopg, which Peewee itself did not import."""

    txn_idle = TransactionStatus.IDLE
    txn_inerror = TransactionStatus.INERROR
    txn_unknown = TransactionStatus.UNKNOWN


class Postgresql(peewee.PostgresqlDatabase):
    """A database whose transactions set their own limits.

    Parameters
    ----------
    name : `str`
        The name in messages.
    params : `dict`
        Of `parameters`.
    readonly : `bool`
        Begin each transaction as one that cannot write, and run no statement outside of one.
    """

    psycopg2_adapter = psycopg3_adapter = _Adapter

    #: Peewee's, per thread.
    _state: Any

    def __init__(self, name: str, params: dict[str, Any], readonly: bool) -> None:
        self._params = params
        self.readonly = readonly
        super().__init__(name)

    @property
    def role(self) -> str:
        """The role of the connection, as far as it is known here."""
        connection = self._state.conn
        with suppress(psycopg.Error):
            if connection is not None:
                return str(connection.info.user)
        return str(self._params.get("user", ""))

    def begin(self, under_leases: Any = False) -> None:
        """Begin a transaction with its limits, in one message.

        Parameters
        ----------
        under_leases : `bool`
            It may begin only if this process has its leases, and nobody takes them before its end.

        Raises
        ------
        LeaseLost
            Another host has taken one.
        """
        lock, statement = waiting.limits()
        limits = {"lock_timeout": lock, "statement_timeout": statement}
        numbers = fence.numbers if under_leases else ()
        if numbers:
            # A pass that was stopped within a transaction must not keep the others out.
            limits["idle_in_transaction_session_timeout"] = fence.seconds
        message = [
            f"BEGIN{' READ ONLY' if self.readonly else ''}",
            *(f"SET LOCAL {name} = {_milliseconds(value)}" for name, value in limits.items()),
        ]
        if numbers:
            listed = ", ".join(map(str, numbers))
            message.append(
                f"SELECT number FROM component_lease WHERE number IN ({listed}) FOR KEY SHARE"
            )
        database: AnyDatabase = self
        with driver_errors:
            cursor = database.cursor()
            cursor.execute("; ".join(message))
            while cursor.nextset():
                pass
            held = cursor.rowcount
        if numbers and held != len(numbers):
            self.rollback()
            fence.close()
            raise LeaseLost("another host has taken over")

    def rollback(self) -> None:
        """Roll back; if that fails, close the connection, which ends the transaction."""
        try:
            super().rollback()
        except (peewee.DatabaseError, peewee.InterfaceError, waiting.GaveUp, Interrupted):
            connection = self._state.conn
            if connection is not None:
                connection.close()

    def execute_sql(self, sql: str, params: Any = None) -> Any:
        """Run a statement."""
        database: AnyDatabase = super()
        if self.readonly and not self.in_transaction():
            with self.atomic():
                return database.execute_sql(sql, params)
        return database.execute_sql(sql, params)

    def _connect(self) -> Any:
        connection = _Connection.connect(**self._params, autocommit=True, prepare_threshold=None)
        encoding = connection.info.parameter_status("server_encoding")
        if encoding not in (None, "UTF8"):
            name = connection.info.dbname
            connection.close()
            raise ConfigError(
                f"{self.database}: the database has the encoding {encoding}, which does not hold "
                "every name of a file; make one of encoding UTF8, `createdb --encoding=UTF8 "
                f"--locale=C --template=template0 {name}_utf8`, and name it in [database] url "
                "(pg_dump and psql take over what the old one holds)"
            )
        return connection


def _milliseconds(seconds: float) -> int:
    """Return a time as servers and kernels accept it: the most is as good as no limit."""
    return int(min(seconds * 1000, (1 << 31) - 1))


class _Connection(psycopg.Connection[Any]):
    """A connection whose waits end when the time of the current work is over, or on a signal."""

    @classmethod
    def _connect_gen(cls, *args: Any, **kwargs: Any) -> Any:
        return _watched(super()._connect_gen(*args, **kwargs))

    def wait(self, gen: Any, *args: Any, **kwargs: Any) -> Any:
        """Wait for an answer."""
        try:
            return super().wait(_watched(gen), *args, **kwargs)
        except (waiting.GaveUp, Interrupted):
            self._end_statement()
            self.close()
            raise

    def _end_statement(self) -> None:
        """Ask the server to cancel the statement.

        With an old libpq this could wait without end; then the server's own limit ends it.
        """
        if capabilities.has_cancel_safe():
            with suppress(psycopg.Error):
                self.cancel_safe(timeout=_CANCELLING)


def _watched(waits: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run a generator of psycopg, which is sent 0 each time nothing has arrived."""
    try:
        state = next(waits)
        while True:
            ready = yield state
            if not ready:
                waiting.raise_if_over()
            state = waits.send(ready)
    except StopIteration as end:
        return end.value
