"""Chromium without a window and without a network."""

import shutil
import subprocess
from pathlib import Path

BROWSER = shutil.which("chromium")

#: Colours of the system; the numbers are Blink's.
LIGHT, DARK = 1, 0

_OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=20000",
]


def run(
    page: Path,
    profile: Path,
    *options: str,
    colours: int = LIGHT,
    size: tuple[int, int] = (1400, 900),
) -> str:
    """Open a page, and return what the browser prints: with ``--dump-dom`` what scripts made of it.

    Parameters
    ----------
    page : `pathlib.Path`
    profile : `pathlib.Path`
        A directory for the browser's own use, which is made.
    *options : `str`
        What is to be done with the page.
    colours : `int`
    size : `tuple` [`int`, `int`]
        Of the window, in pixels; one is never as narrow as a telephone.
    """
    command = [str(BROWSER), *_OPTIONS, f"--user-data-dir={profile}", *options]
    command += ["--window-size={},{}".format(*size), f"file://{page}"]
    command.insert(-1, f"--blink-settings=preferredColorScheme={colours}")
    ran = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return ran.stdout.decode()
