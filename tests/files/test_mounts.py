"""Which mount a path is on, and whether a storage area is mounted."""

import os

from dbbbatch.files import mounts


def test_an_empty_mount_point_is_no_storage_area(tmp_path):
    assert "is it mounted" in mounts.why_unmounted(str(tmp_path / "none"), "mark")
    assert "empty mount point" in mounts.why_unmounted(str(tmp_path), "mark")
    (tmp_path / "mark").touch()
    assert mounts.why_unmounted(str(tmp_path), "mark") == ""


def test_a_directory_is_inside_those_above_it(tmp_path):
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (tmp_path / "link").symlink_to(below)
    assert mounts.is_inside(str(below), str(tmp_path))
    assert mounts.is_inside(str(tmp_path / "link"), str(tmp_path / "a"))
    assert mounts.is_inside(str(below), str(below))
    assert not mounts.is_inside(str(tmp_path), str(below))


def test_a_mount_is_known_by_its_line(tmp_path):
    descriptor = os.open("/proc", os.O_RDONLY)
    try:
        assert mounts.mount_of(descriptor).startswith("mnt_id:")
        assert mounts.kind_of(descriptor) == "proc"
    finally:
        os.close(descriptor)
    assert not mounts.same_file_system("/proc", str(tmp_path))
