"""File names as data: any bytes that a file system allows, kept reversibly as text.

In code a path is a `str` made by `os.fsdecode`; in the database it is readable text.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import Protocol

#: What no relative path of a file has: an empty part (so a slash at its begin), ``.``, ``..``, NUL.
_ASTRAY = re.compile(r"(?:\A|/)\.{0,2}(?:/|\Z)|\0")

_ESCAPED_BYTE = re.compile(rb"\\(\\|x[0-9a-f]{2})")


class Named(Protocol):
    """A row that names a file, as `name_of` writes names."""

    @property
    def relpath(self) -> str:
        """The directory."""

    @property
    def filename(self) -> str:
        """The last part."""


class Astray(ValueError):
    """A name that leads out of its directory, or that no file can have."""


def to_text(path: str) -> str:
    r"""Return a path, as `os.fsdecode` returns it, as text for a column, a message or a page.

    Bytes that are not UTF-8 become ``\xHH``, and a backslash becomes two.
    """
    if path.isascii() and "\\" not in path:
        return path
    raw = os.fsencode(path).replace(b"\\", b"\\\\")
    return raw.decode("utf-8", "backslashreplace")


def from_text(text: str) -> str:
    r"""Return the path of which `to_text` made a text.

    Raises
    ------
    ValueError
        `to_text` never writes this text, such as one with ``\x2f`` for a slash.
    """
    if "\\" not in text:
        return text if text.isascii() else os.fsdecode(text.encode("utf-8"))
    raw = text.encode("utf-8")
    path = os.fsdecode(
        _ESCAPED_BYTE.sub(lambda m: b"\\" if m[1] == b"\\" else bytes([int(m[1][1:], 16)]), raw)
    )
    # Otherwise one file could have two names in a table, and a name could hide a slash.
    if to_text(path) != text:
        raise ValueError(f"not a name written by this program: {text!r}")
    return path


def split(rel: str) -> tuple[str, str]:
    """Split a path into its directory ('' for the top of a relative one) and its last part."""
    relpath, slash, filename = rel.rpartition("/")
    return relpath or slash, filename


def join(relpath: str, filename: str) -> str:
    """Return the path that `split` splits into these two."""
    return f"{'' if relpath == '/' else relpath}/{filename}" if relpath else filename


def name_of(rel: str) -> tuple[str, str]:
    """Return a relative path as tables have it: relpath and filename."""
    relpath, filename = split(rel)
    return to_text(relpath), to_text(filename)


def rel_of(row: Named) -> str:
    """Return the relative path of the file that a row names."""
    return join(from_text(row.relpath), from_text(row.filename))


def is_astray(rel: str) -> bool:
    """Return whether a name is no relative path of a file, such as an absolute one."""
    return _ASTRAY.search(rel) is not None


def below(root: str, rel: str) -> str:
    """Return the path of a file below a directory; raise `Astray` if the name leads elsewhere.

    Relative paths that come from a table or a log are joined by this.
    """
    if is_astray(rel):
        raise Astray(f"{printable(rel)}: is no path below {root}")
    return f"{root}/{rel}"


def fault(row: Named, held_as: str | None = None) -> str:
    """Return what is wrong with the names of a row, or nothing.

    Parameters
    ----------
    row : `Named`
    held_as : `str`, optional
        A further name in the same directory, as the table has it.
    """
    try:
        relpath = from_text(row.relpath)
        for text in (row.filename, held_as):
            if text is not None and ("/" in text or is_astray(join(relpath, from_text(text)))):
                return f"{printable(join(row.relpath, text))!r} leads out of its directory"
    except ValueError:
        return f"{printable(join(row.relpath, row.filename))!r} is no name that this program wrote"
    return ""


def stays_inside(path: str, root: str) -> bool:
    """Return whether an absolute path, as written, is that of a file below a directory."""
    root = root.rstrip("/") + "/"
    return path.startswith(root) and not is_astray(path[len(root) :])


def readable(text: str) -> str:
    """Return the path that a text of a table means, or the text if it means none: for display."""
    try:
        return from_text(text)
    except ValueError:
        return text


def printable(path: str) -> str:
    """Return a name for one line of a message: as `to_text`, and `harmless`."""
    try:
        return harmless(to_text(path))
    except UnicodeEncodeError:  # half a character, which no file system has
        return harmless(path)


def harmless(text: str) -> str:
    r"""Return a message as one line that does no harm in a terminal, a log or a mail.

    Control characters, characters that are invisible or change the direction of writing, and
    halves of characters become ``\xHH``, ``\uXXXX`` or ``\UXXXXXXXX``. Whatever displays text
    calls this last; calling it twice changes nothing.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _code(c) for c in text)


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun, or with noun and verb: "1 file", "2 files".

    Parameters
    ----------
    number : `int`
    one : `str`
        What follows a 1.
    many : `str`
        What follows any other number; by default the same with an s.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _code(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte, as `os.fsdecode` keeps it
        number -= 0xDC00
    if number <= 0xFF:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def quoted(argument: str) -> str:
    """Return an argument quoted for a shell, in ASCII unless all its characters are printable."""
    if argument.isprintable():
        return shlex.quote(argument)
    safe = {ord("'"): "\\'", ord("\\"): "\\\\"}
    return f"$'{''.join(safe.get(b) or _escaped_byte(b) for b in os.fsencode(argument))}'"


def _escaped_byte(byte: int) -> str:
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"
