"""A far end, or a site that delivers, may say anything: nothing is lost, and nothing leads out."""

from __future__ import annotations

import io
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbbbatch.areas.endpoint import confirm, rsync_server, session
from dbbbatch.areas.endpoint.receiver import receive
from dbbbatch.areas.endpoint.stream import Outgoing
from dbbbatch.config.fields import defaults
from dbbbatch.config.sections import Receive
from dbbbatch.errors import UsageError
from dbbbatch.files import names, tar
from dbbbatch.process import run
from tests.support.fuzz import fuzzed, path_bytes
from tests.support.handing import Arriving, make_pass, rows
from tests.support.site import Site, tree

pytestmark = pytest.mark.promise

NAMES = [b"a.fits", b"night/b c.fits", b"night/-n"]
FILES = [Arriving(name, 4, "0" * 128) for name in NAMES]

#: What an answer is made of.
pieces = st.one_of(
    st.binary(max_size=30),
    st.sampled_from([b"K", b"M", b"C", b"D", b"E", b"\0", b"\n", b" ", b"  ./", b"verified"]),
    st.sampled_from(
        [
            b"1 4096",
            b"-1 -1",
            b"9" * 400,
            b"9" * 5000,
            b"0",
            b"nothing",
            b"arrived",
            b"9" * 400 + b" a1",
        ]
    ),
    st.sampled_from([b"K./a.fits\0", b"E./night/-n\0", b"0" * 128 + b"  ./a.fits\0", b"1 644"]),
    path_bytes,
)
contents = st.lists(pieces, max_size=5).map(b"".join)
#: How the answer differs from what the protocol says.
answers = st.tuples(
    st.sampled_from([b"%s ok %d\n", b"%s ok %d\n", b"%s no %d\n", b"%.5s ok %d\n", b"%s ok 1%d\n"]),
    st.sampled_from([0, 0, 0, 0, 1, -1, 10**17, 10**30]),
    contents,
    st.one_of(st.just(b""), st.binary(max_size=30)),
)


class Liar:
    """Stands for the program that reaches the far end; what it answers was decided before."""

    reads = True
    script: list[tuple[bytes, int, bytes, bytes]]

    def __init__(self, argv: list[bytes]) -> None:
        self._nonce = b""

    def __enter__(self) -> Liar:
        return self

    def __exit__(self, *exception: object) -> None: ...

    def widen(self) -> None: ...

    def write(self, data: Any, deadline: float) -> None:
        if not self._nonce:
            self._nonce = data.partition(b"nonce=")[2].partition(b"\n")[0]

    def read(self, deadline: float) -> bytes:
        if not self.script:
            return b""
        header, more, content, noise = self.script.pop(0)
        return noise + header % (self._nonce, max(0, len(content) + more)) + content

    def finish(self, deadline: float, keep: int = 0) -> run.Finished:
        return run.Finished(255, None, b"", b"gone", False, 0.0)


ASKED = {
    "begin": lambda one: one.begin("a", NAMES, [b"", b"night"]),
    "verify": lambda one: one.verify("a", FILES, 1),
    "again": lambda one: one.verify("a", FILES, 1, again=True),
    "place": lambda one: one.place_files("a"),
    "resume": lambda one: one.kept_part("a", NAMES[0], "k", 1),
    "take_over": lambda one: one.take_over("a"),
    "modes": lambda one: one.modes_and_times("a", NAMES),
    "receipt": lambda one: one.receipt("a"),
    "partials": lambda one: one.forget_partials("a", "p", NAMES),
    "space": lambda one: one.free_bytes(),
    "attempts": lambda one: one.attempts("a"),
    "clean": lambda one: one.clean("a"),
    "stream": lambda one: one.stream("a", [outgoing(NAMES[0])], 1),
}


def outgoing(raw: bytes) -> Outgoing:
    return Outgoing(raw, lambda: os.open(__file__, os.O_RDONLY), 4, 0o644, 0)


@fuzzed(400)
@given(
    st.lists(st.sampled_from(sorted(ASKED)), min_size=1, max_size=4), st.lists(answers, max_size=14)
)
def test_any_answer_is_understood_or_a_trouble(asked: list[str], script: list[Any]) -> None:
    # The first answers are most often right, or no other would be looked at.
    Liar.script = [(b"%s ok %d\n", 0, b"", b"")] * 2 + script
    place = session.EndpointAddress("/b", "/s", None, {})
    with mock.patch.object(run, "Process", Liar), session.Session(place) as one:
        for name in asked:
            with suppress(session.Away, session.Refused):
                found = ASKED[name](one)
                if name in ("verify", "again"):
                    assert all(file in FILES for file in found)
                elif name == "resume" and found:
                    assert found[0] >= 0


class Corrupting(run.Process):
    """What comes from the far end is exchanged, cut off or repeated at some reads."""

    plan: list[tuple[str, bytes]]

    def read(self, deadline: float) -> bytes:
        data = super().read(deadline)
        how, other = self.plan.pop(0) if self.plan else ("", b"")
        if how == "end":
            return b""
        if how == "instead":
            return other
        if how == "noise":
            return other + data
        if how == "cut":
            return data[: len(data) // 2]
        return data * 2 if how == "twice" else data


plans = st.lists(
    st.tuples(st.sampled_from(["", "", "", "end", "instead", "noise", "cut", "twice"]), contents),
    max_size=12,
)


@pytest.mark.parametrize("backend", ["sqlite"])
@fuzzed(8)
@given(plan=plans)
def test_whatever_a_far_end_answers_files_arrive_once_it_is_honest(
    database_url: str, backend: str, plan: list[tuple[str, bytes]]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(database_url.removeprefix("sqlite:///"), f"{directory}/dbb.sqlite")
        site = Site(Path(directory, "site"), f"sqlite:///{directory}/dbb.sqlite")
        site.by_stream = True
        # A far end that owes an answer is given up at once, not after a minute.
        site.write(handoff={"retry_wait": 0, "streams": 1, "timeout": 0.1})
        files = {os.fsdecode(name): name for name in NAMES}
        site.put_all(files)
        Corrupting.plan = list(plan)
        with (
            mock.patch.object(run, "Process", Corrupting),
            mock.patch.object(session.Session.__init__, "__defaults__", (0.3,)),
            mock.patch.object(session, "SPARE", 0.1),
        ):
            for _ in range(2):
                assert make_pass(site) in (0, 1, 75)
                kept = tree(site.buffer) | tree(site.holding) | tree(site.quarantine)
                assert kept == files
        site.write(handoff={"retry_wait": 0})
        for _ in range(2):
            assert make_pass(site) in (0, 1)
        assert tree(site.holding) == files == tree(site.far_buffer)
        assert set(rows(site)) == {"HELD"}


def confirm_settings() -> Any:
    return SimpleNamespace(
        site=SimpleNamespace(name="a"),
        finder={"a": SimpleNamespace(storage="/st")},
        target={},
    )


json_lines = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            '{"nonce": "n", "targets": []}',
            '{"nonce": "n\\n", "targets": []}',
            '{"nonce": "n", "targets": ["\\ud800"]}',
            '["", "a", 4, "blake2b:00"]',
            '["..", "..", -1, ""]',
            '["\\\\x2f", "a", 99999999999999999999999999, "md5:"]',
            '["\\u0000", "a", 1, "x"]',
            '["", "a", 1e999, "x"]',
            "[" * 100_000,
            "9" * 5000,
            "null",
        ]
    ),
)


@pytest.mark.parametrize("backend", ["sqlite"])
@fuzzed(100)
@given(st.lists(json_lines, max_size=5), st.booleans())
def test_any_question_is_answered_or_refused(database: Any, backend: str, lines, right) -> None:
    if right:
        lines = ['{"nonce": "n", "targets": []}', *lines]
    try:
        found = list(confirm.answer(confirm_settings(), lines))
    except UsageError:
        return
    assert [line.split()[1] for line in found] == [*map(str, range(len(lines) - 1)), "end"]


#: What a site may ask a receiver: an operation, the name of an attempt, and an argument.
operations = st.sampled_from(
    [
        *("hello", "begin", "look", "verify", "place", "trial", "tryplace", "take_over", "keep"),
        *("resume", "modes_and_times", "receipt", "partials", "space", "clean", "list", "rm"),
    ]
)
attempts = st.sampled_from(["one", "one", "one", "two", "one.r", "t", "-", "one.x", ".", ".."])
arguments = st.sampled_from(
    ["", "links", "tar", "two", "..", "/etc", "a/../..", ".p-partial", "x" * 128]
)
lists = st.lists(
    st.one_of(
        st.sampled_from(
            [b".", b"./a", b"./d/a", b"./there", b"./../x", b"/etc/x", b"./d/../../x", b"1"]
        ),
        path_bytes.map(lambda raw: b"./" + raw),
    ),
    max_size=4,
)


@st.composite
def requests(draw) -> bytes:
    """Draw a request, with the data that follow it."""
    kind = draw(st.sampled_from(["op", "op", "op", "put", "unpack", "append", "noise"]))
    attempt = draw(attempts)
    if kind == "noise":
        return draw(st.binary(max_size=40)) + b"\n"
    if kind == "put":
        data = b"".join(path + b"\0" for path in draw(lists))
        name = draw(st.sampled_from(["names", "names", "dirs", "numbered", "verified", "../x"]))
        return f"put {attempt} 9 {len(data)} {name}\n".encode() + data
    if kind == "append":
        shape = draw(st.sampled_from(["0/644/1.000000000", "4/7777/0.000000000", "x"]))
        return f"append {attempt} 9 3 {shape}\n".encode() + b"abc"
    if kind == "unpack":
        data = b""
        for raw in draw(
            st.lists(st.one_of(path_bytes, st.just(b"a"), st.just(b"d/a")), max_size=3)
        ):
            member = tar.Member(raw, 4, draw(st.sampled_from([0o644, 0o7777])), 10**18)
            with suppress(ValueError):
                data += tar.header(member) + b"data" + bytes(tar.padding(4))
        data += bytes(tar.ending(len(data)))
        if draw(st.booleans()) and data:
            at = draw(st.integers(0, len(data) - 1))
            data = data[:at] + draw(st.binary(min_size=1, max_size=1)) + data[at + 1 :]
        return f"unpack {attempt} 9 {len(data)} \n".encode() + data
    return f"{draw(operations)} {attempt} 9 0 {draw(arguments)}\n".encode()


@contextmanager
def far_end() -> Iterator[Path]:
    """Make a far end, with a file that was delivered, and links that lead out."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for name in ("buffer/d", "staging", "outside/d"):
            (root / name).mkdir(parents=True)
        (root / "buffer/there").write_bytes(b"delivered")
        (root / "outside/x").write_bytes(b"of somebody else")
        (root / "buffer/link").symlink_to("../outside")
        (root / "staging/two").symlink_to("../outside")
        yield root


@fuzzed(150)
@given(st.lists(requests(), max_size=8))
def test_whatever_a_site_asks_a_receiver_works_in_its_two_directories(asked: list[bytes]) -> None:
    with far_end() as root:
        buffer, staging = root / "buffer", root / "staging"
        section = defaults(Receive, name="a", buffer=str(buffer), staging=str(staging))
        head = f"nonce=n\nprotocol={session.PROTOCOL}\nsum=sha256sum\nstaging={staging}\n"
        start = f"{head}buffer={buffer}\n{session.END_OF_SCRIPT}\nbegin one 9 0 \n".encode()
        with suppress(UsageError):
            receive(section, io.BytesIO(start + b"".join(asked)), io.BytesIO())
        signal.alarm(0)
        assert tree(root / "outside") == {"x": b"of somebody else"}
        assert (buffer / "there").read_bytes() == b"delivered"
        assert sorted(os.listdir(root)) == ["buffer", "outside", "staging"]


#: Words of a client's rsync.
rsync_words = st.one_of(
    st.sampled_from(
        [
            *("rsync", "--server", "--sender", "-tpRe.LsfxCIvu", ".", "/st/a/t/", "/st/a/t/../x"),
            *("--partial-dir", "--partial-dir=/st/.p-partial", "/st/x-partial", "--daemon", "-K"),
            *("--timeout=60", "--log-file=/x", "--info=/x", "--debug=a\n", "/st/../t/", "-e.x/y"),
        ]
    ),
    st.from_regex(r"--?[a-zA-Z-]{1,12}(=[ -~]{0,6})?", fullmatch=True),
    st.text(max_size=8),
)


@fuzzed(200)
@given(st.lists(rsync_words, max_size=7))
def test_only_harmless_words_reach_rsync(words: list[str]) -> None:
    try:
        call = rsync_server.parse_call(words, "/st")
    except UsageError:
        return
    assert call.argv == words
    assert words[-2] == "."
    assert not names.is_astray(words[-1].strip("/"))
    assert words[-1].startswith(f"/st/{call.attempt}/")
    for word in words[2:-2]:
        assert "/" not in word or word.lstrip("-").startswith(("partial-dir", "/st/", "st/"))
        assert word.isprintable()
