"""The instruments that a repository can be prepared for without the LSST stack.

`instruments.toml` has the stack's values, so that repositories prepared here and by it agree.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

from astro_metadata_translator.translators import DecamTranslator, HscTranslator

_TABLES = tomllib.loads(resources.files(__package__).joinpath("instruments.toml").read_text())

#: Name to dimension record.
INSTRUMENTS: dict[str, dict[str, Any]] = {
    name: {
        "name": name,
        "class_name": table["class_name"],
        "visit_system": table["visit_system"],
        "visit_max": table["exposure_max"],
        "exposure_max": table["exposure_max"],
        "detector_max": table["detector_max"],
    }
    for name, table in _TABLES.items()
}

SLOTS = [f"S{row}{column}" for row in range(3) for column in range(3)]
_CORNERS = ["R00", "R04", "R40", "R44"]
_RAFTS = sorted({f"R{row}{column}" for row in range(5) for column in range(5)} - {*_CORNERS})
_LSSTCAM_NAMES = [f"{raft}_{slot}" for raft in _RAFTS for slot in SLOTS]
_LSSTCAM_NAMES += [f"{raft}_{slot}" for raft in _CORNERS for slot in ("SG0", "SG1", "SW0", "SW1")]
#: Full name to number.
LSSTCAM_DETECTORS = {name: number for number, name in enumerate(_LSSTCAM_NAMES)}


def detectors(instrument: str) -> list[dict[str, Any]]:
    """Return the dimension records of a known instrument's detectors."""
    columns = ("id", "full_name", "raft", "name_in_raft", "purpose")
    return [
        {"instrument": instrument} | dict(zip(columns, row, strict=True))
        for row in _detectors_of(instrument)
    ]


def _detectors_of(instrument: str) -> Iterator[tuple[int, str, str | None, str, str]]:
    match instrument:
        case "LSSTCam":
            for name, number in LSSTCAM_DETECTORS.items():
                raft, _, slot = name.partition("_")
                purpose = {"G": "GUIDER", "W": "WAVEFRONT"}.get(slot[1], "SCIENCE")
                yield number, name, raft, slot, purpose
        case "LSSTComCam":
            for number, slot in enumerate(SLOTS):
                yield number, f"R22_{slot}", "R22", slot, "SCIENCE"
        case "LATISS":
            yield 0, "RXX_S00", None, "RXX_S00", "SCIENCE"
        case "HSC":
            for number, name in enumerate(HscTranslator._DETECTOR_NUM_TO_UNIQUE_NAME):
                raft, _, slot = name.partition("_")
                yield number, name, raft, slot, "SCIENCE" if number < 104 else "FOCUS"
        case "DECam":
            # The translator omits N30, which had no image for some years, but files have an
            # extension for it.
            for number, name in sorted({61: "N30", **DecamTranslator.detector_names}.items()):
                yield number, name, name[0], name[1:], "SCIENCE"


@cache
def filters(instrument: str) -> Mapping[str, str]:
    """Return the filters of an instrument: physical filter to band; none if it is not known."""
    found = _bands_of(instrument, "bands")
    if instrument == "LSSTCam":
        camera, lamps, bench, neutral = (
            _bands_of(instrument, part) for part in ("camera", "lamps", "bench", "neutral")
        )
        found |= camera | lamps | bench | neutral
        for density in neutral:
            found |= {f"{name}~{density}": f"{of}~nd" for name, of in bench.items()}
        for lamp, light in lamps.items():
            for name, of in camera.items():
                if name != "empty" and ("white" in (of, light) or of == light):
                    found[f"{name}~{lamp}"] = light if of == "white" else of
    elif instrument == "LATISS":
        table = _TABLES[instrument]
        holes = [
            f"pinhole_{hole}_{size}"
            for hole in table["pinholes"]
            for size in table["pinhole_sizes"]
        ]
        wheel = _bands_of(instrument, "wheel")
        found |= wheel
        for grating in table["gratings"] + holes:
            found |= {f"{name}~{grating}": of for name, of in wheel.items()}
    return found


def _bands_of(instrument: str, part: str) -> dict[str, str]:
    table = _TABLES.get(instrument, {}).get(part, {})
    return {name: band for band, names in table.items() for name in names}


def band(instrument: str, physical_filter: str) -> str:
    """Return the band of a filter; the filter's own name where it is not known for certain.

    A repository does not allow an empty band. obs_base registers a filter without a band under its
    own name too, which confuses it with no other; a wrong guess would stop the stack's
    ``register``.

    Examples
    --------
    >>> band("LSSTCam", "i_39"), band("HSC", "NB0921"), band("LATISS", "SDSSr_65mm~new")
    ('i', 'N921', 'SDSSr_65mm~new')
    """
    return filters(instrument).get(physical_filter, physical_filter[:32])
