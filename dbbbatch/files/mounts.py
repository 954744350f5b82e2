"""Which mount of which file system a path is on."""

from __future__ import annotations

import contextlib
import os
import stat

from dbbbatch.files import faults
from dbbbatch.files import mountinfo as kernel

#: File systems of other hosts, where SQLite, locks and leases do not work reliably.
NETWORK = frozenset(
    {
        "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.sshfs", "gfs2",
        "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "panfs", "smb3", "smbfs",
    }
)  # fmt: skip


def is_inside(path: str, directory: str) -> bool:
    """Return whether a directory is another one or is in it, also through links and bind mounts."""
    wanted = os.stat(directory)
    path = upper = os.path.realpath(path)
    while not os.path.samestat(os.stat(upper), wanted):
        upper, before = os.path.dirname(upper), upper
        if upper == before:
            return _mounted_into(path, os.path.realpath(directory))
    return True


def same_file_system(first: str, second: str) -> bool:
    """Return whether two directories are on one mount of one file system, as a rename needs."""
    return _mount(first) == _mount(second)


def file_system(path: str, mountinfo: str = kernel.MOUNTINFO) -> str:
    """Return the type of the file system that holds a path; '' if the kernel does not show it."""
    return kernel.mount_above(os.path.realpath(path), mountinfo)[1]


def _mounted_into(path: str, directory: str) -> bool:
    """Return the same for two real paths that may be on two mounts of one file system."""
    (device, mount), (other, other_mount) = _mount(path), _mount(directory)
    if device != other or mount == other_mount:
        return False
    inner, outer = (_within(*each) for each in ((path, mount), (directory, other_mount)))
    return inner is not None and outer is not None and f"{inner}/".startswith(f"{outer}/")


def _within(path: str, mount: str) -> str | None:
    """Return the path of a directory within its file system, without a slash at its end."""
    line = _line_of(mount)
    if not line:
        return None
    # proc(5): number, that of the parent, device, root of the mount, mount point, …
    root, point = (kernel.unescaped(each) for each in line.split(b" ", 5)[3:5])
    rel = os.path.relpath(path, os.fsdecode(point))
    return os.path.normpath(os.path.join(os.fsdecode(root), rel)).rstrip("/")


def _line_of(mount: str) -> bytes:
    """Return the line about a mount in the kernel's list; b'' if there is none."""
    number = mount.removeprefix("mnt_id:").strip().encode()
    with contextlib.suppress(OSError), open(kernel.MOUNTINFO, "rb") as lines:
        return next((line for line in lines if line.split(b" ", 1)[0] == number), b"")
    return b""


def _mount(directory: str) -> tuple[int, str]:
    """Return device and mount of a directory: the kernel renames within one mount only."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with faults.naming(directory):
            return os.fstat(descriptor).st_dev, mount_of(descriptor)
    finally:
        os.close(descriptor)


def mount_of(descriptor: int) -> str:
    """Return the kernel's identifier of the mount of an open file; '' where there is no /proc."""
    with contextlib.suppress(OSError), open(f"/proc/self/fdinfo/{descriptor}") as lines:
        return next((line for line in lines if line.startswith("mnt_id:")), "")
    return ""


def kind_of(descriptor: int) -> str:
    """Return the type of the file system of an open file, such as "nfs4"; '' if not known."""
    after = _line_of(mount_of(descriptor)).partition(b" - ")[2]
    return os.fsdecode(after.split(b" ", 1)[0])


def why_absent(path: str, absent: str) -> str:
    """Return why there is no directory: ``absent``, or that this user may not look; '' if it is."""
    try:
        found = stat.S_ISDIR(os.stat(path).st_mode)
    except PermissionError as error:
        return str(faults.of_the_machine(error, path))
    except OSError:
        found = False
    return "" if found else f"{absent}; is it mounted?"


def why_unmounted(storage: str, sentinel: str) -> str:
    """Return why a storage area, or another root, must not be used now; '' if it is mounted.

    An empty mount point looks like a storage area that lost everything, and accepts files that the
    mount then hides. The sentinel, a file of the storage area, is the difference; other roots have
    none.
    """
    area = "the storage area is" if sentinel else "is"
    if why := why_absent(storage, f"{storage}: {area} not there"):
        return why
    if sentinel and not os.path.lexists(os.path.join(storage, sentinel)):
        return (
            f"{storage}: {sentinel} is not there, so this looks like an empty mount point; mount "
            "the storage area, or run `dbb init` if it is new"
        )
    return ""
