"""The sweep finds what a kill breaks, and is content with what a clean pass mends."""

from __future__ import annotations

import sqlite3
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.killing import phases, picture
from tests.killing.sweep import Swept, density

pytestmark = pytest.mark.promise

#: moves `new` to `kept`, then notes it in `done`: a pass of a simple kind
FORGETS = """
import os, sys
os.chdir(sys.argv[1])
if os.path.exists("new"):
    os.rename("new", "kept")
    open("done", "w").close()
"""
REMEMBERS = FORGETS.replace('if os.path.exists("new"):', 'if not os.path.exists("done"):').replace(
    'os.rename("new", "kept")', 'os.path.exists("new") and os.rename("new", "kept")'
)


@contextmanager
def make(directory: Path) -> Iterator[Path]:
    (directory / "new").write_text("content")
    yield directory


def running(script: str) -> Callable[[Path], list[str]]:
    return lambda directory: [sys.executable, "-S", "-c", script, str(directory)]


def look(directory: Path) -> Mapping[str, str]:
    return picture.disk(directory)


def test_a_pass_that_finishes_what_was_begun_is_sound(sweep: Callable[..., Swept]) -> None:
    swept = sweep(make, running(REMEMBERS), look, points=[1, 2])
    assert (swept.counted, swept.tried, swept.reached) == (2, 2, 2)
    assert sorted(swept.seen) == ["done", "kept"]


def test_a_pass_that_forgets_is_found_out_at_the_point(sweep: Callable[..., Swept]) -> None:
    with pytest.raises(AssertionError, match=r"1 of 2 kills(.|\n)*#2 open(.|\n)*done: expected"):
        sweep(make, running(FORGETS), look, points=[1, 2])


def test_a_pass_that_follows_comes_after_the_killed_one_too(sweep: Callable[..., Swept]) -> None:
    def then(directory: Path) -> list[str]:
        return ["sh", "-c", f"printf . >> '{directory}/passes'"]

    with pytest.raises(AssertionError, match=r"passes: expected .* 1 bytes .* found .* 2 bytes"):
        sweep(make, running(REMEMBERS), look, points=[1], then=then)


def test_a_point_that_does_not_come_is_told(sweep: Callable[..., Swept]) -> None:
    swept = sweep(make, running(REMEMBERS), look, points=[1, 9])
    assert str(swept) == "killed before 1 of 2 changes (1 passes ended before their point came)"


def test_the_environment_chooses_the_density(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBB_KILL_EVERY", raising=False)
    assert density(7) == 7
    monkeypatch.setenv("DBB_KILL_EVERY", "1")
    assert density(7) == 1


def test_the_disk_is_compared_by_names_modes_and_content(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("content")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "lock").touch()
    before = picture.disk(tmp_path)
    assert sorted(before) == ["a", "a/file"]
    (tmp_path / "a" / "file").write_text("Content")
    assert [line.split(":")[0] for line in picture.difference(before, picture.disk(tmp_path))] == [
        "a/file"
    ]


@pytest.mark.parametrize("backend", ["sqlite"])
def test_tables_are_compared_but_for_ids_and_times(database_url: str, tmp_path: Path) -> None:
    insert = (
        "INSERT INTO handoff_file (id, site, handoff, relpath, filename, size_bytes, mtime_ns,"
        " inode, status, discovered_at) VALUES (?, 's', 'h', 'd', 'f', 1, ?, ?, ?, ?)"
    )

    def row(*values: object) -> Mapping[str, object]:
        with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as database:
            database.execute("DELETE FROM handoff_file")
            database.execute(insert, values)
            database.commit()
        return picture.tables(database_url, tmp_path)

    first = row(1, 10, 100, "HELD", "2026-01-01")
    assert picture.difference(first, row(2, 20, 200, "HELD", "2026-01-02")) == []
    assert picture.difference(first, row(1, 10, 100, "FOUND", "2026-01-01")) == [
        "handoff_file  d/f (1): expected {'status': 'HELD'}, found {'status': 'FOUND'}"
    ]


def test_the_step_of_a_change_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("dbbbatch.areas.example")
    memory = phases.shared()
    seen = [phases.read(memory)]
    for step in phases.STEPS:
        setattr(module, step, lambda: seen.append(phases.read(memory)))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    phases.collect()
    phases.watch(memory)
    module.act()
    seen.append(phases.read(memory))
    assert seen == ["", "act of areas.example", ""]
