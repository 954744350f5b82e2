"""The files of nights, kept until the pages of the nights are written."""

from datetime import date, datetime

from dbbbatch.report.night_files import NightFiles
from dbbbatch.report.nights import Night, NightFile

DAYS = [date(2026, 11, 23), date(2026, 11, 24)]


def night(day: date) -> Night:
    at = datetime(2026, 11, 24, 12)
    sums = {"expected": None, "found": 0, "files": 0, "size_bytes": 0, "withdrawn": 0}
    return Night(day=day, begins=at, ends=at, unit="file", steps=(), reasons=(), **sums)


def test_each_night_has_its_own_files() -> None:
    kept = NightFiles()
    for number in range(1001):
        where, targets = "stored", {"gen3": "SUCCESS", "tape": "UNTRIED"}
        kept.add(DAYS[number % 2], NightFile(f"n/é\n {number}", number, where, targets))
    found = list(kept.of(night(DAYS[0])))
    assert len(found) == 501
    assert found[1] == NightFile("n/é\n 2", 2, "stored", {"gen3": "SUCCESS", "tape": "UNTRIED"})
    assert [one.size_bytes for one in found] == list(range(0, 1001, 2))


def test_a_night_without_files_has_none() -> None:
    assert list(NightFiles().of(night(DAYS[0]))) == []


def test_a_file_may_be_for_no_target() -> None:
    kept, file = NightFiles(), NightFile("a", 1, "in the buffer")
    for _ in range(500):
        kept.add(DAYS[0], file)
    assert list(kept.of(night(DAYS[0]))) == [file] * 500
