"""One outage is one message when it begins and one when it is over, for all scripts of a site."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dbbbatch.passes import alerts, reporter, watch
from dbbbatch.passes.context import Options
from dbbbatch.passes.notices import Symptom
from dbbbatch.passes.reporter import Reporter
from dbbbatch.passes.signals import Signals
from tests.support.mailbox import Box
from tests.support.site import Site

pytestmark = pytest.mark.parametrize("backend", ["sqlite"])


@pytest.fixture
def box(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    made = Box(tmp_path / "box")
    monkeypatch.setattr(Site, "alert", {"command": made.command, "limit": "30s"})
    site.write()
    return made


AWhile = Callable[..., str]


@pytest.fixture
def a_pass(site: Site, box: Box, capsys: pytest.CaptureFixture[str]) -> AWhile:
    """Make a pass that meets what is given, in this process, and give what stderr heard."""

    def a_pass(label: str, **met: str) -> str:
        with Signals() as signals:
            made = Reporter(site.settings(), label, Options(), signals)
            for key, message in met.items():
                made.notices.warn(message, key=key, shared=True)
            made.end_pass()
        return capsys.readouterr().err

    return a_pass


@pytest.mark.promise
def test_one_outage_of_several_scripts_is_two_messages(
    a_pass: AWhile, box: Box, site: Site
) -> None:
    a_pass("finder.latiss", away="storage is not there")
    a_pass("target.a", away="/data/storage: no such directory")
    (begun,) = box.new()
    a_pass("finder.latiss")
    assert box.new() == []
    a_pass("target.a")
    (over,) = box.new()
    assert begun.startswith("summit: NOT WELL: storage is not there\n")
    assert "BEGINS: storage is not there" in begun
    assert f"dbb -c {site.config} status" in begun
    assert over.startswith("summit: is over: storage is not there\n")
    assert re.search(r"lasted \d+ s, since", over)
    assert "met by finder.latiss, target.a" in over


def test_nothing_is_told_when_all_is_well(a_pass: AWhile, box: Box) -> None:
    a_pass("finder.latiss")
    assert box.new() == []


def test_a_command_that_fails_is_noted_once_and_tried_again(a_pass: AWhile, box: Box) -> None:
    box.broken.touch()
    said = a_pass("target.a", full="disk full")
    assert "target.a: [alert] command: exit code 7; the next pass tries it again" in said
    assert "[alert]" not in a_pass("target.a", full="disk full")
    box.broken.unlink()
    assert "is over: [alert] command" in a_pass("target.a", full="disk full")
    (text,) = box.new()
    assert text.startswith("summit: NOT WELL: disk full")


@pytest.mark.parametrize("command", ["no-such-program", "sleep 60"])
def test_no_command_fails_a_pass_or_holds_it_up(
    a_pass: AWhile, site: Site, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Site, "alert", {"command": command, "limit": 0.2})
    site.write()
    said = a_pass("target.a", full="disk full")
    assert "target.a: [alert] command: " in said
    assert "Traceback" not in said


def test_a_bug_in_an_alert_fails_no_pass(a_pass: AWhile, monkeypatch: pytest.MonkeyPatch) -> None:
    def after_pass(*_: object) -> str:
        raise KeyError("x")

    monkeypatch.setattr(alerts.Alerts, "after_pass", after_pass)
    assert "target.a: [alert] command: KeyError: 'x'" in a_pass("target.a", full="disk full")


def test_a_kill_before_it_is_recorded_has_a_message_sent_twice(
    a_pass: AWhile, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(alerts.Alerts, "_tell", killed)
        with pytest.raises(Killed):
            a_pass("target.a", full="disk full")
    a_pass("target.a", full="disk full")
    assert len(box.new()) == 1


def refuse_to_write(monkeypatch: pytest.MonkeyPatch, code: int, directory: Path) -> None:
    """Let no file be made or made anew below a directory."""
    opened = os.open

    def refuse(path: str, flags: int, *arguments: int, **more: int) -> int:
        if flags & os.O_CREAT and Path(path).is_relative_to(directory):
            raise OSError(code, os.strerror(code), str(path))
        return opened(path, flags, *arguments, **more)

    monkeypatch.setattr(os, "open", refuse)


def test_a_full_disk_of_the_state_directory_is_told_once(
    a_pass: AWhile, box: Box, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_pass("target.a")
    refuse_to_write(monkeypatch, errno.ENOSPC, site.state)
    for _ in range(3):
        a_pass("target.a", full="disk full")
    assert len(box.new()) == 1


@pytest.mark.parametrize(("seconds", "messages"), [(0, 2), (1800, 0)])
def test_where_nothing_can_be_recorded_messages_are_sent_at_the_full_hour(
    a_pass: AWhile,
    box: Box,
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
    messages: int,
) -> None:
    refuse_to_write(monkeypatch, errno.EROFS, site.state)
    monkeypatch.setattr(alerts.time, "time", lambda: 3600.0 * 500_000 + seconds)
    for _ in range(2):
        a_pass("target.a", full="disk full")
    assert len(box.new()) == messages


@pytest.mark.parametrize("content", ["", "[", '{"x": 1}'])
def test_a_memory_that_was_cut_short_is_no_trouble(
    a_pass: AWhile, box: Box, site: Site, content: str
) -> None:
    (site.state / "alerts.json").write_text(content)
    a_pass("target.a", full="disk full")
    assert len(box.new()) == 1


def test_passes_by_hand_that_cron_never_repeats_hold_no_outage_open(
    a_pass: AWhile, box: Box
) -> None:
    a_pass("rebuild.latiss", full="disk full")
    assert box.new() == []


# ---- whole passes ------------------------------------------------------------------------------


def test_files_that_failed_are_named(site: Site, box: Box) -> None:
    refusing = {"plugin": "command", "config": {"command": "false {file}"}}
    site.write(targets={"a": refusing})
    site.put("2026/one.fits", where=site.far_buffer)
    assert site.run("dbb-finder").code == 0
    assert site.run("dbb-ingester").code == 1
    (text,) = box.new()
    assert text.startswith("summit: NOT WELL: 1 file failed")
    assert "  files: 2026/one.fits (" in text


def test_ssh_that_words_an_outage_differently_is_reported_once(
    site: Site, box: Box, program: Callable[[str, str], Path]
) -> None:
    site.write(endpoint={"host": "archive", "remote": "fake-ssh {command}"})
    site.put("a.fits")
    words = ["Connection refused", "No route to host", "Host key verification failed."]
    said = []
    for word in words:
        program("fake-ssh", f"echo 'ssh: connect to host archive port 22: {word}' >&2; exit 255")
        said.append(site.run("dbb-handoff").err)
    assert said[0].startswith("handoff.latiss: archive cannot be reached: exit code 255")
    assert said[1:] == ["", ""]
    assert len(box.new()) == 1
    site.write()
    assert site.run("dbb-handoff").code == 0
    (over,) = box.new()
    assert over.startswith("summit: is over: archive cannot be reached: exit code 255")


def test_a_component_that_cannot_make_a_pass_is_told_of_once(site: Site, box: Box) -> None:
    text = site.config.read_text()
    site.config.write_text(text.replace('plugin = "null"', 'plugin = "nul"'))
    said = [site.run("dbb-ingester") for _ in range(2)]
    assert [ran.code for ran in said] == [78, 78]
    assert "did you mean 'null'" in said[0].err
    assert said[1].err == ""
    (begun,) = box.new()
    site.config.write_text(text)
    site.run("dbb-ingester")
    (over,) = box.new()
    assert "NOT WELL" in begun
    assert "is over" in over


# ---- what other components are told of ---------------------------------------------------------


def silent(site: Site, label: str, *, gap: float = 60, since: float = 3600) -> float:
    """Let a component have made passes, until some time ago; return now."""
    now = 1.8e9
    starts = [now - since - gap * number for number in range(9, -1, -1)]
    (site.state / "passes").mkdir(exist_ok=True)
    table = {"label": label, "started": starts[-1], "finished": starts[-1] + 1, "starts": starts}
    table |= {"outcome": "ok", "code": 0, "last_ok": starts[-1] + 1}
    (site.state / "passes" / f"{label}.json").write_text(json.dumps(table))
    return now


@pytest.fixture
def connected(site: Site, database: object) -> None:
    """Connect to the database, as after a pass."""


@pytest.mark.usefixtures("connected")
class TestOthers:
    def test_a_component_that_cron_starts_no_more_is_seen_by_others(
        self, site: Site, box: Box
    ) -> None:
        now = silent(site, "handoff.latiss")
        ((key, symptom),) = watch.look_at_others(site.settings(), now).items()
        assert key == "handoff.latiss makes no passes"
        assert "does cron run?" in symptom.message

    def test_one_that_is_on_time_is_none(self, site: Site, box: Box) -> None:
        now = silent(site, "janitor.latiss", gap=86400)
        assert watch.look_at_others(site.settings(), now) == {}

    def test_one_that_is_paused_is_none(self, site: Site, box: Box) -> None:
        now = silent(site, "handoff.latiss")
        assert site.run("dbb", "pause", "handoff.latiss").code == 0
        assert watch.look_at_others(site.settings(), now) == {}

    def test_one_without_a_section_is_none(self, site: Site, box: Box) -> None:
        now = silent(site, "handoff.removed")
        assert watch.look_at_others(site.settings(), now) == {}

    def test_one_that_had_no_time_since_the_machine_is_on_is_none(
        self, site: Site, box: Box, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = silent(site, "handoff.latiss")
        monkeypatch.setattr(watch.time, "clock_gettime", lambda _: 60.0)
        assert watch.look_at_others(site.settings(), now) == {}

    def test_one_at_work_is_none_until_it_hangs(self, site: Site, box: Box) -> None:
        from dbbbatch.files.lock import Lock

        now = silent(site, "handoff.latiss")
        with Lock(site.state / "locks", "handoff.latiss"):
            assert watch.look_at_others(site.settings(), now) == {}
            text = site.config.read_text()
            site.config.write_text(text.replace("[site]\n", "[site]\nhang_after = 0.000001\n"))
            ((key, symptom),) = watch.look_at_others(site.settings(), now).items()
        assert key.startswith("handoff.latiss hangs: ")
        assert symptom.message.startswith("handoff.latiss: a pass may hang")

    def test_it_is_told_by_another_ones_pass_and_is_over_with_its_own(
        self, site: Site, box: Box, a_pass: AWhile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = {"handoff.latiss makes no passes": Symptom(message="handoff.latiss: no pass")}
        monkeypatch.setattr(watch, "look_at_others", lambda _: seen)
        a_pass("finder.latiss")
        a_pass("target.a")
        (begun,) = box.new()
        assert "handoff.latiss: no pass" in begun
        seen.clear()
        a_pass("handoff.latiss")
        (over,) = box.new()
        assert "is over" in over


def test_a_reporter_without_alerts_imports_nothing_for_them(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Signals() as signals:
        made = reporter.Reporter(site.settings(), "target.a", Options(), signals)
    assert made._alerts is made._ping is None
