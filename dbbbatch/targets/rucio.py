"""The plugin ``rucio``: registers files as replicas where they lie, and attaches them to datasets.

A batch costs three calls: what is there, registration, attachment. The server accepts a replica
that contradicts the one it has and silently keeps the old one, so what is there is compared here.
Every step can be repeated; a bulk that is refused is taken apart by halves.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dbbbatch import keys
from dbbbatch.files import checksum
from dbbbatch.keys import key
from dbbbatch.targets import naming
from dbbbatch.targets.base import (
    Context,
    Misconfigured,
    NotReady,
    Outcome,
    Plugin,
    Result,
    StoredFile,
)

#: Tries of a call that met another in the server's database.
TRIES = 5
#: Parts of an attempt.
REPLICA, DATASET = "replica", "dataset"

_AWAY = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE, errno.ENFILE}


def _metadata(value: Any) -> Mapping[str, str]:
    return {name: naming.template(text) for name, text in keys.table(value).items()}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """``[target.NAME.config]`` with ``plugin = "rucio"``."""

    url: str = key("", 'the server, "https://…"; without it, all is taken from rucio.cfg')
    auth_url: str = key("", "the authentication server, if it is another one")
    account: str = key("", "account; by default $RUCIO_ACCOUNT or that of rucio.cfg")
    auth: str = key(
        "userpass",
        "how to log in: userpass, x509, x509_proxy or ssh",
        parse=keys.choice("userpass", "x509", "x509_proxy", "ssh"),
    )
    username: str = key("", "user name for userpass")
    password: keys.Secret = key("", "its password, best as ${VARIABLE}", parse=keys.secret)
    certificate: str = key("", "file of the certificate (x509), the proxy, or the ssh key")
    certificate_key: str = key("", "file of the certificate's key (x509)")
    ca: str = key("", "file or directory of the authorities that vouch for the server")
    vo: str = key("", "virtual organisation, on a server that has several")
    rse: str = key(help="storage element that stands for this storage area", example="SUMMIT_DISK")
    scope: str = key(help="scope of the files", example="raw", parse=naming.template)
    name: str = key("{relpath}/{filename}", "name of a file in its scope", parse=naming.template)
    pfn: str = key(
        "file://localhost{path}", "where the storage element has it", parse=naming.template
    )
    pattern: re.Pattern[str] | None = key(
        "",
        "regular expression searched in the relative path; its named groups are template fields",
        parse=naming.pattern,
    )
    dataset: str = key(
        "", "name of the dataset to attach files to, made if need be", parse=naming.template
    )
    dataset_scope: str = key("", "its scope, if not the files'", parse=naming.template)
    metadata: Mapping[str, str] = key(
        {}, "metadata of the files: name to template", parse=_metadata
    )
    rule_rses: str = key("", "replication rule for each new dataset (or file): where to")
    rule_copies: int = key(1, "copies that the rule asks for", parse=keys.number(1))
    rule_lifetime: float = key(0, "how long the rule holds; 0 for ever", parse=keys.duration)
    md5: bool = key(True, "register md5 besides adler32", parse=keys.boolean)
    bulk: int = key(500, "files in one call", parse=keys.number(1, 500))
    timeout: float = key("60s", "how long to wait for an answer", parse=keys.duration)


@dataclass(slots=True)
class _Entry:
    """A file as it is registered."""

    file: StoredFile
    scope: str
    name: str
    sums: dict[str, str]
    pfn: str
    dataset: tuple[str, str] | None
    metadata: dict[str, str]
    computed: dict[str, str] = field(default_factory=dict)
    #: What was found or done, in this batch or an earlier attempt.
    parts: set[str] = field(default_factory=set)
    new: bool = False

    @property
    def did(self) -> tuple[str, str]:
        return self.scope, self.name

    @property
    def described(self) -> dict[str, Any]:
        return {"scope": self.scope, "name": self.name, "bytes": self.file.size_bytes} | self.sums

    def outcome(self, result: Result, message: str) -> Outcome:
        return Outcome(
            self.file.number,
            result,
            message,
            parts_done=frozenset(self.parts) if result is Result.PARTLY else frozenset(),
            checksums=self.computed,
        )


class Rucio(Plugin):
    """Registers files with a Rucio server."""

    name = "rucio"
    Settings = Settings

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._client: Any = None
        self._namer: Any = None
        #: Datasets known to be there with their rule, and those that are not (there at all?).
        self._ready: set[tuple[str, str]] = set()
        self._unready: dict[tuple[str, str], bool] = {}
        self._version = ""

    def start(self) -> None:
        settings = self.settings
        named = ("scope", "name", "pfn", "dataset", "dataset_scope")
        templates = {name: getattr(settings, name) for name in named}
        templates |= {f"metadata.{name}": text for name, text in settings.metadata.items()}
        self._namer = naming.Namer(settings.pattern, self.context.target, templates)
        try:
            from rucio.client import Client

            from dbbbatch.targets import rucio_errors
        except ImportError as error:
            raise Misconfigured(
                f"Rucio's client is not installed ({error}): pip install 'dbbbatch[rucio]'"
            ) from None
        self._errors = rucio_errors
        try:
            self._client = Client(**self._login())
            self._client.get_rse(settings.rse)
        except Exception as error:
            server = settings.url or "the server of rucio.cfg"
            text = f"{server}: {rucio_errors.said(error)}"
            refused = type(error).__name__ == "CannotAuthenticate"
            if rucio_errors.sort(error) in (rucio_errors.Sort.AWAY, rucio_errors.Sort.BUSY):
                raise (Misconfigured if refused else NotReady)(text) from error
            raise Misconfigured(text) from error
        from importlib.metadata import version

        self._version = f"rucio-clients {version('rucio-clients')}"

    def _login(self) -> dict[str, Any]:
        """Give the arguments of the client; what is left out it takes from rucio.cfg."""
        settings = self.settings
        given: dict[str, Any] = {"timeout": min(settings.timeout, self.context.timeout)}
        if not settings.url:
            return given
        given |= {
            "rucio_host": settings.url,
            "auth_host": settings.auth_url or settings.url,
            "auth_type": settings.auth,
            "creds": {
                "userpass": {
                    "username": settings.username,
                    "password": settings.password.reveal(),
                },
                "x509": {
                    "client_cert": settings.certificate,
                    "client_key": settings.certificate_key,
                },
                "x509_proxy": {"client_proxy": settings.certificate},
                "ssh": {"username": settings.username, "ssh_private_key": settings.certificate},
            }[settings.auth],
        }
        for argument, value in (
            ("account", settings.account),
            ("ca_cert", settings.ca),
            ("vo", settings.vo),
        ):
            if value:
                given[argument] = value
        return given

    def version(self) -> str:
        return self._version

    # ---- batches ----

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        bulk: dict[tuple[str, str], _Entry] = {}
        begun = time.monotonic()
        for file in files:
            entry = self._entry(file)
            if isinstance(entry, Outcome):
                yield entry
                continue
            if other := bulk.get(entry.did):
                yield entry.outcome(
                    Result.FAILED, f"has the name of {other.file.path}: {':'.join(entry.did)}"
                )
                continue
            bulk[entry.did] = entry
            # Hashing can take long, and the ingester waits for outcomes only so long.
            late = time.monotonic() - begun > self.context.timeout / 4
            if late or len(bulk) == self.settings.bulk:
                yield from self._register(list(bulk.values()))
                bulk.clear()
                begun = time.monotonic()
        if bulk:
            yield from self._register(list(bulk.values()))

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]]:
        named: dict[int, tuple[str, str] | None] = {}
        for file in files:
            try:
                named[file.number] = self._did(self._namer.fields(file))
            except naming.NoName:
                named[file.number] = None
        dids = [did for did in named.values() if did is not None]
        there: set[tuple[str, str]] = set()
        for at in range(0, len(dids), self.settings.bulk):
            there |= self._there(dids[at : at + self.settings.bulk]).keys()
        for number, did in named.items():
            yield number, did in there

    def _entry(self, file: StoredFile) -> _Entry | Outcome:
        """Name a file and find its checksums, computing those that are not known."""
        try:
            fields = self._namer.fields(file)
        except naming.NoName as error:
            return Outcome(file.number, Result.NEVER, str(error))
        wanted = ["adler32", "md5"] if self.settings.md5 else ["adler32"]
        missing = [name for name in wanted if name not in file.checksums]
        try:
            computed = checksum.compute(file.path, missing) if missing else {}
        except checksum.Changed as error:
            return Outcome(file.number, Result.LATER, str(error))
        except OSError as error:
            result = Result.LATER if error.errno in _AWAY else Result.FAILED
            return Outcome(file.number, result, f"cannot be read: {error.strerror or error}")
        known = {name: file.checksums[name].lower() for name in wanted if name in file.checksums}
        dataset = self.settings.dataset.format(**fields)
        dataset_scope = self.settings.dataset_scope or self.settings.scope
        scope, name = self._did(fields)
        return _Entry(
            file,
            scope,
            name,
            known | computed,
            self.settings.pfn.format(**fields),
            (dataset_scope.format(**fields), dataset) if dataset else None,
            {name: text.format(**fields) for name, text in self.settings.metadata.items()},
            computed,
            set(file.parts_done),
        )

    def _did(self, fields: Mapping[str, Any]) -> tuple[str, str]:
        name = self.settings.name.format(**fields)
        # The relative path of the top directory is empty.
        return self.settings.scope.format(**fields), name.lstrip("/")

    def _register(self, entries: list[_Entry]) -> Iterator[Outcome]:
        """Take entries through all steps; if a step is refused, halves of them."""
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
            step = "metadata"
            self._describe(entries)
        except (NotReady, Misconfigured):
            raise
        except Exception as error:  # noqa: BLE001 (sorted in _explain)
            if type(error).__name__ == "DataIdentifierNotFound":
                # Somebody has removed a dataset; it is made again.
                self._ready.clear()
            if len(entries) == 1:
                yield self._explain(entries[0], step, error)
                return
            half = len(entries) // 2
            yield from self._register(entries[:half])
            yield from self._register(entries[half:])
        else:
            for entry in entries:
                yield entry.outcome(
                    Result.DONE if entry.new else Result.ALREADY,
                    f"{entry.scope}:{entry.name} on {self.settings.rse}"
                    + (f", in {':'.join(entry.dataset)}" if entry.dataset else "")
                    + ("" if entry.new else ", registered before"),
                )

    def _explain(self, entry: _Entry, step: str, error: Exception) -> Outcome:
        """Say what a refusal means for the one file that it is about."""
        text = self._errors.said(error)
        kind = self._errors.sort(error)
        if kind is self._errors.Sort.BUSY:
            return entry.outcome(Result.LATER, text)
        if entry.parts:
            return entry.outcome(Result.PARTLY, f"{step}: {text}")
        if kind is self._errors.Sort.NEVER:
            return entry.outcome(Result.NEVER, f"{entry.scope}:{entry.name}: {text}")
        return entry.outcome(Result.FAILED, text)

    # ---- steps ----

    def _compare(self, entries: list[_Entry]) -> tuple[list[_Entry], list[Outcome]]:
        """Mark what the server has; refuse what contradicts it."""
        asked = [entry for entry in entries if REPLICA not in entry.parts]
        datasets = {entry.dataset for entry in entries if entry.dataset} - self._ready
        there = self._there([*(entry.did for entry in asked), *sorted(datasets)])
        self._unready = {dataset: dataset in there for dataset in sorted(datasets)}
        refused: dict[int, Outcome] = {}
        same = []
        for entry in asked:
            if (held := there.get(entry.did)) is not None:
                if difference := _difference(held, entry.described):
                    refused[entry.file.number] = entry.outcome(
                        Result.FAILED,
                        f"{entry.scope}:{entry.name} is there already and differs: {difference}",
                    )
                else:
                    same.append(entry)
        for entry, pfn in self._pfns(same):
            if pfn is None:
                continue
            if _plain(pfn) == _plain(entry.pfn):
                entry.parts.add(REPLICA)
            else:
                refused[entry.file.number] = entry.outcome(
                    Result.FAILED,
                    f"{entry.scope}:{entry.name} is on {self.settings.rse} already, "
                    f"at {pfn}, not at {entry.pfn}",
                )
        left = [entry for entry in entries if entry.file.number not in refused]
        return left, list(refused.values())

    def _there(self, dids: Sequence[tuple[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
        """Give what the server knows of these names."""
        if not dids:
            return {}
        asked = [{"scope": scope, "name": name} for scope, name in dids]
        found = self._call(lambda: list(self._client.get_metadata_bulk(asked)))
        return {(held["scope"], held["name"]): held for held in found}

    def _pfns(self, entries: list[_Entry]) -> Iterator[tuple[_Entry, str | None]]:
        """Give where the storage element has files that the server knows; None if it has not."""
        if not entries:
            return
        asked = [{"scope": entry.scope, "name": entry.name} for entry in entries]
        rse = self.settings.rse
        found = self._call(
            lambda: list(self._client.list_replicas(asked, rse_expression=rse, all_states=True))
        )
        pfns = {
            (replica["scope"], replica["name"]): replica.get("rses", {}).get(rse, [])
            for replica in found
        }
        for entry in entries:
            some = pfns.get(entry.did) or []
            yield entry, some[0] if some else None

    def _make_datasets(self) -> None:
        """Make the datasets that were found missing, each with its rule."""
        for (scope, name), there in self._unready.items():
            if not there:
                self._call(
                    lambda scope=scope, name=name: self._client.add_dataset(scope, name),
                    unless=("DataIdentifierAlreadyExists",),
                )
            # Also for one that is there: a kill may have come between the two.
            self._add_rule([{"scope": scope, "name": name}])
            self._ready.add((scope, name))
        self._unready = {}

    def _add_rule(self, dids: list[dict[str, str]]) -> None:
        settings = self.settings
        if not settings.rule_rses:
            return
        lifetime = int(settings.rule_lifetime) or None
        self._call(
            lambda: self._client.add_replication_rule(
                dids, settings.rule_copies, settings.rule_rses, lifetime=lifetime
            ),
            unless=("DuplicateRule",),
        )

    def _add(self, entries: list[_Entry]) -> None:
        if not entries:
            return
        files = [entry.described | {"pfn": entry.pfn} for entry in entries]
        self._call(lambda: self._client.add_replicas(self.settings.rse, files))
        for entry in entries:
            entry.parts.add(REPLICA)
            entry.new = True
            if entry.dataset is None:
                self._add_rule([{"scope": entry.scope, "name": entry.name}])

    def _attach(self, entries: list[_Entry]) -> None:
        by_dataset: dict[tuple[str, str], list[_Entry]] = {}
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
        self._call(lambda: self._client.add_files_to_datasets(attachments, ignore_duplicate=True))
        for some in by_dataset.values():
            for entry in some:
                entry.parts.add(DATASET)

    def _describe(self, entries: list[_Entry]) -> None:
        described = [
            {"scope": entry.scope, "name": entry.name, "meta": entry.metadata}
            for entry in entries
            if entry.metadata
        ]
        if described:
            self._call(lambda: self._client.set_dids_metadata_bulk(described))

    def _call(self, call: Callable[[], Any], unless: tuple[str, ...] = ()) -> Any:
        """Make a call, again if it met another one in the server's database.

        Parameters
        ----------
        call : callable
            Makes it.
        unless : `tuple` [`str`]
            Names of errors that mean it was done before.

        Raises
        ------
        NotReady
            The server is away.
        Misconfigured
            It would refuse every file.
        Exception
            It refuses these files.
        """
        sorts = self._errors.Sort
        for attempt in range(TRIES):
            try:
                return call()
            except Exception as error:
                kind = self._errors.sort(error)
                if type(error).__name__ in unless:
                    return None
                if kind is sorts.AWAY:
                    raise NotReady(f"Rucio: {self._errors.said(error)}") from error
                if kind is sorts.WRONG:
                    raise Misconfigured(f"Rucio: {self._errors.said(error)}") from error
                if kind is not sorts.BUSY or attempt == TRIES - 1:
                    raise
                time.sleep(0.05 * 2**attempt)
        return None


def _difference(held: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Say in what the server's record of a file and ours differ: both values."""
    if str(held.get("did_type", "FILE")).upper() not in ("FILE", "F"):
        return f"it is a {held['did_type']}"
    found = []
    for name in ("bytes", "adler32", "md5"):
        there, here = held.get(name), ours.get(name)
        if there is not None and here is not None and str(there).lower() != str(here).lower():
            found.append(f"{name} {there} there, {here} here")
    return "; ".join(found)


def _plain(pfn: str) -> str:
    """Write a PFN so that equal ones are equal texts."""
    return re.sub(r"^file://(?:localhost)?(?::0)?/+", "file:///", pfn)
