"""A directory of pages is renewed under the eyes of readers."""

import fcntl
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from dbbbatch.errors import LockHeld, UsageError
from dbbbatch.files import replace
from dbbbatch.report.health import Health
from dbbbatch.report.night_files import NightFiles
from dbbbatch.report.nights import NightFile
from dbbbatch.report.page import site
from dbbbatch.report.survey import Survey
from tests.report.page import examples


class Killed(BaseException):
    """Stands for a kill: no code of ours runs after it, but what Python itself undoes."""


FILES = NightFiles()
for back in range(3):
    DAY = examples.LAST - timedelta(days=back)
    FILES.add(DAY, NightFile(path=f"{DAY}/a.fits", size_bytes=1, where="stored"))


def write(
    directory: Path, count: int = 2, health: Health | None = None, trouble: bool = False
) -> None:
    nights = examples.nights(count, trouble=trouble)
    site.write_site(
        str(directory), Survey(health=health or examples.well(), nights=nights, files=FILES)
    )


def state(directory: Path) -> dict[str, tuple[int, int]]:
    """Return which files are there, and when they were last written."""
    found = {path.name: path.lstat() for path in directory.iterdir()}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    directory = tmp_path / "pages"
    write(directory)
    return directory


def test_a_directory_of_its_own_is_made(pages: Path) -> None:
    nights = [f"night-2026-11-{day}.{kind}" for day in (28, 29) for kind in ("html", "js")]
    assert names(pages) == ["index.html", *nights, "search.js"]
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in pages.iterdir())


def test_a_page_of_a_night_that_says_the_same_is_left_alone(pages: Path) -> None:
    before = state(pages)
    write(pages, health=examples.in_trouble())
    after = state(pages)
    assert [name for name in after if after[name] != before[name]] == ["index.html"]
    assert "NOT WELL" in (pages / "index.html").read_text()


def test_a_page_of_a_night_that_changed_is_renewed(pages: Path) -> None:
    write(pages, trouble=True)
    assert "157 missing" in (pages / "night-2026-11-29.html").read_text()


def test_pages_of_nights_that_are_no_longer_shown_are_removed(pages: Path) -> None:
    write(pages, 1)
    assert names(pages) == [
        "index.html",
        "night-2026-11-29.html",
        "night-2026-11-29.js",
        "search.js",
    ]


@pytest.mark.parametrize("name", ["night-2026-13-99.html", "night-0000-00-00.js"])
def test_a_page_of_a_day_that_there_is_not_is_removed(pages: Path, name: str) -> None:
    (pages / name).write_text("dbb-report")
    write(pages)
    assert name not in names(pages)


def test_without_the_database_the_pages_of_nights_stay(pages: Path) -> None:
    before = names(pages)
    site.write_site(str(pages), Survey(health=examples.in_trouble(), unknown="it is away"))
    assert names(pages) == before
    assert 'data-nights="2026-11-29 2026-11-28"' in (pages / "index.html").read_text()


@pytest.mark.parametrize("name", ["index.html", "search.js", "night-2020-01-01.html"])
@pytest.mark.parametrize("kind", ["file", "link", "directory"])
def test_a_file_of_somebody_else_is_neither_replaced_nor_removed(
    name: str, kind: str, pages: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.write_text("mine")
    (pages / name).unlink(missing_ok=True)
    {
        "file": lambda: (pages / name).write_text("<html>mine"),
        "link": lambda: (pages / name).symlink_to(other),
        "directory": lambda: (pages / name).mkdir(),
    }[kind]()
    before = state(pages)
    with pytest.raises(UsageError, match=f"{name}: was not written by dbb-report"):
        write(pages, 1, examples.in_trouble())
    assert state(pages) == before
    assert other.read_text() == "mine"


def test_files_of_other_names_are_left_alone(pages: Path) -> None:
    (pages / "notes.txt").write_text("mine")
    (pages / "night-of-the-party.html").write_text("mine")
    write(pages, 1)
    assert {"notes.txt", "night-of-the-party.html"} <= set(names(pages))


def test_a_directory_without_a_parent_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="missing: No such file or directory"):
        write(tmp_path / "missing" / "pages")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="Not a directory"):
        write(tmp_path / "file")


def test_one_report_at_a_time_writes(pages: Path) -> None:
    descriptor = os.open(pages, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(LockHeld):
            write(pages)
    finally:
        os.close(descriptor)
    write(pages)


def test_killed_before_any_rename_every_page_is_old_or_new_and_the_next_report_renews_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The overview comes after the pages of nights that it links to."""
    wanted = tmp_path / "wanted"
    write(wanted, 3, examples.in_trouble(), trouble=True)
    new = {path.name: path.read_bytes() for path in wanted.iterdir()}
    rename = os.replace
    for survived in range(10):
        directory = tmp_path / f"killed-{survived}"
        write(directory)
        old = {path.name: path.read_bytes() for path in directory.iterdir()}
        left = iter(range(survived))

        def killed(source: str, destination: str, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise Killed
            rename(source, destination)

        with monkeypatch.context() as patched:
            patched.setattr(replace.os, "replace", killed)
            patched.setattr(replace.os, "unlink", lambda path: None)
            try:
                write(directory, 3, examples.in_trouble(), trouble=True)
                done = True
            except Killed:
                done = False
        there = {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix}
        there = {name: content for name, content in there.items() if not name.startswith(".")}
        assert all(content in (old.get(name), new[name]) for name, content in there.items())
        if there["index.html"] == new["index.html"]:
            assert there == new
        write(directory, 3, examples.in_trouble(), trouble=True)
        assert all((directory / name).read_bytes() == content for name, content in new.items())
        if done:
            break
    assert done
