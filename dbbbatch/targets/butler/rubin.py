"""Header translators for LSSTCam, LSSTComCam and LATISS, for sites without the package obs_lsst.

Importing this module registers them with astro_metadata_translator. They translate what dimension
records need, as obs_lsst does (https://github.com/lsst/obs_lsst, python/lsst/obs/lsst/translators)
with headers written at the telescopes. Its corrections of single nights and of laboratory data are
not repeated here. Where obs_lsst is installed, it is used instead (see
`dbbbatch.targets.butler.headers`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, ClassVar

import astropy.units as u
from astro_metadata_translator import FitsTranslator, cache_translation
from astro_metadata_translator.translators.helpers import (
    altaz_from_degree_headers,
    tracking_from_degree_headers,
)
from astropy.coordinates import AltAz, Angle, EarthLocation, SkyCoord
from astropy.time import Time, TimeDelta

from dbbbatch.targets.butler.instruments import LSSTCAM_DETECTORS, SLOTS

#: CONTRLLR letters in the order in which they shift the exposure id by 1000 years each.
CONTROLLERS = "OCHPQS"
#: DAYOBS after which a controller shares the observatory's sequence numbers (and is not shifted).
UNIFIED_AFTER = {"C": 20231004, "P": 20250417, "Q": 20250417, "S": 20250417}
#: Controllers of simulated data.
SIMULATED = "HPQS"

#: GROUPID as the scheduler writes it: a time with milliseconds and, maybe, a number.
_GROUP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{3})(?:[+#](\d+))?")
_GROUP_EPOCH = datetime(2015, 1, 1, tzinfo=UTC)

SUMMIT_OFFSET = TimeDelta(12 * 3600, format="sec", scale="tai")

#: Properties that are copied from a card: its keyword (or keywords), and a default or unit.
_CARDS: dict[str, str | list[str] | tuple[Any, ...]] = {
    "observation_id": "OBSID",
    "observation_counter": "SEQNUM",
    "object": ("OBJECT", {"default": "UNKNOWN"}),
    "science_program": (["PROGRAM", "RUNNUM"], {"default": "unknown"}),
    "exposure_time_requested": ("EXPTIME", {"unit": u.s}),
    "detector_group": "RAFTBAY",
    "detector_name": "CCDSLOT",
}


def exposure_id(day: int, sequence: int, controller: str | None) -> int:
    """Make the id of an exposure from its night, its number in the night and its controller.

    Raises
    ------
    ValueError
        If one of them is impossible.
    """
    if not 1990_00_00 < day < 2990_00_00:
        raise ValueError(f"DAYOBS {day} is no YYYYMMDD")
    if not 0 <= sequence < 100_000:
        raise ValueError(f"SEQNUM {sequence} is not below 100000")
    thousands = 0
    if controller:
        thousands = CONTROLLERS.find(controller)
        if thousands < 0:
            raise ValueError(f"CONTRLLR {controller!r} is none of {CONTROLLERS}")
        if day > UNIFIED_AFTER.get(controller, day):
            thousands = 0
    return (day + thousands * 1000_00_00) * 100_000 + sequence


def group_number(group: str) -> int:
    """Make the visit number of an exposure group, as obs_lsst does."""
    if group.isdecimal():
        return int(group)
    if found := _GROUP.fullmatch(group):
        begin = datetime.strptime(found[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
        seconds = int((begin - _GROUP_EPOCH).total_seconds())
        return int(f"{seconds}{found[2]}{int(found[3] or 0):04d}")
    digest = hashlib.blake2b(group.encode("ascii", "replace")).hexdigest()[:14]
    return int(f"{int(digest, 16)}{len(group):02d}")


def tidy_filter(name: str) -> str:
    """Write a filter's name as repositories have it."""
    if re.fullmatch(r"empty_?\d*", name, re.IGNORECASE):
        return "empty"
    if name.upper() == "NONE":
        return "none"
    # Some nights of LSSTCam spell the pinhole filter with a zero.
    return re.sub(r"^ph_0(\d)$", r"ph_\1", name)


def _observation_type(kind: Any) -> str:
    kind = str(kind).strip().lower()
    return "science" if kind in ("object", "skyexp") else kind


def _constants(**properties: Any) -> dict[str, Any]:
    """Return the properties of a camera that never change."""
    return properties


class _Rubin(FitsTranslator):
    """What the three cameras have in common."""

    _trivial_map = _CARDS
    #: Values of INSTRUME, in lower case.
    _known_as: ClassVar[frozenset[str]] = frozenset()
    _site = EarthLocation.from_geodetic(-70.749417, -30.244639, 2663.0)

    @classmethod
    def can_translate(cls, header: Mapping[str, Any], filename: str | None = None) -> bool:
        """Return whether INSTRUME names this camera."""
        return str(header.get("INSTRUME", "")).strip().lower() in cls._known_as

    @classmethod
    def observing_date_to_offset(cls, observing_date: Time) -> TimeDelta:
        """Return how long after midnight TAI a night begins: it is named after its evening."""
        return SUMMIT_OFFSET

    def _value(self, *keywords: str) -> Any:
        """Return the first of these that has a value, or None."""
        return next((self._header[name] for name in keywords if self.is_key_ok(name)), None)

    def _needed(self, *keywords: str) -> Any:
        value = self._value(*keywords)
        if value is None:
            raise KeyError(f"no {' or '.join(keywords)} in the header")
        return value

    def to_exposure_id(self) -> int:
        return exposure_id(
            self.to_observing_day(), self.to_observation_counter(), self._value("CONTRLLR")
        )

    def to_visit_id(self) -> int:
        return group_number(self.to_exposure_group())

    def to_exposure_group(self) -> str:
        group = self._value("GROUPID")
        return str(group) if group is not None else str(self.to_exposure_id())

    def to_observing_day(self) -> int:
        return int(str(self._needed("DAYOBS")).partition("T")[0].replace("-", ""))

    def to_group_counter_start(self) -> int:
        counter = self.to_observation_counter()
        index = self._value("CURINDEX")
        if index is not None:
            return counter - int(index) + 1
        # Zero would make one big visit of all such exposures.
        return counter or self.to_exposure_id()

    def to_group_counter_end(self) -> int:
        counter = self.to_observation_counter()
        index, last = self._value("CURINDEX"), self._value("MAXINDEX")
        if index is not None and last is not None:
            return counter + int(last) - int(index)
        return counter or self.to_exposure_id()

    def to_observation_type(self) -> str:
        return _observation_type(self._needed("IMGTYPE", "OBSTYPE"))

    def to_observation_reason(self) -> str:
        reason = self._value("REASON", "TESTTYPE")
        return str(reason).lower() if reason is not None else super().to_observation_reason()

    def to_has_simulated_content(self) -> bool:
        flags = any(self._header[name] for name in self._header if "SIMULATE" in name)
        return flags or str(self._value("CONTRLLR") or " ") in SIMULATED

    def to_can_see_sky(self) -> bool | None:
        if self._value("SHUTTIME") == 0.0:
            return False
        vignetted = self._value("VIGN_MIN")
        return super().to_can_see_sky() if vignetted is None else str(vignetted) != "FULLY"

    def to_physical_filter(self) -> str:
        found = [self._value(keyword) for keyword in ("FILTER", "FILTER1", "FILTER2")]
        names = [tidy_filter(str(name)) for name in found if name is not None]
        while len(names) > 1 and names[-1] == "empty":
            names.pop()
        return "~".join(names) or "unknown"

    @cache_translation
    def to_datetime_begin(self) -> Time:
        for keyword in ("MJD-BEG", "DATE-BEG", "MJD-OBS", "DATE-OBS"):
            if (value := self._value(keyword)) is not None:
                kind = "mjd" if keyword.startswith("MJD") else "fits"
                return Time(value, format=kind, scale="tai")
        raise KeyError("no DATE-BEG in the header")

    def to_datetime_end(self) -> Time:
        if (value := self._value("DATE-END")) is not None:
            return Time(value, format="fits", scale="tai")
        return self.to_datetime_begin() + max(self.to_exposure_time(), 0.0 * u.s)

    def to_exposure_time(self) -> u.Quantity:
        return self.to_exposure_time_requested()

    def to_dark_time(self) -> u.Quantity:
        dark = self._value("DARKTIME")
        return self.to_exposure_time() if dark is None else float(dark) * u.s

    @cache_translation
    def to_location(self) -> EarthLocation:
        try:
            return super().to_location()
        except (KeyError, TypeError):
            return self._site

    def to_tracking_radec(self) -> SkyCoord | None:
        # Darks are sometimes taken while tracking; other calibrations may only claim to be.
        if self.to_observation_type() in set(self._non_sky_observation_types) - {"dark"}:
            return None
        if self._value("TRACKSYS") not in (None, "RADEC"):
            return None
        return tracking_from_degree_headers(
            self, ("RADESYS",), (("RASTART", "DECSTART"), ("RA", "DEC"))
        )

    def to_altaz_begin(self) -> AltAz | None:
        if self._value("CONTRLLR") == "H" and not self.are_keys_ok(["ELSTART", "AZSTART"]):
            return None
        return altaz_from_degree_headers(
            self, (("ELSTART", "AZSTART"),), self.to_datetime_begin(), max_alt=95.55, min_alt=-5.55
        )

    def to_boresight_rotation_coord(self) -> str:
        local = str(self._value("TRACKSYS") or "").lower() == "local"
        if local or self.to_observation_type() in self._non_sky_observation_types:
            return "unknown"
        return str(self._value("ROTCOORD") or "unknown")

    def to_boresight_rotation_angle(self) -> u.Quantity:
        angle = self._value("ROTPA", "ROTANGLE")
        if angle is None and self.to_observation_type() == "science":
            raise KeyError("no ROTPA in the header of a science exposure")
        return Angle(float(angle or 0.0) * u.deg)


class LsstCam(_Rubin):
    """The LSST camera on the Simonyi telescope."""

    name = "LSSTCam"
    supported_instrument = "LSSTCam"
    _known_as = frozenset({"lsstcam"})
    _const_map = _constants(instrument="LSSTCam")

    def to_exposure_time(self) -> u.Quantity:
        """Return how long the shutter was open; it stays closed for a dark."""
        shutter = self._value("SHUTTIME")
        return float(shutter) * u.s if shutter else self.to_exposure_time_requested()

    def to_detector_num(self) -> int:
        """Return the number of the raft's detector."""
        name = self.to_detector_unique_name()
        if name not in LSSTCAM_DETECTORS:
            raise KeyError(f"LSSTCam has no detector {name}")
        return LSSTCAM_DETECTORS[name]


class LsstComCam(_Rubin):
    """The commissioning camera: one raft."""

    name = "LSSTComCam"
    supported_instrument = "LSSTComCam"
    _known_as = frozenset({"comcam", "lsstcomcam"})
    _const_map = _constants(instrument="LSSTComCam", detector_group="R22")

    def to_detector_num(self) -> int:
        """Return the number of the slot."""
        name = self.to_detector_name()
        if name not in SLOTS:
            raise KeyError(f"LSSTComCam has no slot {name}")
        return SLOTS.index(name)


class Latiss(_Rubin):
    """The imager and spectrograph of the auxiliary telescope: one detector, filter and grating."""

    name = "LSST_LATISS"
    supported_instrument = "LATISS"
    _known_as = frozenset({"latiss", "lsst_atiss"})
    _const_map = _constants(
        instrument="LATISS", detector_group="RXX", detector_name="S00", detector_num=0
    )
    _site = EarthLocation.from_geodetic(-70.747698, -30.244728, 2663.0)

    @classmethod
    def fix_header(
        cls,
        header: MutableMapping[str, Any],
        instrument: str,
        obsid: str,
        filename: str | None = None,
    ) -> bool:
        """Write a header of any year as those of today."""
        # A blank means nothing, and coordinates without a system are ICRS; until 2022 headers had
        # SIDEREAL for RADEC.
        meant: dict[str, dict[str, str | None]] = {
            "TRACKSYS": {"": None, "SIDEREAL": "RADEC"},
            "RADESYS": {"": "ICRS"},
        }
        changed = False
        for keyword, values in meant.items():
            value = header.get(keyword)
            if isinstance(value, str) and value.strip() in values:
                header[keyword] = values[value.strip()]
                changed = True
        return changed

    def to_observation_type(self) -> str:
        """Return the type, which is in OBSTYPE first."""
        return _observation_type(self._needed("OBSTYPE", "IMGTYPE"))

    def to_physical_filter(self) -> str:
        """Return the names of filter and grating."""
        both = [self._value("FILTER"), self._value("GRATING")]
        names = ["unknown" if name is None else str(name) for name in both]
        return "~".join(
            "empty" if name.lower().startswith("empty") else tidy_filter(name) for name in names
        )

    def to_dark_time(self) -> u.Quantity:
        """Return the dark time; some releases wrote less than the exposure lasted."""
        return max(super().to_dark_time(), self.to_exposure_time())
