"""The handoff when something is wrong: every file stays where it was, or goes further on."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from dbbbatch.areas.endpoint import session, transfer_command, transfer_stream
from dbbbatch.files import place
from tests.support.handing import REFUSING, change, make_pass, rows, statuses, wait_over
from tests.support.scripts import TOP
from tests.support.site import Site, tree
from tests.support.ssh import SshServer

pytestmark = pytest.mark.promise

KEYS: dict[str, Any] = {"min_free": 0, "streams": 1}
Program = Callable[[str, str], Path]

#: A tool of its own on PATH, used instead of cp: its last argument is the directory.
TOOL = {"transfer": "tool {batch} {dest}"}


@pytest.fixture
def site(by_each_way: None, site: Site) -> Site:
    return site.write(handoff=KEYS)


@pytest.fixture
def far(by_each_way: None, ssh_site: Site, own_ssh_server: SshServer) -> Site:
    """Return a site whose far end is reached by an ssh server of its own."""
    ssh_site.ssh = own_ssh_server
    return ssh_site.write(handoff=KEYS)


@pytest.fixture
def before_transfer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Let something happen when files are about to be sent, once."""
    return lambda happen: happening(
        monkeypatch,
        happen,
        (transfer_command.TransferCommand, "send"),
        (transfer_stream.TransferStream, "send"),
    )


@pytest.fixture
def after_transfer(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Let something happen when files have just been sent, once."""
    return lambda happen: happening(monkeypatch, happen, (session.Session, "verify"))


def happening(
    monkeypatch: pytest.MonkeyPatch, happen: Callable[[], None], *before: tuple[type, str]
) -> None:
    """Let something happen before one of some methods is called, once."""
    pending = [happen]

    def replace(owner: type, name: str) -> None:
        real = getattr(owner, name)

        def method(*arguments: Any, **more: Any) -> Any:
            if pending:
                pending.pop()()
            return real(*arguments, **more)

        monkeypatch.setattr(owner, name, method)

    for owner, name in before:
        replace(owner, name)


def untouched(site: Site) -> None:
    """Nothing happened to the file of the buffer, and it is not blamed."""
    assert set(tree(site.buffer)) == {"a/b"}
    assert tree(site.far_buffer) == tree(site.holding) == {}
    assert rows(site, "status, attempts, next_try_at") == [("FOUND", 0, None)]


def goes_on(site: Site) -> None:
    """The next pass brings the file to its end, and nothing is left."""
    assert make_pass(site) == 0
    assert set(tree(site.far_buffer)) == set(tree(site.holding)) == {"a/b"}
    assert tree(site.buffer) == {}
    assert os.listdir(site.staging) == []


# ---- the network ---------------------------------------------------------------------------------


def test_connection_refused(far: Site, capsys: pytest.CaptureFixture[str]) -> None:
    far.put("a/b")
    far.ssh.stop()
    assert make_pass(far) == 75
    assert "cannot be reached" in capsys.readouterr().err
    untouched(far)
    far.ssh.start()
    goes_on(far)


def test_an_endpoint_that_is_down_costs_no_rows(far: Site) -> None:
    far.put("a/b")
    far.ssh.stop()
    for _ in range(2):
        make_pass(far)
    assert rows(far, "id", "transfer_batch") == []


def test_connection_dropped_in_mid_transfer(
    far: Site, before_transfer: Callable[[Callable[[], None]], None]
) -> None:
    far.put("a/b")
    before_transfer(far.ssh.stop)
    assert make_pass(far) == 75
    untouched(far)
    far.ssh.start()
    goes_on(far)


def test_connection_dropped_after_everything_arrived(
    far: Site, after_transfer: Callable[[Callable[[], None]], None]
) -> None:
    far.put("a/b")
    after_transfer(far.ssh.stop)
    assert make_pass(far) == 75
    untouched(far)
    far.ssh.start()
    # What arrived whole is taken over, not sent again.
    far.write(handoff=KEYS, endpoint={"transfer": "false {files_from} {dest}"})
    goes_on(far)


def test_connection_dropped_while_placing(far: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    far.put("a/b")
    real = session.Session.place_files

    def placed_but_unheard(self: Any, *arguments: Any) -> session.Placed:
        real(self, *arguments)
        raise session.Away("the connection was dropped")

    with monkeypatch.context() as patched:
        patched.setattr(session.Session, "place_files", placed_but_unheard)
        assert make_pass(far) == 75
    assert set(tree(far.far_buffer)) == set(tree(far.buffer)) == {"a/b"}
    # The endpoint's finder takes it; sending it again would be a second copy.
    far.write(handoff=KEYS, endpoint={"transfer": "false {files_from} {dest}"})
    (far.far_buffer / "a" / "b").unlink()
    assert make_pass(far) == 0
    assert statuses(far) == {"a/b": "HELD"}
    assert tree(far.far_buffer) == {}


def test_a_wrong_host_key(far: Site, capsys: pytest.CaptureFixture[str]) -> None:
    far.put("a/b")
    known = far.ssh.directory / "known_hosts"
    right = known.read_text()
    other = (far.ssh.directory / "user_key.pub").read_text().split()[:2]
    known.write_text(f"{right.split()[0]} {' '.join(other)}\n")
    assert make_pass(far) == 75
    assert "Host key verification failed" in capsys.readouterr().err
    untouched(far)
    known.write_text(right)
    goes_on(far)


def test_a_hung_transfer_is_ended_here_and_there(far: Site) -> None:
    far.put("a/b")
    hang = f"ssh {far.ssh.options} -l {{user}} {{host}} tail -f /dev/null {{dest}} {{file}}"
    far.write(handoff={**KEYS, "timeout": "1s"}, endpoint={"transfer": hang})
    assert make_pass(far) == 75
    assert rows(far, "status, attempts") == [("FOUND", 0)]
    assert "time limit" in rows(far, "error", "transfer_batch")[0]
    staging = str(far.staging)
    assert not [p for p in psutil.process_iter(["cmdline"]) if staging in str(p.info["cmdline"])]


@pytest.mark.parametrize(
    "script", ["exec yes", "exec yes >&2", "while :; do printf x; sleep 0.1; done"]
)
def test_a_transfer_that_prints_without_end_is_ended_at_its_time_limit(
    far: Site, script: str
) -> None:
    far.put("a/b")
    noise = f"sh -c '{script}' sh {{file}} {{dest}}"
    far.write(handoff={**KEYS, "timeout": "1s"}, endpoint={"transfer": noise})
    assert make_pass(far) == 75
    assert rows(far, "status, attempts") == [("FOUND", 0)]
    (error,) = rows(far, "error", "transfer_batch")
    assert "ended at its time limit" in error
    assert len(error) < 1000


def test_a_large_file_whose_transfer_broke_is_resumed(far: Site, tmp_path: Path) -> None:
    content = os.urandom(8 << 20)
    far.put("a/b", content)
    resuming = far.ssh.rsync.replace("--whole-file", "--partial-dir={staging}/dbb-partial --stats")
    slow = resuming.replace("--stats", "--bwlimit=1M")
    far.write(handoff={**KEYS, "timeout": "3s", "min_rate": "1 TB"}, endpoint={"transfer": slow})
    assert make_pass(far) == 75
    assert rows(far, "attempts") == [0]
    (partial,) = (far.staging / "dbb-partial").iterdir()
    assert partial.stat().st_size > 1 << 20
    stats = tmp_path / "stats"
    logged = resuming.replace("--stats", f"--log-file={stats} --log-file-format='%b bytes sent'")
    far.write(handoff=KEYS, endpoint={"transfer": logged})
    wait_over(far)
    assert make_pass(far) == 0
    assert tree(far.far_buffer) == {"a/b": content}
    sent = int(stats.read_text().split(" bytes sent")[0].split()[-1].replace(",", ""))
    assert sent < len(content) - (1 << 20)


def test_a_hung_far_end_ends_the_pass(far: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    far.put("a/b")
    monkeypatch.setattr(session, "SPARE", 0)
    monkeypatch.setattr(session.Session.__init__, "__defaults__", (0.3,))
    far.ssh.pause()
    assert make_pass(far) == 75
    far.ssh.resume()
    untouched(far)


# ---- the far end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("area", ["staging", "far_buffer"])
def test_an_area_at_the_far_end_is_not_mounted(
    site: Site, area: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site.put("a/b")
    directory = getattr(site, area)
    away = directory.rename(directory.with_name("away"))
    assert make_pass(site) == 75
    assert "is not there (not mounted?)" in capsys.readouterr().err
    assert statuses(site) == {"a/b": "FOUND"}
    away.rename(directory)
    goes_on(site)


@pytest.mark.parametrize("area", ["staging", "far_buffer"])
def test_an_area_at_the_far_end_goes_in_mid_transfer(
    site: Site, area: str, after_transfer: Callable[[Callable[[], None]], None]
) -> None:
    site.put("a/b")
    directory = getattr(site, area)
    after_transfer(lambda: directory.rename(directory.with_name("away")) and None)
    assert make_pass(site) == 75
    assert rows(site, "status, attempts") == [("FOUND", 0)]
    directory.with_name("away").rename(directory)
    goes_on(site)


def test_too_little_space_at_the_far_end(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.put("a/b")
    site.write(handoff={**KEYS, "min_free": "1 PB"})
    assert make_pass(site) == 75
    said = capsys.readouterr().err
    assert "min_free" in said
    assert len(said.splitlines()) == 1
    untouched(site)
    site.write(handoff=KEYS)
    goes_on(site)


def test_the_far_end_fills_while_sending(
    site: Site, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put("a/b")
    program("tool", "echo No space left on device >&2; exit 1")
    site.write(handoff={**KEYS, "min_free": 1}, endpoint=TOOL)
    free = iter([1 << 40, 1 << 40, 0])
    with monkeypatch.context() as patched:
        patched.setattr(session.Session, "free_bytes", lambda self: next(free, 0))
        assert make_pass(site) == 75
    untouched(site)
    site.write(handoff=KEYS)
    goes_on(site)


def test_a_file_where_a_directory_should_be_is_later(site: Site) -> None:
    site.put("a/b")
    site.far_buffer.joinpath("a").write_text("a file where a directory should be")
    assert make_pass(site) == 0
    assert rows(site, "status, attempts") == [("FOUND", 0)]
    assert "no directory" in rows(site, "error")[0]
    site.far_buffer.joinpath("a").unlink()
    wait_over(site)
    goes_on(site)


# ---- the transfer command ------------------------------------------------------------------------


def test_a_missing_tool_is_configuration(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.put("a/b")
    site.write(handoff=KEYS, endpoint={"transfer": "dbb-no-such-tool {batch} {dest}"})
    assert make_pass(site) == 78
    assert "dbb-no-such-tool" in capsys.readouterr().err
    untouched(site)
    site.write(handoff=KEYS)
    goes_on(site)


def test_a_file_that_arrives_otherwise_is_not_delivered(site: Site, program: Program) -> None:
    site.put("a/b")
    program("tool", 'cp "$@"; for last do :; done; echo more >>"$last/b"')
    site.write(handoff=KEYS, endpoint=TOOL)
    assert make_pass(site) == 1
    assert tree(site.far_buffer) == {}
    assert rows(site, "status, attempts") == [("FOUND", 1)]
    assert "did not arrive whole" in rows(site, "error")[0]
    site.write(handoff=KEYS)
    wait_over(site)
    goes_on(site)


def test_a_failure_is_told_by_the_last_words_of_the_tool(site: Site, program: Program) -> None:
    site.put("a/b")
    program("tool", 'case $* in *a/b*) echo permission denied >&2; exit 7; esac; exec cp "$@"')
    site.write(handoff=KEYS, endpoint=TOOL)
    make_pass(site)
    assert rows(site, "error") == ["tool: exit code 7: permission denied"]
    assert rows(site, "exit_status", "transfer_batch") == [7]


@pytest.mark.parametrize("codes", [[0], [0, 24]])
def test_what_arrived_whole_is_delivered_whatever_the_exit_code(
    site: Site, program: Program, codes: list[int]
) -> None:
    site.put("a/b")
    program("tool", 'cp "$@"; exit 24')
    site.write(handoff={**KEYS, "success_codes": codes}, endpoint=TOOL)
    goes_on(site)
    assert rows(site, "exit_status", "transfer_batch") == [24]


def test_an_exit_code_that_is_no_failure_is_no_error(site: Site, program: Program) -> None:
    site.put("a/b")
    program("tool", 'cp "$@"; exit 24')
    site.write(handoff={**KEYS, "success_codes": [0, 24]}, endpoint=TOOL)
    make_pass(site)
    assert rows(site, "error", "transfer_batch") == [None]


def test_one_bad_file_does_not_hold_up_the_others(site: Site, program: Program) -> None:
    site.put_all(f"night/{number:02}" for number in range(20))
    site.put("night/culprit")
    program("tool", 'case "$*" in *culprit*) exit 9;; esac; exec cp "$@"')
    site.write(handoff=KEYS, endpoint=TOOL)
    assert make_pass(site) == 1
    found = statuses(site)
    assert found.pop("night/culprit") == "FOUND"
    assert set(found.values()) == {"HELD"}
    assert rows(site, "sum(attempts)") == [1]


def test_what_arrived_of_a_batch_that_failed_is_delivered(site: Site, program: Program) -> None:
    site.put_all(["night/a", "night/culprit", "night/c"])
    program("tool", 'for last do :; done; cp "$@"; rm "$last/culprit"; exit 23')
    site.write(handoff=KEYS, endpoint=TOOL)
    make_pass(site)
    assert statuses(site) == {"night/a": "HELD", "night/culprit": "FOUND", "night/c": "HELD"}


def test_a_tool_that_always_fails_ends_the_pass(site: Site) -> None:
    site.put_all(f"night/{number:03}" for number in range(100))
    site.write(handoff=KEYS, endpoint={"transfer": "false {batch} {dest}"})
    assert make_pass(site) == 75
    assert rows(site, "sum(attempts)")[0] < 20


def test_waits_grow_and_the_file_is_not_tried_before(site: Site) -> None:
    site.put("a/b")
    site.write(handoff=KEYS, endpoint=REFUSING)
    waits = []
    for _ in range(3):
        make_pass(site)
        make_pass(site)
        waits.append(_seconds_until_next(site))
        wait_over(site)
    assert rows(site, "attempts") == [3]
    assert [round(wait / 60) for wait in waits] == [1, 2, 4]


def test_after_the_last_attempt_it_is_quarantined_with_its_reason(site: Site) -> None:
    site.put("a/b", b"content")
    site.write(handoff={**KEYS, "max_attempts": 2}, endpoint=REFUSING)
    make_pass(site)
    wait_over(site)
    make_pass(site)
    assert (tree(site.buffer), tree(site.quarantine)["a/b"]) == ({}, b"content")
    assert rows(site, "status, error") == [
        ("QUARANTINED", "gave up after attempt 2: sh: exit code 1")
    ]
    assert rows(site, "reason", "quarantine") == ["gave up after attempt 2: sh: exit code 1"]


def test_a_second_pass_with_everything_undelivered_reads_nothing_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dbbbatch.files import checksum

    site.put_all(["a/b", "a/c"])
    site.write(handoff=KEYS, endpoint={"transfer": "false {batch} {dest}"})
    make_pass(site)
    wait_over(site)
    monkeypatch.setattr(checksum, "stream", lambda *_: pytest.fail("hashed again"))
    make_pass(site)


# ---- the near end --------------------------------------------------------------------------------


@pytest.mark.parametrize("area", ["buffer", "holding", "quarantine"])
def test_an_area_of_ours_is_not_mounted(
    site: Site, area: str, capsys: pytest.CaptureFixture[str]
) -> None:
    site.put("a/b")
    change(site, "DELETE FROM handoff_file")
    directory = getattr(site, area)
    away = directory.rename(directory.with_name("away"))
    assert make_pass(site) == 75
    assert "is it mounted?" in capsys.readouterr().err
    away.rename(directory)
    goes_on(site)


def test_a_buffer_on_another_file_system_than_holding_is_not_used(
    site: Site, other_file_system: Path
) -> None:
    # What an unmounted buffer looks like: the directory below the mount point.
    site.put("a/b")
    site.write(handoff={**KEYS, "buffer": other_file_system})
    assert make_pass(site) == 75
    assert rows(site, "id") == []


def test_a_source_that_is_gone_while_sending(
    site: Site, before_transfer: Callable[[Callable[[], None]], None]
) -> None:
    path = site.put("a/b")
    before_transfer(path.unlink)
    assert make_pass(site) == 0
    assert rows(site, "status, attempts, error") == [("VANISHED", 0, "no longer in the buffer")]
    assert tree(site.far_buffer) == {}


def test_a_source_that_changes_while_sending(
    site: Site, before_transfer: Callable[[Callable[[], None]], None]
) -> None:
    site.put("a/b", b"before")
    before_transfer(lambda: site.put("a/b", b"afterwards") and None)
    assert make_pass(site) == 0
    assert tree(site.far_buffer) == {}
    goes_on(site)
    assert tree(site.far_buffer) == {"a/b": b"afterwards"}


def test_a_source_that_is_replaced_after_it_was_sent_is_not_held(
    site: Site, after_transfer: Callable[[Callable[[], None]], None]
) -> None:
    site.put("a/b", b"before")
    after_transfer(lambda: site.put("a/b", b"afterwards") and None)
    assert make_pass(site) == 0
    assert (tree(site.far_buffer), tree(site.holding)) == ({"a/b": b"before"}, {})
    (site.far_buffer / "a" / "b").unlink()  # the endpoint's finder
    goes_on(site)
    assert tree(site.far_buffer) == {"a/b": b"afterwards"}


def test_a_source_that_is_replaced_in_the_moment_of_holding_is_not_lost(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put("a/b", b"before")
    real = place.place_versioned

    def replaced_just_before(source: str, *arguments: str) -> str:
        monkeypatch.undo()
        site.put("a/b", b"afterwards")
        return real(source, *arguments)

    monkeypatch.setattr(place, "place_versioned", replaced_just_before)
    make_pass(site)
    assert (tree(site.buffer), tree(site.holding)) == ({"a/b": b"afterwards"}, {})


def test_too_little_space_for_our_own_notes(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site.put("a/b")
    with monkeypatch.context() as patched:
        patched.setattr(place, "free_bytes", lambda path: 1 << 20)
        assert make_pass(site) == 75
    assert len(capsys.readouterr().err.splitlines()) == 1
    goes_on(site)


def test_space_for_our_own_notes_is_asked_for_before_each_batch(
    site: Site, monkeypatch: pytest.MonkeyPatch, before_transfer: Any
) -> None:
    site.write(handoff={**KEYS, "batch_files": 1})
    for name in "abcd":
        site.put(f"a/{name}")
    before_transfer(lambda: monkeypatch.setattr(place, "free_bytes", lambda path: 1 << 20))
    assert make_pass(site) == 75
    sent = tree(site.far_buffer)
    assert 0 < len(sent) < 4
    assert tree(site.holding) == sent
    monkeypatch.undo()
    assert make_pass(site) == 0
    assert len(tree(site.holding)) == 4


def test_a_file_that_cannot_be_read_is_quarantined_at_last(site: Site) -> None:
    path = site.put("a/b", b"secret")
    os.chmod(path, 0)
    site.put("a/c")
    site.write(handoff={**KEYS, "max_attempts": 1})
    _own(site, 65534)
    os.chown(path, 0, 0)
    _as_nobody(site)
    assert statuses(site) == {"a/b": "QUARANTINED", "a/c": "HELD"}
    assert "Permission denied" in rows(site, "reason", "quarantine")[0]


def test_files_of_another_owner_go_through(site: Site) -> None:
    path = site.put("a/b", b"of root")
    _own(site, 65534)
    os.chown(path, 0, 0)
    assert _as_nobody(site) == 0
    assert tree(site.far_buffer) == tree(site.holding) == {"a/b": b"of root"}


def test_a_holding_area_that_refuses_leaves_the_file_delivered(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put("a/b")

    def full(*arguments: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(place, "place_versioned", full)
        assert make_pass(site) == 75
    assert rows(site, "status") == ["DELIVERED"]
    assert set(tree(site.buffer)) == {"a/b"}
    goes_on(site)


def test_what_was_delivered_is_held_though_the_endpoint_is_away(far: Site) -> None:
    far.put("a/b")
    make_pass(far)
    change(far, "UPDATE handoff_file SET status = 'DELIVERED'")
    os.rename(far.holding / "a" / "b", far.buffer / "a" / "b")
    far.ssh.stop()
    make_pass(far)
    assert statuses(far) == {"a/b": "HELD"}


# ---- the same name at the endpoint ---------------------------------------------------------------


def test_another_content_in_the_endpoints_buffer_is_later(site: Site) -> None:
    site.put("a/b", b"new")
    site.put("a/b", b"old", site.far_buffer)
    assert make_pass(site) == 0
    assert rows(site, "status, attempts") == [("FOUND", 0)]
    assert tree(site.far_buffer) == {"a/b": b"old"}
    (site.far_buffer / "a" / "b").unlink()  # the endpoint's finder
    wait_over(site)
    goes_on(site)


def test_another_content_for_too_long_is_quarantine(site: Site) -> None:
    site.put("a/b", b"new")
    site.put("a/b", b"old", site.far_buffer)
    site.write(handoff={**KEYS, "conflict_after": 0})
    make_pass(site)
    wait_over(site)
    assert make_pass(site) == 1
    assert tree(site.quarantine)["a/b"] == b"new"
    assert tree(site.far_buffer) == {"a/b": b"old"}


def test_a_name_that_is_taken_while_sending_is_later(
    site: Site, after_transfer: Callable[[Callable[[], None]], None]
) -> None:
    site.put("a/b", b"new")
    after_transfer(lambda: site.put("a/b", b"old", site.far_buffer) and None)
    assert make_pass(site) == 0
    assert rows(site, "status, attempts") == [("FOUND", 0)]
    assert tree(site.far_buffer) == {"a/b": b"old"}


def test_sending_again_what_the_finder_took_is_harmless(site: Site) -> None:
    site.put("a/b")
    make_pass(site)
    (site.far_buffer / "a" / "b").unlink()
    os.rename(site.holding / "a" / "b", site.buffer / "a" / "b")
    change(site, "DELETE FROM transfer_attempt")
    change(site, "DELETE FROM handoff_file")
    goes_on(site)


# ---- signals -------------------------------------------------------------------------------------


def test_a_signal_ends_the_pass_after_the_batch_in_hand(site: Site, program: Program) -> None:
    site.put_all(f"{number:03}" for number in range(200))
    with _started(site, program, batch_files=1) as (process, go_on):
        process.send_signal(signal.SIGTERM)
        go_on()
        assert process.wait(60) == 75
    assert set(statuses(site).values()) == {"FOUND", "HELD"}
    assert os.listdir(site.staging) == []


def test_a_second_signal_stops_the_transfer(site: Site, program: Program) -> None:
    site.put("a/b")
    with _started(site, program) as (process, _):
        # Two of the same that come at one time are one.
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 75
    site.write(handoff=KEYS)
    goes_on(site)


class _started:
    """A pass of a script of its own whose first transfer waits for a word of ours."""

    def __init__(self, site: Site, program: Program, **keys: Any) -> None:
        self._fifos = [site.root / name for name in ("begun", "go")]
        for fifo in self._fifos:
            os.mkfifo(fifo)
        begun, go = self._fifos
        wait = f'mkdir "{begun}.once" 2>/dev/null && echo >"{begun}" && read -r _ <"{go}"'
        program("tool", f'{wait}; exec cp "$@"')
        site.write(handoff={**KEYS, **keys}, endpoint=TOOL)
        argv = [sys.executable, TOP / "bin" / "dbb-handoff", "-c", site.config]
        self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self) -> tuple[subprocess.Popen[bytes], Callable[[], object]]:
        self._fifos[0].read_bytes()
        return self._process, lambda: self._fifos[1].write_bytes(b"\n")

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()


def _seconds_until_next(site: Site) -> float:
    from dbbbatch.database import bulk, connect

    (when,) = rows(site, "next_try_at")
    connect.connect(site.settings().database)
    now = connect.now()
    connect.disconnect()
    return float((bulk.read_moment(when) - now).total_seconds())


def _own(site: Site, uid: int) -> None:
    """Return a site to another user, and let that user come so far."""
    database = site.root.parent.glob("dbb.sqlite*")
    for path in (site.root.parent, site.root, *site.root.rglob("*"), *database):
        os.lchown(path, uid, uid)
    for parent in site.root.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)


def _as_nobody(site: Site) -> int:
    """Make a pass without root's capabilities."""
    argv = [sys.executable, str(TOP / "bin" / "dbb-handoff"), "-c", str(site.config)]
    if os.geteuid() == 0:
        ids = ["--reuid", "65534", "--regid", "65534", "--clear-groups"]
        argv = ["setpriv", *ids, "--inh-caps=-all", "--bounding-set=-all", *argv]
    code = subprocess.run(argv, stdin=subprocess.DEVNULL, check=False).returncode
    # This user, too, reads no configuration that others could have written.
    for path in (site.config, site.root, site.root.parent):
        os.chown(path, os.getuid(), -1)
    return code
