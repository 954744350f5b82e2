from dbbbatch.files import mountinfo


def test_a_mount_point_is_read_as_the_kernel_has_it():
    line = rb"36 35 98:0 / /mnt/a\040b\134c rw,noatime - ext3 /dev/root rw"
    assert mountinfo.mount_point(line) == rb"/mnt/a b\c"


def test_the_mount_above_a_path_is_known_without_the_disk(tmp_path):
    (tmp_path / "info").write_text(
        "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:2 / /data rw - xfs /dev/b rw\n"
    )
    info = str(tmp_path / "info")
    assert mountinfo.mount_above("/data/no/such/file", info) == ("/data", "xfs")
    assert mountinfo.mount_above("/database", info) == ("/", "ext4")
    assert mountinfo.mount_above("/data", str(tmp_path / "none")) == ("", "")
