"""Which failures of a transfer are charged to a file, and which are nobody's fault here."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dbbbatch.files.tree import Entry
from dbbbatch.process import family, run
from tests.support.handing import REFUSING, make_pass, rows, statuses, wait_over
from tests.support.site import Site, tree

pytestmark = pytest.mark.promise

KEYS: dict[str, Any] = {"min_free": 0, "streams": 1}
Program = Callable[[str, str], Path]
TOOL = {"transfer": "tool {batch} {dest}"}


@pytest.fixture
def site(site: Site) -> Site:
    return site.write(handoff=KEYS)


def attempts(site: Site) -> int:
    return int(rows(site, "coalesce(sum(attempts), 0)")[0])


def test_a_command_that_fails_for_the_whole_buffer_charges_no_file(
    site: Site, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    site.put_all(f"night/{number}" for number in range(5))
    site.put("top")
    program("tool", f'case $1 in {site.buffer}/*) exit 23;; esac; exec cp "$@"')
    site.write(handoff={**KEYS, "max_attempts": 1}, endpoint=TOOL)
    assert make_pass(site) == 75
    assert "fails for every file" in capsys.readouterr().err
    assert attempts(site) == 0
    assert len(tree(site.buffer)) == 6


def test_a_directory_that_the_command_cannot_read_charges_none_of_its_files(
    site: Site, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    site.put_all([*(f"closed/{number}" for number in range(5)), "open/1", "open/2"])
    program("tool", 'case $1 in */closed/*) echo Permission denied >&2; exit 23;; esac; cp "$@"')
    site.write(handoff={**KEYS, "max_attempts": 1}, endpoint=TOOL)
    assert make_pass(site) == 75
    assert f"no file of {site.buffer}/closed" in capsys.readouterr().err
    assert attempts(site) == 0
    assert {rel for rel, status in statuses(site).items() if status == "HELD"} == {
        "open/1",
        "open/2",
    }
    assert not [rel for rel in tree(site.buffer) if ".dbb~" in rel]


def test_a_command_that_cannot_be_ended_ends_the_pass_and_nothing_of_it_is_placed(
    site: Site,
    program: Program,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # As one that runs with other rights, or waits for a dead disk.
    site.put_all(["1/sent", "2/hangs", "3/waits"])
    hanging = site.root / "pid"
    program(
        "tool",
        f'case $1 in */hangs) cp -p "$@"; echo $$ >{hanging}; exec sleep 60;; esac; cp -p "$@"',
    )
    site.write(handoff={**KEYS, "timeout": 1, "max_attempts": 1}, endpoint=TOOL)
    with monkeypatch.context() as patched:
        patched.setattr(family, "end", lambda *_: None)
        patched.setattr(run, "GRACE", 0.1)
        assert make_pass(site) == 75
    pid = int(hanging.read_text())
    assert f"process {pid} could not be ended" in capsys.readouterr().err
    assert statuses(site) == {"1/sent": "HELD", "2/hangs": "FOUND", "3/waits": "FOUND"}
    assert set(tree(site.far_buffer)) == {"1/sent"}
    assert attempts(site) == 0
    os.kill(pid, signal.SIGKILL)
    program("tool", 'exec cp -p "$@"')
    wait_over(site)
    assert make_pass(site) == 0
    assert len(tree(site.far_buffer)) == 3


def test_the_one_bad_file_of_a_directory_is_charged_and_quarantined(
    site: Site, program: Program
) -> None:
    site.put_all([*(f"night/{number:02}" for number in range(30)), "night/culprit"])
    program("tool", 'case "$*" in *culprit*) exit 9;; esac; exec cp "$@"')
    site.write(handoff={**KEYS, "max_attempts": 2}, endpoint=TOOL)
    make_pass(site)
    wait_over(site)
    make_pass(site)
    found = statuses(site)
    assert found.pop("night/culprit") == "QUARANTINED"
    assert set(found.values()) == {"HELD"}


@pytest.mark.parametrize(
    "ends",
    [
        "exit 255",
        "exit 137",
        "kill -9 $$",
        "echo 'rsync error: error in rsync protocol data stream (code 12) at io.c' >&2; exit 1",
        "echo 'client_loop: send disconnect: Broken pipe' >&2; exit 1",
        "echo 'lost connection' >&2; exit 1",
    ],
)
def test_a_line_that_is_lost_at_one_file_charges_it_not(
    site: Site, program: Program, ends: str
) -> None:
    site.put_all(["night/1", "night/2", "night/large"])
    program("tool", f'case "$*" in *large*) {ends};; esac; cp "$2" "$3"')
    site.write(handoff={**KEYS, "max_attempts": 1}, endpoint={"transfer": "tool ssh {file} {dest}"})
    assert make_pass(site) == 75
    assert statuses(site) == {"night/1": "HELD", "night/2": "HELD", "night/large": "FOUND"}
    assert attempts(site) == 0
    site.write(handoff=KEYS)
    wait_over(site)
    assert make_pass(site) == 0
    assert statuses(site)["night/large"] == "HELD"


def test_a_command_that_is_content_and_sends_nothing_charges_no_file(site: Site) -> None:
    site.put_all(["a/b", "a/c"])
    site.write(handoff={**KEYS, "max_attempts": 1}, endpoint={"transfer": "true {batch} {dest}"})
    assert make_pass(site) == 75
    assert attempts(site) == 0


def test_a_partial_file_that_spoils_each_resume_is_removed_and_costs_nothing(
    site: Site, program: Program
) -> None:
    partial = site.put("dbb-partial/b", b"spoilt", site.staging)
    other = site.put("dbb-partial/other", b"of another file", site.staging)
    site.put("a/b")
    program("tool", f'[ ! -e {partial} ] || exit 23; shift; exec cp "$@"')
    command = "tool --partial-dir={staging}/dbb-partial {batch} {dest}"
    site.write(handoff={**KEYS, "max_attempts": 1}, endpoint={"transfer": command})
    assert make_pass(site) == 0
    assert statuses(site) == {"a/b": "HELD"}
    assert attempts(site) == 0
    assert (partial.exists(), other.exists()) == (False, True)


def test_what_was_sent_before_the_line_was_lost_is_kept(site: Site, program: Program) -> None:
    partial = site.put("dbb-partial/b", b"half", site.staging)
    site.put("a/b")
    program("tool", "exit 12")
    command = "tool rsync --partial-dir={staging}/dbb-partial {batch} {dest}"
    site.write(handoff=KEYS, endpoint={"transfer": command})
    assert make_pass(site) == 75
    assert partial.exists()


def test_a_directory_there_that_takes_no_file_charges_none(site: Site, program: Program) -> None:
    site.put_all(["closed/1", "closed/2", "open/1"])
    real = "/bin/cp"
    program(
        "cp",
        f'case "$*" in *" -t {site.far_buffer} "*closed*) echo cp: Permission denied >&2; exit 1;;'
        f' esac; exec {real} "$@"',
    )
    site.write(
        handoff={**KEYS, "max_attempts": 1}, endpoint={"transfer": f"{real} {{batch}} {{dest}}"}
    )
    assert make_pass(site) == 75
    assert statuses(site) == {"closed/1": "FOUND", "closed/2": "FOUND", "open/1": "HELD"}
    assert attempts(site) == 0


@pytest.mark.parametrize("mode", [0o2775, 0o755, 0o700])
def test_new_directories_there_get_the_permissions_of_the_one_above(site: Site, mode: int) -> None:
    site.far_buffer.chmod(mode)
    site.put("night/sub/a")
    assert make_pass(site) == 0
    for rel in ("night", "night/sub"):
        assert stat.S_IMODE((site.far_buffer / rel).stat().st_mode) == mode


def test_new_directories_of_one_batch_get_the_permissions_of_different_ones(site: Site) -> None:
    wanted = {"open": 0o2775, "closed": 0o700, "sticky": 0o1775}
    for rel, mode in wanted.items():
        (site.far_buffer / rel).mkdir()
        (site.far_buffer / rel).chmod(mode)
        site.put(f"{rel}/new/deep/a")
    site.put("new/a")
    assert make_pass(site) == 0
    found = {
        rel: stat.S_IMODE((site.far_buffer / rel / "new/deep").stat().st_mode) for rel in wanted
    }
    assert found == wanted
    assert len(tree(site.far_buffer)) == 4


@pytest.mark.parametrize(
    "what", ["Session.open", "Session.begin", "Session.verify", "Session.clean", "Session.close"]
)
@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, KeyboardInterrupt, MemoryError])
def test_no_exception_in_a_stream_is_waited_for(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    what: str,
    error: type[BaseException],
) -> None:
    from dbbbatch.areas.endpoint import session

    def fail(*arguments: Any, **more: Any) -> Any:
        raise error("of its own")

    site.put("a")
    with monkeypatch.context() as patched:
        patched.setattr(session.Session, what.partition(".")[2], fail)
        code = make_pass(site)
    # What is left of a batch goes with the next pass; the end of a session is of no consequence.
    harmless = what in ("Session.clean", "Session.close")
    # Too little memory is the machine's fault, and another time there is more.
    assert code == (0 if harmless else 75 if error is MemoryError else 70)
    assert "Traceback" not in capsys.readouterr().err
    assert make_pass(site) == 0
    assert statuses(site) == {"a": "HELD"}
    assert os.listdir(site.staging) == []


def test_a_tool_there_that_lacks_an_option_is_named_and_no_file_charged(
    site: Site, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    site.put("a/b")
    program("b2sum", 'case $* in *-z*) echo "b2sum: invalid option -- z" >&2; exit 1;; esac')
    assert make_pass(site) == 75
    assert "the command b2sum cannot do what is asked of it" in capsys.readouterr().err
    assert attempts(site) == 0
    assert os.listdir(site.staging) == []


def test_a_probe_that_a_killed_pass_left_is_not_sent_and_goes(site: Site) -> None:
    from dbbbatch.files import temporary

    site.put("a/b")
    path = Path(temporary.probe_path(str(site.buffer / "a"), "handoff.latiss"))
    path.write_bytes(b"left")
    site.write(handoff={**KEYS, "max_attempts": 2}, endpoint=REFUSING)
    assert make_pass(site) == 1
    assert set(tree(site.buffer)) == {"a/b"}


def test_a_directory_of_the_buffer_that_is_closed_meanwhile_charges_none_of_its_files(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.put_all(["closed/a", "open/b"])
    for owner in (Entry, os):
        real: Any = vars(owner)["lstat"]

        def lstat(path: Any, *, real: Any = real) -> os.stat_result:
            if str(path) == str(site.buffer / "closed" / "a"):
                raise PermissionError(13, "Permission denied")
            return real(path)

        monkeypatch.setattr(owner, "lstat", lstat)
    make_pass(site)
    assert attempts(site) == 0
    assert statuses(site) == {"closed/a": "FOUND", "open/b": "HELD"}


def test_a_file_that_gets_another_inode_is_sent_once_and_held(site: Site, program: Program) -> None:
    site.put_all(["1", "2"])
    renumber = 'cp -p "$1" "$1.new~" && mv "$1.new~" "$1"'
    program("tool", f'echo "$1" >>{site.root}/sent; cp -p "$1" "$2" && {renumber}')
    site.write(handoff={**KEYS, "exclude": ["~$"]}, endpoint={"transfer": "tool {file} {dest}"})
    assert make_pass(site) == 0
    assert make_pass(site) == 0
    assert statuses(site) == {"1": "HELD", "2": "HELD"}
    assert len((site.root / "sent").read_text().splitlines()) == 2
    inodes = dict(rows(site, "filename, inode"))
    assert inodes == {name: (site.holding / name).stat().st_ino for name in ("1", "2")}


class TestEmptyDirectories:
    @pytest.fixture(autouse=True)
    def at_once(self, site: Site) -> None:
        site.write(handoff={**KEYS, "expiration": 0})

    def test_one_that_never_held_a_file_stays(self, site: Site) -> None:
        (site.buffer / "camera").mkdir()
        assert make_pass(site) == 0
        assert (site.buffer / "camera").is_dir()

    def test_one_whose_files_were_sent_goes_with_what_it_leaves_empty(self, site: Site) -> None:
        site.put("2026/night/a")
        make_pass(site)
        assert os.listdir(site.buffer) == []

    def test_one_that_is_to_be_kept_stays(self, site: Site) -> None:
        site.write(handoff={**KEYS, "expiration": 0, "keep_directories": ["^camera$"]})
        site.put("camera/a")
        make_pass(site)
        assert os.listdir(site.buffer) == ["camera"]
