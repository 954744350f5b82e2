"""A handoff with several endpoints: each gets every file, and none holds up another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from dbbbatch.database import connect
from dbbbatch.database.models.handoff import HandoffFile, HandoffRow
from dbbbatch.files import checksum
from dbbbatch.files.lock import Lock
from dbbbatch.passes.handoff import scheduler
from dbbbatch.report.night_rows import nights
from tests.support.endpoints import BASE, FIRST, away, base, make_pass, states, with_base
from tests.support.engine import wait_for
from tests.support.handing import change, rows, wait_over
from tests.support.scripts import TOP
from tests.support.site import Site, tree

pytestmark = pytest.mark.promise

FILES = {"night/a": b"first", "night/b": b"second"}
NAMES = set(FILES)

#: The database makes no difference to these.
one_database = pytest.mark.parametrize("backend", ["sqlite"])


@pytest.fixture
def site(site: Site) -> Site:
    return with_base(site)


def both(site: Site) -> None:
    assert make_pass(site) == 0
    assert make_pass(site, BASE) == 0


def test_each_gets_every_file_and_then_they_are_held(by_each_way: None, site: Site) -> None:
    site.put_all(FILES)
    assert make_pass(site) == 0
    assert tree(site.far_buffer) == FILES == tree(site.buffer)
    assert states(site)[FIRST] == ["DELIVERED"] * 2
    assert make_pass(site, BASE) == 0
    assert tree(base(site)) == FILES == tree(site.holding)
    assert tree(site.buffer) == {}
    assert states(site) == {FIRST: ["HELD"] * 2, BASE: ["HELD"] * 2}
    # As if each had moved it there: the same name and inode.
    assert len(set(rows(site, "relpath, filename, held_as, inode, checksum"))) == 2
    both(site)
    assert tree(site.far_buffer) == FILES == tree(base(site))


@one_database
def test_a_script_passes_over_both(site: Site) -> None:
    site.put_all(FILES)
    assert site.run("dbb-handoff") == (0, "", "")
    assert tree(site.far_buffer) == FILES == tree(base(site)) == tree(site.holding)
    site.put("c")
    assert site.run("dbb-handoff", "latiss.base") == (0, "", "")
    assert site.run("dbb-handoff", "latiss") == (0, "", "")
    assert not tree(site.buffer)


@one_database
def test_one_alone_may_linger(site: Site) -> None:
    site.put_all(FILES)
    for name in ("latiss", "latiss.base"):
        assert site.run("dbb-handoff", name, "--linger", "1s") == (0, "", "")
    assert tree(site.holding) == FILES


@one_database
def test_one_that_hangs_holds_up_no_other(site: Site) -> None:
    hangs = site.root / "hangs"
    remote = f"sh -c 'echo $$ > {hangs}; exec sleep 1000' sh {{command}}"
    with_base(site, endpoint={"host": "hangs", "remote": remote})
    site.put_all(FILES)
    running = subprocess.Popen(
        [sys.executable, TOP / "bin" / "dbb-handoff", "latiss", "--linger", "1h"],
        env={**os.environ, "DBB_CONFIG": str(site.config)},
        stderr=subprocess.PIPE,
    )
    try:
        wait_for(lambda: tree(base(site)) == FILES and hangs.exists() and hangs.read_text())
        assert states(site)[FIRST] == ["FOUND"] * 2
    finally:
        running.terminate()
        os.kill(int(hangs.read_text()), signal.SIGKILL)
        _, said = running.communicate()
    # The pass over each has ended, as a signal ends it.
    assert running.returncode == 75
    assert b"Traceback" not in said
    for name in (FIRST, BASE):
        Lock(site.state / "locks", f"handoff.{name}").acquire()


def test_what_another_moved_since_a_scan_is_not_in_the_buffer_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put_all(FILES)
    assert make_pass(site) == 0
    real = scheduler.scanned

    def scanned(*arguments: Any) -> Iterator[list[HandoffRow]]:
        seen = list(real(*arguments))
        assert site.run("dbb-handoff", BASE) == (0, "", "")
        yield from seen

    with monkeypatch.context() as patched:
        patched.setattr(scheduler, "scanned", scanned)
        assert make_pass(site) == 0
    assert states(site) == {FIRST: ["HELD"] * 2, BASE: ["HELD"] * 2}


@one_database
def test_a_file_is_hashed_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Any] = []
    real = checksum.stream

    def stream(*arguments: Any, **more: Any) -> Any:
        hashed.append(arguments)
        return real(*arguments, **more)

    with_base(site, endpoint={"transfer": "cp -p -- {batch} {dest}"})
    with_base(
        site,
        endpoint={"transfer": "cp -p -- {batch} {dest}"},
        keys={"transfer": "cp -p -- {batch} {dest}"},
    )
    monkeypatch.setattr(checksum, "stream", stream)
    site.put_all(FILES)
    both(site)
    assert len(hashed) == len(FILES)
    assert tree(base(site)) == FILES


def test_one_that_is_away_for_an_hour_holds_up_no_other(
    by_each_way: None, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    away(site).touch()
    for minute in range(3):
        site.put(f"night/{minute}")
        assert make_pass(site) == 0
        assert make_pass(site, BASE) == 75
    assert set(tree(site.far_buffer)) == {f"night/{minute}" for minute in range(3)}
    assert states(site) == {FIRST: ["DELIVERED"] * 3, BASE: ["FOUND"] * 3}
    assert not tree(site.holding)
    # Its own outage: said once, and charged to no file.
    (line,) = capsys.readouterr().err.splitlines()
    assert "base" in line
    assert rows(site, "attempts, error") == [(0, None)] * 6
    an_hour_before(site)
    away(site).unlink()
    both(site)
    assert set(tree(base(site))) == set(tree(site.holding)) == set(tree(site.far_buffer))
    assert not tree(site.buffer)
    assert set(rows(site)) == {"HELD"}


def an_hour_before(site: Site) -> None:
    """Let an hour go by, as far as the table knows."""
    change(site, "UPDATE handoff_file SET delivered_at = '2026-01-01' WHERE status = 'DELIVERED'")


@one_database
def test_one_that_refuses_a_file_does_not_take_it_from_the_others(site: Site) -> None:
    tool = "sh -c 'case $* in *night/a*) exit 9; esac; exec cp -p -- \"$@\"' sh {file} {dest}"
    with_base(site, keys={"transfer": tool}, handoff={"max_attempts": 1})
    site.put_all(FILES)
    for _ in range(3):
        assert make_pass(site, BASE) == 1
        wait_over(site)
    assert set(tree(site.buffer)) == NAMES
    assert not tree(site.quarantine)
    assert make_pass(site) == 0
    assert tree(site.far_buffer) == FILES
    assert states(site, "a") == {BASE: ["FOUND"], FIRST: ["DELIVERED"]}
    assert states(site, "b") == {BASE: ["HELD"], FIRST: ["HELD"]}
    # A person lets it go.
    assert site.run("dbb", "ignore", "handoff.latiss.base", "--match", "*/a").code == 0
    assert make_pass(site) == 0
    assert states(site, "a") == {BASE: ["IGNORED"], FIRST: ["HELD"]}
    assert tree(site.holding) == FILES


@one_database
def test_a_conflict_at_one_stays_a_failure_of_that_one(site: Site) -> None:
    with_base(site, handoff={"conflict_after": 0})
    site.put_all(FILES)
    site.put("night/a", b"another", base(site))
    both_codes = [make_pass(site), make_pass(site, BASE)]
    wait_over(site)
    both_codes.append(make_pass(site, BASE))
    assert both_codes == [0, 0, 1]
    assert states(site, "a") == {FIRST: ["DELIVERED"], BASE: ["FOUND"]}
    assert set(tree(site.buffer)) == {"night/a"}
    (base(site) / "night/a").unlink()
    wait_over(site)
    assert make_pass(site, BASE) == 0
    assert tree(site.holding) == FILES


class TestVersions:
    """A file that is written again between the deliveries."""

    def test_each_gets_the_last_and_the_first_is_gone_for_both(self, site: Site) -> None:
        site.put("a", b"one")
        assert make_pass(site) == 0
        (site.far_buffer / "a").unlink()  # its finder took it
        (site.buffer / "a").unlink()
        site.put("a", b"other content")
        for _ in range(2):
            both(site)
        assert states(site) == {FIRST: ["VANISHED", "HELD"], BASE: ["VANISHED", "HELD"]}
        assert tree(base(site)) == tree(site.far_buffer) == {"a": b"other content"}
        assert tree(site.holding) == {"a": b"other content"}
        assert not tree(site.buffer)

    def test_also_if_the_other_had_seen_the_first(self, site: Site) -> None:
        away(site).touch()
        site.put("a", b"one")
        make_pass(site)
        make_pass(site, BASE)
        away(site).unlink()
        (site.far_buffer / "a").unlink()
        (site.buffer / "a").unlink()
        site.put("a", b"other content")
        for _ in range(2):
            both(site)
        assert states(site) == {FIRST: ["VANISHED", "HELD"], BASE: ["VANISHED", "HELD"]}
        assert tree(base(site)) == tree(site.holding) == {"a": b"other content"}

    @one_database
    def test_one_that_was_not_there_for_a_moment_is_still_sent(self, site: Site) -> None:
        away(site).touch()
        site.put("a", b"one")
        make_pass(site)
        make_pass(site, BASE)
        change(site, f"UPDATE handoff_file SET status = 'VANISHED' WHERE handoff = '{BASE}'")
        make_pass(site)
        assert tree(site.buffer) == {"a": b"one"}
        away(site).unlink()
        both(site)
        assert tree(base(site)) == tree(site.holding) == {"a": b"one"}

    @one_database
    def test_one_that_has_just_seen_it_again_gets_it(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        site.put("a", b"one")
        make_pass(site)
        change(site, f"UPDATE handoff_file SET status = 'VANISHED' WHERE handoff = '{BASE}'")
        complete = HandoffFile.complete

        def then_seen(*arguments: Any, **more: Any) -> Any:
            found = complete(*arguments, **more)
            connect.execute(f"UPDATE handoff_file SET status = 'FOUND' WHERE handoff = '{BASE}'")
            return found

        with monkeypatch.context() as patched:
            patched.setattr(HandoffFile, "complete", then_seen)
            make_pass(site)
        assert tree(site.buffer) == {"a": b"one"}
        both(site)
        assert tree(base(site)) == tree(site.holding) == {"a": b"one"}

    @one_database
    def test_what_it_had_before_is_not_recorded_as_gone(self, site: Site) -> None:
        site.put("a", b"one")
        both(site)
        # A pass over the first was killed before it recorded that it moved the file.
        change(site, f"UPDATE handoff_file SET status = 'DELIVERED' WHERE handoff = '{FIRST}'")
        make_pass(site)
        assert states(site) == {FIRST: ["HELD"], BASE: ["HELD"]}
        assert "VANISHED" not in rows(site, "becomes", "file_event")

    def test_what_a_killed_pass_moved_in_its_place_goes_to_the_other(self, site: Site) -> None:
        with Lock(site.state / "locks", "hold.handoff.latiss"):
            site.put("a", b"one")
            both(site)
            for buffer in (site.far_buffer, base(site), site.buffer):
                (buffer / "a").unlink()
            site.put("a", b"other content")
            make_pass(site)
        os.rename(site.buffer / "a", site.holding / "a")
        both(site)
        assert states(site) == {FIRST: ["VANISHED", "HELD"], BASE: ["VANISHED", "HELD"]}
        assert tree(base(site)) == tree(site.holding) == {"a": b"other content"}

    def test_what_is_sent_again_leaves_no_second_copy_in_holding(self, site: Site) -> None:
        site.put("a", b"one")
        both(site)
        for buffer in (site.far_buffer, base(site)):
            (buffer / "a").unlink()
        held = os.stat(site.holding / "a")
        site.put("a", b"one")
        os.utime(site.buffer / "a", ns=(held.st_mtime_ns, held.st_mtime_ns))
        both(site)
        both(site)
        assert tree(site.holding) == tree(base(site)) == tree(site.far_buffer) == {"a": b"one"}
        assert states(site) == {FIRST: ["HELD"], BASE: ["HELD"]}

    @one_database
    def test_what_is_resent_goes_to_both(self, site: Site) -> None:
        site.put("a", b"one")
        both(site)
        for buffer in (site.far_buffer, base(site)):
            (buffer / "a").unlink()
        assert site.run("dbb", "resend", "handoff.latiss", "a").code == 0
        both(site)
        both(site)
        assert tree(site.holding) == tree(base(site)) == tree(site.far_buffer) == {"a": b"one"}


class TestNotRequired:
    """An endpoint that gets what it can."""

    @pytest.fixture
    def site(self, site: Site) -> Site:
        return with_base(site, keys={"required": False, "wait_for": "1h"})

    def test_it_gets_every_file_while_it_answers(self, site: Site) -> None:
        site.put_all(FILES)
        assert make_pass(site) == 0
        assert tree(site.buffer) == FILES
        assert make_pass(site, BASE) == 0
        assert tree(base(site)) == FILES == tree(site.holding)

    def test_the_originals_wait_for_it_no_longer_than_that(self, site: Site) -> None:
        away(site).touch()
        site.put_all(FILES)
        assert [make_pass(site), make_pass(site, BASE), make_pass(site)] == [0, 75, 0]
        assert tree(site.buffer) == FILES
        an_hour_before(site)
        assert make_pass(site) == 0
        assert tree(site.holding) == FILES
        assert states(site) == {FIRST: ["HELD"] * 2, BASE: ["VANISHED"] * 2}
        away(site).unlink()
        assert make_pass(site, BASE) == 0
        assert not tree(base(site))

    @one_database
    def test_one_that_is_paused_keeps_no_file_that_it_lost_sight_of(self, site: Site) -> None:
        site.put_all(FILES)
        make_pass(site)
        change(site, f"UPDATE handoff_file SET status = 'VANISHED' WHERE handoff = '{BASE}'")
        an_hour_before(site)
        assert make_pass(site) == 0
        assert tree(site.holding) == FILES

    @one_database
    def test_a_clock_that_was_ahead_makes_the_wait_no_longer(self, site: Site) -> None:
        away(site).touch()
        site.put_all(FILES)
        assert [make_pass(site), make_pass(site, BASE)] == [0, 75]
        change(
            site, f"UPDATE handoff_file SET delivered_at = '2099-01-01' WHERE handoff = '{FIRST}'"
        )
        assert make_pass(site) == 0
        assert tree(site.holding) == FILES

    @one_database
    def test_the_required_one_is_waited_for(self, site: Site) -> None:
        site.put_all(FILES)
        assert make_pass(site, BASE) == 0
        an_hour_before(site)
        assert make_pass(site, BASE) == 0
        assert tree(site.buffer) == FILES


@one_database
def test_one_that_is_added_later_gets_what_is_in_the_buffer(site: Site) -> None:
    site.write(handoff={"min_free": 0})
    site.put("held")
    make_pass(site)
    with_base(site)
    site.put("new")
    both(site)
    assert set(tree(base(site))) == {"new"}
    assert set(tree(site.holding)) == {"held", "new"}


@one_database
def test_one_that_is_removed_is_waited_for_no_longer(site: Site) -> None:
    away(site).touch()
    site.put_all(FILES)
    make_pass(site)
    make_pass(site, BASE)
    site.write(handoff={"min_free": 0})
    assert make_pass(site) == 0
    assert tree(site.holding) == FILES


@one_database
def test_one_whose_table_is_wrong_is_waited_for(site: Site) -> None:
    with_base(site, keys={"staging": None, "required": False})
    site.put_all(FILES)
    assert make_pass(site) == 0
    assert tree(site.buffer) == FILES == tree(site.far_buffer)


@one_database
def test_endpoints_may_all_have_names(site: Site) -> None:
    with_base(site)
    text = site.config.read_text().replace(
        "[handoff.latiss.endpoint]", "[handoff.latiss.endpoint.far]"
    )
    site.config.write_text(text)
    site.put_all(FILES)
    assert site.run("dbb-handoff", "latiss") == (0, "", "")
    assert states(site) == {"latiss.far": ["HELD"] * 2, BASE: ["HELD"] * 2}
    assert (
        "name one, as in handoff.latiss.far"
        in site.run("dbb", "ignore", "handoff.latiss", "--reason", "x").err
    )


@one_database
def test_what_another_pass_is_moving_is_left_to_it(site: Site) -> None:
    site.put_all(FILES)
    assert make_pass(site) == 0
    with Lock(site.state / "locks", "hold.handoff.latiss"):
        assert make_pass(site, BASE) == 0
        assert tree(site.buffer) == FILES
    assert make_pass(site) == 0
    assert tree(site.holding) == FILES


@one_database
def test_commands_tell_the_endpoints_apart(site: Site) -> None:
    away(site).touch()
    site.put_all(FILES)
    assert site.run("dbb-handoff").code == 75
    assert "2 files" in site.run("dbb-handoff", "latiss.base", "--dry-run").out
    assert "in all 0 files" in site.run("dbb-handoff", "latiss", "--dry-run").out.replace(
        "recover: ", ""
    )
    status = site.run("dbb", "status").out
    assert "handoff.latiss.base" in status
    listed = site.run("dbb", "list", "handoff.latiss.base").out
    assert listed.count("night/") == 2
    # All of them are paused.
    away(site).unlink()
    assert site.run("dbb", "pause", "handoff.latiss").code == 0
    assert site.run("dbb-handoff") == (0, "", "")
    assert not tree(base(site))
    assert site.run("dbb", "resume", "janitor.latiss.base").code == 0
    assert site.run("dbb", "resume", "handoff.latiss.base").code == 0
    assert site.run("dbb-handoff").code == 0
    assert tree(base(site)) == FILES


@one_database
def test_a_report_counts_a_file_once_and_as_that_endpoint_has_it_which_is_late(
    site: Site,
) -> None:
    away(site).touch()
    site.put_all(FILES)
    assert [make_pass(site, BASE), make_pass(site)] == [75, 0]
    settings = site.settings()
    connect.connect(settings.database)
    (night,) = nights(settings)
    connect.disconnect()
    assert night.files == 2
    steps = {step.name: step for step in night.steps}
    assert (steps["delivered"].done, steps["delivered"].missing) == (0, 2)
