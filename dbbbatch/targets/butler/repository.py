"""A Gen3 repository as a plugin sees it: opened with errors for an operator, queried in bulk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeVar, cast
from urllib.parse import unquote

import sqlalchemy.exc
import tenacity
from lsst.daf.butler import (
    Butler,
    ButlerConfig,
    CollectionType,
    DataCoordinate,
    DatasetRef,
    DatasetType,
    DimensionRecord,
    MissingCollectionError,
    MissingDatasetTypeError,
)
from lsst.resources import ResourcePath

from dbbbatch.files.batches import batched
from dbbbatch.targets.failures import chain, disk_away, first_line
from dbbbatch.targets.plugin import Misconfigured, NotReady

#: Instrument and number of an exposure.
ExposureKey = tuple[str, int]

#: Tries of a database that is away, before the pass ends.
REGISTRY_TRIES = 3
#: Dimensions of a raw file.
RAW_DIMENSIONS = {"instrument", "exposure", "detector"}
#: Ids in one query at most (SQLite takes 32766 values in a statement).
_IDS = 5000

_Method = TypeVar("_Method", bound=Callable[..., Any])


def database_away(error: BaseException) -> str | None:
    """Return the database's own message if an error means that it is away or busy."""
    for one in chain(error):
        if isinstance(
            one,
            sqlalchemy.exc.OperationalError
            | sqlalchemy.exc.InterfaceError
            | sqlalchemy.exc.TimeoutError,
        ) or (isinstance(one, sqlalchemy.exc.DBAPIError) and one.connection_invalidated):
            return first_line(one)
    return None


def _retried(method: _Method) -> _Method:
    """Make a method try again if the database is away for a moment, and then raise `NotReady`."""

    @wraps(method)
    def retried(self: Repository, *args: Any, **more: Any) -> Any:
        return self._query(method, self, *args, **more)

    return cast(_Method, retried)


class Repository:
    """An open Butler repository.

    Parameters
    ----------
    where : `str`
        Directory, URI or alias of the repository.

    Raises
    ------
    NotReady
        If it is away: not mounted, or its database down.
    Misconfigured
        If there is no repository, or it cannot be used.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._detectors: dict[str, set[int]] = {}
        self._filters: dict[str, set[str]] = {}
        self.butler = self._open()

    def _open(self) -> Butler:
        where = self.where
        prepare = f"make one with: dbb butler prepare --repo {where} --instrument NAME"
        if os.path.isabs(where) and not os.path.exists(where):
            raise NotReady(
                f"repository {where} does not exist (not mounted?); if it is new, {prepare}"
            )
        # A directory with a dot in its name would be taken for a file.
        directory = os.path.isdir(where)
        if directory and not os.listdir(where):
            raise NotReady(f"repository {where} is empty (not mounted?); if it is new, {prepare}")
        try:
            config = ButlerConfig(ResourcePath(where, forceDirectory=True) if directory else where)
            self._check_sqlite(config)
            return Butler.from_config(config, writeable=True)
        except NotReady:
            raise
        except FileNotFoundError as error:
            raise Misconfigured(f"there is no repository {where} ({error}); {prepare}") from error
        except Exception as error:
            # PostgreSQL and its password: waiting would not help.
            if "authentication failed" in str(error) or "no password" in str(error):
                raise Misconfigured(f"repository {where}: {first_line(error)}") from error
            self.raise_if_away(error)
            if disk_away(error):
                raise NotReady(f"repository {where}: {error}") from error
            raise Misconfigured(
                f"repository {where} cannot be opened: {type(error).__name__}: {first_line(error)}"
            ) from error

    def _check_sqlite(self, config: ButlerConfig) -> None:
        # SQLAlchemy would make an empty database where the file is away.
        url = str(config["registry", "db"])
        if url.startswith("sqlite:///"):
            root = str(config.configDir.ospath) if config.configDir else self.where
            file = unquote(url.removeprefix("sqlite:///").replace("<butlerRoot>", root))
            if not os.path.exists(file):
                raise NotReady(f"repository {self.where}: its database {file} does not exist")

    def close(self) -> None:
        """Close the connections to the database."""
        # Older releases have no Butler.close, and close them when collected.
        getattr(self.butler, "close", lambda: None)()

    def _query(self, call: Callable[..., Any], *args: Any, **more: Any) -> Any:
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(REGISTRY_TRIES),
            wait=tenacity.wait_random(0.05, 0.5),
            # The Butler has waited for a locked SQLite database already, for minutes.
            retry=tenacity.retry_if_exception(
                lambda error: "locked" not in (database_away(error) or "locked")
            ),
            reraise=True,
        )
        try:
            return retrying(call, *args, **more)
        except Exception as error:
            self.raise_if_away(error)
            raise

    def attempt(self, call: Callable[..., Any], *args: Any, **more: Any) -> Exception | None:
        """Make a call that needs the database, and return what it raised, if anything.

        Raises
        ------
        NotReady
            If the database is away, and not for a moment only.
        """
        try:
            self._query(call, *args, **more)
        except NotReady:
            raise
        except Exception as error:  # noqa: BLE001 (daf_butler and its database raise many kinds)
            return error
        return None

    def raise_if_away(self, error: BaseException) -> None:
        """Raise `NotReady` if an error means that the database is away."""
        if why := database_away(error):
            raise NotReady(f"repository {self.where}: its database is away: {why}") from error

    def registered_type(self, name: str) -> DatasetType | None:
        """Return a dataset type, or None if the repository has none of this name.

        Raises
        ------
        Misconfigured
            If it is not one of raw files.
        """
        try:
            found = self.butler.get_dataset_type(name)
        except (MissingDatasetTypeError, KeyError):
            return None
        required = set(found.dimensions.required)
        if required != RAW_DIMENSIONS:
            raise Misconfigured(
                f"dataset_type: {name!r} in {self.where} is of {', '.join(sorted(required))}, "
                f"not of {', '.join(sorted(RAW_DIMENSIONS))}"
            )
        return found

    def dataset_type(self, name: str) -> DatasetType:
        """Return a dataset type of raw files that must be registered."""
        found = self.registered_type(name)
        if found is None:
            raise Misconfigured(
                f"repository {self.where} has no dataset type {name!r}; complete it with: "
                f"dbb butler prepare --repo {self.where} --instrument NAME --dataset-type {name}"
            )
        return found

    def check_run(self, run: str) -> None:
        """Raise `Misconfigured` if a collection exists that cannot take files."""
        try:
            kind = self.butler.collections.get_info(run).type
        except MissingCollectionError:
            return
        if kind is not CollectionType.RUN:
            raise Misconfigured(f"run: collection {run!r} in {self.where} is {kind.name}, not RUN")

    def instrument_classes(self) -> dict[str, str]:
        """Return the stack's class of each registered instrument, by the instrument's name."""
        found = self.butler.query_dimension_records("instrument", limit=None, explain=False)
        return {record.name: record.class_name or "" for record in found}

    @_retried
    def missing(self, instrument: str, detectors: set[int]) -> str | None:
        """Return what a file of these detectors needs that is not registered, and what to do."""
        if detectors <= self._detectors.get(instrument, set()):
            return None
        # A person may have completed the repository meanwhile.
        prepare = f"dbb butler prepare --repo {self.where} --instrument {instrument}"
        if instrument not in self.instrument_classes():
            return f"instrument {instrument!r} is not registered in {self.where}: {prepare}"
        found = {record.id for record in self.records("detector", instrument)}
        self._detectors[instrument] = found
        if absent := detectors - found:
            return (
                f"detector {', '.join(map(str, sorted(absent)))} of {instrument} is not "
                f"registered in {self.where}: {prepare} --files FILE"
            )
        return None

    @_retried
    def has_filter(self, instrument: str, name: str) -> bool:
        """Return whether a physical filter is registered."""
        if name not in self._filters.get(instrument, set()):
            found = self.records("physical_filter", instrument)
            self._filters[instrument] = {record.name for record in found}
        return name in self._filters[instrument]

    def records(
        self, element: str, instrument: str, where: str = "", **bind: Any
    ) -> list[DimensionRecord]:
        """Return the dimension records of an instrument that fulfil a condition."""
        return self.butler.query_dimension_records(
            element, where=where, bind=bind, instrument=instrument, limit=None, explain=False
        )

    @_retried
    def exposures(self, keys: Iterable[ExposureKey]) -> dict[ExposureKey, DimensionRecord]:
        """Return the records of those exposures that are registered."""
        return {
            (instrument, record.id): record
            for instrument, ids in _in_chunks(keys)
            for record in self.records("exposure", instrument, "exposure IN (:ids)", ids=ids)
        }

    @_retried
    def datasets(
        self, dataset_type: DatasetType, run: str, keys: Iterable[ExposureKey]
    ) -> dict[DataCoordinate, DatasetRef]:
        """Return the datasets of these exposures that a run holds, by data id.

        Parameters
        ----------
        dataset_type : `DatasetType`
            The dataset type.
        run : `str`
            The run; ``{instrument}`` in it is filled in.
        keys : iterable of (`str`, `int`)
            Instruments and numbers of the exposures.
        """
        found = {}
        for instrument, ids in _in_chunks(keys):
            collection = run.format(instrument=instrument)
            try:
                self.butler.collections.get_info(collection)
            except MissingCollectionError:
                # The first file makes it.
                continue
            for ref in self.butler.query_datasets(
                dataset_type,
                collections=collection,
                find_first=False,
                where="exposure IN (:ids)",
                bind={"ids": ids},
                instrument=instrument,
                limit=None,
                explain=False,
            ):
                found[ref.dataId] = ref
        return found

    @_retried
    def artifact(self, ref: DatasetRef) -> str | None:
        """Return the path that is recorded for a dataset; None if its file was forgotten.

        (As after pruning it with ``unstore`` and without ``purge``, to point it elsewhere.)
        """
        try:
            return str(self.butler.getURI(ref).ospath)
        except FileNotFoundError:
            return None


def _in_chunks(keys: Iterable[ExposureKey]) -> Iterator[tuple[str, list[int]]]:
    """Yield each instrument with as many of its exposures as one query takes."""
    for instrument, some in groupby(sorted(set(keys)), itemgetter(0)):
        ids = (number for _, number in some)
        for batch in batched(ids, _IDS):
            yield instrument, batch
