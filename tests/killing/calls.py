"""The system calls that change a disk or a database, and the seccomp filter that holds them.

The numbers are the kernel's (`asm/unistd_64.h`, `asm-generic/unistd.h`); `where` says which
arguments name what is changed: `fd:0` a descriptor, `path:0` a path, `at:0:1` a directory
descriptor with a path relative to it.

`sendmsg` is left out on purpose: the filter's own descriptor travels to the supervisor by it, and
neither the tools nor libpq use it for what is counted here.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import NamedTuple

#: architecture -> (its number in seccomp_data, column of CALLS)
ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

#: name: (number on x86_64, number on aarch64, where); None where the architecture has no such call
CALLS: dict[str, tuple[int | None, int | None, tuple[str, ...]]] = {
    "write": (1, 64, ("fd:0",)),
    "pwrite64": (18, 68, ("fd:0",)),
    "writev": (20, 66, ("fd:0",)),
    "pwritev": (296, 70, ("fd:0",)),
    "pwritev2": (328, 287, ("fd:0",)),
    "sendto": (44, 206, ("fd:0",)),
    "open": (2, None, ("path:0",)),
    "creat": (85, None, ("path:0",)),
    "openat": (257, 56, ("at:0:1",)),
    "openat2": (437, 437, ("at:0:1",)),
    "rename": (82, None, ("path:0", "path:1")),
    "renameat": (264, 38, ("at:0:1", "at:2:3")),
    "renameat2": (316, 276, ("at:0:1", "at:2:3")),
    "link": (86, None, ("path:0", "path:1")),
    "linkat": (265, 37, ("at:0:1", "at:2:3")),
    "symlink": (88, None, ("path:1",)),
    "symlinkat": (266, 36, ("at:1:2",)),
    "unlink": (87, None, ("path:0",)),
    "unlinkat": (263, 35, ("at:0:1",)),
    "mkdir": (83, None, ("path:0",)),
    "mkdirat": (258, 34, ("at:0:1",)),
    "rmdir": (84, None, ("path:0",)),
    "mknod": (133, None, ("path:0",)),
    "mknodat": (259, 33, ("at:0:1",)),
    "truncate": (76, 45, ("path:0",)),
    "ftruncate": (77, 46, ("fd:0",)),
    "fallocate": (285, 47, ("fd:0",)),
    "fsync": (74, 82, ("fd:0",)),
    "fdatasync": (75, 83, ("fd:0",)),
    "sync": (162, 81, ()),
    "syncfs": (306, 267, ("fd:0",)),
    "sync_file_range": (277, 84, ("fd:0",)),
    "chmod": (90, None, ("path:0",)),
    "fchmod": (91, 52, ("fd:0",)),
    "fchmodat": (268, 53, ("at:0:1",)),
    "fchmodat2": (452, 452, ("at:0:1",)),
    "chown": (92, None, ("path:0",)),
    "fchown": (93, 55, ("fd:0",)),
    "lchown": (94, None, ("path:0",)),
    "fchownat": (260, 54, ("at:0:1",)),
    "utime": (132, None, ("path:0",)),
    "utimes": (235, None, ("path:0",)),
    "futimesat": (261, None, ("at:0:1",)),
    "utimensat": (280, 88, ("at:0:1",)),
    "setxattr": (188, 5, ("path:0",)),
    "lsetxattr": (189, 6, ("path:0",)),
    "fsetxattr": (190, 7, ("fd:0",)),
    "removexattr": (197, 14, ("path:0",)),
    "lremovexattr": (198, 15, ("path:0",)),
    "fremovexattr": (199, 16, ("fd:0",)),
    "copy_file_range": (326, 285, ("fd:2",)),
    "sendfile": (40, 71, ("fd:0",)),
    "splice": (275, 76, ("fd:2",)),
    "ioctl": (16, 29, ("fd:0",)),
    # Not a change: tells which sockets lead to the database.
    "connect": (42, 203, ("fd:0",)),
}

#: the calls that look without changing anything; held only where calls are to fail
LOOKS: dict[str, tuple[int | None, int | None, tuple[str, ...]]] = {
    "open": CALLS["open"],
    "openat": CALLS["openat"],
    "read": (0, 63, ("fd:0",)),
    "pread64": (17, 67, ("fd:0",)),
    "readv": (19, 65, ("fd:0",)),
    "stat": (4, None, ("path:0",)),
    "lstat": (6, None, ("path:0",)),
    "fstat": (5, 80, ("fd:0",)),
    "newfstatat": (262, 79, ("at:0:1",)),
    "statx": (332, 291, ("at:0:1",)),
    "statfs": (137, 43, ("path:0",)),
    "fstatfs": (138, 44, ("fd:0",)),
    "access": (21, None, ("path:0",)),
    "faccessat": (269, 48, ("at:0:1",)),
    "faccessat2": (439, 439, ("at:0:1",)),
    "readlink": (89, None, ("path:0",)),
    "readlinkat": (267, 78, ("at:0:1",)),
    "getdents64": (217, 61, ("fd:0",)),
}

_SECCOMP = {"x86_64": 317, "aarch64": 277}
_CREATES = os.O_CREAT | os.O_TRUNC
#: call -> (argument, bits) of which one must be set
_ONLY_WITH_BITS = {"open": (1, _CREATES), "openat": (2, _CREATES)}
#: call -> (argument, values) of which it must have one: FICLONE, FICLONERANGE
_ONLY_WITH_VALUES = {"ioctl": (1, (0x40049409, 0x4020940D))}

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_NEW_LISTENER = 1 << 3
_WAIT_KILLABLE = 1 << 5
_LOAD_WORD, _JUMP_IF_EQUAL, _JUMP_IF_BITS, _RETURN = 0x20, 0x15, 0x45, 0x06
_NOTIFY, _ALLOW = 0x7FC00000, 0x7FFF0000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16


class Held(NamedTuple):
    """A call of this architecture: its name and the arguments that name what it changes."""

    name: str
    where: tuple[str, ...]


def table(machine: str | None = None, *, looks: bool = False) -> dict[int, Held]:
    """The calls by their number on `machine` (default: this one), also those that only look."""
    column = ARCHITECTURES[machine or platform.machine()][1]
    return {
        row[column]: Held(name, row[2])  # type: ignore[misc]
        for name, row in (CALLS | LOOKS if looks else CALLS).items()
        if row[column] is not None
    }


def program(machine: str | None = None, *, looks: bool = False) -> bytes:
    """The filter in the kernel's classic BPF: notify of the calls of the table, allow the rest."""
    machine = machine or platform.machine()

    def instruction(code: int, if_true: int, if_false: int, value: int) -> bytes:
        return struct.pack("HBBI", code, if_true, if_false, value)

    notify, allow = instruction(_RETURN, 0, 0, _NOTIFY), instruction(_RETURN, 0, 0, _ALLOW)
    out = [
        instruction(_LOAD_WORD, 0, 0, _ARCHITECTURE_AT),
        instruction(_JUMP_IF_EQUAL, 1, 0, ARCHITECTURES[machine][0]),
        allow,
        instruction(_LOAD_WORD, 0, 0, _NUMBER_AT),
    ]
    for number, held in table(machine, looks=looks).items():
        if held.name in _ONLY_WITH_BITS and not looks:
            argument, bits = _ONLY_WITH_BITS[held.name]
            checks = [instruction(_JUMP_IF_BITS, 0, 1, bits), notify, allow]
        elif held.name in _ONLY_WITH_VALUES:
            argument, values = _ONLY_WITH_VALUES[held.name]
            checks = [
                part
                for value in values
                for part in (instruction(_JUMP_IF_EQUAL, 0, 1, value), notify)
            ] + [allow]
        else:
            out += [instruction(_JUMP_IF_EQUAL, 0, 1, number), notify]
            continue
        load = instruction(_LOAD_WORD, 0, 0, _ARGUMENTS_AT + 8 * argument)
        out += [instruction(_JUMP_IF_EQUAL, 0, 1 + len(checks), number), load, *checks]
    out.append(allow)
    return b"".join(out)


def install(*, looks: bool = False) -> int:
    """Put the filter on this process and all that it will start; the descriptor to listen on.

    Without CAP_SYS_ADMIN the kernel asks for no_new_privs first. A process can have one such filter
    only, so a supervised command cannot supervise.
    """

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    code = program(looks=looks)
    filter_program = Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)

    def attempt(flags: int) -> int:
        return libc.syscall(
            _SECCOMP[platform.machine()], _SET_MODE_FILTER, flags, ctypes.byref(filter_program)
        )

    # _WAIT_KILLABLE (Linux 5.19): a signal that is handled does not repeat, and so count twice, a
    # call that is being held.
    for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER):
        listener = attempt(flags)
        if listener < 0 and ctypes.get_errno() == errno.EACCES:
            libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            listener = attempt(flags)
        if listener >= 0:
            return listener
    raise OSError(ctypes.get_errno(), "seccomp user notification is not available")
