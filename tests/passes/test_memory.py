"""How the last pass of a component ended, remembered without a database."""

from dataclasses import asdict
from pathlib import Path

import pytest

from dbbbatch.files import state
from dbbbatch.passes import memory
from tests.support.database import Databases
from tests.support.site import Site

LABEL = "handoff.latiss"


def test_a_component_that_never_made_a_pass_has_no_memory(tmp_path: Path) -> None:
    assert memory.last_pass(tmp_path, LABEL) == memory.PassMemory(label=LABEL)
    assert list(memory.remembered_passes(tmp_path)) == []


def test_a_pass_that_is_killed_stays_at_work(tmp_path: Path) -> None:
    memory.begin_pass(tmp_path, LABEL)
    last = memory.last_pass(tmp_path, LABEL)
    assert (last.outcome, last.finished, last.starts) == ("running", None, [last.started])


def test_failing_lasts_from_the_first_failure_to_the_next_success(tmp_path: Path) -> None:
    memory.end_pass(tmp_path, LABEL, "ok", 0, "")
    memory.end_pass(tmp_path, LABEL, "later", 75, "no route to host")
    first = memory.last_pass(tmp_path, LABEL)
    memory.end_pass(tmp_path, LABEL, "later", 75, "no route to host")
    second = memory.last_pass(tmp_path, LABEL)
    assert first.failing_since == second.failing_since is not None
    assert second.last_ok == first.last_ok is not None
    memory.end_pass(tmp_path, LABEL, "failed", 1, "1 file failed")
    assert memory.last_pass(tmp_path, LABEL).failing_since is None


def test_an_interrupted_pass_neither_begins_nor_ends_a_trouble(tmp_path: Path) -> None:
    memory.end_pass(tmp_path, LABEL, "ok", 0, "")
    memory.end_pass(tmp_path, LABEL, "interrupted", 75, "interrupted by a signal")
    assert memory.last_pass(tmp_path, LABEL).failing_since is None
    memory.end_pass(tmp_path, LABEL, "later", 75, "no route to host", "the route")
    failing = memory.last_pass(tmp_path, LABEL)
    memory.end_pass(tmp_path, LABEL, "interrupted", 75, "interrupted by a signal")
    last = memory.last_pass(tmp_path, LABEL)
    assert (last.failing_since, last.last_ok) == (failing.failing_since, failing.last_ok)
    assert last.over == ""
    memory.end_pass(tmp_path, LABEL, "ok", 0, "")
    assert memory.last_pass(tmp_path, LABEL).over == "the route"


def test_everything_is_remembered(tmp_path: Path) -> None:
    kept = memory.PassMemory(
        label=LABEL,
        pid=1,
        started=2,
        finished=3,
        outcome="later",
        code=75,
        message="m",
        key="k",
        over="o",
        over_at=7,
        last_ok=4,
        failing_since=5,
        starts=[6],
    )
    state.write_json(tmp_path / "passes" / f"{LABEL}.json", asdict(kept))
    assert memory.last_pass(tmp_path, LABEL) == kept
    assert all(asdict(kept).values())


@pytest.mark.parametrize("content", ["", "[]", "{", '{"unknown": 1}'])
def test_a_memory_that_makes_no_sense_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "passes").mkdir()
    (tmp_path / "passes" / f"{LABEL}.json").write_text(content)
    assert memory.last_pass(tmp_path, LABEL) == memory.PassMemory(label=LABEL)


def test_a_pass_is_remembered_though_the_database_is_away(
    tmp_path: Path, databases: Databases
) -> None:
    site = Site(tmp_path / "site", f"sqlite:///{tmp_path}/nowhere/dbb.sqlite")
    site.write()
    ran = site.run("dbb-handoff")
    last = memory.last_pass(site.state, LABEL)
    assert ran.code != 0
    assert (last.code, last.last_ok) == (ran.code, None)
    assert last.message in ran.err
