"""The tar format: what is written is read by the tools that are about, and by our own reader."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from dbbbatch.files import tar

TIME = 1_796_047_873_123_456_789

#: Names that a header holds, or does not, or that a careless program would mistake.
NAMES = (
    b"a",
    b"-x",
    b"new\nline",
    b"back\\n*?[a]",
    b"\xff\xfe",
    b"e" * 99,
    b"f" * 100,
    b"g" * 101,
    b"d/" + b"n" * 255,
    b"/".join([b"m" * 250] * 15) + b"/z",
)

TARS = {"GNU tar": ["tar"], "busybox": ["busybox", "tar"]}


def member(raw: bytes = b"a", size: int = 5, mode: int = 0o640, mtime_ns: int = TIME) -> tar.Member:
    return tar.Member(raw, size, mode, mtime_ns)


def archive(*members: tar.Member) -> bytes:
    """Return an archive whose files consist of ``x``."""
    data = b"".join(
        tar.header(one) + b"x" * one.size_bytes + bytes(tar.padding(one.size_bytes))
        for one in members
    )
    return data + bytes(tar.ending(len(data)))


def read(data: bytes, size: int | None = None) -> list[tar.Member]:
    return list(tar.Reader(io.BytesIO(data).read, len(data) if size is None else size))


@pytest.mark.parametrize("tool", TARS)
@pytest.mark.parametrize("raw", NAMES)
def test_a_file_of_any_name_is_unpacked(tmp_path: Path, tool: str, raw: bytes) -> None:
    if not shutil.which(TARS[tool][0]):
        pytest.skip(f"no {tool} here")
    data = archive(member(raw), member(b"last", 0))
    command = [*TARS[tool], "-x", "-o", "-f", "-"]
    subprocess.run(command, input=data, cwd=tmp_path, check=True)
    path = os.fsencode(tmp_path) + b"/" + raw
    # The path may be longer than one call takes.
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        status = os.stat(raw, dir_fd=directory)
        with open(os.open(raw, os.O_RDONLY, dir_fd=directory), "rb") as file:
            assert file.read() == b"xxxxx"
    finally:
        os.close(directory)
    assert status.st_mode & 0o777 == 0o640, path
    precise = tool == "GNU tar"
    assert status.st_mtime_ns == TIME if precise else int(status.st_mtime) == TIME // 10**9
    assert (tmp_path / "last").stat().st_size == 0


@pytest.mark.parametrize("size", [8**11 - 1, 8**11, 3 << 30, 1 << 43])
def test_a_file_of_any_size_is_announced(size: int) -> None:
    found = tarfile.TarInfo.frombuf(
        tar.header(member(size=size, mtime_ns=0)), "utf-8", "surrogateescape"
    )
    assert found.size == size


def test_a_time_before_1970_becomes_its_beginning(tmp_path: Path) -> None:
    data = archive(member(mtime_ns=-1_500_000_000))
    subprocess.run(["tar", "-x", "-f", "-"], input=data, cwd=tmp_path, check=True)
    assert (tmp_path / "a").stat().st_mtime_ns == 0


def test_an_archive_ends_with_a_record() -> None:
    for size in (0, 1, 511, 512, tar.RECORD - 1536, tar.RECORD - 1024, tar.RECORD):
        assert len(archive(member(size=size))) % tar.RECORD == 0
    assert len(archive()) == tar.RECORD


@pytest.mark.parametrize("mtime_ns", [0, 1, TIME, 10**9, 7 * 10**18 + 1])
def test_what_is_written_is_read(mtime_ns: int) -> None:
    members = [member(raw, size, mtime_ns=mtime_ns) for size, raw in enumerate(NAMES)]
    assert read(archive(*members)) == members


@pytest.mark.parametrize("mtime_ns", [-1, 0, 1, TIME, 10**9])
@pytest.mark.parametrize("length", [1, 99, 100, 511, 512, 513, 4000])
def test_the_length_of_a_header_is_known_before(length: int, mtime_ns: int) -> None:
    one = member(b"n" * length, mtime_ns=mtime_ns)
    assert tar.header_size(one) == len(tar.header(one))


def test_content_is_read_where_somebody_wants_it() -> None:
    data = archive(member(b"a"), member(b"b", 100_000), member(b"c", 512))
    source = io.BytesIO(data + b"next")
    reader = tar.Reader(source.read, len(data))
    lengths = {one.raw: len(b"".join(reader.content())) for one in reader if one.raw != b"b"}
    assert (lengths, source.read()) == ({b"a": 5, b"c": 512}, b"next")


def test_content_that_was_read_in_part_is_skipped() -> None:
    data = archive(member(b"a", 200_000), member(b"b"))
    reader = tar.Reader(io.BytesIO(data).read, len(data))
    assert [(one.raw, len(next(reader.content()))) for one in reader] == [
        (b"a", 1 << 16),
        (b"b", 5),
    ]


@pytest.mark.parametrize(
    "kind", [b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"g", b"K", b"S", b"\0"]
)
def test_anything_but_a_regular_file_is_refused(kind: bytes) -> None:
    head = bytearray(tar.header(member(mtime_ns=0)))
    head[156:157] = kind
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    with pytest.raises(tar.NoArchive, match="no regular file"):
        read(bytes(head) + bytes(512 + tar.ending(1024)))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"x" * tar.RECORD, "no number"),
        (b"\xff" * tar.RECORD, "no number"),
        (archive(member())[:-512] + b"y" * 512, "something follows"),
        (archive(member(raw=b"l" * 70_000)), "a name is too long"),
        (archive(member(mtime_ns=0)).replace(b"a", b"b", 1), "checksum of a header"),
        (archive(member()).replace(b" mtime=", b" ctime=", 1), "something else than a time"),
        (tar.header(member(size=1 << 40, mtime_ns=0)), "longer than was said"),
    ],
)
def test_what_is_no_archive_of_ours_is_refused(data: bytes, why: str) -> None:
    reader = tar.Reader(io.BytesIO(data).read, len(data))
    with pytest.raises(tar.NoArchive, match=why):
        for _ in reader:
            pass


def test_an_archive_that_is_longer_than_it_should_be_is_refused() -> None:
    with pytest.raises(tar.NoArchive, match="longer than was said"):
        read(archive(member(size=70_000)), tar.RECORD)


def test_a_stream_that_ends_too_early_is_no_archive() -> None:
    data = archive(member(size=70_000))
    for length in (0, 100, 512, 2048, 60_000, len(data) - 1):
        with pytest.raises(EOFError):
            read(data[:length], len(data))
