"""Names compare by their bytes, also in a database that was made before it said so."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from dbbbatch.config.fields import defaults
from dbbbatch.config.sections import Database
from dbbbatch.database import connect, schema
from dbbbatch.database.models.finder import Remembered, RememberedFile
from dbbbatch.database.models.statuses import WhyRemembered
from dbbbatch.errors import ConfigError

#: The migration that says so.
NUMBER = 10

#: Names in the order of their bytes, which hardly any language has.
NAMES = ["A-b", "B", "Z", "a-b", "a_b", "ab", "á", "\U0001f52d"]

only_postgresql = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


@pytest.fixture
def old(backend: str, empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Connect to a database as the version before made it."""
    every = schema.migrations

    def before(dialect: str) -> list[schema.Migration]:
        return [one for one in every(dialect) if one.number < NUMBER]

    with monkeypatch.context() as patched:
        patched.setattr(schema, "migrations", before)
        schema.apply_migrations(opened(empty_database_url))
    yield opened(empty_database_url)
    connect.disconnect()


def opened(url: str) -> Any:
    return connect.connect(defaults(Database, url=url, patience=5), check=False)


def upgrade(url: str) -> list[str]:
    return connect.upgrade(defaults(Database, url=url, patience=5))


def insert(database: Any, filename: str) -> None:
    database.execute_sql(
        "INSERT INTO file (storage, relpath, filename, size_bytes, checksum, status, finder)"
        f" VALUES ('/s', '', '{filename}', 1, 'md5:0', 'STORED', 'f')"
    )


#: Columns of indexes that sort text in another way than by its bytes.
_SORTED = (
    "SELECT i.indexrelid::regclass || '.' || a.attname FROM pg_index i"
    " CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indcollation::oid[]) AS k (number, sorts)"
    " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number"
    " JOIN pg_class c ON c.oid = i.indrelid AND c.relnamespace = 'public'::regnamespace"
    " WHERE a.atttypid = 'text'::regtype AND k.sorts <>"
    " (SELECT oid FROM pg_collation WHERE collname = 'C' AND collnamespace = 11)"
)


@only_postgresql
def test_every_index_sorts_text_by_its_bytes(database):
    assert database.execute_sql(_SORTED).fetchall() == []


def test_an_older_database_is_upgraded_with_what_it_holds(old, empty_database_url):
    for name in NAMES:
        insert(old, name)
    assert "010_names_by_bytes.sql" in upgrade(empty_database_url)
    found = connect.execute("SELECT filename FROM file ORDER BY filename").fetchall()
    assert [name for (name,) in found] == NAMES
    with pytest.raises(Exception, match=r"(?i)unique"):
        insert(connect.proxy.obj, NAMES[0])


def test_pages_of_names_hold_each_once_and_in_one_order(database):
    lefts = [RememberedFile("", name, 1, 1, 1, WhyRemembered.AWAITED) for name in reversed(NAMES)]
    connect.write(Remembered.remember, "s", "f", lefts)
    found, after = [], ("", "")
    while page := Remembered.all_with("s", "f", WhyRemembered.AWAITED, 1, after):
        after = (page[0].relpath, page[0].filename)
        found += page
    assert [left.filename for left in found] == NAMES


@only_postgresql
class TestViews:
    """Views of others upon our tables stand in the way of the change, and are there afterwards."""

    @pytest.fixture
    def sql(self, databases: Any, empty_database_url: str) -> Callable[..., None]:
        """Return a function that runs statements in the test's database as its owner."""
        name = psycopg.conninfo.conninfo_to_dict(empty_database_url)["dbname"]
        return lambda *statements: databases.postgres.execute(name, *statements)

    def test_they_are_made_again_as_they_were(self, old, sql, empty_database_url):
        insert(old, "a.fits")
        sql(
            "CREATE SCHEMA monitoring",
            "CREATE VIEW monitoring.names WITH (security_barrier) AS"
            " SELECT filename AS \"Name; with 'quotes'\" FROM file",
            "CREATE VIEW monitoring.more AS SELECT n.*, c.path FROM monitoring.names n, file f"
            " LEFT JOIN ingest_current c ON c.file_id = f.id",
            "CREATE VIEW again AS SELECT count(*) FROM monitoring.more",
            "COMMENT ON VIEW again IS 'it''s ours'",
            "GRANT SELECT ON monitoring.more TO pg_monitor WITH GRANT OPTION",
            "GRANT SELECT ON ingest_current, ingest_backlog TO PUBLIC",
            "ALTER VIEW again OWNER TO pg_monitor",
        )
        seen = (
            "SELECT c.relname, pg_get_viewdef(c.oid), c.relowner, c.relacl::text, c.reloptions,"
            " obj_description(c.oid, 'pg_class') FROM pg_class c WHERE c.relkind = 'v'"
            " AND c.relnamespace IN ('public'::regnamespace, 'monitoring'::regnamespace)"
            " ORDER BY c.relname"
        )
        before = old.execute_sql(seen).fetchall()
        upgrade(empty_database_url)
        assert connect.proxy.obj.execute_sql(seen).fetchall() == before
        assert connect.execute("SELECT * FROM again").fetchall() == [(1,)]

    def test_one_that_holds_rows_is_named(self, old, sql, empty_database_url):
        sql("CREATE MATERIALIZED VIEW kept AS SELECT filename FROM file")
        with pytest.raises(ConfigError, match=r"public.kept depends.*drop what depends on it"):
            upgrade(empty_database_url)
        sql("DROP MATERIALIZED VIEW kept")
        assert "010_names_by_bytes.sql" in upgrade(empty_database_url)


@only_postgresql
def test_an_upgrade_that_was_cut_off_leaves_the_database_as_it_was(
    old, empty_database_url, monkeypatch
):
    every = schema.migrations

    def failing(dialect: str) -> list[schema.Migration]:
        found = [one for one in every(dialect) if one.number <= NUMBER]
        found[-1] = found[-1].__class__(
            NUMBER,
            found[-1].name,
            (*found[-1].statements, "SELECT pg_terminate_backend(pg_backend_pid())"),
            "0",
        )
        return found

    insert(old, "a.fits")
    with monkeypatch.context() as patched:
        patched.setattr(schema, "migrations", failing)
        database = opened(empty_database_url)
        with pytest.raises(Exception, match=r"(?i)terminat|closed"):
            schema.apply_migrations(database)
        connect.disconnect()
    database = opened(empty_database_url)
    assert len(database.execute_sql(_SORTED).fetchall()) > 10
    assert database.execute_sql("SELECT path FROM ingest_current").fetchall() == []
    upgrade(empty_database_url)
    assert connect.proxy.obj.execute_sql(_SORTED).fetchall() == []


@only_postgresql
def test_two_rows_of_one_name_are_told_with_their_name(old, empty_database_url):
    """A sort order that changed with the C library lets them in."""
    ready = (
        "UPDATE pg_index SET indisready = {0}, indisvalid = {0}"
        " WHERE indexrelid = 'file_storage_relpath_filename_key'::regclass"
    )
    old.execute_sql("SET allow_system_table_mods = on")
    insert(old, "a.fits")
    old.execute_sql(ready.format("false"))
    insert(old, "a.fits")
    old.execute_sql(ready.format("true"))
    with pytest.raises(ConfigError, match=r"a\.fits.*duplicated.*remove one"):
        upgrade(empty_database_url)
