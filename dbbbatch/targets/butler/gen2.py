"""The plugin ``butler-gen2``: raw files into a Gen2 Butler repository by the LSST stack's task.

* written first: with ``mode = "skip"``, from which file each row comes (`Origins`)
* done: one `ingestFiles` of the task, which places each file
* recorded: the task adds each file's row to the registry
* recovery: a link, or the beginning of a copy, that has no row is removed, to be made again

`lsst.pipe.tasks.ingest.IngestTask` has traps: it moves files unless another mode is chosen; it
rewrites ``sys.argv`` and ends by `SystemExit`; it takes names for patterns, and only logs one that
matches nothing; ``create`` replaces a registry that exists; after an error it does not try the rest
of a list; and it stumbles over a link whose row was never written. So its reports are not believed:
a file is ingested when its row is in the registry.
"""

from __future__ import annotations

import glob
import logging
import os
import sqlite3
import sys
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from logging.handlers import BufferingHandler
from typing import Any

from dbbbatch.targets.butler import fits
from dbbbatch.targets.butler.origins import Origins
from dbbbatch.targets.butler.outcomes import failed, same_content, unreadable
from dbbbatch.targets.butler.settings import GEN2_ARGUMENTS, Gen2Settings
from dbbbatch.targets.butler.stack import arguments, configured_class, find_class
from dbbbatch.targets.failures import chain
from dbbbatch.targets.plugin import (
    Context,
    Misconfigured,
    NotReady,
    Outcome,
    Plugin,
    Result,
    StoredFile,
)


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A file, its data id, a row for each part of it, and its path in the repository."""

    file: StoredFile
    name: str
    rows: list[dict[str, Any]]
    destination: str

    def outcome(self, result: Result, message: str) -> Outcome:
        return Outcome(self.file.number, result, message)


class ButlerGen2(Plugin):
    """Ingests raw files into a Gen2 repository."""

    name = "butler-gen2"
    Settings = Gen2Settings

    settings: Gen2Settings

    def __init__(self, settings: Gen2Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._task: Any = None
        self._sqlite = os.path.join(settings.root, "registry.sqlite3")
        self._origins = Origins(
            os.path.join(context.state, "butler-gen2", f"{context.target}.sqlite3")
        )

    def start(self) -> None:
        """Check the repository and prepare the task."""
        root = self.settings.root
        if not os.path.isdir(root) or not os.listdir(root):
            raise NotReady(f"root: {root} does not exist or is empty (not mounted?)")
        marks = (os.path.join(root, name) for name in ("_mapper", "repositoryCfg.yaml"))
        if not any(map(os.path.exists, marks)):
            raise Misconfigured(f"root: {root} is no Gen2 repository: it has no _mapper")
        advice = "set up the LSST stack (a release with lsst.pipe.tasks.ingest) before dbb-ingester"
        task = configured_class("task", self.settings.task, f"; {advice}")
        options = arguments("options", task.prepareTask, self.settings.options, GEN2_ARGUMENTS)
        registries = (self._sqlite, os.path.join(root, "registry.pgsql"))
        if not any(map(os.path.exists, registries)):
            if not self.settings.create:
                raise Misconfigured(f"root: {root} has no registry; create = true makes one")
            # Once and with no files: with a registry there, it would be replaced.
            try:
                self._prepared(task, options, create=True).ingestFiles([])
            except (sqlite3.Error, OSError) as error:
                raise self._registry_error(error) from error
        self._task = self._prepared(task, options, create=False)

    def _prepared(self, task: Any, options: Mapping[str, Any], *, create: bool) -> Any:
        root, mode = self.settings.root, self.settings.mode
        try:
            with self._contained():
                return task.prepareTask(
                    root=root, mode=mode, create=create, ignoreIngested=True, **options
                )
        except (ImportError, AttributeError) as error:
            mapper = os.path.join(root, "_mapper")
            raise Misconfigured(
                f"root: the mapper that {mapper} names cannot be imported ({error}); set up its "
                "package before dbb-ingester, or correct the file"
            ) from error

    @contextmanager
    def _contained(self) -> Iterator[list[logging.LogRecord]]:
        """Run the task's code without harm to this process, and collect what it warns of."""
        argv = sys.argv
        handler = BufferingHandler(sys.maxsize)
        handler.setLevel(logging.WARNING)
        logging.getLogger().addHandler(handler)
        try:
            # The stack may have a log of its own.
            to_python = find_class("lsst.log.UsePythonLogging")
        except ImportError:
            to_python = nullcontext
        try:
            with to_python():
                yield handler.buffer
        except SystemExit as error:
            raise Misconfigured(
                f"root: {self.settings.task} refuses {self.settings.root} (exit {error.code})"
            ) from None
        finally:
            logging.getLogger().removeHandler(handler)
            sys.argv = argv

    def version(self) -> str:
        """Return the version of the task's package."""
        package = sys.modules.get(type(self._task).__module__.rpartition(".")[0])
        return str(getattr(package, "__version__", ""))

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        """Ingest a batch; as `Plugin.ingest`."""
        waiting: dict[str, _Parsed] = {}
        again = []
        for file in files:
            parsed = self._examined(file)
            if isinstance(parsed, Outcome):
                yield parsed
            elif parsed.name in waiting:
                # Two files claim to be the same: the second is compared when the first is in.
                again.append(file)
            else:
                waiting[parsed.name] = parsed
        rest = list(waiting.values())
        while rest:
            self.intend(rest)
            tried, error, why = self.act(rest)
            for parsed in rest[:tried]:
                yield self._confirmed(parsed, error, why)
            rest = rest[tried:]
        if again:
            yield from self.ingest(again)

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]]:
        """Yield which files have their rows in the registry; as `Plugin.known`."""
        for file in files:
            try:
                rows = self._parsed(file).rows
            except Exception:  # noqa: BLE001 (an instrument's parser raises many kinds)
                yield file.number, False
            else:
                yield file.number, self._registered(rows)

    def _examined(self, file: StoredFile) -> _Parsed | Outcome:
        try:
            fits.walk(file.path, count=self.settings.nextend)
        except fits.NoFits:
            # The instrument's parser may read it.
            pass
        except (fits.Unusable, OSError) as error:
            # The task would take what is cut short, and call a missing file a success.
            return unreadable(file, error)
        try:
            parsed = self._parsed(file)
            return self.recover(parsed) or parsed
        except (NotReady, Misconfigured):
            raise
        except Exception as error:  # noqa: BLE001 (an instrument's parser raises many kinds)
            self._raise_if_away(error)
            return failed(file, error, f"cannot be parsed: {_with_causes(error)}")

    def _parsed(self, file: StoredFile) -> _Parsed:
        with self._contained():
            first, rows = self._task.parse.getInfo(file.path)
            # The butler is where prepareTask keeps it.
            butler = self._task._args.butler
            destination = self._task.parse.getDestination(butler, first, file.path)
        columns = self._task.register.config.unique
        name = ", ".join(f"{column} {rows[0].get(column)}" for column in columns)
        return _Parsed(file, name, list(rows), os.path.join(self.settings.root, destination))

    def intend(self, files: Sequence[_Parsed]) -> None:
        """Record from which files the rows will be, where the registry does not."""
        if self.settings.mode == "skip":
            with self._own_state():
                self._origins.intend((parsed.name, parsed.file.path) for parsed in files)

    def act(self, files: Sequence[_Parsed]) -> tuple[int, Exception | None, str]:
        """Run the task once; return how many files it has tried, and what went wrong."""
        paths = [parsed.file.path for parsed in files]
        try:
            with self._contained() as warnings:
                self._task.ingestFiles([glob.escape(path) for path in paths])
        except Misconfigured:
            raise
        except Exception as error:  # (IngestError, and whatever obs packages add)
            self._raise_if_away(error)
            culprit = getattr(error, "pathname", None)
            if culprit not in paths and isinstance(error, OSError):
                # It came before the first file: the registry could not be opened.
                raise self._registry_error(error) from error
            # A disk that fails may fail for this one file alone, so the others are tried.
            tried = paths.index(culprit) + 1 if culprit in paths else len(paths)
            return tried, error, _with_causes(error)
        return len(paths), None, warnings[-1].getMessage() if warnings else ""

    def _confirmed(self, parsed: _Parsed, error: Exception | None, why: str) -> Outcome:
        """Return what became of a file that the task has tried."""
        outcome = self.recover(parsed)
        if outcome is None:
            return failed(parsed.file, error, why or "the task wrote no row for it")
        if outcome.result is Result.ALREADY:
            return parsed.outcome(Result.DONE, parsed.name)
        return outcome

    def recover(self, parsed: _Parsed) -> Outcome | None:
        """Compare a file with what the repository holds, and remove what a kill left of it.

        Returns
        -------
        outcome : `Outcome` or `None`
            `None` if the file is still to be ingested.
        """
        path, name, destination = parsed.file.path, parsed.name, parsed.destination
        registered = self._registered(parsed.rows)
        if self.settings.mode == "skip":
            return self._compared_by_origin(parsed) if registered else None
        there = os.path.lexists(destination)
        if not registered:
            if there and self._is_interrupted(parsed):
                os.unlink(destination)
                there = False
            if not there:
                return None
            shown = os.path.realpath(destination)
            message = f"{destination} is there already ({shown}), but not registered"
        elif not there:
            message = f"{name} is registered, but {destination} is not there"
        else:
            moved = self.settings.mode == "move" and not os.path.exists(path)
            if moved or _same(destination, path):
                return parsed.outcome(Result.ALREADY, f"{name}, registered before")
            shown = os.path.realpath(destination)
            message = f"{name} is there already, from {shown}; this is {path}"
        return parsed.outcome(Result.FAILED, message)

    def _is_interrupted(self, parsed: _Parsed) -> bool:
        """Return whether a kill left what lies at the destination, which would be in the way."""
        path, destination = parsed.file.path, parsed.destination
        if os.path.islink(destination) and _same(destination, path):
            return True
        try:
            return self.settings.mode in ("copy", "move") and _begins_like(destination, path)
        except OSError:
            return False

    def _compared_by_origin(self, parsed: _Parsed) -> Outcome:
        """Compare a file with the one that a row is from, which the registry does not keep."""
        path, name, destination = parsed.file.path, parsed.name, parsed.destination
        with self._own_state():
            origin = self._origins.of(name)
        if origin == path:
            return parsed.outcome(Result.ALREADY, f"{name}, registered before")
        for other in filter(None, (origin, destination)):
            if _same(other, path):
                message = f"{name}, registered before, the same content in {other}"
                return parsed.outcome(Result.ALREADY, message)
        if origin is None and not os.path.lexists(destination):
            message = (
                f"{name} is registered, from a file that is not known ({destination} is not "
                f"there); this is {path}"
            )
        else:
            message = f"{name} is registered already, from {origin or destination}; this is {path}"
        return parsed.outcome(Result.FAILED, message)

    def _registered(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Return whether the registry has all rows of a file."""
        register = self._task.register
        if not os.path.exists(self._sqlite):
            with register.openRegistry(self.settings.root, create=False, dryrun=False) as registry:
                return all(register.check(registry, row) for row in rows)
        # Not by openRegistry, which sets the registry's mode and would make a table.
        columns = register.config.unique
        where = " AND ".join(f'"{column}" IS ?' for column in columns)
        query = f'SELECT 1 FROM "{register.config.table}" WHERE {where}'
        address = f"file:{urllib.parse.quote(self._sqlite)}?mode=ro"
        try:
            with closing(sqlite3.connect(address, uri=True)) as registry:
                return all(
                    registry.execute(query, [row.get(column) for column in columns]).fetchone()
                    for row in rows
                )
        except sqlite3.OperationalError as error:
            raise self._registry_error(error) from error

    def _raise_if_away(self, error: BaseException) -> None:
        """Raise `NotReady` or `Misconfigured` if an error came from the registry.

        The task wraps what the registry raises, twice for a row that cannot be added.
        """
        for one in chain(error):
            # (Registries on PostgreSQL have an error of this name too.)
            if type(one).__name__ == "OperationalError":
                raise self._registry_error(one) from error

    def _registry_error(self, error: BaseException) -> NotReady | Misconfigured:
        text = f"registry of {self.settings.root}: {_with_causes(error)}"
        # An error in the statement: the table or a column is missing.
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:
            return Misconfigured(f"{text}; was it made by another task, or another release?")
        return NotReady(text)

    @contextmanager
    def _own_state(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise NotReady(f"state of target {self.context.target}: {error}") from error


def _same(one: str, other: str) -> bool:
    try:
        return same_content(one, other)
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


def _with_causes(error: BaseException) -> str:
    """Return one line: the error and its causes, outermost first."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if error.__cause__ is None else f"{text}; from {_with_causes(error.__cause__)}"
