"""The files in sql/ are the schema; the models and the code are held to them."""

import importlib
import pkgutil

import peewee
import pytest

from dbbbatch.config.fields import defaults
from dbbbatch.config.sections import Database
from dbbbatch.database import connect, models, schema
from dbbbatch.database.base import Table, TimeField
from dbbbatch.errors import ConfigError

#: Model field to the column types that fit it.
TYPES = {
    peewee.BigAutoField: {"integer", "bigint"},
    peewee.AutoField: {"integer", "bigint"},
    peewee.IntegerField: {"integer"},
    peewee.BigIntegerField: {"integer", "bigint"},
    peewee.DoubleField: {"real", "double precision"},
    peewee.TextField: {"text"},
    TimeField: {"text", "timestamp without time zone"},
}


def every_model():
    for module in pkgutil.iter_modules(models.__path__):
        importlib.import_module(f"{models.__name__}.{module.name}")
    return Table.__subclasses__()


def empty(url):
    return defaults(Database, url=url)


def test_init_creates_every_table_and_repeats_without_effect(empty_database_url):
    database = connect.connect(empty(empty_database_url), check=False)
    assert schema.apply_migrations(database)
    assert schema.apply_migrations(database) == []
    connect.connect(empty(empty_database_url))
    connect.disconnect()


@pytest.mark.parametrize("backend", ["postgresql"])
def test_an_index_that_a_killed_init_left_half_built_is_built_again(database):
    connect.execute("DELETE FROM schema_version WHERE number = 16")
    connect.execute("DROP INDEX file_added")
    connect.execute(
        "UPDATE pg_index SET indisvalid = false"
        " WHERE indexrelid = 'handoff_file_discovered'::regclass"
    )
    assert schema.apply_migrations(database) == ["016_by_time.sql"]
    assert connect.execute(
        "SELECT count(*) FROM pg_index WHERE indisvalid AND indexrelid IN"
        " ('file_added'::regclass, 'handoff_file_discovered'::regclass)"
    ).fetchone() == (2,)


@pytest.mark.parametrize("backend", ["postgresql"])
def test_an_index_is_built_while_another_transaction_writes_to_its_table(database, database_url):
    import psycopg

    connect.execute("DELETE FROM schema_version WHERE number = 16")
    connect.execute("DROP INDEX file_added")
    with psycopg.connect(database_url) as other:
        with psycopg.connect(database_url, autocommit=True) as init:
            other.execute("UPDATE file SET error = NULL")
            # It waits for that transaction, and blocks none that comes.
            init.execute("SET lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                init.execute("CREATE INDEX CONCURRENTLY file_added ON file (added_on, id)")
        other.execute("UPDATE file SET error = NULL")
    assert schema.apply_migrations(database) == ["016_by_time.sql"]


def test_both_dialects_have_the_same_files():
    names = [[m.name for m in schema.migrations(d)] for d in ("sqlite", "postgresql")]
    assert names[0] == names[1]


def test_every_table_has_a_model_or_is_only_used_in_sql(database):
    tables = set(database.get_tables()) - {"sqlite_sequence", "schema_version"}
    assert tables == {model._meta.table_name for model in every_model()}


def test_every_model_has_the_columns_of_its_table(database):
    for model in every_model():
        columns = {c.name: c for c in database.get_columns(model._meta.table_name)}
        fields = {f.column_name: f for f in model._meta.sorted_fields}
        assert fields.keys() == columns.keys(), model
        for name, field in fields.items():
            what = f"{model.__name__}.{name}"
            kind = next(TYPES[t] for t in type(field).__mro__ if t in TYPES)
            if isinstance(field, peewee.ForeignKeyField):
                kind = {"integer", "bigint"}
            assert columns[name].data_type.lower() in kind, what
            key = field.primary_key or name in getattr(model._meta.primary_key, "field_names", ())
            assert key or columns[name].null == field.null, what


def test_every_model_has_the_primary_key_of_its_table(database):
    for model in every_model():
        key = model._meta.primary_key
        names = key.field_names if isinstance(key, peewee.CompositeKey) else (key.name,)
        columns = {model._meta.fields[name].column_name for name in names}
        assert columns == set(database.get_primary_keys(model._meta.table_name)), model


def test_a_database_without_our_tables_says_what_to_run(empty_database_url):
    connect.disconnect()
    connect.connect(empty(empty_database_url), check=False)  # makes SQLite's file
    with pytest.raises(ConfigError, match="dbb init"):
        connect.connect(empty(empty_database_url))
    connect.disconnect()


def test_tables_that_want_a_newer_script_refuse_this_one(database, database_url):
    connect.write(connect.execute, "UPDATE schema_version SET oldest_script = '99.0'")
    with pytest.raises(ConfigError, match="upgrade dbbbatch"):
        connect.connect(empty(database_url))


def test_newer_tables_that_permit_this_script_are_used(database, database_url):
    connect.write(
        connect.execute,
        "INSERT INTO schema_version (number, name, oldest_script, applied_by)"
        " VALUES (99, '099_more.sql', '0.1.0', '99.0')",
    )
    connect.connect(empty(database_url))


def test_versions_are_compared_as_numbers():
    assert schema._version_numbers("0.10.0") > schema._version_numbers("0.9.1")
