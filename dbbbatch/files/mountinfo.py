"""The kernel's list of mounts, which is read without asking any disk."""

from __future__ import annotations

import os
import re

#: The list, as proc(5) has it.
MOUNTINFO = "/proc/self/mountinfo"

#: How the kernel writes a blank, a tab, a newline and a backslash there.
_OCTAL = re.compile(rb"\\([0-7]{3})")


def mount_above(path: str, mountinfo: str = MOUNTINFO) -> tuple[str, str]:
    """Return the mount point at or above an absolute path, and the type of its file system.

    Links are not followed: a disk that fails may not answer. Both are '' if the kernel shows none.
    """
    best, kind = b"", b""
    raw = os.fsencode(path)
    try:
        with open(mountinfo, "rb") as lines:
            for line in lines:
                before, _, after = line.partition(b" - ")
                point = mount_point(before)
                inside = raw == point or raw.startswith(point.rstrip(b"/") + b"/")
                if inside and len(point) >= len(best):
                    best, kind = point, after.split(b" ")[0]
    except OSError:
        return "", ""
    return os.fsdecode(best), os.fsdecode(kind)


def mount_point(line: bytes) -> bytes:
    """Return the mount point of a line of the list, as the kernel has it."""
    return unescaped(line.split(b" ", 5)[4])


def unescaped(field: bytes) -> bytes:
    """Return a field of a line as it is."""
    return _OCTAL.sub(lambda found: bytes([int(found[1], 8)]), field)
