"""Read raw files with astropy alone; a repository records this class by its name."""

from __future__ import annotations

from typing import Any

import astropy.io.fits
from lsst.daf.butler import FormatterV2


class FitsFormatter(FormatterV2):
    """Return a raw file as `astropy.io.fits.HDUList`, whatever the LSST stack would make of it.

    A file with several detectors is returned whole for each of them.
    """

    can_read_from_local_file = True
    unsupported_parameters = None
    default_extension = ".fits"

    def read_from_local_file(
        self, path: str, component: str | None = None, expected_size: int = -1
    ) -> Any:
        """Open the file; the data are read when they are used."""
        return NotImplemented if component is not None else astropy.io.fits.open(path)
