"""Which version of a file it is."""

import os

import pytest

from dbbbatch.files.identity import Version


class Row:
    def __init__(self, size_bytes, mtime_ns, inode):
        self.size_bytes, self.mtime_ns, self.inode = size_bytes, mtime_ns, inode


def status(size: int, mtime_ns: int, inode: int) -> os.stat_result:
    class Status:
        st_size, st_mtime_ns, st_ino = size, mtime_ns, inode

    return Status()  # type: ignore[return-value]


def test_a_row_and_its_file_have_one_version(tmp_path):
    path = tmp_path / "a"
    path.write_text("x")
    found = os.lstat(path)
    recorded = Row(1, found.st_mtime_ns, found.st_ino)
    assert Version.of_file(found) == Version.of_row(recorded)


@pytest.mark.parametrize("inode", [0, 5, (1 << 63) + 5, (1 << 64) - 1])
@pytest.mark.parametrize("when", [-(1 << 80), -1, 0, 1 << 62, 1 << 80])
def test_every_inode_and_time_fits_a_column_and_is_known_again(inode, when):
    version = Version.of_file(status(1, when, inode))
    assert 0 <= version.inode < 1 << 63
    assert abs(version.mtime_ns) < 1 << 63
    assert version == Version.of_row(Row(*version))


@pytest.mark.parametrize(("mtime_ns", "inode"), [(None, 7), (7, None), (None, None)])
def test_a_row_that_lacks_a_time_or_an_inode_is_about_no_file(mtime_ns, inode):
    for found in (0, -1, 7):
        assert Version.of_row(Row(1, mtime_ns, inode)) != Version.of_file(status(1, found, found))


def test_a_copy_is_like_its_original():
    original = Version(3, 4, 5)
    assert original.is_like(Version(3, 4, 6))
    assert not original.is_like(Version(3, 5, 5))
    assert not original.is_like(Version(4, 4, 5))
