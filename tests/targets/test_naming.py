"""Names made of a file's own names."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from dbbbatch.targets import naming
from dbbbatch.targets.plugin import Misconfigured, StoredFile

FILE = StoredFile(1, "/s/2026/a b.fits.fz", "2026", "a b.fits.fz", 5, added_on=datetime(2026, 3, 4))


def filled(text: str, pattern: str = "", file: StoredFile = FILE) -> str:
    namer = naming.Namer(naming.pattern(pattern), "gen3", {"name": naming.template(text)})
    return namer.names(file)["name"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{relpath}/{filename}", "2026/a b.fits.fz"),
        ("{stem}|{suffix}", "a b.fits|.fz"),
        ("file://localhost{path}", "file://localhost/s/2026/a b.fits.fz"),
        ("{added_on:%Y%m%d}", "20260304"),
        ("{target}", "gen3"),
        ("{{plain}}", "{plain}"),
    ],
)
def test_fields(text: str, expected: str) -> None:
    assert filled(text) == expected


def test_groups_of_the_pattern() -> None:
    assert filled("night-{year}", r"^(?P<year>\d{4})/") == "night-2026"


def test_group_that_did_not_take_part_is_empty() -> None:
    assert filled("{a}{b}", r"(?P<a>2026)|(?P<b>2027)") == "2026"


def test_pattern_that_does_not_match() -> None:
    with pytest.raises(naming.NoName, match="does not match its path"):
        filled("{x}", "(?P<x>nowhere)")


@pytest.mark.parametrize("text", ["{night}", "{relpat}"])
def test_field_that_there_is_not(text: str) -> None:
    with pytest.raises(Misconfigured, match=r"^name: \{\w+\} has no value"):
        filled(text)


@pytest.mark.parametrize("text", ["{", "{0}", "{filename.upper}", "{filename[0]}"])
def test_what_is_no_template(text: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        naming.template(text)


def test_format_that_does_not_fit() -> None:
    with pytest.raises(Misconfigured, match=r"name: '{filename:d}'"):
        filled("{filename:d}")


def test_names_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    file = StoredFile(1, "/s/\udcff", "", "\udcff", 1)
    assert filled("{filename}", file=file) == "\udcff"
