"""What is left of an error that nobody foresaw: a line for the operator, a file for us."""

import logging
import os
import tempfile
import traceback
from contextlib import suppress
from pathlib import Path

from dbbbatch.files import state as where
from dbbbatch.files.names import harmless

logger = logging.getLogger("dbbbatch")


def keep(error: BaseException, state: Path | None, label: str) -> str:
    """Keep the traceback of an unforeseen error in a file.

    Parameters
    ----------
    error : `BaseException`
    state : `pathlib.Path` or `None`
        The site's state directory, as far as it is known: without one, or where it cannot be
        written, the file is among the temporary ones.
    label : `str`
        Who met it, such as ``handoff.latiss``.

    Returns
    -------
    line : `str`
        For the operator; names the file.
    """
    logger.debug("unforeseen", exc_info=error)
    lines = "".join(traceback.format_exception(error)).split("\n")
    text = "\n".join(map(harmless, lines)).encode("utf-8", "backslashreplace")
    try:
        kept = f"report it with {_write_report(state, label, text)}"
    except OSError as problem:
        kept = f"its traceback could not be kept: {problem}"
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"unforeseen {type(error).__name__}: {first}; nothing is lost; {kept}"


def _write_report(state: Path | None, label: str, text: bytes) -> str:
    if state is not None and where.is_ours(state):
        path = state / "crashes" / f"{label}.txt"
        with suppress(OSError):
            where.make(path.parent)
            path.write_bytes(text)
            path.chmod(where.FILE_MODE)
            return str(path)
    descriptor, name = tempfile.mkstemp(".txt", f"{label}-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
    return name
