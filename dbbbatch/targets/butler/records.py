"""Dimension records of an exposure, for the repository's version of the dimension universe.

The universe is asked which columns a record has: since version 6 an exposure refers to records of
`group` and `day_obs`; before, it has columns for both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from astro_metadata_translator import ObservationInfo
from astropy.time import Time, TimeDelta
from lsst.daf.butler import DimensionRecord, DimensionUniverse, Timespan

#: Times that differ by less (seconds), and numbers that differ by less of their size, count as
#: equal: the headers of an exposure's detectors may come from several computers.
SECONDS = 1.0
PART = 1e-6

#: Column of an exposure record to property of `ObservationInfo`, for those that are only copied.
_COPIED = {
    "id": "exposure_id",
    "instrument": "instrument",
    "obs_id": "observation_id",
    "physical_filter": "physical_filter",
    "observation_type": "observation_type",
    "observation_reason": "observation_reason",
    "target_name": "object",
    "science_program": "science_program",
    "day_obs": "observing_day",
    "group": "exposure_group",
    "group_name": "exposure_group",
    "group_id": "visit_id",
    "seq_num": "observation_counter",
    "seq_start": "group_counter_start",
    "seq_end": "group_counter_end",
    "has_simulated": "has_simulated_content",
    "can_see_sky": "can_see_sky",
}
#: The properties that records are made of, besides the times.
PROPERTIES = set(_COPIED.values()) | {
    "altaz_begin",
    "boresight_rotation_angle",
    "boresight_rotation_coord",
    "dark_time",
    "observing_day_offset",
    "tracking_radec",
}


def exposure_rows(info: ObservationInfo, universe: DimensionUniverse) -> dict[str, dict[str, Any]]:
    """Make the rows that an exposure needs, in the order in which they must be inserted.

    Parameters
    ----------
    info : `ObservationInfo`
        The translated header of one of its detectors.
    universe : `DimensionUniverse`
        The repository's.

    Returns
    -------
    rows : `dict` [`str`, `dict`]
        Dimension element to row; the last is the exposure's.
    """
    exposure = universe["exposure"]
    values = {name: getattr(info, property_) for name, property_ in _COPIED.items()} | _measured(
        info
    )
    rows: dict[str, dict[str, Any]] = {}
    if "group" in exposure.implied:
        rows["group"] = {"instrument": info.instrument, "name": info.exposure_group}
    if "day_obs" in exposure.implied:
        rows["day_obs"] = _day_record(info)
    columns = set(exposure.RecordClass.fields.names)
    rows["exposure"] = {name: value for name, value in values.items() if name in columns}
    return rows


def _measured(info: Any) -> dict[str, Any]:
    begin, end = info.datetime_begin, info.datetime_end
    # The requested time, as in obs_base since mid-2025, is the same for all detectors.
    lasted = info.exposure_time_requested
    if lasted is None:
        lasted = info.exposure_time
    values: dict[str, Any] = {
        # An end before the beginning would make a timespan without bounds.
        "timespan": Timespan(begin, max(begin, end)),
        "exposure_time": float(lasted.to_value("s")),
        "dark_time": None,
    }
    if info.dark_time is not None:
        values["dark_time"] = float(info.dark_time.to_value("s"))
    if info.tracking_radec is not None:
        icrs = info.tracking_radec.icrs
        values |= {"tracking_ra": float(icrs.ra.degree), "tracking_dec": float(icrs.dec.degree)}
        if info.boresight_rotation_coord == "sky" and info.boresight_rotation_angle is not None:
            values["sky_angle"] = float(info.boresight_rotation_angle.degree)
    if info.altaz_begin is not None:
        values["azimuth"] = float(info.altaz_begin.az.degree)
        values["zenith_angle"] = float(info.altaz_begin.zen.degree)
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in values.items()
    }


def _day_record(info: ObservationInfo) -> dict[str, Any]:
    row: dict[str, Any] = {"instrument": info.instrument, "id": info.observing_day}
    if info.observing_day_offset is not None:
        day = str(info.observing_day)
        midnight = Time(f"{day[:4]}-{day[4:6]}-{day[6:]}T00:00:00", format="isot", scale="tai")
        begin = midnight + info.observing_day_offset
        row["timespan"] = Timespan(begin, begin + TimeDelta(1, format="jd", scale="tai"))
    return row


def differences(record: DimensionRecord, row: Mapping[str, Any]) -> list[str]:
    """Return in what a row differs from the repository's record: both values for each column."""
    held = record.toDict()
    return [
        f"{name} {_value_text(held.get(name))} there, {_value_text(value)} here"
        for name, value in row.items()
        if not _nearly_equal(held.get(name), value)
    ]


def _nearly_equal(held: Any, value: Any) -> bool:
    if isinstance(held, Timespan) and isinstance(value, Timespan):
        return _nearly_equal(held.begin, value.begin) and _nearly_equal(held.end, value.end)
    if isinstance(held, Time) and isinstance(value, Time):
        return bool(abs((held - value).to_value("s")) < SECONDS)
    if isinstance(held, float) and isinstance(value, float):
        return math.isclose(held, value, rel_tol=PART, abs_tol=PART)
    return bool(held == value)


def _value_text(value: Any) -> str:
    if isinstance(value, Timespan):
        return "/".join(getattr(end, "isot", "…") for end in (value.begin, value.end))
    return repr(value)
