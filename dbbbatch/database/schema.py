"""Creating and upgrading the tables from the files in ``sql/``, and asking whether they fit.

``sql/postgresql/NNN_*.sql`` and ``sql/sqlite/NNN_*.sql`` are the truth about the schema. Each is
applied once, in order, in one transaction. A file may begin with ``-- oldest script: X.Y.Z``: only
scripts older than that may no longer use the database.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import peewee

from dbbbatch import __version__, keys
from dbbbatch.errors import ConfigError

#: PostgreSQL's advisory lock that keeps two upgrades apart.
_UPGRADE_LOCK = 0x646262_01


@dataclass(frozen=True)
class Migration:
    """One file of ``sql/``."""

    number: int
    name: str
    statements: tuple[str, ...]
    oldest_script: str


def migrations(dialect: str) -> list[Migration]:
    """Read the files of a dialect ("sqlite" or "postgresql"), in order."""
    found = []
    for entry in sorted((resources.files("dbbbatch") / "sql" / dialect).iterdir(), key=str):
        if not entry.name.endswith(".sql"):
            continue
        text = entry.read_text(encoding="utf-8")
        oldest = re.search(r"^-- oldest script: (\S+)", text, re.MULTILINE)
        found.append(
            Migration(
                int(entry.name[:3]),
                entry.name,
                tuple(_statements(text)),
                oldest[1] if oldest else "0",
            )
        )
    return found


def upgrade(database: peewee.Database) -> list[str]:
    """Apply what is missing; any number of times, by any number of hosts at a time.

    Returns
    -------
    applied : `list` [`str`]
        The names of the files applied now.
    """
    postgresql = isinstance(database, peewee.PostgresqlDatabase)
    if not postgresql:
        # Journal mode is a property of the file and cannot change inside a transaction.
        database.execute_sql("PRAGMA journal_mode = wal")
    applied = []
    for migration in migrations("postgresql" if postgresql else "sqlite"):
        with database.atomic(*() if postgresql else ("IMMEDIATE",)):
            if postgresql:
                database.execute_sql("SELECT pg_advisory_xact_lock(%s)", (_UPGRADE_LOCK,))
            if migration.number in _applied(database):
                continue
            for statement in migration.statements:
                database.execute_sql(statement)
            database.execute_sql(
                "INSERT INTO schema_version (number, name, oldest_script, applied_by)"
                f" VALUES ({', '.join([database.param] * 4)})",
                (migration.number, migration.name, migration.oldest_script, __version__),
            )
            applied.append(migration.name)
    return applied


def check(database: peewee.Database, url: str) -> None:
    """Ask whether this version may use the database as it is.

    Raises
    ------
    ConfigError
        If tables are missing (run ``dbb init``) or are too new for this version (upgrade it).
    """
    rows = _applied(database)
    dialect = "postgresql" if isinstance(database, peewee.PostgresqlDatabase) else "sqlite"
    if not rows or max(rows) < latest(dialect):
        state = "has no tables of ours" if not rows else "has tables of an older version"
        raise ConfigError(f"{keys.without_password(url)}: {state}; run `dbb init`")
    oldest = max(rows.values(), key=_version)
    if _version(oldest) > _version(__version__):
        raise ConfigError(
            f"{keys.without_password(url)}: its tables want dbbbatch {oldest} or newer, this is "
            f"{__version__}; upgrade dbbbatch on this host"
        )


def latest(dialect: str) -> int:
    """Give the number of the newest file of a dialect, without reading any."""
    names = (entry.name for entry in (resources.files("dbbbatch") / "sql" / dialect).iterdir())
    return max(int(name[:3]) for name in names if name.endswith(".sql"))


def _applied(database: peewee.Database) -> dict[int, str]:
    if not database.table_exists("schema_version"):
        return {}
    rows = database.execute_sql("SELECT number, oldest_script FROM schema_version").fetchall()
    return dict(rows)


def _statements(text: str) -> Iterator[str]:
    """Split at semicolons that end a line; comments stay with their statement."""
    for statement in re.split(r";[ \t]*$", text, flags=re.MULTILINE):
        if re.sub(r"--.*", "", statement).strip():
            yield statement.strip()


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))
