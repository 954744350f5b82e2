"""From a file to what was observed: header, translator, `ObservationInfo`.

Wants astropy and astro_metadata_translator.
"""

from __future__ import annotations

import importlib
import os
import re
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from astro_metadata_translator import MetadataTranslator, ObservationInfo, merge_headers
from astropy.io.fits import Card, Header

from dbbbatch.targets.butler import fits

#: How long it was meant to last, which an exposure record says where the header does, and how long
#: it did last.
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
WANTED = {
    "altaz_begin",
    "boresight_rotation_angle",
    "boresight_rotation_coord",
    "can_see_sky",
    "dark_time",
    "object",
    "observation_counter",
    "observation_reason",
    "observing_day_offset",
    "science_program",
    "tracking_radec",
    "visit_id",
}
#: Why a path that is no UTF-8 is refused.
NOT_UTF8 = "the Butler takes no names but UTF-8"
#: A card that says nothing.
_BLANK = b" " * fits.CARD


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


def is_utf8(path: str) -> bool:
    """Return whether the Butler can name a path."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


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
    if not is_utf8(path):
        raise Untranslatable(NOT_UTF8)
    hdus = fits.walk(path, count=count)
    try:
        return _translated(path, hdus)
    except OSError as error:
        # astropy's own complaints about a card have no number; those of a disk have.
        if error.errno is not None:
            raise
        failure: Exception = error
    except Exception as error:  # noqa: BLE001 (a translator raises what it likes)
        failure = error
    mended, bad = _without_bad_cards(hdus)
    if bad:
        # Seldom one that is needed, but astropy reads all cards when it merges two headers.
        try:
            with _headers_alone(path, mended) as copy:
                return _translated(copy, mended)
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001
            failure = error
    what = str(failure) if isinstance(failure, Untranslatable) else _reason_of(failure)
    if bad:
        what += f"; its header has cards that cannot be parsed: {', '.join(bad[:3])}"
    raise Untranslatable(what) from failure


def _translated(path: str, hdus: list[fits.Hdu]) -> list[ObservationInfo]:
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
            _observation(one, translator, named)
            for one in translator.determine_translatable_headers(named, header)
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


def _observation(header: Any, translator: Any, named: str) -> ObservationInfo:
    def of(required: set[str]) -> ObservationInfo:
        return ObservationInfo(
            header,
            translator_class=translator,
            filename=named,
            required=required,
            subset=required | WANTED,
            quiet=True,
        )

    try:
        return of(REQUIRED_PROPERTIES)
    except Exception as error:
        if REQUESTED not in str(error):
            raise
        return of(REQUIRED_PROPERTIES - {REQUESTED} | {ACTUAL})


def _header(hdu: fits.Hdu) -> Header:
    return Header.fromstring(_card_text(hdu.header))


def _card_text(cards: bytes) -> str:
    # Letters beyond ASCII, which the standard forbids and some writers use, upset astropy.
    return cards.decode("ascii", "replace").replace("\ufffd", "?")


def _without_bad_cards(hdus: list[fits.Hdu]) -> tuple[list[fits.Hdu], list[str]]:
    """Blank out what astropy cannot parse; return the headers and the bad cards."""
    mended, bad = [], []
    for hdu in hdus:
        cards = [hdu.header[at : at + fits.CARD] for at in range(0, len(hdu.header), fits.CARD)]
        at = 0
        while at < len(cards):
            # A long text goes on in the cards that follow.
            last = at + 1
            while last < len(cards) and cards[last].startswith(b"CONTINUE"):
                last += 1
            text = _card_text(b"".join(cards[at:last]))
            if not _parses(text):
                bad.append(" ".join(text.split()))
                cards[at:last] = [_BLANK] * (last - at)
            at = last
        mended.append(replace(hdu, header=b"".join(cards)))
    return mended, bad


def _parses(text: str) -> bool:
    try:
        card = Card.fromstring(text)
        return card.keyword is not None and card.value is not None
    except Exception:  # noqa: BLE001 (VerifyError, and whatever a broken number gives)
        return False


@contextmanager
def _headers_alone(path: str, hdus: list[fits.Hdu]) -> Iterator[str]:
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
    """Return what was missing and for what, which is hidden in the chain of causes."""
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
