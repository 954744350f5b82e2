"""A receiver that is told what no handoff would tell it: it refuses, and works nowhere else."""

from __future__ import annotations

import io
import math
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbbbatch.areas.endpoint.receiver import _Receiver, receive
from dbbbatch.areas.endpoint.session import END_OF_SCRIPT, PROTOCOL, EndpointAddress, Session
from dbbbatch.config.fields import defaults
from dbbbatch.config.sections import Receive
from dbbbatch.errors import UsageError
from dbbbatch.files import checksum, tar
from tests.support.disks import exchange
from tests.support.fuzz import fuzzed
from tests.support.site import tree

pytestmark = pytest.mark.promise


class Told:
    """A receiver in a directory, and requests to it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.buffer, self.staging = root / "buffer", root / "staging"
        for directory in (self.buffer, self.staging):
            directory.mkdir()
        self.head = {
            "nonce": "n",
            "protocol": PROTOCOL,
            "staging": str(self.staging),
            "buffer": str(self.buffer),
            "sum": "sha256sum",
        }

    @property
    def section(self) -> Receive:
        return defaults(Receive, name="a", buffer=str(self.buffer), staging=str(self.staging))

    def session(self, *requests: bytes, script: bytes = b"") -> bytes:
        """Return what a session with these requests sends."""
        head = "".join(f"{name}={value}\n" for name, value in self.head.items()).encode()
        return head + script + END_OF_SCRIPT.encode() + b"\n" + b"".join(requests)

    def tell(self, *requests: bytes, script: bytes = b"", answers: io.BytesIO | None = None) -> str:
        """Return the answers to requests, of which ``put`` names only list and content."""
        answers = answers or io.BytesIO()
        receive(self.section, io.BytesIO(self.session(*requests, script=script)), answers)
        return answers.getvalue().decode(errors="replace")

    def arrive(self, *files: str) -> bytes:
        """Let files arrive in the attempt ``one``; return the request that verifies them."""
        found = checksum.ALGORITHMS["sha256"]()
        for rel in files:
            path = self.staging / "one" / "t" / rel
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(rel.encode())
            digest = checksum.ALGORITHMS["sha256"](rel.encode()).hexdigest()  # type: ignore[call-arg]
            found.update(b"%s  ./%s\0" % (digest.encode(), rel.encode()))
        found.update(b"".join(b"%d\0" % len(rel) for rel in files))
        names = put("names", *(b"./" + rel.encode() for rel in files))
        return names + request("verify", "one", found.hexdigest())


def request(operation: str, attempt: str = "-", argument: str = "") -> bytes:
    return f"{operation} {attempt} 9 0 {argument}\n".encode()


def put(name: str, *paths: bytes, attempt: str = "one") -> bytes:
    content = b"".join(path + b"\0" for path in paths)
    return f"put {attempt} 9 {len(content)} {name}\n".encode() + content


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def test_the_script_is_not_run(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(told.root)
    script = b"touch x\nnonce=other\nstaging=/tmp\n$(touch x)\n"
    assert told.tell(request("hello"), script=script) == "n ok 0\n"
    assert sorted(os.listdir()) == ["buffer", "staging"]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"nonce=n\n" * 3,
        b"nonce=n\n" + b"x" * 200_000,
        b"nonce=n\n" + b"x\n" * 2_000_000,
        b"nonce=$(id)\n",
    ],
)
def test_what_is_no_session_is_a_line(told: Told, sent: bytes) -> None:
    section = defaults(Receive, name="a", buffer=str(told.buffer), staging=str(told.staging))
    with pytest.raises(UsageError, match="not a session"):
        receive(section, io.BytesIO(sent), io.BytesIO())


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("protocol", "0", "different versions"),
        ("staging", "/tmp", "this key delivers to the staging"),
        ("buffer", "/tmp", "this key delivers to the buffer"),
        ("sum", "sh", "no command for checksums"),
    ],
)
def test_another_far_end_is_refused(told: Told, key: str, value: str, why: str) -> None:
    told.head[key] = value
    answer = told.tell(request("hello"), request("begin", "one"))
    assert answer.startswith("n no ")
    assert why in answer
    assert os.listdir(told.staging) == []


@pytest.mark.parametrize(
    "line",
    [
        b"begin ../x 9 0 \n",
        b"begin .. 9 0 \n",
        b"begin .x 9 0 \n",
        b"begin a/b 9 0 \n",
        b"begin one 9 0 a b\n",
        b"begin one nine 0 \n",
        b"partials one 9 0 ../$(id)\n",
        b"\xff\n",
        b"x" * 100_000,
    ],
)
def test_what_is_no_request_ends_it(told: Told, line: bytes) -> None:
    with pytest.raises(UsageError, match="not a session"):
        told.tell(line)
    assert [*told.root.rglob("*")] == [told.buffer, told.staging]


@pytest.mark.parametrize("operation", ["roots", "op_hello", "exec", "_answer"])
def test_an_operation_that_is_none_is_refused(told: Told, operation: str) -> None:
    assert "there is no operation" in told.tell(request(operation, "one"))


@pytest.mark.parametrize("name", ["verified", "t", "../x", "t/x", ""])
def test_only_lists_are_written(told: Told, name: str) -> None:
    assert "is no list of an attempt" in told.tell(
        request("begin", "one"), put(name, b"x"), request("hello")
    )
    assert tree(told.staging) == {}


@pytest.mark.parametrize("rel", [b"./../x", b"./a/../../x", b"/etc/passwd", b"./a//b", b"././a"])
def test_a_name_that_leads_elsewhere_is_refused(told: Told, rel: bytes) -> None:
    for operation in ("look", "verify", "modes_and_times", "partials"):
        argument = "dbb-partial" if operation == "partials" else ""
        answer = told.tell(
            request("begin", operation),
            put("names", rel, attempt=operation),
            request(operation, operation, argument),
        )
        assert "is no path of a file" in answer


@pytest.mark.parametrize(
    "pair", [(b"../1", b"."), (b"x", b"."), (b"1", b"../.."), (b"1", b"/etc"), (b"1", b"a/../..")]
)
def test_numbered_links_lead_below_the_attempt_only(told: Told, pair: tuple[bytes, bytes]) -> None:
    answer = told.tell(
        request("begin", "one"),
        put("dirs", b"."),
        put("names"),
        put("numbered", *pair),
        request("look", "one", "links"),
    )
    assert "a link in staging is a number" in answer
    assert sorted(os.listdir(told.staging / "one")) == ["dirs", "names", "numbered", "t"]


def test_what_arrived_as_a_link_is_not_verified(told: Told) -> None:
    (told.root / "secret").write_bytes(b"a")
    verify = told.arrive("a")
    path = told.staging / "one" / "t" / "a"
    path.unlink()
    path.symlink_to(told.root / "secret")
    assert told.tell(verify, request("place", "one")).endswith("attempt one was not verified")


def test_an_attempt_that_goes_while_it_is_read_is_told(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*arguments: Any, real: Any = _Receiver._sum) -> bytes:
        if (told.staging / "one").exists():
            (told.staging / "one").rename(told.root / "away")
        found: bytes = real(*arguments)
        return found

    told.tell(request("begin"), put("names", b"./a", b"./b"))
    verify = told.arrive("a", "b")
    monkeypatch.setattr(_Receiver, "_sum", read)
    assert "one is gone" in told.tell(verify)


def test_a_directory_of_the_buffer_that_is_a_link_takes_nothing(told: Told) -> None:
    outside = told.root / "outside"
    outside.mkdir()
    (told.buffer / "night").symlink_to(outside)
    answer = told.tell(told.arrive("night/a", "b"), request("place", "one"))
    assert "verified" in answer
    assert "K./night/a\0D./night/a\0" in answer
    assert (os.listdir(outside), (told.buffer / "b").read_bytes()) == ([], b"b")
    assert tree(told.staging / "one" / "t") == {"night/a": b"night/a"}


def test_only_probes_are_placed_on_trial_and_removed(told: Told) -> None:
    (told.buffer / "a").write_text("theirs")
    answer = told.tell(told.arrive("a"), request("tryplace", "one"))
    assert "only files of ours" in answer
    assert (told.buffer / "a").read_text() == "theirs"


@pytest.mark.parametrize(
    "directory", ["", "one", "one/t", "../buffer", "/etc/partial", "a/partial"]
)
def test_only_partial_files_are_removed(told: Told, directory: str) -> None:
    (told.buffer / "a").write_text("theirs")
    told.arrive("a")
    answer = told.tell(put("names", b"./a"), request("partials", "one", directory))
    assert "partial files are expected in" in answer
    assert (tree(told.buffer), "one/t/a" in tree(told.staging)) == ({"a": b"theirs"}, True)


def test_what_a_program_is_called_does_not_end_it(told: Told) -> None:
    with subprocess.Popen(["sh", "-c", "read -r x", "/usr/bin/"], stdin=subprocess.PIPE) as process:
        told.tell(request("end", "usr"), request("end", "bin"))
        process.communicate(b"x\n")
        assert process.returncode == 0


def test_cleaning_follows_no_link(told: Told) -> None:
    (told.buffer / "a").write_text("theirs")
    (told.staging / "one").mkdir()
    (told.staging / "one" / "1").symlink_to(told.buffer)
    (told.staging / "two").symlink_to(told.buffer)
    told.tell(request("clean", "one"), request("clean", "two"))
    assert (told.buffer / "a").exists()


def test_nobody_may_write_what_is_placed_or_run_it_as_somebody_else(told: Told) -> None:
    verify = told.arrive("a", "b")
    (told.staging / "one" / "t" / "a").chmod(0o6777)
    (told.staging / "one" / "t" / "b").chmod(0o600)
    told.tell(verify, request("place", "one"))
    modes = [oct((told.buffer / name).stat().st_mode & 0o7777) for name in ("a", "b")]
    assert modes == ["0o555", "0o400"]


def test_new_directories_get_the_permissions_of_the_one_above(told: Told) -> None:
    told.buffer.chmod(0o2775)
    before = os.umask(0)
    try:
        told.tell(told.arrive("a/b/c"), request("place", "one"))
    finally:
        os.umask(before)
    assert oct((told.buffer / "a" / "b").stat().st_mode & 0o7777) == "0o2775"


def test_a_file_in_the_place_of_a_directory_is_told(told: Told) -> None:
    (told.buffer / "a").write_text("theirs")
    answer = told.tell(told.arrive("a/b"), request("place", "one"))
    assert answer.endswith("K./a/b\0D./a/b\0")


def test_a_finder_that_took_a_linked_file_does_not_get_it_twice(told: Told) -> None:
    # Linked by a far end that cannot rename, which was killed before it removed the old name.
    told.tell(told.arrive("a"))
    os.link(told.staging / "one" / "t" / "a", told.root / "stored")
    assert told.tell(request("take_over", "one"), request("place", "one.r")).endswith("n ok 0\n")
    assert (tree(told.buffer), tree(told.staging / "one.r" / "t")) == ({}, {})


def test_somebody_who_exchanges_directories_of_the_buffer_gets_nothing_outside(told: Told) -> None:
    outside, night, link = (told.root / "outside", told.buffer / "night", told.buffer / "link")
    for directory in (outside, night):
        directory.mkdir()
    link.symlink_to(outside)
    done = threading.Event()

    def attack() -> None:
        while not done.is_set():
            exchange(night, link)

    attacker = threading.Thread(target=attack)
    attacker.start()
    files = [f"night/{number}" for number in range(100)]
    try:
        told.tell(told.arrive(*files))
        for _ in range(20):
            told.tell(request("place", "one"))
    finally:
        done.set()
        attacker.join()
    assert os.listdir(outside) == []
    here = [path for path in (night, link) if not path.is_symlink()]
    placed = tree(here[0])
    left = tree(told.staging / "one" / "t")
    assert {f"night/{name}" for name in placed} | set(left) == set(files)
    assert len(placed) + len(left) == len(files)


def unpack(data: bytes, attempt: str = "one", size: int | None = None) -> bytes:
    """Return the request that unpacks an archive."""
    return f"unpack {attempt} 9 {len(data) if size is None else size} \n".encode() + data


def archive(*names: str, content: bytes = b"abc") -> bytes:
    data = b"".join(
        tar.header(tar.Member(os.fsencode(name), len(content), 0o644, 10**9))
        + content
        + bytes(tar.padding(len(content)))
        for name in names
    )
    return data + bytes(tar.ending(len(data)))


def announced(*names: str) -> tuple[bytes, bytes]:
    return request("begin", "one"), put("names", *(b"./" + os.fsencode(name) for name in names))


def forged(kind: bytes, name: str = "a", target: bytes = b"") -> bytes:
    """Return an archive of one member that is no regular file."""
    head = bytearray(tar.header(tar.Member(os.fsencode(name), 0, 0o644, 10**9)))
    head[156:157] = kind
    head[157 : 157 + len(target)] = target
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + bytes(tar.ending(512))


def test_what_is_sent_is_unpacked(told: Told) -> None:
    answer = told.tell(*announced("a", "d/b"), unpack(archive("a", "d/b")), request("hello"))
    assert answer == "n ok 0\n" * 4
    assert tree(told.staging / "one" / "t") == {"a": b"abc", "d/b": b"abc"}


@pytest.mark.parametrize("name", ["b", "/etc/x", "../a", "d/../a", "./a", "a/", ""])
def test_what_was_not_announced_is_not_unpacked(told: Told, name: str) -> None:
    answer = told.tell(*announced("a"), unpack(archive(name)), request("hello"))
    # Nothing else is answered: it may be a part of the archive.
    assert answer.startswith("n ok 0\nn ok 0\nn no ")
    assert answer.endswith("was not announced")
    assert tree(told.staging / "one" / "t") == tree(told.buffer) == {}


def test_a_file_is_unpacked_once_only(told: Told) -> None:
    assert "was not announced" in told.tell(*announced("a"), unpack(archive("a", "a")))


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6", b"g"])
def test_only_regular_files_are_unpacked(told: Told, kind: bytes) -> None:
    answer = told.tell(*announced("a"), unpack(forged(kind, target=b"/etc/passwd")))
    assert "is no regular file" in answer
    assert os.listdir(told.staging / "one" / "t") == []


def test_nothing_is_unpacked_through_a_link(told: Told) -> None:
    outside = told.root / "outside"
    outside.mkdir()
    (outside / "b").write_bytes(b"theirs")
    told.tell(*announced("d/a", "b", "c"))
    t = told.staging / "one" / "t"
    (t / "d").symlink_to(outside)
    (t / "b").symlink_to(outside / "b")
    answer = told.tell(unpack(archive("d/a", "b", "c")))
    assert answer.endswith("/t/d/a: Not a directory")
    assert tree(outside) == {"b": b"theirs"}
    assert ((t / "b").read_bytes(), (t / "c").read_bytes()) == (b"abc", b"abc")


def test_no_special_permission_is_unpacked(told: Told) -> None:
    data = tar.header(tar.Member(b"a", 0, 0o7777, 10**9))
    told.tell(*announced("a"), unpack(data + bytes(tar.ending(len(data)))))
    assert oct((told.staging / "one" / "t" / "a").stat().st_mode) == "0o100755"


@pytest.mark.parametrize("length", [0, 100, 512, 1000, 60_000])
def test_an_archive_that_ends_too_early_ends_it(told: Told, length: int) -> None:
    data = archive("a", content=b"x" * 100_000)
    answer = told.tell(*announced("a"), unpack(data[:length], size=len(data)))
    assert "the archive ends too early" in answer
    assert set(tree(told.staging)) <= {"one/names", "one/t/a"}


@pytest.mark.parametrize("length", [10**12, 2**63 - 1])
def test_a_length_of_any_size_is_understood(told: Told, length: int) -> None:
    answer = told.tell(*announced("a"), unpack(archive("a"), size=length))
    assert "something follows the end" in answer or "the archive ends too early" in answer


@fuzzed(200)
@given(
    operation=st.sampled_from(["space", "list", "end", "clean"]),
    limit=st.floats(min_value=0, allow_nan=False),
    size=st.integers(min_value=0, max_value=2**63 - 1),
)
def test_whatever_a_session_asks_is_understood(
    tmp_path_factory: pytest.TempPathFactory, operation: str, limit: float, size: int
) -> None:
    told = Told(tmp_path_factory.mktemp("far"))
    place = EndpointAddress(str(told.buffer), str(told.staging), None, {})
    answer = told.tell(Session(place)._request(operation, "one", limit, "", size))
    assert answer.startswith("n ok ")


def test_a_request_that_is_not_understood_is_answered(told: Told) -> None:
    answers = io.BytesIO()
    with pytest.raises(UsageError):
        told.tell(request("hello"), b"begin one 1e9 0 \n", answers=answers)
    first, refused = answers.getvalue().split(b"\n", 1)
    assert first == b"n ok 0"
    assert refused.startswith(b"n no ")
    assert b"a request is not understood here" in refused


class Slow(io.RawIOBase):
    """What arrives over a slow line: a little, after a while of a clock that is no real one."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)
        self._now, self._due = 0, math.inf

    def alarm(self, seconds: int) -> None:
        self._due = self._now + seconds if seconds else math.inf

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        self._now += 10
        assert self._now < self._due
        return self._data.readinto(memoryview(room)[:1000])


def test_a_slow_line_ends_no_receiver_while_something_arrives(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"x" * 200_000
    names = [f"{number:0100}" for number in range(100)]
    line = Slow(
        told.session(
            *announced("a"),
            unpack(archive("a", content=content)),
            *announced(*names)[1:],
            request("hello"),
        )
    )
    monkeypatch.setattr(signal, "alarm", line.alarm)
    answers = io.BytesIO()
    receive(told.section, io.BufferedReader(line), answers)
    assert answers.getvalue() == b"n ok 0\n" * 5
    assert tree(told.staging / "one" / "t") == {"a": content}


def test_what_follows_an_archive_is_no_request(told: Told) -> None:
    hidden = request("begin", "hidden").ljust(512, b"\0")
    answer = told.tell(*announced("a"), unpack(archive("a")[:-512] + hidden))
    assert "something follows the end" in answer
    assert os.listdir(told.staging) == ["one"]


def test_nothing_is_unpacked_into_what_was_verified(told: Told) -> None:
    answer = told.tell(told.arrive("a"), unpack(archive("a", content=b"other")))
    assert "n no " in answer
    assert tree(told.staging / "one" / "t") == {"a": b"a"}


def test_nothing_is_unpacked_into_an_attempt_that_never_began(told: Told) -> None:
    assert "n no " in told.tell(unpack(archive("a")))
    assert os.listdir(told.staging) == []


def append(data: bytes, shape: str = "0/644/1.000000000") -> bytes:
    return f"append one 9 {len(data)} {shape}\n".encode() + data


@pytest.mark.parametrize("shape", ["2/644/1.000000000", "x", "", "0/644", "0/9/1.000000000"])
def test_only_a_part_that_was_resumed_is_continued(told: Told, shape: str) -> None:
    told.arrive("a")
    kept = request("keep", "one", "kept")
    for resumed in (
        [put("names", b"./a")],
        [kept, *announced("a"), request("resume", "one", "kept")],
    ):
        answer = told.tell(*resumed, append(b"xyz", shape), request("hello"))
        assert answer.endswith("what is sent is no rest of a file that was resumed")
    assert b"xyz" not in b"".join(tree(told.staging).values())


def test_a_rest_that_ends_too_early_ends_it(told: Told) -> None:
    told.arrive("a")
    requests = [request("keep", "one", "kept"), *announced("a"), request("resume", "one", "kept")]
    answer = told.tell(*requests, append(b"xyz", "1/644/1.000000000")[:-1])
    assert answer.endswith("what is sent ends too early")


def test_a_part_is_not_looked_for_behind_a_link(told: Told) -> None:
    (told.root / "secret").write_bytes(b"theirs")
    told.arrive("a")
    (told.staging / "one" / "t" / "a").unlink()
    (told.staging / "one" / "t" / "a").symlink_to(told.root / "secret")
    requests = [request("keep", "one", "kept"), *announced("a"), request("resume", "one", "kept")]
    assert told.tell(*requests) == "n ok 0\n" * 4
    assert os.listdir(told.staging / "one" / "t") == []
