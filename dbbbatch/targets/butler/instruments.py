"""The instruments that a repository can be prepared for without the LSST stack.

The figures are those that the `register` methods of obs_lsst, obs_subaru and obs_decam write, so
that a repository prepared here and one prepared by them agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["KNOWN", "LSSTCAM_DETECTORS", "Detector", "Instrument", "band", "detectors"]


@dataclass(frozen=True, slots=True)
class Detector:
    """One detector, as the dimension record wants it."""

    id: int
    full_name: str
    raft: str | None
    name_in_raft: str | None
    purpose: str = "SCIENCE"


@dataclass(frozen=True, slots=True)
class Instrument:
    """An instrument, as the dimension record wants it.

    Attributes
    ----------
    class_name : `str`
        The class of the LSST stack that stands for it; need not be installed.
    visit_system : `int`
        How exposures make visits: 0 one to one, 2 by the numbers of the sequence.
    exposure_max, detector_max : `int`
        No id is larger.
    """

    name: str
    class_name: str
    visit_system: int
    exposure_max: int
    detector_max: int


def _lsstcam() -> Iterator[Detector]:
    rafts = [f"R{row}{column}" for row in range(5) for column in range(5)]
    corners = ["R00", "R04", "R40", "R44"]
    for number, raft in enumerate(raft for raft in rafts if raft not in corners):
        for slot in range(9):
            name = f"S{slot // 3}{slot % 3}"
            yield Detector(9 * number + slot, f"{raft}_{name}", raft, name)
    for number, raft in enumerate(corners):
        for slot, name in enumerate(("SG0", "SG1", "SW0", "SW1")):
            purpose = "GUIDER" if name[1] == "G" else "WAVEFRONT"
            yield Detector(189 + 4 * number + slot, f"{raft}_{name}", raft, name, purpose)


def _comcam() -> Iterator[Detector]:
    for slot in range(9):
        name = f"S{slot // 3}{slot % 3}"
        yield Detector(slot, f"R22_{name}", "R22", name)


def _decam() -> Iterator[Detector]:
    # CCDNUM runs through the rows from south to north. (astro_metadata_translator leaves out
    # N30, which had no image for some years, but files have an extension for it.)
    south = [*range(29, 32), *range(25, 29), *range(20, 25), *range(14, 20), *range(8, 14)]
    names = [f"S{n}" for n in [*south, *range(1, 8)]] + [f"N{n}" for n in range(1, 32)]
    for number, name in enumerate(names, start=1):
        yield Detector(number, name, name[0], name[1:])


def _hsc() -> Iterator[Detector]:
    from astro_metadata_translator.translators import HscTranslator

    for number, name in enumerate(HscTranslator._DETECTOR_NUM_TO_UNIQUE_NAME):
        raft, _, slot = name.partition("_")
        yield Detector(number, name, raft, slot, "SCIENCE" if number < 104 else "FOCUS")


#: Name to instrument.
KNOWN = {
    made.name: made
    for made in (
        Instrument("LSSTCam", "lsst.obs.lsst.LsstCam", 2, 7050123199999, 1000),
        Instrument("LSSTComCam", "lsst.obs.lsst.LsstComCam", 2, 7050123199999, 1000),
        Instrument("LATISS", "lsst.obs.lsst.Latiss", 2, 7050123199999, 1),
        Instrument("HSC", "lsst.obs.subaru.HyperSuprimeCam", 0, 21474800, 200),
        Instrument("DECam", "lsst.obs.decam.DarkEnergyCamera", 0, 2**31, 64),
    )
}

#: Full name to number.
LSSTCAM_DETECTORS = {detector.full_name: detector.id for detector in _lsstcam()}


def detectors(instrument: str) -> tuple[Detector, ...]:
    """Give the detectors of a known instrument."""
    make = {
        "LSSTCam": _lsstcam,
        "LSSTComCam": _comcam,
        "LATISS": lambda: iter([Detector(0, "RXX_S00", "RXX", "S00")]),
        "HSC": _hsc,
        "DECam": _decam,
    }
    return tuple(make[instrument]())


def band(physical_filter: str) -> str:
    """Guess the band from a filter's name; the name itself if it does not tell (as obs_base does).

    Examples
    --------
    >>> band("i_39"), band("HSC-R2"), band("Y DECam c0005 10095.0 1130.0"), band("empty")
    ('i', 'r', 'y', 'white')
    """
    found = re.match(r"(?:HSC-|SDSS)?([ugrizyGRIZY])\d?(?![A-Za-z0-9])", physical_filter)
    if found:
        return found[1].lower()
    if physical_filter.partition("~")[0] == "empty":
        return "white"
    return physical_filter[:32]
