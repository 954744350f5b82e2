"""`dbb confirm` is asked by another site: whatever comes, it answers, or refuses in one line."""

import io
import json

import pytest

from dbbbatch.areas.endpoint import confirm
from dbbbatch.errors import UsageError
from tests.support.site import Site

pytestmark = pytest.mark.usefixtures("database")

HEADER = json.dumps({"nonce": "n0", "targets": []})
FILE = ["night", "a.fits", 1, "md5:0"]


def ask(site: Site, *lines: str) -> list[str]:
    stream = io.StringIO("".join(f"{line}\n" for line in lines))
    return list(confirm.answer(site.settings(), confirm.lines_of(stream)))


def test_a_question_is_answered_line_by_line(site: Site) -> None:
    question = f"{HEADER}\n{json.dumps(FILE)}\n".encode()
    ran = site.run("dbb", "confirm", stdin=question)
    assert ran == (0, "n0 0 unknown\nn0 end 1\n", "")


@pytest.mark.promise
@pytest.mark.parametrize("line", [b"[" * 60_000, b"x" * (confirm.LONGEST + 10), b"\xff\xfe"])
def test_what_is_no_question_is_64_and_a_line(site: Site, line: bytes) -> None:
    ran = site.run("dbb", "confirm", stdin=HEADER.encode() + b"\n" + line + b"\n")
    assert (ran.code, ran.out, ran.err.count("\n")) == (64, "", 1)
    assert len(ran.err) < 300


@pytest.mark.promise
@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        "[]",
        "7",
        "null",
        '"n"',
        "{}",
        '{"nonce": "n"}',
        '{"nonce": "n", "targets": "abc"}',
        '{"nonce": "n", "targets": {"a": 1}}',
        '{"nonce": "n", "targets": [7]}',
        '{"nonce": "n", "targets": ["\\u0000"]}',
        '{"nonce": 7, "targets": []}',
        '{"nonce": "n 0 stored\\nn", "targets": []}',
        '{"nonce": "", "targets": []}',
        "[" * 60_000,
        "9" * 60_000,
        "x" * (confirm.LONGEST + 10),
    ],
)
def test_what_is_no_question_is_refused(site: Site, header: str) -> None:
    with pytest.raises(UsageError, match=r"not the question|longer than"):
        ask(site, header)


@pytest.mark.promise
@pytest.mark.parametrize(
    "file",
    [
        "nonsense",
        "7",
        "null",
        '"four"',
        '{"a": 1, "b": 2, "c": 3, "d": 4}',
        json.dumps(FILE[:3]),
        json.dumps([*FILE, 5]),
        json.dumps([7, *FILE[1:]]),
        json.dumps([None, *FILE[1:]]),
        json.dumps([["x"], *FILE[1:]]),
        json.dumps(["night", "a", "1", "md5:0"]),
        json.dumps(["night", "a", 1.5, "md5:0"]),
        json.dumps(["night", "a", True, "md5:0"]),
        json.dumps(["night", "a", 1, {}]),
        json.dumps(["night", "\0", 1, "md5:0"]),
        '["night", "\\ud800", 1, "md5:0"]',
        "[" * 60_000,
        "x" * (confirm.LONGEST + 10),
    ],
)
def test_a_file_that_is_none_is_refused(site: Site, file: str) -> None:
    with pytest.raises(UsageError, match=r"file 1: not a question|longer than"):
        ask(site, HEADER, json.dumps(FILE), file)


@pytest.mark.parametrize("size", [-1, 0, 2**63, 10**40])
def test_a_size_that_no_file_has_is_that_of_no_file(site: Site, size: int) -> None:
    file = json.dumps(["night", "a.fits", size, "md5:0"])
    assert ask(site, HEADER, file) == ["n0 0 unknown", "n0 end 1"]
