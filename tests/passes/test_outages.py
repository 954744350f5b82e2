"""One outage is told once when it begins and once when it is over, whoever meets it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from dbbbatch.passes import outages
from dbbbatch.passes.notices import Symptom
from dbbbatch.passes.outages import Outage, What

AWAY = "archive does not answer"
FINDER, HANDOFF, TARGET = "finder.a", "handoff.a", "target.a"


class Site:
    """What is told at a site, pass after pass; a minute lies between two."""

    def __init__(self) -> None:
        self.known: dict[str, Outage] = {}
        self.now = 1e9

    def a_pass(
        self, label: str, *keys: str, whole: bool = True, after: float = 60, **levels: int
    ) -> list[str]:
        """Make a pass that meets outages, and give what is told."""
        met = {key: Symptom(message=key) for key in keys}
        met |= {
            key: Symptom(message=f"{level} files", level=level) for key, level in levels.items()
        }
        return self.follow(label, met, whole, after)

    def follow(
        self, label: str, met: Mapping[str, Symptom], whole: bool = True, after: float = 60
    ) -> list[str]:
        self.now += after
        known, turns = outages.follow(self.known, label, met, whole, self.now)
        # It is remembered as JSON.
        self.known = outages.from_json(json.loads(json.dumps(outages.as_json(known))))
        return [f"{one.what}: {one.outage.message}" for one in turns]


@pytest.fixture
def site() -> Site:
    return Site()


def test_an_outage_is_told_when_it_begins_and_when_it_is_over(site: Site) -> None:
    assert site.a_pass(HANDOFF, AWAY) == [f"begins: {AWAY}"]
    assert site.a_pass(HANDOFF, AWAY) == []
    assert site.a_pass(HANDOFF) == [f"is over: {AWAY}"]
    assert site.a_pass(HANDOFF) == []


def test_what_several_components_meet_is_told_once_and_is_over_when_the_last_is(site: Site) -> None:
    assert site.a_pass(FINDER, AWAY, after=1) == [f"begins: {AWAY}"]
    assert site.a_pass(TARGET, AWAY, after=1) == []
    assert site.a_pass(FINDER) == []
    assert site.a_pass(TARGET) == [f"is over: {AWAY}"]


def test_a_pass_that_broke_off_ends_no_outage(site: Site) -> None:
    site.a_pass(HANDOFF, AWAY)
    assert site.a_pass(HANDOFF, "disk full", whole=False) == ["begins: disk full"]
    assert AWAY in site.known


def test_another_component_that_never_met_an_outage_ends_none(site: Site) -> None:
    site.a_pass(HANDOFF, AWAY)
    assert site.a_pass(FINDER) == []
    assert AWAY in site.known


def test_what_has_doubled_is_told_again_and_what_has_shrunk_is_not(site: Site) -> None:
    assert site.a_pass(TARGET, stuck=2) == ["begins: 2 files"]
    assert site.a_pass(TARGET, stuck=3) == []
    assert site.a_pass(TARGET, stuck=5) == ["has grown: 5 files"]
    assert site.a_pass(TARGET, stuck=3) == []
    assert site.a_pass(TARGET, stuck=5) == []


def test_a_component_whose_passes_are_rare_keeps_no_outage_open(site: Site) -> None:
    site.a_pass("janitor.a", AWAY)
    site.a_pass(HANDOFF, AWAY)
    assert site.a_pass(HANDOFF) == []
    assert site.a_pass(HANDOFF, after=600) == [f"is over: {AWAY}"]


def test_one_that_met_it_later_keeps_it_open_however_long_ago(site: Site) -> None:
    site.a_pass(TARGET, AWAY)
    site.a_pass(HANDOFF, AWAY)
    site.a_pass(TARGET)  # it had nothing to do
    assert site.a_pass(TARGET, after=86400) == []
    assert AWAY in site.known


def test_a_component_that_meets_it_again_is_not_over_it(site: Site) -> None:
    site.a_pass(TARGET, AWAY)
    site.a_pass(HANDOFF, AWAY)
    site.a_pass(TARGET)
    site.a_pass(TARGET, AWAY)
    assert site.a_pass(HANDOFF) == []


def test_what_a_component_met_that_never_came_back_is_let_go(site: Site) -> None:
    site.a_pass("finder.removed", AWAY)
    assert site.a_pass(HANDOFF, after=7 * 86400) == []
    assert site.a_pass(HANDOFF, after=86401) == [f"is no longer watched: {AWAY}"]


def test_what_could_not_be_told_is_told_by_the_next_pass_with_the_time_when_it_began(
    site: Site,
) -> None:
    met = {AWAY: Symptom(message=AWAY)}
    after, turns = outages.follow({}, HANDOFF, met, False, 100.0)
    kept = outages.untold({}, after, turns)
    _, turns = outages.follow(kept, HANDOFF, met, False, 200.0)
    assert [(one.what, one.outage.since) for one in turns] == [(What.BEGINS, 100.0)]


def test_an_end_that_could_not_be_told_is_told_by_the_next_pass_of_anyone(site: Site) -> None:
    site.a_pass(HANDOFF, AWAY)
    before = dict(site.known)
    after, turns = outages.follow(before, HANDOFF, {}, True, site.now)
    site.known = outages.untold(before, after, turns)
    assert site.a_pass(FINDER) == [f"is over: {AWAY}"]


def test_growth_that_could_not_be_told_is_told_by_the_next_pass(site: Site) -> None:
    site.a_pass(TARGET, stuck=2)
    before = dict(site.known)
    met = {"stuck": Symptom(message="5 files", level=5)}
    after, turns = outages.follow(before, TARGET, met, True, site.now)
    site.known = outages.untold(before, after, turns)
    assert site.a_pass(TARGET, stuck=5) == ["has grown: 5 files"]


@pytest.mark.parametrize("found", [{"x": None}, {"x": {}}, {"x": {"holders": {"a": 1}}}])
def test_a_memory_that_makes_no_sense_is_none(found: dict[str, object]) -> None:
    assert outages.from_json(found) == {}


# ---- words -------------------------------------------------------------------------------------


def told(symptom: Symptom, *, over_after: float = 0) -> tuple[str, str]:
    known, turns = outages.follow({}, HANDOFF, {"x": symptom}, True, 1e9)
    if over_after:
        _, turns = outages.follow(known, HANDOFF, {}, True, 1e9 + over_after)
    now = 1e9 + over_after
    return outages.subject_of("summit", turns), outages.text_of(turns, now)


def test_a_message_names_the_first_files_and_counts_the_others() -> None:
    symptom = Symptom(message="27 files failed")
    for number in range(27):
        symptom.add(f"night/{number}.fits" if number < 12 else "")
    _, text = told(symptom)
    assert "files: night/0.fits, night/1.fits, night/2.fits, night/3.fits, night/4.fits, " in text
    assert text.endswith("and 22 more")


def test_a_message_says_how_long_an_outage_lasted() -> None:
    subject, text = told(Symptom(message="archive cannot be reached"), over_after=2520)
    assert subject == "summit: is over: archive cannot be reached"
    assert "lasted 42 min, since 2001-09-09 01:46 UTC" in text
    assert "met by handoff.a" in text


def test_a_subject_is_one_short_harmless_line() -> None:
    subject, text = told(Symptom(message="a\nb\x1b[2J " + "x" * 500))
    assert subject.startswith("summit: NOT WELL: a\\x0ab\\x1b[2J xx")
    assert len(subject) == 120
    assert "\x1b" not in text


def test_a_subject_says_what_begins_rather_than_what_is_over() -> None:
    known, _ = outages.follow({}, HANDOFF, {"x": Symptom(message="old")}, True, 1.0)
    _, turns = outages.follow(known, HANDOFF, {"y": Symptom(message="new")}, True, 2.0)
    assert outages.subject_of("s", turns) == "s: NOT WELL: new (and 1 more)"
