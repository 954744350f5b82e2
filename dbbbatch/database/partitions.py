"""`ingest_event` in partitions, one for each year, on PostgreSQL: made of the table that is there.

No row is moved and no index is built, so passes continue. Each step can be repeated; after a kill
the next call goes on where it was.

check     A constraint, not yet validated: no event is of a later year than the table is for.
validate  The table is read once; others read and write meanwhile.
swap      One short transaction: the table becomes the first partition of a new one of its name.
years     A partition for this year and the next ones, and one for whatever has none.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from dbbbatch.database import connect
from dbbbatch.database.base import database
from dbbbatch.database.connect import execute
from dbbbatch.errors import ConfigError

#: The constraint of a table that is to become a partition; the year follows.
_CHECK = "ingest_event_before_"

#: For so long at least after a killed call events of now fit what its constraint allows.
_LEEWAY = timedelta(days=90)

#: Further years that get a partition.
_YEARS_AHEAD = 2

#: Others wait behind a lock that is waited for: no longer than this at a time.
_BRIEFLY = "SET LOCAL lock_timeout = '2s'"

#: What each partition has for itself: the keys of a partitioned table must contain the time.
_KEYS = "(PRIMARY KEY (id), UNIQUE (run_id, number))"


def partition_events() -> list[str]:
    """Divide `ingest_event` by years if it is not yet, and add the partitions of the next years.

    Returns
    -------
    partitions : `list` [`str`]
        The names of all partitions.

    Raises
    ------
    ConfigError
        The database is SQLite, or something depends on the table that cannot be made again.
    TryLater
        The database stays busy or away; what was done stays.
    """
    if not connect.on_postgresql():
        raise ConfigError("only PostgreSQL has partitions: SQLite's table stays one")
    if not connect.read(_is_partitioned):
        year = connect.write(_constrain)
        connect.long_write(execute, f"ALTER TABLE ingest_event VALIDATE CONSTRAINT {_CHECK}{year}")
        connect.write(_swap, year)
    connect.write(_add_years)
    return connect.read(_partitions)


def _is_partitioned() -> bool:
    found = execute("SELECT relkind = 'p' FROM pg_class WHERE oid = to_regclass('ingest_event')")
    return bool(found.fetchone()[0])


def _partitions() -> list[str]:
    found = execute(
        "SELECT inhrelid::regclass::text FROM pg_inherits"
        " WHERE inhparent = to_regclass('ingest_event') ORDER BY 1"
    ).fetchall()
    return [name for (name,) in found]


def _constrain() -> int:
    """Add the constraint that proves where the events of the table belong; return its year."""
    execute(_BRIEFLY)
    now = connect.now()
    for (name,) in execute(
        "SELECT conname FROM pg_constraint WHERE conrelid = to_regclass('ingest_event')"
        " AND starts_with(conname, ?)",
        [_CHECK],
    ).fetchall():
        year = int(name.removeprefix(_CHECK))
        if datetime(year, 1, 1) - now > _LEEWAY / 2:
            return year
        # A killed call left it long ago: it would soon refuse the events of a new year.
        execute(f"ALTER TABLE ingest_event DROP CONSTRAINT {name}")
    year = (now + _LEEWAY).year + 1
    execute(
        f"ALTER TABLE ingest_event ADD CONSTRAINT {_CHECK}{year}"
        f" CHECK (start_time < '{year}-01-01') NOT VALID"
    )
    return year


def _swap(year: int) -> None:
    """Make the table the first partition of a new one, with its name, rights and views."""
    old = f"ingest_event_until_{year - 1}"
    execute(_BRIEFLY)
    # In the order in which passes lock them.
    execute("LOCK TABLE ingest_state IN SHARE ROW EXCLUSIVE MODE")
    execute("LOCK TABLE ingest_event IN ACCESS EXCLUSIVE MODE")
    if _is_partitioned():
        return  # the answer of a commit was lost
    views = _views()
    for statement in (
        f"ALTER TABLE ingest_event RENAME TO {old}",
        f"ALTER INDEX ingest_event_file RENAME TO {old}_file",
        f"ALTER INDEX ingest_event_time RENAME TO {old}_time",
        f"ALTER TABLE {old} ALTER id DROP IDENTITY",
        f"CREATE TABLE ingest_event (LIKE {old} INCLUDING DEFAULTS)"
        " PARTITION BY RANGE (start_time)",
        # An identity of a partitioned table is known only to newer servers.
        "CREATE SEQUENCE ingest_event_numbers OWNED BY ingest_event.id",
        f"SELECT setval('ingest_event_numbers', coalesce(max(id), 0) + 1, false) FROM {old}",
        "ALTER TABLE ingest_event ALTER id SET DEFAULT nextval('ingest_event_numbers')",
        "ALTER TABLE ingest_event ADD FOREIGN KEY (file_id, target_id)"
        " REFERENCES ingest_state (file_id, target_id)",
        "CREATE INDEX ingest_event_file ON ingest_event (file_id, target_id, id)",
        "CREATE INDEX ingest_event_time ON ingest_event USING brin (start_time)",
        f"ALTER TABLE ingest_event ATTACH PARTITION {old}"
        f" FOR VALUES FROM (MINVALUE) TO ('{year}-01-01')",
        f"CREATE TABLE ingest_event_other PARTITION OF ingest_event {_KEYS} DEFAULT",
        *_grants(),
        *views,
    ):
        # Not by `execute`: a view may hold a question mark.
        database.execute_sql(statement.replace("%", "%%"))
    # Older scripts name a key that the new table cannot have.
    execute("UPDATE schema_version SET oldest_script = '1.0.0' WHERE number = 21")


def _views() -> list[str]:
    """Return what makes the views of the table, whoever made them, read from the new one."""
    found = execute(
        "SELECT DISTINCT c.relkind, format('CREATE OR REPLACE VIEW %I.%I%s AS %s', n.nspname,"
        " c.relname, ' WITH (' || array_to_string(c.reloptions, ', ') || ')',"
        " pg_get_viewdef(c.oid)), c.oid::regclass::text"
        " FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid"
        " JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass"
        " AND d.refobjid = to_regclass('ingest_event') AND r.ev_class <> d.refobjid"
    ).fetchall()
    if other := [name for kind, _, name in found if kind != "v"]:
        raise ConfigError(
            f"ingest_event: {', '.join(other)} reads from it and is no plain view: drop it, run "
            "this again, and make it again"
        )
    return [statement for _, statement, _ in found]


def _grants() -> list[str]:
    """Return what gives the roles the rights on the new table that they have on the old one."""
    found = execute(
        "SELECT a.privilege_type, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE"
        " a.grantee::regrole::text END FROM pg_class c, aclexplode(c.relacl) a"
        " WHERE c.oid = to_regclass('ingest_event') AND a.grantee <> c.relowner"
    ).fetchall()
    grants = [f"GRANT {right} ON ingest_event TO {role}" for right, role in found]
    return grants + [
        f"GRANT USAGE ON SEQUENCE ingest_event_numbers TO {role}"
        for right, role in found
        if right == "INSERT"
    ]


def _add_years() -> None:
    execute(_BRIEFLY)
    bounds = execute(
        "SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c"
        " ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass('ingest_event')"
    ).fetchall()
    ends = [int(text.rpartition("TO ('")[2][:4]) for (text,) in bounds if "TO ('" in text]
    # Events without a partition of their own are in that for others, and stay there.
    newest = execute("SELECT max(start_time) FROM ingest_event_other").fetchone()[0]
    first = max([*ends, newest.year + 1 if newest else 0])
    for year in range(first, connect.now().year + _YEARS_AHEAD + 1):
        execute(
            f"CREATE TABLE ingest_event_{year} PARTITION OF ingest_event {_KEYS}"
            f" FOR VALUES FROM ('{year}-01-01') TO ('{year + 1}-01-01')"
        )
