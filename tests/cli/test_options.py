"""Lengths of time and moments on the command line."""

from datetime import datetime, timedelta

import click
import pytest

from dbbbatch.cli import options


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("06:00", "2026-11-25T06:00"),
        ("23:30", "2026-11-24T23:30"),
        ("2026-12-01", "2026-12-01T00:00"),
        ("2026-12-01 04:30", "2026-12-01T04:30"),
        ("2026-12-01T04:30Z", "2026-12-01T04:30"),
        ("2026-12-01T04:30-03:00", "2026-12-01T07:30"),
    ],
)
def test_until_is_read_as_utc(text: str, moment: str) -> None:
    now = datetime(2026, 11, 24, 22, 15)
    assert options.until(text, now) == datetime.fromisoformat(moment)


def test_until_refuses_what_is_no_time() -> None:
    with pytest.raises(ValueError, match="expected HH:MM"):
        options.until("tomorrow", datetime(2026, 1, 1))


def test_since_is_a_moment_or_how_long_ago() -> None:
    assert options.since("2026-11-24 18:00") == datetime(2026, 11, 24, 18)
    ago = options.utc_now() - options.since("12h")
    assert abs(ago - timedelta(hours=12)) < timedelta(minutes=1)
    with pytest.raises(ValueError, match="expected a date"):
        options.since("yesterday")


def test_an_option_names_what_it_expects() -> None:
    @click.command()
    @options.duration_option("--wait", "How long.", "90s")
    def command(wait: float) -> float:
        return wait

    assert command.main([], standalone_mode=False) == 90
    assert command.main(["--wait", "2 min"], standalone_mode=False) == 120
    with pytest.raises(click.BadParameter, match="expected seconds"):
        command.main(["--wait", "soon"], standalone_mode=False)
