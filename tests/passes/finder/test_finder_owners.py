"""Files of another owner, met by a finder that is not root."""

import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

from dbbbatch.areas.storage import store
from dbbbatch.config import load, sections
from dbbbatch.config.fields import defaults
from tests.support.finding import Finding, tree

NOBODY = 65534

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user"),
    pytest.mark.parametrize("backend", ["sqlite"]),
]


@pytest.fixture
def finding(database_url, databases):
    """A finder whose directories and database belong to another user than the files."""
    top = Path(tempfile.mkdtemp(prefix="owners-"))
    top.chmod(0o755)
    with databases.fresh("sqlite", top) as url:
        settings = load.Settings(
            path=top / "dbb.toml",
            site=defaults(sections.Site, name="archive", state=str(top / "state")),
            database=defaults(sections.Database, url=url),
            handoff={},
            finder={},
            target={},
        )
        made = Finding(settings, top)
        (top / "state").mkdir()
        for path in (top, *top.rglob("*")):
            os.chown(path, NOBODY, NOBODY)
        yield made
    shutil.rmtree(top)


def run_as_nobody(finding):
    """Make a pass as another user; give its exit code."""
    import psutil  # that user may not be able to read where Python is

    psutil.Process().create_time()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            code = finding.run()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def owner_and_mode(path):
    status = os.stat(path)
    return status.st_uid, stat.S_IMODE(status.st_mode)


def test_file_of_another_owner_is_copied_so_that_nobody_else_can_change_it(finding):
    finding.put("a").chmod(0o644)
    finding.change(file_mode=None)
    assert run_as_nobody(finding) == 0
    assert tree(finding.source) == {}
    assert owner_and_mode(finding.storage / "a") == (NOBODY, 0o644)


@pytest.fixture
def examined(finding, monkeypatch):
    """Make a pass in which another file gets the name of a file after it was read."""

    def run(other):
        def intend(*arguments, real=store.intend):
            os.rename(other, finding.source / "a")
            return real(*arguments)

        os.chown(finding.put("a", b"ours"), NOBODY, NOBODY)
        with monkeypatch.context() as patch:
            patch.setattr(store, "intend", intend)
            assert run_as_nobody(finding) == 0
        assert tree(finding.storage) == {}
        assert finding.rows() == []

    return run


@pytest.mark.promise
def test_file_of_another_owner_that_got_a_name_before_it_is_placed_is_not_renamed(
    finding, examined
):
    other = finding.put("other", b"theirs", finding.quarantine)
    other.chmod(0o644)
    examined(other)
    assert tree(finding.source) == {"a": b"theirs"}
    assert run_as_nobody(finding) == 0
    assert tree(finding.storage) == {"a": b"theirs"}
    assert owner_and_mode(finding.storage / "a") == (NOBODY, 0o444)


@pytest.mark.promise
def test_link_that_got_a_name_before_it_is_placed_goes_back(finding, examined):
    link = finding.quarantine / "link"
    link.symlink_to("/etc/passwd")
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    examined(link)
    assert (finding.source / "a").is_symlink()


def test_file_of_another_owner_needs_free_room_for_its_copy(finding):
    finding.put("a").chmod(0o644)
    finding.change(file_mode=None, min_free=1 << 60)
    assert run_as_nobody(finding) == 75
    assert tree(finding.source) == {"a": b"data"}
    assert tree(finding.storage) == {}


def test_file_of_a_trusted_owner_is_renamed_as_it_is(finding):
    finding.put("a").chmod(0o644)
    finding.change(file_mode=None, trust_writers=True)
    assert run_as_nobody(finding) == 0
    assert tree(finding.source) == {}
    assert owner_and_mode(finding.storage / "a") == (0, 0o644)


def test_file_whose_mode_is_not_ours_to_set_becomes_ours(finding):
    finding.put("a").chmod(0o644)
    finding.change(file_mode=0o444)
    assert run_as_nobody(finding) == 0
    assert tree(finding.source) == {}
    assert owner_and_mode(finding.storage / "a") == (NOBODY, 0o444)


def test_file_that_may_not_be_read_fails_alone(finding):
    finding.put("a").chmod(0o600)
    finding.put("b", b"other").chmod(0o644)
    assert run_as_nobody(finding) == 1
    assert tree(finding.source) == {"a": b"data"}
    assert finding.rows("SELECT filename, message FROM finder_left") == [("a", "Permission denied")]


def test_file_that_may_not_be_moved_fails_and_stays(finding):
    finding.change(file_mode=None, trust_writers=True)
    finding.put("a").chmod(0o644)
    os.chown(finding.source, 0, 0)
    finding.source.chmod(0o1777)
    assert run_as_nobody(finding) == 1
    assert tree(finding.source) == {"a": b"data"}
    assert tree(finding.storage) == {}
    assert finding.rows("SELECT status FROM file") == []
    assert finding.rows("SELECT message FROM finder_left") == [("Operation not permitted",)]


def test_copy_whose_original_may_not_be_removed_is_stored_once(finding):
    finding.put("a").chmod(0o644)
    os.chown(finding.source, 0, 0)
    finding.source.chmod(0o1777)
    finding.change(file_mode=0o444)
    for _ in range(2):
        assert run_as_nobody(finding) == 0
        assert tree(finding.source) == tree(finding.storage) == {"a": b"data"}
    assert finding.rows() == [("", "a", "STORED")]
    assert finding.rows("SELECT verdict FROM finder_left") == [("MOVED",)]


@pytest.mark.promise
@pytest.mark.parametrize("forbidden", ["storage", "a directory"])
def test_directory_of_storage_that_is_not_ours_is_no_fault_of_any_file(finding, forbidden, capfd):
    finding.change(max_attempts=1)
    finding.put("2026/a").chmod(0o644)
    os.chown(finding.source / "2026", NOBODY, NOBODY)
    (finding.storage / "2026").mkdir(mode=0o755)
    directory = finding.storage / "2026" if forbidden == "a directory" else finding.storage
    if forbidden == "storage":
        (finding.storage / "2026").rmdir()
    os.chown(directory, 0, 0)
    for _ in range(2):
        assert run_as_nobody(finding) == 1
        assert tree(finding.source) == {"2026/a": b"data"}
        assert finding.rows("SELECT 1 FROM file UNION SELECT 1 FROM finder_left") == []
    assert f"{directory}: Permission denied: this user cannot store" in capfd.readouterr().err
    os.chown(directory, NOBODY, NOBODY)
    assert run_as_nobody(finding) == 0
    assert tree(finding.storage) == {"2026/a": b"data"}


@pytest.mark.promise
def test_file_on_its_way_that_cannot_be_looked_at_keeps_no_other_waiting(finding, capfd):
    finding.put("2026/a").chmod(0o644)
    os.chown(finding.source / "2026", NOBODY, NOBODY)
    assert run_as_nobody(finding) == 0
    finding.change_rows("UPDATE file SET status = 'ARRIVING'")
    (finding.storage / "2026").chmod(0)
    finding.put("b").chmod(0o644)
    assert run_as_nobody(finding) == 1
    assert "2026/a: was on its way to storage" in capfd.readouterr().err
    assert finding.rows("SELECT status FROM file ORDER BY id") == [("ARRIVING",), ("STORED",)]
    (finding.storage / "2026").chmod(0o755)
    assert run_as_nobody(finding) == 0
    assert finding.rows("SELECT status FROM file") == [("STORED",), ("STORED",)]
