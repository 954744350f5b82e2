"""Tables made and upgraded from the files in ``sql/``, and whether this version can use them.

``sql/postgresql/NNN_*.sql`` and ``sql/sqlite/NNN_*.sql`` are the truth about the schema. Each is
applied once, in order, in one transaction. A file may begin with ``-- oldest script: X.Y.Z``: only
scripts older than that may no longer use the database. Indexes of tables that may be large are
built ``CONCURRENTLY`` before that transaction, so that others can write meanwhile.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources

from dbbbatch import __version__
from dbbbatch.config import fields
from dbbbatch.database.base import AnyDatabase, is_postgresql
from dbbbatch.errors import ConfigError, TryLater

#: PostgreSQL's advisory lock that keeps two upgrades apart.
_UPGRADE_LOCK = 0x646262_01

#: A statement that must not be in a transaction, and the name of the index.
_CONCURRENTLY = re.compile(r"^CREATE INDEX CONCURRENTLY (\w+)", re.MULTILINE)

#: The rights that passes over sections of each kind need, beside SELECT on all tables.
RIGHTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "handoff": {
        "handoff_file": ("INSERT", "UPDATE"),
        "transfer_batch": ("INSERT", "UPDATE"),
        "transfer_attempt": ("INSERT", "UPDATE"),
    },
    "finder": {
        "file": ("INSERT", "UPDATE", "DELETE"),
        "file_checksum": ("INSERT", "UPDATE", "DELETE"),
        "finder_left": ("INSERT", "UPDATE", "DELETE"),
        "rsync_log": ("INSERT", "UPDATE"),
        "ingest_state": ("INSERT", "UPDATE"),
        "ingest_event": ("INSERT",),
        # Written where `keep_events` is set, and only there.
        "thinned": (),
    },
    "target": {
        "file": ("UPDATE",),
        "target": ("INSERT", "UPDATE"),
        "ingest_state": ("INSERT", "UPDATE"),
        "ingest_claim": ("INSERT", "UPDATE", "DELETE"),
        "ingest_event": ("INSERT",),
    },
}

#: The same, of any passes.
RIGHTS_OF_ALL: Mapping[str, tuple[str, ...]] = {
    "run": ("INSERT", "UPDATE", "DELETE"),
    "pause": ("INSERT", "UPDATE", "DELETE"),
    "quarantine": ("INSERT", "UPDATE", "DELETE"),
    "file_event": ("INSERT",),
    "component_lease": ("INSERT", "UPDATE"),
}


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


def apply_migrations(database: AnyDatabase) -> list[str]:
    """Apply the migrations that are missing; several hosts may do so at the same time.

    Returns
    -------
    applied : `list` [`str`]
        The names of the files applied now.
    """
    postgresql = is_postgresql(database)
    if not postgresql:
        # Journal mode is a property of the file and cannot change inside a transaction.
        database.execute_sql("PRAGMA journal_mode = wal")
    applied = []
    for migration in migrations("postgresql" if postgresql else "sqlite"):
        indexes = {}
        for statement in migration.statements:
            if found := _CONCURRENTLY.search(statement):
                indexes[statement] = found[1]
        if indexes and migration.number not in _applied(database):
            for statement, name in indexes.items():
                _build_index(database, name, statement)
        with database.atomic(*() if postgresql else ("IMMEDIATE",)):
            if postgresql:
                database.execute_sql("SELECT pg_advisory_xact_lock(%s)", (_UPGRADE_LOCK,))
            if migration.number in _applied(database):
                continue
            for statement in migration.statements:
                if statement in indexes:
                    continue
                database.execute_sql(statement.replace("%", "%%") if postgresql else statement)
            database.execute_sql(
                "INSERT INTO schema_version (number, name, oldest_script, applied_by)"
                f" VALUES ({', '.join([database.param] * 4)})",
                (migration.number, migration.name, migration.oldest_script, __version__),
            )
            applied.append(migration.name)
    return applied


def _build_index(database: AnyDatabase, name: str, statement: str) -> None:
    """Build an index of PostgreSQL outside of any transaction, unless it is whole.

    Raises
    ------
    TryLater
        Another host builds it at this moment.
    """
    state = database.execute_sql(
        "SELECT i.indisvalid, EXISTS (SELECT 1 FROM pg_stat_progress_create_index p"
        " WHERE p.index_relid = i.indexrelid) FROM pg_index i WHERE i.indexrelid = to_regclass(%s)",
        (name,),
    ).fetchone()
    if state and state[1]:
        raise TryLater(f"another `dbb init` builds the index {name}; run this again after it")
    if state and not state[0]:
        # A killed one left it.
        database.execute_sql(f"DROP INDEX CONCURRENTLY {name}")
    if not (state and state[0]):
        database.execute_sql(statement)


def require_fitting(database: AnyDatabase, url: str) -> None:
    """Raise `ConfigError` unless this version can use the tables.

    They are missing or too old (run ``dbb init``), or too new for this version (upgrade it).
    """
    rows = _applied(database)
    postgresql = is_postgresql(database)
    if not rows or max(rows) < latest("postgresql" if postgresql else "sqlite"):
        state, hint = "has tables of an older version", ""
        if not rows:
            state = "has no tables of ours"
            hint = _other_schema(database) if postgresql else ""
        raise ConfigError(f"{fields.without_password(url)}: {state}; {hint or 'run `dbb init`'}")
    oldest = max(rows.values(), key=_version_numbers)
    if _version_numbers(oldest) > _version_numbers(__version__):
        raise ConfigError(
            f"{fields.without_password(url)}: its tables need dbbbatch {oldest} or newer, this is "
            f"{__version__}; upgrade dbbbatch on this host"
        )


def home(database: AnyDatabase) -> tuple[str | None, str]:
    """Return the PostgreSQL schema that holds our tables, or would, and the role we have."""
    where, role = database.execute_sql(
        "SELECT coalesce((SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace"
        " n ON n.oid = c.relnamespace WHERE c.oid = to_regclass('schema_version')),"
        " current_schema()), current_user"
    ).fetchone()
    return where, role


def unwritable(database: AnyDatabase, kinds: Collection[str]) -> list[str]:
    """Return the PostgreSQL tables on which the role lacks a right that passes need.

    Parameters
    ----------
    kinds : collection of `str`
        Of the sections that are worked on, as in `RIGHTS`.
    """
    needed = {(table, right) for table, rights in RIGHTS_OF_ALL.items() for right in rights}
    for kind in kinds:
        needed |= {(table, right) for table, rights in RIGHTS[kind].items() for right in rights}
    needed |= {(table, "SELECT") for table, _ in needed}
    found = set()
    for table, right in sorted(needed):
        if not database.execute_sql(
            "SELECT has_table_privilege(to_regclass(%s), %s)", (table, right)
        ).fetchone()[0]:
            found.add(table)
    return sorted(found)


def _other_schema(database: AnyDatabase) -> str:
    """Return why PostgreSQL's search_path does not lead to our tables; '' if there are none."""
    path = database.execute_sql("SHOW search_path").fetchone()[0]
    if home(database)[0] is None:
        return (
            f"the role may use no schema of its search_path {path}: make one, or "
            "GRANT USAGE, CREATE ON SCHEMA … TO the role, and run `dbb init`"
        )
    others = database.execute_sql(
        "SELECT string_agg(n.nspname, ', ' ORDER BY n.nspname) FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_attribute a"
        " ON a.attrelid = c.oid AND a.attname = 'oldest_script' WHERE c.relname = 'schema_version'"
    ).fetchone()[0]
    if others is None:
        return ""
    return (
        f"its search_path is {path}, and there are tables of ours in the schema {others}: name it, "
        "as in [database] url …?options=-csearch_path%3DSCHEMA; or, for tables of its own, run "
        "`dbb init`"
    )


def latest(dialect: str) -> int:
    """Return the number of the newest file of a dialect, without reading any."""
    names = (entry.name for entry in (resources.files("dbbbatch") / "sql" / dialect).iterdir())
    return max(int(name[:3]) for name in names if name.endswith(".sql"))


def _applied(database: AnyDatabase) -> dict[int, str]:
    if is_postgresql(database):
        # In any schema of the search_path, not only in the first.
        there = database.execute_sql("SELECT to_regclass('schema_version')").fetchone()[0]
    else:
        there = database.table_exists("schema_version")
    if not there:
        return {}
    rows = database.execute_sql("SELECT number, oldest_script FROM schema_version").fetchall()
    return dict(rows)


def _statements(text: str) -> Iterator[str]:
    """Split at semicolons that end a line, except those between ``$$``.

    Comments stay with their statement.
    """
    ends = r"(?:[^$;]|\$(?!\$)|\$\$.*?\$\$|;(?![ \t]*$))+"
    for statement in re.findall(ends, text, flags=re.MULTILINE | re.DOTALL):
        if re.sub(r"--.*", "", statement).strip():
            yield statement.strip()


def _version_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))
