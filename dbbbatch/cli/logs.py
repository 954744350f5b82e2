"""Where a command logs to."""

import logging
import sys
import time
from typing import Any

from dbbbatch.errors import ConfigError
from dbbbatch.files.names import harmless


def set_up_logging(verbose: int, log_file: str | None = None) -> None:
    """Send the log to stderr (-v) and to a file (--log-file); else nowhere.

    Raises
    ------
    ConfigError
        If the file cannot be written.
    """
    logger = logging.getLogger("dbbbatch")
    logger.setLevel(logging.DEBUG if verbose > 1 else logging.INFO)
    logger.propagate = False
    handlers: list[logging.Handler] = [logging.NullHandler()]
    if verbose:
        handlers.append(_Stderr())
        # Notices are on stderr already.
        handlers[-1].addFilter(lambda record: not getattr(record, "said", False))
    if log_file:
        try:
            handlers.append(logging.FileHandler(log_file, encoding="utf-8", errors="replace"))
        except OSError as error:
            raise ConfigError(f"--log-file {log_file}: {error.strerror}") from None
    form = _Lines("%(asctime)s %(levelname)s %(process)d %(message)s")
    form.converter = time.gmtime
    form.default_time_format = "%Y-%m-%dT%H:%M:%S"
    form.default_msec_format = "%s.%03dZ"
    for handler in handlers:
        handler.setFormatter(form)
    logger.handlers = handlers


class _Stderr(logging.StreamHandler[Any]):
    """Writes to what stderr is now: a progress bar puts itself in its place."""

    @property
    def stream(self) -> Any:
        """Where a line goes."""
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None:
        pass


class _Lines(logging.Formatter):
    """Writes a line for each message; the lines of an exception that follow are indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line without characters that a terminal would obey."""
        record.message = harmless(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """Return the traceback, indented."""
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"  {harmless(each)}" for each in lines)
