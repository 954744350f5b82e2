"""A user who may only read sees all; one who may not even enter is told so in a line."""

import os
import pwd
import shlex
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dbbbatch.database import connect
from tests.support.database import Databases
from tests.support.scripts import Ran
from tests.support.site import Site

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")

#: Whom the tests run what is not run by root as.
NOBODY = pwd.getpwuid(65534)

#: Whatever writes in the state directory, or in an SQLite database.
CHANGES = [
    "dbb-handoff latiss",
    "dbb-finder --log-file {root}/other/log",
    "dbb-finder --all --log-file {root}/other/log",
    "dbb-ingester a",
    "dbb-janitor",
    "dbb-auditor",
    "dbb init",
    "dbb pause handoff.latiss",
    "dbb resume handoff.latiss",
    "dbb resend handoff.latiss a.fits",
    "dbb retry target.a",
    "dbb ignore target.a --match x",
    "dbb quarantine release handoff.latiss --match x",
    "dbb target retire a",
    "dbb backfill finder.latiss",
    "dbb rebuild handoff.latiss",
    "dbb forget finder.latiss a.fits",
    "dbb backup {root}/other/backup",
]


#: Where each pass keeps something for the next one.
KEPT = ("said", "passes")


def picture(site: Site) -> dict[Path, tuple[int, int]]:
    """Return whatever lies in the state directory and beside the database, with owner and time."""
    below = (*site.state.rglob("*"), *(site.root.parent / "db").rglob("*"), site.root / "other")
    found = {path: path.stat() for path in below if path.exists()}
    return {path: (status.st_uid, status.st_mtime_ns) for path, status in found.items()}


def give_to_somebody(site: Site) -> None:
    """Let everything except the configuration belong to the tests' user that is not root."""
    for top in (site.root, site.root.parent / "db"):
        for path in (top, *top.rglob("*")):
            if path not in (site.root, site.config):
                os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
    (site.root.parent / "db").chmod(0o755)
    Path(connect.sqlite_path(site.database_url)).chmod(0o644)


@pytest.fixture
def site(databases: Databases) -> Iterator[Site]:
    """Yield a site that somebody else may read, with the outcome of a pass and a new file."""
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
    connect.write(
        connect.execute,
        "INSERT INTO pause (site, label, since) VALUES ('summit', 'finder.new', ?)",
        ["2026-01-01 00:00:00"],
    )
    ran = run(site, "dbb", "status")
    connect.disconnect()
    assert (ran.code, "finder.new" in ran.out) == (0, True)


def test_a_dry_run_needs_no_more_than_to_read(site: Site) -> None:
    ran = run(site, "dbb-handoff", "--dry-run")
    assert (ran.code, ran.err) == (0, "")
    assert "a.fits" in ran.out


@only_root
@pytest.mark.parametrize("command", CHANGES)
def test_a_change_by_another_user_is_one_line_that_says_who_may(site: Site, command: str) -> None:
    (site.root / "other").mkdir(mode=0o777)
    before = picture(site)
    ran = run(site, *command.format(root=site.root).split())
    assert (ran.code, ran.err.count("\n")) == (78, 1)
    assert f"{site.state} ([site] state) belongs to " in ran.err
    assert picture(site) == before


@only_root
def test_a_database_in_a_closed_directory_is_not_called_missing(site: Site) -> None:
    path = connect.sqlite_path(site.database_url)
    os.chmod(os.path.dirname(path), 0o700)
    ran = run(site, "dbb-handoff", "--dry-run")
    assert (ran.code, ran.err.count("\n")) == (78, 1)
    assert f"{path}: cannot be reached by user " in ran.err


@only_root
@pytest.mark.parametrize("closed", ["db", "state"])
def test_the_status_of_what_may_not_be_read_is_not_known(site: Site, closed: str) -> None:
    give_to_somebody(site)
    os.chown(site.state, 12345, -1)
    (site.state if closed == "state" else site.root.parent / "db").chmod(0o700)
    os.chown(site.root.parent / "db", 12345 if closed == "db" else -1, -1)
    ran = run(site, "dbb", "status", "--check")
    assert (ran.code, ran.err) == (3, "")
    assert ran.out.startswith("DBB UNKNOWN - summit: not seen: ")
    assert "sudo -u '#12345' " in run(site, "dbb", "status").out


#: What writes nothing in the database.
LOOKS = ["dbb status", "dbb list handoff.latiss", "dbb-handoff --dry-run", "dbb backup {root}/copy"]


@only_root
@pytest.mark.parametrize("by_root", [False, True])
@pytest.mark.parametrize("command", [*LOOKS, "dbb check", "dbb-handoff"])
def test_nobody_makes_a_log_that_the_passes_cannot_write(
    site: Site, command: str, by_root: bool
) -> None:
    give_to_somebody(site)
    path = Path(connect.sqlite_path(site.database_url))
    path.chmod(0o400)
    site.run(*command.format(root=site.root).split(), unprivileged=not by_root)
    assert list(path.parent.iterdir()) == [path]
    path.chmod(0o600)
    assert run(site, "dbb-handoff").code == 0


@only_root
def test_a_look_adds_no_index_to_a_log_that_is_there(site: Site) -> None:
    give_to_somebody(site)
    path = Path(connect.sqlite_path(site.database_url))
    log = Path(f"{path}-wal")
    log.touch()
    os.chown(log, NOBODY.pw_uid, -1)
    path.chmod(0o400)
    run(site, "dbb", "status")
    assert sorted(path.parent.iterdir()) == [path, log]


@only_root
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
@pytest.mark.parametrize(("owner", "mend"), [(NOBODY.pw_uid, "chmod u+w"), (0, "sudo chown ")])
def test_check_and_a_pass_name_the_file_of_the_database_that_refuses(
    site: Site, suffix: str, owner: int, mend: str
) -> None:
    give_to_somebody(site)
    path = Path(f"{connect.sqlite_path(site.database_url)}{suffix}")
    path.touch()
    os.chown(path, owner, -1)
    path.chmod(0o444)
    for command in ("dbb check", "dbb-handoff latiss", "dbb pause handoff.latiss"):
        ran = run(site, *command.split())
        assert (ran.code, f"{path}: user {NOBODY.pw_name} may not write" in ran.err) == (78, True)
        assert f": {mend}" in ran.err
        assert f" {path}\n" in ran.err
    path.chmod(0o644)
    os.chown(path, NOBODY.pw_uid, -1)
    assert str(path) not in run(site, "dbb", "check").err
    assert run(site, "dbb-handoff").code == 0


@only_root
@pytest.mark.promise
@pytest.mark.parametrize("command", CHANGES)
def test_root_by_hand_is_told_the_command_and_makes_nothing(site: Site, command: str) -> None:
    """What root leaves would stop the user of the crontab for good."""
    give_to_somebody(site)
    before = picture(site)
    ran = site.run(*command.format(root=site.root).split())
    assert (ran.code, ran.err.count("\n")) == (78, 1), ran.err
    assert picture(site) == before
    assert f"belongs to {NOBODY.pw_name}, " in ran.err
    advised = shlex.split(ran.err.rstrip("\n").rpartition(": ")[2])
    script, *arguments = command.format(root=site.root).split()
    assert advised[:3] == ["sudo", "-u", NOBODY.pw_name]
    assert advised[3].endswith(f"/bin/{script}")
    assert advised[4:] == ["-c", str(site.config), *arguments]


@only_root
def test_root_is_told_the_command_where_the_configuration_is_not_roots_either(site: Site) -> None:
    give_to_somebody(site)
    os.chown(site.config, NOBODY.pw_uid, -1)
    before = picture(site)
    ran = site.run("dbb-handoff", "latiss")
    assert (ran.code, ran.err.count("\n")) == (78, 1)
    assert f"sudo -u {NOBODY.pw_name} " in ran.err
    assert ran.err.endswith(f"/bin/dbb-handoff -c {site.config} latiss\n")
    assert picture(site) == before


@only_root
def test_what_root_is_advised_works(site: Site) -> None:
    give_to_somebody(site)
    assert site.run("dbb-handoff").code == 78
    assert run(site, "dbb-handoff") == (0, "", "")
    assert run(site, "dbb", "pause", "handoff.latiss").code == 0


@only_root
def test_root_may_look(site: Site) -> None:
    give_to_somebody(site)
    for command in ("dbb status", "dbb-handoff --dry-run", "dbb quarantine list"):
        ran = site.run(*command.split())
        assert (ran.code, ran.err) == (0, "")
    ran = site.run("dbb-report", str(site.root / "pages"), env={"HOME": str(site.root)})
    assert (ran.code, ran.err) == (0, "")
    # What SQLite makes for root, it gives to the owner of the database.
    assert {uid for uid, _ in picture(site).values()} == {NOBODY.pw_uid}


@only_root
def test_a_state_directory_of_root_may_be_a_disk_that_is_not_mounted(site: Site) -> None:
    ran = run(site, "dbb-handoff")
    assert ran.code == 78
    assert "is its disk mounted?" in ran.err


@only_root
def test_check_says_what_another_user_left_among_the_locks(site: Site) -> None:
    give_to_somebody(site)
    assert run(site, "dbb-handoff").code == 0
    for path in ("locks/handoff.latiss.lock", *(f"{one}/handoff.latiss.json" for one in KEPT)):
        os.chown(site.state / path, 0, 0)
        ran = run(site, "dbb", "check")
        assert ran.code == 78
        assert f"{site.state / path}: user {NOBODY.pw_name} may not write it" in ran.err
        os.chown(site.state / path, NOBODY.pw_uid, -1)


@only_root
@pytest.mark.parametrize("name", ["locks", *KEPT, "crashes", "lists"])
def test_check_says_which_directory_another_user_made_and_goes_on(site: Site, name: str) -> None:
    give_to_somebody(site)
    (site.state / name).mkdir(exist_ok=True)
    os.chown(site.state / name, 0, 0)
    (site.state / name).chmod(0o700)
    site.holding.rmdir()
    ran = run(site, "dbb", "check")
    assert ran.code == 78
    assert f"{site.state / name}: user {NOBODY.pw_name} may not write it" in ran.err
    assert f"{site.holding}: " in ran.err


@only_root
def test_check_by_another_user_tries_nothing_and_says_who_should(site: Site) -> None:
    give_to_somebody(site)
    before = picture(site)
    ran = site.run("dbb", "check")
    assert (ran.code, ran.err.count("\n")) == (78, 1)
    assert f"sudo -u {NOBODY.pw_name} " in ran.err
    assert picture(site) == before


def test_nothing_that_a_pass_keeps_is_for_others(site: Site, tmp_path: Path) -> None:
    site.write(site={"state": tmp_path / "new"}, finder={"source": "/nowhere"})
    os.umask(os.umask(0))
    assert site.run("dbb", "init").code == 0
    assert site.run("dbb-finder").code == 75
    assert site.run("dbb-handoff").code == 0
    made = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*")}
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700
    assert {path.name for path in made} >= {"finder.latiss.lock", "finder.latiss.json"}
    assert {path.name: mode for path, mode in made.items() if mode & 0o077} == {}


def test_a_new_database_is_for_its_owner_and_group(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", f"sqlite:///{tmp_path}/dbb.sqlite").write()
    assert site.run("dbb", "init").code == 0
    assert stat.S_IMODE((tmp_path / "dbb.sqlite").stat().st_mode) == 0o640


@only_root
def test_a_current_directory_that_cannot_be_read_does_not_stop_the_search(site: Site) -> None:
    closed = site.root / "closed"
    closed.mkdir(mode=0o700)
    for command in ("dbb status", "dbb-handoff --dry-run"):
        ran = site.run(*command.split(), unprivileged=True, cwd=closed)
        assert (ran.code, ran.err) == (0, "")
    ran = site.run("dbb", "status", unprivileged=True, cwd=closed, env={"DBB_CONFIG": ""})
    assert ran.code == 78
    assert ran.err.startswith("dbb: no configuration: ")


@only_root
def test_a_configuration_that_cannot_be_read_stops_only_who_needs_it(site: Site) -> None:
    closed = site.root / "closed"
    closed.mkdir(mode=0o700)
    env = {"DBB_CONFIG": str(closed / "dbb.toml")}
    for command in ("dbb --help", "dbb config sample", "dbb status --help", "dbb --version"):
        ran = site.run(*command.split(), unprivileged=True, cwd=closed, env=env)
        assert (ran.code, ran.err) == (0, ""), command
    for command in (*CHANGES, "dbb status", "dbb history x", "dbb check", "dbb confirm"):
        ran = site.run(*command.format(root=site.root).split(), unprivileged=True, env=env)
        assert (ran.code, ran.err.count("\n")) == (78, 1), command
        assert f"{closed}/dbb.toml: cannot be read: Permission denied" in ran.err
