"""File names as data: any bytes that a file system allows, kept reversibly as text.

In code a path is a `str` made by `os.fsdecode`; in the database it is readable text.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import Protocol

#: An empty part, ``.`` or ``..`` anywhere, so also an absolute path; or a NUL byte.
_ASTRAY = re.compile(r"(?:\A|/)\.{0,2}(?:/|\Z)|\0")

_ESCAPED_BYTE = re.compile(rb"\\(\\|x[0-9a-f]{2})")


class Named(Protocol):
    """A row that names a file, as `to_text` writes names."""

    @property
    def relpath(self) -> str:
        """The directory."""

    @property
    def filename(self) -> str:
        """The last part."""


def to_text(path: str) -> str:
    r"""Make a name fit for a text column, a message or a page.

    Parameters
    ----------
    path : `str`
        A path as `os.fsdecode` gives it.

    Returns
    -------
    text : `str`
        The same as UTF-8; bytes that are not UTF-8 become ``\xHH`` and a backslash becomes two.
    """
    if path.isascii() and "\\" not in path:
        return path
    raw = os.fsencode(path).replace(b"\\", b"\\\\")
    return raw.decode("utf-8", "backslashreplace")


def from_text(text: str) -> str:
    """Give back the path that `to_text` was given.

    Raises
    ------
    ValueError
        If the text holds a backslash that `to_text` never writes.
    """
    raw = text.encode("utf-8")
    if b"\\" not in raw:
        return os.fsdecode(raw)
    if raw.count(b"\\") != sum(2 if m[1] == b"\\" else 1 for m in _ESCAPED_BYTE.finditer(raw)):
        raise ValueError(f"not a name written by this program: {text!r}")
    return os.fsdecode(
        _ESCAPED_BYTE.sub(lambda m: b"\\" if m[1] == b"\\" else bytes([int(m[1][1:], 16)]), raw)
    )


def split(rel: str) -> tuple[str, str]:
    """Split a path into its directory ('' for the top of a relative one) and its last part."""
    relpath, slash, filename = rel.rpartition("/")
    return relpath or slash, filename


def join(relpath: str, filename: str) -> str:
    """Put back together what `split` took apart."""
    return f"{'' if relpath == '/' else relpath}/{filename}" if relpath else filename


def rel_of(row: Named) -> str:
    """Give back the relative path of a file whose row has it in two columns."""
    return join(from_text(row.relpath), from_text(row.filename))


class Astray(ValueError):
    """A name that leads out of the directory that it is to be in, or that no file can have."""


def is_astray(rel: str) -> bool:
    """Return whether a name is no relative path of a file: absolute, or with odd parts in it."""
    return _ASTRAY.search(rel) is not None


def below(root: str, rel: str) -> str:
    """Return the path of a file below a directory; whatever is not made here is joined by this.

    Raises
    ------
    Astray
        The name leads elsewhere.
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
        A further name in the same directory, as `to_text` writes it.
    """
    try:
        relpath = from_text(row.relpath)
        for text in (row.filename, held_as):
            if text is not None and ("/" in text or is_astray(join(relpath, from_text(text)))):
                return f"{printable(join(row.relpath, text))!r} leads out of its directory"
    except ValueError:
        return f"{printable(join(row.relpath, row.filename))!r} is no name that was written here"
    return ""


def stays_inside(path: str, root: str) -> bool:
    """Return whether an absolute path is that of a file below a directory, by its words."""
    root = root.rstrip("/") + "/"
    return path.startswith(root) and not is_astray(path[len(root) :])


def readable(text: str) -> str:
    """Return the path of a text of a table, to be shown or compared: also of a spoilt one."""
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
    r"""Escape what a terminal, a log or a mail takes for more than characters of one line.

    Whatever shows text calls this last; a text that it made before stays as it is.

    Parameters
    ----------
    text : `str`
        A message with names, words of a far end, or output of a program in it.

    Returns
    -------
    text : `str`
        On one line, without control characters, characters that are not seen or change the
        direction of writing, and halves of characters: these become ``\xHH``, ``\uXXXX`` or
        ``\UXXXXXXXX``.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() else _code(c) for c in text)


def _code(character: str) -> str:
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:  # a byte, as `os.fsdecode` keeps it
        number -= 0xDC00
    if number <= 0xFF:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"


def quoted(argument: str) -> str:
    """Quote an argument for a shell, in ASCII where it is more than printable characters."""
    if argument.isprintable():
        return shlex.quote(argument)
    safe = {ord("'"): "\\'", ord("\\"): "\\\\"}
    return f"$'{''.join(safe.get(b) or _escaped_byte(b) for b in os.fsencode(argument))}'"


def _escaped_byte(byte: int) -> str:
    return chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"
