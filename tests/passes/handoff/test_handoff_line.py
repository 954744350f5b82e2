"""How a handoff goes on although something is in its way: what else goes, and who is blamed."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.areas.endpoint import session, space, transfer_command
from dbbbatch.database import connect
from dbbbatch.database.models.handoff import SUSPECTED
from dbbbatch.database.models.transfer import TransferBatch
from dbbbatch.errors import TryLater
from dbbbatch.passes import runner
from dbbbatch.passes.handoff import delivery, scheduler, streams
from dbbbatch.passes.handoff.work import HandoffWork
from dbbbatch.passes.signals import Signals
from dbbbatch.process import run as programs
from tests.support.handing import change, make_pass, rows, statuses, wait_over
from tests.support.site import Site, tree

pytestmark = pytest.mark.promise

KEYS: dict[str, Any] = {"min_free": 0, "streams": 1}
Program = Callable[[str, str], Path]

#: A tool of its own on PATH, used instead of cp: its last argument is the directory.
TOOL = {"transfer": "tool {batch} {dest}"}

#: Fails for whatever goes with a file of this name.
CULPRIT = 'case "$*" in *culprit*) exit 9;; esac; exec cp "$@"'


@pytest.fixture
def site(site: Site) -> Site:
    return site.write(handoff=KEYS)


def put_at(site: Site, rel: str, when: float, content: bytes | None = None) -> None:
    """Write a file of this age, so that it has its place in the order."""
    os.utime(site.put(rel, rel.encode() if content is None else content), (when, when))


def once_in_all(site: Site) -> dict[str, bytes]:
    """What has left the buffer for good, wherever it is there: each file once."""
    arrived, stored = tree(site.far_buffer), tree(site.storage)
    assert not arrived.keys() & stored.keys()
    return arrived | stored


# ---- what cannot be placed -----------------------------------------------------------------------


def test_a_file_in_place_of_a_directory_holds_up_no_other(site: Site) -> None:
    put_at(site, "a/b", 1e9)
    put_at(site, "z/good", 1.1e9)
    site.write(handoff={**KEYS, "batch_files": 1})
    (site.far_buffer / "a").write_text("delivered before")
    assert make_pass(site) == 0
    assert statuses(site) == {"a/b": "FOUND", "z/good": "HELD"}
    assert tree(site.far_buffer)["a"] == b"delivered before"


def test_a_file_in_place_of_a_directory_is_seen_before_anything_is_sent(
    site: Site, program: Program
) -> None:
    put_at(site, "a/deep/er/b", 1e9)
    (site.far_buffer / "a").write_text("delivered before")
    program("tool", f'touch {site.root}/sent; exec cp "$@"')
    site.write(handoff=KEYS, endpoint=TOOL)
    make_pass(site)
    assert not (site.root / "sent").exists()
    assert "no directory" in rows(site, "error")[0]


def test_a_file_in_place_of_a_directory_for_too_long_is_quarantine(site: Site) -> None:
    put_at(site, "a/b", 1e9)
    site.write(handoff={**KEYS, "conflict_after": 0})
    (site.far_buffer / "a").write_text("delivered before")
    make_pass(site)
    wait_over(site)
    assert make_pass(site) == 1
    assert statuses(site) == {"a/b": "QUARANTINED"}


@pytest.fixture
def refusing(site: Site, program: Program) -> Site:
    """Return a site whose endpoint refuses links below one directory, as another owner's does."""
    cp = shutil.which("cp")
    undo = f'rm "{site.far_buffer}/refused/f" 2>/dev/null && echo "cp: refused/f: denied" >&2'
    link = f'{cp} "$@"; s=$?; {undo} && exit 1; exit $s'
    program("cp", f'case "$*" in *-lP*) {link};; esac; exec {cp} "$@"')
    put_at(site, "refused/f", 1e9)
    put_at(site, "ok/1", 1.1e9)
    put_at(site, "refused.not/2", 1.2e9)
    return site


@pytest.mark.parametrize("batch_files", [1, 100])
def test_a_file_that_cannot_be_placed_is_to_blame_alone(refusing: Site, batch_files: int) -> None:
    refusing.write(handoff={**KEYS, "batch_files": batch_files})
    assert make_pass(refusing) == 1
    assert statuses(refusing) == {"refused/f": "FOUND", "ok/1": "HELD", "refused.not/2": "HELD"}
    (why,) = rows(refusing, "error", "handoff_file WHERE filename = 'f'")
    assert why == f"cannot be placed in {refusing.far_buffer}: cp: refused/f: denied"
    assert rows(refusing, "sum(attempts)") == [1]
    assert os.listdir(refusing.staging) == []


def test_a_file_that_can_never_be_placed_is_quarantined_at_last(refusing: Site) -> None:
    refusing.write(handoff={**KEYS, "max_attempts": 2})
    make_pass(refusing)
    wait_over(refusing)
    make_pass(refusing)
    assert statuses(refusing)["refused/f"] == "QUARANTINED"
    assert tree(refusing.quarantine)["refused/f"] == b"refused/f"


def test_a_directory_that_cannot_be_made_holds_up_no_other(site: Site, program: Program) -> None:
    make = shutil.which("mkdir")
    refuse = 'case "$*" in *refused*) s=1;; esac'
    program("mkdir", f'{make} "$@" || s=1; {refuse}; rmdir refused 2>/dev/null; exit ${{s:-0}}')
    site.put_all(["refused/f", "ok/1"])
    assert make_pass(site) == 75
    assert statuses(site) == {"ok/1": "HELD", "refused/f": "FOUND"}
    assert rows(site, "sum(attempts)") == [0]


def test_a_buffer_that_takes_no_file_at_all_is_no_files_fault(
    site: Site, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    site.put_all(["a/1", "a/2"])
    cp = shutil.which("cp")
    broken = program("cp", f'case "$*" in *-lP*) echo not today >&2; exit 1;; esac; exec {cp} "$@"')
    site.write(handoff={**KEYS, "batch_files": 1, "max_attempts": 1})
    for _ in range(2):
        assert make_pass(site) == 75
    said = capsys.readouterr().err
    assert "no file can be placed in" in said
    assert "not today" in said
    assert rows(site, "status, attempts") == [("FOUND", 0)] * 2
    broken.unlink()
    assert make_pass(site) == 0
    assert set(tree(site.far_buffer)) == {"a/1", "a/2"}
    assert os.listdir(site.staging) == []


def test_a_trial_of_the_buffer_leaves_nothing_in_it(refusing: Site) -> None:
    make_pass(refusing)
    assert set(tree(refusing.far_buffer)) == {"ok/1", "refused.not/2"}


# ---- recovery ------------------------------------------------------------------------------------


def away(*_: object) -> Any:
    raise session.Away("the connection was dropped")


def cut_off(site: Site, monkeypatch: pytest.MonkeyPatch, *files: str) -> None:
    """Leave each of some files in a batch of its own that was verified and not placed."""
    for rel in files:
        site.put(rel)
        with monkeypatch.context() as patched:
            patched.setattr(session.Session, "place_files", away)
            patched.setattr(delivery.Delivery, "recover", lambda self: None)
            assert make_pass(site, match=(rel,)) == 75


def test_a_batch_that_is_refused_holds_up_neither_the_others_nor_what_is_new(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cut_off(site, monkeypatch, "a/stuck", "b/fine")
    site.put("c/new")
    stuck, _ = rows(site, "attempt", "transfer_batch ORDER BY id")
    real = session.Session.take_over

    def ask(self: session.Session, attempt: str) -> str:
        if attempt == stuck:
            raise session.Refused("the endpoint: it will not")
        return real(self, attempt)

    with monkeypatch.context() as patched:
        patched.setattr(session.Session, "take_over", ask)
        assert make_pass(site) == 75
    assert "it will not" in capsys.readouterr().err
    assert statuses(site) == {"a/stuck": "FOUND", "b/fine": "HELD", "c/new": "HELD"}
    assert make_pass(site) == 0
    assert set(tree(site.far_buffer)) == {"a/stuck", "b/fine", "c/new"}
    assert os.listdir(site.staging) == []


def test_a_file_that_cannot_be_placed_is_to_blame_in_recovery_too(
    refusing: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(session.Session, "place_files", away)
        assert make_pass(refusing) == 75
    assert make_pass(refusing) == 1
    assert statuses(refusing) == {"refused/f": "FOUND", "ok/1": "HELD", "refused.not/2": "HELD"}
    assert rows(refusing, "sum(attempts)") == [1]
    assert set(rows(refusing, "status", "transfer_batch")) == {"DONE"}


def test_what_cannot_be_removed_from_staging_holds_up_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.put("a")
    make_pass(site)
    change(site, "UPDATE transfer_batch SET status = 'SETTLED'")
    site.put("b")

    def busy(*_: object) -> None:
        raise session.Refused("the endpoint: Device or resource busy")

    with monkeypatch.context() as patched:
        patched.setattr(session.Session, "clean", busy)
        assert make_pass(site) == 0
    said = capsys.readouterr().err
    assert "cannot be removed" in said
    assert len(said.splitlines()) == 1
    assert statuses(site) == {"a": "HELD", "b": "HELD"}
    assert make_pass(site) == 0
    assert set(rows(site, "status", "transfer_batch")) == {"DONE"}


# ---- the culprit among files that failed together ------------------------------------------------


def test_a_limit_does_not_end_the_search(site: Site, program: Program) -> None:
    program("tool", CULPRIT)
    site.write(handoff=KEYS, endpoint=TOOL)
    for n in range(5):
        put_at(site, f"night/{'culprit' if n == 2 else n}", 1e9 + n)
    put_at(site, "night/later", 1.1e9)
    assert make_pass(site, limit=5) == 1
    found = statuses(site)
    assert (found.pop("night/culprit"), found.pop("night/later")) == ("FOUND", "FOUND")
    assert set(found.values()) == {"HELD"}
    assert rows(site, "attempts", "handoff_file WHERE filename = 'culprit'") == [1]
    assert make_pass(site, limit=5) == 0
    assert statuses(site)["night/later"] == "HELD"


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the time of --max-time be over when the first transfer has ended."""
    ended: list[runner.PassContext] = []
    real = delivery.Delivery.act

    def act(self: delivery.Delivery, *arguments: Any) -> Any:
        result = real(self, *arguments)
        self.context._end = 0.0
        ended.append(self.context)
        return result

    monkeypatch.setattr(delivery.Delivery, "act", act)
    yield
    assert ended


def test_a_search_that_is_broken_off_is_recorded(
    site: Site, program: Program, slow: None, capsys: pytest.CaptureFixture[str]
) -> None:
    program("tool", CULPRIT)
    site.write(handoff=KEYS, endpoint=TOOL)
    site.put_all(["night/1", "night/culprit", "night/3"])
    assert make_pass(site, max_time=3600) == 1
    assert rows(site, "status, attempts, next_try_at") == [("FOUND", 0, None)] * 3
    assert set(rows(site, "error")) == {f"{SUSPECTED}: tool: exit code 9"}
    assert "3 files failed" in capsys.readouterr().err


def test_a_signal_leaves_what_was_in_reserve_suspect(
    site: Site, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal = site.root / "signal"
    program("tool", f'[ "$#" != 3 ] || touch {signal}; {CULPRIT}')
    site.write(handoff=KEYS, endpoint=TOOL)
    for n in range(4):
        put_at(site, f"night/{'culprit' if n == 3 else n}", 1e9 + n)
    monkeypatch.setattr(runner.PassContext, "interrupted", property(lambda self: signal.exists()))
    assert make_pass(site) == 75
    assert rows(site, "status, error", "handoff_file ORDER BY mtime_ns") == [
        *[("HELD", None)] * 2,
        *[("FOUND", f"{SUSPECTED}: tool: exit code 9")] * 2,
    ]


def test_each_pass_gets_further_in_a_search(site: Site, program: Program, slow: None) -> None:
    # Each pass has time for no more than a batch.
    program("tool", CULPRIT)
    site.write(handoff={**KEYS, "batch_files": 40}, endpoint=TOOL)
    for n in range(40):
        put_at(site, f"night/{'culprit' if n == 25 else n}", 1e9 + n)
    for number in range(12):
        make_pass(site, max_time=3600)
        put_at(site, f"live/{number}", 1.5e9)
        if rows(site, "sum(attempts)") == [1]:
            break
    assert rows(site, "attempts", "handoff_file WHERE filename = 'culprit'") == [1]
    # What is new goes first, and apart.
    found = statuses(site)
    assert {found[f"live/{n}"] for n in range(number)} == {"HELD"}


def test_suspects_go_in_small_batches_that_grow_while_all_is_well(
    site: Site, program: Program
) -> None:
    site.put_all(f"night/{n:03}" for n in range(200))
    site.write(handoff=KEYS, endpoint={"transfer": "false {batch} {dest}"})
    make_pass(site)
    change(site, f"UPDATE handoff_file SET attempts = 0, next_try_at = NULL, error = '{SUSPECTED}'")
    (before,) = rows(site, "max(id)", "transfer_batch")
    change(site, "UPDATE transfer_attempt SET outcome = 'LATER' WHERE batch_id > 1")
    site.put("new")
    site.write(handoff=KEYS)
    assert make_pass(site) == 0
    sizes = rows(site, "files", f"transfer_batch WHERE id > {before} ORDER BY id")
    assert sizes[:2] == [1, 16]
    assert max(sizes) > 16
    assert sum(sizes) == 201
    assert set(statuses(site).values()) == {"HELD"}


@pytest.mark.parametrize("streams", [1, 2])
def test_many_bad_files_do_not_starve_the_rest(site: Site, program: Program, streams: int) -> None:
    program("tool", CULPRIT)
    site.write(handoff={**KEYS, "batch_files": 40, "streams": streams}, endpoint=TOOL)
    for n in range(200):
        put_at(site, f"bad/culprit{n:03}", 1e9 + n)
    put_at(site, "live/good", 1.5e9)
    assert make_pass(site) == 75
    assert statuses(site)["live/good"] == "HELD"
    (reached,) = rows(site, "count(*)", "handoff_file WHERE attempts > 0")
    assert 0 < reached <= scheduler.FRUITLESS
    make_pass(site)
    assert rows(site, "count(*)", "handoff_file WHERE attempts > 0")[0] > reached
    assert rows(site, "max(attempts)") == [1]


def test_what_is_new_goes_before_the_search_for_a_culprit(site: Site, program: Program) -> None:
    program("tool", f'echo "$#" >>{site.root}/sizes; {CULPRIT}')
    site.write(handoff={**KEYS, "batch_files": 4}, endpoint=TOOL)
    for n in range(4):
        put_at(site, f"a/{'culprit' if n == 3 else n}", 1e9 + n)
    for n in range(6):
        put_at(site, f"b/{n}", 1.1e9 + n)
    assert make_pass(site) == 1
    sizes = [int(size) - 1 for size in (site.root / "sizes").read_text().split()]
    # A probe, alone, after the first of which nothing arrived, and after the culprit.
    assert sizes == [4, 1, 4, 2, 2, 2, 1, 1, 1]


def test_two_bad_files_are_found_in_one_pass(site: Site, program: Program) -> None:
    program("tool", CULPRIT)
    site.write(handoff={**KEYS, "batch_files": 4}, endpoint=TOOL)
    for n in range(8):
        put_at(site, f"a/{n}{'culprit' if n in (0, 4) else ''}", 1e9 + n)
    assert make_pass(site) == 1
    found = "filename, attempts", "handoff_file WHERE status = 'FOUND' ORDER BY filename"
    assert rows(site, *found) == [("0culprit", 1), ("4culprit", 1)]


def test_the_search_is_not_put_off_for_ever(site: Site, program: Program) -> None:
    program("tool", f'echo "$#" >>{site.root}/sizes; {CULPRIT}')
    site.write(handoff={**KEYS, "batch_files": 4}, endpoint=TOOL)
    for n in range(4):
        put_at(site, f"a/{'culprit' if n == 3 else n}", 1e9 + n)
    for n in range(20 * 4):
        put_at(site, f"b/{n}", 1.1e9 + n)
    assert make_pass(site) == 1
    sizes = [int(size) - 1 for size in (site.root / "sizes").read_text().split()]
    assert sizes.index(2) < 12
    assert sizes.count(4) == 21


@pytest.mark.parametrize("streams", [1, 2])
def test_one_bad_file_in_a_thousand_is_found_in_one_pass(
    site: Site, program: Program, streams: int
) -> None:
    program("tool", CULPRIT)
    site.write(handoff={**KEYS, "streams": streams}, endpoint=TOOL)
    site.put_all(f"{n}" for n in range(1000))
    site.put("culprit")
    assert make_pass(site) == 1
    assert rows(site, "filename, attempts", "handoff_file WHERE status = 'FOUND'") == [
        ("culprit", 1)
    ]


@pytest.mark.promise
class TestTool:
    """A transfer command that sends nothing at all is told from a file that cannot be sent."""

    @pytest.mark.parametrize("files", [1, 300])
    def test_that_is_broken_blames_no_file(
        self, site: Site, capsys: pytest.CaptureFixture[str], files: int
    ) -> None:
        site.put_all(f"night/{n:03}" for n in range(files))
        keys = {**KEYS, "batch_files": 100, "max_attempts": 2}
        broken = "sh -c 'echo no such tool >&2; exit 127' {batch} {dest}"
        site.write(handoff=keys, endpoint={"transfer": broken})
        for _ in range(3):
            assert make_pass(site) == 75
        assert rows(site, "max(attempts)") == [0]
        assert len(rows(site, "id", "transfer_batch")) <= 2 * 3
        assert capsys.readouterr().err.splitlines() == [
            "handoff.latiss: the transfer command fails for every file: sh: exit code 127: no "
            "such tool"
        ]
        site.write(handoff=keys)
        assert make_pass(site) == 0
        assert set(statuses(site).values()) == {"HELD"}

    def test_that_works_blames_the_only_file_that_waits(self, site: Site, program: Program) -> None:
        program("tool", CULPRIT)
        site.write(handoff={**KEYS, "max_attempts": 2}, endpoint=TOOL)
        site.put("culprit")
        assert make_pass(site) == 1
        assert rows(site, "attempts") == [1]
        wait_over(site)
        make_pass(site)
        assert statuses(site) == {"culprit": "QUARANTINED"}

    @pytest.mark.parametrize("transfer", ["{files_from}", "{file}", "{batch}"])
    def test_is_tried_in_every_form_of_the_command(
        self, site: Site, program: Program, transfer: str
    ) -> None:
        program("tool", f"case $* in *culprit*) exit 1; esac; {FORMS[transfer]}")
        site.write(handoff=KEYS, endpoint={"transfer": f"tool {transfer} {{dest}} {{source_root}}"})
        site.put("night/culprit")
        assert make_pass(site) == 1
        assert rows(site, "attempts") == [1]

    def test_leaves_nothing_of_its_trial(self, site: Site, program: Program) -> None:
        program("tool", CULPRIT)
        site.write(handoff=KEYS, endpoint=TOOL)
        site.put("culprit")
        make_pass(site)
        assert os.listdir(site.staging) == os.listdir(site.far_buffer) == []
        assert set(tree(site.buffer)) == {"culprit"}
        assert not list((site.state).glob("lists/*"))


#: What a tool does that is given a list, or sources, then the destination and the sources' root.
FORMS = {
    "{files_from}": (
        'if tr "\\0" "\\n" <"$1" | grep -q culprit; then exit 1; fi;'
        ' cd "$3" && xargs -0 -a "$1" cp -p --parents -t "$2"'
    ),
    "{file}": 'cp -p -- "$1" "$2"',
    "{batch}": 'cp -p -- "$1" "$2"',
}


# ---- room at the far end -------------------------------------------------------------------------


@pytest.fixture
def far_disk(site: Site, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the size of a far end's disk, on which only the files there take room."""
    size = [1 << 40]

    def free(self: object) -> int:
        there = [*tree(site.staging).values(), *tree(site.far_buffer).values()]
        return size[0] - sum(map(len, there))

    real = session.Session.begin

    def begin(self: session.Session, *arguments: Any) -> Any:
        return free(self), real(self, *arguments)[1]

    monkeypatch.setattr(session.Session, "begin", begin)
    monkeypatch.setattr(session.Session, "free_bytes", free)
    return size


def test_a_file_that_does_not_fit_holds_up_no_other(
    site: Site, far_disk: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    far_disk[0] = 50_000
    put_at(site, "huge", 1e9, b"x" * 60_000)
    for n in range(3):
        put_at(site, f"small{n}", 1.1e9 + n, b"y" * 100)
    site.write(handoff={**KEYS, "batch_files": 1})
    assert make_pass(site) == 75
    said = capsys.readouterr().err
    assert "too little for huge" in said
    assert len(said.splitlines()) == 1
    assert statuses(site) == {"huge": "FOUND", "small0": "HELD", "small1": "HELD", "small2": "HELD"}
    assert rows(site, "sum(attempts)") == [0]
    far_disk[0] = 1 << 40
    assert make_pass(site) == 0


def test_a_batch_that_does_not_fit_is_divided(site: Site, far_disk: list[int]) -> None:
    # Room for four and a half: names and lists, too, take some, but come and go.
    far_disk[0] = 45_000
    for n in range(8):
        put_at(site, f"{n}", 1e9 + n, b"x" * 10_000)
    assert make_pass(site) == 75
    assert 2 <= len(tree(site.far_buffer)) < 5
    assert set(tree(site.far_buffer)) == set(tree(site.holding))
    assert os.listdir(site.staging) == []


def test_after_some_that_do_not_fit_the_far_end_counts_as_full(
    site: Site, far_disk: list[int]
) -> None:
    far_disk[0] = 50_000
    for n in range(30):
        put_at(site, f"{n:02}", 1e9 + n, b"x" * 60_000)
    site.write(handoff={**KEYS, "batch_files": 1})
    assert make_pass(site) == 75
    assert len(rows(site, "id", "transfer_batch")) <= scheduler.FULL_AFTER + 2


def test_a_tool_that_finds_no_room_blames_no_file(site: Site, program: Program) -> None:
    # A quota, or a table of files that is full: there are bytes enough.
    full = "echo 'tool: Disk quota exceeded' >&2; exit 1"
    program("tool", f'case "$*" in *large*) {full};; esac; exec cp "$@"')
    site.write(handoff=KEYS, endpoint=TOOL)
    site.put_all(["a/1", "a/large", "a/3", "b/4"])
    assert make_pass(site) == 75
    found = statuses(site)
    assert found.pop("a/large") == "FOUND"
    assert set(found.values()) == {"HELD"}
    assert rows(site, "sum(attempts)") == [0]


def test_below_what_must_stay_free_the_pass_ends_at_once(site: Site, far_disk: list[int]) -> None:
    site.put_all(["a", "b"])
    far_disk[0] = 50_000
    site.write(handoff={**KEYS, "batch_files": 1, "min_free": 100_000})
    assert make_pass(site) == 75
    assert rows(site, "id", "transfer_batch") == []


def test_batches_under_way_do_not_count_on_the_same_room(
    site: Site, far_disk: list[int], program: Program
) -> None:
    # There is room for one, and both look before anything of the other has arrived.
    program("tool", 'sleep 0.5; exec cp "$@"')
    far_disk[0] = 35_000
    site.write(handoff={**KEYS, "streams": 2, "batch_files": 1}, endpoint=TOOL)
    put_at(site, "one", 1e9, b"x" * 20_000)
    put_at(site, "two", 1.1e9, b"y" * 20_000)
    assert make_pass(site) == 75
    assert len(tree(site.far_buffer)) == 1
    assert sum(rows(site, "exit_status IS NOT NULL", "transfer_batch")) == 1


def test_room_is_waited_for_where_it_is_only_promised() -> None:
    shared = space.SpaceBudget()
    assert shared.reserve("a", 60, 100, 0, lambda: 100) == 100
    waiting = threading.Thread(target=shared.reserve, args=("b", 60, 100, 0, lambda: 100))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    shared.release("a")
    waiting.join(10)
    assert not waiting.is_alive()


def test_room_that_is_not_there_is_not_waited_for() -> None:
    shared = space.SpaceBudget()
    shared.reserve("a", 60, 100, 0, lambda: 100)
    assert shared.reserve("b", 101, 100, 0, lambda: 100) == 100
    # Now it can be seen that the other one filled the disk.
    threading.Timer(0.1, shared.release, ["a"]).start()
    assert shared.reserve("c", 60, 100, 0, lambda: 40) == 40
    assert shared.reserve("d", 40, 40, shared.filled, lambda: 0) == 40


def test_room_that_another_batch_filled_after_it_was_found_is_not_promised_again() -> None:
    shared = space.SpaceBudget()
    shared.reserve("a", 60, 100, 0, lambda: 100)
    since = shared.filled
    shared.release("a")
    assert shared.reserve("b", 60, 100, since, lambda: 40) == 40
    assert shared.reserve("c", 40, 100, since, lambda: pytest.fail("it fits in any case")) == 100


# ---- what the finder at the far end does meanwhile -----------------------------------------------


def test_what_was_placed_and_moved_on_is_not_placed_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put_all(["a/one", "a/two"])
    cp = shutil.which("cp")
    stop = site.root / "stop"
    stop.touch()
    far_end_dies = f'{cp} "$@"; pkill -9 -s $(ps -o sid= -p $$)'
    when = f'case "$*" in *-lP*) [ ! -e {stop} ] || {{ {far_end_dies}; }};; esac'
    _cp(site, f'{when}; exec {cp} "$@"', monkeypatch)
    assert make_pass(site) == 75
    stop.unlink()
    assert set(tree(site.far_buffer)) == {"a/one", "a/two"}
    os.rename(site.far_buffer / "a" / "one", site.storage / "one")  # the finder
    assert make_pass(site) == 0
    assert set(tree(site.far_buffer)) == {"a/two"}
    assert statuses(site) == {"a/one": "HELD", "a/two": "HELD"}
    assert os.listdir(site.staging) == []


def test_what_the_finder_takes_while_others_are_compared_is_placed_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    cp = shutil.which("cp")
    take = f"mv {site.far_buffer}/a/one {site.storage}/one 2>/dev/null"
    other = f"mkdir -p {site.far_buffer}/a; echo other >{site.far_buffer}/a/two"
    _cp(
        site,
        f'case "$*" in *-lP*) {cp} "$@"; s=$?; {take}; exit $s;; *) {cp} "$@"; {other};; esac',
        monkeypatch,
    )
    site.put_all(["a/one", "a/two"])
    assert make_pass(site) == 0
    assert statuses(site) == {"a/one": "HELD", "a/two": "FOUND"}
    assert set(tree(site.far_buffer)) == {"a/two"}
    assert set(tree(site.storage)) == {"one"}


def test_names_that_were_linked_in_transfer_are_all_placed(
    site: Site, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As rsync -H does; and only the first of them came into the buffer before the pass was killed.
    program("tool", 'cp "$@"; for last do :; done; ln -f "$last/one" "$last/two"')
    site.write(handoff=KEYS, endpoint=TOOL)
    site.put("a/one", b"same")
    site.put("a/two", b"same")
    with monkeypatch.context() as patched:
        patched.setattr(session.Session, "place_files", away)
        assert make_pass(site) == 75
    (attempt,) = site.staging.iterdir()
    (site.far_buffer / "a").mkdir()
    os.link(attempt / "t" / "a" / "one", site.far_buffer / "a" / "one")
    assert make_pass(site) == 0
    assert set(tree(site.far_buffer)) == {"a/one", "a/two"}


def _cp(site: Site, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do this at the far end instead of cp."""
    directory = site.root / "cp"
    directory.mkdir()
    (directory / "cp").write_text(f"#!/bin/sh\n{script}\n")
    (directory / "cp").chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


# ---- the end of a pass ---------------------------------------------------------------------------


def test_a_pass_that_fails_leaves_no_transfer_running(
    site: Site, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = site.root / "log"
    program("tool", f"echo start >>{log}; exec tail -f {log}")
    site.write(handoff={**KEYS, "batch_files": 1}, endpoint=TOOL)
    site.put_all("abcd")
    begun: list[object] = []
    real = TransferBatch.begin.__func__  # type: ignore[attr-defined]

    def begin(cls: type[TransferBatch], *arguments: Any) -> int:
        if len(begun) == 2:
            while not log.exists():
                time.sleep(0.01)
            raise TryLater("the database is away")
        begun.append(arguments)
        return int(real(cls, *arguments))

    monkeypatch.setattr(TransferBatch, "begin", classmethod(begin))
    # A further one is made ready while one waits in reserve.
    monkeypatch.setattr(
        streams.Streams, "wants_more", property(lambda self: len(self._batches) <= 2)
    )
    assert make_pass(site) == 75
    running = ["pgrep", "-f", f"tail -f {log}"]
    assert subprocess.run(running, capture_output=True, check=False).stdout == b""
    assert log.read_text() == "start\n"


# ---- a long pass ---------------------------------------------------------------------------------


def _archiving(site: Site, program: Program, **keys: Any) -> None:
    """Write a live file while each batch of a backlog is sent."""
    n = f"$(ls {site.root}/n | wc -l)"
    (site.root / "n").mkdir()
    write = f"n={n}; touch {site.root}/n/$n; echo live >{site.root}/live; mv {site.root}/live"
    program("tool", f'cp "$@"; {write} {site.buffer}/live$n')
    handoff = {**KEYS, "batch_files": 1, "order": "newest", **keys}
    site.write(handoff=handoff, endpoint=TOOL)
    for number in range(12):
        put_at(site, f"old/{number}", 1e9 + number)


def _order(site: Site) -> list[str]:
    return rows(
        site,
        "f.relpath || f.filename",
        "transfer_attempt a JOIN handoff_file f ON f.id = a.handoff_file_id ORDER BY a.batch_id",
    )


def test_what_is_written_meanwhile_goes_before_the_backlog(
    site: Site, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "RESCAN", 0.0)
    monkeypatch.setattr(scheduler, "RESCAN_SHARE", 1e9)
    _archiving(site, program)
    assert make_pass(site) == 0
    order = _order(site)
    assert "live0" in order[:8]
    # The writer is as fast as the line, and yet the pass ends when the backlog is sent.
    assert sum(name.startswith("old") for name in order) == 12
    assert order[-1].startswith(("old", "live"))


def test_the_buffer_is_not_scanned_again_at_once(site: Site, program: Program) -> None:
    _archiving(site, program)
    make_pass(site)
    assert len(_order(site)) == 12


def test_a_pass_with_no_backlog_does_not_scan_again(
    site: Site, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "RESCAN", 0.0)
    scans: list[object] = []
    real = scheduler.scanned
    monkeypatch.setattr(scheduler, "scanned", lambda *a: scans.append(a) or real(*a))
    make_pass(site)
    assert len(scans) == 1


# ---- what is recorded ----------------------------------------------------------------------------


def test_the_time_limit_of_a_transfer_grows_with_its_bytes(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = []
    real = programs.run

    def run(argv: Any, *, timeout: float, **more: Any) -> programs.Finished:
        limits.append(timeout)
        return real(argv, timeout=timeout, **more)

    monkeypatch.setattr(transfer_command.run, "run", run)
    site.write(handoff={**KEYS, "timeout": "5s", "min_rate": 10})
    site.put("a", b"x" * 1000)
    make_pass(site)
    assert limits == [5 + 1000 / 10]


def test_a_batch_of_which_nothing_is_known_keeps_what_was_known(
    site: Site, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put("a")
    program("tool", "echo connection reset >&2; exit 12")
    site.write(handoff=KEYS, endpoint=TOOL)

    columns = "status, exit_status, error, transfer_duration > 0"
    with monkeypatch.context() as patched:
        patched.setattr(session.Session, "end", away)
        assert make_pass(site) == 75
    (row,) = rows(site, columns, "transfer_batch")
    assert row == ("OPEN", 12, "the connection was dropped", 1)
    site.write(handoff=KEYS)
    assert make_pass(site) == 0
    assert rows(site, columns, "transfer_batch")[0] == ("DONE", *row[1:])


# ---- the session of passes that linger ---------------------------------------------------------


@pytest.fixture
def lingering(site: Site, program: Program) -> Iterator[Callable[[], int]]:
    """Passes of one process that lingers; how often the far end was connected is in `opened`."""
    program("far", f'echo >>{site.root}/opened; exec sh -c "$1"')
    site.write(handoff=KEYS, endpoint={"remote": "far {command}"})
    settings = site.settings()
    section = settings.handoff[site.name]
    work = HandoffWork(section)
    options = runner.Options(linger=60)

    def lingering() -> int:
        notices = runner.Notices(site.state, section.label)
        context = runner.PassContext(settings, section, options, notices, Signals())
        connect.connect(settings.database)
        context.run_id = 1
        work.recover(context)
        work.work(context)
        return len((site.root / "opened").read_text())

    yield lingering
    work.close()
    connect.disconnect()


def test_a_session_stays_open_for_the_next_pass(site: Site, lingering: Callable[[], int]) -> None:
    for number in (1, 2, 3):
        site.put(f"{number}")
        assert lingering() == 1
    assert set(statuses(site).values()) == {"HELD"}


def test_a_session_that_was_closed_meanwhile_is_opened_again_and_nobody_is_told(
    site: Site, lingering: Callable[[], int], capsys: pytest.CaptureFixture[str]
) -> None:
    site.put("1")
    lingering()
    programs.end_all()
    site.put("2")
    assert lingering() == 2
    assert set(statuses(site).values()) == {"HELD"}
    assert capsys.readouterr() == ("", "")


def test_the_last_pass_leaves_no_session(site: Site, program: Program) -> None:
    program("far", f'echo $$ >>{site.root}/opened; exec sh -c "$1"')
    site.write(handoff=KEYS, endpoint={"remote": "far {command}"})
    site.put("1")
    assert make_pass(site, linger=0.1) == 0
    (pid,) = (site.root / "opened").read_text().split()
    assert not Path(f"/proc/{pid}").exists()
