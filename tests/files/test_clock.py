"""How old a file is, by the clock that stamped it."""

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.files import clock, place, temporary
from dbbbatch.files.clock import Clock
from dbbbatch.files.tree import Entry

DAYS = 86400.0
YEARS = 365 * DAYS


def stat(modified: float, changed: float) -> os.stat_result:
    """Return what lstat does of a file, changed so many seconds ago."""
    now = time.time()
    numbers = [0] * 10
    times = {
        "st_mtime_ns": int((now - modified) * 1e9),
        "st_ctime_ns": int((now - changed) * 1e9),
    }
    return os.stat_result(numbers, times)


@pytest.mark.parametrize(
    ("modified", "changed", "young"),
    [
        (30, 30, True),
        (90, 30, False),
        (-30, 30, True),
        (-YEARS, 30, True),
        (-YEARS, 90, False),
        (-YEARS, -30, True),
        (-YEARS, -YEARS, False),
    ],
)
def test_a_file_is_as_old_as_what_its_times_can_tell(
    tmp_path: Path, modified: float, changed: float, young: bool
) -> None:
    assert Clock(str(tmp_path)).is_young(stat(modified, changed), 60) is young


@pytest.mark.parametrize(
    ("offset", "young"), [(0, True), (-YEARS, True), (YEARS, True), (3600, True), (-3600, True)]
)
def test_a_file_just_written_is_young_whatever_the_clock_of_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offset: float, young: bool
) -> None:
    monkeypatch.setattr(clock, "_stamp", lambda _: time.time_ns() + int(offset * 1e9))
    there = Clock(str(tmp_path))
    assert there.is_young(stat(-offset, -offset), 60) is young
    assert not there.is_young(stat(90 - offset, 90 - offset), 60)


@pytest.fixture
def no_unnamed_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system make no file without a name, as NFS."""
    real = os.open

    def refuse(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported", path)
        return real(path, flags, *more, **named)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.usefixtures("no_unnamed_files")
def test_asking_leaves_nothing_also_where_the_file_needs_a_name(tmp_path: Path) -> None:
    assert abs(Clock(str(tmp_path)).now_ns() - time.time_ns()) < 10e9
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("no_unnamed_files")
def test_what_a_kill_leaves_there_is_an_unfinished_file_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(Entry, "unlink", lambda entry: None)
        Clock(str(tmp_path)).now_ns()
    (name,) = os.listdir(tmp_path)
    assert temporary.is_temporary(name)


def test_where_nobody_can_be_asked_a_day_of_difference_is_borne(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(directory: str) -> int:
        raise PermissionError

    monkeypatch.setattr(clock, "_stamp", refuse)
    there = Clock(str(tmp_path))
    assert there.is_young(stat(-3600, -3600), 60)
    assert not there.is_young(stat(-YEARS, -YEARS), 60)


def test_a_clock_that_is_set_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Clock(str(tmp_path))
    real, ahead = time.time_ns, int(3600e9)
    monkeypatch.setattr(clock, "_stamp", lambda _: real() + ahead)
    monkeypatch.setattr(time, "time_ns", lambda: real() + ahead)
    assert there.now_ns() > real() + ahead - 10e9


def test_a_file_just_written_is_young_whatever_this_process_takes_for_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, set_times = time.time_ns, os.utime
    monkeypatch.setattr(time, "time_ns", lambda: real() - int(90e9))
    monkeypatch.setattr(os, "utime", lambda path: set_times(path, ns=(time.time_ns(),) * 2))
    (tmp_path / "half").write_text("half")
    assert Clock(str(tmp_path)).is_young(os.lstat(tmp_path / "half"), 60)


def test_a_clock_that_did_not_answer_is_asked_again_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(directory: str) -> int:
        raise PermissionError

    monkeypatch.setattr(clock, "_SOON", 0.5)
    with monkeypatch.context() as for_a_moment:
        for_a_moment.setattr(clock, "_stamp", refuse)
        there = Clock(str(tmp_path))
    ahead = time.time_ns() + int(3600e9)
    for name in ("monotonic_ns", "time_ns"):
        later = getattr(time, name)() + int(1e9)
        monkeypatch.setattr(time, name, partial(int, later))
    monkeypatch.setattr(clock, "_stamp", lambda _: ahead)
    assert there.now_ns() == ahead


def test_empty_directories_of_a_time_that_is_yet_to_come_go_too(tmp_path: Path) -> None:
    for name, ago in (("old", 90.0), ("young", 10.0), ("ahead", -YEARS)):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (time.time() - ago,) * 2)
    # The inode of the last one changed just now.
    assert place.remove_empty_directories(str(tmp_path), 60) == 1
    assert sorted(os.listdir(tmp_path)) == ["ahead", "young"]
    assert place.remove_empty_directories(str(tmp_path), 0) == 2
