"""Which files a person means by a pattern."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from dbbbatch.database import connect
from dbbbatch.files.names import to_text
from dbbbatch.report import matching as module
from dbbbatch.report.matching import matching

Row = Callable[..., int]


def found(*patterns: str, roots: tuple[str, ...] = (), limit: int = 100) -> list[str]:
    return sorted("/".join(place) for place in matching(patterns, roots, limit).places)


@pytest.fixture
def nights(stored: Row, handoff_row: Row) -> None:
    for day in ("2026-11-27", "2026-11-28"):
        for number in (1, 2):
            name = f"AT_O_{day.replace('-', '')}_{number}.fits"
            stored(name, relpath=f"latiss/{day}")
            handoff_row(name, "HELD", relpath=f"latiss/{day}")
    handoff_row("bias_1.fits", "FOUND", relpath="20261128")


A = "latiss/2026-11-28/AT_O_20261128_1.fits"


@pytest.mark.usefixtures("nights")
@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("AT_O_20261128_1.fits", [A]),
        (A, [A]),
        (f"./{A}", [A]),
        (f"/data/at/{A}", [A]),
        (f"/elsewhere/{A}", [A]),
        (f"/elsewhere/{A}.~1~", [A]),
        ("AT_O_20261128_1", [A]),
        ("latiss/2026-11-28/AT_O_20261128_1", [A]),
        ("*_1.fits", [A, A.replace("28", "27"), "20261128/bias_1.fits"]),
        ("AT_*_1.fits", [A, A.replace("28", "27")]),
        ("*/2026-11-28/*_1.fits", [A]),
        ("latiss/2026-11-2[8]/*1.fits", [A]),
        ("latiss/*/AT_O_20261128_1*", [A]),
        ("latiss/2026-11-28*", [A, A.replace("_1", "_2")]),
        ("O_20261128_1", [A]),
        ("bias", ["20261128/bias_1.fits"]),
        ("2026-11-28", [A, A.replace("_1", "_2"), "20261128/bias_1.fits"]),
        ("20261128", [A, A.replace("_1", "_2"), "20261128/bias_1.fits"]),
        ("latiss/2026-11-28/", [A, A.replace("_1", "_2")]),
        ("11-28/AT_O_20261128_1", [A]),
        ("2026-11-29", []),
        ("nothing*", []),
    ],
)
def test_a_file_is_found_by(pattern: str, wanted: list[str]) -> None:
    assert found(pattern, roots=("/data/at", "/data")) == sorted(wanted)


@pytest.mark.usefixtures("nights")
def test_a_file_that_several_patterns_mean_is_given_once() -> None:
    assert found(A, "AT_O_20261128_1", "2026-11-28", "*_1.fits").count(A) == 1


@pytest.mark.usefixtures("nights")
def test_a_glob_looks_only_at_directories_that_begin_as_it_does() -> None:
    search = module._Search(100)
    assert search.run(["latiss/2026-11-28/AT_O_*"], ()).places
    assert search._known.keys() == {"latiss/2026-11-28"}
    assert search._known["latiss/2026-11-28"].keys() == {"latiss/2026-11-28"}


@pytest.mark.parametrize("directory", ["a\\b", "n\u00e4he", "n\udcff"])
def test_a_glob_of_any_directory_is_found(directory: str, stored: Row) -> None:
    relpath = to_text(directory)
    stored("x.fits", relpath=relpath)
    assert found(f"{directory}/x*") == [f"{relpath}/x.fits"]


@pytest.mark.usefixtures("nights")
def test_a_glob_that_fits_many_directories_is_looked_up_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_LOOKED_INTO", 1)
    monkeypatch.setattr(module, "_NEWEST", 2)
    assert found("*/AT_O_20261128_*") == [A, A.replace("_1", "_2")]
    assert found("*/2026-11-28*") == [A, A.replace("_1", "_2")]


@pytest.mark.usefixtures("nights")
def test_what_is_over_the_limit_is_counted() -> None:
    some = matching(["2026-11-28"], [], 2)
    assert (len(some.places), some.more, some.at_least) == (2, 1, False)


@pytest.mark.usefixtures("nights")
def test_similar_names_are_given_where_nothing_fits() -> None:
    some = matching(["AT_O_20261182_1.fits"], [], 9)
    assert some.places == []
    assert "AT_O_20261128_1.fits" in some.near


def test_a_part_of_a_name_is_looked_for_in_the_newest_rows(
    stored: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(6):
        stored(f"a_part_{number}")
    monkeypatch.setattr(module, "_NEWEST", 3)
    monkeypatch.setattr(module, "_READ_AT_ONCE", 3)
    some = matching(["part"], [], 9)
    assert sorted(name for _, name in some.places) == ["a_part_3", "a_part_4", "a_part_5"]
    assert some.newest == 3


def test_names_with_other_bytes_are_found_by_each_spelling(stored: Row) -> None:
    stored(r"caf\xe9 \\x.fits")
    for name in ("caf\udce9 \\x.fits", r"caf\xe9 \\x.fits", "caf\udce9", "caf*x.fits"):
        assert found(name) == [r"night/caf\xe9 \\x.fits"]


def test_a_file_that_only_waits_in_quarantine_is_found(insert: Row) -> None:
    insert(
        "quarantine",
        site="archive",
        label="finder.latiss",
        relpath="2026-11-24",
        filename="a.fits",
        path="/q/2026-11-24/a.fits.~1~",
        size_bytes=1,
        mtime_ns=1,
        inode=1,
        reason="other content",
    )
    for pattern in ("a.fits", "2026-11-24", "/q/2026-11-24/a.fits.~1~"):
        assert found(pattern) == ["2026-11-24/a.fits"]


@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.usefixtures("nights")
@pytest.mark.parametrize(
    "pattern", ["AT_O_20261128_1.fits", A, "AT_O", "AT_*_1.fits", "2026-11-28", "20261128/x"]
)
def test_no_look_up_reads_a_whole_table(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    really = connect.execute

    def execute(sql: str, values: Any = ()) -> Any:
        if "ORDER BY id DESC" not in sql and "LIMIT 200000" not in sql:
            steps.extend(row[-1] for row in really(f"EXPLAIN QUERY PLAN {sql}", values).fetchall())
        return really(sql, values)

    monkeypatch.setattr(connect, "execute", execute)
    matching([pattern], ["/data"], 9)
    assert len(steps) > 3
    # What the look-up itself has found, a directory at a time, is no table.
    whole = "SCAN (?!below$|CONSTANT ROW$)|USE TEMP B-TREE FOR ORDER BY"
    assert [step for step in steps if re.match(whole, step)] == []
