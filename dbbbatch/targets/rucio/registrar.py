"""Registers files with a Rucio server in bulk; needs the package `rucio-clients`.

A batch costs three calls: what the server has, registration, attachment. The server accepts a
replica that contradicts the one it has and silently keeps the old one, so they are compared here.
Every step can be repeated; a bulk that is refused is repeated in halves.
"""

from __future__ import annotations

import inspect
import random
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from rucio.common import exception as rucio

from dbbbatch.targets.plugin import Misconfigured, NotReady, Outcome, Result
from dbbbatch.targets.rucio import errors
from dbbbatch.targets.rucio.entry import DATASET, METADATA, REPLICA, Did, Registration

#: Tries of a call that collides with another one in the server's database.
SERVER_TRIES = 5


class Registrar:
    """Takes files through the steps of their registration.

    Parameters
    ----------
    client : `rucio.client.Client`
        Logged in.
    settings : `dbbbatch.targets.rucio.plugin.RucioSettings`
        Where and how.
    """

    def __init__(self, client: Any, settings: Any) -> None:
        self._client = client
        self._settings = settings
        # Where the plugin of metadata can be named, its default differs between versions.
        named = "plugin" in inspect.signature(client.get_metadata_bulk).parameters
        self._columns = {"plugin": "DID_COLUMN"} if named else {}
        #: Datasets that exist with their rule.
        self._ready: set[Did] = set()

    def register(self, entries: list[Registration]) -> Iterator[Outcome]:
        """Take files through all steps; if a step is refused, halves of them.

        Parameters
        ----------
        entries : `list` [`Registration`]
            At most as many as one call may name, no two with the same name.

        Yields
        ------
        outcome : `Outcome`
            One for each.

        Raises
        ------
        NotReady, Misconfigured
            No file can be registered now, or as configured.
        """
        step = REPLICA
        try:
            datasets = sorted({entry.dataset for entry in entries if entry.dataset} - self._ready)
            existing = self._compare([e for e in entries if REPLICA not in e.parts], datasets)
            for entry in entries:
                if entry.difference:
                    yield entry.outcome(
                        Result.FAILED, f"{entry.scope}:{entry.name} is {entry.difference}"
                    )
            entries = [entry for entry in entries if not entry.difference]
            if not entries:
                return
            self._make_datasets(datasets, existing)
            self._add([entry for entry in entries if REPLICA not in entry.parts])
            step = DATASET
            self._attach([entry for entry in entries if DATASET not in entry.parts])
            step = "rule"
            self._add_rules([entry.did for entry in entries if entry.dataset is None])
            step = "metadata"
            self._describe([entry for entry in entries if METADATA not in entry.parts])
        except (NotReady, Misconfigured):
            raise
        except Exception as error:  # noqa: BLE001 (sorted in _explain)
            if isinstance(error, rucio.DataIdentifierNotFound):
                # Somebody has removed a dataset: it is made again.
                self._ready.clear()
            if len(entries) == 1:
                yield self._explain(entries[0], step, error)
                return
            half = len(entries) // 2
            yield from self.register(entries[:half])
            yield from self.register(entries[half:])
        else:
            for entry in entries:
                yield entry.outcome(
                    Result.DONE if entry.new else Result.ALREADY,
                    f"{entry.scope}:{entry.name} on {self._settings.rse}"
                    + (f", in {':'.join(entry.dataset)}" if entry.dataset else "")
                    + ("" if entry.new else ", registered before"),
                )

    def _explain(self, entry: Registration, step: str, error: Exception) -> Outcome:
        """Return what a refusal means for the one file that it is about."""
        text = errors.said(error)
        kind = errors.sort(error)
        if kind is errors.Sort.BUSY:
            return entry.outcome(Result.LATER, text)
        if entry.parts:
            return entry.outcome(Result.PARTLY, f"{step}: {text}")
        if kind is errors.Sort.NEVER:
            if "/" in entry.name and errors.forbids_slash(text):
                raise Misconfigured(
                    f"name: this server allows no / in names, as in {entry.name!r} (nor do those "
                    "of Rucio 35): make them of the file's own name and groups of `pattern`, such "
                    'as "{filename}" or "{night}_{filename}"'
                ) from error
            return entry.outcome(Result.NEVER, f"{entry.scope}:{entry.name}: {text}")
        return entry.outcome(Result.FAILED, text)

    def _compare(
        self, entries: list[Registration], datasets: Iterable[Did] = ()
    ) -> Collection[Did]:
        """Mark the entries that the element has, or from which the server's record differs.

        Returns
        -------
        existing : collection of `Did`
            The names that the server knows, those of datasets included.
        """
        existing = self.there([*(entry.did for entry in entries), *datasets])
        same = []
        for entry in entries:
            if (held := existing.get(entry.did)) is not None:
                entry.known = True
                if difference := _difference(held, entry.described):
                    entry.difference = f"there already and differs: {difference}"
                else:
                    same.append(entry)
        replicas = self._replicas([entry.did for entry in same])
        for entry in same:
            if (replica := replicas.get(entry.did)) is not None:
                if difference := self._contradiction(entry, replica):
                    entry.difference = f"on {self._settings.rse} already{difference}"
                else:
                    entry.parts.add(REPLICA)
        return existing

    def there(self, dids: Sequence[Did]) -> dict[Did, dict[str, Any]]:
        """Return what the server knows of files or datasets with these names."""
        if not dids:
            return {}
        found = self._call(self._client.get_metadata_bulk, _as_dicts(dids), **self._columns)
        return {(held["scope"], held["name"]): held for held in found}

    def holds(self, entries: list[Registration]) -> set[Did]:
        """Return which files the storage element has unchanged, as far as their sums are known."""
        for entry in entries:
            entry.parts.discard(REPLICA)
        self._compare(entries)
        return {entry.did for entry in entries if REPLICA in entry.parts}

    def _replicas(self, dids: Sequence[Did]) -> dict[Did, dict[str, Any]]:
        """Return the storage element's replicas of these files.

        Servers keep size and checksums of each replica beside those of the file.
        """
        if not dids:
            return {}
        rse = self._settings.rse
        found = self._call(
            self._client.list_replicas, _as_dicts(dids), rse_expression=rse, all_states=True
        )
        return {
            (replica["scope"], replica["name"]): replica
            for replica in found
            if replica.get("rses", {}).get(rse)
        }

    def _contradiction(self, entry: Registration, replica: Mapping[str, Any]) -> str:
        """Return how a replica differs from the file that is to be registered, or ''."""
        if difference := _difference(replica, entry.described):
            return f" and differs: {difference}"
        pfn = replica["rses"][self._settings.rse][0]
        return "" if _plain_pfn(pfn) == _plain_pfn(entry.pfn) else f", at {pfn}, not at {entry.pfn}"

    def _make_datasets(self, datasets: Iterable[Did], existing: Collection[Did]) -> None:
        """Make the datasets that are missing, each with its rule."""
        for dataset in datasets:
            if dataset not in existing:
                with suppress(rucio.DataIdentifierAlreadyExists):
                    self._call(self._client.add_dataset, *dataset)
            # Also for one that exists: a kill may have come between the two.
            with suppress(rucio.DuplicateRule):
                self._add_rule([dataset])
            self._ready.add(dataset)

    def _add_rules(self, dids: list[Did]) -> None:
        """Make a rule for each file that has none yet."""
        try:
            self._add_rule(dids)
        except rucio.DuplicateRule:
            for did in dids:
                with suppress(rucio.DuplicateRule):
                    self._add_rule([did])

    def _add_rule(self, dids: list[Did]) -> None:
        settings = self._settings
        if dids and settings.rule_rses:
            self._call(
                self._client.add_replication_rule,
                _as_dicts(dids),
                settings.rule_copies,
                settings.rule_rses,
                lifetime=int(settings.rule_lifetime) or None,
            )

    def _add(self, entries: list[Registration]) -> None:
        if not entries:
            return
        # The server takes this metadata in the same transaction, but only for files new to it.
        files = [
            entry.described
            | {"pfn": entry.pfn}
            | ({} if entry.known or not entry.metadata else {"meta": entry.metadata})
            for entry in entries
        ]
        self._call(self._client.add_replicas, self._settings.rse, files)
        for entry in entries:
            entry.parts.add(REPLICA)
            entry.new = True
            if entry.metadata and not entry.known:
                entry.parts.add(METADATA)

    def _attach(self, entries: list[Registration]) -> None:
        by_dataset: dict[Did, list[Registration]] = {}
        for entry in entries:
            if entry.dataset is not None:
                by_dataset.setdefault(entry.dataset, []).append(entry)
        attachments = [
            # Without the element: with it, this call would register what it does not know.
            {"scope": scope, "name": name, "dids": [entry.described for entry in some]}
            for (scope, name), some in by_dataset.items()
        ]
        if attachments:
            self._call(self._client.add_files_to_datasets, attachments, ignore_duplicate=True)
        for entry in entries:
            if entry.dataset is not None:
                entry.parts.add(DATASET)

    def _describe(self, entries: list[Registration]) -> None:
        described = [
            {"scope": entry.scope, "name": entry.name, "meta": entry.metadata}
            for entry in entries
            if entry.metadata
        ]
        if described:
            self._call(self._client.set_dids_metadata_bulk, described)

    def _call(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Make a call, again if it collided with another one in the server's database.

        Returns
        -------
        answer
            As a list, if the client yields it.

        Raises
        ------
        NotReady
            The server is unavailable.
        Misconfigured
            It would refuse every file.
        Exception
            It refuses these files.
        """
        for attempt in range(1, SERVER_TRIES + 1):
            try:
                answer = call(*args, **kwargs)
                return list(answer) if isinstance(answer, Iterator) else answer
            except Exception as error:
                kind = errors.sort(error)
                if kind is errors.Sort.AWAY:
                    raise NotReady(f"Rucio: {errors.said(error)}") from error
                if kind is errors.Sort.WRONG:
                    raise Misconfigured(f"Rucio: {errors.said(error)}") from error
                if kind is not errors.Sort.BUSY or attempt == SERVER_TRIES:
                    raise
                time.sleep(random.uniform(0.02, 0.05) * 2**attempt)
        raise AssertionError("the last try returns or raises")


def _as_dicts(dids: Iterable[Did]) -> list[dict[str, str]]:
    return [{"scope": scope, "name": name} for scope, name in dids]


def _difference(held: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Return the values in which the server's record of a file and ours differ, or ''."""
    if str(held.get("did_type", "FILE")).upper() not in ("FILE", "F"):
        return f"it is a {held['did_type']}"
    found = []
    for name in ("bytes", "adler32", "md5"):
        there, here = held.get(name), ours.get(name)
        if there is not None and here is not None and str(there).lower() != str(here).lower():
            found.append(f"{name} {there} there, {here} here")
    return "; ".join(found)


def _plain_pfn(pfn: str) -> str:
    """Return a PFN in a form in which equal ones are equal texts."""
    return re.sub(r"^file://(?:localhost)?(?::0)?/+", "file:///", pfn)
