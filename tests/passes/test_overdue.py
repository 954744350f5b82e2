"""How often passes are expected."""

from datetime import UTC, datetime, timedelta

from dbbbatch.passes.overdue import longest_interval, usual_interval

BEGIN = datetime(2026, 11, 24, tzinfo=UTC)


def starts(*gaps: float) -> list[datetime]:
    found = [BEGIN]
    for gap in gaps:
        found.append(found[-1] + timedelta(seconds=gap))
    return found


def test_nothing_is_learned_of_a_few_passes() -> None:
    assert usual_interval(starts(60, 60, 60)) is None
    assert longest_interval(None, None) is None


def test_nothing_is_learned_from_passes_that_a_person_starts_one_after_the_other() -> None:
    assert usual_interval(starts(*[3] * 8)) is None


def test_short_gaps_of_a_busy_time_do_not_make_the_usual_interval_short() -> None:
    assert usual_interval(starts(*[1] * 8, 300, 300)) == 300


def test_a_learned_interval_has_a_margin_and_a_configured_one_has_none() -> None:
    assert longest_interval(60, None) == 390
    assert longest_interval(60, 120) == 120
