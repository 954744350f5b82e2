"""Sizes, spans and states in words."""

from dataclasses import replace

import pytest

from dbbbatch.report import words
from dbbbatch.report.health import Health, Level, Waiting
from tests.report.page import examples


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (None, "not known"),
        (0.0, "stays the same"),
        (1e-9, "stays the same"),
        (2.5, "shrinks by 150/min"),
        (-0.01, "grows by 36/h"),
        (1 / 43200, "shrinks by 2/d"),
        (100.0, "shrinks by 6,000/min"),
    ],
)
def test_a_rate_is_written_in_the_unit_that_suits_it(rate: float | None, text: str) -> None:
    assert words.rate_for_people(rate) == text


@pytest.mark.parametrize(
    ("advice", "split"),
    [
        ("dbb retry target.x", ("", ["dbb retry target.x"])),
        ("chmod -R u+rwX /state", ("", ["chmod -R u+rwX /state"])),
        ("mount it, then: dbb -c /a check", ("mount it, then:", ["dbb -c /a check"])),
        ("/opt/dbb/bin/dbb check", ("", ["/opt/dbb/bin/dbb check"])),
        ("run: sudo -u dbb /opt/bin/dbb check", ("run:", ["sudo -u dbb /opt/bin/dbb check"])),
        ("let the finder's user remove it", ("let the finder's user remove it", [])),
        ("", ("", [])),
        ("dbb release a.b, or: dbb ignore a.b", ("", ["dbb release a.b", "dbb ignore a.b"])),
    ],
)
def test_the_command_of_an_advice_stands_alone(advice: str, split: tuple[str, list[str]]) -> None:
    assert words.commands_in(advice) == split


def test_the_verdict_of_a_site_that_is_well() -> None:
    health = examples.well()
    assert words.verdict(health) == "WELL"
    assert words.in_short(health) == "no file waits."


def test_a_buffer_that_cannot_be_read_is_not_said_to_be_empty() -> None:
    waiting = Waiting(site="summit", label="handoff.a", step="deliver", files=0, at_least=True)
    health = replace(examples.well(), backlog=[waiting])
    assert words.in_short(health) == "whether files wait is not known."


def test_the_verdict_of_a_site_in_trouble_names_the_worst() -> None:
    health = examples.in_trouble()
    assert words.verdict(health) == "NOT WELL"
    assert words.in_short(health) == (
        "archive finder.latiss: try again later since 2026-11-30 04:09 UTC (5 h); 5 troubles, 4 "
        "need a person; at least 1,427 files wait."
    )


def test_one_trouble_and_one_file_are_one() -> None:
    trouble = replace(examples.in_trouble().troubles[2], since=None)
    waiting = replace(examples.in_trouble().backlog[2], files=1)
    health = Health(at=examples.NOW, site="summit", troubles=[trouble], backlog=[waiting])
    assert (
        words.in_short(health)
        == "archive target.rucio: gave up; 1 trouble, 1 needs a person; 1 file waits."
    )


def test_what_cannot_be_known_is_not_called_well() -> None:
    trouble = replace(examples.in_trouble().troubles[0], level=Level.UNKNOWN)
    health = Health(at=examples.NOW, site="summit", troubles=[trouble])
    assert words.verdict(health) == "NOT KNOWN WHETHER ALL IS WELL"


def test_the_summary_of_a_night_counts_what_is_known() -> None:
    assert words.night_summary(examples.night(trouble=True)) == (
        "410 of 420 expected exposures found, 410 delivered, 253 stored (157 missing), "
        "253 in target.gen3 (157 missing), 253 in target.rucio (157 missing)."
    )
    night = examples.night()
    elsewhere = replace(night.steps[1], files=0, unknown_files=1640, unknown=410)
    few = replace(night, expected=None, found=1, unit="file", steps=(night.steps[0], elsewhere))
    assert words.night_summary(few) == "1 file found."


@pytest.mark.parametrize(
    ("number", "shown"),
    [(None, ""), (999, "999 B"), (1500, "1.5 kB"), (23_000_000, "23.0 MB"), (4e12, "4.0 TB")],
)
def test_sizes_are_for_people(number: int | None, shown: str) -> None:
    assert words.size_for_people(number) == shown
