"""From a file to what was observed: header, translator, `ObservationInfo`.

Wants astropy and astro_metadata_translator.
"""

from __future__ import annotations

import importlib
import re
import urllib.parse
from collections.abc import Iterable
from typing import Any

from astro_metadata_translator import MetadataTranslator, ObservationInfo, merge_headers
from astropy.io.fits import Header

from dbbbatch.targets.butler import fits

__all__ = ["Untranslatable", "load_translators", "observations", "uri"]

#: What an exposure record cannot do without (as `lsst.obs.base.RawIngestTask`).
REQUIRED = {
    "datetime_begin",
    "datetime_end",
    "detector_num",
    "exposure_id",
    "exposure_time",
    "instrument",
    "observation_id",
    "observation_type",
    "physical_filter",
}
WANTED = REQUIRED | {
    "altaz_begin",
    "boresight_rotation_angle",
    "boresight_rotation_coord",
    "can_see_sky",
    "dark_time",
    "exposure_group",
    "group_counter_end",
    "group_counter_start",
    "has_simulated_content",
    "object",
    "observation_counter",
    "observation_reason",
    "observing_day",
    "observing_day_offset",
    "science_program",
    "tracking_radec",
    "visit_id",
}


class Untranslatable(Exception):
    """The headers do not say what an exposure record needs, or nobody understands them."""


def load_translators(modules: Iterable[str] = ()) -> None:
    """Make header translators known.

    Parameters
    ----------
    modules : iterable of `str`
        Modules to import that define translators, a site's own. obs_lsst is preferred to the
        translators of ours for the same cameras.

    Raises
    ------
    ImportError
        If one of ``modules`` cannot be imported.
    """
    import astro_metadata_translator.translators  # noqa: F401 (registers its instruments)

    try:
        importlib.import_module("lsst.obs.lsst.translators")
    except ImportError:
        importlib.import_module("dbbbatch.targets.butler.rubin")
    for module in modules:
        importlib.import_module(module)


def uri(path: str) -> str:
    """Write a path as a URI in which `#` and `%` stand for themselves."""
    return f"file://{urllib.parse.quote(path)}"


def observations(path: str, *, count: bool = True) -> list[ObservationInfo]:
    """Read what a file's headers say was observed: an entry for each detector in it.

    Parameters
    ----------
    path : `str`
        Of a file; absolute.
    count : `bool`
        As for `fits.walk`.

    Raises
    ------
    dbbbatch.targets.butler.fits.Damaged
        If it is no whole FITS file.
    Untranslatable
        If its headers do not suffice.
    OSError
        If it cannot be read.
    """
    hdus = fits.walk(path, count=count)
    header = _header(hdus[0])
    named = uri(path)
    try:
        translator = MetadataTranslator.determine_translator(header, filename=named)
    except ValueError:
        # A compressed file says everything in its first extension.
        if len(hdus) < 2:
            raise Untranslatable(_unknown(header)) from None
        header = merge_headers([header, _header(hdus[1])], mode="overwrite")
        try:
            translator = MetadataTranslator.determine_translator(header, filename=named)
        except ValueError:
            raise Untranslatable(_unknown(header)) from None
    try:
        found = [
            ObservationInfo(
                one,
                translator_class=translator,
                filename=named,
                required=REQUIRED,
                subset=WANTED,
                quiet=True,
            )
            for one in translator.determine_translatable_headers(named, header)
        ]
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise Untranslatable(
            f"the headers do not suffice for {translator.name}: {_reason(error)}"
        ) from error
    if not found:
        raise Untranslatable(f"holds no detector that {translator.name} knows")
    return found


def _header(hdu: fits.Hdu) -> Header:
    # Letters beyond ASCII, which the standard forbids and some writers use, upset astropy.
    return Header.fromstring(hdu.header.decode("ascii", "replace").replace("\ufffd", "?"))


def _reason(error: Exception) -> str:
    """Say what was missing and for what, which is hidden in the chain of causes."""
    wanted = re.search(r"property '(\w+)'", str(error))
    at: BaseException = error
    while at.__cause__ is not None:
        at = at.__cause__
    text = str(at.args[0] if isinstance(at, KeyError) and at.args else at)
    return f"{text} (for {wanted[1]})" if wanted and at is not error else text


def _unknown(header: Any) -> str:
    instrument = header.get("INSTRUME")
    what = "no INSTRUME" if instrument is None else f"INSTRUME = {str(instrument).strip()!r}"
    return f"no translator understands its headers ({what})"
