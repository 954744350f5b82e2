"""Synthetic raw files with hand-written headers, as four cameras write them (and a few pixels)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.time import Time, TimeDelta

LATISS = {
    "INSTRUME": "LATISS",
    "TELESCOP": "LSST AuxTelescope",
    "IMGTYPE": "OBJECT",
    "EXPTIME": 30.0,
    "DARKTIME": 31.2,
    "SHUTTIME": 30.0,
    "TIMESYS": "TAI",
    "CONTRLLR": "O",
    "FILTER": "SDSSr_65mm",
    "GRATING": "empty_1",
    "OBJECT": "HD 185975",
    "PROGRAM": "AUXTEL_PHOTO_IMAGING",
    "REASON": "SURVEY",
    "RADESYS": "ICRS",
    "RASTART": 307.1,
    "DECSTART": -87.47,
    "RA": 307.1,
    "DEC": -87.47,
    "AZSTART": 181.2,
    "ELSTART": 31.9,
    "ROTPA": 12.5,
    "ROTCOORD": "sky",
    "TRACKSYS": "RADEC",
    "AMSTART": 1.89,
    "LSST_NUM": "ITL-3800C-068",
    "VIGN_MIN": "NONE",
    "CURINDEX": 1,
    "MAXINDEX": 1,
}
LSSTCAM = LATISS | {
    "INSTRUME": "LSSTCam",
    "TELESCOP": "Simonyi Survey Telescope",
    "FILTER": "i_39",
    "RAFTBAY": "R22",
    "CCDSLOT": "S11",
    "OBJECT": "COSMOS",
    "PROGRAM": "BLOCK-365",
    "RASTART": 150.1,
    "DECSTART": 2.2,
    "RA": 150.1,
    "DEC": 2.2,
    "AZSTART": 10.2,
    "ELSTART": 57.5,
    "LSST_NUM": "ITL-3800C-229",
}
HSC = {
    "INSTRUME": "Hyper Suprime-Cam",
    "TELESCOP": "Subaru",
    "OBSERVAT": "NAOJ",
    "EXP-ID": "HSCE00090320",
    "FRAMEID": "HSCA09032000",
    "DATA-TYP": "OBJECT",
    "FILTER01": "HSC-I2",
    "EXPTIME": 300.0,
    "DATE-OBS": "2016-11-28",
    "UT-STR": "09:00:00.000",
    "UT-END": "09:05:00.000",
    "MJD": 57720.375,
    "MJD-STR": 57720.375,
    "MJD-END": 57720.37847222,
    "TIMESYS": "UTC",
    "OBJECT": "SSP-Wide",
    "PROP-ID": "o16420",
    "RA2000": "02:20:00.000",
    "DEC2000": "-04:30:00.00",
    "ALTITUDE": 62.0,
    "AZIMUTH": 141.0,
    "AIRMASS": 1.13,
    "INR-STR": 0.0,
    "INST-PA": 270.0,
    "DET-ID": 50,
    "T_CCDSN": "049",
    "OUT-HUM": 12.0,
    "OUT-TMP": 275.0,
    "OUT-PRS": 621.0,
}
DECAM = {
    "INSTRUME": "DECam",
    "TELESCOP": "CTIO 4.0-m telescope",
    "OBSTYPE": "object",
    "PROCTYPE": "RAW",
    "PRODTYPE": "image",
    "OBSID": "ct4m20130901t060255",
    "EXPNUM": 229388,
    "FILTER": "z DECam SDSS c0004 9260.0 1520.0",
    "EXPTIME": 200.0,
    "DARKTIME": 201.15,
    "DATE-OBS": "2013-09-01T06:02:55.754268",
    "MJD-OBS": 56536.25203419,
    "TIMESYS": "UTC",
    "OBJECT": "supernova hex SN-S1",
    "PROPID": "2013B-0503",
    "RADESYS": "FK5",
    "TELRA": "02:51:16.790",
    "TELDEC": "-00:00:05.500",
    "ZD": 41.0,
    "AZ": 61.0,
    "AIRMASS": 1.32,
    "OUTTEMP": 9.1,
    "PRESSURE": 779.0,
    "HUMIDITY": 23.0,
}


def rubin(header: dict[str, Any], day: int, sequence: int, **more: Any) -> dict[str, Any]:
    """Complete a header of LATISS or LSSTCam for one exposure of a night."""
    night = f"{day // 10000}-{day // 100 % 100:02d}-{day % 100:02d}T23:30:00.000"
    begin = Time(night, format="isot", scale="tai") + TimeDelta(60 * sequence, format="sec")
    end = begin + TimeDelta(header["EXPTIME"], format="sec")
    controller = more.get("CONTRLLR", header["CONTRLLR"])
    prefix = {"LATISS": "AT", "LSSTCam": "MC"}[header["INSTRUME"]]
    return (
        header
        | {
            "DAYOBS": str(day),
            "SEQNUM": sequence,
            "OBSID": f"{prefix}_{controller}_{day}_{sequence:06d}",
            "GROUPID": begin.isot,
            "DATE": end.isot,
            "DATE-OBS": begin.isot,
            "DATE-BEG": begin.isot,
            "DATE-END": end.isot,
            "MJD-BEG": begin.mjd,
            "MJD-END": end.mjd,
            "MJD-OBS": begin.mjd,
        }
        | more
    )


def write(path: Path, header: dict[str, Any], *, pixel: int = 0, compress: bool = False) -> Path:
    """Write a file of one image; ``compress`` leaves the primary header bare, as fpack does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cards = fits.Header(list(header.items()))
    data = np.full((8, 8), pixel, dtype=np.int16)
    if compress:
        hdus = [fits.PrimaryHDU(), fits.CompImageHDU(data, cards)]
    else:
        hdus = [fits.PrimaryHDU(data, cards)]
    fits.HDUList(hdus).writeto(path)
    return path


def write_decam(path: Path, header: dict[str, Any], detectors: dict[int, str]) -> Path:
    """Write a file of several detectors (CCDNUM to DETPOS), as DECam does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    primary = fits.Header(list(header.items()))
    primary["NEXTEND"] = len(detectors)
    images = [
        fits.ImageHDU(
            np.zeros((8, 8), dtype=np.int16),
            fits.Header({"CCDNUM": number, "DETPOS": position, "EXTNAME": position}),
        )
        for number, position in detectors.items()
    ]
    fits.HDUList([fits.PrimaryHDU(header=primary), *images]).writeto(path)
    return path


def latiss(directory: Path, day: int = 20251123, sequence: int = 1, **more: Any) -> Path:
    """Write one exposure of LATISS under its usual name."""
    name = f"AT_O_{day}_{sequence:06d}_R00_S00.fits"
    return write(directory / str(day) / name, rubin(LATISS, day, sequence, **more), pixel=sequence)
