"""Small FITS images, as an instrument writes them, without any library."""

import math
import random
import struct
from collections.abc import Mapping

from dbbbatch.targets.butler.fits import BLOCK, CARD

_Value = str | int | float | bool


def image(header: Mapping[str, tuple[_Value, str]], width: int, height: int, seed: int) -> bytes:
    """Make a FITS image: a sky with noise and some stars.

    Parameters
    ----------
    header : mapping
        Keyword to value and comment, in addition to those of the data.
    width, height : `int`
        In pixels.
    seed : `int`
        The same seed gives the same image.

    Returns
    -------
    content : `bytes`
        A complete FITS file: one primary image of 16-bit integers.
    """
    cards = [
        _card("SIMPLE", True, "conforms to the FITS standard"),
        _card("BITPIX", 16, "16-bit signed integers"),
        _card("NAXIS", 2, "an image"),
        _card("NAXIS1", width, "pixels in a row"),
        _card("NAXIS2", height, "rows"),
        *(_card(keyword, *value) for keyword, value in header.items()),
        "END".ljust(CARD),
    ]
    pixels = _sky(width, height, seed)
    data = struct.pack(f">{len(pixels)}h", *pixels)
    return _padded("".join(cards).encode("ascii"), b" ") + _padded(data, b"\0")


def _card(keyword: str, value: _Value, comment: str) -> str:
    """Write one header card of 80 characters (FITS standard 4.0, section 4.2)."""
    if isinstance(value, bool):
        shown = ("T" if value else "F").rjust(20)
    elif isinstance(value, str):
        shown = "'{}'".format(value.replace("'", "''").ljust(8)).ljust(20)
    else:
        shown = f"{value!r}".upper().rjust(20)
    return f"{keyword:<8}= {shown} / {comment}".ljust(CARD)[:CARD]


def _padded(content: bytes, filler: bytes) -> bytes:
    return content + filler * (-len(content) % BLOCK)


def _sky(width: int, height: int, seed: int) -> list[int]:
    chance = random.Random(seed)
    pixels = [int(chance.gauss(300, 12)) for _ in range(width * height)]
    for _ in range(12):
        x, y = chance.randrange(width), chance.randrange(height)
        brightness = 10 ** chance.uniform(2, 4)
        for row in range(max(0, y - 6), min(height, y + 7)):
            for column in range(max(0, x - 6), min(width, x + 7)):
                distance = (row - y) ** 2 + (column - x) ** 2
                light = brightness * math.exp(-distance / 5)
                place = row * width + column
                pixels[place] = min(32767, pixels[place] + int(light))
    return pixels
