"""The demo's images are FITS files by anybody's reading."""

import io

import pytest

from dbbbatch.demo import fits

HEADER = {
    "OBJECT": ("Barnard's star", "target"),
    "EXPTIME": (30.0, "seconds"),
    "SEQNUM": (7, "in this night"),
    "SHUTTER": (True, "was open"),
}


def test_astropy_reads_it_and_finds_nothing_to_mend() -> None:
    astropy_fits = pytest.importorskip("astropy.io.fits")
    with astropy_fits.open(io.BytesIO(fits.image(HEADER, 40, 30, seed=1))) as hdus:
        hdus.verify("exception")
        assert hdus[0].data.shape == (30, 40)
        assert hdus[0].data.dtype.name == "int16"
        assert {key: hdus[0].header[key] for key in HEADER} == {
            k: v for k, (v, _) in HEADER.items()
        }


def test_it_is_made_of_whole_blocks() -> None:
    assert len(fits.image(HEADER, 33, 17, seed=1)) % 2880 == 0


def test_the_same_seed_gives_the_same_image() -> None:
    first, again, other = (fits.image(HEADER, 20, 20, seed) for seed in (1, 1, 2))
    assert first == again != other
