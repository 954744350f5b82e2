"""`dbb confirm` is asked by another site: whatever comes, it answers, or refuses in one line."""

import json

import pytest

from dbbbatch.passes import confirm
from tests.support.site import Site

HEADER = json.dumps({"nonce": "n0", "targets": []})
FILE = ["night", "a.fits", 1, "md5:0"]


def ask(site: Site, *lines: str):
    return site.run("dbb", "confirm", stdin="".join(f"{line}\n" for line in lines).encode())


def test_a_question_is_answered_line_by_line(site: Site) -> None:
    assert ask(site, HEADER, json.dumps(FILE)) == (0, "n0 0 unknown\nn0 end 1\n", "")


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
def test_what_is_no_question_is_refused_in_one_line(site: Site, header: str) -> None:
    ran = ask(site, header)
    assert (ran.code, ran.out, ran.err.count("\n")) == (64, "", 1)
    assert len(ran.err) < 300


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
def test_a_file_that_is_none_is_refused_in_one_line(site: Site, file: str) -> None:
    ran = ask(site, HEADER, json.dumps(FILE), file)
    assert (ran.code, ran.err.count("\n")) == (64, 1)
    assert "stored" not in ran.out
    assert "end" not in ran.out
    assert len(ran.err) < 300


@pytest.mark.parametrize("size", [-1, 0, 2**63, 10**40])
def test_a_size_that_no_file_has_is_that_of_no_file(site: Site, size: int) -> None:
    assert ask(site, HEADER, json.dumps(["night", "a.fits", size, "md5:0"])).code == 0


def test_bytes_that_are_no_text_are_refused(site: Site) -> None:
    ran = site.run("dbb", "confirm", stdin=HEADER.encode() + b"\n\xff\xfe\n")
    assert (ran.code, ran.err.count("\n")) == (64, 1)
