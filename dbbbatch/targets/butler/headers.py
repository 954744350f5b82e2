"""Translate the headers of a file, by astropy and astro_metadata_translator."""

from __future__ import annotations

import importlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from astro_metadata_translator import MetadataTranslator, ObservationInfo, merge_headers
from astropy.io.fits import Card, Header

from dbbbatch.targets.butler import fits, records
from dbbbatch.targets.plugin import Result

#: The requested duration, which an exposure record holds where the header has it, and the actual
#: one.
REQUESTED, ACTUAL = "exposure_time_requested", "exposure_time"
#: What an exposure record cannot do without (as `lsst.obs.base.RawIngestTask` since mid-2025).
REQUIRED_PROPERTIES = {
    "datetime_begin",
    "datetime_end",
    "detector_num",
    "exposure_group",
    "exposure_id",
    REQUESTED,
    "group_counter_end",
    "group_counter_start",
    "has_simulated_content",
    "instrument",
    "observation_id",
    "observation_type",
    "observing_day",
    "physical_filter",
}


class Untranslatable(fits.Unusable):
    """A file whose headers lack what an exposure record needs, or that no translator understands.

    A correction of the headers, or another translator, may help.
    """

    result = Result.FAILED


def load_translators(modules: Iterable[str] = ()) -> None:
    """Register header translators.

    Parameters
    ----------
    modules : iterable of `str`
        Modules to import that define translators of the site's own. Those of obs_lsst, where it is
        installed, replace the ones in this package for the same cameras.

    Raises
    ------
    ImportError
        If one of ``modules`` cannot be imported.
    """
    importlib.import_module("astro_metadata_translator.translators")
    try:
        importlib.import_module("lsst.obs.lsst.translators")
    except ImportError:
        importlib.import_module("dbbbatch.targets.butler.rubin")
    for module in modules:
        importlib.import_module(module)


def whole_hdus(path: str, *, count: bool = True) -> list[fits.Hdu]:
    """Find the HDUs of a file, as `fits.walk`, and refuse a name that the Butler cannot record."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise fits.Unusable("the Butler accepts only file names in UTF-8") from None
    return fits.walk(path, count=count)


def observations(path: str, *, count: bool = True) -> list[ObservationInfo]:
    """Translate the headers of a file: one `ObservationInfo` for each detector in it.

    Parameters
    ----------
    path : `str`
        Absolute path of the file.
    count : `bool`
        As for `fits.walk`.

    Raises
    ------
    dbbbatch.targets.butler.fits.Unusable
        If it is not a whole FITS file; `Untranslatable` if its headers do not suffice.
    OSError
        If it cannot be read.
    """
    hdus = whole_hdus(path, count=count)
    bad: list[str] = []
    try:
        try:
            return _translated(path, hdus)
        except Exception as error:
            # astropy's own complaints about a card have no number; those of a disk have one.
            if isinstance(error, OSError) and error.errno is not None:
                raise
            mended, bad = _without_bad_cards(hdus)
            if not bad:
                raise
        # Seldom is such a card needed, but astropy reads all cards when it merges two headers.
        with _headers_alone(path, mended) as copy:
            return _translated(copy, mended)
    except Exception as error:
        if isinstance(error, OSError) and (bad or error.errno is not None):
            raise
        what = str(error) if isinstance(error, Untranslatable) else _reason_of(error)
        if bad:
            what += f"; its header has cards that cannot be parsed: {', '.join(bad[:3])}"
        raise Untranslatable(what) from error


def _translated(path: str, hdus: Sequence[fits.Hdu]) -> list[ObservationInfo]:
    name = Path(path).as_uri()
    header = _header(hdus[0])
    translator = _translator(header, name)
    if translator is None and len(hdus) > 1:
        # The primary header of a compressed file is bare: the first extension has it all.
        header = merge_headers([header, _header(hdus[1])], mode="overwrite")
        translator = _translator(header, name)
    if translator is None:
        instrument = header.get("INSTRUME")
        what = "no INSTRUME" if instrument is None else f"INSTRUME = {str(instrument).strip()!r}"
        raise Untranslatable(f"no translator understands its headers ({what})")
    try:
        found = [
            _observation(one, translator, name)
            for one in translator.determine_translatable_headers(name, header)
        ]
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise Untranslatable(
            f"the headers do not suffice for {translator.name}: {_reason_of(error)}"
        ) from error
    if not found:
        raise Untranslatable(f"holds no detector that {translator.name} knows")
    return found


def _translator(header: Any, name: str) -> type[MetadataTranslator] | None:
    try:
        return MetadataTranslator.determine_translator(header, filename=name)
    except ValueError:
        return None


def _observation(header: Any, translator: type[MetadataTranslator], name: str) -> ObservationInfo:
    def of(required: set[str]) -> ObservationInfo:
        return ObservationInfo(
            header,
            translator_class=translator,
            filename=name,
            required=required,
            subset=required | records.PROPERTIES,
            quiet=True,
        )

    try:
        return of(REQUIRED_PROPERTIES)
    except Exception as error:
        if REQUESTED not in str(error):
            raise
        return of(REQUIRED_PROPERTIES - {REQUESTED} | {ACTUAL})


def _header(hdu: fits.Hdu) -> Header:
    # Letters beyond ASCII, which the standard forbids and some writers use, upset astropy.
    return Header.fromstring(hdu.header.decode("ascii", "replace").replace("\ufffd", "?"))


def _without_bad_cards(hdus: Iterable[fits.Hdu]) -> tuple[list[fits.Hdu], list[str]]:
    """Blank out the cards that astropy cannot parse; return the HDUs and these cards."""
    mended, bad = [], []
    for hdu in hdus:
        images = []
        for card in _header(hdu).cards:
            # Private, because `Card.image` would correct the card first.
            image = card._image
            if not _parses(card):
                bad.append(" ".join(image.split()))
                image = " " * len(image)
            images.append(image)
        mended.append(hdu._replace(header="".join(images).encode("ascii")))
    return mended, bad


def _parses(card: Card) -> bool:
    try:
        return card.value is not None
    except Exception:  # noqa: BLE001 (astropy raises VerifyError, and others for broken numbers)
        return False


@contextmanager
def _headers_alone(path: str, hdus: Sequence[fits.Hdu]) -> Iterator[str]:
    """Make a file with these headers and holes for data, for translators that open it themselves.

    It has the name of the original, which a translator may read as well.
    """
    with tempfile.TemporaryDirectory(prefix="dbb-headers-") as directory:
        copy = os.path.join(directory, os.path.basename(path))
        with open(copy, "wb") as file:
            for hdu in hdus:
                file.seek(hdu.at)
                file.write((hdu.header + b"END".ljust(fits.CARD)).ljust(hdu.data_at - hdu.at))
            file.truncate(max(hdus[-1].end, hdus[-1].data_at))
        yield copy


def _reason_of(error: Exception) -> str:
    """Return what was missing and for which property, which the chain of causes hides."""
    lacking = re.search(r"property '(\w+)'", str(error))
    at: BaseException = error
    while at.__cause__ is not None:
        at = at.__cause__
    text = str(at.args[0] if isinstance(at, KeyError) and at.args else at)
    return f"{text} (for {lacking[1]})" if lacking and at is not error else text
