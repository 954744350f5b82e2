"""Is this a whole FITS file? Told from its headers; the data are not read.

The layout is that of the FITS Standard 4.0 (https://fits.gsfc.nasa.gov/fits_standard.html): blocks
of 2880 bytes, cards of 80, and the size of the data from a few keywords (sections 3 and 4.4.1).
astropy would do, but it parses every card of every HDU, which costs more than all the rest.

As astropy does, and unlike the standard, it accepts a file whose last block is not filled up, and
one that is followed by NULs or by less than a block of anything. Data that are cut short are
refused.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass

BLOCK = 2880
CARD = 80
#: A header longer than this is taken for garbage (the largest known ones have some hundred kB).
LONGEST_HEADER = 64 << 20
_EXTENSION = b"XTENSION= '"

_SIZES = {b"BITPIX", b"NAXIS", b"PCOUNT", b"GCOUNT"}

#: How files begin that a program has compressed as a whole.
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x1f\x9d": "compress",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"(\xb5/\xfd": "zstd",
    b"PK\x03\x04": "zip",
}


class Damaged(Exception):
    """The file is no FITS file, or not a whole one; says where and how."""


class NoFits(Damaged):
    """The file is no FITS file at all."""


@dataclass(frozen=True, slots=True)
class Hdu:
    """One header and data unit.

    Attributes
    ----------
    header : `bytes`
        The cards, up to and without END.
    at, data_at, end : `int`
        Offsets in bytes where its header and its data begin, and where its last block ends (or
        the file, within that block).
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
        Of a file.
    count : `bool`
        Refuse a file with fewer extensions than its primary header counts (NEXTEND): only so is a
        file found out that was cut exactly between two of them.

    Returns
    -------
    hdus : `list` [`Hdu`]
        At least the primary one.

    Raises
    ------
    Damaged
        If it is no FITS file, if it ends before its data do, if blocks follow that are neither
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
        while at < size:
            header = _read_header(fd, at, size, len(hdus))
            if header is None:
                break
            length, extensions = _data_length(header, len(hdus))
            if not hdus:
                announced = extensions
            data_at = at + _blocks(len(header) + CARD)
            end = data_at + _blocks(length)
            if data_at + length > size:
                raise Damaged(
                    f"cut short: HDU {len(hdus)} ends at byte {end}, the file at byte {size}"
                )
            hdus.append(Hdu(header, at, data_at, min(end, size)))
            at = end
    if not hdus:
        raise Damaged("is empty")
    if count and len(hdus) - 1 < announced:
        raise Damaged(
            f"cut short: has {len(hdus) - 1} extensions of the {announced} in its header (NEXTEND)"
        )
    return hdus


def _blocks(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _is_trailer(fd: int, at: int, size: int, begins: bytes) -> bool:
    """Return whether what follows the last data is nothing that a reader would miss."""
    if size - at < BLOCK and not _EXTENSION.startswith(begins[: len(_EXTENSION)]):
        return True
    while not begins.strip(b"\0"):
        at += len(begins)
        begins = os.pread(fd, 1 << 20, at)
        if not begins:
            return True
    return False


def _read_header(fd: int, at: int, size: int, number: int) -> bytes | None:
    """Read the cards of one header, up to END; None if there is nothing but a trailer."""
    # Most headers fit into the first read; more is read as needed.
    held = os.pread(fd, 12 * BLOCK, at)
    begins = _EXTENSION if number else b"SIMPLE  = "
    if not held.startswith(begins):
        if number and _is_trailer(fd, at, size, held):
            return None
        if number and _EXTENSION.startswith(held):
            raise Damaged(f"cut short: the header of HDU {number} has no end")
        if number:
            raise Damaged(f"{size - at} bytes after HDU {number - 1} are no FITS extension")
        for magic, program in _COMPRESSED.items():
            if held.startswith(magic):
                raise NoFits(
                    f"no FITS file: compressed as a whole by {program}, which the Butler does not "
                    "read; bring it uncompressed, or compressed by fpack"
                )
        raise NoFits(f"no FITS file: begins with {held[:10]!r}")
    looked = 0
    while True:
        whole = len(held) // CARD * CARD
        for card in range(looked, whole, CARD):
            if held[card : card + 8] == b"END     " and not held[card + 8 : card + CARD].strip():
                return held[:card]
        looked = whole
        more = os.pread(fd, 32 * BLOCK, at + len(held))
        if not more:
            raise Damaged(f"cut short: the header of HDU {number} has no end")
        if len(held) > LONGEST_HEADER:
            raise Damaged(
                f"no FITS file: no end in {LONGEST_HEADER} bytes of HDU {number}'s header"
            )
        held += more


def _data_length(header: bytes, number: int) -> tuple[int, int]:
    """Return the bytes of data that a header announces, and NEXTEND (0 without it)."""
    numbers: dict[bytes, int] = {}
    random_groups = False
    for at in range(0, len(header), CARD):
        if header[at + 8 : at + 10] != b"= ":
            continue
        keyword = header[at : at + 8].rstrip()
        if keyword in _SIZES or (keyword[:5] == b"NAXIS" and keyword[5:].isdigit()):
            value = _value(header, at)
            try:
                numbers[keyword] = int(value)
            except ValueError:
                raise Damaged(
                    f"HDU {number}: {keyword.decode('ascii', 'replace')} is {value!r}, no number"
                ) from None
        elif keyword == b"NEXTEND":
            # Without it the data can be found as well, so a bad one is as good as none.
            with suppress(ValueError):
                numbers[keyword] = int(_value(header, at))
        elif keyword == b"GROUPS":
            random_groups = _value(header, at) == b"T"
    try:
        bits, axes = abs(numbers[b"BITPIX"]), numbers[b"NAXIS"]
        lengths = [numbers[b"NAXIS%d" % axis] for axis in range(1, axes + 1)]
    except KeyError as error:
        raise Damaged(f"HDU {number}: no {error.args[0].decode('ascii')} in the header") from None
    if random_groups and lengths and lengths[0] == 0:
        lengths = lengths[1:]
    elements = 1 if lengths else 0
    for length in lengths:
        elements *= length
    groups, parameters = numbers.get(b"GCOUNT", 1), numbers.get(b"PCOUNT", 0)
    total = bits // 8 * groups * (parameters + elements)
    if total < 0 or min([0, *lengths]) < 0:
        raise Damaged(f"HDU {number}: announces data of a negative size")
    return total, numbers.get(b"NEXTEND", 0)


def _value(header: bytes, at: int) -> bytes:
    return header[at + 10 : at + CARD].split(b"/", 1)[0].strip()
