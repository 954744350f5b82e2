"""The plugin interface: what code that ingests into a kind of target has to offer.

A plugin never sees the database. It is given files, and yields one `Outcome` for each; the
ingester records them. It runs in a child process of its own (`dbbbatch.targets.worker`), where it
may block, print, leak or crash without harm to the pass.

The rules that keep a pass cheap and a history honest:

* the module of a plugin imports nothing heavy; what is heavy is imported in `start`,
* `ingest` yields an outcome as soon as it is known: what was yielded before a crash is recorded,
* a file that the target already holds is `Result.ALREADY`, not a failure: after a kill between an
  ingest and its record, the file is offered again,
* only what is known to be hopeless is `Result.NEVER`; a target that is away is `Result.LATER`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any, ClassVar


class NotReady(Exception):
    """The target cannot be used now (away, refused, full): the pass ends, the next one tries again.

    The message speaks to an operator. No file's status changes.
    """


class Misconfigured(Exception):
    """The target cannot be used as configured (wrong repository, wrong password, missing package).

    The message speaks to an operator. The pass ends with exit code 78; no file's status changes.
    """


class Result(Enum):
    """What became of one file."""

    #: Ingested now; the file becomes SUCCESS.
    DONE = "done"
    #: The target held it before, the same; the file becomes SUCCESS and its event says so.
    ALREADY = "already"
    #: A passing condition of the target, not of the file: tried again later, costs no attempt.
    LATER = "later"
    #: Refused or went wrong: costs one attempt, tried again after growing waits.
    FAILED = "failed"
    #: Can never be ingested: the file becomes INVALID.
    NEVER = "never"
    #: Some parts are done (`Outcome.parts_done`) and the rest went wrong: costs one attempt; only
    #: the rest is repeated.
    PARTLY = "partly"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in the storage area that is to be ingested.

    Attributes
    ----------
    number : int
        Names the file in outcomes; unique within a batch, without meaning beyond it.
    path : str
        Absolute path, decoded by `os.fsdecode` (so bytes that are not UTF-8 are surrogates).
    relpath, filename : str
        Directory relative to the storage area ('' for the top) and last part, decoded alike.
    size_bytes : int
        Size in bytes, as recorded when it was stored, and checked just before it is offered.
    checksums : mapping of str to str
        Known checksums: algorithm to hexadecimal digits; first the one of the `file` table.
    parts_done : frozenset of str
        Parts that an earlier attempt finished: the plugin's own names, not to be repeated.
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
        See there.
    message : str
        For an operator: why it failed, or what was done. One line is best.
    version : str
        What did it, where that differs from `Plugin.version` (the version of a stack, say).
    parts_done : frozenset of str
        Parts finished in this attempt (earlier ones need not be repeated here).
    checksums : mapping of str to str
        Checksums that the plugin had to compute (algorithm to hexadecimal digits), so that later
        attempts and targets find them in `StoredFile.checksums`.
    """

    number: int
    result: Result
    message: str = ""
    version: str = ""
    parts_done: frozenset[str] = frozenset()
    checksums: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Context:
    """Where a plugin finds itself.

    Attributes
    ----------
    target : str
        Name of the target (NAME in `[target.NAME]`).
    site : str
        Name of the site.
    storage : str
        Root of the storage area that the files lie in, absolute.
    state : str
        The site's state directory; a plugin that must remember something keeps it in a directory
        of its own there.
    timeout : float
        Seconds without an outcome after which the plugin is taken to hang and is killed.
    """

    target: str
    site: str
    storage: str
    state: str
    timeout: float


@dataclass(frozen=True)
class NoSettings:
    """The keys of a plugin that has none."""


class Plugin(ABC):
    """Ingests files into one target.

    Parameters
    ----------
    settings
        An instance of this class's `Settings`, validated.
    context : Context
        The target and its surroundings.
    """

    #: The name used in `plugin = "…"`; an entry point of the group `dbbbatch.targets` is named
    #: alike.
    name: ClassVar[str]

    #: A frozen dataclass of `dbbbatch.config.fields.option` fields: the keys of
    #: `[target.NAME.config]`.
    Settings: ClassVar[type] = NoSettings

    #: The keys that name a directory which the plugin fills. None of these may lie in storage, or
    #: where files are taken from.
    fills: ClassVar[tuple[str, ...]] = ()

    #: True promises that `ingest` takes the files in the order given and yields the outcome of one
    #: before it touches the next. Then the file in hand at a crash is known at once. Without it, a
    #: batch that ends in a crash or an exception is tried again in smaller pieces until the culprit
    #: stands alone.
    one_at_a_time: ClassVar[bool] = False

    def __init__(self, settings: Any, context: Context) -> None:
        # Cheap and without I/O: the settings are also built to be checked.
        self.settings = settings
        self.context = context

    def start(self) -> None:  # noqa: B027 (a plugin without heavy needs has nothing to do here)
        """Import what is heavy and connect; called once in each child process, first of all.

        Raises
        ------
        NotReady
            The target is away: the pass ends with exit code 75.
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
            Charged to the file in hand, alone; see `one_at_a_time`.
        """

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]] | None:
        """Return which files the target holds; for the auditor.

        Parameters
        ----------
        files : sequence of StoredFile
            The files asked about.

        Returns
        -------
        iterator of (int, bool), or None
            `StoredFile.number` and whether the target holds it; None if it cannot be asked.
        """
        return None

    def version(self) -> str:
        """Version of what ingests, recorded in each event that does not carry its own."""
        return ""

    def close(self) -> None:  # noqa: B027
        """Let go of connections; called at the end of a pass. A killed child is never asked."""
