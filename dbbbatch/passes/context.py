"""What a pass sees of the world: its settings, limits, signals, notices and directories."""

from __future__ import annotations

import fnmatch
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeVar

from dbbbatch.config.load import Settings
from dbbbatch.config.sections import is_sqlite, sqlite_path
from dbbbatch.errors import NO_ROOM, TryLater
from dbbbatch.files import names, place
from dbbbatch.files.checksum import Reading
from dbbbatch.files.roots import Roots
from dbbbatch.files.tree import Entry, Tree
from dbbbatch.passes.notices import Notices
from dbbbatch.passes.progress import ProgressBar
from dbbbatch.passes.signals import Signals

if TYPE_CHECKING:
    from dbbbatch.passes.engine import Engine

logger = logging.getLogger("dbbbatch")
logger.addHandler(logging.NullHandler())

#: Refused rows that are named one by one in a pass.
_MOST_REFUSED = 10

#: Key of the trouble that workers cannot be used.
_ENGINE = "workers of the engine"

#: A row that names a file.
AnyRow = TypeVar("AnyRow", bound=names.Named)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line asks of a pass.

    Attributes
    ----------
    wait : `float`
        Seconds to wait for another pass to end.
    max_time : `float` or `None`
        Seconds after which no further batch is started.
    limit : `int` or `None`
        Most files to handle.
    match : `tuple` [`str`]
        Globs on the relative path, in which ``*`` also matches ``/``; one of them must match.
    linger : `float`
        Seconds during which to wait for work and make further passes.
    strict : `bool`
        Another pass at work is exit code 75, not 0.
    repeat : `bool`
        Warn also of what an earlier pass warned of.
    """

    verbose: int = 0
    log_file: str | None = None
    wait: float = 0
    max_time: float | None = None
    limit: int | None = None
    match: tuple[str, ...] = ()
    progress: bool = False
    linger: float = 0
    strict: bool = False
    repeat: bool = False


class PassContext:
    """One run of one script, as its job sees it.

    Attributes
    ----------
    settings : `dbbbatch.config.load.Settings`
    section
        The section that the pass is about.
    options : `Options`
    run_id : `int`
        Its row in `run`; 0 in a dry run.
    counts : `collections.Counter`
        What was done, in numbers, recorded in `run`; ``failed`` above zero makes the exit code 1.
    size_bytes : `int`
        Bytes of the files that were delivered, stored, ingested, ….
    summary : `str`
        What the pass did, in one line; empty before its end.
    bar : `dbbbatch.passes.progress.ProgressBar`
        Shows how far the pass is.
    log : `logging.Logger`
    roots : `dbbbatch.files.roots.Roots`
        The directories that the pass has looked at.
    """

    def __init__(
        self,
        settings: Settings,
        section: Any,
        options: Options,
        notices: Notices,
        signals: Signals,
    ) -> None:
        self.settings = settings
        self.section = section
        self.options = options
        self.run_id = 0
        self.counts: Counter[str] = Counter()
        self.size_bytes = 0
        self.summary = ""
        self.bar = ProgressBar(notices.label, self.counts, options.progress)
        self.log = logger
        self.roots = Roots()
        self._notices = notices
        self._signals = signals
        self._engine: Engine | None = None
        self._refused: set[tuple[str, str]] = set()
        self._taken = 0
        limit = options.max_time
        self._end = float("inf") if limit is None else time.monotonic() + limit

    @property
    def site(self) -> str:
        """The name of the site."""
        return self.settings.site.name

    @property
    def interrupted(self) -> bool:
        """Whether a signal asked the pass to end."""
        return self._signals.seen > 0

    @property
    def out_of_time(self) -> bool:
        """Whether the pass must stop at once: a signal, or --max-time."""
        return self.interrupted or time.monotonic() >= self._end

    @property
    def stopping(self) -> bool:
        """Whether no further batch may be started: a signal, --max-time or --limit."""
        return self.out_of_time or self.remaining == 0

    @property
    def remaining(self) -> int | None:
        """How many files --limit still allows; `None` without a limit."""
        return None if self.options.limit is None else max(0, self.options.limit - self._taken)

    def take(self, wanted: int) -> int:
        """Count files that are going to be handled; return how many --limit allows."""
        allowed = wanted if self.remaining is None else min(wanted, self.remaining)
        self._taken += allowed
        return allowed

    def did(self, what: str, files: int, size_bytes: int) -> None:
        """Count files that the pass has dealt with as it should, and their bytes."""
        if files:
            self.counts[what] += files
        self.size_bytes += size_bytes
        self.bar.advance(files, size_bytes)

    def matches(self, rel: str) -> bool:
        """Return whether --match allows a relative path."""
        globs = self.options.match
        return not globs or any(fnmatch.fnmatchcase(rel, glob) for glob in globs)

    def must_have_room(self) -> None:
        """Raise unless what the next batch does can be recorded.

        Raises
        ------
        TryLater
            The disk of the state directory, or of an SQLite database, is almost full.
        """
        url = self.settings.database.url
        places = {self.settings.site.state}
        if is_sqlite(url):
            places.add(os.path.dirname(sqlite_path(url)))
        for path in sorted(places):
            if os.path.isdir(path) and (free := place.free_bytes(path)) < place.RESERVE:
                raise TryLater(
                    f"{path}: only {free >> 10} KiB free; what is done could not be recorded",
                    key=NO_ROOM,
                )

    def warn(
        self,
        message: str,
        key: str | None = None,
        level: int = 0,
        of: str = "",
        shared: bool = False,
    ) -> None:
        """Warn the operator: once when a trouble begins and once when it ends.

        Parameters
        ----------
        message : `str`
            One line: what, which file or key, what now.
        key : `str`, optional
            What makes it the same trouble in the next pass although its words differ.
        level : `int`
            How great it is: the operator is warned again when it has grown.
        of : `str`
            Which file or row it is about: of each the operator is warned.
        shared : `bool`
            Other components that have a trouble of this key have the same one.
        """
        self.log.warning("%s", message, extra={"said": True})
        self._notices.warn(message, key, level, of, shared)

    def warn_of(self, kind: str, path: str, what: str) -> None:
        """Warn of one file, of at most ten of a kind: of each once when it begins and when it ends.

        Parameters
        ----------
        kind : `str`
            What the trouble is, in one word.
        path : `str`
            The file, or whatever else the message begins with.
        what : `str`
            The rest of the line: what is wrong, and what now.
        """
        message = f"{names.printable(path)}: {what}"
        named = self._notices.warn_of(kind, path, message)
        self.log.log(
            logging.WARNING if named else logging.INFO, "%s", message, extra={"said": named}
        )

    def info(self, message: str) -> None:
        """Inform the operator of something that is no trouble: on a terminal, or with -v."""
        self.log.info("%s", message, extra={"said": True})
        self._notices.info(message)

    @property
    def troubles(self) -> str:
        """The warnings of this pass, in one line."""
        return "; ".join(self._notices.troubles)

    def sound(self, rows: Sequence[AnyRow], table: str) -> list[AnyRow]:
        """Return the rows whose names are paths below a directory; refuse the others.

        Nothing is done for a refused row, on the disk or in the table, and the others need not
        wait for it.

        Parameters
        ----------
        rows : `~collections.abc.Sequence`
            With ``relpath`` and ``filename``, and perhaps ``held_as``.
        table : `str`
            The table that they come from.
        """
        good = []
        for row in rows:
            if why := names.fault(row, getattr(row, "held_as", None)):
                self.refuse(table, getattr(row, "id", None), why)
            else:
                good.append(row)
        return good

    def refuse(self, table: str, number: int | None, why: str) -> None:
        """Warn, once in a pass, of a row that must not be followed, and count it as failed."""
        which = f"row {number} of {table}" if number is not None else f"a row of {table}"
        if (which, why) in self._refused:
            return
        self._refused.add((which, why))
        self.counts["failed"] += 1
        message = (
            f"{which}: {why}: refused, and nothing was touched; find out who else writes to the "
            "database, then correct it or delete it there"
        )
        if len(self._refused) <= _MOST_REFUSED:
            self.warn(message, key="refused row", of=f"{which} {why}")
        else:
            self.log.warning("%s", message)

    @property
    def engine(self) -> Engine | None:
        """The workers that read files ahead of this pass; `None` where threads do all."""
        if self._engine is None and self.settings.executor.kind == "dask":
            from dbbbatch.passes.engine import Engine

            self._engine = Engine(
                self.settings.executor, lambda message: self.warn(message, key=_ENGINE)
            )
        return self._engine

    def read_ahead(
        self, tree: Tree, sentinel: str, files: Sequence[tuple[Entry, int, Sequence[str]]]
    ) -> Iterator[Reading | None]:
        """Yield what workers read of files, in their order; `None` for those to be read here.

        Parameters
        ----------
        tree : `dbbbatch.files.tree.Tree`
            Where the files are.
        sentinel : `str`
            A file in it that a worker must see, if it has one.
        files : `~collections.abc.Sequence`
            Each with its size (bytes) and the algorithms of its checksums.
        """
        if (engine := self.engine) is None:
            return repeat(None, len(files))
        from dbbbatch.passes.engine import confirmed

        return confirmed(engine, tree, sentinel, files)

    def on_second_signal(self, callback: Callable[[], None]) -> None:
        """Call a function when a second signal comes, to stop a transfer at once."""
        self._signals.on_second(callback)

    def close(self) -> None:
        """Remove the progress bar, leave the engine, and close the directories."""
        if self.settings.executor.kind == "dask" and not (self._engine and self._engine.is_used):
            self._notices.undecided(_ENGINE)
        if self._engine is not None:
            self._engine.close()
        self.roots.close()
        self.bar.close()
