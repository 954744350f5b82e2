"""A user who may only read sees all; one who may not even enter is told so in a line."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbbbatch.database import connect
from tests.support.database import Databases
from tests.support.scripts import Ran
from tests.support.site import Site


@pytest.fixture
def site(databases: Databases) -> Iterator[Site]:
    """Give a site that somebody else may read, with the outcome of a pass and a new file."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        root.chmod(0o755)
        (root / "db").mkdir()
        with databases.fresh("sqlite", root / "db") as url:
            made = Site(root / "site", url).write()
            assert made.run("dbb-handoff").code == 0
            made.put("a.fits")
            (root / "db").chmod(0o555)
            Path(connect.sqlite_path(url)).chmod(0o444)
            yield made
            for path in (root / "db", made.state):
                path.chmod(0o755)


def run(site: Site, *command: str) -> Ran:
    return site.run(*command, unprivileged=True)


def test_the_status_is_shown_to_who_may_only_read(site: Site) -> None:
    ran = run(site, "dbb", "status")
    assert (ran.code, ran.err) == (0, "")
    assert "handoff.latiss" in ran.out


def test_what_is_in_the_log_of_a_database_in_use_is_shown_too(site: Site) -> None:
    connect.connect(site.settings().database)
    connect.transact(
        lambda: connect.execute(
            "INSERT INTO pause (site, label, since) VALUES ('summit', 'finder.new', ?)",
            ["2026-01-01 00:00:00"],
        )
    )
    ran = run(site, "dbb", "status")
    connect.disconnect()
    assert (ran.code, "finder.new" in ran.out) == (0, True)


def test_a_dry_run_needs_no_more_than_to_read(site: Site) -> None:
    ran = run(site, "dbb-handoff", "--dry-run")
    assert (ran.code, ran.err) == (0, "")
    assert "a.fits" in ran.out


def test_a_change_by_who_may_only_read_is_one_line_that_names_the_file(site: Site) -> None:
    ran = run(site, "dbb", "pause", "handoff.latiss")
    path = connect.sqlite_path(site.database_url)
    assert (ran.code, ran.err.count("\n")) == (78, 1)
    assert ran.err.startswith(f"dbb: {path}: cannot be opened or written by user ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
@pytest.mark.parametrize("command", ["dbb status", "dbb-handoff --dry-run"])
def test_a_database_in_a_closed_directory_is_not_called_missing(site: Site, command: str) -> None:
    path = connect.sqlite_path(site.database_url)
    os.chmod(os.path.dirname(path), 0o700)
    ran = run(site, *command.split())
    assert (ran.code, ran.err.count("\n")) == (78, 1)
    assert f"{path}: cannot be reached by user " in ran.err


def test_a_pass_without_its_state_directory_is_no_traceback(site: Site) -> None:
    site.state.chmod(0o500 if os.geteuid() else 0o700)
    ran = run(site, "dbb-handoff")
    assert ran.code == 78
    assert f"must be able to write in {site.state} ([site] state)" in ran.err
    assert "Traceback" not in ran.err
