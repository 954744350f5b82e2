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
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        #: Datasets that exist with their rule; and others, with whether they exist at all.
        self._ready: set[Did] = set()
        self._unready: dict[Did, bool] = {}

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
            entries, refused = self._compare(entries)
            yield from refused
            if not entries:
                return
            self._make_datasets()
            self._add([entry for entry in entries if REPLICA not in entry.parts])
            step = DATASET
            self._attach([entry for entry in entries if DATASET not in entry.parts])
            step = "rule"
            self._add_rules([entry for entry in entries if entry.dataset is None])
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

    def _compare(self, entries: list[Registration]) -> tuple[list[Registration], list[Outcome]]:
        """Mark what the server has; return the entries left, and outcomes of those that differ."""
        asked = [entry for entry in entries if REPLICA not in entry.parts]
        datasets = {entry.dataset for entry in entries if entry.dataset} - self._ready
        there = self.there([*(entry.did for entry in asked), *sorted(datasets)])
        self._unready = {dataset: dataset in there for dataset in sorted(datasets)}
        refused: dict[int, Outcome] = {}
        same = []
        for entry in asked:
            if (held := there.get(entry.did)) is not None:
                entry.known = True
                if difference := _difference(held, entry.described):
                    refused[entry.file.number] = entry.outcome(
                        Result.FAILED,
                        f"{entry.scope}:{entry.name} is there already and differs: {difference}",
                    )
                else:
                    same.append(entry)
        for entry, replica in self._replicas(same):
            if replica is None:
                continue
            if difference := self._contradiction(entry, replica):
                refused[entry.file.number] = entry.outcome(
                    Result.FAILED,
                    f"{entry.scope}:{entry.name} is on {self._settings.rse} already{difference}",
                )
            else:
                entry.parts.add(REPLICA)
        left = [entry for entry in entries if entry.file.number not in refused]
        return left, list(refused.values())

    def there(self, dids: Sequence[Did]) -> dict[Did, dict[str, Any]]:
        """Return what the server knows of files or datasets with these names."""
        if not dids:
            return {}
        asked = [{"scope": scope, "name": name} for scope, name in dids]
        found = self._call(self._client.get_metadata_bulk, asked, **self._columns)
        return {(held["scope"], held["name"]): held for held in found}

    def holds(self, entries: list[Registration]) -> set[Did]:
        """Return which files the storage element has unchanged, as far as their sums are known."""
        there = self.there([entry.did for entry in entries])
        same = [
            entry
            for entry in entries
            if entry.did in there and not _difference(there[entry.did], entry.described)
        ]
        return {
            entry.did
            for entry, replica in self._replicas(same)
            if replica is not None and not self._contradiction(entry, replica)
        }

    def _replicas(
        self, entries: list[Registration]
    ) -> Iterator[tuple[Registration, dict[str, Any] | None]]:
        """Yield the storage element's replica, or None, of each file that the server knows.

        Servers keep size and checksums of each replica beside those of the file.
        """
        if not entries:
            return
        asked = [{"scope": entry.scope, "name": entry.name} for entry in entries]
        rse = self._settings.rse
        found = self._call(self._client.list_replicas, asked, rse_expression=rse, all_states=True)
        replicas = {
            (replica["scope"], replica["name"]): replica
            for replica in found
            if replica.get("rses", {}).get(rse)
        }
        for entry in entries:
            yield entry, replicas.get(entry.did)

    def _contradiction(self, entry: Registration, replica: Mapping[str, Any]) -> str:
        """Return how a replica differs from the file that is to be registered, or ''."""
        if difference := _difference(replica, entry.described):
            return f" and differs: {difference}"
        pfn = replica["rses"][self._settings.rse][0]
        return "" if _plain_pfn(pfn) == _plain_pfn(entry.pfn) else f", at {pfn}, not at {entry.pfn}"

    def _make_datasets(self) -> None:
        """Make the datasets that are missing, each with its rule."""
        for (scope, name), there in self._unready.items():
            if not there:
                with suppress(rucio.DataIdentifierAlreadyExists):
                    self._call(self._client.add_dataset, scope, name)
            # Also for one that exists: a kill may have come between the two.
            if self._settings.rule_rses:
                with suppress(rucio.DuplicateRule):
                    self._add_rule([{"scope": scope, "name": name}])
            self._ready.add((scope, name))
        self._unready = {}

    def _add_rules(self, entries: list[Registration]) -> None:
        """Make a rule for each file that has none yet."""
        if not entries or not self._settings.rule_rses:
            return
        dids = [{"scope": entry.scope, "name": entry.name} for entry in entries]
        try:
            self._add_rule(dids)
        except rucio.DuplicateRule:
            for did in dids:
                with suppress(rucio.DuplicateRule):
                    self._add_rule([did])

    def _add_rule(self, dids: list[dict[str, str]]) -> None:
        settings = self._settings
        lifetime = int(settings.rule_lifetime) or None
        self._call(
            self._client.add_replication_rule,
            dids,
            settings.rule_copies,
            settings.rule_rses,
            lifetime=lifetime,
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
        if not by_dataset:
            return
        attachments = [
            # Without the element: with it, this call would register what it does not know.
            {"scope": scope, "name": name, "dids": [entry.described for entry in some]}
            for (scope, name), some in by_dataset.items()
        ]
        self._call(self._client.add_files_to_datasets, attachments, ignore_duplicate=True)
        for some in by_dataset.values():
            for entry in some:
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
