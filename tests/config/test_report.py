"""The section of the configuration that only reports read."""

from pathlib import Path

import pytest

from dbbbatch.config import load
from dbbbatch.errors import ConfigError

SITE = '[site]\nname = "s"\nstate = "/var/lib/dbb"\n'


def read(tmp_path: Path, keys: str) -> load.Settings:
    path = tmp_path / "dbb.toml"
    path.write_text(f"{SITE}[report]\n{keys}\n")
    return load.load(path)


def test_a_night_begins_at_a_time_of_the_day(tmp_path: Path) -> None:
    assert read(tmp_path, "").report.night_begins == 43200
    assert read(tmp_path, 'night_begins = "09:30"').report.night_begins == 34200


@pytest.mark.parametrize(
    ("path", "day"),
    [
        ("2026-11-24/a.fits", "2026-11-24"),
        ("raw/20261124/AT_O_20261124_000001.fits", "20261124"),
        ("raw/120261124.fits", None),
    ],
)
def test_the_usual_pattern_finds_the_date_in_a_path(
    tmp_path: Path, path: str, day: str | None
) -> None:
    pattern = read(tmp_path, "").report.night
    assert pattern is not None
    found = pattern.search(path)
    assert (found and found[1]) == day


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ('night_begins = "noon"', "night_begins: expected a time of the day"),
        ("night = '20\\d{6}'", "night: expected a group for the date"),
        ('exposure = "("', "exposure: '\\(' is no regular expression"),
        ("expected = 0", "expected: expected a whole number from 1"),
        ("night = '([0-9]+)'\nnigths = 3", "nigths: unknown key; did you mean 'nights'"),
    ],
)
def test_what_is_wrong_there_stops_only_reports(tmp_path: Path, keys: str, words: str) -> None:
    settings = read(tmp_path, keys)
    assert settings.report.nights == 30
    with pytest.raises(ConfigError, match=words):
        settings.require("report")
    settings.require("handoff.latiss")
