"""What counts as found, delivered, stored, ingested and missing."""

from datetime import date, datetime

import pytest

from dbbbatch.report.night_tally import FileOfNight, NightTally, reason_of
from dbbbatch.report.nights import LATENCY_BOUNDS, Night, Step

TARGET = "7"


def file(**values: object) -> FileOfNight:
    usual = FileOfNight("n/a", 10, 0, 100.0, "HELD", 130.0, "STORED", 160.0, True)
    return usual._replace(**values)  # type: ignore[arg-type]


def night(*files: FileOfNight, by_exposure: bool = False) -> Night:
    tally = NightTally(date(2026, 11, 24), datetime(2026, 11, 24, 12), [TARGET], by_exposure)
    for one in files:
        tally.add(one)
    return tally.night(None, [(TARGET, "archive", "gen3")])


def step(name: str, *files: FileOfNight, by_exposure: bool = False) -> Step:
    return next(one for one in night(*files, by_exposure=by_exposure).steps if one.name == name)


def counts(one: Step) -> tuple[int, int, int]:
    assert (one.done, one.missing, one.unknown) == (
        one.files,
        one.missing_files,
        one.unknown_files,
    )
    return one.files, one.missing_files, one.unknown_files


DONE, MISSING, UNKNOWN, NEITHER = (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)


@pytest.mark.parametrize(
    ("status", "delivered_at", "delivered", "stored", "withdrawn"),
    [
        ("FOUND", None, MISSING, MISSING, 0),
        ("FOUND", 5.0, MISSING, MISSING, 0),
        ("QUARANTINED", None, MISSING, MISSING, 0),
        ("DELIVERED", 5.0, DONE, MISSING, 0),
        ("PURGED", 5.0, DONE, MISSING, 0),
        ("IGNORED", None, NEITHER, NEITHER, 1),
        ("IGNORED", 5.0, DONE, MISSING, 0),
        ("VANISHED", None, NEITHER, NEITHER, 1),
        ("VANISHED", 5.0, DONE, MISSING, 0),
        ("", None, UNKNOWN, MISSING, 0),
    ],
)
def test_a_file_that_is_not_stored(
    status: str,
    delivered_at: float | None,
    delivered: tuple[int, int, int],
    stored: tuple[int, int, int],
    withdrawn: int,
) -> None:
    one = file(handoff=status, delivered=delivered_at, storage="", stored=None)
    assert counts(step("delivered", one)) == delivered
    assert counts(step("stored", one)) == stored
    assert counts(step("found", one)) == (DONE if status else UNKNOWN)
    assert night(one).withdrawn == withdrawn
    assert night(one).files == 1


@pytest.mark.parametrize(
    ("status", "stored", "withdrawn"),
    [
        ("STORED", DONE, 0),
        ("ARRIVING", MISSING, 0),
        ("MISSING", MISSING, 0),
        ("CORRUPT", MISSING, 0),
        ("QUARANTINED", NEITHER, 1),
        ("FORGOTTEN", NEITHER, 1),
    ],
)
def test_a_file_with_a_row_of_storage(
    status: str, stored: tuple[int, int, int], withdrawn: int
) -> None:
    for handoff in ("HELD", ""):
        one = file(handoff=handoff, storage=status)
        assert counts(step("stored", one)) == stored
        assert night(one).withdrawn == withdrawn


def test_what_another_database_knows_is_not_missing() -> None:
    found = step("stored", file(storage="", stored=None, is_known=False))
    assert counts(found) == UNKNOWN
    assert not found.known


@pytest.mark.parametrize(
    ("status", "storage", "result"),
    [
        ("SUCCESS", "STORED", DONE),
        ("BACKFILL", "STORED", DONE),
        ("UNTRIED", "STORED", MISSING),
        ("PENDING", "STORED", MISSING),
        ("FAILURE", "STORED", MISSING),
        ("INVALID", "STORED", MISSING),
        ("IGNORED", "STORED", NEITHER),
        ("SUCCESS", "MISSING", DONE),
        ("UNTRIED", "FORGOTTEN", NEITHER),
    ],
)
def test_an_ingest(status: str, storage: str, result: tuple[int, int, int]) -> None:
    ingests = [(TARGET, status), ("99", "SUCCESS")]
    one = file(storage=storage, ingests=ingests, ingested=[200.0, 300.0])
    assert counts(step("target.gen3", one)) == result


def test_latencies_begin_when_a_handoff_found_the_file() -> None:
    one = file(ingests=[(TARGET, "SUCCESS")], ingested=[200.0])
    found = {
        name: latency
        for name in ("delivered", "stored", "target.gen3")
        if (latency := step(name, one).latency)
    }
    assert {name: (one.since, one.median) for name, one in found.items()} == {
        "delivered": ("found", 30),
        "stored": ("found", 60),
        "target.gen3": ("found", 100),
    }
    assert step("found", one).latency is None


def test_without_a_handoff_they_begin_when_the_file_is_stored() -> None:
    one = file(handoff="", seen=160.0, ingests=[(TARGET, "SUCCESS")], ingested=[200.0])
    assert step("stored", one).latency is None
    latency = step("target.gen3", one).latency
    assert latency is not None
    assert (latency.since, latency.median) == ("stored", 40)


@pytest.mark.parametrize("status", ["BACKFILL", "FAILURE"])
def test_no_latency_is_known_of_what_was_not_ingested_now(status: str) -> None:
    assert step("target.gen3", file(ingests=[(TARGET, status)], ingested=[200.0])).latency is None


def test_a_clock_that_was_set_back_gives_no_latency() -> None:
    assert step("delivered", file(delivered=99.0)).latency is None


def test_percentiles_are_those_of_all_files_and_the_worst_are_named() -> None:
    files = [file(path=f"n/{n}", delivered=100.0 + n) for n in range(1, 201)]
    latency = step("delivered", *files).latency
    assert latency is not None
    assert (latency.files, latency.median, latency.p95, latency.p99) == (200, 100, 190, 198)
    assert latency.total == 20100
    assert [(slow.path, slow.seconds) for slow in latency.worst[:2]] == [
        ("n/200", 200),
        ("n/199", 199),
    ]
    assert len(latency.worst) == 10
    within = dict(zip(LATENCY_BOUNDS, latency.within, strict=True))
    assert (within[10], within[60], within[300]) == (10, 60, 200)


def test_bytes_are_summed_by_the_time_at_which_they_made_the_step() -> None:
    files = [file(delivered=at) for at in (-1.0, 0.0, 899.0, 900.0, 86399.0, 86400.0)]
    found = step("delivered", *files)
    assert (found.bytes_earlier, found.bytes_later, found.size_bytes) == (10, 10, 60)
    assert found.bytes_by_time[:3] == (20, 10, 0)
    assert found.bytes_by_time[-1] == 10
    assert len(found.bytes_by_time) == 96


def test_an_exposure_has_made_a_step_when_all_its_files_have() -> None:
    late = {"storage": "", "stored": None}
    files = [
        file(exposure=1),
        file(exposure=1),
        file(exposure=2),
        file(exposure=2, **late),
        file(exposure=3, is_known=False, **late),
    ]
    found = step("stored", *files, by_exposure=True)
    assert (found.done, found.missing, found.unknown) == (1, 1, 1)
    assert (found.files, found.missing_files, found.unknown_files) == (3, 1, 1)
    assert (night(*files, by_exposure=True).found, night(*files).found) == (3, 5)
    assert night(*files, by_exposure=True).unit == "exposure"


def test_reasons_are_the_same_but_for_numbers_and_names() -> None:
    tally = NightTally(date(2026, 11, 24), datetime(2026, 11, 24, 12), [], False)
    for name, code in (("n/a.fits", 12), ("n/b.fits", 13)):
        tally.add_reason("delivered", f"{name}: exit code {code}\n", name)
    tally.add_reason("stored", "disk full", "n/c.fits")
    assert [
        (one.step, one.text, one.files, one.example) for one in tally.night(None, []).reasons
    ] == [
        ("delivered", "…: exit code #", 2, "n/a.fits"),
        ("stored", "disk full", 1, "n/c.fits"),
    ]


def test_a_thousand_different_reasons_are_not_all_told_apart() -> None:
    tally = NightTally(date(2026, 11, 24), datetime(2026, 11, 24, 12), [], False)
    for number in range(1002):
        word = "".join(chr(ord("g") + int(digit)) for digit in str(number))
        tally.add_reason("delivered", word, "n/a")
    first, *others = tally.night(None, []).reasons
    assert (first.text, first.files, len(others)) == ("other reasons", 2, 19)


def test_the_digits_of_an_algorithm_stay_in_a_reason() -> None:
    assert reason_of("blake2b 7be1c03308337d15 instead of 12", "x") == "blake2b # instead of #"


def test_a_reason_is_one_line() -> None:
    assert reason_of(" a\n  b ", "x") == "a b"
