"""The janitor of a handoff with several endpoints: all that are required must confirm."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.passes.test_janitor import store
from tests.support.endpoints import BASE, FIRST, away, janitor, make_pass, states, with_base
from tests.support.handing import change, rows
from tests.support.mailbox import Box
from tests.support.scripts import TOP
from tests.support.site import Site, tree

pytestmark = pytest.mark.promise

#: The database makes no difference to these.
one_database = pytest.mark.parametrize("backend", ["sqlite"])

PROGRAM = """\
import json, pathlib, sys
nonce = json.loads(sys.stdin.readline())["nonce"]
files = [json.loads(line) for line in sys.stdin]
for number, file in enumerate(files):
    print(nonce, number, "stored" if file[1] in pathlib.Path({said!r}).read_text() else "unknown")
print(nonce, "end", len(files))
with open({said!r} + ".asked", "a") as asked:
    asked.write("".join(file[1] for file in files))
"""


@pytest.fixture
def said(site: Site) -> Path:
    """The names of the files that the further endpoint says it has stored."""
    said = site.root / "said"
    said.write_text("")
    (site.root / "confirm.py").write_text(PROGRAM.format(said=str(said)))
    return said


def configure(site: Site, **keys: Any) -> Site:
    ours = f"{sys.executable} {TOP}/bin/dbb -c {site.config} confirm"
    theirs = f"{sys.executable} {site.root}/confirm.py"
    return with_base(
        site,
        keys={"confirm": theirs, **keys},
        handoff={"purge_after": 0},
        endpoint={"confirm": ours},
    )


def deliver(site: Site, *names: str) -> None:
    site.put_all(names)
    assert [make_pass(site), make_pass(site, BASE)] == [0, 0]
    store(site)


def test_a_file_is_purged_when_both_confirm_it(site: Site, said: Path) -> None:
    deliver(configure(site), "a", "b")
    said.write_text("b")
    assert [janitor(site), janitor(site, BASE)] == [0, 0]
    assert set(tree(site.holding)) == {"a"}
    assert states(site, "a") == {FIRST: ["HELD"], BASE: ["HELD"]}
    assert states(site, "b") == {FIRST: ["PURGED"], BASE: ["PURGED"]}
    assert ("unknown at handoff.latiss.base") in " ".join(filter(None, rows(site, "error")))
    said.write_text("a")
    assert [janitor(site, BASE), janitor(site)] == [0, 0]
    assert not tree(site.holding)


@one_database
def test_what_is_missing_of_each_endpoint_is_told(
    site: Site, said: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(tmp_path / "box")
    monkeypatch.setattr(Site, "alert", {"command": box.command})
    deliver(configure(site), "a", "b")
    said.write_text("a")
    ignored = "UPDATE handoff_file SET status = 'IGNORED' WHERE handoff = ? AND filename = ?"
    for of, name in ((FIRST, "a"), (BASE, "b")):
        change(site, ignored, of, name)
    for name in ("a", "b"):
        (site.holding / name).unlink()
    assert [janitor(site), janitor(site, BASE)] == [75, 75]
    first, base = box.new()
    assert "`dbb ignore handoff.latiss --status" in first
    assert "`dbb ignore handoff.latiss.base --status" in base


@one_database
def test_that_which_is_not_stored_at_the_first_stays(site: Site, said: Path) -> None:
    configure(site)
    site.put_all(["a"])
    assert [make_pass(site), make_pass(site, BASE)] == [0, 0]
    said.write_text("a")
    assert [janitor(site), janitor(site, BASE)] == [0, 0]
    assert set(tree(site.holding)) == {"a"}


@one_database
def test_nothing_is_purged_while_one_is_away_or_cannot_be_asked(site: Site, said: Path) -> None:
    deliver(configure(site), "a")
    said.write_text("a")
    away(site).touch()
    assert [janitor(site), janitor(site, BASE)] == [75, 75]
    away(site).unlink()
    configure(site, confirm=None)
    assert [janitor(site), janitor(site, BASE)] == [0, 0]
    assert set(tree(site.holding)) == {"a"}
    configure(site)
    assert janitor(site) == 0
    assert not tree(site.holding)


@one_database
def test_one_that_is_not_required_is_not_asked(site: Site, said: Path) -> None:
    deliver(configure(site, required=False), "a")
    assert [janitor(site, BASE), janitor(site)] == [0, 0]
    assert states(site) == {FIRST: ["PURGED"], BASE: ["PURGED"]}
    assert not said.with_name("said.asked").exists()


@one_database
def test_one_that_was_never_sent_a_file_is_not_asked_about_it(site: Site, said: Path) -> None:
    site.write(handoff={"min_free": 0})
    site.put("early")
    make_pass(site)
    deliver(configure(site), "late")
    assert janitor(site) == 0
    assert set(tree(site.holding)) == {"late"}
    assert said.with_name("said.asked").read_text() == "late"


def test_what_is_ignored_for_the_first_is_purged_for_the_other(site: Site, said: Path) -> None:
    configure(site)
    site.put("a")
    assert make_pass(site, BASE) == 0
    assert site.run("dbb", "ignore", "handoff.latiss", "--match", "*").code == 0
    assert make_pass(site) == 0
    assert states(site) == {FIRST: ["IGNORED"], BASE: ["HELD"]}
    said.write_text("a")
    assert [janitor(site), janitor(site, BASE)] == [0, 0]
    assert not tree(site.holding)
    assert states(site) == {FIRST: ["IGNORED"], BASE: ["PURGED"]}


@one_database
def test_one_that_is_to_have_a_file_is_asked_whatever_its_row_says(site: Site, said: Path) -> None:
    deliver(configure(site), "a")
    # As after a backup was restored that was made before the second delivery.
    change(site, f"UPDATE handoff_file SET status = 'VANISHED' WHERE handoff = '{BASE}'")
    assert janitor(site) == 0
    assert set(tree(site.holding)) == {"a"}
    said.write_text("a")
    assert janitor(site) == 0
    assert not tree(site.holding)


@one_database
def test_what_went_without_it_is_purged_although_it_is_required_by_now(
    site: Site, said: Path
) -> None:
    configure(site, required=False, wait_for=0)
    away(site).touch()
    site.put("a")
    assert [make_pass(site, BASE), make_pass(site)] == [75, 0]
    away(site).unlink()
    assert states(site) == {FIRST: ["HELD"], BASE: ["VANISHED"]}
    store(site)
    configure(site)
    assert [janitor(site), janitor(site, BASE)] == [0, 0]
    assert not tree(site.holding)
    assert not said.with_name("said.asked").exists()


@one_database
def test_what_only_one_has_that_is_no_longer_required_is_purged(site: Site, said: Path) -> None:
    deliver(configure(site), "a")
    change(site, f"UPDATE handoff_file SET status = 'IGNORED' WHERE handoff = '{BASE}'")
    text = site.config.read_text()
    site.config.write_text(
        text.replace("[handoff.latiss.endpoint]\n", "[handoff.latiss.endpoint]\nrequired = false\n")
    )
    assert [janitor(site, BASE), janitor(site)] == [0, 0]
    assert not tree(site.holding)


@one_database
def test_what_is_on_its_way_again_to_one_is_not_looked_for(
    site: Site, said: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deliver(configure(site), "a")
    said.write_text("a")
    assert site.run("dbb", "resend", "handoff.latiss", "a").code == 0
    assert [janitor(site, BASE), janitor(site)] == [0, 0]
    assert "mounted" not in capsys.readouterr().err
    assert set(tree(site.buffer)) == {"a"}
