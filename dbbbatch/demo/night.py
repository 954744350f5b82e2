"""Exposures of the demo's camera: small images with the headers that LATISS writes."""

from datetime import UTC, date, datetime, timedelta

from dbbbatch.demo import fits

_Cards = dict[str, tuple[str | int | float | bool, str]]

#: Cards that all exposures share; the Butler's header translator reads them.
_CAMERA: _Cards = {
    "INSTRUME": ("LATISS", "camera"),
    "TELESCOP": ("LSST AuxTelescope", "telescope"),
    "LSST_NUM": ("ITL-3800C-068", "detector"),
    "CONTRLLR": ("O", "who controlled the camera"),
    "IMGTYPE": ("OBJECT", "kind of exposure"),
    "PROGRAM": ("DBB_DEMO", "purpose: made by a demo"),
    "REASON": ("DEMO", "why"),
    "EXPTIME": (30.0, "[s] exposure time"),
    "DARKTIME": (31.2, "[s] dark time"),
    "SHUTTIME": (30.0, "[s] time the shutter was open"),
    "TIMESYS": ("TAI", "time scale"),
    "FILTER": ("SDSSr_65mm", "filter"),
    "GRATING": ("empty_1", "grating"),
    "RADESYS": ("ICRS", "frame of the pointing"),
    "RASTART": (307.1, "[deg] pointing at the start"),
    "DECSTART": (-87.47, "[deg]"),
    "RA": (307.1, "[deg] pointing"),
    "DEC": (-87.47, "[deg]"),
    "AZSTART": (181.2, "[deg] azimuth"),
    "ELSTART": (31.9, "[deg] elevation"),
    "ROTPA": (12.5, "[deg] rotation"),
    "ROTCOORD": ("sky", "frame of the rotation"),
    "TRACKSYS": ("RADEC", "how it was tracked"),
    "AMSTART": (1.89, "airmass"),
    "VIGN_MIN": ("NONE", "vignetting"),
    "CURINDEX": (1, "exposure of a sequence"),
    "MAXINDEX": (1, "exposures of the sequence"),
}


def filename(night: date, number: int) -> str:
    """Name an exposure as the camera does."""
    return f"AT_O_{night:%Y%m%d}_{number:06}_R00_S00.fits"


def exposure(night: date, number: int) -> bytes:
    """Make one exposure of a night, as a FITS file.

    Parameters
    ----------
    night : `datetime.date`
        The day on whose evening it began.
    number : `int`
        From 1 on.
    """
    begin = datetime(night.year, night.month, night.day, 23, 0, tzinfo=UTC)
    begin += timedelta(minutes=number)
    end = begin + timedelta(seconds=30)
    cards = _CAMERA | {
        "DAYOBS": (f"{night:%Y%m%d}", "night"),
        "SEQNUM": (number, "exposure of the night"),
        "OBSID": (f"AT_O_{night:%Y%m%d}_{number:06}", "name of the exposure"),
        "GROUPID": (_iso(begin), "group of exposures"),
        "OBJECT": (f"FIELD-{number:03}", "what was looked at"),
        "DATE": (_iso(end), "when the file was made"),
        "DATE-OBS": (_iso(begin), "start of the exposure"),
        "DATE-BEG": (_iso(begin), "start of the exposure"),
        "DATE-END": (_iso(end), "end of the exposure"),
        "MJD-OBS": (_mjd(begin), "start of the exposure"),
        "MJD-BEG": (_mjd(begin), "start of the exposure"),
        "MJD-END": (_mjd(end), "end of the exposure"),
    }
    return fits.image(cards, 96, 96, seed=number)


def _iso(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.000"


def _mjd(moment: datetime) -> float:
    """Return the modified Julian date: days since midnight of 1858-11-17."""
    return (moment - datetime(1858, 11, 17, tzinfo=UTC)) / timedelta(days=1)
