"""The numbers of nights, as the database has them."""

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime
from typing import Any

import pytest

from dbbbatch.config.fields import defaults
from dbbbatch.config.load import Settings
from dbbbatch.config.sections import Report
from dbbbatch.database import connect
from dbbbatch.errors import ConfigError
from dbbbatch.report import night_rows
from dbbbatch.report.night_rows import nights
from dbbbatch.report.nights import Night, NightFile, Step

Row = Callable[..., int]

NOW = datetime(2026, 11, 26, 3)
DAY = date(2026, 11, 24)


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "now", lambda: NOW)


def at(text: str, day: int = 25) -> str:
    return f"2026-11-{day} {text}:00.000000"


def of(found: list[Night], day: date = DAY) -> Night:
    return next(night for night in found if night.day == day)


def step(found: Night, name: str) -> Step:
    return next(one for one in found.steps if one.name == name)


def counts(found: Night, name: str) -> tuple[int, int, int]:
    one = step(found, name)
    return one.files, one.missing_files, one.unknown_files


def with_report(settings: Settings, **keys: Any) -> Settings:
    return replace(settings, report=defaults(Report, **keys))


@pytest.fixture
def whole_way(handoff_row: Row, stored: Row, ingest_row: Row) -> Callable[..., tuple[int, int]]:
    """Return a function that writes a file that went all the way, and gives its two ids."""

    def write(filename: str, relpath: str = "2026-11-24", **more: Any) -> tuple[int, int]:
        usual = {"discovered_at": at("02:00"), "delivered_at": at("02:01"), "held_at": at("02:02")}
        number = handoff_row(filename, "HELD", relpath=relpath, **usual | more)
        file = stored(filename, relpath=relpath, added_on=at("02:03"))
        ingest_row(file, "SUCCESS", changed_at=at("02:05"))
        return number, file

    return write


@pytest.mark.usefixtures("database")
def test_an_empty_database_has_this_night_without_files(settings: Settings) -> None:
    (night,) = nights(settings)
    assert (night.day, night.begins, night.ends) == (
        date(2026, 11, 25),
        datetime(2026, 11, 25, 12),
        datetime(2026, 11, 26, 12),
    )
    assert (night.unit, night.expected, night.files) == ("file", None, 0)
    assert [one.name for one in night.steps] == ["found", "delivered", "stored"]


def test_a_file_that_went_all_the_way(settings: Settings, whole_way: Row) -> None:
    whole_way("a.fits")
    files: list[tuple[date, NightFile]] = []
    found = nights(settings, each=lambda day, file: files.append((day, file)))
    assert [night.day for night in found] == [date(2026, 11, 25), DAY]
    night = of(found)
    assert (night.files, night.found, night.size_bytes, night.withdrawn) == (1, 1, 1000, 0)
    names = ["found", "delivered", "stored", "target.gen3"]
    assert [one.name for one in night.steps] == names
    assert [counts(night, name) for name in names] == [(1, 0, 0)] * 4
    latencies = [one.latency and one.latency.median for one in night.steps]
    assert latencies == [None, 60, 180, 300]
    assert step(night, "found").bytes_by_time[14 * 4] == 1000
    assert step(night, "target.gen3").site == "archive"
    assert files == [(DAY, NightFile("2026-11-24/a.fits", 1000, "stored", {"gen3": "SUCCESS"}))]


@pytest.mark.parametrize(
    ("relpath", "filename", "seen", "day"),
    [
        ("raw/20261124/x", "a.fits", at("02:00", 25), 24),
        ("raw", "AT_O_20261124_000001.fits", at("02:00", 25), 24),
        ("2026-11-23/x", "AT_O_20261124_000001.fits", at("02:00", 25), 23),
        ("raw", "a.fits", at("11:59", 25), 24),
        ("raw", "a.fits", at("12:00", 25), 25),
        ("raw/20261399", "a.fits", at("12:00", 25), 25),
        ("2026-11-26", "a.fits", at("02:00", 26), 26),
        ("", "a.fits", at("02:00", 24), 23),
    ],
)
def test_the_night_of_a_file(
    settings: Settings, handoff_row: Row, relpath: str, filename: str, seen: str, day: int
) -> None:
    handoff_row(filename, "FOUND", relpath=relpath, discovered_at=seen)
    assert [night.day.day for night in nights(settings) if night.files] == [day]


def test_the_configuration_says_when_a_night_begins(settings: Settings, handoff_row: Row) -> None:
    handoff_row("a.fits", "FOUND", relpath="raw", discovered_at=at("11:00", 25))
    found = nights(with_report(settings, night_begins="10:30"))
    assert [(night.day.day, night.files) for night in found] == [(25, 1)]
    assert found[0].begins == datetime(2026, 11, 25, 10, 30)


def test_files_of_other_nights_are_left_out(settings: Settings, handoff_row: Row) -> None:
    for name, day in (("a.fits", 22), ("b.fits", 24), ("c.fits", 20)):
        handoff_row(name, "FOUND", relpath=f"2026-11-{day}", discovered_at=at("02:00", 25))
    found = nights(with_report(settings, nights=3))
    assert [(night.day.day, night.files) for night in found] == [(25, 0), (24, 1)]
    assert len(nights(settings, count=4)) == 4


def test_nights_without_a_file_are_there_between_others(
    settings: Settings, handoff_row: Row
) -> None:
    handoff_row("a.fits", "FOUND", relpath="2026-11-22", discovered_at=at("02:00", 23))
    expected = nights(with_report(settings, expected=10))
    assert [(night.day.day, night.files, night.expected) for night in expected] == [
        (25, 0, 10),
        (24, 0, 10),
        (23, 0, 10),
        (22, 1, 10),
    ]


def test_of_two_versions_of_a_path_the_newer_one_counts(
    settings: Settings, handoff_row: Row, stored: Row
) -> None:
    path = {"relpath": "2026-11-24", "discovered_at": at("02:00")}
    handoff_row("a.fits", "HELD", mtime_ns=1, delivered_at=at("02:01"), **path)
    handoff_row("a.fits", "FOUND", mtime_ns=2, size_bytes=7, **path)
    stored("a.fits", relpath="2026-11-24")
    night = of(nights(settings))
    assert (night.files, night.size_bytes) == (1, 7)
    assert counts(night, "delivered") == (0, 1, 0)
    assert counts(night, "stored") == (0, 1, 0)


def test_a_handoff_whose_storage_has_another_database_does_not_miss_its_files(
    settings: Settings, handoff_row: Row, stored: Row
) -> None:
    for name in ("a.fits", "b.fits"):
        handoff_row(name, "HELD", relpath="2026-11-24", delivered_at=at("05:01"))
    stored("other.fits", relpath="2026-11-24")
    night = of(nights(settings))
    assert counts(night, "stored") == (1, 0, 2)
    assert counts(night, "delivered") == (2, 0, 1)


def test_a_handoff_of_whose_files_some_are_stored_misses_the_others(
    settings: Settings, handoff_row: Row, whole_way: Row
) -> None:
    whole_way("a.fits")
    handoff_row("b.fits", "HELD", relpath="2026-11-24", delivered_at=at("05:01"))
    assert counts(of(nights(settings)), "stored") == (1, 1, 0)


def test_a_handoff_into_the_source_of_a_finder_here_misses_what_is_not_stored(
    site: Any, handoff_row: Row
) -> None:
    handoff_row("b.fits", "HELD", relpath="2026-11-24", delivered_at=at("05:01"))
    assert counts(of(nights(site.settings())), "stored") == (0, 1, 0)


def test_files_without_a_handoff_are_known_from_storage_on(
    settings: Settings, stored: Row, ingest_row: Row
) -> None:
    file = stored("a.fits", relpath="2026-11-24", added_on=at("02:00"))
    ingest_row(file, "SUCCESS", changed_at=at("02:07"))
    night = of(nights(settings))
    assert [one.known for one in night.steps] == [False, False, True, True]
    latency = step(night, "target.gen3").latency
    assert latency is not None
    assert (latency.since, latency.median) == ("stored", 420)


def test_a_file_in_two_storage_areas_is_one(
    settings: Settings, whole_way: Row, stored: Row
) -> None:
    whole_way("a.fits")
    stored("a.fits", relpath="2026-11-24", storage="/data/mirror", added_on=at("02:03"))
    assert of(nights(settings)).files == 1


def test_a_retired_target_is_no_step(settings: Settings, whole_way: Row) -> None:
    whole_way("a.fits")
    connect.execute("UPDATE target SET retired_at = ?", [at("03:00")])
    assert [one.name for one in of(nights(settings)).steps] == ["found", "delivered", "stored"]


def test_exposures_are_counted_where_the_configuration_says_what_they_are(
    settings: Settings, handoff_row: Row, whole_way: Row
) -> None:
    for name in ("E1_R00.fits", "E1_R01.fits", "E2_R00.fits"):
        whole_way(name)
    handoff_row("E2_R01.fits", "FOUND", relpath="2026-11-24", discovered_at=at("02:00"))
    night = of(nights(with_report(settings, exposure="E[0-9]+", expected=3)))
    assert (night.unit, night.expected, night.found, night.files) == ("exposure", 3, 2, 4)
    found = step(night, "stored")
    assert (found.done, found.missing, found.files, found.missing_files) == (1, 1, 3, 1)


def test_failures_are_told_by_their_reasons(
    settings: Settings,
    handoff_row: Row,
    whole_way: Row,
    stored: Row,
    ingest_row: Row,
    insert: Row,
) -> None:
    day, seen = {"relpath": "2026-11-24"}, {"discovered_at": at("02:00")}
    whole_way("good.fits")
    handoff_row("sent.fits", "FOUND", error="exit code 12", **day, **seen)
    for name, reason in (("left.fits", "Permission denied"), ("held.fits", "")):
        handoff_row(name, "HELD", delivered_at=at("02:01"), **day, **seen)
        insert(
            "finder_left",
            site="archive",
            finder="latiss",
            filename=name,
            size_bytes=1,
            mtime_ns=1,
            inode=1,
            verdict="FAILED" if reason else "DUPLICATE",
            message=reason,
            seen_at=at("02:02"),
            **day,
        )
    insert(
        "quarantine",
        site="archive",
        label="finder.latiss",
        filename="held.fits",
        path="/q/held.fits",
        size_bytes=1,
        mtime_ns=1,
        inode=1,
        reason="other content in storage",
        quarantined_at=at("02:02"),
        **day,
    )
    file = stored("bad.fits", added_on=at("02:00"), **day)
    ingest_row(file, "FAILURE", message="no detector 5 in bad.fits")
    stored("gone.fits", "MISSING", added_on=at("02:00"), error="is not there", **day)
    night = of(nights(settings))
    assert sorted((one.step, one.text, one.example) for one in night.reasons) == [
        ("delivered", "exit code #", "2026-11-24/sent.fits"),
        ("stored", "Permission denied", "2026-11-24/left.fits"),
        ("stored", "is not there", "2026-11-24/gone.fits"),
        ("stored", "other content in storage", "2026-11-24/held.fits"),
        ("target.gen3", "no detector # in …", "2026-11-24/bad.fits"),
    ]


def test_pages_are_read_without_a_gap(
    settings: Settings, whole_way: Row, stored: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(night_rows, "_PAGE", 2)
    for number in range(5):
        whole_way(f"{number}.fits")
        stored(f"other-{number}.fits", relpath="2026-11-24", added_on=at("02:00"))
    assert counts(of(nights(settings)), "stored") == (10, 0, 0)


def test_each_place_of_a_file_has_its_words() -> None:
    from dbbbatch.database.models.statuses import FileStatus, HandoffStatus

    assert set(night_rows._AT_HANDOFF) == set(HandoffStatus)
    assert set(night_rows._IN_STORAGE) == set(FileStatus)


@pytest.mark.usefixtures("database")
def test_a_wrong_section_stops_the_report(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="nights"):
        nights(replace(settings, wrong={"report": ("[report] nights: …",)}))


@pytest.mark.parametrize("backend", ["sqlite"])
def test_only_the_nights_that_are_asked_for_are_read(
    settings: Settings, whole_way: Row, handoff_row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_way("a.fits")
    handoff_row("b.fits", "HELD", relpath="2026-11-24", delivered_at=at("02:01"))
    steps: list[str] = []
    really = connect.execute

    def execute(sql: str, values: Any = ()) -> Any:
        steps.extend(row[-1] for row in really(f"EXPLAIN QUERY PLAN {sql}", values).fetchall())
        return really(sql, values)

    monkeypatch.setattr(connect, "execute", execute)
    nights(settings)
    assert len(steps) > 10
    assert [one for one in steps if re.match("SCAN (?!target|json_each|page)", one)] == []


@pytest.mark.usefixtures("database")
def test_passes_take_a_file_from_step_to_step(site: Any) -> None:
    site.put("2026-11-24/a.fits")
    reached = []
    for script in ("dbb-handoff", "dbb-finder", "dbb-ingester"):
        assert site.run(script).code == 0
        found = of(nights(site.settings()))
        reached.append([one.files for one in found.steps])
    assert reached == [[1, 1, 0], [1, 1, 1], [1, 1, 1, 1]]
    assert [one.missing_files for one in found.steps] == [0, 0, 0, 0]
