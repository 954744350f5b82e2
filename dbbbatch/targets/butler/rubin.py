"""Header translators for LSSTCam, LSSTComCam and LATISS, for sites without the package obs_lsst.

Importing this module registers them with astro_metadata_translator. They follow what obs_lsst
(https://github.com/lsst/obs_lsst, python/lsst/obs/lsst/translators) makes of headers written at the
telescopes; its corrections of single nights and of laboratory data are not repeated here. Where
obs_lsst is installed, it is used instead (see `dbbbatch.targets.butler.headers`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

import astropy.units as u
from astro_metadata_translator import FitsTranslator, cache_translation
from astro_metadata_translator.translators.helpers import (
    altaz_from_degree_headers,
    tracking_from_degree_headers,
)
from astropy.coordinates import AltAz, EarthLocation, SkyCoord
from astropy.time import Time, TimeDelta

from dbbbatch.targets.butler.instruments import LSSTCAM_DETECTORS

#: CONTRLLR letters in the order in which they shift the exposure id by 1000 years each.
CONTROLLERS = "OCHPQS"
#: DAYOBS after which a controller shares the observatory's sequence numbers (and is not shifted).
UNIFIED_AFTER = {"C": 20231004, "P": 20250417, "Q": 20250417, "S": 20250417}
#: Controllers of simulated data.
SIMULATED = "HPQS"

#: GROUPID as the scheduler writes it: an instant with milliseconds and, maybe, a number.
_GROUP = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{3})(?:[+#](\d+))?")
_GROUP_EPOCH = datetime(2015, 1, 1, tzinfo=UTC)

SUMMIT_OFFSET = TimeDelta(12 * 3600, format="sec", scale="tai")


def exposure_id(day: int, sequence: int, controller: str | None) -> int:
    """Make the id of an exposure from its night, its number in the night and who controlled it.

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
        instant = datetime.strptime(found[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
        seconds = int((instant - _GROUP_EPOCH).total_seconds())
        return int(f"{seconds}{found[2]}{int(found[3] or 0):04d}")
    digest = hashlib.blake2b(group.encode("ascii", "replace")).hexdigest()[:14]
    return int(f"{int(digest, 16)}{len(group):02d}")


def tidy_filter(name: str) -> str:
    """Write a filter's name as the repositories know it."""
    if re.fullmatch(r"empty_?\d*", name, re.IGNORECASE):
        return "empty"
    if name.upper() == "NONE":
        return "none"
    # Some nights of LSSTCam spell the pinhole filter with a zero.
    return re.sub(r"^ph_0(\d)$", r"ph_\1", name)


class _Rubin(FitsTranslator):
    """What the three cameras have in common."""

    _const_map: ClassVar[dict[str, Any]] = {}
    _trivial_map: ClassVar[dict[str, Any]] = {
        "observation_id": "OBSID",
        "object": ("OBJECT", {"default": "UNKNOWN"}),
        "science_program": (["PROGRAM", "RUNNUM"], {"default": "unknown"}),
        "detector_serial": (["LSST_NUM", "DETSER"], {"default": "unknown"}),
    }
    #: What INSTRUME may say, in lower case.
    _known_as: ClassVar[frozenset[str]] = frozenset()
    _place = EarthLocation.from_geodetic(-70.749417, -30.244639, 2663.0)

    @classmethod
    def can_translate(cls, header: Mapping[str, Any], filename: str | None = None) -> bool:
        return str(header.get("INSTRUME", "")).strip().lower() in cls._known_as

    @classmethod
    def observing_date_to_offset(cls, observing_date: Time) -> TimeDelta:
        return SUMMIT_OFFSET

    def _value(self, *keywords: str) -> Any:
        """Return the first of these that has a value, or None."""
        for keyword in keywords:
            if self.is_key_ok(keyword):
                self._used_these_cards(keyword)
                return self._header[keyword]
        return None

    def _needed(self, *keywords: str) -> Any:
        value = self._value(*keywords)
        if value is None:
            raise KeyError(f"{self._log_prefix}: no {' or '.join(keywords)} in the header")
        return value

    # ---- which exposure ----

    @cache_translation
    def to_exposure_id(self) -> int:
        return exposure_id(
            self.to_observing_day(), int(self._needed("SEQNUM")), self._value("CONTRLLR")
        )

    @cache_translation
    def to_visit_id(self) -> int:
        return group_number(self.to_exposure_group())

    @cache_translation
    def to_exposure_group(self) -> str:
        group = self._value("GROUPID")
        return str(group) if group is not None else str(self.to_exposure_id())

    @cache_translation
    def to_observing_day(self) -> int:
        return int(str(self._needed("DAYOBS")).partition("T")[0].replace("-", ""))

    @cache_translation
    def to_observation_counter(self) -> int:
        return int(self._needed("SEQNUM"))

    @cache_translation
    def to_group_counter_start(self) -> int:
        counter = self.to_observation_counter()
        index = self._value("CURINDEX")
        if index is not None:
            return counter - int(index) + 1
        # Zero would make one big visit of all such exposures.
        return counter or self.to_exposure_id()

    @cache_translation
    def to_group_counter_end(self) -> int:
        counter = self.to_observation_counter()
        index, last = self._value("CURINDEX"), self._value("MAXINDEX")
        if index is not None and last is not None:
            return counter + int(last) - int(index)
        return counter or self.to_exposure_id()

    # ---- what was observed ----

    @cache_translation
    def to_observation_type(self) -> str:
        kind = str(self._needed("IMGTYPE", "OBSTYPE")).strip().lower()
        return "science" if kind in ("object", "skyexp") else kind

    @cache_translation
    def to_observation_reason(self) -> str:
        reason = self._value("REASON", "TESTTYPE")
        return str(reason).lower() if reason is not None else super().to_observation_reason()

    @cache_translation
    def to_has_simulated_content(self) -> bool:
        flags = any(self._header[name] for name in self._header if "SIMULATE" in name)
        return flags or str(self._value("CONTRLLR") or " ") in SIMULATED

    @cache_translation
    def to_can_see_sky(self) -> bool | None:
        if self._value("SHUTTIME") == 0.0:
            return False
        vignetted = self._value("VIGN_MIN")
        if vignetted is not None:
            return str(vignetted) != "FULLY"
        return super().to_can_see_sky()

    @cache_translation
    def to_physical_filter(self) -> str:
        found = [self._value(keyword) for keyword in ("FILTER", "FILTER1", "FILTER2")]
        names = [tidy_filter(str(name)) for name in found if name is not None]
        while len(names) > 1 and names[-1] == "empty":
            names.pop()
        return "~".join(names) or "unknown"

    # ---- when ----

    @cache_translation
    def to_datetime_begin(self) -> Time:
        for keyword in ("MJD-BEG", "DATE-BEG", "MJD-OBS", "DATE-OBS"):
            if (value := self._value(keyword)) is not None:
                kind = "mjd" if keyword.startswith("MJD") else "fits"
                return Time(value, format=kind, scale="tai")
        raise KeyError(f"{self._log_prefix}: no DATE-BEG in the header")

    @cache_translation
    def to_datetime_end(self) -> Time:
        if (value := self._value("DATE-END")) is not None:
            return Time(value, format="fits", scale="tai")
        return self.to_datetime_begin() + max(self.to_exposure_time(), 0.0 * u.s)

    @cache_translation
    def to_exposure_time_requested(self) -> u.Quantity:
        return float(self._needed("EXPTIME")) * u.s

    @cache_translation
    def to_exposure_time(self) -> u.Quantity:
        return self.to_exposure_time_requested()

    @cache_translation
    def to_dark_time(self) -> u.Quantity:
        dark = self._value("DARKTIME")
        return self.to_exposure_time() if dark is None else float(dark) * u.s

    # ---- where to ----

    def _follows_the_sky(self) -> bool:
        return (
            str(self._value("TRACKSYS") or "").lower() != "local"
            and self.to_observation_type() not in self._non_sky_observation_types
        )

    @cache_translation
    def to_location(self) -> EarthLocation:
        try:
            return super().to_location()
        except (KeyError, TypeError):
            return self._place

    @cache_translation
    def to_tracking_radec(self) -> SkyCoord | None:
        # Darks are sometimes taken while tracking; other calibrations may only say that they are.
        if self.to_observation_type() in set(self._non_sky_observation_types) - {"dark"}:
            return None
        if self._value("TRACKSYS") not in (None, "RADEC"):
            return None
        return tracking_from_degree_headers(
            self, ("RADESYS",), (("RASTART", "DECSTART"), ("RA", "DEC"))
        )

    @cache_translation
    def to_altaz_begin(self) -> AltAz | None:
        if self._value("CONTRLLR") == "H" and not self.are_keys_ok(["ELSTART", "AZSTART"]):
            return None
        return altaz_from_degree_headers(
            self, (("ELSTART", "AZSTART"),), self.to_datetime_begin(), max_alt=95.55, min_alt=-5.55
        )

    @cache_translation
    def to_boresight_rotation_coord(self) -> str:
        if not self._follows_the_sky():
            return "unknown"
        return str(self._value("ROTCOORD") or "unknown")

    @cache_translation
    def to_boresight_rotation_angle(self) -> u.Quantity:
        from astropy.coordinates import Angle

        angle = self._value("ROTPA", "ROTANGLE")
        if angle is None and self.to_observation_type() == "science":
            raise KeyError(f"{self._log_prefix}: no ROTPA in the header of a science exposure")
        return Angle(float(angle or 0.0) * u.deg)

    @cache_translation
    def to_boresight_airmass(self) -> float | None:
        airmass = self._value("AMSTART")
        return None if airmass is None else float(airmass)

    @cache_translation
    def to_relative_humidity(self) -> float | None:
        value = self._value("HUMIDITY")
        return None if value is None else float(value)

    @cache_translation
    def to_temperature(self) -> u.Quantity | None:
        value = self._value("AIRTEMP")
        return None if value is None else float(value) * u.deg_C

    @cache_translation
    def to_pressure(self) -> u.Quantity | None:
        value = self._value("PRESSURE")
        # Written in Pa by some releases and in hPa by others.
        return None if value is None else float(value) * (u.Pa if value > 10_000 else u.hPa)

    # ---- which detector ----

    @cache_translation
    def to_detector_group(self) -> str:
        return str(self._needed("RAFTBAY"))

    @cache_translation
    def to_detector_name(self) -> str:
        return str(self._needed("CCDSLOT"))

    @cache_translation
    def to_detector_exposure_id(self) -> int:
        return int(f"{self.to_exposure_id()}{self.to_detector_num():03d}")


class LsstCam(_Rubin):
    """The LSST camera on the Simonyi telescope."""

    name = "LSSTCam"
    supported_instrument = "LSSTCam"
    _known_as = frozenset({"lsstcam"})
    _const_map: ClassVar[dict[str, Any]] = {
        "instrument": "LSSTCam",
        "telescope": "Simonyi Survey Telescope",
    }

    @cache_translation
    def to_exposure_time(self) -> u.Quantity:
        # How long the shutter was open; it stays closed for a dark.
        shutter = self._value("SHUTTIME")
        return float(shutter) * u.s if shutter else self.to_exposure_time_requested()

    @cache_translation
    def to_detector_num(self) -> int:
        name = f"{self.to_detector_group()}_{self.to_detector_name()}"
        if name not in LSSTCAM_DETECTORS:
            raise KeyError(f"{self._log_prefix}: LSSTCam has no detector {name}")
        return LSSTCAM_DETECTORS[name]


class LsstComCam(_Rubin):
    """The commissioning camera: one raft."""

    name = "LSSTComCam"
    supported_instrument = "LSSTComCam"
    _known_as = frozenset({"comcam", "lsstcomcam"})
    _const_map: ClassVar[dict[str, Any]] = {
        "instrument": "LSSTComCam",
        "telescope": "Simonyi Survey Telescope",
        "detector_group": "R22",
    }

    @cache_translation
    def to_detector_num(self) -> int:
        slot = re.fullmatch(r"S([0-2])([0-2])", self.to_detector_name())
        if slot is None:
            raise KeyError(f"{self._log_prefix}: LSSTComCam has no slot {self.to_detector_name()}")
        return 3 * int(slot[1]) + int(slot[2])


class Latiss(_Rubin):
    """The imager and spectrograph of the auxiliary telescope: one detector, filter and grating."""

    name = "LSST_LATISS"
    supported_instrument = "LATISS"
    _known_as = frozenset({"latiss", "lsst_atiss"})
    _const_map: ClassVar[dict[str, Any]] = {
        "instrument": "LATISS",
        "telescope": "Rubin Auxiliary Telescope",
        "detector_group": "RXX",
        "detector_name": "S00",
        "detector_num": 0,
    }
    _place = EarthLocation.from_geodetic(-70.747698, -30.244728, 2663.0)

    @classmethod
    def fix_header(
        cls, header: Any, instrument: str, obsid: str, filename: str | None = None
    ) -> bool:
        """Write a header of any year as those of today say it."""
        # A blank says nothing, and coordinates without a system are ICRS; SIDEREAL is what headers
        # up to 2022 call RADEC.
        wanted: dict[str, dict[str, str | None]] = {
            "TRACKSYS": {"": None, "SIDEREAL": "RADEC"},
            "RADESYS": {"": "ICRS"},
        }
        changed = False
        for keyword, values in wanted.items():
            said = header.get(keyword)
            if isinstance(said, str) and (said := said.strip()) in values:
                header[keyword] = values[said]
                changed = True
        return changed

    @cache_translation
    def to_observation_type(self) -> str:
        kind = str(self._needed("OBSTYPE", "IMGTYPE")).strip().lower()
        return "science" if kind in ("object", "skyexp") else kind

    @cache_translation
    def to_physical_filter(self) -> str:
        both = [self._value("FILTER"), self._value("GRATING")]
        names = ["unknown" if name is None else str(name) for name in both]
        return "~".join(
            "empty" if name.lower().startswith("empty") else tidy_filter(name) for name in names
        )

    @cache_translation
    def to_dark_time(self) -> u.Quantity:
        # Some releases wrote less than the exposure lasted, which cannot be.
        return max(super().to_dark_time(), self.to_exposure_time())

    @cache_translation
    def to_detector_exposure_id(self) -> int:
        return self.to_exposure_id()
