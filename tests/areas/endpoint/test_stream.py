"""Files that are sent through the session: what arrives, what is left out, and what goes wrong."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dbbbatch.areas.endpoint.session import EndpointAddress, Session
from dbbbatch.areas.endpoint.stream import Outgoing, TarStream
from dbbbatch.errors import Interrupted
from dbbbatch.files import checksum, tar
from dbbbatch.process import template
from tests.support.handing import HOSTILE, Arriving, contents, receiving
from tests.support.site import tree


class Line:
    """A directory whose files are sent, and a far end."""

    def __init__(self, root: Path, remote: str = "") -> None:
        self.source, self.buffer, self.staging = (
            root / name for name in ("source", "far/buffer", "far/staging")
        )
        for directory in (self.source, self.buffer, self.staging):
            directory.mkdir(parents=True)
        command = template.parse_command(remote) if remote else None
        self.place = EndpointAddress(str(self.buffer), str(self.staging), command, {}, unpacks=True)
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
        streamed = self.session.stream(attempt, files, 10)
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
    found = tar.Reader(io.BytesIO(data), len(data))
    assert [(one.raw, one.size_bytes) for one in found] == [(file.raw, size) for file in files]


def test_a_pass_that_must_end_sends_no_more(line: Line) -> None:
    files = [line.file(name, name.encode() * 500_000) for name in "abc"]
    line.session.begin("one", [file.raw for file in files])
    seen: list[int] = []
    with checksum.heeding(lambda: len(seen) > 2, seen.append), pytest.raises(Interrupted):
        line.session.stream("one", files, 10)
    # It is another conversation, which knows nothing of the rest of the stream.
    assert line.session.take_over("one") == "arrived"


def test_sending_is_paced(line: Line) -> None:
    sent: list[int] = []
    file = line.file("a", b"a" * 1_000_000)
    line.session.begin("one", [b"a"])
    line.session.stream("one", [file], 10, sent.append)
    assert sum(sent) == TarStream([file], "blake2b").size_bytes
