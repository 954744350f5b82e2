import errno
import os

import pytest

from dbbbatch.errors import TryLater
from dbbbatch.files import faults


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.ESTALE, errno.EMFILE])
def test_fault_of_the_disk_concerns_every_file(number):
    assert faults.affects_every_file(OSError(number, ""))


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.ENAMETOOLONG, errno.EEXIST])
def test_fault_of_a_file_concerns_it_alone(number):
    assert not faults.affects_every_file(OSError(number, ""), writing=True)


def test_failing_disk_shows_at_one_file_when_read_and_at_any_when_written():
    assert not faults.affects_every_file(OSError(errno.EIO, ""))
    assert faults.affects_every_file(OSError(errno.EIO, ""), writing=True)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file", "/data/x"), "/data/x.*is it mounted"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/x"), "/data/x.*user .* allowed"),
        (OSError(errno.EINVAL, "Invalid argument", b"/data/\xff"), r"/data/\\xff: Invalid"),
        (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle.*mount it anew"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (OSError(errno.ENOSPC, "No space left", "/a\nb"), r"/a\\x0ab.*make room"),
        (InterruptedError(errno.EINTR, "Interrupted system call"), "Interrupted"),
        (MemoryError(), "out of memory"),
        (RuntimeError("can't start new thread"), "no further thread"),
    ],
)
def test_what_disks_mounts_and_full_machines_say_is_for_later(error, words):
    with pytest.raises(TryLater, match=words), faults.as_try_later():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EBADF, "Bad file descriptor"),
        OSError(errno.EINVAL, "Invalid argument"),
        OSError("of nobody knows what"),
        RuntimeError("dictionary changed size"),
        KeyError("x"),
    ],
)
def test_what_only_our_own_code_can_have_caused_is_a_bug(error):
    with pytest.raises(type(error)), faults.as_try_later():
        raise error


def test_the_last_door_of_a_thread_distinguishes_the_machine_from_a_bug():
    for error, code in ((MemoryError(), 75), (KeyError("x"), 70)):
        found = faults.of_a_thread(error, "sending")
        assert (found.exit_code, found.__cause__) == (code, error)
    assert str(found) == "sending failed: KeyError: 'x'"


def test_another_path_is_no_other_trouble():
    one, other = (
        faults.of_the_machine(OSError(errno.EIO, os.strerror(errno.EIO), path)) for path in "ab"
    )
    assert one.key == other.key
    assert str(one) != str(other)


def key(number, path):
    return faults.of_the_machine(OSError(number, os.strerror(number), path)).key


@pytest.fixture
def disks(monkeypatch):
    """Let the kernel show two disks beside the root file system."""
    points = ("/data/1", "/data/2")
    monkeypatch.setattr(
        faults.mountinfo,
        "mount_above",
        lambda path: (next((one for one in points if f"{path}/".startswith(f"{one}/")), "/"), ""),
    )


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ENOSPC, errno.ESTALE])
def test_a_disk_is_one_trouble_and_another_disk_another_one(disks, number):
    assert key(number, "/data/1/buffer/a") == key(number, b"/data/1/storage/b")
    assert key(number, "/data/1/buffer/a") != key(number, "/data/2/buffer/a")
    assert key(number, "/srv/a") != key(number, "/srv/b")


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_what_the_whole_machine_lacks_is_one_trouble_anywhere(number):
    assert key(number, "/data/a") == key(number, "/srv/b") == key(number, None) != ""


def test_what_names_no_place_is_shared_with_nobody():
    assert key(errno.ESTALE, None) == key(errno.ESTALE, "a") == ""


@pytest.mark.parametrize(
    ("found", "within"),
    [
        ("the machine: /a/b: Denied", "the machine: /a/b: Denied"),
        ("the machine: /a/b/c/x: Denied", "the machine: /a/b: Denied"),
        ("the machine: /a/bc: Denied", "the machine: /a: Denied"),
        ("the machine: /tmp/of-12: Denied", "the machine: /tmp/of-#: Denied"),
        ("the machine: Too many open files", "the machine: Too many open files"),
        ("/a/b/c is not there", "/a/b/c is not there"),
        ("", ""),
    ],
)
def test_a_file_of_a_root_stands_for_the_root(found, within):
    assert faults.key_within(found, ["/a", "/a/b"]) == within


def test_error_of_a_descriptor_gets_the_name_of_its_path():
    with pytest.raises(OSError, match="/data/x"), faults.naming("/data/x"):
        raise OSError(errno.EIO, "Input/output error")
