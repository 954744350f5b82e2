"""From a file to what was observed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dbbbatch.targets.butler import headers
from tests.targets.observations import (
    DECAM,
    HSC,
    LATISS,
    LSSTCAM,
    latiss,
    rubin,
    write,
    write_decam,
)


@pytest.fixture(autouse=True, scope="module")
def _translators() -> None:
    headers.load_translators()


def test_primary_header_suffices(tmp_path: Path) -> None:
    (info,) = headers.observations(str(latiss(tmp_path)))
    assert (info.instrument, info.exposure_id) == ("LATISS", 2025112300001)


def test_compressed_file_says_it_in_its_extension(tmp_path: Path) -> None:
    path = write(tmp_path / "cam.fits.fz", rubin(LSSTCAM, 20250501, 7), compress=True)
    (info,) = headers.observations(str(path))
    assert (info.instrument, info.detector_num) == ("LSSTCam", 94)


def test_each_detector_of_a_file(tmp_path: Path) -> None:
    path = write_decam(tmp_path / "decam.fits", DECAM, {1: "S29", 61: "N30", 62: "N31"})
    assert [info.detector_num for info in headers.observations(str(path))] == [1, 61, 62]


def test_header_of_hsc(tmp_path: Path) -> None:
    (info,) = headers.observations(str(write(tmp_path / "hsc.fits", HSC)))
    assert (info.instrument, info.detector_num, info.physical_filter) == ("HSC", 50, "HSC-I2")


def test_missing_keyword_is_said(tmp_path: Path) -> None:
    cards = {name: value for name, value in rubin(LATISS, 20250501, 7).items() if name != "EXPTIME"}
    with pytest.raises(headers.Untranslatable, match=r"do not suffice for LSST_LATISS.*EXPTIME"):
        headers.observations(str(write(tmp_path / "a.fits", cards)))


@pytest.mark.parametrize(
    ("cards", "says"), [({}, "no INSTRUME"), ({"INSTRUME": "Odd"}, "INSTRUME = 'Odd'")]
)
def test_nobody_understands_it(tmp_path: Path, cards: dict[str, str], says: str) -> None:
    with pytest.raises(headers.Untranslatable, match=rf"no translator understands .*{says}"):
        headers.observations(str(write(tmp_path / "a.fits", cards)))


def test_letters_that_fits_does_not_allow(tmp_path: Path) -> None:
    path = latiss(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"HD 185975", b"\xb5 Cep \xe9\xff\x80"))
    (info,) = headers.observations(str(path))
    assert info.object == "? Cep ???"


@pytest.mark.parametrize("name", ["a#b.fits", "50%25.fits", "a b?.fits"])
def test_names_are_data(tmp_path: Path, name: str) -> None:
    path = write_decam(tmp_path / name, DECAM, {1: "S29"})
    assert len(headers.observations(str(path))) == 1


@pytest.mark.parametrize("keyword", ["DAYOBS", "SEQNUM"])
def test_what_the_stack_requires_is_required(tmp_path: Path, keyword: str) -> None:
    cards = {name: value for name, value in rubin(LATISS, 20250501, 7).items() if name != keyword}
    with pytest.raises(headers.Untranslatable, match=keyword):
        headers.observations(str(write(tmp_path / "a.fits", cards)))
