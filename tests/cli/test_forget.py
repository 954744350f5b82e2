"""`dbb forget`: out of the truth, but not out of the history."""

import pytest

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


def test_removal_is_asked_about(stored):
    ran = stored.run("dbb", "forget", "finder.latiss", "2026/a.fits", "--remove", stdin=b"n\n")
    assert ran.code == 75
    assert (stored.storage / "2026/a.fits").exists()


@pytest.mark.promise
def test_removal_that_was_killed_is_finished_by_the_next(stored, monkeypatch):
    import os

    from dbbbatch.database import connect
    from dbbbatch.passes.forget import forget

    settings = stored.settings()
    connect.connect(settings.database)
    arguments = ("summit", settings.finder["latiss"], "2026/a.fits", True, "why")
    monkeypatch.setattr(os, "unlink", lambda path: exec("raise SystemExit"))
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
def test_file_that_an_ingester_has_in_hand_is_left(stored):
    from dbbbatch.database import connect

    connect.connect(stored.settings().database)
    connect.transact(lambda: connect.execute("UPDATE ingest_state SET status = 'PENDING'"))
    connect.disconnect()
    ran = stored.run("dbb", "forget", "finder.latiss", "2026/a.fits", "--remove", "--yes")
    assert ran.code == 75
    assert (stored.storage / "2026/a.fits").exists()
