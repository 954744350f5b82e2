"""Whole FITS files are told from others by their headers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits as astropy_fits

from dbbbatch.targets.butler import fits
from tests.targets.observations import DECAM, latiss, write_decam


def test_extents_are_those_that_astropy_finds(fits_files: list[Path]) -> None:
    for path in fits_files:
        found = fits.walk(str(path), count=False)
        with astropy_fits.open(path) as hdus:
            ends = [info["datLoc"] + info["datSpan"] for info in (hdu.fileinfo() for hdu in hdus)]
        assert [hdu.end for hdu in found] == ends


def test_extensions_are_counted(tmp_path: Path) -> None:
    path = write_decam(tmp_path / "decam.fits", DECAM, {1: "S29", 2: "S30"})
    ends = [hdu.end for hdu in fits.walk(str(path))]
    path.write_bytes(path.read_bytes()[: ends[1]])
    with pytest.raises(fits.Unusable, match="1 extensions of the 2 in its header"):
        fits.walk(str(path))
    assert len(fits.walk(str(path), count=False)) == 2


def test_every_cut_of_the_data_is_found_out(tmp_path: Path) -> None:
    whole = latiss(tmp_path).read_bytes()
    path = tmp_path / "cut.fits"
    pixels = len(whole) - 2880 + 8 * 8 * 2
    for length in [*range(1, pixels, 1440), pixels - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(fits.Unusable):
            fits.walk(str(path))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\x00" * 5760, "no FITS file"),
        (b"\x1f\x8b\x08" + b"x" * 5000, "no FITS file: compressed as a whole by gzip"),
        (b"BZh91AY" + b"x" * 5000, "compressed as a whole by bzip2"),
        (b"\x1f\x8b", "compressed as a whole by gzip"),
        (b"SIMPLE  =                    T".ljust(2880), "has no end"),
    ],
)
def test_garbage_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "garbage.fits"
    path.write_bytes(content)
    with pytest.raises(fits.Unusable, match=says):
        fits.walk(str(path))


@pytest.mark.parametrize("filled", [0, 1, 1000, 2751])
def test_last_block_need_not_be_filled_up(tmp_path: Path, filled: int) -> None:
    path = latiss(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 2880 + 8 * 8 * 2 + filled])
    (hdu,) = fits.walk(str(path))
    assert hdu.end == path.stat().st_size


@pytest.mark.parametrize(
    "more",
    [bytes(1), bytes(512), bytes(2880), bytes(2880 * 1000), bytes(3000), b"\n", b"the end"],
    ids=len,
)
def test_what_astropy_reads_over_may_follow(tmp_path: Path, more: bytes) -> None:
    path = latiss(tmp_path)
    path.write_bytes(path.read_bytes() + more)
    (hdu,) = fits.walk(str(path))
    assert hdu.end == path.stat().st_size - len(more)
    with astropy_fits.open(path) as hdus:
        assert len(hdus) == 1
        assert hdus[0].data.shape == (8, 8)


@pytest.mark.parametrize("more", [b"junk" * 720, bytes(2880) + b"junk" * 720, b" " * 2880])
def test_what_follows_must_be_an_extension(tmp_path: Path, more: bytes) -> None:
    path = latiss(tmp_path)
    path.write_bytes(path.read_bytes() + more)
    with pytest.raises(fits.Unusable, match="bytes that are no FITS extension"):
        fits.walk(str(path))


@pytest.mark.parametrize("length", [5, 100, 2880 - 1, 2880 + 100])
def test_extension_whose_header_is_cut(tmp_path: Path, length: int) -> None:
    path = write_decam(tmp_path / "decam.fits", DECAM, {1: "S29", 2: "S30"})
    ends = [hdu.end for hdu in fits.walk(str(path))]
    path.write_bytes(path.read_bytes()[: ends[1] + length])
    with pytest.raises(fits.Unusable, match="cut short"):
        fits.walk(str(path), count=False)


def test_count_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    path = write_decam(tmp_path / "decam.fits", DECAM, {1: "S29", 2: "S30"})
    whole = path.read_bytes()
    at = whole.index(b"NEXTEND =")
    path.write_bytes(
        whole[:at] + b"NEXTEND =                two / or so".ljust(80) + whole[at + 80 :]
    )
    assert len(fits.walk(str(path))) == 3


def test_size_that_is_no_number(tmp_path: Path) -> None:
    path = latiss(tmp_path)
    path.write_bytes(
        path.read_bytes().replace(
            b"NAXIS1  =                    8", b"NAXIS1  =                  abc"
        )
    )
    with pytest.raises(fits.Unusable, match="NAXIS1 is b'abc', no number"):
        fits.walk(str(path))


def test_long_header(tmp_path: Path) -> None:
    header = astropy_fits.Header([(f"KEY{n}", n) for n in range(5000)])
    path = tmp_path / "long.fits"
    astropy_fits.PrimaryHDU(np.zeros(4, dtype=np.int16), header).writeto(path)
    (hdu,) = fits.walk(str(path))
    assert hdu.end == path.stat().st_size
