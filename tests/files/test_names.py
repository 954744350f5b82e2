"""File names as text."""

import os

import pytest

from dbbbatch.files import names

HOSTILE = [b"a b", b"caf\xc3\xa9", b"\xff\xfe", b"back\\slash", b"\\x41", b"new\nline", b"\\\xff"]


@pytest.mark.parametrize("raw", HOSTILE)
def test_a_name_comes_back_from_its_text(raw):
    path = os.fsdecode(raw)
    assert names.from_text(names.to_text(path)) == path


@pytest.mark.parametrize("raw", HOSTILE)
def test_a_text_can_be_stored_as_utf8(raw):
    names.to_text(os.fsdecode(raw)).encode("utf-8")


def test_bytes_that_are_not_utf8_are_readable():
    assert names.to_text(os.fsdecode(b"a\xff")) == r"a\xff"


@pytest.mark.parametrize("text", [r"a\qb", "\\", r"\x41", r"n\x2fb", r"\x00", r"\xc3\xa9", r"\xFF"])
def test_a_text_that_we_never_wrote_is_refused(text):
    with pytest.raises(ValueError, match="not a name"):
        names.from_text(text)


@pytest.mark.parametrize("rel", ["a.fits", "2020/a.fits", "2020/11/a.fits", "/a.fits", "/a/b"])
def test_a_path_is_split_and_joined(rel):
    assert names.join(*names.split(rel)) == rel


def test_a_printable_name_stays_on_one_line():
    assert "\n" not in names.printable("a\nb\x1b")


def test_a_noun_has_its_number():
    assert [names.counted(n, "file") for n in range(3)] == ["0 files", "1 file", "2 files"]
    assert names.counted(1, "file is", "files are") == "1 file is"
    assert names.counted(2, "file is", "files are") == "2 files are"
    assert names.counted(1203, "file") == "1,203 files"
