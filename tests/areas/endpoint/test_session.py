"""The conversation with a far end: a shell on this machine, with a banner or ssh in between.

What does not depend on the shell's tools holds with `dbb receive` at the far end, too.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE

import pytest

from dbbbatch.areas.endpoint import session as sessions
from dbbbatch.areas.endpoint.session import (
    NO_DIRECTORY,
    Away,
    EndpointAddress,
    Refused,
    Session,
    directories,
)
from dbbbatch.errors import TryLater
from dbbbatch.files.temporary import PROBE_PREFIX
from dbbbatch.process import template
from tests.support.handing import Arriving, receiving
from tests.support.site import tree

NAMES = (
    b"a b/$(touch x)",
    b'a b/it\'s "quoted"',
    b"a b/new\nline",
    b"c/d/e/-rf",
    b"c/d/e/#hash;",
    b"-n",
    b"back\\slash",
    b"return\r",
    b"\xff\xfe",
)


class Far:
    """A far end in a directory, and what a transfer command would do there."""

    def __init__(self, root: Path, remote: str = "", **values: str) -> None:
        self.buffer = root / "buffer"
        self.staging = root / "staging"
        for directory in (self.buffer, self.staging):
            directory.mkdir(parents=True)
        command = template.parse_command(remote) if remote else None
        self.place = EndpointAddress(
            str(self.buffer), str(self.staging), command, {k: v.encode() for k, v in values.items()}
        )
        self.session = Session(self.place)

    def send(self, attempt: str, names: Sequence[bytes] = NAMES) -> list[Arriving]:
        """Begin an attempt and have everything arrive."""
        self.session.begin(attempt, names)
        for name in names:
            put(os.fsencode(self.staging / attempt / "t") + b"/" + name)
        return [expected(name) for name in names]


def put(path: bytes, content: bytes | None = None) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(os.path.basename(path) if content is None else content)


def expected(name: bytes) -> Arriving:
    content = os.path.basename(name)
    return Arriving(name, len(content), hashlib.blake2b(content).hexdigest())


@pytest.fixture(params=["shell", "receiver"])
def far(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Far]:
    root = tmp_path / "far"
    made = Far(root, receiving(root) if request.param == "receiver" else "")
    yield made
    made.session.close()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Far]:
    made = Far(tmp_path / "far")
    yield made
    made.session.close()


def test_files_of_any_name_are_verified_and_placed(far: Far) -> None:
    files = far.send("one")
    assert far.session.verify("one", files, 10) == files
    assert not far.session.place_files("one").kept
    assert {os.fsencode(rel) for rel in tree(far.buffer)} == set(NAMES)


def test_placed_files_have_left_staging(far: Far) -> None:
    far.session.verify("one", far.send("one"), 10)
    far.session.place_files("one")
    assert tree(far.staging / "one" / "t") == {}


def test_no_name_is_executed(far: Far, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = (b"$(touch x)", b"`touch x`", b"a;touch x", b"a\ntouch x\n")
    far.session.verify("one", far.send("one", names), 10)
    far.session.place_files("one")
    far.session.clean("one")
    assert not list(tmp_path.rglob("x"))


def test_an_attempt_is_never_used_twice(far: Far) -> None:
    far.session.begin("one", NAMES)
    with pytest.raises(Refused, match="File exists"):
        far.session.begin("one", NAMES)


def test_what_arrived_otherwise_is_not_verified(far: Far) -> None:
    files = far.send("one")
    put(os.fsencode(far.staging / "one" / "t") + b"/-n", b"x")
    os.unlink(os.fsencode(far.staging / "one" / "t") + b"/\xff\xfe")
    right = far.session.verify("one", files, 10)
    assert {file.raw for file in right} == set(NAMES) - {b"-n", b"\xff\xfe"}


def test_only_what_was_verified_is_placed(far: Far) -> None:
    files = far.send("one")
    put(os.fsencode(far.staging / "one" / "t") + b"/-n", b"x")
    put(os.fsencode(far.staging / "one" / "t") + b"/.partial", b"x")
    far.session.verify("one", files, 10)
    far.session.place_files("one")
    assert {os.fsencode(rel) for rel in tree(far.buffer)} == set(NAMES) - {b"-n"}


class TestLinksInTheBuffer:
    """What lies behind a link is none of the buffer's, whatever it leads to."""

    @pytest.fixture
    def outside(self, far: Far, tmp_path: Path) -> Path:
        """Return a directory to which the buffer has a link, in the place of two directories."""
        outside = tmp_path / "outside"
        (outside / "e").mkdir(parents=True)
        (far.buffer / "a b").symlink_to(outside)
        (far.buffer / "c").mkdir()
        (far.buffer / "c" / "d").symlink_to(outside)
        return outside

    def test_takes_nothing_and_shows_nothing(self, far: Far, outside: Path) -> None:
        theirs = outside / "new\nline"
        theirs.write_bytes(b"private")
        far.session.verify("one", far.send("one"), 10)
        placed = far.session.place_files("one")
        behind = {name for name in NAMES if b"/" in name}
        assert set(placed.kept) == behind
        assert placed.taken == dict.fromkeys(behind, NO_DIRECTORY)
        assert tree(outside) == {"new\nline": b"private"}
        assert os.listdir(outside / "e") == []
        assert {os.fsencode(rel) for rel in tree(far.buffer)} == set(NAMES) - behind
        assert {os.fsencode(rel) for rel in tree(far.staging / "one" / "t")} == behind

    def test_no_directory_is_made_there(self, far: Far, outside: Path) -> None:
        far.session.verify("one", far.send("one", [b"a b/x/y/z"]), 10)
        assert set(far.session.place_files("one").kept) == {b"a b/x/y/z"}
        assert sorted(os.listdir(outside)) == ["e"]

    def test_a_link_back_to_what_arrived_is_not_the_placed_file(self, far: Far) -> None:
        far.session.verify("one", far.send("one", [b"a b/x"]), 10)
        assert far.session.take_over("one") == "verified"
        (far.buffer / "a b").symlink_to(far.staging / "one.r" / "t" / "a b")
        assert set(far.session.place_files("one.r").kept) == {b"a b/x"}
        assert tree(far.staging / "one.r" / "t") == {"a b/x": b"x"}

    def test_takes_no_file_on_trial(self, far: Far, outside: Path) -> None:
        name = f"a b/{PROBE_PREFIX}x".encode()
        (outside / f"{PROBE_PREFIX}x").touch()
        far.session.verify("one", far.send("one", [name]), 10)
        with pytest.raises(Refused, match="Not a directory"):
            far.session.try_place("one")
        assert (outside / f"{PROBE_PREFIX}x").exists()

    def test_in_the_buffer_is_told_before_anything_is_sent(self, far: Far, outside: Path) -> None:
        (outside / "e" / "#hash;").write_bytes(b"private")
        taken = far.session.begin("one", NAMES)[1]
        assert taken == {name: NO_DIRECTORY for name in NAMES if b"/" in name}


def test_nothing_is_placed_before_it_is_verified(far: Far) -> None:
    far.send("one")
    with pytest.raises(Refused, match="not verified"):
        far.session.place_files("one")


def test_a_file_in_the_buffer_is_not_overwritten(far: Far) -> None:
    files = far.send("one")
    put(os.fsencode(far.buffer) + b"/-n", b"other")
    far.session.verify("one", files, 10)
    placed = far.session.place_files("one")
    assert set(placed.kept) == {b"-n"}
    assert placed.taken == {b"-n": hashlib.blake2b(b"other").hexdigest()}
    assert (far.buffer / "-n").read_bytes() == b"other"


def test_a_trial_leaves_nothing(far: Far) -> None:
    far.session.trial("try")
    assert os.listdir(far.buffer) == os.listdir(far.staging) == []


@pytest.mark.parametrize(
    ("cp", "complaint"),
    [
        ("echo no links here >&2; exit 1", "no links here"),
        ('for f do :; done; cat "$f" >"$4/$f"', "the command cp cannot do what is asked"),
    ],
)
def test_a_trial_tells_of_a_cp_that_will_not_do(
    tmp_path: Path, program: Callable[[str, str], Path], cp: str, complaint: str
) -> None:
    program("cp", cp)
    far = Far(tmp_path / "far")
    with far.session, pytest.raises(Refused, match=complaint):
        far.session.trial("try")
    assert os.listdir(far.buffer) == os.listdir(far.staging) == []


def test_what_the_buffer_has_is_told_before_anything_is_sent(far: Far) -> None:
    put(os.fsencode(far.buffer) + b"/a b/new\nline")
    (far.buffer / "-n").symlink_to("nowhere")
    _, taken = far.session.begin("one", NAMES)
    assert taken == {b"a b/new\nline": expected(b"a b/new\nline").digest, b"-n": None}


def test_numbered_directories_lead_to_the_relative_paths(far: Far) -> None:
    far.session.begin("one", NAMES, links=[b"a b", b"c/d/e", b""])
    for number, name in ((1, b"a b/new\nline"), (2, b"c/d/e/-rf"), (3, b"-n")):
        put(b"%s/one/%d/%s" % (os.fsencode(far.staging), number, os.path.basename(name)))
    names = [b"a b/new\nline", b"c/d/e/-rf", b"-n"]
    right = far.session.verify("one", [expected(name) for name in names], 10, again=True)
    assert len(right) == 3


def test_placing_again_after_a_kill_is_harmless(far: Far) -> None:
    far.session.verify("one", far.send("one"), 10)
    # Killed after some links were made and some names taken from staging.
    os.link(far.staging / "one" / "t" / "-n", far.buffer / "-n")
    (far.staging / "one" / "t" / "return\r").unlink()
    assert not far.session.place_files("one").kept
    assert tree(far.staging / "one" / "t") == {}


@pytest.mark.promise
def test_of_staging_that_goes_meanwhile_nothing_is_taken_for_an_answer(
    shell: Far, tmp_path: Path, program: Callable[[str, str], Path]
) -> None:
    away, calls = tmp_path / "away", tmp_path / "calls"
    calls.symlink_to(tmp_path)
    # Each call takes the next number, also where two run at the same time.
    goes = f'n=1; until ( set -C; : >"{calls}/$n" ) 2>/dev/null; do n=$((n + 1)); done\n'
    goes += f'[ ! -e "{calls}/at$n" ] || {shutil.which("mv")} "{shell.staging}" "{away}"'
    for tool in ("cat", "chmod", "cp", "mkdir", "mv", "rm", "stat", "sync", "b2sum", "xargs"):
        program(tool, f'{shutil.which(tool)} "$@"\nstatus=$?\n{goes}\nexit "$status"')
    (shell.buffer / "-n").write_bytes(b"another file")
    tried = 0
    while True:
        tried += 1
        attempt = str(tried)
        files = shell.send(attempt, [b"a b/new\nline", b"-n"])
        numbers = tmp_path / f"calls{tried}"
        numbers.mkdir()
        (numbers / f"at{tried}").touch()
        calls.unlink(missing_ok=True)
        calls.symlink_to(numbers)
        try:
            assert shell.session.verify(attempt, files, 10) == files
            assert set(shell.session.place_files(attempt, 10).kept) == {b"-n"}
        except TryLater:
            assert away.exists()
        if not away.exists():
            break
        shell.session.close()
        away.rename(shell.staging)
        for rel in tree(shell.buffer):
            if rel != "-n":
                (shell.buffer / rel).unlink()
    assert tried > 20


def test_an_attempt_that_was_taken_over_is_fenced(far: Far) -> None:
    files = far.send("one")
    old = Session(far.place)
    old.open()
    assert far.session.take_over("one") == "arrived"
    with pytest.raises(Refused, match="is gone"):
        old.verify("one", files, 10)
    old.close()


@pytest.mark.promise
def test_a_far_end_still_at_work_for_a_killed_pass_does_no_harm(
    tmp_path: Path, program: Callable[[str, str], Path]
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"
    for fifo in (begun, go):
        os.mkfifo(fifo)
    once = f'mkdir "{tmp_path}/once" 2>/dev/null && echo >"{begun}" && read -r _ <"{go}"'
    cp = shutil.which("cp")
    far = Far(tmp_path / "far")
    old = Session(far.place)
    with far.session, old, ThreadPoolExecutor(1) as threads:
        far.session.verify("one", far.send("one"), 10)
        program("cp", f'{once}; exec {cp} "$@"')
        placing = threads.submit(old.place_files, "one")
        begun.read_bytes()  # it is about to link the files
        assert far.session.take_over("one") == "verified"
        assert not far.session.place_files("one.r").kept
        for path in far.buffer.iterdir():  # the endpoint's finder
            path.rename(tmp_path / path.name)
        far.session.clean("one")
        go.write_bytes(b"\n")
        assert isinstance(placing.exception(), Refused)
    assert tree(far.buffer) == {}
    assert os.listdir(far.staging) == []


def test_the_receipt_says_what_was_verified(far: Far) -> None:
    far.session.verify("one", far.send("one"), 10)
    assert far.session.take_over("one") == "verified"
    assert far.session.receipt("one.r") == set(NAMES)


def test_a_verified_attempt_is_placed_by_whoever_took_it_over(far: Far) -> None:
    far.session.verify("one", far.send("one"), 10)
    far.session.take_over("one")
    far.session.place_files("one.r")
    assert len(tree(far.buffer)) == len(NAMES)


def test_asking_again_after_a_kill_gives_the_same(far: Far) -> None:
    far.session.verify("one", far.send("one"), 10)
    assert [far.session.take_over("one") for _ in range(2)] == ["verified", "verified"]


def test_nothing_is_known_of_an_attempt_that_is_gone(far: Far) -> None:
    assert far.session.take_over("one") == "nothing"


def test_cleaning_leaves_nothing_whoever_had_it_last(far: Far) -> None:
    far.send("one")
    far.send("two")
    far.session.take_over("two")
    for attempt in ("one", "two", "three"):
        far.session.clean(attempt)
    assert os.listdir(far.staging) == []


def test_attempts_are_listed_by_their_prefix(far: Far) -> None:
    far.send("dbb-a-1")
    far.send("other")
    assert list(far.session.attempts("dbb-")) == ["dbb-a-1"]


def test_an_attempt_of_a_time_that_is_yet_to_come_ages_from_now_on(far: Far) -> None:
    far.send("dbb-a-1")
    os.utime(far.staging / "dbb-a-1", (4e9, 4e9))
    assert far.session.attempts("dbb-")["dbb-a-1"] < 0
    assert 0 <= far.session.attempts("dbb-")["dbb-a-1"] < 60


def test_free_space_is_told(far: Far) -> None:
    assert abs(far.session.free_bytes() - os.statvfs(far.staging).f_bavail * 4096) < 1 << 34


@pytest.mark.parametrize("missing", ["buffer", "staging"])
def test_a_missing_area_is_said_before_anything_is_sent(far: Far, missing: str) -> None:
    getattr(far, missing).rmdir()
    with pytest.raises(Refused, match=f"{missing} is not there"):
        far.session.open()


def test_a_session_goes_on_after_a_refusal(far: Far) -> None:
    with pytest.raises(Refused):
        far.session.place_files("nothing")
    assert far.session.take_over("nothing") == "nothing"


def test_a_noisy_start_up_file_does_no_harm(tmp_path: Path) -> None:
    noise = "sh -c 'echo Welcome; yes | head -c 100000; eval \"$1\"' sh {command}"
    far = Far(tmp_path / "far", noise)
    with far.session:
        far.session.verify("one", far.send("one"), 10)
        far.session.place_files("one")
    assert len(tree(far.buffer)) == len(NAMES)


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "csh", "tcsh", "ksh", "zsh", "fish"])
def test_the_command_line_is_read_alike_by_every_shell(tmp_path: Path, shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    far = Far(tmp_path / "far", f"{shell} -c {{command}}")
    with far.session:
        far.session.open()


@pytest.mark.parametrize("shell", ["dash", "bash", "ksh", "zsh"])
def test_the_script_runs_in_whatever_sh_is(
    tmp_path: Path, shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (path := shutil.which(shell)):
        pytest.skip(f"no {shell} here")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").symlink_to(path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    far = Far(tmp_path / "far")
    with far.session:
        put(os.fsencode(far.buffer) + b"/-n", b"other")
        files = far.send("one")
        os.unlink(os.fsencode(far.staging / "one" / "t") + b"/\xff\xfe")
        assert len(far.session.verify("one", files, 10)) == len(NAMES) - 1
        # One was placed, and the finder moved it on.
        os.link(far.staging / "one" / "t" / "return\r", far.staging / "stored")
        assert far.session.take_over("one") == "verified"
        assert set(far.session.place_files("one.r").kept) == {b"-n"}
        far.session.clean("one")
    assert (len(tree(far.buffer)), os.listdir(far.staging)) == (len(NAMES) - 2, ["stored"])


def test_a_command_that_ends_is_told_with_its_last_words(tmp_path: Path) -> None:
    far = Far(tmp_path / "far", "sh -c 'echo no route >&2; exit 255' {command}", host="far.example")
    with pytest.raises(Away, match=r"far.example cannot be reached: exit code 255: no route"):
        far.session.open()


def test_silence_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "SPARE", 0)
    session = Session(Far(tmp_path / "far", "sh -c 'sleep 60' {command}").place, patience=0.1)
    with pytest.raises(Away, match="has not answered"):
        session.open()


#: What a far end does that is none, or a wrong one; it has been told the nonce.
LIES = {
    "noise without end": ("exec yes", "prints without end"),
    "a line without end": ("yes | tr -d '\\n'", "prints without end"),
    "a byte now and then": ("while :; do printf x; sleep 0.05; done", "has not answered for 1 s"),
    "a nonce, then noise": ('printf %s "$nonce"; exec yes', "prints without end"),
    "nonces without end": ('while :; do printf "$nonce ok"; done', "prints without end"),
    "an answer, then noise": ('printf "$nonce ok 0\\n"; exec yes', "prints without end"),
    "errors without end": ("yes >&2", "has not answered for 1 s"),
    "a length without end": ('printf "$nonce ok "; exec yes 9 | tr -d "\\n"', "prints without end"),
    "a great length": ('printf "$nonce ok 999999999999\\n"; exec yes', "announces an answer of"),
    "less than it said": ('printf "$nonce ok 9\\nabc"; sleep 60', "has not answered for 1 s"),
    "no number": (
        'printf "$nonce ok 0\\n$nonce ok 3\\na b"; sleep 60',
        "its answer is not understood",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_far_end_that_is_none_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    script, complaint = LIES[lie]
    (tmp_path / "lie").write_text(f'read -r line; eval "$line"\n{script}\n')
    monkeypatch.setattr(sessions, "SPARE", 0)
    session = Session(Far(tmp_path / "far", f"sh {tmp_path}/lie {{command}}").place, patience=1)
    with session, pytest.raises(Away, match=complaint):
        session.free_bytes()


@pytest.mark.parametrize(
    ("tool", "hangs", "complaint"),
    [
        ("sync", "exec sleep 60", "sync did not end within its time limit"),
        ("b2sum", "exec sleep 60", "b2sum did not end within its time limit"),
        ("sync", "trap '' TERM; sleep 60; sleep 60", "sync"),
    ],
)
def test_a_tool_that_outlives_its_time_limit_there_is_named(
    tmp_path: Path, program: Callable[[str, str], Path], tool: str, hangs: str, complaint: str
) -> None:
    far = Far(tmp_path / "far")
    far.session = Session(far.place, patience=1)
    with far.session:
        files = far.send("one")
        program(tool, hangs)
        with pytest.raises((Refused, Away), match=complaint):
            far.session.verify("one", files, 1)


@pytest.mark.parametrize("tool", ["cp", "dd", "stat"])
def test_a_tool_that_hangs_when_it_is_tried_is_named(
    tmp_path: Path, program: Callable[[str, str], Path], tool: str
) -> None:
    far = Far(tmp_path / "far")
    far.session = Session(far.place, patience=1)
    with far.session:
        far.session.open()
        program(tool, "exec sleep 60")
        for ask in (lambda: far.session.begin("one", NAMES), lambda: far.session.trial("try")):
            with pytest.raises(Refused, match=f"{tool} did not end within its time limit of 2 s"):
                ask()


def test_a_session_that_sends_nothing_tries_no_tools(
    shell: Far, program: Callable[[str, str], Path], tmp_path: Path
) -> None:
    program("dd", f"echo >{tmp_path}/tried; exit 1")
    assert shell.session.attempts("dbb-") == {}
    assert shell.session.take_over("one") == "nothing"
    assert not (tmp_path / "tried").exists()
    with pytest.raises(Refused, match="the command dd cannot do what is asked of it"):
        shell.session.begin("one", NAMES)
    assert (tmp_path / "tried").exists()


def test_tools_are_tried_once_for_all_sessions_of_a_process(
    shell: Far, program: Callable[[str, str], Path], tmp_path: Path
) -> None:
    program("ln", f'echo >>{tmp_path}/tried; exec /bin/ln "$@"')
    with Session(shell.place) as other:
        shell.session.begin("one", NAMES)
        other.begin("two", NAMES)
        shell.session.close()
        shell.session.begin("three", NAMES)
    assert (tmp_path / "tried").read_text() == "\n"
    assert not (shell.staging / "one" / "tools").exists()


def test_only_what_works_in_an_attempt_is_ended(far: Far) -> None:
    far.session.open()
    for last, ends in (
        ("/logs/of-one.txt", False),
        (f"{far.staging}/one.log", False),
        (f"{far.staging}/one/t/a", True),
    ):
        command = ["sh", "-c", "echo; read -r x", last]
        with subprocess.Popen(command, stdin=PIPE, stdout=PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()  # the kernel shows its command line from now on
            far.session.end("one")
            if ends:
                assert process.wait(10) == -9
            else:
                process.communicate(b"x\n")
                assert process.returncode == 0


def test_placing_that_outlives_its_time_limit_is_named(
    tmp_path: Path, program: Callable[[str, str], Path]
) -> None:
    far = Far(tmp_path / "far")
    far.session = Session(far.place, patience=2)
    with far.session:
        far.session.verify("one", far.send("one"), 1)
        program("cp", "exec sleep 60")
        with pytest.raises(Refused, match="cp did not end within its time limit of 3 s"):
            far.session.place_files("one")


def test_a_dropped_session_is_opened_anew(far: Far) -> None:
    from dbbbatch.process import run

    far.session.open()
    run.end_all()
    with pytest.raises(Away):
        far.session.take_over("one")
    assert far.session.take_over("one") == "nothing"


def test_thousands_of_files_take_a_few_processes(far: Far, tmp_path: Path) -> None:
    names = [b"%02d/%04d" % (n // 100, n) for n in range(2000)]
    files = far.send("one", names)
    before = _forks()
    far.session.verify("one", files, 10)
    far.session.place_files("one")
    assert len(tree(far.buffer)) == 2000
    # Those of other programs on this machine count, too.
    assert _forks() - before < 1500


def test_directories_come_with_all_above_them() -> None:
    assert directories([b"a/b/c", b"a/d", b"e"]) == [b".", b"./a", b"./a/b"]


def test_it_works_over_ssh(tmp_path: Path, ssh_server: object) -> None:
    far = Far(tmp_path / "far", ssh_server.remote, host=ssh_server.host, user=ssh_server.user)
    with far.session:
        far.session.verify("one", far.send("one"), 10)
        far.session.place_files("one")
    assert len(tree(far.buffer)) == len(NAMES)


def _forks() -> int:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("processes "):
            return int(line.split()[1])
    raise AssertionError("no count of processes")


class Answering(Session):
    """A session whose far end gives the answer that a test wants."""

    answer = b""

    def _ask(self, *arguments: object, **more: object) -> bytes:
        return self.answer


@pytest.mark.promise
@pytest.mark.parametrize(
    ("method", "arguments", "answer"),
    [
        ("free_bytes", (), b""),
        ("free_bytes", (), b"many 4096"),
        ("free_bytes", (), b"1e3 4096"),
        ("free_bytes", (), b"9" * 5000 + b" 1"),
        ("begin", ("a", [b"x"]), b"- 4096\n"),
        ("modes_and_times", ("a", [b"x"]), b"soon 644  ./x\0"),
        ("modes_and_times", ("a", [b"x"]), b"1 rw-  ./x\0"),
        ("modes_and_times", ("a", [b"x"]), b"644  ./x\0"),
        ("attempts", ("a",), b"nan a-1\n"),
        ("attempts", ("a",), b"inf a-1\n"),
        ("attempts", ("a",), b"old a-1\n"),
        ("attempts", ("a",), b"9" * 400 + b" a-1\n"),
        ("kept_part", ("a", b"x", "k", 1), b"-1 00"),
        ("take_over", ("a",), b""),
        ("take_over", ("a",), b"perhaps"),
        ("take_over", ("a",), b"\xff"),
    ],
)
def test_an_answer_that_is_no_number_is_tried_later(
    tmp_path: Path, method: str, arguments: tuple[object, ...], answer: bytes
) -> None:
    session = Answering(Far(tmp_path).place)
    session.answer = answer
    with pytest.raises(Away, match="is not understood"):
        getattr(session, method)(*arguments)


@pytest.mark.promise
@pytest.mark.parametrize("attempt", ["../a", "a/b", ".x", "a b", "a\nend b", ""])
def test_what_is_no_name_of_an_attempt_never_reaches_the_far_end(
    tmp_path: Path, attempt: str
) -> None:
    with pytest.raises(Refused, match="no name of an attempt"):
        Far(tmp_path).session.clean(attempt)
