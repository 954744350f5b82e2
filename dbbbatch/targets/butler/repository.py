"""A repository as a plugin sees it: opened with errors an operator understands, asked in bulk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
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

#: Tries of a database that says it is away, before the pass is ended.
REGISTRY_TRIES = 3
#: Dimensions of a raw file.
RAW_DIMENSIONS = {"instrument", "exposure", "detector"}
#: Ids that one query asks for at most (SQLite takes 32766 values in a statement).
_IDS = 5000


def database_away(error: BaseException) -> str | None:
    """Return what the repository's database said, if an error means that it is away or busy."""
    for one in chain(error):
        if isinstance(
            one,
            sqlalchemy.exc.OperationalError
            | sqlalchemy.exc.InterfaceError
            | sqlalchemy.exc.TimeoutError,
        ) or (isinstance(one, sqlalchemy.exc.DBAPIError) and one.connection_invalidated):
            return first_line(one)
    return None


class Repository:
    """An open Butler repository.

    Parameters
    ----------
    where : `str`
        Directory, URI or alias of the repository.

    Raises
    ------
    NotReady
        If it is away: not mounted, its database down.
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
        if os.path.isdir(where) and not os.listdir(where):
            raise NotReady(f"repository {where} is empty (not mounted?); if it is new, {prepare}")
        try:
            # A directory with a dot in its name would be taken for a file.
            directory = os.path.isdir(where)
            config = ButlerConfig(ResourcePath(where, forceDirectory=True) if directory else where)
            self._check_sqlite(config)
            return Butler.from_config(config, writeable=True)
        except (NotReady, Misconfigured):
            raise
        except FileNotFoundError as error:
            raise Misconfigured(f"there is no repository {where} ({error}); {prepare}") from error
        except Exception as error:
            # PostgreSQL and its password: nothing that waiting would mend.
            if "authentication failed" in str(error) or "no password" in str(error):
                raise Misconfigured(f"repository {where}: {first_line(error)}") from error
            if why := database_away(error):
                raise NotReady(f"repository {where}: its database is away: {why}") from error
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
        """Let go of the database."""
        # A release without Butler.close lets go when collected.
        getattr(self.butler, "close", lambda: None)()

    def asking(self, call: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Make a call that asks the database, again if that is away for a moment.

        Raises
        ------
        NotReady
            If it stays away.
        Exception
            Whatever else the call raises.
        """
        try:
            for attempt in tenacity.Retrying(
                stop=tenacity.stop_after_attempt(REGISTRY_TRIES),
                wait=tenacity.wait_random(0.05, 0.5),
                # A locked SQLite database was waited for already, for minutes.
                retry=tenacity.retry_if_exception(
                    lambda error: "locked" not in (database_away(error) or "locked")
                ),
                reraise=True,
            ):
                with attempt:
                    return call(*args, **more)
        except Exception as error:
            self.raise_if_away(error)
            raise

    def raise_if_away(self, error: BaseException) -> None:
        """Raise `NotReady` if an error means that the database is away."""
        if why := database_away(error):
            raise NotReady(f"repository {self.where}: its database is away: {why}") from error

    # ---- what is registered ----

    def registered_type(self, name: str) -> DatasetType | None:
        """Return a dataset type, or None if the repository has none of this name."""
        try:
            return self.butler.get_dataset_type(name)
        except (MissingDatasetTypeError, KeyError):
            return None

    def dataset_type(self, name: str) -> DatasetType:
        """Return a dataset type that must be there, and be one of raw files."""
        found = self.registered_type(name)
        if found is None:
            raise Misconfigured(
                f"repository {self.where} has no dataset type {name!r}; complete it with: "
                f"dbb butler prepare --repo {self.where} --instrument NAME --dataset-type {name}"
            )
        required = set(found.dimensions.required)
        if required != RAW_DIMENSIONS:
            raise Misconfigured(
                f"dataset_type: {name!r} in {self.where} is of {', '.join(sorted(required))}, "
                f"not of {', '.join(sorted(RAW_DIMENSIONS))}"
            )
        return found

    def check_run(self, run: str) -> None:
        """See that a collection that exists can take files.

        Raises
        ------
        Misconfigured
            If it is one of other collections.
        """
        try:
            kind = self.butler.collections.get_info(run).type
        except MissingCollectionError:
            return
        if kind is not CollectionType.RUN:
            raise Misconfigured(f"run: collection {run!r} in {self.where} is {kind.name}, not RUN")

    def instruments(self) -> list[str]:
        """Return the names of the instruments that are registered."""
        return sorted(self.instrument_classes())

    def instrument_classes(self) -> dict[str, str]:
        """Return the stack's class of each registered instrument, by the instrument's name."""
        records = self._records("instrument", "", {})
        return {record.name: record.class_name or "" for record in records}

    def missing(self, instrument: str, detectors: set[int]) -> str | None:
        """Return what a file of these detectors needs that is not registered, and what to do."""
        if not detectors <= self._detectors.get(instrument, set()):
            # A person may have completed the repository meanwhile. (A bind that is named like a
            # dimension would stand for the dimension itself.)
            where, bind = "instrument = :of", {"of": instrument}
            if not list(self._records("instrument", where, bind)):
                return (
                    f"instrument {instrument!r} is not registered in {self.where}: "
                    f"dbb butler prepare --repo {self.where} --instrument {instrument}"
                )
            found = {record.id for record in self._records("detector", where, bind)}
            self._detectors[instrument] = found
            if absent := detectors - found:
                return (
                    f"detector {', '.join(map(str, sorted(absent)))} of {instrument} is not "
                    f"registered in {self.where}: "
                    f"dbb butler prepare --repo {self.where} --instrument {instrument} --files FILE"
                )
        return None

    def has_filter(self, instrument: str, name: str) -> bool:
        """Return whether a physical filter is registered."""
        if name not in self._filters.get(instrument, set()):
            self._filters[instrument] = {
                record.name
                for record in self._records(
                    "physical_filter", "instrument = :of", {"of": instrument}
                )
            }
        return name in self._filters[instrument]

    def exposures(self, instrument: str, ids: Iterable[int]) -> dict[int, DimensionRecord]:
        """Return the exposure records that exist of these."""
        found = {}
        for some in batched(sorted(set(ids)), _IDS):
            for record in self._records(
                "exposure",
                "instrument = :of AND exposure IN (:ids)",
                {"of": instrument, "ids": some},
            ):
                found[record.id] = record
        return found

    def datasets(
        self, dataset_type: DatasetType, run: str, instrument: str, exposures: Iterable[int]
    ) -> dict[DataCoordinate, DatasetRef]:
        """Return the datasets of these exposures that a run holds, by data id."""
        try:
            self.butler.collections.get_info(run)
        except MissingCollectionError:
            # The first file makes it.
            return {}
        found = {}
        for some in batched(sorted(set(exposures)), _IDS):
            for ref in self.butler.query_datasets(
                dataset_type,
                collections=run,
                find_first=False,
                where="instrument = :of AND exposure IN (:ids)",
                bind={"of": instrument, "ids": some},
                limit=None,
                explain=False,
            ):
                found[ref.dataId] = ref
        return found

    def artifact(self, ref: DatasetRef) -> str | None:
        """Return the path that is recorded for a dataset; None if its file was forgotten.

        (As after pruning it with ``unstore`` and without ``purge``, to point it elsewhere.)
        """
        try:
            return str(self.butler.getURI(ref).ospath)
        except FileNotFoundError:
            return None

    def _records(
        self, element: str, where: str, bind: Mapping[str, Any]
    ) -> Iterator[DimensionRecord]:
        yield from self.butler.query_dimension_records(
            element, where=where, bind=bind, limit=None, explain=False
        )
