"""What a host shows at once, and that it waits for no dead disk."""

import os
import threading
from pathlib import Path

import pytest

from dbbbatch.files.lock import Lock
from dbbbatch.report import host
from tests.support.site import Site

pytestmark = pytest.mark.parametrize("backend", ["sqlite"])


@pytest.fixture
def state(site: Site) -> Path:
    """Return the state directory of a site, as after a pass."""
    for name in ("locks", "said", "passes"):
        (site.state / name).mkdir()
    (site.state / "locks" / "handoff.latiss.lock").touch()
    return site.state


def problems(site: Site) -> list[tuple[str, str]]:
    return [(one.label, one.what) for one in host.look_here(site.settings(), 2).problems]


def test_what_does_not_answer_is_left_behind(backend: str) -> None:
    never = threading.Event()
    assert host.within(0.01, never.wait, None) is None
    assert host.within(5, lambda: "here", "") == "here"
    never.set()


def test_a_state_directory_as_it_should_be_is_no_problem(site: Site, state: Path) -> None:
    assert problems(site) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_what_another_user_made_is_a_problem_for_the_owner(site: Site, state: Path) -> None:
    os.chown(state, 12345, -1)
    found = host.look_here(site.settings(), 2)
    assert found.owner == 12345
    assert problems(site) == [
        ("", "state directory"),
        ("handoff.latiss", "lock"),
    ]
    assert all(one.advice.startswith("sudo chown -R 12345 ") for one in found.problems)


def test_a_lock_that_is_no_file_is_a_problem(site: Site, state: Path) -> None:
    (state / "locks" / "finder.latiss~1.lock").mkdir()
    assert problems(site) == [("finder.latiss", "lock")]


def test_who_holds_a_lock_is_seen(site: Site, state: Path) -> None:
    with Lock(state / "locks", "handoff.latiss"):
        ((label, holder),) = host.look_here(site.settings(), 2).holders
    assert (label, holder.pid) == ("handoff.latiss", os.getpid())


def test_nothing_is_made(site: Site) -> None:
    site.state.rmdir()
    host.look_here(site.settings(), 2)
    assert not site.state.exists()


def test_the_room_of_a_file_system_is_shown_once_for_each_section(site: Site) -> None:
    rooms = host.look_here(site.settings(), 2).rooms
    assert [room.where for room in rooms] == [
        "[site] state",
        "[database] url",
        "[handoff.latiss.endpoint] staging",
        "[handoff.latiss] buffer",
        "[finder.latiss] storage",
    ]
    assert all(0 < room.free_bytes <= room.total_bytes for room in rooms)


def test_a_disk_that_does_not_answer_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, over = os.statvfs, threading.Event()

    def hangs(path: str) -> os.statvfs_result:
        if path == str(site.buffer):
            over.wait(60)
        return asked(path)

    monkeypatch.setattr(os, "statvfs", hangs)
    seen = host.look_here(site.settings(), 0.5)
    over.set()
    (problem,) = seen.problems
    assert problem.what == "not seen"
    assert problem.message.startswith(f"{site.buffer} ([handoff.latiss] buffer): no answer")
    assert "[site] state" in [room.where for room in seen.rooms]


def test_a_place_that_is_not_there_has_no_room(site: Site) -> None:
    site.buffer.rmdir()
    wheres = [room.where for room in host.look_here(site.settings(), 2).rooms]
    assert "[handoff.latiss] buffer" not in wheres
