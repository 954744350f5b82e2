"""What waits, also where no table knows it: in buffers, and in the sources of finders."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from dbbbatch.database import connect
from dbbbatch.database.models.finder import Remembered, RememberedFile
from dbbbatch.database.models.statuses import WhyRemembered
from dbbbatch.files import names
from dbbbatch.files.temporary import temporary_path
from dbbbatch.files.tree import Tree
from dbbbatch.report import backlog, queries
from dbbbatch.report.health import Waiting
from tests.support.site import Site

#: No test takes so long.
LONG = 60.0

Row = Callable[..., int]


def look(site: Site, seconds: float = LONG) -> list[Waiting]:
    return backlog.look_at(site.settings(), queries.status().backlog, seconds)


def shown(waiting: list[Waiting]) -> list[tuple[str, str, int, bool, int | None]]:
    return [(one.label, one.step, one.files, one.at_least, one.size_bytes) for one in waiting]


@pytest.fixture
def row_of(handoff_row: Row, site: Site) -> Callable[..., int]:
    """Return a function that writes the row of a file that lies in the buffer."""

    def write(rel: str, status: str, **more: Any) -> int:
        path = site.put(rel)
        there = os.stat(path)
        relpath, filename = names.name_of(rel)
        version = {"mtime_ns": there.st_mtime_ns, "inode": there.st_ino, "size_bytes": 4}
        return handoff_row(filename, status, relpath=relpath, **version | more)

    return write


@pytest.mark.usefixtures("database")
def test_nothing_waits_where_nothing_lies(site: Site) -> None:
    assert look(site) == []


@pytest.mark.usefixtures("database")
def test_files_that_no_table_knows_wait(site: Site) -> None:
    site.put_all(["a.fits", "night/b.fits"])
    site.put("night/c.fits", where=site.far_buffer)
    assert shown(look(site)) == [
        ("handoff.latiss", "deliver", 2, False, len("a.fits" + "night/b.fits")),
        ("finder.latiss", "store", 1, False, 4),
    ]


@pytest.mark.usefixtures("database")
def test_the_oldest_waits_since_it_came_under_its_name(site: Site) -> None:
    path = site.put("a.fits")
    os.utime(path, (0, 0))
    (waiting,) = look(site)
    assert waiting.oldest is not None
    assert waiting.oldest.year >= 2024


def test_a_file_that_the_table_knows_is_counted_once(site: Site, row_of: Row) -> None:
    row_of("night/a.fits", "FOUND")
    row_of("night/b.fits", "FOUND", size_bytes=1)
    site.put("night/c.fits")
    assert shown(look(site)) == [("handoff.latiss", "deliver", 3, False, 9)]


@pytest.mark.parametrize("counted", [True, False])
def test_where_the_files_of_a_wrong_section_lie_is_not_known(
    site: Site, row_of: Row, counted: bool
) -> None:
    row_of("night/a.fits", "FOUND")
    site.put("night/b.fits")
    site.write(handoff={"max_atempts": 3}, finder={"max_atempts": 3})
    known = queries.status().backlog if counted else None
    found = backlog.look_at(site.settings(), known, LONG)
    assert shown(found) == [
        ("handoff.latiss", "deliver", *((1, True, 4) if counted else (0, True, None))),
        ("finder.latiss", "store", 0, True, None),
    ]


def test_what_is_not_known_has_no_rate(site: Site, row_of: Row) -> None:
    row_of("night/a.fits", "HELD", held_at="2026-11-24 05:00:00.000000")
    site.write(handoff={"max_atempts": 3})
    (waiting,) = look(site)
    assert (waiting.is_known, waiting.rate) == (False, None)


def test_what_no_table_knows_is_counted_without_what_one_knows(site: Site, row_of: Row) -> None:
    row_of("night/a.fits", "FOUND")
    site.put_all(["night/b.fits", "night/c.fits"])
    site.put("night/d.fits", where=site.far_buffer)

    def files(label: str) -> tuple[int, bool] | None:
        found = backlog.unrecorded(site.settings(), label, LONG)
        return (found.files, found.at_least) if found else None

    assert files("handoff.latiss") == (2, False)
    assert files("finder.latiss") == (1, False)
    assert [files(label) for label in ("target.a", "finder.other")] == [None, None]
    site.write(finder={"max_atempts": 3}, handoff={"buffer": "/nowhere"})
    assert files("finder.latiss") == files("handoff.latiss") == (0, True)


def test_a_file_that_is_back_in_the_buffer_waits(site: Site, row_of: Row) -> None:
    row_of("night/a.fits", "HELD", held_at="2026-11-24 05:00:00.000000")
    row_of("night/b.fits", "VANISHED")
    assert shown(look(site)) == [("handoff.latiss", "deliver", 2, False, 8)]


def test_a_file_that_is_not_to_be_sent_does_not_wait_for_it(site: Site, row_of: Row) -> None:
    row_of("night/a.fits", "IGNORED")
    row_of("night/b.fits", "QUARANTINED")
    row_of("night/c.fits", "DELIVERED")
    assert shown(look(site)) == [("handoff.latiss", "hold", 1, False, 4)]


@pytest.mark.usefixtures("database")
def test_what_is_no_new_file_does_not_wait(site: Site) -> None:
    site.write(handoff={"exclude": [r"\.tmp$"], "settle": "1h"})
    site.put("a.tmp")
    site.put(os.path.basename(temporary_path(str(site.buffer))))
    (site.buffer / "empty" / "directory").mkdir(parents=True)
    os.mkfifo(site.buffer / "fifo")
    site.put(".dbb-storage", where=site.far_buffer)
    site.put("settles.fits")
    assert shown(look(site)) == [("handoff.latiss", "deliver", 1, False, 4)]


@pytest.mark.parametrize(
    ("verdict", "alternative", "same", "waits"),
    [
        (WhyRemembered.DUPLICATE, "none", True, False),
        (WhyRemembered.DUPLICATE, "none", False, True),
        (WhyRemembered.DUPLICATE, "delete", True, True),
        (WhyRemembered.FAILED, "none", True, False),
        (WhyRemembered.FAILED, "none", False, True),
        (WhyRemembered.MOVED, "none", True, False),
    ],
)
@pytest.mark.usefixtures("database")
def test_what_a_finder_remembers_waits_only_if_it_will_be_stored(
    site: Site, verdict: WhyRemembered, alternative: str, same: bool, waits: bool
) -> None:
    site.write(finder={"alternative": alternative})
    there = os.stat(site.put("night/a.fits", where=site.far_buffer))
    mtime_ns = there.st_mtime_ns - (not same)
    left = RememberedFile("night", "a.fits", 4, mtime_ns, there.st_ino, verdict)
    connect.write(Remembered.remember, "summit", "latiss", [left])
    assert [one.files for one in look(site)] == [1] * waits


def test_a_file_that_arrives_in_storage_is_counted_once(site: Site, stored: Row) -> None:
    stored("a.fits", "ARRIVING", added_on=None, storage=str(site.storage))
    site.put("night/a.fits", where=site.far_buffer)
    site.put("night/b.fits", where=site.far_buffer)
    assert shown(look(site)) == [("finder.latiss", "store", 2, False, 1004)]


def test_a_finder_waits_for_what_the_logs_named(site: Site, run_row: Row) -> None:
    site.write(finder={"search": "rsync-logs", "standard": "none"})
    run_row("finder", "latiss", "ok", 1)
    site.put("no.log", where=site.far_buffer)
    awaited = RememberedFile("night", "a.fits", 0, 0, 0, WhyRemembered.AWAITED, 1, "x.log")
    connect.write(Remembered.remember, "summit", "latiss", [awaited])
    assert shown(look(site)) == [("finder.latiss", "store", 1, False, None)]


@pytest.mark.usefixtures("database")
def test_of_a_directory_that_cannot_be_read_it_is_not_said_that_nothing_waits(site: Site) -> None:
    site.buffer.rmdir()
    site.put("night/a.fits", where=site.far_buffer)
    assert shown(look(site)) == [
        ("handoff.latiss", "deliver", 0, True, 0),
        ("finder.latiss", "store", 1, False, 4),
    ]


@pytest.fixture
def _hanging(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the disk of the buffer hang after the first file."""
    disk, really = threading.Event(), backlog.scan

    def scan(root: Tree, *args: Any, **more: Any) -> Iterator[Any]:
        for found in really(root, *args, **more):
            yield found
            if root.path == str(site.buffer):
                disk.wait()

    monkeypatch.setattr(backlog, "scan", scan)
    monkeypatch.setattr(backlog, "_HANDED_OVER_AFTER", -1)
    yield
    disk.set()


@pytest.mark.usefixtures("database", "_hanging")
@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_disk_that_hangs_delays_nobody_for_longer_than_the_limit(site: Site) -> None:
    site.put_all(["a", "b"])
    site.put("night/c.fits", where=site.far_buffer)
    assert shown(look(site, 0.5)) == [
        ("handoff.latiss", "deliver", 1, True, 1),
        ("finder.latiss", "store", 1, False, 4),
    ]


@pytest.mark.usefixtures("database", "_hanging")
@pytest.mark.parametrize("backend", ["sqlite"])
def test_looks_again_and_again_leave_one_thread_with_a_disk_that_hangs(site: Site) -> None:
    site.put_all(["a", "b"])
    before = threading.active_count()
    look(site, 0.5)
    waiting = look(site, 0.5)
    assert threading.active_count() <= before + 1
    assert shown(waiting) == [("handoff.latiss", "deliver", 0, True, 0)]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_without_a_database_everything_that_lies_there_is_counted(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "read", None)
    site.put("a.fits")
    found = backlog.look_at(site.settings(), None, LONG)
    assert [(one.site, *shown([one])[0], one.rate) for one in found] == [
        ("summit", "handoff.latiss", "deliver", 1, False, 4, None)
    ]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_a_database_that_goes_away_leaves_what_it_counted_and_the_rest_is_not_known(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbbbatch.errors import TryLater

    def away(*_: Any) -> None:
        raise TryLater("away")

    monkeypatch.setattr(connect, "read", away)
    site.put("a.fits")
    one = Waiting(site="summit", label="handoff.latiss", step="hold", files=1)
    found = backlog.look_at(site.settings(), [one], LONG)
    assert one in found
    assert all(waiting.at_least for waiting in found if waiting != one)


@pytest.mark.usefixtures("database")
def test_what_waits_elsewhere_stays_as_it_was_counted(site: Site) -> None:
    site.put("a.fits")
    other = Waiting(site="base", label="handoff.other", step="deliver", files=3, size_bytes=5)
    found = backlog.look_at(site.settings(), [other], LONG)
    assert [replace(one, rate=None) for one in found if one.site == "base"] == [other]
    assert len(found) == 2
