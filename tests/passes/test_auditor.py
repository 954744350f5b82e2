"""The auditor: what it finds, what it marks, and what it leaves alone."""

import os

import pytest

from dbbbatch.database import connect
from dbbbatch.files import checksum, place
from tests.support.site import Site

FILES = {f"2026/{name}.fits": name.encode() for name in "abcdefghijkl"}


@pytest.fixture
def stored(site: Site) -> Site:
    """A site with twelve files in storage, ingested into one target by links."""
    (site.root / "links").mkdir()
    link = {
        "plugin": "link",
        "config": {"root": str(site.root / "links"), "path": "{relpath}/{filename}"},
    }
    site.write(targets={"a": link}, finder={"audit_rate": 0})
    (site.storage / ".dbb-storage").touch()
    for rel, content in FILES.items():
        site.put(rel, content, site.far_buffer)
    assert site.run("dbb-finder").code == 0
    return site


def audit(site, *options):
    return site.run("dbb-auditor", *options)


def ask(site, sql):
    connect.connect(site.settings().database)
    rows = [tuple(row) for row in connect.execute(sql).fetchall()]
    connect.disconnect()
    return rows


WRONG = "SELECT filename, status FROM file WHERE status <> 'STORED' ORDER BY filename"


def test_all_well_says_nothing(stored):
    ran = audit(stored, "--share", "1")
    assert (ran.code, ran.out, ran.err) == (0, "", "")


def test_row_without_a_file_is_missing(stored):
    (stored.storage / "2026/a.fits").unlink()
    ran = audit(stored)
    assert ran.code == 1
    assert "2026/a.fits: is not in storage" in ran.err
    assert ask(stored, WRONG) == [("a.fits", "MISSING")]


def test_file_that_is_there_again_is_stored(stored):
    path = stored.storage / "2026/a.fits"
    os.rename(path, stored.root / "away")
    audit(stored)
    os.rename(stored.root / "away", path)
    assert audit(stored).code == 0
    assert ask(stored, WRONG) == []


def test_other_file_in_the_place_of_a_missing_one_is_corrupt(stored):
    path = stored.storage / "2026/a.fits"
    path.unlink()
    audit(stored)
    path.write_bytes(b"X")
    assert audit(stored).code == 1
    assert ask(stored, WRONG) == [("a.fits", "CORRUPT")]


@pytest.mark.parametrize("content", [b"longer", b"X"])
def test_wrong_size_or_content_is_corrupt(stored, content):
    (stored.storage / "2026/a.fits").write_bytes(content)
    assert audit(stored, "--share", "1").code == 1
    assert ask(stored, WRONG) == [("a.fits", "CORRUPT")]
    assert (stored.storage / "2026/a.fits").read_bytes() == content


def test_directory_in_the_place_of_a_file_is_corrupt(stored):
    (stored.storage / "2026/a.fits").unlink()
    (stored.storage / "2026/a.fits").mkdir()
    assert audit(stored).code == 1
    assert ask(stored, WRONG) == [("a.fits", "CORRUPT")]


def test_a_share_is_read_those_first_that_were_not_for_longest(stored):
    seen = []
    for _ in range(3):
        assert audit(stored, "--share", "0.3").code == 0
        seen += ask(stored, "SELECT count(DISTINCT verified_at) FROM file")
    # Four of the twelve each time: after three passes all have been read.
    assert seen == [(2,), (3,), (3,)]


@pytest.mark.promise
@pytest.mark.parametrize("count", [2, 12])
def test_too_many_missing_look_like_an_unmounted_storage(stored, count):
    for rel in list(FILES)[:count]:
        (stored.storage / rel).unlink()
    ran = audit(stored)
    assert ran.code == 75
    assert f"{count} of 12 files are not there" in ran.err
    assert "looks unmounted" in ran.err
    assert ask(stored, WRONG) == []


def test_lost_files_are_marked_if_that_is_asked_for(stored):
    for rel in list(FILES)[:6]:
        (stored.storage / rel).unlink()
    assert audit(stored, "--missing", "1").code == 1
    assert len(ask(stored, WRONG)) == 6


@pytest.mark.promise
def test_storage_without_its_sentinel_changes_nothing(stored):
    (stored.storage / "2026/a.fits").unlink()
    (stored.storage / ".dbb-storage").unlink()
    assert audit(stored).code == 75
    assert ask(stored, WRONG) == []


def test_file_without_a_row_is_reported(stored):
    stored.put("2026/orphan.fits", b"orphan", stored.storage)
    ran = audit(stored)
    assert ran.code == 1
    assert "2026/orphan.fits: is in storage, but the table does not know it" in ran.err
    assert len(ask(stored, "SELECT id FROM file")) == 12


def test_file_without_a_row_is_adopted_and_due(stored):
    assert stored.run("dbb-ingester").code == 0
    stored.put("2026/orphan.fits", b"orphan", stored.storage)
    assert audit(stored, "--adopt").code == 0
    digest = checksum.compute(str(stored.storage / "2026/orphan.fits"))["blake2b"]
    assert ask(stored, "SELECT status, checksum FROM file WHERE filename = 'orphan.fits'") == [
        ("STORED", f"blake2b:{digest}")
    ]
    assert ask(stored, "SELECT count(*) FROM ingest_state WHERE status = 'UNTRIED'") == [(1,)]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_file_that_a_finder_would_leave_is_not_adopted(stored):
    stored.write(finder={"exclude": [r"\.tmp$"]})
    stored.put("2026/orphan.tmp", b"orphan", stored.storage)
    assert audit(stored, "--adopt").code == 0
    assert len(ask(stored, "SELECT id FROM file")) == 12


@pytest.mark.parametrize("backend", ["sqlite"])
def test_forgotten_file_that_is_there_is_an_orphan(stored):
    connect.connect(stored.settings().database)
    connect.transact(
        lambda: connect.execute("UPDATE file SET status = 'FORGOTTEN' WHERE filename = 'a.fits'")
    )
    connect.disconnect()
    assert audit(stored).code == 1
    assert audit(stored, "--adopt").code == 0
    assert ask(stored, WRONG) == []


@pytest.mark.parametrize("backend", ["sqlite"])
def test_links_in_storage_are_said_and_not_followed(stored):
    os.symlink("/etc", stored.storage / "etc")
    ran = audit(stored, "--adopt")
    assert ran.code == 0
    assert "etc: a symbolic link" in ran.err


@pytest.mark.parametrize("backend", ["sqlite"])
def test_unfinished_copy_is_removed_once_abandoned(stored):
    old, young = (place.temporary_path(str(stored.storage / name)) for name in ("old", "young"))
    for path in (old, young):
        with open(path, "w") as file:
            file.write("half")
    os.utime(old, (1, 1))
    assert audit(stored).code == 0
    assert not os.path.exists(old)
    assert os.path.exists(young)


def test_file_that_a_target_does_not_hold_is_reported(stored):
    assert stored.run("dbb-ingester").code == 0
    assert audit(stored).code == 0
    (stored.root / "links/2026/a.fits").unlink()
    ran = audit(stored)
    assert ran.code == 1
    assert "2026/a.fits: is ingested according to the table, but target.a does not hold it" in (
        ran.err
    )


@pytest.mark.parametrize("backend", ["sqlite"])
def test_target_that_is_away_is_said_and_the_rest_audited(stored):
    assert stored.run("dbb-ingester").code == 0
    os.rename(stored.root / "links", stored.root / "away")
    ran = audit(stored, "--share", "1")
    assert "target.a: was not audited" in ran.err
    assert ask(stored, "SELECT count(DISTINCT verified_at) FROM file") == [(1,)]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_what_a_finder_remembers_of_a_file_that_left_is_forgotten(stored):
    for name in ("a", "b"):
        stored.put(f"2026/{name}.fits", name.encode(), stored.far_buffer)
    stored.run("dbb-finder")
    (stored.far_buffer / "2026/a.fits").unlink()
    audit(stored)
    assert ask(stored, "SELECT filename FROM finder_left") == [("b.fits",)]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_dry_run_changes_nothing(stored):
    (stored.storage / "2026/a.fits").unlink()
    stored.put("orphan", b"orphan", stored.storage)
    ran = audit(stored, "--dry-run")
    assert ran.out.splitlines() == [
        "would mark 2026/a.fits MISSING: is not in storage",
        "would report orphan, which the table does not know",
    ]
    assert ask(stored, WRONG) == []


@pytest.mark.parametrize("backend", ["sqlite"])
def test_only_matching_files_are_audited(stored):
    for name in ("a", "b"):
        (stored.storage / f"2026/{name}.fits").unlink()
    audit(stored, "--match", "2026/a*", "--missing", "1")
    assert ask(stored, WRONG) == [("a.fits", "MISSING")]
