"""Files of our own are replaced whole."""

import errno
import os
from pathlib import Path

import pytest

from dbbbatch.files import replace


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    replace.replace_whole(str(path), b"old")
    replace.replace_whole(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_readers_may_read_it_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    before = os.umask(0o077)
    try:
        replace.replace_whole(str(path), b"")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("call", ["fdatasync", "replace"])
def test_an_error_leaves_the_old_file_and_nothing_else(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "page.html"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space"):
        replace.replace_whole(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    old, young, other = (tmp_path / f".dbb~{name}" for name in ("0" * 16, "1" * 16, "notes"))
    for path in (old, young, other):
        path.write_bytes(b"")
    os.utime(old, (1, 1))
    os.utime(other, (1, 1))
    replace.remove_abandoned(str(tmp_path))
    assert sorted(tmp_path.iterdir()) == [young, other]
