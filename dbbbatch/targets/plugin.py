"""The interface of plugins: what code that ingests into a kind of target offers.

A plugin never sees the database. It is given files and yields one `Outcome` for each, which the
ingester records. It runs in a child process of its own (`dbbbatch.targets.worker`), where it may
block, print, leak memory or crash without harm to the pass.

Four rules keep a pass cheap and the history correct:

* The module of a plugin imports nothing heavy; `start` does.
* `ingest` yields an outcome as soon as it is known. What was yielded before a crash is recorded.
* A file that the target already holds is `Result.ALREADY`, not a failure: after a kill between an
  ingest and its record, the file is offered again.
* Only a file that can never be ingested is `Result.NEVER`. If the target is unavailable, it is
  `Result.LATER`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, ClassVar

from dbbbatch.files import faults
from dbbbatch.files.tree import Entry, Tree

#: The message of a file that is not in the storage area begins with this.
MISSING = "not in the storage area"


class NotReady(Exception):
    """The target cannot be used now: it is unavailable, full, or refuses the connection.

    The message is for an operator. The pass ends with exit code 75; no file's status changes.
    """


class Misconfigured(Exception):
    """The target cannot be used as configured: wrong repository or password, missing package.

    The message is for an operator. The pass ends with exit code 78; no file's status changes.
    """


class Result(Enum):
    """What became of one file; a plugin yields those of `PLUGIN_RESULTS`."""

    #: Ingested now: the file becomes SUCCESS.
    DONE = "done"
    #: The target already held the same file: it becomes SUCCESS, and its event says so.
    ALREADY = "already"
    #: A temporary condition of the target, not of the file: tried again later, costs no attempt.
    LATER = "later"
    #: Refused or failed: costs one attempt, tried again after growing waits.
    FAILED = "failed"
    #: Can never be ingested: the file becomes INVALID.
    NEVER = "never"
    #: Some parts are done (`Outcome.parts_done`) and the rest failed: costs one attempt; only the
    #: rest is repeated.
    PARTLY = "partly"

    #: The plugin died or hung while it had the file: whether it was ingested is not known.
    UNKNOWN = "unknown"
    #: The file is not in the storage area.
    MISSING = "missing"
    #: The file is empty, and was not offered.
    EMPTY = "empty"
    #: The file is not what was stored (another size, no regular file), and was not offered.
    ALTERED = "altered"


#: The results that a plugin may yield; the ingester sets the others.
PLUGIN_RESULTS = (
    Result.DONE,
    Result.ALREADY,
    Result.LATER,
    Result.FAILED,
    Result.NEVER,
    Result.PARTLY,
)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the storage area that is to be ingested.

    Attributes
    ----------
    number : int
        Identifies the file in outcomes; unique within a batch, without meaning beyond it.
    path : str
        Absolute path, decoded by `os.fsdecode` (so bytes that are not UTF-8 are surrogates). It is
        for messages, and for libraries and programs that open the file themselves; what reads the
        file here uses `Plugin.stored`.
    relpath, filename : str
        Directory relative to the storage area ('' for the top) and last part, decoded likewise.
    size_bytes : int
        Size in bytes as recorded when the file was stored, and checked just before it is offered.
    checksums : mapping of str to str
        Known checksums: algorithm to hexadecimal digits; first the one of the `file` table.
    parts_done : frozenset of str
        Parts that an earlier attempt finished, in the plugin's own names; not to be repeated.
    attempt : int
        1 for the first attempt.
    added_on : datetime, optional
        When it was stored (UTC, naive).
    """

    number: int
    path: str
    relpath: str
    filename: str
    size_bytes: int
    checksums: Mapping[str, str] = field(default_factory=dict)
    parts_done: frozenset[str] = frozenset()
    attempt: int = 1
    added_on: datetime | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file.

    Attributes
    ----------
    number : int
        `StoredFile.number`.
    result : Result
        One of `PLUGIN_RESULTS`.
    message : str
        For an operator: why it failed, or what was done. One line is best.
    version : str
        The version of what ingested it, if that differs from `Plugin.version`.
    parts_done : frozenset of str
        Parts finished in this attempt. Earlier ones need not be repeated here.
    checksums : mapping of str to str
        Checksums that the plugin had to compute (algorithm to hexadecimal digits), so that later
        attempts and other targets find them in `StoredFile.checksums`.
    started, seconds : float
        When the plugin began with the file (`time.monotonic`) and how long it took. Set by the
        ingester, whatever the plugin writes there.
    """

    number: int
    result: Result
    message: str = ""
    version: str = ""
    parts_done: frozenset[str] = frozenset()
    checksums: Mapping[str, str] = field(default_factory=dict)
    started: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Context:
    """The surroundings of a plugin.

    Attributes
    ----------
    target : str
        Name of the target (NAME in `[target.NAME]`).
    site : str
        Name of the site.
    storage : str
        Absolute path of the storage area that holds the files.
    state : str
        The site's state directory. A plugin that must remember something keeps it in a directory
        of its own there.
    timeout : float
        Seconds without an outcome after which the plugin is considered to hang and is killed.
    """

    target: str
    site: str
    storage: str
    state: str
    timeout: float


class Plugin(ABC):
    """Ingests files into one target.

    Parameters
    ----------
    settings
        An instance of this class's `Settings`, validated.
    context : Context
        The target and its surroundings.
    """

    #: The name used in `plugin = "…"`, and of the entry point of the group `dbbbatch.targets`.
    name: ClassVar[str]

    #: A frozen dataclass of `dbbbatch.config.fields.option` fields: the keys of
    #: `[target.NAME.config]`. By default there are none.
    Settings: ClassVar[type] = object

    #: The keys that name a directory which the plugin fills. None of these may lie in storage, or
    #: where files are taken from.
    fills: ClassVar[tuple[str, ...]] = ()

    #: True promises that `ingest` takes the files in the order given and yields the outcome of one
    #: before it touches the next. A crash is then charged to the right file at once. Without it, a
    #: batch that ends in a crash or an exception is repeated in smaller pieces until the culprit
    #: is alone in one.
    one_at_a_time: ClassVar[bool] = False

    _storage: Tree | None = None

    def __init__(self, settings: Any, context: Context) -> None:
        # Cheap and without I/O: the settings are also built to be checked.
        self.settings = settings
        self.context = context

    def start(self) -> None:  # noqa: B027 (optional, not abstract)
        """Import what is heavy and connect; called once in each child process, before all else.

        Raises
        ------
        NotReady
            The target is unavailable: the pass ends with exit code 75.
        Misconfigured
            The configuration is wrong: the pass ends with exit code 78.
        """

    @abstractmethod
    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        """Ingest a batch.

        Parameters
        ----------
        files : sequence of StoredFile
            At least one file.

        Yields
        ------
        Outcome
            Exactly one for each file, in any order, each as soon as it is known.

        Raises
        ------
        NotReady, Misconfigured
            As for `start`: the pass ends, and files without an outcome are as if never offered.
        Exception
            Charged to one file; see `one_at_a_time`.
        """

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]] | None:
        """Return which files the target holds; used by the auditor.

        Parameters
        ----------
        files : sequence of StoredFile
            The files in question.

        Returns
        -------
        iterator of (int, bool), or None
            `StoredFile.number` and whether the target holds it; None if it cannot be asked.
        """
        return None

    def stored(self, file: StoredFile) -> Entry:
        """Return a file of storage, which is reached without following a link on the way to it.

        Raises
        ------
        NotReady
            Storage is away.
        OSError
            The path is not that of a file in storage.
        """
        storage = self._storage
        if storage is None:
            root = self.context.storage
            try:
                self._storage = storage = Tree(root)
            except OSError as error:
                raise NotReady(str(faults.of_the_machine(error, root))) from None
        return storage.at(file.path)

    def look_anew(self) -> None:
        """Look storage up again when it is used next; called before each batch."""
        self._storage = None

    def version(self) -> str:
        """Return the version of what ingests, for each event whose outcome has none."""
        return ""

    def close(self) -> None:  # noqa: B027
        """Close connections; called at the end of a pass, but not in a child that was killed."""
