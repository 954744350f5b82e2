"""Files of the state directory that hold anything, or are no files."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.files import state
from dbbbatch.passes import memory
from tests.support.site import Site

#: What may be in place of a time.
NO_TIMES = ["x", None, [], {}, -1, 1e300, 10**4000, float("nan"), float("inf"), float("-inf")]

PASS = {"pid": 1, "started": 1e9, "finished": 1e9, "outcome": "later", "code": 75, "message": "m"}
OUTAGE = {"message": "m", "level": 0, "files": [], "more": 0, "told": True}


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, '"{}"', "\0" * 4096])
def test_what_is_no_object_is_nothing(tmp_path: Path, content: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    assert state.read_json(path) is None


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("pipe", ".", "loop", "missing"):
        assert state.read_json(tmp_path / name) is None


def write(site: Site, when: Any) -> None:
    """Write a file of each kind with such times, and such numbers."""
    contents = {
        "passes/handoff.latiss": PASS | {"started": when, "starts": [when] * 9, "pid": when},
        "passes/finder.latiss": PASS | {"last_ok": when, "failing_since": when, "code": when},
        "passes/target.a": PASS | {"starts": when, "finished": when},
        "said/handoff.latiss": {"failed": ["m", 0, when], "odd: x": ["m", when]},
        "alerts": {"k": OUTAGE | {"since": when, "holders": {"target.a": {"met": 1, "over": 0}}}},
    }
    for name, content in contents.items():
        path = site.state / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    (site.state / "locks").mkdir(exist_ok=True)
    (site.state / "locks" / "target.a.lock").write_text(json.dumps({"pid": when, "since": when}))


@pytest.mark.parametrize("when", NO_TIMES, ids=lambda value: repr(value)[:9])
def test_numbers_that_make_no_sense_stop_neither_a_status_nor_a_pass(site: Site, when: Any) -> None:
    site.alert = {"command": "cat"}
    site.write()
    write(site, when)
    assert site.run("dbb", "status", "--json").code == 0
    assert site.run("dbb-handoff").code == 0


def test_pipes_in_place_of_files_stop_neither_a_status_nor_a_pass(site: Site) -> None:
    site.alert = {"command": "cat"}
    site.write()
    for name in ("passes/handoff.latiss.json", "said/handoff.latiss.json", "alerts.json"):
        path = site.state / name
        path.parent.mkdir(exist_ok=True)
        os.mkfifo(path)
    (site.state / "locks").mkdir(exist_ok=True)
    os.mkfifo(site.state / "locks" / "finder.latiss.lock")
    assert site.run("dbb", "status", "--json").code == 0
    assert site.run("dbb-handoff").code == 0


def test_a_pass_removes_what_dead_processes_left_unfinished(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    for directory in ("", "passes", "said"):
        (tmp_path / directory).mkdir(exist_ok=True)
        for pid in (dead.pid, os.getpid(), 1):
            (tmp_path / directory / f"handoff.latiss.{pid}.tmp").touch()
        (tmp_path / directory / "x.0.tmp.json").touch()
    memory.begin_pass(tmp_path, "finder.latiss")
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    own = f"handoff.latiss.{os.getpid()}.tmp"
    assert left == {own, "handoff.latiss.1.tmp", "x.0.tmp.json", "finder.latiss.json"}
