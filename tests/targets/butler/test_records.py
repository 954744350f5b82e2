"""Dimension records of an exposure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import astropy.units as u
import pytest
from lsst.daf.butler import DimensionUniverse

from dbbbatch.targets.butler import headers, records
from tests.targets.observations import DECAM, LATISS, LSSTCAM, rubin, write, write_decam


@pytest.fixture(autouse=True, scope="module")
def _translators() -> None:
    headers.load_translators()


def rows(tmp_path: Path, **more: Any) -> dict[str, dict[str, Any]]:
    path = write(tmp_path / "a.fits", rubin(LATISS, 20250501, 7, **more))
    (info,) = headers.observations(str(path))
    return records.exposure_rows(info, DimensionUniverse())


def differing(tmp_path: Path, **more: Any) -> list[str]:
    exposure = rows(tmp_path)["exposure"]
    record = DimensionUniverse()["exposure"].RecordClass(**exposure)
    return records.differences(record, exposure | more)


def test_night_begins_at_noon(tmp_path: Path) -> None:
    timespan = rows(tmp_path)["day_obs"]["timespan"]
    assert timespan.begin.isot.startswith("2025-05-01T12:00:00.000")
    assert timespan.end.isot.startswith("2025-05-02T12:00:00.000")


def test_end_before_the_beginning_is_the_beginning(tmp_path: Path) -> None:
    timespan = rows(tmp_path, **{"DATE-END": "2025-05-01T00:00:00"})["exposure"]["timespan"]
    assert timespan.begin.isot.startswith("2025-05-01T23:37:00.000")
    # The Butler makes an instant a nanosecond long.
    assert timespan.end - timespan.begin < 1e-6 * u.s
    assert not timespan.isEmpty()


def test_exposure_time_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "a.fits", rubin(LSSTCAM, 20250501, 7, EXPTIME=15.0, SHUTTIME=15.000998))
    (info,) = headers.observations(str(path))
    assert records.exposure_rows(info, DimensionUniverse())["exposure"]["exposure_time"] == 15.0


@pytest.mark.parametrize(("cards", "seconds"), [({"EXPREQ": 200.0}, 200.0), ({}, 199.5)])
def test_exposure_time_of_decam(tmp_path: Path, cards: dict[str, float], seconds: float) -> None:
    path = write_decam(tmp_path / "a.fits", DECAM | {"EXPTIME": 199.5} | cards, {1: "S29"})
    (info,) = headers.observations(str(path))
    exposure = records.exposure_rows(info, DimensionUniverse())["exposure"]
    assert exposure["exposure_time"] == seconds


def test_values_are_plain_numbers(tmp_path: Path) -> None:
    exposure = rows(tmp_path)["exposure"]
    kinds = {type(value).__name__ for name, value in exposure.items() if name != "timespan"}
    assert kinds <= {"str", "int", "float", "bool", "NoneType"}


def test_the_same_differs_in_nothing(tmp_path: Path) -> None:
    assert differing(tmp_path) == []


def test_small_differences_do_not_count(tmp_path: Path) -> None:
    assert differing(tmp_path, dark_time=31.200001, tracking_ra=307.1000001) == []


def test_both_values_are_shown(tmp_path: Path) -> None:
    assert differing(tmp_path, physical_filter="g", dark_time=30.0) == [
        "physical_filter 'SDSSr_65mm~empty' there, 'g' here",
        "dark_time 31.2 there, 30.0 here",
    ]
