"""The plots of a night."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from dbbbatch.report.page import plots
from tests.report.page import examples


@pytest.mark.parametrize("draw", [plots.bytes_by_time, plots.latencies])
class TestEach:
    def test_is_one_element_with_a_title_and_a_description(self, draw) -> None:
        plot = draw(examples.night(trouble=True))
        svg = ET.fromstring(plot.svg.replace("xlink:href", "href"))
        named = {element.get("id"): element.text or "" for element in svg.iter()}
        title, text = svg.get("aria-labelledby", "").split()
        assert svg.get("role") == "img"
        assert named[title]
        assert "target.rucio" in named[text]

    def test_has_the_colours_and_letters_of_the_page(self, draw) -> None:
        svg = draw(examples.night()).svg
        assert re.findall(r"#[0-9a-f]{6}\b", svg) == []
        assert "font-family" not in svg
        assert "<style" not in svg
        assert set(re.findall(r"var\(--(\w+)\)", svg)) <= set(plots._COLOURS)

    def test_is_the_same_for_the_same_night(self, draw) -> None:
        assert draw(examples.night()).svg == draw(examples.night()).svg

    def test_is_small(self, draw) -> None:
        assert len(draw(examples.night()).svg) < 30_000

    def test_is_left_out_where_there_is_nothing_to_draw(self, draw) -> None:
        night = examples.night()
        none = replace(night.steps[0], bytes_by_time=(0,) * 96)
        assert draw(replace(night, steps=(none,))) is None


def test_two_plots_of_a_page_share_no_name() -> None:
    night = examples.night()
    ids = [
        set(re.findall(r'\bid="([^"]*)"', plot.svg))
        for plot in (plots.bytes_by_time(night), plots.latencies(night))
        if plot
    ]
    assert not ids[0] & ids[1]


def test_a_name_of_a_target_is_text() -> None:
    night = examples.night()
    steps = (*night.steps[:1], replace(night.steps[1], name="<b>$x$</b>"))
    for draw in (plots.bytes_by_time, plots.latencies):
        plot = draw(replace(night, steps=steps))
        assert plot is not None
        assert "<b>" not in plot.svg
        assert plot.svg.count("&lt;b&gt;$x$&lt;/b&gt;") == 2
