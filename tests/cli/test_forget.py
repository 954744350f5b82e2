"""`dbb forget`: out of the truth, but not out of the history."""

import errno
import os
import subprocess
import sys

import pytest

from dbbbatch.files.tree import Entry
from tests.support.disks import exchange
from tests.support.scripts import TOP
from tests.support.site import Site


@pytest.fixture
def stored(site: Site) -> Site:
    """A site with one file in storage, due for one target."""
    (site.storage / ".dbb-storage").touch()
    site.write(targets={"a": {}})
    site.put("2026/a.fits", b"data", site.far_buffer)
    assert site.run("dbb-ingester").code == 0
    assert site.run("dbb-finder").code == 0
    return site


def ask(site, sql):
    from dbbbatch.database import connect

    connect.connect(site.settings().database)
    rows = [tuple(row) for row in connect.execute(sql).fetchall()]
    connect.disconnect()
    return rows


def change(site, sql):
    from dbbbatch.database import connect

    connect.connect(site.settings().database)
    connect.write(connect.execute, sql)
    connect.disconnect()


def test_file_that_storage_has_is_not_forgotten(stored):
    ran = stored.run("dbb", "forget", "finder.latiss", "2026/a.fits")
    assert ran.code == 64
    assert "--remove" in ran.err
    assert ask(stored, "SELECT status FROM file") == [("STORED",)]


@pytest.mark.parametrize("remove", [False, True])
def test_file_is_forgotten_and_offered_no_more(stored, remove):
    if not remove:
        (stored.storage / "2026/a.fits").unlink()
    options = ["--remove", "--yes"] if remove else []
    assert stored.run("dbb", "forget", "finder.latiss", "2026/a.fits", *options).code == 0
    assert not (stored.storage / "2026/a.fits").exists()
    assert ask(stored, "SELECT status FROM file") == [("FORGOTTEN",)]
    assert ask(stored, "SELECT status FROM ingest_state") == [("IGNORED",)]
    assert ask(stored, "SELECT status FROM ingest_event ORDER BY id") == [
        ("UNTRIED",),
        ("IGNORED",),
    ]


@pytest.mark.parametrize(("answer", "stays"), [(b"n\n", True), (b"y\n", False)])
@pytest.mark.parametrize("backend", ["sqlite"])
def test_removal_is_asked_about_on_a_terminal(stored, answer, stays):
    terminal, end = os.openpty()
    os.write(terminal, answer)
    dbb = [sys.executable, TOP / "bin" / "dbb", "-c", stored.config]
    forget = ["forget", "finder.latiss", "2026/a.fits", "--remove"]
    done = subprocess.run([*dbb, *forget], stdin=end, capture_output=True, check=False)
    os.close(terminal)
    os.close(end)
    assert (done.returncode == 75, (stored.storage / "2026/a.fits").exists()) == (stays, stays)


@pytest.mark.parametrize("backend", ["sqlite"])
def test_removal_without_a_terminal_needs_a_yes(stored):
    ran = stored.run("dbb", "forget", "finder.latiss", "2026/a.fits", "--remove")
    assert (ran.code, ran.err.count("\n"), "--yes" in ran.err) == (64, 1, True)
    assert (stored.storage / "2026/a.fits").exists()


@pytest.mark.parametrize("backend", ["sqlite"])
def test_file_may_be_named_by_its_whole_path(stored):
    path = stored.storage / "2026/a.fits"
    path.unlink()
    assert stored.run("dbb", "forget", "finder.latiss", str(path)).code == 0
    assert ask(stored, "SELECT status FROM file") == [("FORGOTTEN",)]


@pytest.mark.promise
def test_removal_that_was_killed_is_finished_by_the_next(stored, monkeypatch):
    from dbbbatch.database import connect
    from dbbbatch.passes.forget import forget

    settings = stored.settings()
    connect.connect(settings.database)
    arguments = ("summit", settings.finder["latiss"], "2026/a.fits", True, "why")
    monkeypatch.setattr(Entry, "unlink", lambda entry: exec("raise SystemExit"))
    with pytest.raises(SystemExit):
        forget(*arguments)
    monkeypatch.undo()
    forget(*arguments)
    connect.disconnect()
    assert not (stored.storage / "2026/a.fits").exists()
    assert ask(stored, "SELECT status FROM file") == [("FORGOTTEN",)]


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("file", ["no/such", "../a", "/etc/passwd", ".dbb-storage"])
def test_what_is_no_stored_file_is_refused(stored, file):
    ran = stored.run("dbb", "forget", "finder.latiss", file, "--remove", "--yes")
    assert ran.code == 64
    assert (stored.storage / ".dbb-storage").exists()


@pytest.mark.parametrize("backend", ["sqlite"])
def test_others_are_forgotten_beside_one_that_is_refused(stored):
    files = ("no/such", "2026/a.fits")
    ran = stored.run("dbb", "forget", "finder.latiss", *files, "--remove", "--yes")
    assert (ran.code, "no/such" in ran.err) == (64, True)
    assert ask(stored, "SELECT status FROM file") == [("FORGOTTEN",)]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_nothing_is_forgotten_while_storage_is_away(stored):
    (stored.storage / ".dbb-storage").unlink()
    (stored.storage / "2026/a.fits").unlink()
    assert stored.run("dbb", "forget", "finder.latiss", "2026/a.fits").code == 75
    assert ask(stored, "SELECT status FROM file") == [("STORED",)]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_file_that_an_ingester_is_at_work_on_is_left(stored):
    change(stored, "UPDATE ingest_state SET status = 'PENDING'")
    ran = stored.run("dbb", "forget", "finder.latiss", "2026/a.fits", "--remove", "--yes")
    assert ran.code == 75
    assert (stored.storage / "2026/a.fits").exists()


@pytest.mark.parametrize("backend", ["sqlite"])
def test_file_that_is_being_ingested_is_named_and_the_others_are_forgotten(stored):
    stored.put("b.fits", b"other", stored.far_buffer)
    assert stored.run("dbb-finder").code == 0
    change(
        stored,
        "UPDATE ingest_state SET status = 'PENDING' WHERE file_id ="
        " (SELECT id FROM file WHERE filename = 'a.fits')",
    )
    files = ("2026/a.fits", "no/such", "b.fits")
    ran = stored.run("dbb", "forget", "finder.latiss", *files, "--remove", "--yes")
    assert ran.code == 75
    assert "2026/a.fits: the ingester of target.a is at work on it" in ran.err
    assert "no/such: " in ran.err
    assert not (stored.storage / "b.fits").exists()
    assert ask(stored, "SELECT filename, status FROM file ORDER BY id") == [
        ("a.fits", "STORED"),
        ("b.fits", "FORGOTTEN"),
    ]


@pytest.mark.parametrize("claim", ["none", "run out", "held"])
def test_what_a_dead_pass_of_a_retired_target_held_is_forgotten(stored, claim):
    """While its claim holds, it may yet be at work."""
    change(stored, "UPDATE ingest_state SET status = 'PENDING', claim = 1")
    if claim != "none":
        until = {"run out": "2020-01-01 00:00:00", "held": "2222-01-01 00:00:00"}[claim]
        change(
            stored,
            "INSERT INTO ingest_claim (run_id, target_id, machine, expires_at)"
            f" SELECT 1, id, 'm', '{until}' FROM target",
        )
    (stored.storage / "2026/a.fits").unlink()
    assert stored.run("dbb", "forget", "finder.latiss", "2026/a.fits").code == 75
    assert stored.run("dbb", "target", "retire", "a").code == 0
    code = stored.run("dbb", "forget", "finder.latiss", "2026/a.fits").code
    assert code == (75 if claim == "held" else 0)


@pytest.mark.promise
@pytest.mark.parametrize(("number", "code"), [(errno.EPERM, 64), (errno.EROFS, 75)])
def test_file_that_cannot_be_removed_is_not_forgotten(stored, monkeypatch, number, code):
    from dbbbatch.database import connect
    from dbbbatch.errors import DbbError
    from dbbbatch.passes.forget import forget

    def unlink(entry):
        raise OSError(number, os.strerror(number), entry.path)

    settings = stored.settings()
    connect.connect(settings.database)
    monkeypatch.setattr(Entry, "unlink", unlink)
    with pytest.raises(DbbError, match=r"2026/a\.fits: cannot be removed: ") as raised:
        forget("summit", settings.finder["latiss"], "2026/a.fits", True, "why")
    monkeypatch.undo()
    connect.disconnect()
    assert raised.value.exit_code == code
    assert (stored.storage / "2026/a.fits").exists()
    assert ask(stored, "SELECT status, error FROM file") == [("STORED", None)]
    assert ask(stored, "SELECT status FROM ingest_state") == [("RERUN",)]


@pytest.mark.promise
def test_nothing_is_forgotten_in_a_directory_that_looks_unmounted(stored):
    for name in "bcd":
        stored.put(f"2026/{name}.fits", name.encode(), stored.far_buffer)
    assert stored.run("dbb-finder").code == 0
    (stored.storage / "2026").rename(stored.root / "away")
    (stored.storage / "2026").mkdir()
    ran = stored.run("dbb", "forget", "finder.latiss", "2026/a.fits", "--remove", "--yes")
    assert ran.code == 75
    assert "2026/a.fits: 2026 is not there or empty; that looks unmounted" in ran.err
    assert set(ask(stored, "SELECT status FROM file")) == {("STORED",)}
    advised = ("--missing", "1", "--match", "2026/*")
    assert " ".join(advised[:3]) in ran.err
    assert stored.run("dbb-auditor", *advised).code == 1
    assert stored.run("dbb", "forget", "finder.latiss", "2026/a.fits").code == 0


def test_it_is_told_when_and_by_whom_also_when_the_file_is_back(stored):
    assert stored.run("dbb-ingester").code == 0
    attempts = ask(stored, "SELECT count(*) FROM ingest_attempt")
    (stored.storage / "2026/a.fits").rename(stored.far_buffer / "a")
    assert stored.run("dbb", "forget", "finder.latiss", "2026/a.fits").code == 0
    assert stored.run("dbb", "forget", "finder.latiss", "2026/a.fits").code == 0
    (stored.far_buffer / "a").rename(stored.far_buffer / "2026" / "a.fits")
    assert stored.run("dbb-finder").code == 0
    (event,) = ask(
        stored,
        "SELECT status, message FROM ingest_event WHERE message LIKE '%forget%' ORDER BY id",
    )
    assert event[0] == "FORGOTTEN"
    assert event[1].startswith("`dbb forget` by ")
    assert "FORGOTTEN" in stored.run("dbb", "history", "2026/a.fits").out
    assert ask(stored, "SELECT status FROM ingest_state") == [("SUCCESS",)]
    assert ask(stored, "SELECT count(*) FROM ingest_attempt") == attempts


@pytest.mark.parametrize("backend", ["sqlite"])
def test_where_there_is_no_target_the_row_tells_when(stored):
    change(stored, "DELETE FROM ingest_event")
    change(stored, "DELETE FROM ingest_state")
    (stored.storage / "2026/a.fits").unlink()
    assert stored.run("dbb", "forget", "finder.latiss", "2026/a.fits").code == 0
    ((error,),) = ask(stored, "SELECT error FROM file")
    assert error.endswith(" UTC")


def test_backfilled_file_that_comes_back_is_not_offered(stored):
    change(stored, "UPDATE ingest_state SET status = 'BACKFILL'")
    (stored.storage / "2026/a.fits").rename(stored.far_buffer / "2026" / "a.fits")
    assert stored.run("dbb", "forget", "finder.latiss", "2026/a.fits").code == 0
    assert stored.run("dbb-finder").code == 0
    assert ask(stored, "SELECT status FROM file") == [("STORED",)]
    assert ask(stored, "SELECT status FROM ingest_state") == [("BACKFILL",)]


def remember(stored, verdict):
    """Make the finder remember the file."""
    change(
        stored,
        "INSERT INTO finder_left (site, finder, relpath, filename, size_bytes, mtime_ns, inode,"
        " verdict, message, seen_at) VALUES ('summit', 'latiss', '2026', 'a.fits', 0, 0, 0,"
        f" '{verdict}', 'why', '2026-11-24 00:00:00')",
    )


@pytest.mark.parametrize(
    ("verdict", "stays"), [("GIVEN_UP", False), ("AWAITED", False), ("MOVED", True)]
)
@pytest.mark.parametrize("options", [[], ["--remove", "--yes"]])
@pytest.mark.parametrize("backend", ["sqlite"])
def test_finder_forgets_it_too_but_not_what_it_must_remove(stored, verdict, stays, options):
    remember(stored, verdict)
    if not options:
        (stored.storage / "2026/a.fits").unlink()
    assert stored.run("dbb", "forget", "finder.latiss", "2026/a.fits", *options).code == 0
    assert bool(ask(stored, "SELECT * FROM finder_left")) == stays


@pytest.mark.promise
@pytest.mark.parametrize("options", [[], ["--remove", "--yes"]])
@pytest.mark.parametrize("backend", ["sqlite"])
def test_file_without_a_row_that_storage_has_is_not_forgotten(stored, options):
    remember(stored, "GIVEN_UP")
    for table in ("ingest_event", "ingest_state", "file"):
        change(stored, f"DELETE FROM {table}")
    ran = stored.run("dbb", "forget", "finder.latiss", "2026/a.fits", *options)
    assert ran.code == 64
    assert "dbb-auditor latiss --adopt" in ran.err
    assert (stored.storage / "2026/a.fits").exists()
    assert len(ask(stored, "SELECT * FROM finder_left")) == 1


def away(stored, kind):
    """Replace the stored file by something else; return what must stay."""
    inside, outside = stored.storage / "2026/a.fits", stored.root / "outside"
    outside.mkdir()
    inside.rename(outside / "a.fits")
    if kind == "link":
        inside.symlink_to(outside / "a.fits")
    elif kind == "dangling link":
        inside.symlink_to(outside / "none")
    elif kind == "directory":
        inside.mkdir()
    elif kind == "link above":
        inside.parent.rmdir()
        inside.parent.symlink_to(outside)
    return (inside, outside / "a.fits")


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("options", [[], ["--remove", "--yes"]])
@pytest.mark.parametrize("kind", ["link", "dangling link", "directory", "link above"])
def test_what_is_in_the_place_of_a_file_is_neither_followed_nor_removed(stored, kind, options):
    there = away(stored, kind)
    ran = stored.run("dbb", "forget", "finder.latiss", "2026/a.fits", *options)
    assert ran.code == 0
    assert "forgotten; its history stays; " in ran.out
    assert all(os.path.lexists(path) for path in there)
    assert ask(stored, "SELECT status FROM file") == [("FORGOTTEN",)]


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "link/x"])
def test_path_that_was_refused_is_forgotten(stored, name):
    (stored.root / "x").write_bytes(b"not ours")
    (stored.storage / "link").symlink_to(stored.root)
    stored.put("20261124/rsync.log", f"<f+++++++++ {name}\n".encode(), stored.far_buffer)
    keys = {"search": "rsync-logs", "standard": "none", "date": "20261124", "delay": 0}
    keys["max_attempts"] = 1
    stored.write(finder=keys, targets={"a": {}})
    assert stored.run("dbb-finder").code == 1
    ran = stored.run("dbb", "forget", "finder.latiss", name, "--remove", "--yes")
    assert (ran.code, ran.out) == (
        0,
        f"{name}: was never stored; finder.latiss no longer remembers it\n",
    )
    assert stored.run("dbb-finder").code == 0
    assert (stored.root / "x").exists()


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["postgresql"])
def test_no_ingester_takes_it_while_it_is_forgotten(stored, monkeypatch):
    import psycopg

    from dbbbatch.database import connect
    from dbbbatch.database.models.ingest import IngestState
    from dbbbatch.passes.forget import forget

    real = IngestState.ignore

    def ignore(*arguments):
        with psycopg.connect(stored.database_url) as other:
            other.execute("SET lock_timeout = '100ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("UPDATE ingest_state SET status = 'PENDING'")
        return real(*arguments)

    monkeypatch.setattr(IngestState, "ignore", ignore)
    settings = stored.settings()
    connect.connect(settings.database)
    forget("summit", settings.finder["latiss"], "2026/a.fits", True, "why")
    connect.disconnect()
    assert ask(stored, "SELECT status FROM ingest_state") == [("IGNORED",)]


@pytest.mark.promise
@pytest.mark.parametrize("happens", ["another file", "a finder"])
@pytest.mark.parametrize("backend", ["sqlite"])
def test_file_that_comes_back_meanwhile_is_not_removed(stored, monkeypatch, happens):
    from dbbbatch.database import connect
    from dbbbatch.errors import TryLater
    from dbbbatch.passes.forget import Forgetting, forget

    path = stored.storage / "2026/a.fits"
    real = Forgetting.act

    def act(*arguments):
        if happens == "a finder":
            connect.execute("UPDATE file SET status = 'STORED'")
        else:
            path.rename(stored.root / "away")
            path.write_bytes(b"other")
        real(*arguments)

    monkeypatch.setattr(Forgetting, "act", act)
    settings = stored.settings()
    connect.connect(settings.database)
    with pytest.raises(TryLater):
        forget("summit", settings.finder["latiss"], "2026/a.fits", True, "why")
    connect.disconnect()
    assert path.exists()


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
def test_nothing_is_removed_from_a_directory_that_takes_the_place_of_its_own(stored, monkeypatch):
    from dbbbatch.database import connect
    from dbbbatch.passes.forget import Forgetting, forget

    path, private = stored.storage / "2026/a.fits", stored.root / "private"
    private.mkdir()
    (private / "a.fits").hardlink_to(path)
    (stored.root / "link").symlink_to(private)
    real = Forgetting.act

    def act(*arguments):
        exchange(stored.root / "link", stored.storage / "2026")
        real(*arguments)

    monkeypatch.setattr(Forgetting, "act", act)
    settings = stored.settings()
    connect.connect(settings.database)
    forget("summit", settings.finder["latiss"], "2026/a.fits", True, "why")
    connect.disconnect()
    assert (private / "a.fits").exists()
    assert not (stored.root / "link" / "a.fits").exists()
    assert ask(stored, "SELECT status FROM file") == [("FORGOTTEN",)]
