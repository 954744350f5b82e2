"""The line of a monitoring plugin."""

from dataclasses import replace
from datetime import datetime, timedelta

from dbbbatch.report.health import Component, Health, Level, Trouble, Waiting
from dbbbatch.report.plugin_line import of_health, one_line

NOW = datetime(2026, 11, 30, 9, 30)
WELL = Health(
    at=NOW,
    site="summit",
    components=[
        Component(
            site="summit",
            label="handoff.latiss",
            host="mountain",
            state="ok",
            last_ok=NOW - timedelta(seconds=40),
        ),
        Component(site="summit", label="target.a", host="", state="never"),
    ],
    backlog=[
        Waiting(
            site="summit",
            label="handoff.latiss",
            step="deliver",
            files=3,
            size_bytes=5,
            oldest=NOW - timedelta(minutes=2),
        )
    ],
)


def test_a_site_that_is_well_is_ok_with_numbers() -> None:
    assert of_health(WELL) == (
        "DBB OK - 3 files wait | backlog_files=3;;;0 backlog_bytes=5B;;;0 backlog_oldest=120s;;;0"
        " troubles=0;;;0 'summit handoff.latiss last ok'=40s;;;0"
    )


def test_a_backlog_of_which_nothing_is_known_is_no_zero() -> None:
    unknown = Waiting(site="summit", label="finder.a", step="store", files=0, at_least=True)
    line = of_health(replace(WELL, backlog=[unknown]))
    assert line.startswith("DBB OK - whether files wait is not known | ")
    assert "backlog_files=U;;;0 backlog_bytes=U;;;0 backlog_oldest=U;;;0 troubles=" in line
    line = of_health(replace(WELL, backlog=[*WELL.backlog, unknown]))
    assert line.startswith("DBB OK - at least 3 files wait | backlog_files=3;;;0 ")


def test_troubles_are_named_and_more_are_counted() -> None:
    one = Trouble("summit", "target.a", "failing", 1, "no | detector", since=NOW)
    bad = replace(one, what="hangs", files=0, level=Level.CRITICAL)
    line = of_health(replace(WELL, troubles=[bad, one, one, one, one]))
    text, _, numbers = line.partition(" | ")
    assert text == (
        "DBB CRITICAL - summit target.a: hangs since 2026-11-30 09:30 UTC: no / detector; "
        "summit target.a: failing, 1 file since 2026-11-30 09:30 UTC: no / detector; "
        "summit target.a: failing, 1 file since 2026-11-30 09:30 UTC: no / detector; "
        "and 2 more troubles; 3 files wait"
    )
    assert "troubles=5;;;0" in numbers


def test_it_is_one_line_whatever_a_message_holds() -> None:
    assert one_line("a\nb|c\x1b d") == "a\\x0ab/c\\x1b d"
