"""Headers of LSSTCam, LSSTComCam and LATISS; expected values are those of obs_lsst."""

from __future__ import annotations

from typing import Any

import pytest
from astro_metadata_translator import ObservationInfo

from dbbbatch.targets.butler import headers, instruments, records, rubin
from tests.targets.observations import LATISS, LSSTCAM
from tests.targets.observations import rubin as header

#: What records are made of.
TRANSLATED = headers.REQUIRED_PROPERTIES | records.PROPERTIES | {"exposure_time"}
TRANSLATED |= {"detector_unique_name"}


def observed(cards: dict[str, Any]) -> ObservationInfo:
    return ObservationInfo(dict(cards), pedantic=True, subset=TRANSLATED)


@pytest.mark.parametrize(
    ("day", "sequence", "controller", "expected"),
    [
        (20250501, 7, "O", 2025050100007),
        (20250501, 7, None, 2025050100007),
        (20230101, 12, "C", 3023010100012),
        (20231004, 12, "C", 3023100400012),
        (20231005, 12, "C", 2023100500012),
        (20250501, 12, "H", 4025050100012),
        (20250417, 3, "P", 5025041700003),
        (20250418, 3, "P", 2025041800003),
        (20250417, 3, "Q", 6025041700003),
        (20250417, 3, "S", 7025041700003),
    ],
)
def test_exposure_id(day: int, sequence: int, controller: str | None, expected: int) -> None:
    assert rubin.exposure_id(day, sequence, controller) == expected


@pytest.mark.parametrize(
    ("day", "sequence", "controller"), [(2025, 1, "O"), (20250101, 100000, "O"), (20250101, 1, "Z")]
)
def test_impossible_exposure_id(day: int, sequence: int, controller: str) -> None:
    with pytest.raises(ValueError, match=r"DAYOBS|SEQNUM|CONTRLLR"):
        rubin.exposure_id(day, sequence, controller)


@pytest.mark.parametrize(
    ("detector", "number"),
    [
        ("R01_S00", 0),
        ("R22_S11", 94),
        ("R43_S22", 188),
        ("R00_SG0", 189),
        ("R04_SW1", 196),
        ("R44_SG1", 202),
        ("R44_SW1", 204),
    ],
)
def test_detectors_of_lsstcam(detector: str, number: int) -> None:
    raft, slot = detector.split("_")
    info = observed(header(LSSTCAM, 20250501, 7, RAFTBAY=raft, CCDSLOT=slot))
    assert (info.detector_num, info.detector_unique_name) == (number, detector)


def test_every_detector_of_lsstcam_has_its_own_number() -> None:
    assert sorted(instruments.LSSTCAM_DETECTORS.values()) == list(range(205))


def test_comcam() -> None:
    cards = header(LSSTCAM, 20241125, 33, CCDSLOT="S21") | {"INSTRUME": "ComCam"}
    info = observed(cards)
    assert (info.instrument, info.detector_num) == ("LSSTComCam", 7)


@pytest.mark.parametrize(
    ("cards", "name"),
    [
        ({"FILTER": "i_39"}, "i_39"),
        ({"FILTER": "i_39", "FILTER2": "ND_OD1.0"}, "i_39~ND_OD1.0"),
        ({"FILTER": "r_57", "FILTER1": "empty_1", "FILTER2": "empty"}, "r_57"),
        ({"FILTER": "empty_5"}, "empty"),
        ({"FILTER": "NONE"}, "none"),
        ({"FILTER": "ph_05"}, "ph_5"),
        ({"FILTER": None}, "unknown"),
    ],
)
def test_filter_of_lsstcam(cards: dict[str, Any], name: str) -> None:
    assert observed(header(LSSTCAM, 20250501, 7, **cards)).physical_filter == name


@pytest.mark.parametrize(
    ("cards", "name"),
    [
        ({}, "SDSSr_65mm~empty"),
        ({"FILTER": "EMPTY", "GRATING": "holo4_003"}, "empty~holo4_003"),
        ({"FILTER": None, "GRATING": None}, "unknown~unknown"),
    ],
)
def test_filter_of_latiss(cards: dict[str, Any], name: str) -> None:
    assert observed(header(LATISS, 20250501, 7, **cards)).physical_filter == name


def test_pointing_of_a_science_exposure() -> None:
    info = observed(header(LATISS, 20250501, 7))
    assert info.tracking_radec.icrs.ra.degree == pytest.approx(307.1)
    assert info.altaz_begin.alt.degree == pytest.approx(31.9)
    assert info.boresight_rotation_angle.degree == pytest.approx(12.5)
    assert info.boresight_rotation_coord == "sky"


def test_sidereal_is_what_latiss_once_called_it() -> None:
    info = observed(header(LATISS, 20220405, 7, TRACKSYS="SIDEREAL"))
    assert info.tracking_radec.icrs.ra.degree == pytest.approx(307.1)
    assert info.boresight_rotation_coord == "sky"


def test_latiss_with_blanks_for_what_it_does_not_say() -> None:
    info = observed(header(LATISS, 20220405, 7, TRACKSYS="", RADESYS=""))
    assert info.tracking_radec.icrs.ra.degree == pytest.approx(307.1)


@pytest.mark.parametrize("system", ["LOCAL", "PLANET"])
def test_other_ways_of_tracking_have_no_fixed_coordinates(system: str) -> None:
    assert observed(header(LATISS, 20220405, 7, TRACKSYS=system)).tracking_radec is None


def test_bias_points_nowhere() -> None:
    cards = header(LATISS, 20250501, 7, IMGTYPE="BIAS", EXPTIME=0.0, SHUTTIME=0.0)
    for name in ("RA", "DEC", "RASTART", "DECSTART", "ROTPA", "AZSTART", "ELSTART"):
        cards[name] = None
    info = observed(cards)
    assert info.observation_type == "bias"
    assert info.tracking_radec is None
    assert info.altaz_begin is None
    assert info.can_see_sky is False


@pytest.mark.parametrize(
    ("cards", "sees"),
    [({"VIGN_MIN": "FULLY"}, False), ({"VIGN_MIN": "NO"}, True), ({"SHUTTIME": 0.0}, False)],
)
def test_can_see_sky(cards: dict[str, Any], sees: bool) -> None:
    assert observed(header(LATISS, 20250501, 7, **cards)).can_see_sky is sees


@pytest.mark.parametrize(
    ("cards", "simulated"),
    [
        ({}, False),
        ({"SIMULATE ATMCS": 1}, True),
        ({"SIMULATE ATMCS": 0}, False),
        ({"CONTRLLR": "S"}, True),
    ],
)
def test_simulated_content(cards: dict[str, Any], simulated: bool) -> None:
    assert observed(header(LATISS, 20250501, 7, **cards)).has_simulated_content is simulated


def test_counters_of_a_sequence() -> None:
    info = observed(header(LATISS, 20250501, 7, CURINDEX=2, MAXINDEX=4))
    assert (info.group_counter_start, info.group_counter_end) == (6, 9)


@pytest.mark.parametrize(
    ("group", "number"),
    [
        ("2023-01-01T00:00:00.123#2", 2524608001230002),
        ("42", 42),
    ],
)
def test_visit_of_a_group(group: str, number: int) -> None:
    assert rubin.group_number(group) == number


def test_shutter_time_is_the_exposure_time_of_lsstcam() -> None:
    info = observed(header(LSSTCAM, 20250501, 7, SHUTTIME=30.02))
    assert info.exposure_time.to_value("s") == 30.02
    assert info.exposure_time_requested.to_value("s") == 30.0


def test_missing_keyword_is_named() -> None:
    cards = header(LATISS, 20250501, 7)
    del cards["SEQNUM"]
    with pytest.raises(KeyError, match=r"observation_counter|exposure_id|group_counter"):
        observed(cards)


@pytest.mark.parametrize(
    ("camera", "name", "band"),
    [
        ("LSSTCam", "i_39", "i"),
        ("LSSTCam", "none", "white"),
        ("LSSTCam", "ph_5~nm750", "i"),
        ("LSSTCam", "480nm~ND_OD0.5", "g~nd"),
        ("LSSTComCam", "pinhole", "white"),
        ("LATISS", "SDSSr_65mm~empty", "r"),
        ("LATISS", "empty~holo4_003", "white"),
        ("LATISS", "empty~SDSSg_65mm", "g"),
        ("LATISS", "KPNO_406_828nm~empty", "z"),
        ("LATISS", "unknown~unknown", "unknown"),
        ("HSC", "HSC-R2", "r"),
        ("HSC", "NB0921", "N921"),
        ("DECam", "g DECam SDSS c0001 4720.0 1520.0", "g"),
        ("DECam", "VR DECam c0007 6300.0 2600.0", "VR"),
        ("DECam", "solid plate 0.0 0.0", "opaque"),
    ],
)
def test_band(camera: str, name: str, band: str) -> None:
    assert instruments.band(camera, name) == band


@pytest.mark.parametrize(
    ("camera", "name"), [("LATISS", "SDSSr_65mm~brand_new"), ("LSSTCam", "r_58"), ("SITECAM", "r")]
)
def test_band_is_not_guessed(camera: str, name: str) -> None:
    assert instruments.band(camera, name) == name


@pytest.mark.parametrize(
    ("camera", "count"),
    [("LSSTCam", 276), ("LSSTComCam", 15), ("LATISS", 707), ("HSC", 25), ("DECam", 12)],
)
def test_as_many_filters_as_the_stack_registers(camera: str, count: int) -> None:
    assert len(instruments.filters(camera)) == count
