"""A database that was lost, or is last night's: `dbb rebuild`, and passes over it."""

import os
import shlex
import shutil
import sys

import pytest

from dbbbatch.database import connect
from dbbbatch.files import names
from dbbbatch.files.tree import Tree
from dbbbatch.passes import rebuild, runner
from dbbbatch.passes.rebuild import HandoffRebuild, StorageRebuild
from tests.support.handing import REFUSING
from tests.support.scripts import TOP
from tests.support.site import Site, tree

FILES = {"2026/a.fits": b"one", "2026/b.fits": b"two", "c.fits": b"three"}


@pytest.fixture
def lived(site: Site) -> Site:
    """A site whose files were delivered, stored and ingested, with one more in each quarantine."""
    confirm = shlex.join([sys.executable, f"{TOP}/bin/dbb", "-c", str(site.config), "confirm"])
    site.write(
        targets={"a": {}},
        handoff={"min_free": 0, "purge_after": 0},
        endpoint={"confirm": confirm},
    )
    (site.storage / ".dbb-storage").touch()
    site.put_all(FILES)
    for script in ("dbb-ingester", "dbb-handoff", "dbb-finder", "dbb-ingester"):
        assert site.run(script).code == 0
    site.put("c.fits", b"other content", site.far_buffer)
    assert site.run("dbb-finder").code == 1
    return site


def ask(site, sql):
    connect.connect(site.settings().database)
    rows = [tuple(row) for row in connect.execute(sql).fetchall()]
    connect.disconnect()
    return rows


def change(site, sql):
    connect.connect(site.settings().database)
    connect.write(connect.execute, sql)
    connect.disconnect()


def lose(site):
    """Empty the database."""
    tables = ("ingest_event", "ingest_state", "ingest_claim", "file_checksum", "file", "target")
    more = ("finder_left", "quarantine", "transfer_attempt", "transfer_batch", "handoff_file")
    connect.connect(site.settings().database)
    for table in (*tables, *more):
        connect.write(lambda table=table: connect.execute(f"DELETE FROM {table}"))
    connect.disconnect()


STORED = (
    "SELECT relpath, filename, size_bytes, checksum, status FROM file ORDER BY relpath, filename"
)
HELD = (
    "SELECT relpath, filename, size_bytes, checksum, status, held_as FROM handoff_file"
    " ORDER BY relpath, filename"
)
ASIDE = "SELECT label, relpath, filename, path, reason FROM quarantine ORDER BY path"
STATES = "SELECT DISTINCT status FROM ingest_state"


def test_rows_of_storage_come_back(lived):
    before = ask(lived, STORED)
    lose(lived)
    ran = lived.run("dbb", "rebuild", "finder.latiss")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("3 recorded, 0 already known")
    assert "No longer known" in ran.out
    assert ask(lived, STORED) == before
    assert ask(lived, "SELECT DISTINCT finder FROM file") == [("rebuild",)]


@pytest.mark.parametrize("status", ["UNTRIED", "BACKFILL"])
def test_targets_are_offered_what_is_rebuilt_unless_told_otherwise(lived, status):
    lose(lived)
    lived.run("dbb", "rebuild", "finder.latiss", "--as", status)
    assert ask(lived, STATES) == [(status,)]


def test_rows_of_holding_come_back(lived):
    before = ask(lived, HELD)
    lose(lived)
    assert lived.run("dbb", "rebuild", "handoff.latiss").code == 0
    assert ask(lived, HELD) == before
    assert [row[4] for row in before] == ["HELD"] * 3


def test_rows_of_quarantine_come_back_with_the_reason_beside_the_file(lived):
    before = ask(lived, ASIDE)
    lose(lived)
    ran = lived.run("dbb", "rebuild", "finder.latiss")
    assert "1 in quarantine recorded" in ran.out
    assert ask(lived, ASIDE) == before


def test_file_of_quarantine_comes_back_though_another_was_released_from_there(lived):
    assert lived.run("dbb", "quarantine", "release", "finder.latiss", "--match", "*").code == 0
    assert lived.run("dbb-finder").code == 1
    waiting = f"{ASIDE.replace('ORDER', 'WHERE released_at IS NULL ORDER')}"
    before = ask(lived, waiting)
    connect.connect(lived.settings().database)
    connect.write(connect.execute, "DELETE FROM quarantine WHERE released_at IS NULL")
    connect.disconnect()
    assert "1 in quarantine recorded" in lived.run("dbb", "rebuild", "finder.latiss").out
    assert ask(lived, waiting) == before
    assert "in quarantine" not in lived.run("dbb", "rebuild", "finder.latiss").out


def test_versions_in_holding_that_look_alike_are_no_obstacle(lived):
    for name in ("2026/e.fits", "2026/e.fits.~1~"):
        path = lived.put(name, name[-1].encode(), lived.holding)
        os.utime(path, (1_795_000_000, 1_795_000_000))
    assert lived.run("dbb", "rebuild", "handoff.latiss").out.startswith("1 recorded")
    assert lived.run("dbb", "rebuild", "handoff.latiss").out.startswith("0 recorded")
    assert len(ask(lived, HELD)) == 4


def test_what_is_known_is_left_as_it_is(lived):
    before = [ask(lived, sql) for sql in (STORED, HELD, ASIDE, STATES)]
    for label in ("finder.latiss", "handoff.latiss"):
        ran = lived.run("dbb", "rebuild", label)
        assert ran.out.startswith("0 recorded, 3 already known")
    assert [ask(lived, sql) for sql in (STORED, HELD, ASIDE, STATES)] == before


@pytest.mark.parametrize("backend", ["sqlite"])
def test_dry_run_changes_nothing(lived):
    lose(lived)
    for label in ("finder.latiss", "handoff.latiss"):
        ran = lived.run("dbb", "rebuild", label, "--dry-run")
        assert sum("in quarantine" not in line for line in ran.out.splitlines()) == 3
    assert ask(lived, STORED) == ask(lived, HELD) == ask(lived, ASIDE) == []


@pytest.mark.parametrize("backend", ["sqlite"])
def test_dry_run_tells_of_quarantine(lived):
    lose(lived)
    lived.put("2026/q.fits", b"aside", lived.quarantine)
    for label, rel in (("finder.latiss", "c.fits"), ("handoff.latiss", "2026/q.fits")):
        root = lived.storage_quarantine if "finder" in label else lived.quarantine
        ran = lived.run("dbb", "rebuild", label, "--dry-run")
        assert f"would record {root}/{rel}, in quarantine: " in ran.out


@pytest.mark.parametrize("backend", ["sqlite"])
def test_target_cannot_be_rebuilt(lived):
    assert lived.run("dbb", "rebuild", "target.a").code == 64


AREAS = [
    ("finder.latiss", "storage"),
    ("finder.latiss", "storage_quarantine"),
    ("handoff.latiss", "holding"),
    ("handoff.latiss", "quarantine"),
]


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize(("label", "area"), AREAS)
def test_link_to_a_directory_is_said_and_fails(lived, label, area):
    link = getattr(lived, area) / "link"
    os.symlink(lived.root, link)
    ran = lived.run("dbb", "rebuild", label)
    assert ran.code == 1
    assert f"{link}: a symbolic link; nothing of it is recorded" in ran.err
    assert "0 failed, 1 unreadable" in ran.out


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("top", ["", "/below"])
@pytest.mark.parametrize(("label", "area"), AREAS)
def test_directory_that_cannot_be_read_is_said_and_fails(
    lived, monkeypatch, capsys, label, area, top
):
    lose(lived)
    (getattr(lived, area) / "below").mkdir()
    closed = f"{getattr(lived, area)}{top}"

    def read(tree, rel, real=Tree.scan):
        if os.path.join(str(tree), rel).rstrip("/") == closed:
            raise PermissionError(13, "Permission denied")
        yield from real(tree, rel)

    monkeypatch.setattr(Tree, "scan", read)
    settings = lived.settings()
    section = settings.labelled(label)
    work = HandoffRebuild(section)
    if label.startswith("finder"):
        work = StorageRebuild(section, "UNTRIED")
    assert runner.run_pass(work, settings, section, runner.Options()) == 1
    said = capsys.readouterr().err
    assert f"rebuild.latiss: {closed}" in said
    assert "directory cannot be read: Permission denied" in said
    if "quarantine" in area or top:
        assert work.counts["recorded"] == 3


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize(("label", "area"), AREAS)
def test_area_that_is_not_there_is_waited_for(lived, label, area):
    getattr(lived, area).rename(lived.root / "away")
    assert lived.run("dbb", "rebuild", label).code == 75


@pytest.mark.parametrize("backend", ["sqlite"])
def test_files_that_may_still_change_are_counted_and_it_fails(lived):
    lose(lived)
    lived.write(finder={"settle": "1h"})
    ran = lived.run("dbb", "rebuild", "finder.latiss")
    assert (ran.code, ran.err) == (1, "")
    assert ran.out.startswith("0 recorded, 0 already known")
    assert "3 not settled yet: run it again\n" in ran.out


@pytest.mark.parametrize("backend", ["sqlite"])
def test_what_a_finder_leaves_alone_in_storage_is_not_recorded(lived):
    lose(lived)
    lived.write(finder={"exclude": ["^2026/$"]})
    assert lived.run("dbb", "rebuild", "finder.latiss").code == 0
    assert [row[1] for row in ask(lived, STORED)] == ["c.fits"]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_known_files_that_storage_does_not_bear_out_are_counted_for_the_auditor(lived):
    before = ask(lived, STORED)
    assert "dbb-auditor" not in lived.run("dbb", "rebuild", "finder.latiss").out
    (lived.storage / "c.fits").unlink()
    lived.put("2026/a.fits", b"longer", lived.storage)
    os.utime(lived.storage / "2026/b.fits", (1, 1))
    for options in ([], ["--dry-run"]):
        ran = lived.run("dbb", "rebuild", "finder.latiss", *options)
        assert ran.code == 0
        assert "3 known files missing from storage, or changed in size, time or inode" in ran.out
        assert "`dbb-auditor latiss --share 1`" in ran.out
    assert ask(lived, STORED) == before


@pytest.mark.parametrize("backend", ["sqlite"])
def test_row_of_another_inode_is_in_doubt_and_one_that_is_known_to_be_wrong_is_not(lived):
    change(lived, "UPDATE file SET inode = 1 WHERE filename = 'a.fits'")
    change(lived, "UPDATE file SET status = 'CORRUPT', inode = 1 WHERE filename = 'b.fits'")
    assert "\n1 known file missing" in lived.run("dbb", "rebuild", "finder.latiss").out


@pytest.mark.promise
def test_row_of_another_inode_is_in_doubt_until_the_auditor_has_read_its_file(lived):
    change(lived, "UPDATE file SET inode = 1, mtime_ns = 1 WHERE filename = 'a.fits'")
    change(lived, "UPDATE file SET inode = NULL, mtime_ns = NULL WHERE filename = 'b.fits'")
    assert lived.run("dbb-auditor", "--share", "1").code == 0
    assert "known file" not in lived.run("dbb", "rebuild", "finder.latiss").out
    for filename, mtime_ns, inode in ask(lived, "SELECT filename, mtime_ns, inode FROM file"):
        status = os.stat(next(lived.storage.rglob(filename)))
        assert (mtime_ns, inode) == (status.st_mtime_ns, status.st_ino)


@pytest.mark.promise
def test_rows_of_held_files_have_the_inodes_of_a_restored_disk(lived):
    before = ask(lived, HELD)
    change(lived, "UPDATE handoff_file SET inode = 1")
    assert lived.run("dbb", "rebuild", "handoff.latiss").code == 0
    assert ask(lived, HELD) == before
    for held_as, inode in ask(lived, "SELECT held_as, inode FROM handoff_file"):
        assert next(lived.holding.rglob(held_as)).stat().st_ino == inode


BEFORE = ["FOUND", "DELIVERED", "VANISHED", "PURGED", "QUARANTINED"]


def statuses(site):
    return [row[4] for row in ask(site, HELD)]


@pytest.mark.parametrize("status", BEFORE)
def test_row_of_last_night_becomes_held_where_holding_has_the_file(lived, status):
    held = ask(lived, HELD)
    change(
        lived,
        f"UPDATE handoff_file SET status = '{status}', held_as = NULL, checksum = NULL,"
        " attempts = 3, error = 'failed'",
    )
    ran = lived.run("dbb", "rebuild", "handoff.latiss")
    assert (ran.code, ran.out[:27]) == (0, "3 recorded, 0 already known")
    assert ask(lived, HELD) == held
    assert ask(lived, "SELECT DISTINCT error, next_try_at FROM handoff_file") == [(None, None)]


@pytest.mark.parametrize("status", [*BEFORE, "IGNORED"])
def test_row_of_a_file_that_is_in_the_buffer_is_left_to_the_next_pass(lived, status):
    change(lived, f"UPDATE handoff_file SET status = '{status}'")
    for rel in FILES:
        (lived.buffer / rel).parent.mkdir(exist_ok=True)
        shutil.copy2(lived.holding / rel, lived.buffer / rel)
    assert lived.run("dbb", "rebuild", "handoff.latiss").out.startswith("0 recorded, 3 already")
    assert statuses(lived) == [status] * 3


@pytest.mark.parametrize("backend", ["sqlite"])
def test_file_that_a_person_ignores_stays_ignored(lived):
    change(lived, "UPDATE handoff_file SET status = 'IGNORED'")
    assert lived.run("dbb", "rebuild", "handoff.latiss").out.startswith("0 recorded, 3 already")
    assert statuses(lived) == ["IGNORED"] * 3


@pytest.mark.parametrize("backend", ["sqlite"])
def test_held_file_that_has_another_name_by_now_is_found_again(lived):
    (lived.holding / "c.fits").rename(lived.holding / "c.fits.~1~")
    lived.put("c.fits", b"another version", lived.holding)
    assert lived.run("dbb", "rebuild", "handoff.latiss").out.startswith("2 recorded, 2 already")
    assert [(row[1], row[2], row[5]) for row in ask(lived, HELD)][:2] == [
        ("c.fits", 5, "c.fits.~1~"),
        ("c.fits", 15, "c.fits"),
    ]


@pytest.fixture
def quarantined(lived):
    """The same site, with a file that the handoff gave up and quarantined."""
    lived.write(endpoint=REFUSING, handoff={"max_attempts": 1})
    lived.put("2026/q.fits", b"aside")
    lived.run("dbb-handoff")
    assert statuses(lived) == [*["HELD"] * 3, "QUARANTINED"]
    return lived


def test_file_that_cannot_be_looked_for_in_quarantine_may_be_there(tmp_path):
    (tmp_path / "night").mkdir()
    (tmp_path / "link").symlink_to("night")
    with Tree(str(tmp_path)) as quarantine:
        found = {
            name: rebuild._is_aside(quarantine, f"{tmp_path}/{name}/a")
            for name in os.listdir(tmp_path)
        }
    assert found == {"night": False, "link": True}


@pytest.mark.parametrize("status", ["FOUND", "DELIVERED", "VANISHED", "PURGED"])
def test_row_of_last_night_becomes_quarantined_where_quarantine_has_the_file(quarantined, status):
    change(quarantined, f"UPDATE handoff_file SET status = '{status}' WHERE filename = 'q.fits'")
    change(quarantined, "DELETE FROM quarantine")
    ran = quarantined.run("dbb", "rebuild", "handoff.latiss")
    assert (ran.code, ran.out[:10]) == (0, "0 recorded")
    assert "1 in quarantine recorded" in ran.out
    assert statuses(quarantined) == [*["HELD"] * 3, "QUARANTINED"]
    assert (
        quarantined.run("dbb", "quarantine", "release", "handoff.latiss", "--match", "*").code == 0
    )
    assert statuses(quarantined) == [*["HELD"] * 3, "FOUND"]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_file_in_quarantine_stays_so_though_holding_has_one_like_it(quarantined):
    shutil.copy2(quarantined.quarantine / "2026/q.fits", quarantined.holding / "2026/q.fits")
    quarantined.run("dbb", "rebuild", "handoff.latiss")
    assert statuses(quarantined) == [*["HELD"] * 3, "QUARANTINED"]


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("rel", ["2026/q.fits", "2026/x.~2~", "b.reason", "2026/neu\\\n.~1~"])
def test_name_of_a_file_in_quarantine_comes_back(lived, rel):
    for content in (b"one", b"two"):
        lived.put(rel, content, lived.storage)
        assert lived.run("dbb-auditor", "--adopt").code == 0
        lived.put(rel, b"other " + content, lived.far_buffer)
        assert lived.run("dbb-finder").code == 1
        assert lived.run("dbb", "forget", "finder.latiss", rel, "--remove", "--yes").code == 0
    before = ask(lived, ASIDE)
    first, second = [row for row in before if row[2] != "c.fits"]
    lose(lived)
    lived.run("dbb", "rebuild", "finder.latiss")
    assert ask(lived, ASIDE) == before
    # Also where the one is gone of which the other looks like a version.
    os.unlink(names.from_text(first[3]))
    change(lived, "DELETE FROM quarantine")
    lived.run("dbb", "rebuild", "finder.latiss")
    assert second in ask(lived, ASIDE)


@pytest.mark.parametrize("backend", ["sqlite"])
def test_name_in_quarantine_that_nothing_tells_is_a_version_of_what_is_beside_it(lived):
    for name in ("x.~2~", "y", "y.~1~"):
        lived.put(name, name.encode(), lived.storage_quarantine)
    lived.run("dbb", "rebuild", "finder.latiss")
    sql = "SELECT path, filename FROM quarantine WHERE reason LIKE 'not known%' ORDER BY path"
    root = lived.storage_quarantine
    assert ask(lived, sql) == [
        (f"{root}/x.~2~", "x.~2~"),
        (f"{root}/y", "y"),
        (f"{root}/y.~1~", "y"),
    ]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_held_file_whose_own_name_is_like_a_version_is_known(lived):
    lived.put("x.~2~")
    assert lived.run("dbb-handoff").code == 0
    before = ask(lived, HELD)
    assert lived.run("dbb", "rebuild", "handoff.latiss").out.startswith("0 recorded, 4 already")
    change(lived, "UPDATE handoff_file SET status = 'FOUND' WHERE filename = 'x.~2~'")
    assert lived.run("dbb", "rebuild", "handoff.latiss").out.startswith("1 recorded, 3 already")
    assert ask(lived, HELD) == before


def contents(*directories):
    """Every content below directories, however often: what must not become less."""
    found = set()
    for directory in directories:
        found |= {path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    return found


SCRIPTS = [
    "dbb-handoff",
    "dbb-finder",
    "dbb-ingester",
    "dbb-janitor",
    "dbb-auditor --adopt --share 1",
    "dbb backfill finder.latiss",
]


def restore(site, backup):
    """Put a backup in the place of the database."""
    database = site.database_url.removeprefix("sqlite:///")
    shutil.copy(backup, database)
    for suffix in ("-wal", "-shm"):
        (site.root / (database + suffix)).unlink(missing_ok=True)


@pytest.mark.promise
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_pass_over_a_lost_database_loses_and_overwrites_nothing(lived, script):
    lived.put_all({"2026/a.fits": b"one", "2026/b.fits": b"two, corrected"})
    lived.put("2026/a.fits", b"one", lived.far_buffer)
    lived.put("2026/b.fits", b"two, corrected", lived.far_buffer)
    lose(lived)
    held = {path: path.read_bytes() for path in lived.holding.rglob("*") if path.is_file()}
    stored = {path: path.read_bytes() for path in lived.storage.rglob("*") if path.is_file()}
    before = contents(lived.root / "summit", lived.root / "archive")
    for _ in range(2):
        assert lived.run(*script.split()).code in (0, 1)
    assert contents(lived.root / "summit", lived.root / "archive") >= before
    assert all(path.read_bytes() == content for path, content in held.items())
    assert all(path.read_bytes() == content for path, content in stored.items())


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_pass_over_last_nights_database_loses_and_overwrites_nothing(lived, script):
    backup = lived.root / "backup.sqlite"
    assert lived.run("dbb", "backup", str(backup)).code == 0
    lived.put_all({"d.fits": b"four", "2026/a.fits": b"one, corrected"})
    for each in ("dbb-handoff", "dbb-finder", "dbb-ingester"):
        lived.run(each)
    before = contents(lived.root / "summit", lived.root / "archive")
    restore(lived, backup)
    for _ in range(2):
        assert lived.run(*script.split()).code in (0, 1)
    assert contents(lived.root / "summit", lived.root / "archive") >= before
    assert (lived.storage / "2026/a.fits").read_bytes() == b"one"


@pytest.mark.promise
def test_janitor_purges_nothing_that_a_lost_database_cannot_confirm(lived):
    held = tree(lived.holding)
    lose(lived)
    assert lived.run("dbb-janitor").code == 0
    assert lived.run("dbb", "rebuild", "handoff.latiss").code == 0
    assert lived.run("dbb-janitor").code == 0
    assert tree(lived.holding) == held
    assert lived.run("dbb", "rebuild", "finder.latiss").code == 0
    assert lived.run("dbb-janitor").code == 0
    assert tree(lived.holding) == {}
    assert tree(lived.storage) == FILES


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
def test_janitor_purges_nothing_else_for_what_last_nights_database_has_held(lived):
    backup = lived.root / "backup.sqlite"
    assert lived.run("dbb", "backup", str(backup)).code == 0
    assert lived.run("dbb-janitor").code == 0
    assert tree(lived.holding) == {}
    # Another file has the name of a purged one by now.
    lived.put("2026/a.fits", b"ONE")
    assert lived.run("dbb-handoff").code == 0
    restore(lived, backup)
    assert ask(lived, "SELECT DISTINCT status FROM handoff_file") == [("HELD",)]
    # 75: so many are gone from holding that it may not be mounted.
    assert lived.run("dbb-janitor").code in (0, 75)
    assert tree(lived.holding) == {"2026/a.fits": b"ONE"}
    assert tree(lived.storage) == FILES


@pytest.mark.promise
@pytest.mark.parametrize("script", ["dbb-auditor --adopt", "dbb backfill finder.latiss"])
def test_storage_is_recorded_as_it_is_over_a_lost_database(lived, script):
    before = ask(lived, STORED)
    lose(lived)
    assert lived.run(*script.split()).code == 0
    assert ask(lived, STORED) == before
    assert tree(lived.storage) == FILES


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize(
    "script", ["dbb-auditor --adopt --missing 1", "dbb backfill finder.latiss"]
)
def test_storage_is_recorded_as_it_is_over_last_nights_database(lived, script):
    backup = lived.root / "backup.sqlite"
    assert lived.run("dbb", "backup", str(backup)).code == 0
    assert lived.run("dbb", "forget", "finder.latiss", "c.fits", "--remove", "--yes").code == 0
    lived.put("d.fits", b"four", lived.far_buffer)
    lived.run("dbb-finder")
    now = tree(lived.storage)
    restore(lived, backup)
    assert lived.run(*script.split()).code in (0, 1)
    rows = {name: status for _, name, _, _, status in ask(lived, STORED)}
    # Only who looks for what rows tell of finds out that one is gone.
    gone = "MISSING" if "auditor" in script else "STORED"
    assert rows == {"a.fits": "STORED", "b.fits": "STORED", "c.fits": gone, "d.fits": "STORED"}
    assert tree(lived.storage) == now


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
def test_last_nights_database_is_brought_up_to_date(lived):
    backup = lived.root / "backup.sqlite"
    lived.run("dbb", "backup", str(backup))
    lived.put("d.fits", b"four", lived.far_buffer)
    lived.run("dbb-finder")
    now = ask(lived, STORED)
    restore(lived, backup)
    assert lived.run("dbb", "rebuild", "finder.latiss").out.startswith("1 recorded, 3 already")
    assert ask(lived, STORED) == now


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("passed", [False, True])
def test_what_was_delivered_since_last_night_is_held(lived, passed):
    lived.write(endpoint=REFUSING, handoff={"retry_wait": 0})
    backlog = {f"2026/{number}.fits": bytes([number]) for number in range(5)}
    lived.put_all(backlog)
    assert lived.run("dbb-handoff").code == 1
    backup = lived.root / "backup.sqlite"
    assert lived.run("dbb", "backup", str(backup)).code == 0
    assert statuses(lived).count("FOUND") == 5
    lived.write(handoff={"retry_wait": 0})
    assert lived.run("dbb-handoff").code == 0
    now, held = ask(lived, HELD), tree(lived.holding)
    restore(lived, backup)
    if passed:
        lived.run("dbb-handoff")
        assert statuses(lived).count("VANISHED") == 5
    ran = lived.run("dbb", "rebuild", "handoff.latiss")
    assert (ran.code, ran.out[:27]) == (0, "5 recorded, 3 already known")
    assert ask(lived, HELD) == now
    lived.put("after.fits")
    assert lived.run("dbb-handoff").code == 0
    assert set(statuses(lived)) == {"HELD"}
    assert tree(lived.holding).items() > held.items()
