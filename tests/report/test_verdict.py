"""What is said of a site: from its database, from the state directory, from what is seen here."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.config.load import Settings
from dbbbatch.database import connect
from dbbbatch.errors import key_of_missing
from dbbbatch.passes import memory
from dbbbatch.passes.notices import Notices
from dbbbatch.report import verdict
from dbbbatch.report.health import Component, Level
from tests.support.database import Databases
from tests.support.site import Site

Row = Callable[..., int]


@pytest.fixture
def state(settings: Settings) -> Path:
    """Return the state directory of `settings`."""
    path = Path(settings.site.state)
    path.mkdir()
    return path


def component(settings: Settings, label: str) -> Component:
    (found,) = (one for one in verdict.examine(settings).components if one.label == label)
    return found


@pytest.mark.usefixtures("database")
class TestWithTheDatabase:
    def test_a_site_on_which_nothing_happened_is_well(self, settings: Settings) -> None:
        health = verdict.examine(settings)
        assert (health.level, health.troubles, health.components) == (Level.WELL, [], [])
        assert health.database == ""

    def test_what_operators_run_by_hand_is_no_component(
        self, settings: Settings, run_row: Row
    ) -> None:
        run_row("rebuild", "latiss", "later", 1, exit_code=75)
        assert verdict.examine(settings).components == []

    def test_a_pass_that_could_not_reach_the_database_is_known(
        self, settings: Settings, state: Path, run_row: Row
    ) -> None:
        run_row("finder", "latiss", "ok", 1, site="archive")
        memory.end_pass(state, "finder.latiss", "later", 75, "no route")
        health = verdict.examine(settings)
        assert [(one.label, one.what, one.message) for one in health.troubles] == [
            ("finder.latiss", "try again later", "no route")
        ]

    def test_a_pass_that_tries_again_is_still_in_trouble(
        self, settings: Settings, state: Path
    ) -> None:
        memory.end_pass(state, "finder.latiss", "later", 75, "no route")
        memory.begin_pass(state, "finder.latiss")
        health = verdict.examine(settings)
        assert [(one.what, one.message) for one in health.troubles] == [
            ("try again later", "no route")
        ]
        memory.end_pass(state, "finder.latiss", "ok", 0, "")
        assert verdict.examine(settings).troubles == []

    def test_a_retired_target_is_no_component(
        self, settings: Settings, state: Path, target: int
    ) -> None:
        memory.end_pass(state, "target.gen3", "error", 78, "no plugin")
        assert [one.what for one in verdict.examine(settings).troubles] == ["configuration"]
        connect.connect(settings.database)
        connect.execute("UPDATE target SET retired_at = '2026-11-24 00:00:00'")
        assert verdict.examine(settings).troubles == []

    def test_a_paused_component_is_in_no_trouble(
        self, settings: Settings, state: Path, insert: Row
    ) -> None:
        memory.end_pass(state, "finder.latiss", "error", 78, "no group")
        since = "2026-11-24 05:00:00.000000"
        insert("pause", site="archive", label="finder.latiss", since=since, reason="mirror")
        found = component(settings, "finder.latiss")
        assert (found.state, found.message) == ("paused", "mirror")
        assert verdict.examine(settings).troubles == []

    def test_the_usual_interval_is_learned_from_the_table(
        self, settings: Settings, run_row: Row
    ) -> None:
        for minute in range(6):
            run_row("finder", "latiss", "ok", minute, site="lake", pid=minute)
        found = component(settings, "finder.latiss")
        assert (found.usual, found.overdue) == (60, True)
        (trouble,) = verdict.examine(settings).troubles
        assert (trouble.what, trouble.since) == ("overdue", found.last_ok)
        assert trouble.advice.startswith("at lake: crontab -l")

    def test_a_component_does_not_send_to_status_whoever_looks_at_it(
        self, settings: Settings, state: Path
    ) -> None:
        said = "2 files failed; `dbb status` says why, and what lists them"
        memory.end_pass(state, "finder.latiss", "failed", 1, said)
        assert component(settings, "finder.latiss").message == "2 files failed"

    def test_what_another_component_is_over_does_not_wait_for_a_rare_pass(
        self, settings: Settings, state: Path
    ) -> None:
        for label in ("finder.latiss", "auditor.latiss"):
            memory.end_pass(state, label, "later", 75, "no disk", key_of_missing("/data"))
        memory.end_pass(state, "target.a", "ok", 0, "")
        (trouble,) = verdict.examine(settings).troubles
        assert trouble.message == "no disk (last passes of auditor.latiss, finder.latiss)"
        memory.end_pass(state, "finder.latiss", "ok", 0, "")
        assert verdict.examine(settings).troubles == []
        memory.end_pass(state, "auditor.latiss", "later", 75, "no disk", key_of_missing("/data"))
        assert len(verdict.examine(settings).troubles) == 1

    def test_what_a_pass_warned_of_is_trouble(self, settings: Settings, state: Path) -> None:
        notices = Notices(state, "finder.latiss")
        notices.warn("a: is a link; it is left where it is", "odd: a")
        notices.end_pass()
        memory.end_pass(state, "finder.latiss", "ok", 0, "")
        (trouble,) = verdict.examine(settings).troubles
        assert (trouble.what, trouble.message) == (
            "warning",
            "a: is a link; it is left where it is",
        )


@pytest.mark.parametrize("backend", ["sqlite"])
class TestWithoutTheDatabase:
    def test_a_database_that_is_not_there_is_one_trouble(
        self, settings: Settings, state: Path
    ) -> None:
        away = replace(settings, database=replace(settings.database, url="sqlite:////no/dbb"))
        for label in ("finder.latiss", "target.a"):
            try:
                connect.connect(away.database)
            except Exception as error:  # noqa: BLE001 (as a pass would)
                notices = Notices(state, label)
                notices.warn(str(error), getattr(error, "key", ""))
                notices.end_pass()
                memory.end_pass(state, label, "later", 75, str(error), getattr(error, "key", ""))
        health = verdict.examine(away)
        assert [(one.label, one.what) for one in health.troubles] == [("", "database away")]
        assert health.troubles[0].since is not None
        assert [one.state for one in health.components] == ["later (75)", "later (75)"]
        assert health.database != ""

    def test_the_usual_interval_is_learned_from_the_state_directory(
        self, settings: Settings, state: Path
    ) -> None:
        now = time.time()
        memory.end_pass(state, "finder.latiss", "ok", 0, "")
        path = state / "passes" / "finder.latiss.json"
        starts = [now - 3600 - 60 * n for n in range(6, 0, -1)]
        known = json.loads(path.read_text()) | {"starts": starts, "last_ok": starts[-1]}
        path.write_text(json.dumps(known | {"started": starts[-1], "finished": starts[-1]}))
        away = replace(settings, database=replace(settings.database, url="sqlite:////no/dbb"))
        found = component(away, "finder.latiss")
        assert found.usual == pytest.approx(60)
        assert found.overdue


@pytest.mark.parametrize("backend", ["postgresql"])
def test_a_database_that_is_down_is_answered_for_at_once(
    settings: Settings, databases: Databases
) -> None:
    patient = replace(settings, database=replace(settings.database, patience=3600))
    with databases.postgres.down():
        health = verdict.examine(patient, look=0.2)
    assert [one.what for one in health.troubles] == ["database away"]
    assert health.components == []


@pytest.mark.parametrize("backend", ["sqlite"])
class TestThisHost:
    def test_a_wrong_section_is_trouble(self, site: Site) -> None:
        site.write(finder={"storage": "relative"})
        (trouble,) = verdict.examine(site.settings()).troubles
        assert (trouble.label, trouble.what, trouble.level) == (
            "finder.latiss",
            "configuration",
            Level.CRITICAL,
        )
        assert trouble.advice == f"correct it, then: dbb -c {site.config} check"

    def test_a_component_that_is_expected_and_never_came_is_overdue(self, site: Site) -> None:
        site.write(finder={"expect": "5m"})
        (trouble,) = verdict.examine(site.settings()).troubles
        assert (trouble.label, trouble.what) == ("finder.latiss", "overdue")
        assert "has never made a pass" in trouble.message

    def test_a_plugin_that_crashes_crashes_nothing_else(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        packages = site.root / "packages"
        about = packages / "crashing-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: crashing\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text("[dbbbatch.targets]\ncrash = crash:Crash\n")
        (packages / "crash.py").write_text("import os; os.abort()\n")
        monkeypatch.syspath_prepend(str(packages))
        site.write(targets={"a": {"plugin": "crash"}})
        (trouble,) = verdict.examine(site.settings()).troubles
        assert (trouble.label, trouble.what) == ("target.a", "configuration")
        assert "cannot be imported: ended by signal 6" in trouble.message

    def test_who_may_not_read_the_state_directory_is_told(
        self, site: Site, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: Any) -> Any:
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr(os, "scandir", refuse)
        found = [one for one in verdict.examine(site.settings()).troubles if not one.label]
        assert [(one.what, one.level) for one in found] == [("not seen", Level.UNKNOWN)]
        assert found[0].advice.startswith("sudo -u ")


@pytest.mark.usefixtures("database")
def test_a_long_failure_is_critical(settings: Settings, state: Path) -> None:
    memory.end_pass(state, "finder.latiss", "later", 75, "no route")
    path = state / "passes" / "finder.latiss.json"
    known = json.loads(path.read_text())
    long = timedelta(minutes=11).total_seconds()
    path.write_text(json.dumps(known | {"failing_since": known["failing_since"] - long}))
    assert verdict.examine(settings).level is Level.CRITICAL
