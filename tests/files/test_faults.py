import errno

import pytest

from dbbbatch.files import faults


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.EMFILE])
def test_fault_of_the_disk_concerns_every_file(number):
    assert faults.is_general(OSError(number, ""))


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.ENAMETOOLONG, errno.EEXIST])
def test_fault_of_a_file_concerns_it_alone(number):
    assert not faults.is_general(OSError(number, ""), writing=True)


def test_failing_disk_shows_at_one_file_when_read_and_at_any_when_written():
    assert not faults.is_general(OSError(errno.EIO, ""))
    assert faults.is_general(OSError(errno.EIO, ""), writing=True)


def test_away_tells_an_empty_mount_point_from_a_storage_area(tmp_path):
    assert "is it mounted" in faults.away(str(tmp_path / "none"), "mark")
    assert "empty mount point" in faults.away(str(tmp_path), "mark")
    (tmp_path / "mark").touch()
    assert faults.away(str(tmp_path), "mark") == ""
