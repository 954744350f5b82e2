"""A wall of the kernel around this process and what it becomes: landlock(7), since Linux 5.13.

Whatever a program is told to do, by its arguments or by whoever it talks to, it makes, changes,
renames and removes nothing outside of the directories that are given here. Permissions, owners and
times are not covered: for these the rights of the account hold.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

_SYS_CREATE_RULESET, _SYS_ADD_RULE, _SYS_RESTRICT_SELF = 444, 445, 446
_VERSION_ONLY = 1
_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38

_WRITE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 1, 1 << 7, 1 << 8
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
#: Devices, sockets, FIFOs and links, which nobody may make.
_MAKE_OTHERS = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12
#: To rename and link from one directory to another, and to cut files short, where it is known.
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_CONNECT_AND_BIND = 1 << 0 | 1 << 1

_kernel = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _layout_ = "ms"  # what _pack_ means; later versions of Python want it said
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """Return the version of landlock that the kernel has; 0 if it has none, or it is off."""
    return max(0, int(_kernel.syscall(_SYS_CREATE_RULESET, None, 0, _VERSION_ONLY)))


def restrict_writing(directories: Iterable[int]) -> None:
    """Forbid this process for good to write outside of some directories, and to use TCP.

    Only regular files and directories can be made in these. What it starts is bound, too, and gets
    no rights by set-id bits.

    Parameters
    ----------
    directories : iterable of `int`
        Their open descriptors.

    Raises
    ------
    OSError
        The kernel refuses: nothing is restricted.
    """
    version = abi()
    allowed = _WRITE_FILE | _MAKE_DIR | _MAKE_REG | _REMOVE_DIR | _REMOVE_FILE
    allowed |= (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    made = _Ruleset(allowed | _MAKE_OTHERS, _CONNECT_AND_BIND if version >= 4 else 0)
    size = ctypes.sizeof(made) if version >= 4 else ctypes.sizeof(ctypes.c_uint64)
    ruleset = _call(_SYS_CREATE_RULESET, ctypes.byref(made), size, 0)
    try:
        for directory in directories:
            rule = _PathBeneath(allowed, directory)
            _call(_SYS_ADD_RULE, ruleset, _BENEATH, ctypes.byref(rule), 0)
        if _kernel.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
            raise _error()
        _call(_SYS_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _call(number: int, *arguments: object) -> int:
    answer = int(_kernel.syscall(number, *arguments))
    if answer < 0:
        raise _error()
    return answer


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"landlock: {os.strerror(number)}")
