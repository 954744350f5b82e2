"""`dbb backup`: a copy of an SQLite database while passes run."""

import os
import sqlite3

import pytest

from tests.support.site import Site


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.promise
def test_copy_is_consistent_while_another_writes(site: Site, tmp_path):
    writer = sqlite3.connect(site.database_url.removeprefix("sqlite:///"), isolation_level=None)
    insert = "INSERT INTO pause (site, label, since) VALUES (?, 'x', '')"
    writer.execute(insert, ("before",))
    writer.execute("BEGIN IMMEDIATE")
    writer.execute(insert, ("not committed",))
    ran = site.run("dbb", "backup", str(tmp_path / "copy"))
    writer.execute("COMMIT")
    writer.close()
    assert (ran.code, ran.err) == (0, "")
    copy = sqlite3.connect(tmp_path / "copy")
    assert copy.execute("SELECT site FROM pause").fetchall() == [("before",)]
    assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert copy.execute("PRAGMA journal_mode").fetchall() == [("wal",)]
    copy.close()


@pytest.mark.parametrize("backend", ["sqlite"])
def test_nothing_is_overwritten(site: Site, tmp_path):
    (tmp_path / "copy").write_text("mine")
    assert site.run("dbb", "backup", str(tmp_path / "copy")).code == 64
    assert (tmp_path / "copy").read_text() == "mine"


@pytest.mark.parametrize("backend", ["sqlite"])
def test_directory_that_is_not_there_is_said(site: Site, tmp_path):
    ran = site.run("dbb", "backup", str(tmp_path / "none" / "copy"))
    assert ran.code == 75
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("backend", ["sqlite"])
def test_nothing_is_left_beside_the_copy(site: Site, tmp_path):
    target = tmp_path / "backups"
    target.mkdir()
    site.run("dbb", "backup", str(target / "copy"))
    assert os.listdir(target) == ["copy"]


@pytest.mark.parametrize("backend", ["postgresql"])
def test_postgresql_has_its_own(site: Site, tmp_path):
    ran = site.run("dbb", "backup", str(tmp_path / "copy"))
    assert ran.code == 64
    assert "pg_dump" in ran.err
