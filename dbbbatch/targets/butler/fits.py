"""Find the header and data units (HDUs) of a FITS file, and refuse a file that is not whole.

Only headers are read. The layout is that of the FITS Standard 4.0
(https://fits.gsfc.nasa.gov/fits_standard.html): blocks of 2880 bytes, cards of 80, and the size of
the data from a few keywords (sections 3 and 4.4.1). astropy would do as well, but it parses every
card of every HDU, which takes longer than all the rest.

As astropy does, and unlike the standard, it accepts a file whose last block is not full, and one
that is followed by NULs or by less than a block of anything.
"""

from __future__ import annotations

import math
import os
import re
from contextlib import suppress
from typing import NamedTuple

from dbbbatch.files.names import counted
from dbbbatch.targets.plugin import Result

BLOCK = 2880
CARD = 80
#: A longer header is garbage (the largest known ones have some hundred kB).
LONGEST_HEADER = 64 << 20
_EXTENSION = b"XTENSION= '"
#: A card that decides how many data follow, or how many extensions.
_SIZE_CARD = re.compile(rb"(?s)(?=.{8}= )(BITPIX|NAXIS\d*|PCOUNT|GCOUNT|GROUPS|NEXTEND) *= ([^/]*)")

#: First bytes of a file that a program has compressed as a whole.
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x1f\x9d": "compress",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"(\xb5/\xfd": "zstd",
    b"PK\x03\x04": "zip",
}


class Unusable(Exception):
    """A file that cannot be ingested as it is; the message says where and how it is wrong."""

    result = Result.NEVER


class NoFits(Unusable):
    """A file that is not a FITS file at all."""


class Hdu(NamedTuple):
    """A header and data unit: its cards without END, and byte offsets in the file.

    The data end with their last block, or with the file within that block.
    """

    header: bytes
    at: int
    data_at: int
    end: int


def walk(path: str, *, count: bool = True) -> list[Hdu]:
    """Find all header and data units of a file.

    Parameters
    ----------
    path : `str`
        The file.
    count : `bool`
        Refuse a file with fewer extensions than its primary header counts (NEXTEND). Nothing else
        shows that a file was cut exactly between two extensions.

    Returns
    -------
    hdus : `list` [`Hdu`]
        At least the primary one.

    Raises
    ------
    Unusable
        If it is not a FITS file, if it ends before its data do, if blocks follow that are neither
        an extension nor NULs, or if extensions are missing.
    OSError
        If it cannot be read.
    """
    hdus: list[Hdu] = []
    announced = 0
    with open(path, "rb", buffering=0) as file:
        fd = file.fileno()
        size = os.fstat(fd).st_size
        at = 0
        while at < size and (header := _read_header(fd, at, size, len(hdus))) is not None:
            length, extensions = _data_length(header, len(hdus))
            announced = announced if hdus else extensions
            data_at = at + _in_blocks(len(header) + CARD)
            end = data_at + _in_blocks(length)
            if data_at + length > size:
                raise Unusable(
                    f"cut short: HDU {len(hdus)} ends at byte {end}, the file at byte {size}"
                )
            hdus.append(Hdu(header, at, data_at, min(end, size)))
            at = end
    if not hdus:
        raise Unusable("is empty")
    if count and len(hdus) - 1 < announced:
        raise Unusable(
            f"cut short: has {len(hdus) - 1} extensions of the {announced} in its header (NEXTEND)"
        )
    return hdus


def _in_blocks(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _read_header(fd: int, at: int, size: int, number: int) -> bytes | None:
    """Read the cards of one header, up to END; None if nothing follows but a trailer."""
    # Most headers fit into the first read.
    held = os.pread(fd, 12 * BLOCK, at)
    if not held.startswith(_EXTENSION if number else b"SIMPLE  = "):
        if number and _is_trailer(fd, at, size, held):
            return None
        raise _no_header(held, number, size - at)
    looked = 0
    while True:
        whole = len(held) // CARD * CARD
        for card in range(looked, whole, CARD):
            if held[card : card + CARD].rstrip() == b"END":
                return held[:card]
        looked = whole
        more = os.pread(fd, 32 * BLOCK, at + len(held))
        if not more:
            raise Unusable(f"cut short: the header of HDU {number} has no end")
        if len(held) > LONGEST_HEADER:
            raise Unusable(
                f"no FITS file: no end in {LONGEST_HEADER >> 20} MiB of HDU {number}'s header"
            )
        held += more


def _is_trailer(fd: int, at: int, size: int, begins: bytes) -> bool:
    """Return whether readers skip what follows the last data."""
    if size - at < BLOCK and not _EXTENSION.startswith(begins[: len(_EXTENSION)]):
        return True
    while not begins.strip(b"\0"):
        at += len(begins)
        begins = os.pread(fd, 1 << 20, at)
        if not begins:
            return True
    return False


def _no_header(begins: bytes, number: int, rest: int) -> Unusable:
    if number:
        if _EXTENSION.startswith(begins):
            return Unusable(f"cut short: the header of HDU {number} has no end")
        return Unusable(
            f"HDU {number - 1} is followed by {counted(rest, 'byte')} that are no FITS extension"
        )
    for magic, program in _COMPRESSED.items():
        if begins.startswith(magic):
            return NoFits(
                f"no FITS file: compressed as a whole by {program}, which the Butler does not "
                "read; bring it uncompressed, or compressed by fpack"
            )
    return NoFits(f"no FITS file: begins with {begins[:10]!r}")


def _data_length(header: bytes, hdu: int) -> tuple[int, int]:
    """Return the bytes of data that a header announces, and NEXTEND (0 without it)."""
    values: dict[bytes, bytes] = {}
    for at in range(0, len(header), CARD):
        if found := _SIZE_CARD.match(header, at, at + CARD):
            values[found[1]] = found[2].strip()

    def number(keyword: bytes, default: bytes | None = None) -> int:
        value = values.get(keyword, default)
        if value is None:
            raise Unusable(f"HDU {hdu}: no {keyword.decode()} in the header")
        try:
            return int(value)
        except ValueError:
            raise Unusable(f"HDU {hdu}: {keyword.decode()} is {value!r}, no number") from None

    bits = abs(number(b"BITPIX"))
    lengths = [number(b"NAXIS%d" % axis) for axis in range(1, number(b"NAXIS") + 1)]
    if values.get(b"GROUPS") == b"T" and lengths[:1] == [0]:
        lengths = lengths[1:]
    elements = math.prod(lengths) if lengths else 0
    total = bits // 8 * number(b"GCOUNT", b"1") * (number(b"PCOUNT", b"0") + elements)
    if total < 0 or min([0, *lengths]) < 0:
        raise Unusable(f"HDU {hdu}: announces data of a negative size")
    announced = 0
    # The data are found without it, so an unreadable one is ignored.
    with suppress(ValueError):
        announced = int(values.get(b"NEXTEND", b"0"))
    return total, announced
