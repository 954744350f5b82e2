"""The pages, as text that a browser gets."""

import itertools
import json
import re
from dataclasses import replace
from datetime import datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from dbbbatch.report.health import Health
from dbbbatch.report.nights import Night, NightFile
from dbbbatch.report.page import render
from dbbbatch.report.survey import Survey
from tests.report.page import examples


def index(health: Health | None = None) -> str:
    seen = examples.survey(health)
    return render.overview(seen, [one.day for one in seen.nights]).decode()


def page_of(given: Night | None = None, **values: Any) -> render.NightPage:
    others: dict[str, Any] = {
        "site": "summit",
        "over": True,
        "before": examples.LAST - timedelta(days=1),
        "after": None,
        "unfinished": list(examples.files_of(examples.LAST))[-len(examples.HOSTILE) :],
    }
    return render.NightPage(night=given or examples.night(trouble=True), **others | values)


def night(given: Night | None = None, **values: Any) -> str:
    return page_of(given, **values).html(examples.NOW).decode()


class Structure(HTMLParser):
    """Collects tags, headings and the text between tags."""

    VOID = frozenset({"meta", "link", "input", "br", "img"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def all(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]


@pytest.mark.parametrize("page", [index(), index(examples.well()), night()])
class TestEachPage:
    def test_closes_what_it_opens(self, page: str) -> None:
        assert Structure(page).open == []

    def test_has_headings_in_order(self, page: str) -> None:
        levels = [int(tag[1]) for tag, _ in Structure(page).tags if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(levels))

    def test_has_tables_that_name_their_cells(self, page: str) -> None:
        found = Structure(page)
        assert len(found.all("caption")) == len(found.all("table")) > 0
        assert all(cell.get("scope") in ("col", "row") for cell in found.all("th"))

    def test_fetches_nothing_but_its_own_script(self, page: str) -> None:
        found = Structure(page)
        places = [
            a.get("src") or a.get("href") for a in found.all("script", "img", "link", "iframe")
        ]
        assert places == ["data:,", "search.js"]
        assert (
            re.findall(r"(?:https?:)?//[a-z]+\.[a-z.]+", re.sub(r'xmlns\S*="[^"]*"', "", page))
            == []
        )

    def test_uses_no_identity_twice(self, page: str) -> None:
        found = [attributes["id"] for _, attributes in Structure(page).tags if "id" in attributes]
        assert len(found) == len(set(found))

    def test_names_what_its_attributes_refer_to(self, page: str) -> None:
        found = Structure(page)
        known = {attributes.get("id") for _, attributes in found.tags}
        for _, attributes in found.tags:
            for key in ("aria-labelledby", "aria-describedby", "for"):
                assert set((attributes.get(key) or "").split()) <= known

    def test_runs_no_script_of_its_own_text(self, page: str) -> None:
        found = Structure(page)
        assert len(found.all("script")) == 1
        assert [a for _, a in found.tags if any(name.startswith("on") for name in a)] == []

    def test_says_that_times_are_utc_and_when_it_was_made(self, page: str) -> None:
        assert "All times are UTC." in page
        assert '<time datetime="2026-11-30T09:12:05Z">2026-11-30 09:12</time>' in page

    def test_hides_the_search_that_only_the_script_shows(self, page: str) -> None:
        (form,) = Structure(page).all("form")
        assert "hidden" in form


class TestOverview:
    def test_says_first_whether_all_is_well(self) -> None:
        assert "<h1>NOT WELL</h1>" in index()
        assert "<h1>WELL</h1>" in index(examples.well())
        assert index().index("<h1>") < index().index("<h2")

    def test_shows_the_command_to_type_for_what_needs_a_person(self) -> None:
        assert "<code>dbb -c /etc/dbb/dbb.toml retry target.rucio</code>" in index()

    def test_keeps_apart_what_is_tried_again_by_itself(self) -> None:
        page = index()
        assert page.index("Needs a person") < page.index("gave up")
        assert page.index("gave up") < page.index("Needs nobody yet") < page.index("failing")

    def test_shows_components_against_what_is_expected(self) -> None:
        text = " ".join(Structure(index()).text)
        assert "✕ ok, overdue" in text
        assert "4 d ago" in text
        assert "every 60 min" in text

    def test_shows_each_component_as_bad_as_its_troubles(self) -> None:
        page = index()
        assert '<span class="critical">✕ later (75), overdue</span>' in page
        assert '<span class="warning">! failed (1)</span>' in page
        assert '<span class="unknown">? never</span>' in page
        assert '<span class="well">✓ ok</span>' in index(examples.well())

    def test_does_not_miss_what_a_night_may_still_bring(self) -> None:
        assert "10 not found" in index(replace(examples.well(), at=datetime(2026, 12, 1)))
        assert index(examples.well()).count("so far") == 1

    def test_shows_how_long_the_backlog_takes(self) -> None:
        text = " ".join(Structure(index()).text)
        assert "at least 1,203" in text
        assert "done in 10 min" in text
        assert "it grows" in text

    def test_warns_of_too_little_room(self) -> None:
        assert "61.0 GB: too little" in index()

    def test_links_to_each_night(self) -> None:
        links = [a.get("href") for a in Structure(index()).all("a")]
        assert {"night-2026-11-29.html", "night-2026-11-28.html"} <= set(links)

    def test_says_what_it_does_not_know_without_the_database(self) -> None:
        health = replace(examples.in_trouble(), database="dbhost: connection refused")
        seen = Survey(health=health, unknown=health.database)
        page = render.overview(seen, [examples.LAST]).decode()
        assert "dbhost: connection refused" in page
        assert "does not know what other hosts do" in page
        assert "These pages are from before" in page
        assert 'href="night-2026-11-29.html"' in page

    def test_has_room_for_a_site_that_does_nothing_yet(self) -> None:
        page = render.overview(Survey(health=Health(at=examples.NOW, site="new")), []).decode()
        assert "None has made a pass yet." in page
        assert "No files were found in these nights." in page


class TestNight:
    def test_counts_what_is_expected_found_stored_and_missing(self) -> None:
        text = re.sub(r"\s+", " ", " ".join(Structure(night()).text))
        assert "410 of 420 expected exposures found" in text
        assert "target.gen3 archive 253 157 1,015 625" in text

    def test_does_not_warn_of_what_it_may_still_bring(self) -> None:
        assert '<span class="bar warning"><i style="width:98%">' in night(examples.night())
        page = night(examples.night(), over=False)
        assert '<span class="bar "><i style="width:98%">' in page
        assert "exposures so far" in page

    def test_shows_latencies_and_the_worst_files(self) -> None:
        text = re.sub(r"\s+", " ", " ".join(Structure(night()).text))
        assert "delivered found 1,640 9 s 36 s 2 min 14 min" in text
        assert "The slowest files until stored" in text

    def test_shows_failures_by_reason(self) -> None:
        assert "ConflictingDefinitionError: exposure #" in night()

    def test_counts_files_where_there_are_no_exposures(self) -> None:
        page = night(replace(examples.night(), unit="file", expected=None))
        assert "exposure" not in page.replace("ConflictingDefinitionError: exposure", "")
        assert "the configuration does not say" in page

    def test_says_what_is_another_sites_business(self) -> None:
        given = examples.night()
        elsewhere = replace(
            given.steps[1], done=0, files=0, unknown=410, unknown_files=1640, latency=None
        )
        page = night(replace(given, steps=(given.steps[0], elsewhere)))
        assert "Not known here: it is the business of another site." in page

    def test_has_a_digest_that_changes_with_what_it_shows(self) -> None:
        digest = page_of(examples.night()).digest()
        assert f"<!-- dbb-report {digest} -->" in night(examples.night())
        assert digest == page_of(examples.night()).digest()
        assert digest != page_of(replace(examples.night(), withdrawn=1)).digest()
        assert digest != page_of(examples.night(), after=examples.LAST).digest()
        assert digest != page_of(examples.night(), unfinished=()).digest()

    def test_names_files_that_have_not_made_all_steps(self) -> None:
        text = re.sub(r"\s+", " ", " ".join(Structure(night()).text))
        assert "2026-11-29/<script>alert(1)</script>.fits in the buffer" in text
        many = [NightFile(f"{number}.fits", 1, "missing") for number in range(150)]
        assert "And 50 more; the search on this page finds them." in night(unfinished=many)
        assert len(night(unfinished=many)) < len(night()) + 100 * 150


@pytest.mark.promise
@pytest.mark.parametrize("name", examples.HOSTILE)
class TestHostileNames:
    def test_are_text_in_the_overview(self, name: str) -> None:
        health = examples.in_trouble()
        trouble = replace(health.troubles[0], message=name, label=name, listing=name, site=name)
        component = replace(health.components[0], label=name, message=name, state=name)
        page = index(replace(health, site=name, troubles=[trouble], components=[component]))
        self.check(page)

    def test_are_text_in_a_night(self, name: str) -> None:
        given = examples.night()
        reason = replace(given.reasons[0], step=name, text=name, example=name)
        steps = tuple(replace(step, site=name) for step in given.steps)
        self.check(night(replace(given, reasons=(reason,), steps=steps)))

    def check(self, page: str) -> None:
        found = Structure(page)
        assert len(found.all("script")) == 1
        assert found.all("img") == []
        assert all(character.isprintable() or character == "\n" for character in page)
        assert "49.fits" not in page


class TestFilesOfNight:
    def test_are_names_by_state_and_directory(self) -> None:
        script = render.files_of_night(examples.LAST, examples.files_of(examples.LAST)).decode()
        assert script.isascii()
        found = re.fullmatch(r'// dbb-report\ndbbFiles\("2026-11-29",(.*)\);\n', script)
        assert found
        files = {(state, relpath): names for state, relpath, names in json.loads(found[1])}
        assert len(files["stored, gen3: SUCCESS, rucio: SUCCESS", "2026-11-29"]) == 1640
        assert "new\\x0aline.fits" in files["in the buffer", "2026-11-29"]

    def test_are_small(self) -> None:
        """A little more than the name of each."""
        assert (
            len(render.files_of_night(examples.LAST, examples.files_of(examples.LAST))) < 40 * 1640
        )

    def test_may_be_none(self) -> None:
        assert render.files_of_night(examples.LAST, []).endswith(b'("2026-11-29",[]);\n')


def test_a_page_of_another_day_has_that_day() -> None:
    day = datetime(2026, 3, 1).date()
    assert "<h1>Night 2026-03-01</h1>" in night(examples.night(day))


@pytest.mark.parametrize(
    ("where", "targets", "unfinished"),
    [
        ("in the buffer", {}, True),
        ("delivered", {}, True),
        ("missing", {}, True),
        ("stored", {}, False),
        ("stored", {"a": "SUCCESS", "b": "BACKFILL", "c": "IGNORED"}, False),
        ("stored", {"a": "SUCCESS", "b": "UNTRIED"}, True),
        ("ignored", {}, False),
        ("forgotten", {"a": "UNTRIED"}, False),
    ],
)
def test_a_file_is_unfinished_if_it_has_steps_to_make(
    where: str, targets: dict[str, str], unfinished: bool
) -> None:
    file = NightFile("a.fits", 1, where, targets)
    assert render.is_unfinished(file, examples.night(trouble=True)) == unfinished


def test_a_delivered_file_is_finished_where_storage_is_another_sites_business() -> None:
    file, given = NightFile("a.fits", 1, "delivered"), examples.night()
    assert not render.is_unfinished(file, given)
