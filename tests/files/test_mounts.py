"""On which mount of which file system a path is."""

from pathlib import Path

from dbbbatch.files import mounts


def test_the_file_system_of_a_path_is_that_of_its_nearest_mount(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        "22 1 8:1 / / rw - ext4 /dev/root rw\n"
        "40 22 0:5 / /data\\040sets rw shared:1 - nfs4 server:/x rw\n"
        "41 22 0:6 / /data rw shared:2 - xfs /dev/b rw\n"
    )
    for path, kind in (("/data sets/a", "nfs4"), ("/data/a", "xfs"), ("/dataset", "ext4")):
        assert mounts.file_system(path, str(mountinfo)) == kind


def test_mounts_with_any_name_are_read(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_bytes(
        b"22 1 8:1 / / rw - ext4 /dev/root rw\n23 22 8:2 / /mnt/\xff rw - tmpfs none rw\n"
        + "24 22 0:5 / /mnt/donn\u00e9es rw - nfs4 server:/x rw\n".encode()
    )
    assert mounts.file_system("/mnt/donn\u00e9es/state", str(mountinfo)) == "nfs4"
