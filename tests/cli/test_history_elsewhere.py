"""`dbb history --remote` asks the endpoints, which have a database of their own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from dbbbatch.config import toml
from tests.support.scripts import TOP, run_script
from tests.support.site import Site

pytestmark = pytest.mark.parametrize("backend", ["sqlite"])


@pytest.fixture
def archive(site: Site) -> Path:
    """Another site, with a database of its own, which has stored a file of this one."""
    root = site.root / "elsewhere"
    for name in ("quarantine", "state"):
        (root / name).mkdir(parents=True)
    config = root / "dbb.toml"
    finder = {"source": site.far_buffer, "storage": site.storage, "quarantine": root / "quarantine"}
    receive = {"buffer": site.far_buffer, "staging": site.staging, "confirm": [str(site.storage)]}
    document = {
        "site": {"name": "archive", "state": root / "state"},
        "database": {"url": f"sqlite:///{root}/dbb.sqlite"},
        "finder.there": {**finder, "min_free": 0},
        "receive.latiss": receive,
    }
    config.write_text(toml.toml_document(document))
    asked = f"{sys.executable} {TOP}/bin/dbb -c {config} confirm"
    site.write(handoff={"min_free": 0}, endpoint={"confirm": asked})
    site.put("night/a")
    site.put("night/b\tc")
    env = {"DBB_CONFIG": str(config)}
    assert site.run("dbb-handoff").code == 0
    assert run_script("dbb", "init", env=env).code == 0
    assert run_script("dbb-finder", env=env).code == 0
    return config


def test_what_happened_there_is_shown_beside_what_happened_here(site: Site, archive: Path) -> None:
    (here,) = json.loads(site.run("dbb", "history", "night/a", "--json").out)
    assert here["elsewhere"] == {}
    ran = site.run("dbb", "history", "night/a", "--remote", "--json")
    assert (ran.code, ran.err) == (0, "")
    (here,) = json.loads(ran.out)
    (there,) = here["elsewhere"].values()
    assert there["versions"][0]["path"] == f"{site.storage}/night/a"
    assert [event["where"] for event in there["events"]] == ["finder.there"]
    ran = site.run("dbb", "history", "night", "--remote")
    assert ran.out.count("at the endpoint of handoff.latiss (UTC)") == 2
    assert f"stored in {site.storage}" in " ".join(ran.out.split())


def test_one_that_does_not_answer_is_told_of_after_what_is_known_here(
    site: Site, archive: Path
) -> None:
    site.write(endpoint={"confirm": "false"})
    ran = site.run("dbb", "history", "night/a", "--remote")
    assert ran.code == 75
    assert "moved to holding" in ran.out
    assert "did not confirm" in ran.err


def test_an_older_one_tells_none(site: Site, archive: Path) -> None:
    program = site.root / "old.py"
    program.write_text(
        "import json, sys\nprint(json.loads(sys.stdin.readline())['nonce'], 'end', 0)\n"
    )
    site.write(endpoint={"confirm": f"{sys.executable} {program}"})
    ran = site.run("dbb", "history", "night/a", "--remote")
    assert ran.code == 75
    assert "tells no histories; it may have an older dbbbatch" in ran.err


def test_without_confirm_nobody_can_be_asked(site: Site, archive: Path) -> None:
    site.write()
    ran = site.run("dbb", "history", "night/a", "--remote")
    assert ran.code == 64
    assert "no endpoint of this configuration has `confirm`" in ran.err


@pytest.mark.promise
def test_a_bound_key_may_ask_only_where_that_is_allowed(site: Site, archive: Path) -> None:
    remote = f"env SSH_ORIGINAL_COMMAND={{command}} {sys.executable} {TOP}/bin/dbb -c {archive} "
    site.write(endpoint={"confirm": "dbb confirm", "remote": f"{remote} receive latiss"})
    ran = site.run("dbb", "history", "night/a", "--remote")
    assert ran.code == 75
    assert "this key may not ask what happened to files" in ran.err
    text = archive.read_text()
    archive.write_text(text.replace("[receive.latiss]", "[receive.latiss]\nhistory = true"))
    ran = site.run("dbb", "history", "night/a", "--remote", "--json")
    assert (ran.code, ran.err) == (0, "")
    (here,) = json.loads(ran.out)
    assert len(here["elsewhere"]) == 1
    # About files of its storage areas only.
    archive.write_text(
        archive.read_text().replace(f'confirm = ["{site.storage}"', 'confirm = ["/x"')
    )
    (here,) = json.loads(site.run("dbb", "history", "night/a", "--remote", "--json").out)
    assert here["elsewhere"] == {}
