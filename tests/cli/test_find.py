"""`dbb find`: what is printed can be pasted, and means that file."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.site import Site

HOSTILE = [b"two\nlines", b'it\'s "$(x)" `y`', b"caf\xe9\xff", b"-rf", b"back\\slash", b"a b;*?"]


def paths(out: str) -> list[bytes]:
    """Return the paths that a shell makes of the lines that begin a file."""
    words = [line for line in out.splitlines() if not line.startswith(" ")]
    script = f"printf '%s\\0' {' '.join(words)}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    return done.stdout.split(b"\0")[:-1]


@pytest.fixture
def moved(site: Site) -> Site:
    """A file on each step of the way."""
    site.put("2026-11-24/AT_O_20261124_1.fits")
    for script in ("dbb-handoff", "dbb-finder", "dbb-ingester"):
        assert site.run(script).code == 0
    site.put("2026-11-24/AT_O_20261124_2.fits")
    assert site.run("dbb-handoff").code == 0
    return site


def test_each_file_is_shown_once_with_where_it_is_and_its_statuses(moved: Site) -> None:
    code, out, err = moved.run("dbb", "find", "2026-11-24", "AT_O_20261124_1")
    night = "2026-11-24/AT_O_20261124"
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{moved.storage}/{night}_1.fits",
        f"  also {moved.holding}/{night}_1.fits",
        f"  summit handoff.latiss HELD, {moved.storage} STORED, target.a SUCCESS",
        f"{moved.holding}/{night}_2.fits",
        "  summit handoff.latiss HELD",
    ]


def test_a_file_that_nobody_knows_has_exit_code_1_and_similar_names(moved: Site) -> None:
    code, out, err = moved.run("dbb", "find", "AT_O_20261142_1.fits")
    assert (code, out) == (1, "")
    assert "similar names: AT_O_20261124_1.fits" in err
    code, out, _ = moved.run("dbb", "find", "AT_O_20261142_1.fits", "--json")
    assert code == 1
    assert "AT_O_20261124_1.fits" in json.loads(out)["near"]


def test_what_is_not_shown_is_counted(moved: Site) -> None:
    code, out, err = moved.run("dbb", "find", "*.fits", "--limit", "1")
    assert (code, len(paths(out))) == (0, 1)
    assert err.startswith("and 1 more: ")


@pytest.mark.promise
def test_hostile_names_can_be_pasted(site: Site) -> None:
    for name in HOSTILE:
        site.put(b"night/" + name)
    assert site.run("dbb-handoff").code == 0
    ran = site.run("dbb", "find", "night/")
    assert sorted(paths(ran.out)) == sorted(
        os.fsencode(site.holding) + b"/night/" + name for name in HOSTILE
    )
    for name in HOSTILE:
        (found,) = paths(site.run("dbb", "find", "--", os.fsdecode(name)).out)
        assert Path(os.fsdecode(found)).read_bytes() == b"data"
    told = json.loads(site.run("dbb", "find", "night/", "--json").out)
    assert len(told["places"]) == len(HOSTILE)
