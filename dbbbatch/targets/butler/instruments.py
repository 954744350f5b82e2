"""The instruments that a repository can be prepared for without the LSST stack.

The figures are those that the `register` methods of obs_lsst, obs_subaru and obs_decam write, so
that a repository prepared here and one prepared by them agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache


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
INSTRUMENTS = {
    made.name: made
    for made in (
        Instrument("LSSTCam", "lsst.obs.lsst.LsstCam", 2, 7050123199999, 1000),
        Instrument("LSSTComCam", "lsst.obs.lsst.LsstComCam", 2, 7050123199999, 1000),
        Instrument("LATISS", "lsst.obs.lsst.Latiss", 2, 7050123199999, 1),
        Instrument("HSC", "lsst.obs.subaru.HyperSuprimeCam", 0, 21474800, 200),
        Instrument("DECam", "lsst.obs.decam.DarkEnergyCamera", 0, 2**25, 100),
    )
}

#: Full name to number.
LSSTCAM_DETECTORS = {detector.full_name: detector.id for detector in _lsstcam()}


def detectors(instrument: str) -> tuple[Detector, ...]:
    """Return the detectors of a known instrument."""
    make = {
        "LSSTCam": _lsstcam,
        "LSSTComCam": _comcam,
        "LATISS": lambda: iter([Detector(0, "RXX_S00", None, "RXX_S00")]),
        "HSC": _hsc,
        "DECam": _decam,
    }
    return tuple(make[instrument]())


_SIX = "ugrizy"


def _filters_of_lsstcam() -> dict[str, str]:
    camera = {"empty": "white", "none": "white", "ph_5": "white", "ef_43": "white"}
    camera |= {"u_24": "u", "g_6": "g", "r_57": "r", "i_39": "i", "z_20": "z", "y_10": "y"}
    # The bench for optical testing: filters and masks, each also behind a neutral one.
    bench = {f"SDSS{letter}": letter.lower() for letter in "ugrizY"}
    bench |= {"480nm": "g", "650nm": "r", "750nm": "i", "870nm": "z", "950nm": "y", "970nm": "y"}
    bench |= {mask: mask for mask in ("grid", "spot", "sparsegrid", "streak", "ellipses")}
    densities = ("0.01", "0.05", "0.1", "0.3", "0.4", "0.5", "0.7", "1.0", "2.0", "3.0", "4.0")
    found = {"unknown": "unknown"} | camera | bench
    for density in densities:
        neutral = f"ND_OD{density}"
        found[neutral] = "white~nd"
        found |= {f"{name}~{neutral}": f"{of}~nd" for name, of in bench.items()}
    # The calibration light source: its light decides where the camera's filter lets all pass.
    lamps = {"HIGH": "white", "LOW": "white", "uv": "u", "blue": "g", "red": "r"}
    lamps |= {"nm750": "i", "nm850": "z", "nm960": "y"}
    for lamp, light in lamps.items():
        found[lamp] = light
        for name, of in camera.items():
            if name != "empty" and ("white" in (of, light) or of == light):
                found[f"{name}~{lamp}"] = light if of == "white" else of
    return found


def _filters_of_latiss() -> dict[str, str]:
    wheel = {"empty": "white", "unknown": "unknown", "quadnotch1": "notch"}
    wheel |= dict.fromkeys(("blank_bk7_wg05", "collimator", "cyl_lens"), "white")
    wheel |= dict.fromkeys(("KPNO_1111_436nm", "BG40", "BG40_65mm_1", "BG40_65mm_2"), "g")
    wheel |= dict.fromkeys(("OG550_65mm_1", "OG550_65mm_2"), "g")
    wheel |= {"KPNO_373A_677nm": "r", "RG610": "r", "FELH0600": "r", "KPNO_406_828nm": "z"}
    wheel |= {f"SDSS{letter}": letter for letter in "gri"}
    wheel |= {f"SDSS{letter}_65mm": letter for letter in _SIX}
    gratings = ["empty", "unknown", "ronchi90lpmm", "ronchi170lpmm", "blue300lpmm_qn1"]
    gratings += ["holo4_001", "holo4_003"]
    holes = [f"pinhole_{plate}" for plate in ("1", "2_1", "2_2", "2_3", "2_4")]
    gratings += [f"{hole}_{size}" for hole in holes for size in ("1000", "0500", "0200", "0100")]
    found = {"diffuser": "diffuser"} | wheel
    found |= {f"{name}~{grating}": of for name, of in wheel.items() for grating in gratings}
    # Filters in the wheel of the gratings.
    return found | {f"empty~SDSS{letter}_65mm": letter for letter in _SIX}


def _filters_of_comcam() -> dict[str, str]:
    found = {"empty": "white", "none": "white", "unknown": "unknown", "pinhole": "white"}
    names = ("u_02", "u_05", "u_06", "g_01", "g_07", "r_03", "i_06", "z_02", "z_03", "y_04")
    return found | {"OG590_2_5mm": "OG590"} | {name: name[0] for name in names}


def _filters_of_hsc() -> dict[str, str]:
    found = {"unknown": "unknown", "empty": "white", "ENG-R1": "r", "SH": "SH", "PH": "PH"}
    found |= {f"HSC-{letter}": letter.lower() for letter in "GRIZY"}
    found |= {"HSC-R2": "r", "HSC-I2": "i", "IB0945": "I945", "NB1010": "N1010"}
    narrow = (387, 400, 468, 515, 527, 656, 718, 816, 921, 926, 973)
    return found | {f"NB{number:04d}": f"N{number}" for number in narrow}


def _filters_of_decam() -> dict[str, str]:
    return {
        "u DECam c0006 3500.0 1000.0": "u",
        "g DECam SDSS c0001 4720.0 1520.0": "g",
        "r DECam SDSS c0002 6415.0 1480.0": "r",
        "i DECam SDSS c0003 7835.0 1470.0": "i",
        "z DECam SDSS c0004 9260.0 1520.0": "z",
        "Y DECam c0005 10095.0 1130.0": "y",
        "VR DECam c0007 6300.0 2600.0": "VR",
        "N419 DECam c0013 4194.0 75.0": "N419",
        "N540 DECam c0014 5403.2 210.0": "N540",
        "N708 DECam c0012 7080.0 400.0": "N708",
        "N964 DECam c0008 9645.0 94.0": "N964",
        "solid plate 0.0 0.0": "opaque",
    }


@cache
def filters(instrument: str) -> Mapping[str, str]:
    """Return the filters of an instrument: physical filter to band; none if it is not known."""
    make = {
        "LSSTCam": _filters_of_lsstcam,
        "LSSTComCam": _filters_of_comcam,
        "LATISS": _filters_of_latiss,
        "HSC": _filters_of_hsc,
        "DECam": _filters_of_decam,
    }
    return make[instrument]() if instrument in make else {}


def band(instrument: str, physical_filter: str) -> str:
    """Return the band of a filter; the filter's own name where it is not known for certain.

    A repository does not let a band be empty. The name is what obs_base registers for a filter
    without a band, and mixes it up with no other; a guess could be wrong, and then stops the
    stack's ``register``.

    Examples
    --------
    >>> band("LSSTCam", "i_39"), band("HSC", "NB0921"), band("LATISS", "SDSSr_65mm~new")
    ('i', 'N921', 'SDSSr_65mm~new')
    """
    return filters(instrument).get(physical_filter, physical_filter[:32])
