"""The plugin ``butler-gen2``: raw files into a Gen2 Butler repository by the LSST stack's task.

`lsst.pipe.tasks.ingest.IngestTask` has traps, which are kept from the ingester here: it moves files
unless told otherwise; it rewrites ``sys.argv`` and leaves by `SystemExit`; it takes names for
patterns; a file that matches nothing is only logged; ``create`` replaces a registry that exists;
after an error the rest of a list is not tried; and a link whose row was never written stays in the
way. So nothing it says is believed: a file is ingested when its row is in the registry.
"""

from __future__ import annotations

import filecmp
import glob
import importlib
import inspect
import logging
import os
import sqlite3
import sys
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from dbbbatch.config import fields
from dbbbatch.config.fields import option
from dbbbatch.targets.butler import fits
from dbbbatch.targets.butler.origins import Origins
from dbbbatch.targets.failures import chain, disk_away
from dbbbatch.targets.plugin import (
    Context,
    Misconfigured,
    NotReady,
    Outcome,
    Plugin,
    Result,
    StoredFile,
)

_OUR_ARGUMENTS = {"root", "mode", "create", "dryrun", "ignoreIngested"}


@dataclass(frozen=True, kw_only=True)
class Gen2Settings:
    """``[target.NAME.config]`` with ``plugin = "butler-gen2"``."""

    root: str = option(help="repository", parse=fields.absolute_path, example="/datasets/repo")
    task: str = option("lsst.pipe.tasks.ingest.IngestTask", "the task that ingests")
    mode: str = option(
        "link",
        "link, copy, skip (write the registry only), or move: out of the storage area",
        parse=fields.choice("link", "copy", "skip", "move"),
    )
    create: bool = option(
        False, "make the registry if the repository has none yet", parse=fields.boolean
    )
    nextend: bool = option(
        True, "refuse a file with fewer extensions than its header counts", parse=fields.boolean
    )
    options: Mapping[str, Any] = option(
        {}, "more arguments of the task's prepareTask", parse=fields.subtable
    )


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A file, a row for each part of it, and where it goes in the repository."""

    file: StoredFile
    infos: list[dict[str, Any]]
    destination: str


class ButlerGen2(Plugin):
    """Ingests raw files into a Gen2 repository."""

    name = "butler-gen2"
    Settings = Gen2Settings

    def __init__(self, settings: Gen2Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._task: Any = None
        self._origins = Origins(
            os.path.join(context.state, "butler-gen2", f"{context.target}.sqlite3")
        )

    # ---- the task ----

    def start(self) -> None:
        root = self.settings.root
        if not os.path.isdir(root) or not os.listdir(root):
            raise NotReady(f"root: {root} does not exist or is empty (not mounted?)")
        marks = (os.path.join(root, name) for name in ("_mapper", "repositoryCfg.yaml"))
        if not any(map(os.path.exists, marks)):
            raise Misconfigured(f"root: {root} is no Gen2 repository: it has no _mapper")
        module, _, name = self.settings.task.rpartition(".")
        try:
            task = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise Misconfigured(
                f"task = {self.settings.task!r} cannot be imported: {error}; "
                "set up the LSST stack (a release with lsst.pipe.tasks.ingest) before dbb-ingester"
            ) from None
        known = inspect.signature(task.prepareTask).parameters
        for given in self.settings.options:
            if given not in known or given in _OUR_ARGUMENTS:
                others = sorted(set(known) - _OUR_ARGUMENTS)
                raise Misconfigured(f"options: {given} is no option{fields.nearest(given, others)}")
        if not self._has_registry():
            if not self.settings.create:
                raise Misconfigured(f"root: {root} has no registry; create = true makes one")
            # Once and with no files: with a registry there, it would be replaced.
            try:
                self._prepared(task, create=True).ingestFiles([])
            except (sqlite3.Error, OSError) as error:
                raise self._refused(error) from error
        self._task = self._prepared(task, create=False)

    def _prepared(self, task: Any, *, create: bool) -> Any:
        arguments = sys.argv
        try:
            with _python_logging():
                return task.prepareTask(
                    root=self.settings.root,
                    mode=self.settings.mode,
                    create=create,
                    ignoreIngested=True,
                    **self.settings.options,
                )
        except SystemExit as error:
            raise Misconfigured(
                f"root: {self.settings.task} refuses {self.settings.root} (exit {error.code})"
            ) from None
        except (ImportError, AttributeError) as error:
            mapper = os.path.join(self.settings.root, "_mapper")
            raise Misconfigured(
                f"root: the mapper that {mapper} names cannot be imported ({error}); set up its "
                "package before dbb-ingester, or correct the file"
            ) from error
        finally:
            sys.argv = arguments

    def version(self) -> str:
        package = sys.modules.get(type(self._task).__module__.rpartition(".")[0])
        return str(getattr(package, "__version__", ""))

    # ---- ingesting ----

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        waiting: list[_Parsed] = []
        claimed: set[str] = set()
        again = []
        for file in files:
            unfit = self._unfit(file)
            if unfit is not None:
                yield unfit
                continue
            try:
                parsed = self._parsed(file)
                judged = self._judge(parsed)
            except (NotReady, Misconfigured):
                raise
            except Exception as error:  # noqa: BLE001 (a parser is the instrument's)
                self._raise_if_away(error)
                result = Result.LATER if disk_away(error) else Result.FAILED
                yield Outcome(file.number, result, f"cannot be parsed: {_said(error)}")
                continue
            if judged is not None:
                yield judged
            elif (name := self._named(parsed)) in claimed:
                # Two files that claim to be the same: the second is judged when the first is in.
                again.append(file)
            else:
                claimed.add(name)
                waiting.append(parsed)
        while waiting:
            if self.settings.mode == "skip":
                self._remember(waiting)
            stopped, why, unfinished = self._run([parsed.file.path for parsed in waiting])
            for parsed in waiting[:stopped]:
                yield self._confirmed(parsed, why, unfinished)
            waiting = waiting[stopped:]
        if again:
            yield from self.ingest(again)

    def _unfit(self, file: StoredFile) -> Outcome | None:
        """Return why a file is not given to the task, which takes what is cut short."""
        try:
            fits.walk(file.path, count=self.settings.nextend)
        except fits.NoFits:
            # Whether the instrument's parser takes it is for that to say.
            return None
        except fits.Damaged as error:
            return Outcome(file.number, Result.NEVER, str(error))
        except FileNotFoundError:
            # The task would log a warning and call it a success.
            return Outcome(file.number, Result.FAILED, "no such file")
        except OSError as error:
            result = Result.LATER if disk_away(error) else Result.FAILED
            return Outcome(file.number, result, f"cannot be read: {error.strerror or error}")
        return None

    def _remember(self, waiting: Sequence[_Parsed]) -> None:
        try:
            self._origins.intend((self._named(one), one.file.path) for one in waiting)
        except (sqlite3.Error, OSError) as error:
            raise NotReady(f"state of target {self.context.target}: {error}") from error

    def _confirmed(self, parsed: _Parsed, why: str, unfinished: Result) -> Outcome:
        """Return what became of a file that was given to the task."""
        judged = self._judge(parsed)
        if judged is None:
            return Outcome(parsed.file.number, unfinished, why or "the task wrote no row for it")
        if judged.result is Result.ALREADY:
            return Outcome(parsed.file.number, Result.DONE, self._named(parsed))
        return judged

    def _run(self, paths: Sequence[str]) -> tuple[int, str, Result]:
        """Run the task once; return how many files it has tried, and what went wrong."""
        arguments = sys.argv
        try:
            with _python_logging(), _warnings() as words:
                self._task.ingestFiles([glob.escape(path) for path in paths])
        except SystemExit as error:
            raise Misconfigured(f"{self.settings.task} leaves with exit {error.code}") from None
        except Exception as error:  # (IngestError, and whatever obs packages add)
            self._raise_if_away(error)
            culprit = getattr(error, "pathname", None)
            if culprit not in paths and isinstance(error, OSError):
                # It came before the first file: the registry could not be opened.
                raise self._refused(error) from error
            tried = paths.index(culprit) + 1 if culprit in paths else len(paths)
            # A disk that fails may fail for this one file alone, so the others are tried.
            return tried, _said(error), Result.LATER if disk_away(error) else Result.FAILED
        finally:
            sys.argv = arguments
        return len(paths), "; ".join(words[-1:]), Result.FAILED

    def _raise_if_away(self, error: BaseException) -> None:
        """Raise what says so if an error came from the registry.

        The task wraps what the registry says, twice for a row that cannot be added.
        """
        for one in chain(error):
            # (Registries on PostgreSQL have an error of this name too.)
            if isinstance(one, sqlite3.OperationalError) or (
                type(one).__name__ == "OperationalError"
            ):
                raise self._refused(one) from error

    def _refused(self, error: BaseException) -> NotReady | Misconfigured:
        """Return what to raise when the registry cannot be used."""
        text = f"registry of {self.settings.root}: {_said(error)}"
        # An error in the statement: there is no such table, or it has not the columns.
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
            return Misconfigured(f"{text}; was it made by another task, or another release?")
        return NotReady(text)

    def _parsed(self, file: StoredFile) -> _Parsed:
        """Read what the registry will hold of a file."""
        with _python_logging():
            first, infos = self._task.parse.getInfo(file.path)
            # The butler is where prepareTask keeps it.
            butler = self._task._args.butler
            destination = self._task.parse.getDestination(butler, first, file.path)
        return _Parsed(file, list(infos), os.path.join(self.settings.root, destination))

    def _judge(self, parsed: _Parsed) -> Outcome | None:
        """Compare with what is there already; None if the file is still to be ingested."""
        file, destination = parsed.file, parsed.destination
        name = self._named(parsed)
        registered = self._registered(parsed.infos)
        if self.settings.mode == "skip":
            return self._judge_by_origin(parsed) if registered else None
        there = os.path.lexists(destination)
        moved = self.settings.mode == "move" and not os.path.exists(file.path)
        if registered and there and (moved or _same(destination, file.path)):
            return Outcome(file.number, Result.ALREADY, f"{name}, registered before")
        if not registered and os.path.islink(destination) and _same(destination, file.path):
            # A kill came between the link and the row; the task would stumble over it for ever.
            os.unlink(destination)
            there = False
        if not registered and there and self._is_interrupted_copy(parsed):
            os.unlink(destination)
            there = False
        if not registered and not there:
            return None
        shown = os.path.realpath(destination)
        if registered and there:
            message = f"{name} is there already, from {shown}; this is {file.path}"
        elif registered:
            message = f"{name} is registered, but {destination} is not there"
        else:
            message = f"{destination} is there already ({shown}), but not registered"
        return Outcome(file.number, Result.FAILED, message)

    def _judge_by_origin(self, parsed: _Parsed) -> Outcome:
        """Compare with the file that a row is from, which the registry does not say."""
        file, destination, name = parsed.file, parsed.destination, self._named(parsed)
        try:
            origin = self._origins.of(name)
        except sqlite3.Error as error:
            raise NotReady(f"state of target {self.context.target}: {error}") from error
        if origin == file.path:
            return Outcome(file.number, Result.ALREADY, f"{name}, registered before")
        for other in filter(None, (origin, destination)):
            if _same(other, file.path):
                message = f"{name}, registered before, the same content in {other}"
                return Outcome(file.number, Result.ALREADY, message)
        whose = origin
        if whose is None and os.path.lexists(destination):
            whose = destination
        if whose is None:
            message = (
                f"{name} is registered, from a file that is not known ({destination} is not "
                f"there); this is {file.path}"
            )
        else:
            message = f"{name} is registered already, from {whose}; this is {file.path}"
        return Outcome(file.number, Result.FAILED, message)

    def _is_interrupted_copy(self, parsed: _Parsed) -> bool:
        """Return whether what lies at the destination is what a kill left of copying this file."""
        if self.settings.mode not in ("copy", "move"):
            return False
        try:
            return _begins_like(parsed.destination, parsed.file.path)
        except OSError:
            return False

    def _named(self, parsed: _Parsed) -> str:
        unique = self._task.register.config.unique
        return ", ".join(f"{column} {parsed.infos[0].get(column)}" for column in unique)

    # ---- the registry ----

    def _sqlite(self) -> str:
        return os.path.join(self.settings.root, "registry.sqlite3")

    def _has_registry(self) -> bool:
        others = (self._sqlite(), os.path.join(self.settings.root, "registry.pgsql"))
        return any(map(os.path.exists, others))

    def _registered(self, infos: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether the registry has a row for each part of a file."""
        register = self._task.register
        if not os.path.exists(self._sqlite()):
            with register.openRegistry(self.settings.root, create=False, dryrun=False) as registry:
                return all(register.check(registry, info) for info in infos)
        # Not by openRegistry, which sets the registry's mode and would make a table.
        where = " AND ".join(f'"{column}" IS ?' for column in register.config.unique)
        query = f'SELECT 1 FROM "{register.config.table}" WHERE {where}'
        try:
            address = f"file:{urllib.parse.quote(self._sqlite())}?mode=ro"
            with closing(sqlite3.connect(address, uri=True)) as db:
                return all(
                    db.execute(query, [info.get(one) for one in register.config.unique]).fetchone()
                    for info in infos
                )
        except sqlite3.OperationalError as error:
            raise self._refused(error) from error

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]]:
        for file in files:
            try:
                parsed = self._parsed(file)
            except Exception:  # noqa: BLE001
                yield file.number, False
            else:
                yield file.number, self._registered(parsed.infos)


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other) or filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _begins_like(copy: str, original: str) -> bool:
    """Return whether a regular file is another one, or a beginning of it."""
    if os.path.islink(copy) or not os.path.isfile(copy) or os.path.samefile(copy, original):
        return False
    with open(copy, "rb") as one, open(original, "rb") as other:
        while piece := one.read(1 << 20):
            if other.read(len(piece)) != piece:
                return False
    return True


def _said(error: BaseException) -> str:
    """One line: the error and what it came from, outermost first."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if error.__cause__ is None else f"{text}; from {_said(error.__cause__)}"


@contextmanager
def _python_logging() -> Iterator[None]:
    """Send what the stack logs to Python's logging, where the stack has its own."""
    try:
        from lsst.log import UsePythonLogging
    except ImportError:
        yield
        return
    with UsePythonLogging():
        yield


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect warnings that are logged meanwhile."""
    collected: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            collected.append(record.getMessage())

    handler = Collector(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        yield collected
    finally:
        logging.getLogger().removeHandler(handler)
