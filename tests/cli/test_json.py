"""What commands print for programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from dbbbatch.cli import described
from tests.docs import reference
from tests.support.site import Site

#: Every command with --json, and what it is asked.
ASKED = {
    "dbb status": [],
    "dbb find": ["2026-11-24"],
    "dbb list": ["finder.latiss"],
    "dbb history": ["a"],
    "dbb quarantine list": [],
    "dbb target list": [],
    "dbb pause": [],
    "dbb check": [],
    "dbb config check": [],
}

TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d")
IN_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)


def test_every_command_with_json_is_asked_here() -> None:
    have = {name for name, one in described.commands() if "--json" in reference.options(one)}
    assert have == ASKED.keys()


@pytest.fixture
def site_with_all(site: Site) -> Site:
    """Return a site with a stored, a quarantined and a missing file, and a pause."""
    for name in ("a", "b"):
        site.put(f"2026-11-24/{name}")
    for script in ("dbb-handoff", "dbb-finder", "dbb-ingester"):
        assert site.run(script).code == 0
    site.put("2026-11-24/a", b"other", site.far_buffer)
    assert site.run("dbb-finder").code == 1
    (site.storage / "2026-11-24/b").unlink()
    assert site.run("dbb-auditor", "--missing", "1").code == 1
    assert site.run("dbb", "pause", "handoff.latiss", "--until", "2999-01-01").code == 0
    return site


def test_times_in_json_end_in_z(site_with_all: Site) -> None:
    for command, arguments in ASKED.items():
        program, *words = command.split()
        ran = site_with_all.run(program, *words, *arguments, "--json")
        assert ran.code in (0, 1), (command, ran.err)
        told = list(texts(json.loads(ran.out)))
        if command not in ("dbb check", "dbb config check", "dbb target list"):
            assert any(map(IN_ISO.fullmatch, told)), command
        # A message may name a time, in words.
        times = [text for text in told if TIME.match(text)]
        assert [text for text in times if not IN_ISO.fullmatch(text)] == [], command
