"""`dbb backup`: a copy of an SQLite database while passes run."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from dbbbatch.cli import dbb
from dbbbatch.files import place, temporary
from dbbbatch.files.lock import Lock
from tests.support.scripts import TOP
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


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_copy_may_be_read_by_whom_the_database_may(site: Site, tmp_path, mode):
    os.chmod(path_of(site), mode)
    assert site.run("dbb", "backup", str(tmp_path / "copy")).code == 0
    assert (tmp_path / "copy").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("backend", ["sqlite"])
def test_what_a_killed_backup_left_goes_with_the_next_one(site: Site, tmp_path, monkeypatch):
    target = tmp_path / "backups"
    target.mkdir()
    pid = os.fork()
    if pid == 0:
        monkeypatch.setattr(place, "sync_file", lambda _: os._exit(9))
        words = ["-c", str(site.config), "backup", str(target / "monday")]
        CliRunner().invoke(dbb.dbb, words, standalone_mode=False)
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    (left,) = target.iterdir()
    assert temporary.is_temporary(left.name)
    for suffix in ("-wal", "-shm", "-journal"):
        Path(f"{left}{suffix}").touch()
    assert site.run("dbb", "backup", str(target / "tuesday")).code == 0
    assert os.listdir(target) == ["tuesday"]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_one_backup_at_a_time(site: Site, tmp_path):
    other = Lock(site.state / "locks", "backup")
    other.acquire()
    ran = site.run("dbb", "backup", str(tmp_path / "copy"))
    other.release()
    assert ran.code == 75
    assert "backup is at work" in ran.err
    assert site.run("dbb", "backup", str(tmp_path / "copy")).code == 0


#: Writes a row and is killed before SQLite has put it into the database itself.
KILLED = """
import os, signal, sqlite3, sys
writer = sqlite3.connect(sys.argv[1], isolation_level=None)
writer.execute("PRAGMA wal_autocheckpoint = 0")
for number in range(500):
    writer.execute("INSERT INTO pause (site, label, since) VALUES (?, ?, '')", ("new", number))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killed(site: Site, tmp_path) -> Path:
    """A backup, beside a database that a killed writer has left with its log since."""
    database, copy = path_of(site), tmp_path / "backup.sqlite"
    writer = sqlite3.connect(database, isolation_level=None)
    writer.execute("INSERT INTO pause (site, label, since) VALUES ('old', 'x', '')")
    writer.close()
    assert site.run("dbb", "backup", str(copy)).code == 0
    ran = subprocess.run([sys.executable, "-c", KILLED, database], timeout=120, check=False)
    assert ran.returncode == -signal.SIGKILL
    assert Path(f"{database}-wal").stat().st_size > 0
    return copy


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_backup_is_restored_as_documented_after_a_kill(site: Site, killed):
    page = (TOP / "docs/database.md").read_text()
    (block,) = [each for each in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "cp -p" in each]
    script = block.replace("/backup/dbb-2026-11-23.sqlite", str(killed))
    script = script.replace("/var/lib/dbb", os.path.dirname(path_of(site)))
    subprocess.run(["sh", "-euc", script], timeout=120, check=True)
    assert site.run("dbb", "init").code == 0
    restored = sqlite3.connect(path_of(site))
    assert restored.execute("SELECT site FROM pause").fetchall() == [("old",)]
    assert restored.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    restored.close()


@pytest.mark.parametrize("backend", ["postgresql"])
def test_postgresql_has_its_own(site: Site, tmp_path):
    ran = site.run("dbb", "backup", str(tmp_path / "copy"))
    assert ran.code == 64
    assert "pg_dump" in ran.err


def path_of(site: Site) -> str:
    """Return the file of the site's database."""
    return site.database_url.removeprefix("sqlite:///")
