"""Make a Gen3 repository, or complete one, so that raw files of an instrument can be ingested.

* written first: nothing
* done: a new repository is made beside its place, as ``unfinished-NAME``, and then renamed
* recorded: each dimension record by a transaction of its own
* recovery: an unfinished repository is removed and made anew; what is registered is left as it is
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lsst.daf.butler import Butler, CollectionType, Config, DatasetType, StorageClassFactory
from lsst.daf.butler.registry import ConflictingDefinitionError

from dbbbatch.errors import ConfigError
from dbbbatch.targets.butler import fits, headers, instruments
from dbbbatch.targets.butler.outcomes import error_text
from dbbbatch.targets.butler.repository import RAW_DIMENSIONS, Repository
from dbbbatch.targets.butler.settings import FORMATTER, Gen3Settings
from dbbbatch.targets.butler.stack import find_class
from dbbbatch.targets.failures import first_line

#: Storage class of raw files that astropy can read, in repositories made here.
READABLE = "RawFits"
#: Limits for an instrument that only its files describe: no exposure id is larger.
LARGE = 2**53
#: An element's key within an instrument, and what an operator calls its records.
_ELEMENTS = {"detector": ("id", "detectors"), "physical_filter": ("name", "filters")}


def prepare(
    settings: Gen3Settings,
    instrument: str,
    *,
    storage_class: str = "",
    registry: Mapping[str, str] | None = None,
    files: Sequence[str] = (),
    update: bool = False,
) -> Iterator[str]:
    """Make or complete a repository.

    Parameters
    ----------
    settings : `Gen3Settings`
        The repository (a directory that does not exist is made), its run and dataset type, and
        modules with header translators of the site's own.
    instrument : `str`
        Name of the instrument.
    storage_class : `str`
        Storage class of a new dataset type: ``Exposure`` for the LSST stack; by default, what
        astropy can read, where the repository knows it.
    registry : mapping
        Database of a new repository: ``db``, its URL, and ``namespace``, a schema in it; by
        default SQLite in the repository's directory.
    files : sequence of `str`
        Sample files, to learn detectors from (all of them, for an instrument that is not known).
    update : `bool`
        Change records of the instrument that differ from what is known of it.

    Yields
    ------
    done : `str`
        What was done, a line each.

    Raises
    ------
    ConfigError, dbbbatch.targets.plugin.Misconfigured
        If it cannot be done; the message says what to do.
    dbbbatch.targets.plugin.NotReady
        If the repository is away.
    """
    headers.load_translators(settings.translators)
    known = instruments.INSTRUMENTS
    if instrument not in known and not files:
        raise ConfigError(
            f"instrument {instrument!r} is not known; known: {', '.join(sorted(known))}; "
            "for another one, give a file of each of its detectors with --files"
        )
    where = settings.repo
    if os.path.isabs(where) and not (os.path.isdir(where) and os.listdir(where)):
        yield _make(where, registry)
    repository = Repository(where)
    try:
        preparation = _Preparation(repository, instrument, update=update)
        yield from preparation.register_instrument()
        yield from preparation.register_samples(files)
        yield from preparation.register_type(settings.dataset_type, storage_class)
        yield from preparation.register_run(settings.run)
    finally:
        repository.close()


def is_alias(where: str) -> bool:
    """Return whether a repository is named by a URI or an alias, rather than by its directory."""
    return "://" in where or where in Butler.get_known_repos()


def _make(where: str, registry: Mapping[str, str] | None) -> str:
    seed: dict[str, Any] = {
        "storageClasses": {READABLE: {"pytype": "astropy.io.fits.HDUList"}},
        "datastore": {"formatters": {READABLE: FORMATTER}},
    }
    if registry:
        seed["registry"] = dict(registry)
    # Made beside its place, so that a kill leaves no half of a repository under its name; without
    # a dot, because what follows one is taken for the extension of a file.
    parent, name = os.path.split(where)
    unfinished = os.path.join(parent, f"unfinished-{name.replace('.', '-')}")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        os.makedirs(parent, exist_ok=True)
        Butler.makeRepo(unfinished, config=Config(seed))
        os.rename(unfinished, where)
    except Exception as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        hint = ""
        if "btree_gist" in str(error):
            hint = "; an administrator of the database must run CREATE EXTENSION btree_gist in it"
        elif type(error).__name__ == "SchemaAlreadyDefinedError":
            hint = (
                " It holds a repository, or the rest of an interrupted attempt: drop that schema, "
                "or choose another one with --namespace"
            )
        raise ConfigError(
            f"repository {where} cannot be made: {error_text(error)}{hint}"
        ) from error
    return f"repository {where}"


class _Preparation:
    """Registers in an open repository what raw files of an instrument need."""

    def __init__(self, repository: Repository, instrument: str, *, update: bool) -> None:
        self._repository = repository
        self._registry = repository.butler.registry
        self._instrument = instrument
        self._update = update

    def register_instrument(self) -> Iterator[str]:
        name = self._instrument
        row = instruments.INSTRUMENTS.get(name)
        if row is None:
            return
        class_name = row["class_name"]
        try:
            stack = find_class(class_name)
        except ImportError:
            if self._sync("instrument", row):
                yield f"instrument {name}"
            filters = [
                {"instrument": name, "name": filter_name, "band": band}
                for filter_name, band in instruments.filters(name).items()
            ]
            yield from self._complete("detector", instruments.detectors(name))
            yield from self._complete("physical_filter", filters)
            return
        try:
            stack().register(self._registry, **({"update": True} if self._update else {}))
        except ConflictingDefinitionError as error:
            raise self._differs(f"{class_name} of the stack", error) from error
        yield f"instrument {name}, its detectors and filters (by {class_name})"

    def _complete(self, element: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
        """Insert the records that are missing, and correct those that had no value."""
        key, plural = _ELEMENTS[element]
        found = self._repository.records(element, self._instrument)
        there = {getattr(record, key): record.toDict() for record in found}
        missing = [row for row in rows if row[key] not in there]
        if missing:
            self._registry.insertDimensionData(element, *missing, skip_existing=True)
        count = len(missing)
        for row in rows:
            held = there.get(row[key], row)
            if any(held.get(name) != value for name, value in row.items()):
                # The band of a filter that was registered before it was known is its own name.
                unknown = element == "physical_filter" and held["band"] == held["name"]
                count += self._sync(element, row, update=self._update or unknown)
        if count:
            yield f"{count} {plural} of {self._instrument}"

    def register_samples(self, files: Sequence[str]) -> Iterator[str]:
        name = self._instrument
        for path in files:
            try:
                infos = headers.observations(os.path.abspath(path))
            except (fits.Unusable, OSError) as error:
                raise ConfigError(f"{path}: {error}") from error
            for info in infos:
                if info.instrument != name:
                    raise ConfigError(f"{path} is of {info.instrument}, not of {name}")
                if name not in self._repository.instrument_classes():
                    row: dict[str, Any] = {"name": name, "class_name": "", "visit_system": 0}
                    row |= dict.fromkeys(("visit_max", "exposure_max", "detector_max"), LARGE)
                    self._sync("instrument", row)
                    yield f"instrument {name}"
                number = info.detector_num
                records = self._repository.records("detector", name)
                if number not in {record.id for record in records}:
                    full_name = _full_name(info)
                    row = {"instrument": name, "id": number, "full_name": full_name}
                    self._sync("detector", row)
                    yield f"detector {number} of {name} ({full_name})"

    def register_type(self, name: str, storage_class: str) -> Iterator[str]:
        if self._repository.registered_type(name) is not None:
            return
        if not storage_class:
            storage_class = READABLE if READABLE in StorageClassFactory() else "Exposure"
        universe = self._repository.butler.dimensions
        try:
            self._registry.registerDatasetType(
                DatasetType(name, RAW_DIMENSIONS, storage_class, universe=universe)
            )
        except (ConflictingDefinitionError, KeyError, ValueError) as error:
            raise ConfigError(f"dataset type {name!r}: {first_line(error)}") from error
        yield f"dataset type {name} ({storage_class})"

    def register_run(self, template: str) -> Iterator[str]:
        run = template.format(instrument=self._instrument)
        if self._repository.butler.collections.register(run, CollectionType.RUN):
            yield f"collection {run}"

    def _sync(self, element: str, row: dict[str, Any], *, update: bool | None = None) -> bool:
        """Insert a record of which the repository's universe may not have every column."""
        columns = set(self._repository.butler.dimensions[element].RecordClass.fields.names)
        row = {name: value for name, value in row.items() if name in columns}
        update = self._update if update is None else update
        try:
            return bool(self._registry.syncDimensionData(element, row, update=update))
        except ConflictingDefinitionError as error:
            named = row.get("name", row.get("full_name"))
            raise self._differs(f"{element} {named!r} as dbbbatch knows it", error) from error

    def _differs(self, whose: str, error: Exception) -> ConfigError:
        return ConfigError(
            f"repository {self._repository.where} has a record that differs from {whose}: "
            f"{first_line(error)}; it was left as it is. Records that were registered by hand, by "
            "another release or with a guessed band do that; if the new ones are right, repeat "
            "with --update"
        )


def _full_name(info: Any) -> str:
    # The name is no part of what an exposure needs, so it may be missing from a header.
    try:
        return str(info._translator.to_detector_unique_name())
    except Exception:  # noqa: BLE001 (a translator raises many kinds)
        return str(info.detector_num)
