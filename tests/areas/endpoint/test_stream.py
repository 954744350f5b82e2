"""Files that are sent through the session: what arrives, what is left out, and what goes wrong."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dbbbatch.areas.endpoint.session import Away, EndpointAddress, Refused, Session
from dbbbatch.areas.endpoint.stream import MOST_AT_ONCE, Outgoing, Rest, TarStream
from dbbbatch.files import checksum, tar
from dbbbatch.process import run, template
from tests.support.disks import BLOCK, small_disk
from tests.support.handing import HOSTILE, Arriving, contents, receiving
from tests.support.site import tree
from tests.support.ssh import SshServer


class Line:
    """A directory whose files are sent, and a far end."""

    def __init__(self, root: Path, remote: str = "", **values: str) -> None:
        self.source, self.buffer, self.staging = (
            root / name for name in ("source", "far/buffer", "far/staging")
        )
        for directory in (self.source, self.buffer, self.staging):
            directory.mkdir(parents=True)
        command = template.parse_command(remote) if remote else None
        given = {name: value.encode() for name, value in values.items()}
        self.place = EndpointAddress(
            str(self.buffer), str(self.staging), command, given, unpacks=True
        )
        self.session = Session(self.place)

    def file(self, rel: str, content: bytes) -> Outgoing:
        """Write a file and return it as it is sent."""
        path = os.path.join(self.source, rel)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, 0o640)
        return self.looked_at(rel)

    def looked_at(self, rel: str) -> Outgoing:
        path = os.path.join(self.source, rel)
        status = os.stat(path)
        return Outgoing(
            os.fsencode(rel),
            lambda: checksum.open_regular(path),
            status.st_size,
            status.st_mode,
            status.st_mtime_ns,
        )

    def send(self, attempt: str, *files: Outgoing) -> dict[bytes, str | OSError]:
        """Send files; those that arrived whole are placed."""
        self.session.begin(attempt, [file.raw for file in files])
        streamed = self.session.stream(attempt, files, 10, limit=10)
        assert streamed.complaint == ""
        self.deliver(attempt, files, streamed.outcomes)
        return dict(streamed.outcomes)

    def deliver(self, attempt: str, files: object, outcomes: object) -> list[bytes]:
        """Verify and place what was sent; return what was."""
        sent = [
            Arriving(file.raw, file.size_bytes, outcome)
            for file in files  # type: ignore[attr-defined]
            if isinstance(outcome := outcomes[file.raw], str)  # type: ignore[index]
        ]
        right = self.session.verify(attempt, sent, 10, again=True)
        if right:
            assert not self.session.place_files(attempt).kept
        return [file.raw for file in right]


@pytest.fixture(params=["shell", "receiver"])
def line(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Line]:
    remote = receiving(tmp_path / "far") if request.param == "receiver" else ""
    made = Line(tmp_path, remote)
    yield made
    made.session.close()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    yield made
    made.session.close()


def digest(content: bytes) -> str:
    return hashlib.blake2b(content).hexdigest()


@pytest.mark.promise
def test_files_of_any_name_arrive(line: Line) -> None:
    wanted = contents([*HOSTILE, "n" * 255, "/".join(["d" * 200] * 15) + "/" + "f" * 100])
    files = [line.file(rel, content) for rel, content in wanted.items()]
    outcomes = line.send("one", *files)
    assert tree(line.buffer) == {
        os.fsdecode(file.raw): wanted[os.fsdecode(file.raw)] for file in files
    }
    assert outcomes == {file.raw: digest(wanted[os.fsdecode(file.raw)]) for file in files}
    assert tree(line.staging / "one" / "t") == {}


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 65536, (1 << 18) - 512, 1 << 20])
def test_a_file_of_any_size_arrives(line: Line, size: int) -> None:
    content = os.urandom(size)
    line.send("one", line.file("a", b"before"), line.file("b", content), line.file("c", b"after"))
    assert tree(line.buffer) == {"a": b"before", "b": content, "c": b"after"}


def test_time_and_permissions_arrive_with_it(line: Line) -> None:
    line.file("a", b"a")
    path = line.source / "a"
    path.chmod(0o6775)
    os.utime(path, ns=(0, 1_700_000_000_123_456_789))
    line.send("one", line.looked_at("a"))
    status = (line.buffer / "a").stat()
    assert (status.st_mtime_ns, status.st_mode & 0o7777) == (1_700_000_000_123_456_789, 0o555)


def test_many_streams_go_through_a_session(line: Line) -> None:
    for number in range(3):
        files = [line.file(f"{number}/{n}", b"%d" % n * 1000) for n in range(20)]
        line.send(f"attempt-{number}", *files)
        assert line.session.take_over("nothing") == "nothing"
    assert len(tree(line.buffer)) == 60


def test_a_file_is_hashed_by_the_algorithm_of_the_endpoint(tmp_path: Path) -> None:
    stream = TarStream([Line(tmp_path).file("a", b"abc")], "md5")
    b"".join(map(bytes, stream.blocks()))
    assert stream.outcomes == {b"a": hashlib.md5(b"abc").hexdigest()}


# Files that change while they are sent: the stream keeps its length, and they are left out.


def changed(file: Outgoing, change: Callable[[], None]) -> Outgoing:
    """Return a file to which something happens when it has been opened and looked at."""

    def opened() -> int:
        descriptor = file.open()
        change()
        return descriptor

    return Outgoing(file.raw, opened, file.size_bytes, file.mode, file.mtime_ns, file.digest)


@pytest.mark.promise
@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"x" * 400_000),
        lambda path: path.write_bytes(b"x" * 10),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"x" * 300_000),
        lambda path: path.unlink(),
        lambda path: path.with_name("new").rename(path),
    ],
    ids=["longer", "shorter", "empty", "another content", "removed", "replaced"],
)
def test_a_file_that_changes_is_left_out(line: Line, change: Callable[[Path], None]) -> None:
    line.file("new", b"y" * 300_000)
    path = line.source / "b"
    spoiled = changed(line.file("b", b"b" * 300_000), lambda: change(path))
    outcomes = line.send("one", line.file("a", b"a"), spoiled, line.file("c", b"c"))
    assert tree(line.buffer) == {"a": b"a", "c": b"c"}
    assert isinstance(outcomes[b"b"], checksum.Changed)


@pytest.mark.promise
def test_a_file_that_is_another_than_was_looked_at_is_left_out(line: Line) -> None:
    file = line.file("b", b"bbb")
    (line.source / "b").write_bytes(b"ccccc")
    outcomes = line.send("one", file, line.file("c", b"c"))
    assert tree(line.buffer) == {"c": b"c"}
    assert isinstance(outcomes[b"b"], checksum.Changed)


@pytest.mark.promise
def test_a_content_that_is_not_what_was_read_before_is_left_out(line: Line) -> None:
    file = line.file("b", b"bbb")
    known = [
        Outgoing(raw, file.open, 3, file.mode, file.mtime_ns, checksum)
        for raw, checksum in ((b"b", digest(b"ccc")), (b"same", digest(b"bbb")))
    ]
    outcomes = line.send("one", *known)
    assert tree(line.buffer) == {"same": b"bbb"}
    assert isinstance(outcomes[b"b"], checksum.Changed)


def test_a_file_that_cannot_be_opened_is_left_out(line: Line) -> None:
    def refused() -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    file = Outgoing(b"b", refused, 100_000, 0o644, 0)
    outcomes = line.send("one", line.file("a", b"a"), file, line.file("c", b"c"))
    assert tree(line.buffer) == {"a": b"a", "c": b"c"}
    assert isinstance(outcomes[b"b"], PermissionError)


def test_a_file_that_cannot_be_read_to_its_end_is_left_out(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [line.file(name, name.encode() * 500_000) for name in "abc"]
    bad = os.stat(line.source / "b").st_ino
    readv = os.readv

    def failing(descriptor: int, buffers: list[memoryview]) -> int:
        if os.fstat(descriptor).st_ino == bad and os.lseek(descriptor, 0, os.SEEK_CUR) > 200_000:
            raise OSError(errno.EIO, "Input/output error")
        return readv(descriptor, buffers)

    monkeypatch.setattr(os, "readv", failing)
    outcomes = line.send("one", *files)
    assert sorted(tree(line.buffer)) == ["a", "c"]
    error = outcomes[b"b"]
    assert isinstance(error, OSError)
    assert (error.errno, error.filename) == (errno.EIO, "b")


@pytest.mark.promise
@pytest.mark.parametrize("size", [0, 1000, 600_000])
def test_a_stream_has_the_length_that_was_announced(tmp_path: Path, size: int) -> None:
    line = Line(tmp_path)
    path = line.source / "b"
    files = [
        line.file("a", b"a" * size),
        changed(line.file("b", b"b" * size), lambda: path.write_bytes(b"b" * (size // 2))),
        Outgoing(b"c" * 300, lambda: os.open("/nowhere", 0), size, 0o644, 1),
    ]
    stream = TarStream(files, "blake2b")
    data = b"".join(map(bytes, stream.blocks()))
    assert len(data) == stream.size_bytes
    found = tar.Reader(io.BytesIO(data).read, len(data))
    assert [(one.raw, one.size_bytes) for one in found] == [(file.raw, size) for file in files]


@pytest.mark.promise
def test_what_is_sent_is_verified_without_being_asked_again(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [line.file(name, name.encode()) for name in ("a", "d/b")]
    line.session.begin("one", [file.raw for file in files])
    streamed = line.session.stream("one", files, 10, limit=10)
    sent = [Arriving(file.raw, file.size_bytes, digest(file.raw)) for file in files]
    written: list[bytes] = []
    monkeypatch.setattr(run.Process, "write", lambda self, data, deadline: written.append(data))
    assert streamed.complaint == ""
    assert line.session.verify("one", sent, 99) == sent
    assert written == [b""]


@pytest.mark.promise
def test_an_answer_that_nobody_wants_any_more_is_not_taken_for_another(line: Line) -> None:
    files = [line.file(name, name.encode()) for name in "ab"]
    line.session.begin("one", [b"a", b"b"])
    line.session.stream("one", files, 10, limit=10)
    assert line.session.free_bytes() > 1000
    sent = [Arriving(file.raw, 1, digest(file.raw)) for file in files]
    assert line.session.verify("one", sent, 10) == sent
    only = [Arriving(b"a", 1, digest(b"a"))]
    line.session.begin("two", [b"a", b"b"])
    line.session.stream("two", files, 10, limit=10)
    assert line.session.verify("two", only, 10, again=True) == only
    line.session.place_files("two")
    assert tree(line.buffer) == {"a": b"a"}


@pytest.mark.promise
def test_what_was_verified_in_another_conversation_is_verified_again(line: Line) -> None:
    file = line.file("a", b"a")
    line.session.begin("one", [b"a"])
    line.session.stream("one", [file], 10, limit=10)
    line.session.close()  # it answers all that it was asked
    sent = [Arriving(b"a", 1, digest(b"a"))]
    assert (line.staging / "one" / "verified").exists()
    assert line.session.verify("one", sent, 10) == sent


@pytest.mark.promise
def test_what_arrived_otherwise_is_not_verified(line: Line) -> None:
    # As it can be while the far end is asked at once: what is read there counts.
    files = [line.file(name, name.encode()) for name in "ab"]
    line.session.begin("one", [b"a", b"b"])
    line.session.stream("one", files, 10)
    path = line.staging / "one" / "t" / "a"
    path.chmod(0o600)
    path.write_bytes(b"x")
    sent = [Arriving(file.raw, 1, digest(file.raw)) for file in files]
    assert line.session.verify("one", sent, 10) == sent[1:]


def test_sending_is_paced(line: Line) -> None:
    sent: list[int] = []
    file = line.file("a", b"a" * 1_000_000)
    line.session.begin("one", [b"a"])
    line.session.stream("one", [file], 10, sent.append)
    assert sum(sent) == TarStream([file], "blake2b").size_bytes


@pytest.mark.parametrize(
    ("bandwidth", "most"),
    [(None, MOST_AT_ONCE), (1e9, MOST_AT_ONCE), (16_000.0, 1600), (0.001, 1)],
)
def test_where_the_rate_is_low_little_is_sent_at_once(
    tmp_path: Path, bandwidth: float | None, most: int
) -> None:
    file = Line(tmp_path).file("a", os.urandom(5000))
    place = EndpointAddress("/b", "/s", None, {}, bandwidth=bandwidth)
    assert place.most_at_once == most
    whole = b"".join(TarStream([file], "md5").blocks())
    with Rest(file, "md5", most) as rest:
        for stream, size in (TarStream([file], "md5", most), len(whole)), (rest, 5000):
            blocks = [len(block) for block in stream.blocks()]
            assert (sum(blocks), max(blocks) <= most) == (size, True)
            assert len(stream.outcomes) == 1


# What is at the far end.

BUSYBOX = 'exec busybox tar "$@"'


@pytest.mark.parametrize("tar", ["GNU tar", "busybox"])
@pytest.mark.parametrize("sh", ["dash", "bash", "busybox", "ksh", "zsh"])
def test_any_tar_and_any_shell_will_do(
    tmp_path: Path, tar: str, sh: str, program: Callable[[str, str], Path]
) -> None:
    if tar == "busybox":
        program("tar", BUSYBOX)
    if not (path := shutil.which(sh)):
        pytest.skip(f"no {sh} here")
    program("sh", f'exec {path} {"sh" if sh == "busybox" else ""} "$@"')
    line = Line(tmp_path)
    wanted = contents([*HOSTILE, "n" * 255, "/".join(["d" * 200] * 15) + "/" + "f" * 100])
    with line.session:
        for attempt in ("one", "two"):
            files = [line.file(f"{attempt}/{rel}", data) for rel, data in wanted.items()]
            line.send(attempt, *files)
    assert len(tree(line.buffer)) == 2 * len(wanted)


@pytest.mark.promise
@pytest.mark.parametrize(
    ("tar", "complaint"),
    [
        ("exit 3", "exit code 3:"),
        ("kill -9 $$", "exit code 137: Killed"),
        ("head -c 100000 >/dev/null; kill -9 $$", "exit code 137: Killed"),
        ("echo one >&2; echo two >&2; cat >/dev/null; exit 2", "exit code 2: one"),
        (
            "echo one >&2; echo a: Cannot write: No space left on device >&2; exit 2",
            "a: Cannot write: No space left on device",
        ),
    ],
)
def test_a_tar_that_fails_does_not_end_the_conversation(
    shell: Line, program: Callable[[str, str], Path], tar: str, complaint: str
) -> None:
    files = [shell.file("a", b"a" * 3_000_000), shell.file("b", b"b")]
    shell.session.begin("one", [file.raw for file in files])
    failing = program("tar", f"case $* in *version*) exit;; esac; {tar}")
    streamed = shell.session.stream("one", files, 10)
    assert streamed.complaint == complaint
    assert shell.deliver("one", files, streamed.outcomes) == []
    failing.unlink()
    shell.send("two", *files)
    assert sorted(tree(shell.buffer)) == ["a", "b"]


@pytest.mark.promise
def test_what_arrived_before_tar_failed_is_delivered(
    shell: Line, program: Callable[[str, str], Path]
) -> None:
    files = [shell.file(name, name.encode() * 100_000) for name in "abc"]
    shell.session.begin("one", [file.raw for file in files])
    real = shutil.which("tar")
    program("tar", f'{real} "$@"; for f do [ -e "$f/b" ] && rm -- "$f/b"; done; exit 2')
    streamed = shell.session.stream("one", files, 10)
    assert shell.deliver("one", files, streamed.outcomes) == [b"a", b"c"]


@pytest.mark.parametrize("kind", ["GNU tar", "busybox", "receiver"])
def test_a_disk_that_fills_is_named(
    tmp_path: Path, kind: str, program: Callable[[str, str], Path]
) -> None:
    if kind == "busybox":
        program("tar", BUSYBOX)
    with small_disk(tmp_path / "far", 16 << 20) as disk:
        line = Line(tmp_path, receiving(tmp_path / "far") if kind == "receiver" else "")
        files = [line.file(name, name.encode() * 2_000_000) for name in "abc"]
        line.session.begin("one", [file.raw for file in files])
        disk.fill(3_800_000 // BLOCK)
        streamed = line.session.stream("one", files, 10)
        assert "No space left on device" in streamed.complaint
        assert line.deliver("one", files, streamed.outcomes) == [b"a"]
        line.session.close()


def test_options_of_the_account_there_are_not_for_us(
    shell: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAR_OPTIONS", "--exclude=a --keep-old-files --to-stdout")
    shell.send("one", shell.file("a", b"a"))
    assert tree(shell.buffer) == {"a": b"a"}


def test_a_far_end_without_tar_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for directory in os.environ["PATH"].split(os.pathsep):
        for path in Path(directory).glob("*"):
            if path.name != "tar" and not (tools / path.name).exists():
                (tools / path.name).symlink_to(path)
    monkeypatch.setenv("PATH", str(tools))
    line = Line(tmp_path)
    with line.session, pytest.raises(Refused, match="there is no command tar"):
        line.session.open()


@pytest.mark.parametrize(
    ("tar", "complaint"),
    [
        ("echo unknown option >&2; exit 1", "the command tar cannot do what is asked of it"),
        ("case $* in *-x*) exit;; esac; exec /bin/tar", "the command tar cannot unpack"),
    ],
)
def test_a_tar_that_will_not_do_is_named_before_anything_is_sent(
    shell: Line, program: Callable[[str, str], Path], tar: str, complaint: str
) -> None:
    program("tar", f'{tar} "$@"')
    for ask in (lambda: shell.session.begin("one", [b"a"]), lambda: shell.session.trial("try")):
        with pytest.raises(Refused, match=complaint):
            ask()


def test_a_far_end_that_takes_nothing_is_away(
    shell: Line, program: Callable[[str, str], Path]
) -> None:
    file = shell.file("a", b"a" * 5_000_000)
    shell.session.begin("one", [b"a"])
    program("dd", 'case $* in *bs=1M*|*"of="*) exec /bin/dd "$@";; esac; exec sleep 60')
    with pytest.raises(Away, match="has taken nothing for 1 s"):
        shell.session.stream("one", [file], 1)
    assert shell.session.take_over("one") == "arrived"


def test_a_session_that_is_ended_is_a_trouble(line: Line) -> None:
    file = line.file("a", b"a" * 5_000_000)
    line.session.begin("one", [b"a"])
    with pytest.raises((Away, Refused)):
        line.session.stream("one", [file], 10, lambda _: run.end_all())
    assert line.session.take_over("one") == "arrived"


@pytest.mark.promise
@pytest.mark.parametrize("dies", ["exit 1", "kill -9 $$", "kill -9 $$ $PPID"])
def test_no_part_of_a_file_is_taken_for_a_request(
    shell: Line, program: Callable[[str, str], Path], dies: str
) -> None:
    shell.session.begin("victim", [b"a"])
    shell.session.begin("one", [b"a"])
    file = shell.file("a", b"\nclean victim 60 0 \n" * 100_000)
    dd = shutil.which("dd")
    program("dd", f'case $* in *zero*|*of=*) exec {dd} "$@";; esac; head -c 100000; {dies}')
    with pytest.raises(Refused, match="what was sent could not be read to its end"):
        shell.session.stream("one", [file], 10)
    assert shell.session.take_over("victim") == "arrived"


def test_a_list_that_cannot_be_kept_is_said(shell: Line) -> None:
    file = shell.file("a", b"a" * 5_000_000)
    with pytest.raises(Refused, match=r"names cannot be written"):
        shell.session.stream("one", [file], 10)
    assert shell.session.take_over("one") == "nothing"


def test_a_noisy_start_up_file_does_no_harm(tmp_path: Path) -> None:
    noise = "sh -c 'echo Welcome; yes | head -c 100000; eval \"$1\"' sh {command}"
    line = Line(tmp_path, noise)
    with line.session:
        line.send("one", line.file("a", b"a" * 100_000))
    assert sorted(tree(line.buffer)) == ["a"]


def test_it_works_over_ssh(tmp_path: Path, ssh_server: SshServer) -> None:
    line = Line(tmp_path, ssh_server.remote, host=ssh_server.host, user=ssh_server.user)
    with line.session:
        for attempt in ("one", "two"):
            names = [f"{attempt}/{number}" for number in range(20)]
            line.send(attempt, *(line.file(name, name.encode() * 20_000) for name in names))
    assert len(tree(line.buffer)) == 40


def test_an_attempt_that_was_taken_over_gets_nothing_more(line: Line) -> None:
    file = line.file("a", b"a")
    line.session.begin("one", [b"a"])
    with Session(line.place) as other:
        assert other.take_over("one") == "arrived"
    with pytest.raises(Refused):
        line.session.stream("one", [file], 10)
    assert tree(line.staging / "one.r" / "t") == {}


# What is left of a broken stream is continued.


def resume(line: Line, attempt: str, file: Outgoing, kept: str = "kept") -> int:
    """Continue a file in a new attempt and deliver it; return how many bytes were sent."""
    line.session.begin(attempt, [file.raw])
    part = line.session.kept_part(attempt, file.raw, kept, 10)
    with Rest(file, line.place.algorithm) as rest:
        if part and rest.skip(*part):
            sent = rest.size_bytes
            streamed = line.session.send_rest(attempt, file, rest, 10)
        else:
            sent = file.size_bytes
            streamed = line.session.stream(attempt, [file], 10)
    assert streamed.complaint == ""
    line.deliver(attempt, [file], streamed.outcomes)
    return sent


def broken(line: Line, file: Outgoing, after: int = 1_000_000) -> None:
    """Let the line break while a file is sent, and keep what arrived."""
    came = 0

    def pace(count: int) -> None:
        nonlocal came
        came += count
        if came > after:
            raise KeyboardInterrupt

    line.session.begin("one", [file.raw])
    with pytest.raises(KeyboardInterrupt):
        line.session.stream("one", [file], 10, pace)
    line.session.end("one")
    assert line.session.take_over("one") == "arrived"
    line.session.keep("one.r", "kept")
    assert os.listdir(line.staging) == ["kept"]


@pytest.mark.promise
@pytest.mark.parametrize(
    "name", ["a", "d/new\nline\n", "-n/-n", "d/*", "x y'\"/$(touch x)", "d/\udcff"]
)
def test_a_broken_file_is_continued(line: Line, name: str) -> None:
    content = os.urandom(3_000_000)
    file = line.file(name, content)
    os.utime(os.path.join(line.source, name), ns=(0, 1_700_000_000_000_456_789))
    file = line.looked_at(name)
    broken(line, file)
    assert 0 < resume(line, "two", file) < 3_000_000
    assert tree(line.buffer) == {name: content}
    status = os.stat(os.path.join(line.buffer, name))
    assert (status.st_mtime_ns, status.st_mode & 0o777) == (file.mtime_ns, 0o440)
    line.session.clean("two")
    assert os.listdir(line.staging) == []


@pytest.mark.promise
def test_a_part_that_is_not_the_beginning_of_the_file_is_sent_again(line: Line) -> None:
    broken(line, line.file("a", b"a" * 3_000_000))
    assert resume(line, "two", line.file("a", b"b" * 3_000_000)) == 3_000_000
    assert tree(line.buffer) == {"a": b"b" * 3_000_000}


@pytest.mark.promise
def test_a_part_that_is_longer_than_the_file_is_sent_again(line: Line) -> None:
    broken(line, line.file("a", b"a" * 3_000_000))
    assert resume(line, "two", line.file("a", b"aaa")) == 3
    assert tree(line.buffer) == {"a": b"aaa"}


def test_a_part_that_is_the_whole_file_needs_nothing_more(line: Line) -> None:
    broken(line, line.file("a", b"a" * 3_000_000))
    [part] = line.staging.rglob("kept/t/a")
    part.chmod(0o600)
    part.write_bytes(b"bbb")
    assert resume(line, "two", line.file("a", b"bbb")) == 0
    assert tree(line.buffer) == {"a": b"bbb"}


def test_where_nothing_was_kept_all_is_sent(line: Line) -> None:
    assert resume(line, "two", line.file("a", b"abc")) == 3
    assert tree(line.buffer) == {"a": b"abc"}


def test_what_cannot_be_copied_is_sent_again(line: Line) -> None:
    file = line.file("a", b"a" * 3_000_000)
    broken(line, file)
    [part] = line.staging.rglob("kept/t/a")
    part.unlink()
    part.symlink_to(line.source / "a")
    assert resume(line, "two", file) == 3_000_000
    assert tree(line.buffer) == {"a": b"a" * 3_000_000}


def test_whoever_still_writes_to_what_was_kept_does_no_harm(line: Line) -> None:
    content = os.urandom(3_000_000)
    file = line.file("a", content)
    broken(line, file)
    [part] = line.staging.rglob("kept/t/a")
    part.chmod(0o600)
    with part.open("ab") as late:
        resume(line, "two", file)
        late.write(b"late")
    assert tree(line.buffer) == {"a": content}


def test_what_was_kept_stays_until_it_was_copied(line: Line) -> None:
    file = line.file("a", b"a" * 3_000_000)
    broken(line, file)
    line.session.begin("two", [b"a"])
    for attempt in ("two", "nothing"):
        line.session.keep(attempt, "kept")
    assert 0 < resume(line, "three", file) < 3_000_000


@pytest.mark.promise
def test_a_file_that_changes_while_its_rest_is_sent_is_left_out(line: Line) -> None:
    file = line.file("a", b"a" * 3_000_000)
    broken(line, file)
    path = line.source / "a"
    spoiled = changed(file, lambda: os.truncate(path, 2_900_000))
    resume(line, "two", spoiled)
    assert tree(line.buffer) == {}


@pytest.mark.parametrize("kept", ["../buffer", "a/b", ".", ""])
def test_only_attempts_are_kept(line: Line, kept: str) -> None:
    line.session.begin("one", [b"a"])
    for ask in (
        lambda: line.session.keep("one", kept),
        lambda: line.session.kept_part("one", b"a", kept, 10),
    ):
        with pytest.raises(Refused, match="is no name of an attempt"):
            ask()
