"""The plugin ``rucio``: registers files as replicas where they lie, and attaches them to datasets.

Here a file gets its names and checksums; `registrar` talks to the server.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dbbbatch.config import fields
from dbbbatch.config.fields import option
from dbbbatch.files import checksum
from dbbbatch.files.batches import batched
from dbbbatch.targets import failures, naming
from dbbbatch.targets.plugin import Misconfigured, NotReady, Outcome, Plugin, Result, StoredFile
from dbbbatch.targets.rucio.entry import Did, Registration


def _metadata(value: Any) -> Mapping[str, str]:
    return {name: naming.template(text) for name, text in fields.subtable(value).items()}


@dataclass(frozen=True, kw_only=True)
class RucioSettings:
    """``[target.NAME.config]`` with ``plugin = "rucio"``."""

    url: str = option("", 'the server, "https://…"; without it, all is taken from rucio.cfg')
    auth_url: str = option("", "the authentication server, if it is another one")
    account: str = option("", "account; by default $RUCIO_ACCOUNT or that of rucio.cfg")
    auth: str = option(
        "userpass",
        "how to log in: userpass, x509, x509_proxy or ssh",
        parse=fields.choice("userpass", "x509", "x509_proxy", "ssh"),
    )
    username: str = option("", "user name for userpass")
    password: fields.Secret = option("", "its password, best as ${VARIABLE}", parse=fields.secret)
    certificate: str = option("", "file of the certificate (x509), the proxy, or the ssh key")
    certificate_key: str = option("", "file of the certificate's key (x509)")
    ca: str = option("", "file or directory of the authorities that vouch for the server")
    vo: str = option("", "virtual organisation, on a server that has several")
    rse: str = option(
        help="storage element that stands for this storage area", example="SUMMIT_DISK"
    )
    scope: str = option(help="scope of the files", example="raw", parse=naming.template)
    name: str = option("{relpath}/{filename}", "name of a file in its scope", parse=naming.template)
    pfn: str = option(
        "file://localhost{path}", "where the storage element has it", parse=naming.template
    )
    pattern: re.Pattern[str] | None = option(
        "",
        "regular expression searched in the relative path; its named groups are template fields",
        parse=naming.pattern,
    )
    dataset: str = option(
        "", "name of the dataset to attach files to, made if need be", parse=naming.template
    )
    dataset_scope: str = option("", "its scope, if not the files'", parse=naming.template)
    metadata: Mapping[str, str] = option(
        {}, "metadata of the files: name to template", parse=_metadata
    )
    rule_rses: str = option("", "replication rule for each new dataset (or file): where to")
    rule_copies: int = option(1, "copies that the rule asks for", parse=fields.number(1))
    rule_lifetime: float = option(0, "how long the rule holds; 0 for ever", parse=fields.duration)
    md5: bool = option(True, "register md5 besides adler32", parse=fields.boolean)
    bulk: int = option(500, "files in one call", parse=fields.number(1, 500))
    timeout: float = option("60s", "how long to wait for an answer", parse=fields.duration)


class Rucio(Plugin):
    """Registers files with a Rucio server."""

    name = "rucio"
    Settings = RucioSettings

    settings: RucioSettings

    def start(self) -> None:
        """Check the templates, log in, and look for the storage element."""
        settings = self.settings
        named = ("scope", "name", "pfn", "dataset", "dataset_scope")
        templates = {name: getattr(settings, name) for name in named}
        templates |= {f"metadata.{name}": text for name, text in settings.metadata.items()}
        self._namer = naming.Namer(settings.pattern, self.context.target, templates)
        self._sums = ["adler32", "md5"] if settings.md5 else ["adler32"]
        try:
            from rucio.client import Client

            from dbbbatch.targets.rucio import errors
            from dbbbatch.targets.rucio.registrar import Registrar
        except ImportError as error:
            raise Misconfigured(
                f"Rucio's client is not installed ({error}): pip install 'dbbbatch[rucio]'"
            ) from None
        try:
            client = Client(**self._login())
            client.get_rse(settings.rse)
        except Exception as error:
            server = settings.url or "the server of rucio.cfg"
            text = f"{server}: {errors.said(error)}"
            refused = type(error).__name__ == "CannotAuthenticate"
            if errors.sort(error) in (errors.Sort.AWAY, errors.Sort.BUSY) and not refused:
                raise NotReady(text) from error
            raise Misconfigured(text) from error
        self._registrar = Registrar(client, settings)

    def _login(self) -> dict[str, Any]:
        """Return the arguments of the client; it takes the others from rucio.cfg."""
        settings = self.settings
        arguments: dict[str, Any] = {"timeout": min(settings.timeout, self.context.timeout)}
        if not settings.url:
            return arguments
        certificate, key = settings.certificate, settings.certificate_key
        credentials = {
            "userpass": {"username": settings.username, "password": settings.password.reveal()},
            "x509": {"client_cert": certificate, "client_key": key},
            "x509_proxy": {"client_proxy": certificate},
            "ssh": {"username": settings.username, "ssh_private_key": certificate},
        }
        arguments |= {
            "rucio_host": settings.url,
            "auth_host": settings.auth_url or settings.url,
            "auth_type": settings.auth,
            "creds": credentials[settings.auth],
        }
        optional = {"account": settings.account, "ca_cert": settings.ca, "vo": settings.vo}
        return arguments | {name: value for name, value in optional.items() if value}

    def version(self) -> str:
        """Return the version of Rucio's client."""
        from importlib.metadata import version

        return f"rucio-clients {version('rucio-clients')}"

    def ingest(self, files: Sequence[StoredFile]) -> Iterator[Outcome]:
        """Register files in bulk; no two of one bulk have the same name."""
        bulk: dict[Did, Registration] = {}
        begun = time.monotonic()
        for file in files:
            try:
                entry = self._named(file)
            except naming.NoName as error:
                yield Outcome(file.number, Result.NEVER, str(error))
                continue
            if unread := self._compute_sums(entry):
                yield unread
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
                yield from self._registrar.register(list(bulk.values()))
                bulk.clear()
                begun = time.monotonic()
        if bulk:
            yield from self._registrar.register(list(bulk.values()))

    def known(self, files: Sequence[StoredFile]) -> Iterator[tuple[int, bool]]:
        """Yield whether the storage element has each file, as far as its checksums are known."""
        entries: dict[int, Registration] = {}
        for file in files:
            try:
                entries[file.number] = self._named(file)
            except naming.NoName:
                continue
        held: set[Did] = set()
        for some in batched(entries.values(), self.settings.bulk):
            held |= self._registrar.holds(some)
        for file in files:
            yield file.number, file.number in entries and entries[file.number].did in held

    def _named(self, file: StoredFile) -> Registration:
        """Return a file with its names and known checksums.

        Raises
        ------
        naming.NoName
            The pattern does not match, or Rucio cannot have the name.
        """
        names = self._namer.names(file)
        scope, pfn, dataset = names["scope"], names["pfn"], names["dataset"]
        # The relative path of the top directory is empty.
        name = names["name"].lstrip("/")
        try:
            f"{scope}{name}{pfn}".encode()
        except UnicodeEncodeError:
            raise naming.NoName("Rucio takes no names but UTF-8") from None
        return Registration(
            file,
            scope,
            name,
            {each: file.checksums[each].lower() for each in self._sums if each in file.checksums},
            pfn,
            (names["dataset_scope"] or scope, dataset) if dataset else None,
            {each: names[f"metadata.{each}"] for each in self.settings.metadata},
            parts=set(file.parts_done),
        )

    def _compute_sums(self, entry: Registration) -> Outcome | None:
        """Compute the checksums that are not known; return why the file cannot be read, if so."""
        missing = [name for name in self._sums if name not in entry.sums]
        try:
            entry.computed = checksum.compute(self.stored(entry.file), missing) if missing else {}
        except checksum.Changed as error:
            return Outcome(entry.file.number, Result.LATER, str(error))
        except OSError as error:
            failures.require_storage(entry.file, error)
            why = f"cannot be read: {error.strerror or error}"
            return Outcome(entry.file.number, Result.FAILED, why)
        entry.sums |= entry.computed
        return None
