"""What the kernel tells, in /proc, about a thread whose system call is held."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct

AT_WORKING_DIRECTORY = -100
_LONGEST_PATH = 4096
_FAMILY_UNIX, _FAMILY_IPV4, _FAMILY_IPV6 = (
    int(family) for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
)


def memory(thread: int, address: int, length: int) -> bytes:
    """Bytes of a held thread's memory, up to `length`; what cannot be read is left out."""
    try:
        with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
            memory.seek(address)
            # A string may end just before a page that is not there: read up to the page's end.
            first = memory.read(min(length, 4096 - address % 4096))
            if b"\0" in first or len(first) >= length:
                return first
            try:
                return first + memory.read(length - len(first))
            except OSError:
                return first
    except (OSError, ValueError, OverflowError):
        return b""


def descriptor(thread: int, number: int) -> tuple[str, int]:
    """Where a descriptor of a held thread leads, and the file's mode (0 if it is not open)."""
    link = f"/proc/{thread}/fd/{ctypes.c_int(number).value}"
    try:
        return os.readlink(link), os.stat(link).st_mode
    except OSError:
        return "?", 0


def path(thread: int, base: int, address: int) -> tuple[str, int | None]:
    """The path that a call names, and the mode of what is there (None: nothing)."""
    path = os.fsdecode(memory(thread, address, _LONGEST_PATH).split(b"\0", 1)[0])
    base = ctypes.c_int(base).value
    root = f"/proc/{thread}/" + ("cwd" if base == AT_WORKING_DIRECTORY else f"fd/{base}")
    try:
        mode = os.stat(os.path.join(root, path)).st_mode
    except OSError:
        mode = None
    if not path.startswith("/"):
        with contextlib.suppress(OSError):
            path = os.path.join(os.readlink(root), path)
    return path, mode


def address(raw: bytes) -> str:
    """A socket address as text: a path, or host:port."""
    if len(raw) < 2:
        return ""
    family = struct.unpack_from("=H", raw)[0]
    if family == _FAMILY_UNIX:
        return os.fsdecode(raw[2:].split(b"\0", 1)[0])
    if family == _FAMILY_IPV4 and len(raw) >= 8:
        return f"{socket.inet_ntop(socket.AF_INET, raw[4:8])}:{int.from_bytes(raw[2:4], 'big')}"
    if family == _FAMILY_IPV6 and len(raw) >= 24:
        return f"{socket.inet_ntop(socket.AF_INET6, raw[8:24])}:{int.from_bytes(raw[2:4], 'big')}"
    return ""


def _status(process: int, field: str) -> str:
    try:
        with open(f"/proc/{process}/status", errors="replace") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(field))
    except (OSError, StopIteration):
        return ""


def process(thread: int) -> int:
    return int(_status(thread, "Tgid:") or thread)


def parent(process: int) -> int:
    return int(_status(process, "PPid:") or 0)


def program(thread: int) -> str:
    """The name of the program, or for an interpreter that of its script."""
    try:
        with open(f"/proc/{thread}/cmdline", "rb") as words:
            argv = [os.path.basename(os.fsdecode(word)) for word in words.read().split(b"\0")]
    except OSError:
        return "?"
    if argv[0].startswith("python") and argv[1:2] != ["-c"]:
        return next((word for word in argv[1:] if word and not word.startswith("-")), argv[0])
    return argv[0]


def below(process: int) -> list[int]:
    """All processes below, dead ones that were not collected included."""
    import psutil  # costs a third of the supervisor's start, and only a kill needs it

    return [child.pid for child in psutil.Process(process).children(recursive=True)]
