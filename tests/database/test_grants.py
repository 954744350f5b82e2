"""The grants of docs/security.md are enough for each kind of site, and no more than it says."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from dbbbatch.config import toml
from dbbbatch.database import schema
from tests.support.scripts import TOP
from tests.support.site import Site, tree

pytestmark = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

PAGE = (TOP / "docs" / "security.md").read_text(encoding="utf-8")
GRANTS = re.findall(r"^GRANT [^;]+;", PAGE, re.MULTILINE)
ROLES = {name: f"{name}_{os.getpid()}" for name in ("dbb_reader", "dbb_summit", "dbb_archive")}

As = Callable[[str], Site]


def granted(role: str) -> set[tuple[str, str]]:
    """Return tables and rights that the page grants to a role, beside SELECT."""
    found = set()
    for grant in GRANTS:
        rights, tables, roles = re.fullmatch(r"GRANT (.+) ON (.+) TO (.+);", grant).groups()
        if role in roles.split(", ") and "SCHEMA" not in tables:
            found |= {(t, r) for t in tables.split(", ") for r in rights.split(", ")}
    return found


def needed(*kinds: str) -> set[tuple[str, str]]:
    parts = [schema.RIGHTS_OF_ALL, *(schema.RIGHTS[kind] for kind in kinds)]
    return {(table, right) for part in parts for table, rights in part.items() for right in rights}


@pytest.fixture
def run_as(site: Site, database_url: str, databases: Any) -> Iterator[As]:
    """Yield a function that lets the site's scripts connect as a role of the page."""
    name = psycopg.conninfo.conninfo_to_dict(database_url)["dbname"]
    execute = databases.postgres.execute
    for role in ROLES.values():
        execute(name, f"CREATE ROLE {role} LOGIN")
    for grant in GRANTS:
        execute(name, re.sub(r"dbb_\w+", lambda found: ROLES[found[0]], grant))

    def change(role: str) -> Site:
        site.write(database={"url": database_url.replace("postgres:@", f"{ROLES[role]}@")})
        return site

    yield change
    for role in ROLES.values():
        execute(name, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


def only(site: Site, *kinds: str) -> Site:
    """Leave sections of other kinds out of the configuration."""
    import tomllib

    document = tomllib.loads(site.config.read_text())
    tables = {"site": document["site"], "database": document["database"]}
    for kind in kinds:
        for name, keys in document.get(kind, {}).items():
            tables[f"{kind}.{name}"] = {k: v for k, v in keys.items() if not isinstance(v, dict)}
            tables |= {f"{kind}.{name}.{k}": v for k, v in keys.items() if isinstance(v, dict)}
    site.config.write_text(toml.toml_document(tables))
    return site


def test_the_page_grants_what_the_check_asks_for(backend: str) -> None:
    assert granted("dbb_summit") == needed("handoff")
    assert granted("dbb_archive") == needed("finder", "target")
    assert granted("dbb_reader") == set()


def test_no_table_is_forgotten(backend: str) -> None:
    made = {
        name
        for migration in schema.migrations("postgresql")
        for statement in migration.statements
        for name in re.findall(r"CREATE TABLE (\w+)", statement)
    }
    listed = {
        table for rights in (schema.RIGHTS_OF_ALL, *schema.RIGHTS.values()) for table in rights
    }
    assert made == listed | {"schema_version"}


def test_a_handoff_site(run_as: As) -> None:
    site = only(run_as("dbb_summit"), "handoff")
    site.put_all(["a/1", "a/2"])
    assert site.run("dbb", "check").err == ""
    assert site.run("dbb-handoff") == (0, "", "")
    assert site.run("dbb-janitor") == (0, "", "")
    for words in (
        ("pause", "handoff.latiss"),
        ("resume", "handoff.latiss"),
        ("retry", "handoff.latiss"),
        ("ignore", "handoff.latiss", "--match", "*"),
        ("status",),
        ("rebuild", "handoff.latiss"),
    ):
        ran = site.run("dbb", *words)
        assert (ran.code, ran.err) == (0, ""), words
    assert sorted(tree(site.far_buffer)) == ["a/1", "a/2"]


def test_an_endpoint(run_as: As) -> None:
    site = only(run_as("dbb_archive"), "finder", "target")
    for name in ("1", "2", "3"):
        site.put(f"a/{name}", where=site.far_buffer)
    site.put("old/1", where=site.storage)
    assert site.run("dbb", "check").err == ""
    assert site.run("dbb-finder") == (0, "", "")
    assert site.run("dbb-ingester") == (0, "", "")
    (site.storage / "a/1").unlink()
    (site.storage / "a/2").chmod(0o644)
    (site.storage / "a/2").write_bytes(b"other")
    assert site.run("dbb-auditor", "--share", "1", "--missing", "1").code in (0, 1)
    for words in (
        ("backfill", "finder.latiss"),
        ("forget", "finder.latiss", "a/1"),
        ("retry", "target.a", "--status", "SUCCESS"),
        ("target", "list"),
        ("status",),
        ("rebuild", "finder.latiss"),
    ):
        ran = site.run("dbb", *words)
        assert (ran.code, ran.err) == (0, ""), words


def test_a_finder_that_quarantines(run_as: As) -> None:
    site = only(run_as("dbb_archive"), "finder")
    site.put("a/1", b"one", where=site.far_buffer)
    assert site.run("dbb-finder") == (0, "", "")
    site.put("a/1", b"another", where=site.far_buffer)
    assert "permission" not in site.run("dbb-finder").err
    assert tree(site.storage_quarantine)


def test_a_reader(run_as: As) -> None:
    site = run_as("dbb_archive")
    site.put("a/1", where=site.far_buffer)
    assert site.run("dbb-finder") == (0, "", "")
    run_as("dbb_reader")
    question = b'{"nonce": "n", "targets": []}\n["a", "1", 4, "md5:0"]\n'
    assert site.run("dbb", "confirm", stdin=question).out.startswith("n 0 algorithm:")
    assert site.run("dbb", "status").code == 0
    assert "STORED" in site.run("dbb", "history", "a/1").out
    assert site.run("dbb-finder", "--dry-run").code == 0
    site.put("a/2", where=site.far_buffer)
    ran = site.run("dbb-finder")
    assert (ran.code, "permission denied" in ran.err) == (78, True)
    assert sorted(tree(site.storage)) == ["a/1"]


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("dbb_summit", "UPDATE file SET status = 'FORGOTTEN'"),
        ("dbb_summit", "DELETE FROM handoff_file"),
        ("dbb_summit", "DELETE FROM transfer_attempt"),
        ("dbb_archive", "UPDATE handoff_file SET status = 'PURGED'"),
        ("dbb_archive", "UPDATE ingest_event SET status = 'SUCCESS'"),
        ("dbb_archive", "DELETE FROM ingest_event"),
        ("dbb_summit", "DELETE FROM file_event"),
        ("dbb_archive", "DROP TABLE file"),
        ("dbb_reader", "INSERT INTO pause (site, label) VALUES ('a', 'b')"),
    ],
)
def test_what_a_role_may_not(run_as: As, database_url: str, role: str, statement: str) -> None:
    url = database_url.replace("postgres:@", f"{ROLES[role]}@")
    with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(statement)
