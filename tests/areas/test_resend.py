"""`dbb resend`: held files go back to the buffer, and the next pass sends them again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.disks import behind_a_link
from tests.support.handing import HOSTILE, change, contents, make_pass, rows, statuses
from tests.support.scripts import Ran
from tests.support.site import Site, tree

FILES = {"night/a": b"one", "night/b c": b"two", "top": b"three"}

pytestmark = pytest.mark.promise


@pytest.fixture
def site(site: Site) -> Site:
    """Return a site whose files are held, and lost at the endpoint."""
    site.write(handoff={"min_free": 0})
    site.put_all(FILES)
    assert make_pass(site) == 0
    lose(site)
    return site


def lose(site: Site) -> None:
    for rel in tree(site.far_buffer):
        (site.far_buffer / rel).unlink()


def resend(site: Site, *arguments: str | Path, **more: bytes) -> Ran:
    return site.run("dbb", "resend", "handoff.latiss", *map(str, arguments), **more)


def test_the_next_pass_sends_it_again(site: Site) -> None:
    ran = resend(site, "night/a")
    assert ran == (0, "1 file of handoff.latiss is back in the buffer, for the next pass\n", "")
    assert tree(site.buffer) == {"night/a": b"one"}
    assert statuses(site)["night/a"] == "FOUND"
    assert make_pass(site) == 0
    assert tree(site.far_buffer) == {"night/a": b"one"}
    assert tree(site.holding) == FILES
    assert set(statuses(site).values()) == {"HELD"}
    assert sorted(rows(site, "held_as")) == ["a", "b c", "top"]


def test_a_held_file_behind_a_link_is_not_taken_for_moved(site: Site) -> None:
    os.makedirs(site.buffer / "night", exist_ok=True)
    os.link(site.holding / "night/a", site.buffer / "night/a")
    with behind_a_link(site.holding / "night"):
        assert resend(site, "night/a").code != 0
        assert statuses(site)["night/a"] == "HELD"
    assert tree(site.holding) == FILES


def test_it_may_be_named_by_any_of_its_paths_or_by_a_pattern(site: Site) -> None:
    named = (site.holding / "night/a", site.buffer / "night/b c", "t*")
    assert resend(site, *named).out.startswith("3 files ")
    assert tree(site.buffer) == FILES


def test_files_may_be_listed_in_a_file_or_on_stdin(site: Site, tmp_path: Path) -> None:
    (tmp_path / "lost").write_text("night/b c\n\n")
    assert resend(site, "--from-file", tmp_path / "lost").out.startswith("1 file ")
    assert resend(site, "--from-file", "-", stdin=b"top\n").out.startswith("1 file ")
    assert set(tree(site.buffer)) == {"night/b c", "top"}
    assert resend(site).code == 64


def test_dry_run_changes_nothing(site: Site) -> None:
    ran = resend(site, "night/*", "--dry-run")
    assert ran.out.splitlines() == [
        f"{site.holding}/night/a",
        f"{site.holding}/night/b c",
        "2 files of handoff.latiss would be back in the buffer, for the next pass",
    ]
    assert tree(site.holding) == FILES
    assert set(statuses(site).values()) == {"HELD"}


def test_history_says_that_it_was_sent_again_and_who_wanted_it(site: Site) -> None:
    resend(site, "night/a")
    make_pass(site)
    told = " ".join(site.run("dbb", "history", "night/a").out.split())
    assert "to be sent again" in told
    assert "`dbb resend` by " in told


def test_a_file_that_is_there_and_the_same_is_fine(site: Site) -> None:
    site.put("top", b"three", site.far_buffer)
    resend(site, "top")
    assert make_pass(site) == 0
    assert statuses(site)["top"] == "HELD"
    assert tree(site.far_buffer) == {"top": b"three"}


def test_another_file_at_the_far_end_is_not_overwritten(site: Site) -> None:
    site.put("top", b"other", site.far_buffer)
    resend(site, "top")
    make_pass(site)
    assert tree(site.far_buffer) == {"top": b"other"}
    assert tree(site.buffer) == {"top": b"three"}


def test_a_newer_version_in_the_buffer_goes_first(site: Site) -> None:
    site.put("top", b"newer")
    ran = resend(site, "top", "night/a")
    assert ran.code == 64
    assert ran.out.startswith("1 file ")
    assert f"{site.buffer}/top: the buffer has another file of this name" in ran.err
    assert tree(site.buffer) == {"top": b"newer", "night/a": b"one"}
    assert tree(site.holding)["top"] == b"three"
    assert make_pass(site) == 0
    assert tree(site.holding) == {**FILES, "top.~1~": b"newer"}


def test_which_of_two_versions_must_be_said(site: Site) -> None:
    site.put("top", b"newer")
    make_pass(site)
    lose(site)
    ran = resend(site, "top")
    assert ran.code == 64
    assert f"name one of them: {site.holding}/top, {site.holding}/top.~1~" in ran.err
    assert resend(site, "top.~1~").code == 0
    assert make_pass(site) == 0
    assert tree(site.far_buffer) == {"top": b"newer"}
    assert tree(site.holding) == {**FILES, "top.~1~": b"newer"}
    assert resend(site, site.holding / "top").code == 0
    assert tree(site.buffer) == {"top": b"three"}


def test_what_is_not_held_is_told(site: Site) -> None:
    site.put("new", b"new")
    make_pass(site)
    change(site, "UPDATE handoff_file SET status = 'PURGED' WHERE filename = 'new'")
    ran = resend(site, "new", "unknown", "un*")
    assert ran.code == 64
    assert ran.err.splitlines() == [
        "dbb: new: is not in the holding area: PURGED",
        "dbb: unknown: the table knows no such file of handoff.latiss",
        "dbb: un*: no held file of handoff.latiss is like this",
    ]


@pytest.mark.parametrize("how", ["removed", "changed"])
def test_what_holding_does_not_have_as_delivered_is_not_sent(site: Site, how: str) -> None:
    (site.holding / "top").unlink()
    if how == "changed":
        site.put("top", b"somebody's", site.holding)
    for option in ((), ("--dry-run",)):
        ran = resend(site, "top", *option)
        assert (ran.code, ran.out.splitlines()[-1].startswith("0 files")) == (64, True)
        assert f"{site.holding}/top: is not " in ran.err
    assert statuses(site)["top"] == "HELD"


def test_what_no_pass_would_take_stays(site: Site) -> None:
    site.write(handoff={"min_free": 0, "exclude": ["^top$"]})
    ran = resend(site, "top")
    assert "[handoff.latiss] exclude has '^top$'" in ran.err
    assert tree(site.holding) == FILES


def test_an_area_that_is_not_mounted_is_waited_for(site: Site) -> None:
    os.rename(site.holding, site.root / "away")
    assert resend(site, "top").code == 75
    assert statuses(site)["top"] == "HELD"


def test_a_pass_that_was_faster_is_not_undone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from dbbbatch.areas import resend as module
    from dbbbatch.cli import by_hand
    from dbbbatch.database import connect
    from dbbbatch.files.roots import Roots

    settings = site.settings()
    section = settings.handoff["latiss"]
    connect.connect(settings.database)
    held, _ = by_hand.held_files("summit", section, ["top"])
    resending = module.Resending(section, Roots(), "a test")
    resending.intend(held)
    moved, _, _ = resending.act(held)
    assert make_pass(site) == 0
    connect.connect(settings.database)
    resending.record(moved)
    connect.disconnect()
    assert statuses(site)["top"] == "HELD"


def test_names_are_data(site: Site) -> None:
    site.put_all(contents(HOSTILE))
    make_pass(site)
    lose(site)
    named = [site.holding / os.fsdecode(rel) for rel in contents(HOSTILE) if rel != "top"]
    ran = resend(site, "--dry-run", *named)
    assert (ran.code, ran.err) == (0, "")
    assert resend(site, *named).code == 0
    assert make_pass(site) == 0
    assert tree(site.far_buffer).items() >= {
        (rel, content) for rel, content in contents(HOSTILE).items() if rel != "top"
    }


def test_only_a_handoff_has_a_holding_area(site: Site) -> None:
    ran = site.run("dbb", "resend", "finder.latiss", "x")
    assert (ran.code, "expected handoff.NAME" in ran.err) == (64, True)
